"""Tables of outputs/published/benchmark.json, which has an entry for each kind of machine; and the stopwatch."""

import itertools
import json
import statistics

from common.results import PUBLISHED, Row
from experiments.findings import markdown, seeds_of, spread

RECIPES = {"stopwatch": "3 epochs, `SIZES=0.5,0.75,1`", "defaults": "the default, 5 epochs"}
SCORES = ("pixel_accuracy", "mean_iou", "custom_iou", "iou")  # that the stopwatch waits for


def entries() -> list[dict]:
    return json.loads((PUBLISHED / "benchmark.json").read_text())


def machines() -> list[str]:
    """Which machine gains how much: a line for each kind of machine and network."""
    cells = []
    for entry in entries():
        for network, train in entry["train_step_ms"].items():
            infer = entry["inference_ms"][network]
            cells.append((
                entry["machine"], entry["precision"], network, *(f"{train[way]:.0f}" for way in ("original", "ours")),
                f"{train['original'] / train['ours']:.1f}x", *(f"{infer[way]:.0f}" for way in ("original", "ours")),
                f"{infer['original'] / infer['ours']:.1f}x",
            ))  # fmt: skip
    header = ("machine", "precision", "network", "training step of the original, ms per image", "ours", "gain",
              "inference of the original, ms per image", "ours", "gain")  # fmt: skip
    return markdown(header, cells)


def gains() -> list[str]:
    """For the README, a line for each kind of machine."""
    lines = []
    for entry in entries():
        of = {network: f"{ms['original'] / ms['ours']:.1f}" for network, ms in entry["train_step_ms"].items()}
        milliseconds = {network: f"{ms['ours']:.0f}" for network, ms in entry["train_step_ms"].items()}
        lines.append(
            f"- {entry['machine']}, {entry['precision']}: SegNet {of['segnet']} times as fast as the original "
            f"({milliseconds['segnet']} ms per image and training step), separable {of['segnet_dsc']} times "
            f"({milliseconds['segnet_dsc']} ms)"
        )
    return lines


def original_seconds(entry: dict, network: str, row: Row) -> float:
    """What a row's training takes by the original's way on an entry's machine: its images, steps and decoding."""
    per_image = entry["train_step_ms"][network]["original"] / 1000 + 1 / entry["data_images_per_second"]["original"]
    return row["epochs"] * row["train_images"] * per_image


def stopwatch() -> list[str]:
    """Seconds to the original's own scores: its means over seeds, and how many of our seeds are at or above each.

    Timed is seed 0, alone on a machine of the benchmark with as many threads as there.
    """
    cells = []
    for network, run in itertools.product(("segnet", "segnet_dsc"), ("stopwatch", "defaults")):
        originals, ours = seeds_of("original", network), seeds_of(run, network)
        for entry in entries() if originals and ours else ():
            first, here = ours[0], {name: entry[name] for name in ("machine", "threads")}
            if here.items() <= first.items():
                slow, fast = original_seconds(entry, network, originals[0]), first["train_seconds"]
                cells.append((network, RECIPES[run], entry["machine"], f"{slow:.0f}", f"{fast:.0f}",
                              f"{slow / fast:.1f}x", *(reached(name, ours, originals) for name in SCORES)))  # fmt: skip
    header = ("network", "recipe", "machine", "the original, s", "ours, s", "gain",
              *(f"{name.replace('_', ' ')}, ours against the original's" for name in SCORES))  # fmt: skip
    return markdown(header, cells) if cells else ["Not measured yet."]


def reached(name: str, ours: list[Row], originals: list[Row]) -> str:
    """A score of ours and of the original's, and how many of our seeds are at or above its mean."""
    wanted = [row[name] for row in originals]
    good = sum(row[name] >= statistics.mean(wanted) for row in ours)
    return f"{spread([row[name] for row in ours])} against {spread(wanted)}: {good} of {len(ours)}"


def speed() -> list[str]:
    """All that the benchmark measured on the first of its machines."""
    result = entries()[0]
    return [
        f"Medians of {result['repeats']} turns, on {result['machine']} ({result['threads']} threads), commit "
        f"{result['commit'][:7]}.",
        "",
        *markdown(("what", "original", "ours, float32", "ours", "ours against original"), cells_of(result)),
        "",
        *sentences_of(result),
    ]


def cells_of(result: dict) -> list[tuple]:
    cells = []
    for key, name in (("train_step_ms", "training step"), ("inference_ms", "inference")):
        for network, by_way in result[key].items():
            ways = [by_way[way] for way in ("original", "ours_float32", "ours")]
            numbers = (*(f"{ms:.1f}" for ms in ways), f"{ways[0] / ways[2]:.1f}x")
            cells.append((f"{name}, {network}, ms per image", *numbers))
    for kind in ("train", "infer"):
        for network, by_way in result["peak_memory_mib"][kind].items():
            ways = [by_way[way] for way in ("original", "ours_float32", "ours")]
            cells.append((f"peak memory, {kind}, {network}, MiB", *ways, f"{ways[0] / ways[2]:.1f}x"))
    data = result["data_images_per_second"]
    rates = [f"{data[way]:.0f}" for way in ("original", "ours", "ours")]
    cells.append(("data path, images/s", *rates, f"{data['ours'] / data['original']:.0f}x"))
    kept = result["kept_bytes_per_image"]
    numbers = [f"{kept[way]:,}" for way in ("segnet_builtin", "segnet", "segnet")]
    cells.append(("kept for the decoder, bytes per image", *numbers, f"{kept['segnet_builtin'] / kept['segnet']:.0f}x"))
    return cells


def sentences_of(result: dict) -> list[str]:
    shares = {name: f"{100 * share:.1f} %" for name, share in result["data_share_of_step"].items()}
    reached = {name: f"{100 * ways['ours']:.0f} %" for name, ways in result["share_of_matrix_product"].items()}
    rates = result["matrix_product_gflops"]
    tried = [
        f"{network} {ways['ours']:.0f} ms as it is, {ways['ours_compiled']:.0f} compiled, "
        f"{ways['ours_giving_memory_back']:.0f} with an allocator that gives memory back"
        for network, ways in result["tried_train_step_ms"].items()
    ]
    return [
        f"- A second start reaches its first step after {result['start_to_first_step_seconds']:.1f} s.",
        f"- Preparing an image takes {shares['segnet']} of SegNet's step and {shares['segnet_dsc']} of its twin's.",
        f"- Of the rate of a 4096³ matrix product in {result['precision']} ({rates[result['precision']]:.0f} GFLOP/s; "
        f"{rates['float32']:.0f} in float32) SegNet's step reaches {reached['segnet']}, the separable one "
        f"{reached['segnet_dsc']}",
        f"- Tried, in the same turns: {'; '.join(tried)}.",
    ]
