"""Tables of outputs/published/benchmark.json, which has an entry for each kind of machine; and the stopwatch."""

import itertools
from collections.abc import Iterator

from common.results import Row, json_of, rows
from experiments.cells import markdown, mean, spread
from experiments.findings import OPTIMIZERS, seeds_of
from experiments.tasks import FULL
from experiments.twin import earlier

# Runs of tasks.py that are timed
RECIPES = ("sprint-18", "sprint-35", "sprint-18-float32", "sprint-muon", "sprint-larger", "sprint-larger-float32")
TARGETS = ("pixel_accuracy", "mean_iou", "custom_iou")  # that the stopwatch waits for
# Told beside them; neither sees false pets, and the second is as the original counted
OTHERS = {"iou": "`iou`", "iou_old_torchmetrics": "old `iou`"}
SCORES = (*TARGETS, *OTHERS)


def entries() -> list[dict]:
    """Those of machines whose steps were timed; the first has all other parts too."""
    return [entry for entry in json_of("benchmark.json") or () if "train_step_ms" in entry]


def optimizer_of(entry: dict) -> str:
    """Ours; earlier entries don't name it."""
    return OPTIMIZERS[entry.get("optimizer", "adamw")]


def machines() -> list[str]:
    """Which machine gains how much: a line for each kind of machine and network."""
    cells = []
    for entry in entries():
        for network, train in entry["train_step_ms"].items():
            infer = entry["inference_ms"][network]
            cells.append((
                entry["machine"], entry["precision"], network, told(train["original"]), told(train["ours"]),
                optimizer_of(entry), f"{train['original'] / train['ours']:.1f}x", told(infer["original"]),
                told(infer["ours"]), f"{infer['original'] / infer['ours']:.1f}x",
            ))  # fmt: skip
    header = ("machine", "precision", "network", "training step of the original, ms per image", "ours", "by", "gain",
              "inference of the original, ms per image", "ours", "gain")  # fmt: skip
    return markdown(header, cells)


def told(ms: float) -> str:
    return f"{ms:.{0 if ms >= 2 else 2}f}"


def gains() -> list[str]:
    """For the README: our training step on each machine, how many times as fast it is, and how soon it is as good.

    Where some seeds are below the original in `iou`, or in the old form that it counted by, it is said beside.
    """
    cells = []
    for entry in entries():
        of_networks = []
        for network, by_way in entry["train_step_ms"].items():
            step = f"{told(by_way['ours'])} ms by {optimizer_of(entry)}"
            of_networks += [f"{step}: {by_way['original'] / by_way['ours']:.1f}x", as_good(entry, network)]
        cells.append((f"{entry['machine']}, {entry['precision']}{earlier(entry)}", *of_networks))
    header = ("machine", "SegNet, training step", "as good as the original", "separable, training step", "as good")
    return markdown(header, cells)


def as_good(entry: dict, network: str) -> str:
    """How soon all seeds are as good as the original after its five epochs; "-" where that was not timed."""
    good = []
    for _, slow, ours, originals in timed(entry, network):
        n = {name: sum(row[name] >= mean(originals, name) for row in ours) for name in SCORES}
        if all(n[name] == len(ours) for name in TARGETS):
            few = [f"{title} {n[name]} of {len(ours)}" for name, title in OTHERS.items() if n[name] < len(ours)]
            good.append((our_seconds(entry, ours[0]), slow, ", ".join(few)))
    if not good:
        return "-"
    fast, slow, few = min(good)
    return f"after {fast:.0f} s: {slow / fast:.1f}x" + (f"; {few}" if few else "")


def original_seconds(entry: dict, network: str, row: Row) -> float:
    """What a row's training takes by the original's way on an entry's machine: its images, steps and decoding."""
    per_image = entry["train_step_ms"][network]["original"] / 1000 + 1 / entry["data_images_per_second"]["original"]
    return row["epochs"] * row["train_images"] * per_image


def our_seconds(entry: dict, row: Row) -> float:
    """What a row's training took; with decoding, which only the first training at these sizes has to do."""
    side = row["image_size"]
    sizes = {str(round(share * side)) for share in (*row["constants"]["SIZES"], 1)}
    return row["train_seconds"] + sum(entry["decode_seconds"][size] for size in sizes)


def timed(entry: dict, network: str) -> Iterator[tuple[str, float, list[Row], list[Row]]]:
    """Recipes timed on an entry's machine: run, seconds of the original, our rows and its own.

    Timed is seed 0, alone on the machine with as many threads as the entry has; the other seeds are of any machine.
    """
    originals = seeds_of("original", network)
    here = {"machine": entry["machine"], "threads": entry["threads"]}.items()
    lines = [row for row in rows() if row["seed"] or here <= row.items()]
    for run in RECIPES if originals else ():
        ours = seeds_of(run, network, lines)
        if ours and not ours[0]["seed"] and "decode_seconds" in entry:
            yield run, original_seconds(entry, network, originals[0]), ours, originals


def stopwatch() -> list[str]:
    """Seconds to the original's own scores: its means over seeds, and how many of our seeds are at or above each."""
    cells = []
    for network, entry in itertools.product(("segnet", "segnet_dsc"), entries()):
        for run, slow, ours, originals in timed(entry, network):
            fast = our_seconds(entry, ours[0])
            cells.append((network, recipe(run, network), entry["machine"], f"{slow:.0f}", f"{fast:.0f}",
                          f"{slow / fast:.1f}x", *(reached(name, ours, originals) for name in SCORES)))  # fmt: skip
    titles = (name.replace("_old_torchmetrics", ", old").replace("_", " ") for name in SCORES)
    header = ("network", "recipe", "machine", "the original, s", "ours, s", "gain",
              *(f"{title}, ours against the original's" for title in titles))  # fmt: skip
    return markdown(header, cells) if cells else ["Not measured yet."]


