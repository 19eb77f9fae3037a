"""Writes the tables of all READMEs from the committed files that their numbers come from.

    python -m experiments.tables        rewrites what stands between <!-- name --> and <!-- /name -->

A test compares: no number of ours in a table is typed by hand.
"""

import functools
import re
import statistics
from collections.abc import Callable

from common import settings
from common.files import REPOSITORY
from common.published import name_of
from common.results import PUBLISHED, Row, has_name, json_of, lines_of, rows, run_of
from common.settings import UserError
from common.trimap import CLASSES
from experiments import findings, pretraining, scaling, speed, twin, views, worth
from experiments.cells import difference, markdown, mean, spread

DOCUMENTS = ("README.md", "MODEL_CARD.md", "experiments/README.md", "tests/README.md")

# Files in outputs/published whose lines may be on any data
ON_DATA = ("results", "results_experiments", "study", "pretraining", "lengths", "truth", "large_images")

# The rows of the README's own table: run, network, and what the table calls them
SUMMARY = (
    ("baseline", "all_background", "every pixel background"),
    ("original", "segnet_dsc", "separable SegNet, the original's recipe, 5 epochs"),
    ("original", "segnet", "SegNet, the original's recipe, 5 epochs"),
    ("defaults", "segnet_dsc", "separable SegNet, 5 epochs"),
    ("defaults", "segnet", "SegNet, 5 epochs"),
    ("record100", "segnet_dsc", "separable SegNet, 100 epochs, AdamW"),
    ("record100", "unet_dsc", "separable U-Net of the same widths, 100 epochs, AdamW"),
    ("record100", "segnet", "SegNet, 100 epochs, AdamW"),
    ("muon40", "segnet_dsc", "separable SegNet, 40 epochs"),
    ("muon40", "unet_dsc", "separable U-Net of the same widths, 40 epochs"),
    ("muon40", "segnet", "SegNet, 40 epochs"),
    ("lite2-5", "segnet_dsc_lite2", "EfficientNet-Lite2 from ImageNet, separable decoder with skips, 5 epochs"),
    ("lite2", "segnet_dsc_lite2", "the same network, 48 epochs, AdamW"),
    ("lite2-5-enlarged", "segnet_dsc_lite2", "the same network, 5 epochs, enlarging its images itself (`ENLARGE=2`)"),
    ("lite2-5-256", "segnet_dsc_lite2", "the same network on images of 256 px, 5 epochs"),
    ("lite2-256", "segnet_dsc_lite2", "the same network on images of 256 px, 30 epochs"),
    ("weights-segnet_dsc_lite2_256px-mirror", "segnet_dsc_lite2", "the same, with mirror images (`MIRROR=True`)"),
)

# Runs of single networks, and machines, whose minutes are upper bounds: other work shared the cores or the GPU
SHARED = {"record40/segnet", "defaults/segnet", "defaults/segnet_dsc", "defaults/unet_dsc", "fifth-stage/segnet_dsc",
          "muon40/segnet_dsc", "muon40/unet_dsc", "lite0/segnet_dsc_lite0", "lite2-5/segnet_dsc_lite2",
          "lite2-5-random/segnet_dsc_lite2", "lite2-5-256/segnet_dsc_lite2", "defaults-256/segnet_dsc",
          "lite2-5-enlarged/segnet_dsc_lite2", "defaults-enlarged/segnet_dsc",
          "NVIDIA H100 80GB HBM3"}  # fmt: skip

# The rows of the model card: those of the networks whose weights are published
CARD = (("record100", "segnet_dsc"), ("record100", "segnet"), ("lite2", "segnet_dsc_lite2"),
        ("lite2-256", "segnet_dsc_lite2"))  # fmt: skip


def main() -> None:
    lines = [line for name in ON_DATA for line in lines_of(f"{name}.jsonl") if "data" in line]
    if len(data := {line["data"] for line in lines}) > 1:
        raise UserError(f"{PUBLISHED} has results on {', '.join(sorted(data))}; tables are of one set of data")
    for name in DOCUMENTS:
        path = REPOSITORY / name
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")


