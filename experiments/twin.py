"""What SegNet's process takes less than that of a U-Net of the same widths: the benchmark's part "twin" as a table."""

from common.results import json_of, lines_of
from experiments.cells import markdown

STEPS = {"train": "training", "infer": "inference"}
COSTS = {"ms": "ms per image", "peak_mib": "MiB"}  # a step's time; peak memory of the whole process


def entries() -> list[dict]:
    return [entry for entry in json_of("benchmark.json") or () if "unet_twin" in entry]


def twin() -> list[str]:
    """A line for each machine and network: SegNet's cost against the U-Net's, and how much less it is."""
    cells = [
        (entry["machine"] + (earlier(entry) or before_gradients(entry)), entry["precision"], network,
         *(compared(entry["unet_twin"][kind][network], cost) for kind in STEPS for cost in COSTS))
        for entry in entries()
        for network in ("segnet", "segnet_dsc")
    ]  # fmt: skip
    header = (f"{what}, {unit}" for what in STEPS.values() for unit in COSTS.values())
    return markdown(("machine", "precision", "network", *header), cells)


def repeats(kind: str) -> str:
    """How much less memory the smaller of two runs of the same took, at the most, e.g. "7 %".

    kind: of STEPS. By memory.py's lines, and the benchmark's runs of ours: beside the original, twice where ours is in
    float32 anyway, and beside the U-Net.
    """
    found: dict[tuple, list[int]] = {}
    for line in lines_of("memory.jsonl"):
        same = tuple(line[name] for name in ("commit", "image_size", "batch_size", "machine", "threads"))
        found.setdefault(same, []).append(line[{"train": "train_mib", "infer": "test_mib"}[kind]])
    for entry in entries():
        for network, ways in entry["unet_twin"][kind].items():
            beside_original = entry["peak_memory_mib"][kind][network]
            names = ("ours", "ours_float32") if entry["precision"] == "float32" else ("ours",)
            found[entry["machine"], network] = [ways["ours"]["peak_mib"], *(beside_original[name] for name in names)]
    return f"{max(100 * (1 - min(mib) / max(mib)) for mib in found.values()):.0f} %"


def quick_ones() -> list[dict]:
    """The machines whose U-Net's upsampling was no slower than it need be: it trained by common/gradients.py."""
    return [entry for entry in entries() if not before_gradients(entry)]


def on_which() -> str:
    """How many `quick_ones` there are, and their precisions: part of a sentence."""
    found = quick_ones()
    number = "the one machine" if len(found) == 1 else f"the {len(found)} machines"
    return f"{number} timed since the U-Net's is quicker ({' and '.join(sorted({e['precision'] for e in found}))})"


def before_gradients(entry: dict) -> str:
    """What is said of a machine whose U-Net trained by PyTorch's gradient of upsampling, slower than ours."""
    return "" if entry["unet_twin"].get("quick_gradients") else ", before `common/gradients.py`"


def earlier(entry: dict) -> str:
    """What is said of a machine whose numbers are older than the rows."""
    return "" if "version" in entry else ", measured with older code"


def compared(ways: dict[str, dict], cost: str) -> str:
    ours, unet = ways["ours"][cost], ways["unet"][cost]
    digits = 1 if ours < 50 else 0
    return f"{ours:,.{digits}f} against {unet:,.{digits}f} ({100 * (ours / unet - 1):+.0f} %)"


def saved(kind: str, cost: str) -> str:
    """The least and the most that SegNet takes less, over all machines and both networks, as a part of a sentence.

    kind, cost: of STEPS and COSTS. A training step's time is that of `quick_ones`.
    """
    found = quick_ones() if (kind, cost) == ("train", "ms") else entries()
    of_ways = [ways for entry in found for ways in entry["unet_twin"][kind].values()]
    shares = [100 * (1 - ways["ours"][cost] / ways["unet"][cost]) for ways in of_ways]
    least, most = min(shares), max(shares)
    return f"{least:.0f} to {most:.0f} % less" if least >= 0 else f"{-least:.0f} % more to {most:.0f} % less"