def recipe(run: str, network: str) -> str:
    """What a run of tasks.py changes in the defaults of train.py."""
    settings = {(task_run, of): setting for _, task_run, networks, setting in FULL for of in networks.split(",")}
    return f"`{settings[run, network]}`"


def reached(name: str, ours: list[Row], originals: list[Row]) -> str:
    """A score of ours and of the original's, and how many of our seeds are at or above its mean."""
    good = sum(row[name] >= mean(originals, name) for row in ours)
    mine, wanted = (spread([row[name] for row in found]) for found in (ours, originals))
    return f"{mine} against {wanted}: {good} of {len(ours)}"


def convolutions() -> list[str]:
    """SegNet's step in float32 by common/winograd.py and by torch's convolutions."""
    cells = []
    for entry in entries():
        if ways := entry.get("convolutions"):
            ours, torchs = ways["ours_float32"], ways["torchs_float32"]
            cells.append((entry["machine"], f"{torchs['ms']:.0f}", f"{ours['ms']:.0f}",
                          f"{torchs['ms'] / ours['ms']:.2f}x", f"{torchs['peak_mib']:,}", f"{ours['peak_mib']:,}",
                          entry["measured"]["convolutions"]["commit"][:7]))  # fmt: skip
    header = ("machine", "torch's, ms per image", "ours", "gain", "torch's, MiB", "ours", "commit")
    return markdown(header, cells)


def gradients() -> list[str]:
    """Training steps by common/gradients.py and by PyTorch's gradients."""
    cells = []
    for entry in entries():
        for network, ways in entry.get("gradients", {}).items():
            ours, torchs = ways["ours"], ways["torchs_gradients"]
            cells.append((entry["machine"], entry["precision"], network, f"{torchs['ms']:.1f}",
                          f"{ours['ms']:.1f}", f"{torchs['ms'] / ours['ms']:.2f}x", f"{torchs['peak_mib']:,}",
                          f"{ours['peak_mib']:,}", entry["measured"]["gradients"]["commit"][:7]))  # fmt: skip
    header = ("machine", "precision", "network", "PyTorch's, ms per image", "ours", "gain", "PyTorch's, MiB", "ours",
              "commit")  # fmt: skip
    return markdown(header, cells)


def busy() -> list[str]:
    """The separable network's step where nothing else runs and where something does, by how threads wait."""
    cells = [
        (entry["machine"],
         *(f"{by_way[way]:.1f}" for by_way in entry["busy"].values() for way in ("ours_spinning", "ours")),
         entry["measured"]["busy"]["commit"][:7])
        for entry in entries() if "busy" in entry
    ]  # fmt: skip
    header = ("machine", "alone, by 300,000 spins, ms per image", "by 3,000", "beside other programs, by 300,000",
              "by 3,000", "commit")  # fmt: skip
    return markdown(header, cells)


def speed() -> list[str]:
    """All that the benchmark measured on the first of its machines."""
    result = entries()[0]
    return [
        f"Medians of {result['repeats']} turns, on {result['machine']} ({result['threads']} threads), commit "
        f"{', '.join(commits_of(result))}.",
        "",
        *markdown(("what", "original", "ours, float32", "ours", "ours against original"), cells_of(result)),
        "",
        *sentences_of(result),
    ]


def commits_of(entry: dict) -> list[str]:
    """Of what `speed` tells: the other parts have tables of their own. Earlier entries were measured at once."""
    own_tables = ("twin", "convolutions", "gradients", "busy")
    parts = [part for name, part in entry.get("measured", {}).items() if name not in own_tables]
    return list(dict.fromkeys(commit[:7] for commit in (entry["commit"], *(part["commit"] for part in parts))))


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
    rates, per_image = result["matrix_product_gflops"], 1000 / result["data_images_per_second"]["ours"]
    steps = {network: by_way["ours"] for network, by_way in result["train_step_ms"].items()}
    shares = {network: f"{100 * per_image / ms:.1f} %" for network, ms in steps.items()}
    gflops = {network: result["step_gflop_per_image"][network] / (ms / 1000) for network, ms in steps.items()}
    reached = {network: f"{100 * rate / rates[result['precision']]:.0f} %" for network, rate in gflops.items()}
    tried = [
        f"{network} {ways['ours']:.0f} ms as it is, {ways['ours_compiled']:.0f} compiled, "
        f"{ways['ours_giving_memory_back']:.0f} with an allocator that gives memory back"
        for network, ways in result.get("tried_train_step_ms", {}).items()
    ]
    return [
        f"- A second start reaches its first step after {result['start_to_first_step_seconds']:.1f} s.",
        f"- Preparing an image takes {shares['segnet']} of SegNet's step and {shares['segnet_dsc']} of its twin's.",
        f"- Of the rate of a 4096³ matrix product in {result['precision']} ({rates[result['precision']]:.0f} GFLOP/s; "
        f"{rates['float32']:.0f} in float32) SegNet's step reaches {reached['segnet']}, the separable one "
        f"{reached['segnet_dsc']}.",
        *([f"- Tried, in the same turns: {'; '.join(tried)}."] if tried else []),
    ]