def updated(text: str) -> str:
    """The text with each table between its marks made anew. Raises KeyError for a mark without a table."""

    def table(match: re.Match) -> str:
        return f"<!-- {match[1]} -->\n{chr(10).join(TABLES[match[1]]())}\n<!-- /{match[1]} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", table, text, flags=re.DOTALL)


def recipes() -> list[list[Row]]:
    """The rows that have a name of their own, best first; those of a network that differ in their seed are together."""
    found: dict[tuple[str, str, bool], list[Row]] = {}
    for row in filter(lambda row: has_name(row["run"]), rows()):
        found.setdefault((row["network"], run_of(row), row["mirror"]), []).append(row)
    ordered = [sorted(seeds, key=lambda row: row["seed"] or 0) for seeds in found.values()]
    return sorted(ordered, key=lambda seeds: -mean(seeds, "mean_iou"))


def recipe(run: str, network: str) -> list[Row]:
    return next(seeds for seeds in recipes() if (seeds[0]["run"], seeds[0]["network"]) == (run, network))


def summary() -> list[str]:
    cells = []
    for run, network, title in SUMMARY:
        seeds = recipe(run, network)
        row = seeds[0]
        parameters = f"{row['parameters'] / 1e6:.2f} M" if row["parameters"] else "-"
        scores = (spread([row[name] for row in seeds]) for name in ("pixel_accuracy", "mean_iou"))
        title += "" if len(seeds) in (1, 3) else f" ({len(seeds)} seeds)"  # others are told by the text above
        cells.append((title, parameters, *scores))
    return markdown(("network", "parameters", "pixel accuracy", "mean IoU"), cells)


def minutes_of(row: Row) -> str:
    shared = {f"{run_of(row)}/{row['network']}", row["machine"]} & SHARED
    minutes = row["train_seconds"] / 60
    return f"{'≤ ' if shared else ''}{minutes:.{0 if minutes > 9.5 else 1}f}"


def cores_of(row: Row) -> str:
    """A GPU, or how many cores trained and what they have: "2 cores, AMX"; "1, then 2 cores" where the legs differ."""
    if not row["machine"].endswith("cores"):
        return row["machine"]
    processor = row["machine"].rpartition(", ")[0].rpartition(", ")[2]
    return f"{row['threads']} core{'' if row['threads'] == 1 else 's'}, {processor}"


def first_run() -> list[str]:
    cells = [
        (row["network"], f"{row['train_seconds']:.0f}" if row["train_seconds"] else "-",
         *(f"{row[name]:.4f}" for name in ("pixel_accuracy", "mean_iou")))
        for row in lines_of("first_run.jsonl")
    ]  # fmt: skip
    return markdown(("network", "training, s", "pixel accuracy", "mean IoU"), cells)


def card_rows() -> list[Row]:
    """Those whose weights are published: of seed 0."""
    return [recipe(*names)[0] for names in CARD]


def card() -> list[str]:
    """Three classes at the network's size; the same at each image's own size, and pet against background."""
    cells = []
    for row in card_rows():
        found = [row["pixel_accuracy"], row["mean_iou"], *row["class_iou"], row["own_size"]["mean_iou"]]
        found += [row["two_class"][name] for name in ("pixel_accuracy", "pet_iou")]
        found += [row["by_pet_size"][size]["mean_iou"] for size in ("small", "large")]
        told = [f"{value:.3f}" for value in found]
        told.insert(2, f"{with_mirror['mean_iou']:.3f}" if (with_mirror := views.mirrored(row)) else "-")
        cells.append((name_of(row["network"], row["image_size"]), *told))
    header = ("weights", "pixel accuracy", "mean IoU", "with mirror images", "pet IoU", "background IoU", "border IoU",
              "own size, mean IoU", "two classes, accuracy", "two classes, pet IoU", "smallest third",
              "largest third")  # fmt: skip
    return markdown(header, cells)


