"""The README's tables, written from the committed files that their figures come from.

    python tables.py        rewrites what stands between <!-- name --> and <!-- /name --> in README.md

A test compares: no figure of a table is typed by hand.
"""

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import settings
from settings import UserError

HERE = Path(__file__).parent
README = HERE / "README.md"
PUBLISHED = HERE / "outputs" / "published"

Row = dict  # a line of results.jsonl or study.jsonl


def main() -> None:
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")


def updated(text: str) -> str:
    """The text with each table between its marks made anew. Raises KeyError for a mark without a table."""

    def table(match: re.Match) -> str:
        return f"<!-- {match[1]} -->\n{chr(10).join(TABLES[match[1]]())}\n<!-- /{match[1]} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", table, text, flags=re.DOTALL)


def rows(folder: Path = PUBLISHED) -> list[Row]:
    return lines_of("results.jsonl", folder)


def lines_of(name: str, folder: Path = PUBLISHED) -> list[Row]:
    """The lines of a file of JSON, none if it isn't there. Raises UserError that names a damaged one."""
    path, found = folder / name, []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: no JSON, {error}; delete that line") from error
    return found


def markdown(header: tuple[str, ...], cells: list[tuple]) -> list[str]:
    """A table: its header, its rule and a line for each tuple of cells."""
    return ["| " + " | ".join(map(str, line)) + " |" for line in (header, ("---",) * len(header), *cells)]


def spread(values: list[float], digits: int = 4) -> str:
    """Mean ± standard deviation; the mean alone of one value."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def has_name(row: Row) -> bool:
    """Whether it stands for itself, and is not one of compare.py's groups of many rows."""
    return not row["run"].startswith(("study-", "labels-"))


def named_rows() -> list[Row]:
    return [row for row in rows() if has_name(row)]


def results() -> list[str]:
    names = ("pixel_accuracy", "mean_iou", "iou", "iou_old_torchmetrics", "custom_iou", "dice")
    cells = []
    for row in named_rows():
        minutes = f"{row['train_seconds'] / 60:.0f}" if row.get("train_seconds") else "-"
        cells.append((row["network"], row["run"], row["epochs"], minutes, *(f"{row[name]:.4f}" for name in names)))
    header = ("network", "run", "epochs", "minutes", "pixel accuracy", "mean IoU", "iou", "iou, old torchmetrics",
              "custom IoU", "Dice")  # fmt: skip
    return markdown(header, cells)


def sizes() -> list[str]:
    cells = []
    for row in named_rows():
        thirds = [f"{t['pixel_accuracy']:.3f} / {t['mean_iou']:.3f}" for t in row["by_pet_size"].values()]
        species = [f"{s['mean_iou']:.3f}" for s in row.get("by_species", {}).values()] or ["-", "-"]
        contour = f"{row['contour_mean_iou']:.3f}" if "contour_mean_iou" in row else "-"
        classes = [f"{share:.3f}" for share in row["class_iou"]]
        cells.append((row["network"], row["run"], *thirds, *species, *classes, contour))
    header = ("network", "run", "small pets", "middle", "large", "cats", "dogs", "IoU pet", "background", "border",
              "near the contour")  # fmt: skip
    return markdown(header, cells)


def study_lines() -> list[Row]:
    """Lines of the study with its newest base."""
    lines = lines_of("study.jsonl")
    return [line for line in lines if line["base"] == lines[-1]["base"]]


