"""What a network sees: images of twice the size in training; mirror images, larger squares and tiles in prediction."""

import json
import statistics

from common.results import Row, lines_of, rows, run_of
from common.trimap import BORDER
from experiments.cells import difference, markdown, mean, spread
from experiments.findings import seeds_of

# Runs at 128 px and with the same settings at 256 px, and their network; the last pair differs in its epochs as well
TWICE = (
    ("defaults", "defaults-256", "segnet_dsc"),
    ("lite2-5", "lite2-5-256", "segnet_dsc_lite2"),
    ("lite0", "lite0-256", "segnet_dsc_lite0"),
    ("lite2-muon", "lite2-256", "segnet_dsc_lite2"),
)


def twice() -> list[str]:
    """Networks at 256 px against the same at 128 px, both at each image's own size; changes are paired by seed."""
    cells = []
    for run, run_256, network in TWICE:
        small, large = seeds_of(run, network), seeds_of(run_256, network)
        if not (small and large):
            continue
        epochs = " / ".join(dict.fromkeys(str(of_size[0]["epochs"]) for of_size in (small, large)))
        scores = (spread([at_own_size(row) for row in of_size]) for of_size in (small, large))
        changes = (difference(gains(small, large, *path)) for path in ((), ("class_iou", BORDER)))
        cells.append((network, run, run_256, epochs, *scores, *changes))
    header = ("network", "at 128 px", "at 256 px", "epochs", "mean IoU, 128 px", "256 px", "change",
              "border IoU, change")  # fmt: skip
    return markdown(header, cells) if cells else ["Not measured yet."]


def enlarged() -> list[str]:
    """What finer maps bring, by enlarging images of 128 px in the network, and then finer photographs, by 256 px."""
    cells = []
    for run, network in (("defaults", "segnet_dsc"), ("lite2-5", "segnet_dsc_lite2")):
        plain, larger, finer = of_three = [seeds_of(run + kind, network) for kind in ("", "-enlarged", "-256")]
        if not all(of_three):
            continue
        scores = (spread([at_own_size(row) for row in rows_of]) for rows_of in of_three)
        changes = (
            difference(gains(*pair, *path))
            for path in ((), ("class_iou", BORDER))
            for pair in ((plain, larger), (larger, finer))
        )
        cells.append((network, *scores, *changes))
    header = ("network", "mean IoU, 128 px", "enlarged to 256", "256 px", "change by enlarging", "by detail",
              "border IoU, by enlarging", "by detail")  # fmt: skip
    return markdown(header, cells) if cells else ["Not measured yet."]


def change(run: str, run_256: str, network: str, *path: str | int) -> str:
    return difference(gains(seeds_of(run, network), seeds_of(run_256, network), *path))


def mean_change(run: str, other: str, network: str) -> float:
    return statistics.mean(gains(seeds_of(run, network), seeds_of(other, network)))


def at_own_size(row: Row, *path: str | int) -> float:
    return mean([row], "own_size", *(path or ("mean_iou",)))


def gains(small: list[Row], large: list[Row], *path: str | int) -> list[float]:
    """What larger images change in a result at the images' own size, for each seed that both have."""
    before = {row["seed"]: at_own_size(row, *path) for row in small}
    return [at_own_size(row, *path) - before[row["seed"]] for row in large if row["seed"] in before]


def mirror() -> list[str]:
    """The mean of the predictions for an image and its mirror image against the image's own, by the same weights."""
    names = ("pixel_accuracy", "mean_iou", "custom_iou")
    plain = {trained_as(row): row for row in rows() if not row["mirror"]}
    found: dict[tuple, list[list[float]]] = {}
    for row in filter(lambda row: row["mirror"], rows()):
        if base := plain.get(trained_as(row)):
            gained = [row[name] - base[name] for name in names]
            found.setdefault((row["network"], run_of(base), row["image_size"], row["epochs"]), []).append(gained)
    cells = [(*key, *(difference(list(changes)) for changes in zip(*of_seeds))) for key, of_seeds in found.items()]
    changed = (f"change in {name.replace('_', ' ').replace('iou', 'IoU')}" for name in names)
    header = ("network", "run", "px", "epochs", *changed)
    return markdown(header, cells) if cells else ["Not measured yet."]


def mirrored(row: Row) -> Row | None:
    """The row of the same weights with mirror images, or None."""
    return next((other for other in rows() if other["mirror"] and trained_as(other) == trained_as(row)), None)


def trained_as(row: Row) -> str:
    """What rows of the same weights share, whatever their run is called: published weights have another name."""
    names = ("network", "version", "constants", "epochs", "machine", "commit")
    return json.dumps([row.get(name) for name in names], sort_keys=True)


def large_images() -> list[str]:
    """Ways of looking at an image against squeezing it to the trained square, by network; the newest line of each."""
    found: dict[str, dict[str, Row]] = {}
    for line in lines_of("large_images.jsonl"):
        found.setdefault(line["weights"], {})[line["way"]] = line
    cells = []
    for weights, by_way in found.items():
        for way, line in by_way.items():
            scores, base = (
                (row["own_size"]["mean_iou"], *(row["by_pet_size"][size]["mean_iou"] for size in ("small", "large")))
                for row in (line, by_way[""])
            )
            changes = [f"{new:.4f}" + (f" ({new - old:+.4f})" if way else "") for new, old in zip(scores, base)]
            seen = "held out" if line["held_out"] else "trained on"
            cells.append((weights, f"`{way}`" if way else "squeezed", seen, *changes, f"{line['ms_per_image']:.0f}"))
    header = ("network", "way", "images", "mean IoU at own size", "smallest third", "largest third", "ms per image")
    return markdown(header, cells) if cells else ["Not measured yet."]
