"""Tables of what ranks bring and what a larger set costs, from ranks.json and scale.json of outputs/published."""

import statistics

from common.cost import multiply_adds
from common.results import json_of
from experiments.cells import markdown, spread
from experiments.tasks import FORMER
from segnet import NETWORKS, count_parameters

# What an H100 SXM can do at most, by its data sheet (https://www.nvidia.com/en-us/data-center/h100/) and that of the
# DGX H100 (https://docs.nvidia.com/dgx/dgxh100-user-guide/): several were never at hand, one was (benchmark.json)
FLOPS = 989e12  # per second, bfloat16, dense
NVLINK = 450e9  # bytes per second in either direction, among the 8 of a machine
NETWORK = 50e9  # bytes per second per GPU, between machines: one port of 400 Gb/s each

TIMED = "H100"  # in the name of that one
SHARE = 0.1  # of a step that averaging gradients may take
WAYS = {"one": "one process", "ranks": "ranks of one thread"}

Cells = list[tuple]


def ranks() -> list[str]:
    """Images per second of either way, and what networks that were trained either way reach."""
    found = json_of("ranks.json")
    if not found:
        return ["Not measured yet: `python -m experiments.ranks`."]
    cells: Cells = []
    for network, by_size in found["images_per_second"].items():
        for size, rates in by_size.items():
            one, several = (statistics.median(rates[way]) for way in WAYS)
            paired = [b / a for a, b in zip(rates["one"], rates["ranks"])]
            cells.append((network, size, f"{one:.1f}", f"{several:.1f}",
                          f"{several / one:.2f} ({min(paired):.2f} to {max(paired):.2f})"))  # fmt: skip
    header = ("network", "px", "one process, images/s", f"{found['ranks']} ranks, images/s", "ranks against one")
    trained, ious = found["trained"], found["mean_iou"]
    apart = [b - a for a, b in zip(ious["one"], ious["ranks"])]
    return [
        f"Medians of {found['repeats']} turns of {found['steps']} steps of 8 images, on {found['machine']}; in "
        "brackets the smallest and the largest of the turns.",
        "",
        *markdown(header, cells),
        "",
        f"Mean IoU on the test split after the default recipe with `{FORMER}`, {trained['network']} at "
        f"{trained['image_size']} px, "
        f"{len(ious['one'])} seeds: {spread(ious['one'])} by one process, {spread(ious['ranks'])} by "
        f"{found['ranks']} ranks; the difference by seed is {', '.join(f'{d:+.4f}' for d in apart)}.",
    ]


def scale() -> list[str]:
    """What grows with the set, and what doesn't."""
    found, cells = json_of("scale.json"), []
    if not found:
        return ["Not measured yet: `python -m experiments.scale`."]
    for images in found["sets"]:
        for way, title in (("one", WAYS["one"]), ("ranks", f"{found['ranks']} {WAYS['ranks']}")):
            turn, memory = images[way], images[way]["memory_mib"]
            cells.append((
                f"{images['images']:,}", f"{images['decode_seconds'] / 60:.1f}", title, f"{turn['start_seconds']:.1f}",
                f"{turn['pass_seconds']:.1f}", f"{turn['images_per_second']:.1f}",
                f"{images['images'] / turn['images_per_second'] / 60:.1f}",
                " + ".join(f"{each['own']:,}" for each in memory), f"{max(each['mapped'] for each in memory):,}",
            ))  # fmt: skip
    header = ("images", "decoding, once, min", "by", "start to first step, s", "a pass without steps, s",
              "training, images/s", "so an epoch, min", "memory of its own, MiB", "mapped, MiB")  # fmt: skip
    ways = ", ".join(f"{rate:.0f} images/s by {way}" for way, rate in found["decoding"].items())
    return [
        f"segnet_dsc at {found['image_size']} px, {found['steps']} steps timed, on {found['machine']}. "
        f"Decoding: {ways}.",
        "",
        *markdown(header, cells),
    ]


def how_far() -> list[str]:
    """From which number of images per GPU on, averaging gradients takes less than SHARE of a step."""
    cells: Cells = []
    for name in ("segnet", "segnet_dsc"):
        network = NETWORKS[name]()
        numbers = count_parameters(network)
        flop = 3 * 2 * multiply_adds(network, 128)  # forward, and twice that backward
        for gpus, bandwidth in ((8, NVLINK), (64, NETWORK)):
            seconds = ring(gpus) * 4 * numbers / bandwidth
            of_image = [flop / FLOPS, *timed(name)]  # seconds
            least = [seconds * (1 - SHARE) / SHARE / each for each in of_image]
            cells.append((
                name, f"{4 * numbers / 1e6:.0f} MB", gpus, f"{1e3 * seconds:.2f} ms",
                *(f"{1e6 * each:.0f} µs" for each in of_image), *(f"{each:,.1f}" for each in least),
            ))  # fmt: skip
    ways = ["at the peak", "as timed"][: len(of_image)]
    header = ("network", "gradients", "GPUs", "averaging", *(f"an image, {way}" for way in ways),
              *(f"images per GPU, {way}" for way in ways))  # fmt: skip
    lines = markdown(header, cells)
    if found := json_of("ranks.json"):
        lines += ["", *measured_here(found)]
    return lines


def timed(network: str) -> list[float]:
    """Seconds per image of a training step on the GPU that was at hand; none where the benchmark knows none."""
    entries = [entry for entry in json_of("benchmark.json") or () if TIMED in entry["machine"]]
    return [entry["train_step_ms"][network]["ours"] / 1000 for entry in entries[:1]]


def measured_here(found: dict) -> list[str]:
    """The same from what steps and averages cost between the ranks of ranks.json, at the largest size."""
    cells: Cells = []
    for network, by_size in found["images_per_second"].items():
        size, rates = list(by_size.items())[-1]
        average, count = found["all_reduce_ms"][network], found["ranks"]
        per_image = (1000 * 8 / statistics.median(rates["ranks"]) - average) / (8 / count)
        for ranks in (count, 8, 64):
            milliseconds = average * ring(ranks) / ring(count)
            least = milliseconds * (1 - SHARE) / SHARE / per_image
            cells.append((network, size, ranks, f"{milliseconds:.0f} ms", f"{per_image:.0f} ms", f"{least:.1f}"))
    header = ("network", "px", "ranks like those here", "averaging", "an image", "images per rank")
    return markdown(header, cells)


def ring(ranks: int) -> float:
    """How many times its gradients a rank sends when they are averaged round a ring."""
    return 2 * (ranks - 1) / ranks