def study() -> list[str]:
    """Each setting against the base, best mean IoU first."""
    names = ("pixel_accuracy", "mean_iou", "iou", "custom_iou", "border_iou", "small_pets_mean_iou")
    by_setting: dict[str, list[Row]] = {}
    for line in study_lines():
        by_setting.setdefault(line["setting"], []).append(line)

    def mean(setting: str, name: str) -> float:
        return statistics.mean(line[f"validation_{name}"] for line in by_setting[setting])

    cells = []
    for setting in sorted(by_setting, key=lambda s: -mean(s, "mean_iou")):
        lines = by_setting[setting]
        known = [name for name in names if all(f"validation_{name}" in line for line in lines)]
        figures = [spread([line[f"validation_{name}"] for line in lines]) if name in known else "-" for name in names]
        change = (
            "" if not setting or "" not in by_setting else f"{mean(setting, 'mean_iou') - mean('', 'mean_iou'):+.4f}"
        )
        seconds = f"{statistics.mean(line['seconds'] for line in lines):.0f}"
        cells.append((f"`{setting}`" if setting else "**the base**", len(lines), *figures, change, seconds))
    header = ("changed", "seeds", "pixel accuracy", "mean IoU", "iou", "custom IoU", "border IoU",
              "small pets", "change in mean IoU", "seconds")  # fmt: skip
    return markdown(header, cells)


def speed() -> list[str]:
    result = json.loads((PUBLISHED / "benchmark.json").read_text())
    cells = []
    for key, name in (("train_step_ms", "training step"), ("inference_ms", "inference")):
        for network, by_way in result[key].items():
            ways = [by_way[way] for way in ("original", "ours_float32", "ours")]
            figures = (*(f"{ms:.1f}" for ms in ways), f"{ways[0] / ways[2]:.1f}x")
            cells.append((f"{name}, {network}, ms a photograph", *figures))
    for kind in ("train", "infer"):
        for network, by_way in result["peak_memory_mib"][kind].items():
            ways = [by_way[way] for way in ("original", "ours_float32", "ours")]
            cells.append((f"peak memory, {kind}, {network}, MiB", *ways, f"{ways[0] / ways[2]:.1f}x"))
    data = result["data_images_per_second"]
    rates = [f"{data[way]:.0f}" for way in ("original", "ours", "ours")]
    cells.append(("data path, photographs/s", *rates, f"{data['ours'] / data['original']:.0f}x"))
    kept = result["kept_bytes_per_image"]
    numbers = [f"{kept[way]:,}" for way in ("segnet_builtin", "segnet", "segnet")]
    cells.append(
        ("kept for the decoder, bytes a photograph", *numbers, f"{kept['segnet_builtin'] / kept['segnet']:.0f}x")
    )
    shares = {name: f"{100 * share:.1f} %" for name, share in result["data_share_of_step"].items()}
    reached = {name: f"{100 * ways['ours']:.0f} %" for name, ways in result["share_of_matrix_product"].items()}
    rates = result["matrix_product_gflops"]
    tried = [
        f"{network}: {ways['ours']:.0f} ms in the same turns, {ways['ours_compiled']:.0f} compiled, "
        f"{ways['ours_giving_memory_back']:.0f} with an allocator that gives memory back"
        for network, ways in result["tried_train_step_ms"].items()
    ]
    times = [
        f"{network} {t['original']:.0f} s for 5 epochs of the original, {t['ours']:.0f} s ours "
        f"({t['original'] / t['ours']:.1f}x)"
        for network, t in result["time_to_quality_seconds"].items()
        if t["ours"]
    ]
    return [
        f"Medians of {result['repeats']} turns, on {result['machine']} ({result['threads']} threads).",
        "",
        *markdown(("what", "original", "ours, float32", "ours", "ours against original"), cells),
        "",
        f"- A second start reaches its first step after {result['start_to_first_step_seconds']:.1f} s.",
        f"- Preparing a photograph takes {shares['segnet']} of SegNet's step and {shares['segnet_dsc']} of its twin's.",
        f"- Of the rate of a 4096³ matrix product in {result['precision']} ({rates[result['precision']]:.0f} GFLOP/s; "
        f"{rates['float32']:.0f} in float32) SegNet's step reaches {reached['segnet']}, the separable one "
        f"{reached['segnet_dsc']}: it waits for memory.",
        f"- Time to the original's quality: {'; '.join(times)}.",
        f"- Tried, and it does not pay: {'; '.join(tried)}.",
    ]