def breeds() -> list[str]:
    """Mean IoU by breed, worst first by the mean over the networks."""
    found = card_rows()
    scores = {breed: [row["by_breed"][breed]["mean_iou"] for row in found] for breed in found[0]["by_breed"]}
    ordered = sorted(scores.items(), key=lambda item: statistics.mean(item[1]))
    cells = [(breed.replace("_", " "), *(f"{value:.3f}" for value in values)) for breed, values in ordered]
    return markdown(("breed", *(name_of(row["network"], row["image_size"]) for row in found)), cells)


def results() -> list[str]:
    names = ("pixel_accuracy", "mean_iou", "iou", "iou_old_torchmetrics", "custom_iou", "dice")
    cells = []
    for seeds in recipes():
        row = seeds[0]
        minutes, cores = (minutes_of(row), cores_of(row)) if row["train_seconds"] else ("-", "-")
        numbers = (spread([row[name] for row in seeds]) for name in names)
        cells.append((row["network"], row["run"], len(seeds), row["epochs"], minutes, cores, *numbers))
    header = ("network", "run", "seeds", "epochs", "minutes", "on", "pixel accuracy", "mean IoU", "iou",
              "iou, old torchmetrics", "custom IoU", "Dice")  # fmt: skip
    return markdown(header, cells)


def sizes() -> list[str]:
    """Means over seeds."""
    cells = []
    for seeds in recipes():
        thirds = [
            " / ".join(f"{mean(seeds, 'by_pet_size', size, name):.3f}" for name in ("pixel_accuracy", "mean_iou"))
            for size in seeds[0]["by_pet_size"]
        ]
        species = [f"{mean(seeds, 'by_species', name, 'mean_iou'):.3f}" for name in ("cat", "dog")]
        classes = [f"{mean(seeds, 'class_iou', c):.3f}" for c in range(len(CLASSES))]
        contour, own = (f"{mean(seeds, *path):.3f}" for path in (("contour_mean_iou",), ("own_size", "mean_iou")))
        two = " / ".join(f"{mean(seeds, 'two_class', name):.3f}" for name in ("pixel_accuracy", "pet_iou"))
        cells.append((seeds[0]["network"], seeds[0]["run"], *thirds, *species, *classes, contour, own, two))
    header = ("network", "run", "small pets", "middle", "large", "cats", "dogs", "IoU pet", "background", "border",
              "near the contour", "own size", "two classes")  # fmt: skip
    return markdown(header, cells)


def answers() -> list[str]:
    """What rows and trials say, in numbered sentences; three seeds are the rule, and not said each time."""
    said = (*findings.answers(), *worth.answers())
    return [f"{number}. {line}".replace(" (n=3)", "") for number, line in enumerate(said, start=1)]


def study_table(study: str) -> list[str]:
    """Each setting against the base on the same machine, best first by its change in mean IoU, paired by seed.

    Lines of a CPU stand before those of a GPU.
    """
    names = ("pixel_accuracy", "mean_iou", "iou", "custom_iou", "border_iou", "small_pets_mean_iou")
    lines = findings.study_lines(study)
    changes = {
        (setting, machine): {
            name: findings.study_changes(of, lines.get(("", machine), {}), name) for name in ("mean_iou", "border_iou")
        }
        for (setting, machine), of in lines.items()
    }
    cells = []

    def order(key: tuple[str, str]) -> tuple[str, float]:
        return findings.kind_of(key[1]), -statistics.mean(changes[key]["mean_iou"] or [0.0])

    for key in sorted(lines, key=order):
        setting, machine = key
        means = (spread([line[f"validation_{name}"] for line in lines[key].values()]) for name in names)
        gains = (difference(found) if setting else "-" for found in changes[key].values())
        name = f"`{setting}`" if setting else "**the base**"
        cells.append((name, findings.kind_of(machine), len(lines[key]), *means, *gains))
    header = ("changed", "by", "seeds", "pixel accuracy", "mean IoU", "iou", "custom IoU", "border IoU", "small pets",
              "change in mean IoU", "in border IoU")  # fmt: skip
    return markdown(header, cells) if cells else ["Not measured yet."]


