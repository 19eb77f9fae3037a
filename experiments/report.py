"""Writes outputs/report.html: all that is known of the tested networks in one file, to be opened or sent as it is.

    python test.py && python -m experiments.report       the networks tested here
    python -m experiments.report PUBLISHED=True          those of outputs/published

Tables, curves, confusion matrices, best, typical and worst cases, and results by breed, species and size of pet.
"""

import base64
import html
from collections.abc import Iterable
from pathlib import Path

import fetch_oxford_iiit_pets as pets
from common import results, settings
from common.files import write_atomically
from common.settings import UserError
from common.trimap import CLASSES

PUBLISHED = False  # True: the rows and pictures of outputs/published instead of those of outputs
RUNS = ""  # names of runs, with commas between them; "": the newest row of every run and network
FILE = "report.html"  # in outputs

RESULTS = {"pixel_accuracy": "pixel accuracy", "mean_iou": "mean IoU", "iou": "iou", "custom_iou": "custom IoU",
           "dice": "Dice", "contour_mean_iou": "mean IoU near the contour", "own_size_mean_iou": "mean IoU at own size",
           "two_class_pixel_accuracy": "pixel accuracy without border",
           "two_class_pet_iou": "pet IoU without border"}  # fmt: skip
PICTURES = {"curves": "Training", "confusion": "Confusion, in shares of the true class", "best": "Best cases",
            "typical": "Typical cases", "worst": "Worst cases"}  # fmt: skip
COMPARISONS = {"comparison": "Accuracy against cost", "curve": "Accuracy over labelled images"}

STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); --bar: #f4a259; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 3rem; border-top: 2px solid var(--line); padding-top: 1rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.6rem; text-align: right; border-bottom: 1px solid var(--line); }
th { vertical-align: bottom; line-height: 1.2; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
@media (max-width: 34rem) { body { padding: 0.6rem; } table { font-size: 0.8rem; } th, td { padding: 0.2rem 0.35rem; } }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; margin: 1rem 0; }
figure { margin: 0; flex: 1 1 22rem; max-width: 100%; min-width: 0; }
img { max-width: 100%; height: auto; background: white; }
.bar { background: linear-gradient(to right, color-mix(in srgb, var(--bar) 55%, transparent) var(--share),
       transparent var(--share)); }
small { opacity: 0.75; overflow-wrap: anywhere; }
"""


def main() -> None:
    outputs = pets.outputs_folder()
    folder = pets.published_folder() if PUBLISHED else outputs
    wanted = {run.strip() for run in RUNS.split(",") if run.strip()}
    if unknown := wanted - {row["run"] for row in results.rows(folder)}:
        raise UserError(f"RUNS={RUNS}: {folder / 'results.jsonl'} has no {', '.join(sorted(unknown))}")
    newest = {(row["run"], row["network"]): row for row in results.rows(folder)}  # the last of each
    rows = [row for row in newest.values() if row["run"] in wanted or (not wanted and results.has_name(row["run"]))]
    if not rows:
        raise UserError(f"{folder / 'results.jsonl'} has no such rows; test first: python test.py")
    path = outputs / FILE
    write_atomically(path, lambda part: part.write_text(page(rows, folder), encoding="utf-8"))
    print(f"written: {path}, {len(rows)} networks, {path.stat().st_size / 1e6:.1f} MB")


def page(rows: list[dict], folder: Path) -> str:
    trained = [row for row in rows if row["network"] != "all_background"]
    title = f"SegNet on Oxford-IIIT Pets ({rows[0]['data']})"
    comparison = "".join(picture(folder / f"{name}.png", caption) for name, caption in COMPARISONS.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f"<h1>{html.escape(title)}</h1>{overview(rows)}"
        f'<div class="pictures">{comparison}</div>'
        f"{''.join(section(row, folder) for row in trained)}</body></html>\n"
    )


def table(header: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(cell(value) for value in line) + "</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def cell(value: object) -> str:
    """A cell; a share in [0, 1] has a bar behind it."""
    if isinstance(value, float):
        return f'<td class="bar" style="--share: {100 * value:.1f}%">{value:.4f}</td>'
    return f"<td>{html.escape(str(value))}</td>"


def overview(rows: list[dict]) -> str:
    lines = []
    for row in rows:
        minutes = f"{row['train_seconds'] / 60:.0f}" if row.get("train_seconds") else "-"
        lines.append([f"{row['network']}, {row['run']}", minutes, row["pixel_accuracy"], row["mean_iou"]])
    return table(["network, run", "minutes of training", "pixel accuracy", "mean IoU"], lines)


def section(row: dict, folder: Path) -> str:
    """All about one network."""
    groups = {**{f"{name} pets": f for name, f in row["by_pet_size"].items()},
              **{f"{name}s": f for name, f in row.get("by_species", {}).items()}}  # fmt: skip
    by_group = [[name, f["pixel_accuracy"], f["mean_iou"]] for name, f in groups.items()]
    breeds = sorted(row.get("by_breed", {}).items(), key=lambda item: item[1]["mean_iou"])
    by_breed = [[name.replace("_", " "), f["images"], f["pixel_accuracy"], f["mean_iou"]] for name, f in breeds]
    prefix = f"{row['run']}_{row['network']}_" if PUBLISHED else f"{row['run']}/{row['network']}/"
    pictures = "".join(picture(folder / f"{prefix}{name}.png", caption) for name, caption in PICTURES.items())
    classes = [[f"IoU of {name}", share] for name, share in zip(CLASSES, row["class_iou"])]
    own, two = row.get("own_size", {}), row.get("two_class", {})
    row = row | {"own_size_mean_iou": own.get("mean_iou"), "two_class_pet_iou": two.get("pet_iou")}
    row["two_class_pixel_accuracy"] = two.get("pixel_accuracy")
    overall = [[title, float(row[name])] for name, title in RESULTS.items() if row.get(name) is not None] + classes
    facts = f"{row['parameters'] / 1e6:.2f} M parameters; trained on {row['train_images']} images for "
    facts += f"{row['epochs']} epochs, tested on {row['test_images']} at {row['image_size']} px; "
    facts += f"{row['machine']}, commit {row['commit']}: {row['command']}"
    parts = [
        f"<h2>{html.escape(row['network'])}, run {html.escape(row['run'])}</h2>",
        f"<p><small>{html.escape(facts)}</small></p>",
        "<h3>Results on the whole test split, by size of pet and by species</h3>",
        '<div class="pictures">',
        table(["result", "value"], overall),
        table(["images of", "pixel accuracy", "mean IoU"], by_group),
        f'</div><div class="pictures">{pictures}</div>',
    ]
    if by_breed:
        half = -(-len(by_breed) // 2)
        header = ["breed", "images", "pixel accuracy", "mean IoU"]
        parts += ["<h3>By breed, the hardest first</h3>", '<div class="pictures">',
                  table(header, by_breed[:half]), table(header, by_breed[half:]), "</div>"]  # fmt: skip
    return "".join(parts)


def picture(path: Path, caption: str) -> str:
    """The picture itself, not a link to it; nothing where there is none."""
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    name = html.escape(caption)
    return f'<figure><img alt="{name}" src="data:image/png;base64,{data}"><figcaption>{name}</figcaption></figure>'


if __name__ == "__main__":
    settings.run(main, pets)