def agreement() -> list[str]:
    """Pixel accuracy by seed and way; in brackets, and on the last line, the difference from the original's."""
    result = json.loads((PUBLISHED / "agreement.json").read_text())
    by_way = result["validation_pixel_accuracy"]
    columns = [[*result["seeds"], "mean difference ± standard error"]]
    for way, values in by_way.items():
        differences = [a - b for a, b in zip(values, by_way["original"])]
        if way == "original":
            columns.append([*(f"{value:.4f}" for value in values), ""])
            continue
        error = statistics.stdev(differences) / len(differences) ** 0.5
        column = [f"{value:.4f} ({d:+.4f})" for value, d in zip(values, differences)]
        columns.append([*column, f"{statistics.mean(differences):+.4f} ± {error:.4f}"])
    return markdown(("seed", *(way.replace("_", ", ") for way in by_way)), list(zip(*columns)))


def comparison(lines: list[Row]) -> list[dict[str, object]]:
    """compare.py's groups "study" and "full": a dictionary for each variant, figures in lists over seeds."""
    names = ("train_seconds", "pixel_accuracy", "mean_iou", "contour_mean_iou")
    found: dict[tuple[str, int], dict[str, object]] = {}
    for row in lines:
        study_row = row["run"].startswith("study-")
        if not (study_row or row["run"] in ("defaults", "fifth-stage")):
            continue
        name = row["network"] if row["run"] == "defaults" else row["run"]
        if study_row:  # study-NAME-SEED
            name = name.removeprefix("study-").rpartition("-")[0]
        entry = found.setdefault((name, row["image_size"]), {
            "name": name, "size": row["image_size"], "parameters": row["parameters"],
            "multiply_adds": row["multiply_adds"], "kept_bytes": row["kept_bytes"], "small_pets": [],
            **{figure: [] for figure in names},
        })  # fmt: skip
        for figure in names:
            entry[figure].append(row[figure])
        entry["small_pets"].append(row["by_pet_size"]["small"]["mean_iou"])
    return list(found.values())


def compared() -> list[str]:
    cells = []
    for entry in comparison(rows()):
        figures = [spread(entry[name]) for name in ("pixel_accuracy", "mean_iou", "contour_mean_iou", "small_pets")]
        cells.append((
            entry["name"], entry["size"], len(entry["mean_iou"]), f"{entry['parameters'] / 1e6:.2f} M",
            f"{entry['multiply_adds'] / 1e9:.2f} G", f"{entry['kept_bytes'] / 1024:,.0f} KiB",
            f"{statistics.median(entry['train_seconds']):.0f}", *figures,
        ))  # fmt: skip
    header = ("network", "px", "seeds", "parameters", "multiply-adds", "kept", "training, s", "pixel accuracy",
              "mean IoU", "near the contour", "small pets")  # fmt: skip
    return markdown(header, cells)