def agreement(name: str) -> list[str]:
    """Pixel accuracy by seed and way; in brackets, and on the last line, the difference from the original's."""
    result = json_of(f"{name}.json")
    if not result:
        return ["Not measured yet."]
    by_way = result["validation_pixel_accuracy"]
    columns = [[*result["seeds"], "mean difference ± standard error"]]
    for way, values in by_way.items():
        differences = [a - b for a, b in zip(values, by_way["original"])]
        if way == "original":
            columns.append([*(f"{value:.4f}" for value in values), ""])
            continue
        column = [f"{value:.4f} ({d:+.4f})" for value, d in zip(values, differences)]
        columns.append([*column, difference(differences)])
    return markdown(("seed", *(way.replace("_", ", ") for way in by_way)), list(zip(*columns)))


def memory() -> list[str]:
    cells = [
        (line["image_size"], line["batch_size"], f"{line['train_mib']:,}", f"{line['test_mib']:,}",
         f"{line['load_all_mib']:,}" if "load_all_mib" in line else "-", line["threads"], line["machine"],
         line["commit"])
        for line in lines_of("memory.jsonl")
    ]  # fmt: skip
    header = ("px", "images per step", "training, MiB", "testing, MiB", "decoding and loading all real images, MiB",
              "threads", "machine", "commit")  # fmt: skip
    return markdown(header, cells)


def kills() -> list[str]:
    return [
        f"{line['kills']} kills, {line['lost']} lost ({line['machine']}, commit {line['commit']})."
        for line in lines_of("kills.jsonl")
    ]


def onnx() -> list[str]:
    result = json_of("onnx.json")
    if not result:
        return ["Not measured yet."]
    names = {"pytorch": f"PyTorch, {result['pytorch_precision']}"}
    base = result["ways"]["float32"]["mean_iou"]
    cells = [
        (names.get(name, f"ONNX, {name.replace('_', ', ')}"), f"{way['mean_iou']:.4f}",
         f"{way['mean_iou'] - base:+.4f}", f"{way['ms_per_image']:.1f}", f"{way['times_as_fast_as_float32']:.2f}x",
         f"{way['megabytes']:.1f}" if way["megabytes"] else "-")
        for name, way in result["ways"].items()
    ]  # fmt: skip
    header = ("network", "mean IoU", "against float32", "ms per image", "as fast as float32", "MB")
    seen = "held out" if result["held_out"] else "also trained on"
    return [
        f"{result['weights']} at {result['image_size']} px, {result['images']} validation images ({seen}), on "
        f"{result['machine']} ({result['threads']} threads).",
        "",
        *markdown(header, cells),
    ]


TABLES: dict[str, Callable[[], list[str]]] = {
    f.__name__: f
    for f in (summary, first_run, card, breeds, results, sizes, memory, onnx, kills, answers, views.twice,
              views.enlarged, views.mirror, views.large_images, speed.speed, speed.machines, speed.gains,
              speed.stopwatch, speed.convolutions, speed.gradients, speed.busy, scaling.ranks, scaling.scale,
              scaling.how_far, pretraining.pretraining, worth.curve, worth.curve_gains, worth.tried_lengths,
              findings.compared, findings.decoders, findings.aligned, findings.shares, twin.twin)
} | {
    f"study_{name}": functools.partial(study_table, name)
    for name in ("short", "rates", "moved", "sprint", "sprint_segnet", "record", "tuned")
} | {name: functools.partial(agreement, name) for name in ("agreement", "agreement_segnet")}  # fmt: skip

if __name__ == "__main__":
    settings.run(main)