def findings() -> list[str]:
    """Five questions about SegNet, each answered with its figures."""
    found = {(entry["name"], entry["size"]): entry for entry in comparison(rows())}
    twin = json.loads((PUBLISHED / "benchmark.json").read_text())["unet_twin"]

    def at(size: int, figure: str, *names: str) -> str:
        return " against ".join(spread(found[name, size][figure]) for name in names)

    def kept(name: str) -> str:
        return f"{found[name, 128]['kept_bytes'] / 1024:,.0f} KiB"

    def peaks(kind: str, network: str) -> str:
        return " against ".join(f"{twin[kind][network][way]['peak_mib']:,.0f}" for way in ("ours", "unet"))

    def cost(figure: str, unit: float) -> str:
        return " against ".join(f"{found[name, 128][figure] / unit:.2f}" for name in ("segnet_dsc", "segnet"))

    return [
        f"1. **Is SegNet's saving real?** In what the decoder is handed, yes: {kept('segnet_dsc')} a photograph at "
        f"128 px against the U-Net's {kept('unet_dsc')}. In all of a process's memory, with 16 photographs at a time, "
        f"it is modest: training takes {peaks('train', 'segnet_dsc')} MiB (separable) and {peaks('train', 'segnet')} "
        f"(full convolutions), inference {peaks('infer', 'segnet_dsc')} and {peaks('infer', 'segnet')}. Training keeps "
        "the encoder's maps for its gradients, whoever else gets them.",
        f"2. **What does it cost in accuracy?** Mean IoU of {at(128, 'mean_iou', 'segnet_dsc', 'unet_dsc')} at 128 px, "
        f"of {at(64, 'mean_iou', 'segnet_dsc', 'unet_dsc')} at 64 px: more near the contour "
        f"({at(64, 'contour_mean_iou', 'segnet_dsc', 'unet_dsc')}), about as much on small pets "
        f"({at(64, 'small_pets', 'segnet_dsc', 'unet_dsc')}).",
        "3. **What does separable convolution cost?** Little: mean IoU of "
        f"{at(128, 'mean_iou', 'segnet_dsc', 'segnet')} (128 px, five epochs), for {cost('parameters', 1e6)} million "
        f"parameters and {cost('multiply_adds', 1e9)} billion multiply-adds.",
        "4. **Which loss for small pets?** Cross-entropy, or its sum with the IoU loss: mean IoU on the smallest third "
        f"of {at(64, 'small_pets', 'cross-entropy')} and {at(64, 'small_pets', 'segnet_dsc')}; the IoU loss alone "
        f"reaches {at(64, 'small_pets', 'iou-loss')}.",
        "5. **Does the fifth stage hurt at 128 px?** Yes: mean IoU of "
        f"{at(128, 'mean_iou', 'fifth-stage', 'segnet_dsc')} without it, and at 64 px of "
        f"{at(64, 'mean_iou', 'fifth-stage', 'segnet_dsc')}, after five epochs.",
    ]


def labels(lines: list[Row]) -> dict[str, dict[int, Row]]:
    """compare.py's group "labels": rows by encoder and number of labelled photographs."""
    found: dict[str, dict[int, Row]] = {}
    for row in lines:
        if row["run"].startswith("labels-"):
            name = row["run"].removeprefix("labels-").rpartition("-")[0]
            found.setdefault(name, {})[row["train_images"]] = row
    return {network: dict(sorted(by_number.items())) for network, by_number in found.items()}


def labelled() -> list[str]:
    numbers = sorted({number for by_number in labels(rows()).values() for number in by_number})
    cells_of = {
        network: [f"{by_number[n]['pixel_accuracy']:.4f} / {by_number[n]['mean_iou']:.4f}" for n in numbers]
        for network, by_number in labels(rows()).items()
    }
    cells = [(network, *figures) for network, figures in cells_of.items()]
    few, many = cells_of["lite0-pretrained"][0], cells_of["segnet_dsc"][-1]
    return [
        *markdown(("pixel accuracy / mean IoU", *(f"{n} photographs" for n in numbers)), cells),
        "",
        f"**In the same number of steps, a pretrained encoder with {numbers[0]} labelled photographs ({few}) beats the "
        f"network from scratch with {numbers[-1]} ({many}): pretraining is worth more than the other "
        f"{numbers[-1] - numbers[0]} labels.** It is the weights that do it, and not the encoder: the same one with "
        f"random weights reaches {cells_of['lite0-random'][-1]} with all of them.",
    ]


def kills() -> list[str]:
    return [
        f"{line['kills']} kills, {line['lost']} lost ({line['machine']}, commit {line['commit']})."
        for line in lines_of("kills.jsonl")
    ]


TABLES: dict[str, Callable[[], list[str]]] = {
    f.__name__: f for f in (results, sizes, study, speed, agreement, compared, findings, labelled, kills)
}

if __name__ == "__main__":
    settings.run(main)
