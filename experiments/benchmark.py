"""Measures the original's way of training SegNet against this project's, on the machine at hand.

    python -m experiments.benchmark                          a few minutes, with the machine to itself
    python -m experiments.benchmark PARTS=data               a part again; see PARTS
    python -m experiments.benchmark DATASET=toy REPEATS=1    on the toy data, to see how it works
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python -m experiments.benchmark      as on a machine with AVX2

The two ways take turns, each in a process of its own, and medians are compared: machines drift. The original:
every image decoded every epoch, float32, contiguous maps, built-in pooling and convolutions, plain Adam.
"""

import importlib.util
import json
import math
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import fetch_oxford_iiit_pets as pets
import train
from common import encoder_weights, machine, results, settings
from common.cost import kept_bytes, multiply_adds
from common.files import REPOSITORY
from common.settings import UserError
from common.winograd import PAYS
from dataset import cache
from experiments import charts
from experiments.original import OriginalSegmentation
from experiments.ways import SPINNING, TORCHS, TORCHS_GRADIENTS, TWIN, Job, take_turns
from segnet import SEGNETS, ImageSegmentation, UNet

# What is measured
BATCH_SIZE = 16  # images per step, the original's
REPEATS = 5  # turns of each way, after one that is not counted
SHARES = (0.5, 0.625, 0.75, 1.0)  # of IMAGE_SIZE: where the recipes train that the stopwatch times, see tasks.py
BUSY_TURNS = 20  # of each way in the part "busy"
IMAGES = 512  # per turn of the data path: enough to reach its steady rate
WAYS = ("original", "ours", "ours_float32")  # the last: what ours gives where there is no fast bfloat16
TRIED = ("ours_compiled", "ours_giving_memory_back")  # what was tried and did not pay: torch.compile, plain malloc
PARTS = ("steps", "twin", "data", "start", "tried", "convolutions", "gradients", "busy")  # tables want the first four
GRADIENTS = {  # whose training common/gradients.py makes quicker: network, and what builds it beside its name
    "unet_dsc": ("unet_dsc", {}),
    "segnet_dsc, `KERNEL_SIZE=5`": ("segnet_dsc", {"kernel_size": 5}),
    "segnet_dsc_lite2": ("segnet_dsc_lite2", {"encoder": encoder_weights.LITE2, "skips": True}),
}


def main() -> None:
    settings.check(globals(), {"PARTS": tuple(MEASURES)}, {"REPEATS": (1, math.inf)})
    machine.set_up(train.THREADS)
    if {"data", "start"} & set(PARTS):
        pets.load("trainval")  # makes the cache, so that nobody waits for it below
    if "steps" not in PARTS and not is_alike(read().get(machine.name(), {})):
        raise UserError("benchmark.json has no steps of this machine with these constants; measure them as well")
    entries = list(read().values())
    for part, measure in MEASURES.items():
        if part in PARTS and (found := measure()):
            entries = write(part, found)
    folder = pets.published_folder()
    charts.save_benchmark(folder / "benchmark.png", entries[0])
    charts.save_pooling(folder / "pooling.png")
    print(json.dumps(entries, indent=1))


def steps() -> dict[str, object]:
    """Time and peak memory of a training step and of inference; what a step computes, hands over, and could reach."""
    types = dict.fromkeys(("float32", machine.precision_name("auto")))
    found: dict[str, object] = {"matrix_product_gflops": {name: matrix_product(getattr(torch, name)) for name in types}}
    found["optimizer"] = train.OPTIMIZER  # of ours
    peak: dict[str, object] = {}
    for kind, key in (("train", "train_step_ms"), ("infer", "inference_ms")):
        found[key], peak[kind] = {}, {}
        for network in SEGNETS:
            found[key][network], peak[kind][network] = timed(kind, network, WAYS)
            print(kind, network, ", ".join(f"{w} {ms:.1f} ms" for w, ms in found[key][network].items()), flush=True)
    builtin = OriginalSegmentation(ImageSegmentation()).network
    handing_over = {"segnet_builtin": builtin, "segnet": ImageSegmentation(), "unet": UNet()}
    return found | {
        "peak_memory_mib": peak,
        "kept_bytes_per_image": {name: kept_bytes(net, pets.IMAGE_SIZE) for name, net in handing_over.items()},
        # forward, and twice that backward; a multiply-add is two operations
        "step_gflop_per_image": {
            name: 3 * 2 * multiply_adds(network(), pets.IMAGE_SIZE) / 1e9 for name, network in SEGNETS.items()
        },
    }


def tried() -> dict[str, object]:
    return {
        "tried_train_step_ms": {network: timed("train", network, ("ours", *TRIED))[0] for network in SEGNETS if TRIED}
    }


def convolutions() -> dict[str, object]:
    """SegNet's training step by common/winograd.py or not: ms per image and peak memory in MiB; {} where not used."""
    if not PAYS:
        return {}
    ms, memory = timed("train", "segnet", ("ours_float32", TORCHS))
    return {"convolutions": both(ms, memory)}


def gradients() -> dict[str, object]:
    """Training steps by common/gradients.py or not: ms per image, peak memory in MiB; an encoder's if there is timm.

    {} where it is not used, or for upsampling alone.
    """
    if machine.device().type != "cpu" or not machine.bfloat16_pays():
        return {}
    has_timm = importlib.util.find_spec("timm")
    found = {
        title: both(*timed("train", network, ("ours", TORCHS_GRADIENTS), shape))
        for title, (network, shape) in GRADIENTS.items()
        if has_timm or "encoder" not in shape
    }
    return {"gradients": found}


def busy() -> dict[str, object]:
    """A separable step at half the size, alone and beside a program on each core, by how threads wait; {} on a GPU.

    Mean ms per image: a few turns take many times as long as the others.
    """
    if machine.device().type != "cpu":
        return {}
    half = job("train", "segnet_dsc")
    half = half._replace(data=half.data | {"IMAGE_SIZE": pets.IMAGE_SIZE // 2})

    def measured() -> dict[str, float]:
        turns, _ = take_turns(half, ("ours", SPINNING), BUSY_TURNS)
        return {way: 1000 * statistics.mean(seconds) / BATCH_SIZE for way, seconds in turns.items()}

    alone = measured()
    spawn = multiprocessing.get_context("spawn")
    others = [spawn.Process(target=never_rest, daemon=True) for _ in range(machine.usable_cores())]
    for other in others:
        other.start()
    beside = measured()
    for other in others:
        other.kill()
    return {"busy": {"alone": alone, "beside others": beside}}


def never_rest() -> None:
    while True:
        pass


def both(ms: dict[str, float], memory: dict[str, int]) -> dict[str, dict[str, float]]:
    return {way: {"ms": ms[way], "peak_mib": memory[way]} for way in ms}


def twin() -> dict[str, object]:
    """Milliseconds per image and peak memory in MiB, of SegNet ("ours") and of its U-Net twin ("unet")."""
    found: dict[str, dict] = {}
    for kind in ("train", "infer"):
        for network in SEGNETS:
            found.setdefault(kind, {})[network] = both(*timed(kind, network, ("ours", TWIN)))
    return {"unet_twin": found | {"quick_gradients": True}}  # the U-Net's too; older entries lack them


def data() -> dict[str, object]:
    """Images per second that come out of either way's data path; seconds in which ours decodes them, once for all."""
    turns, _ = take_turns(job("data", "segnet"), WAYS[:2], REPEATS)
    sizes = [round(share * pets.IMAGE_SIZE) for share in SHARES]
    return {
        "data_images_per_second": {way: IMAGES / statistics.median(s) for way, s in turns.items()},
        "decode_seconds": {str(size): statistics.median(decode(size) for _ in range(REPEATS)) for size in sizes},
    }


def decode(size: int) -> float:
    """Seconds in which all training images are decoded to a size, as the first training at that size has to."""
    folder = pets.data_folder()
    with tempfile.TemporaryDirectory(dir=pets.outputs_folder()) as cached:
        start = time.perf_counter()
        cache.load(folder, "trainval", size, Path(cached))
        return time.perf_counter() - start


def starting() -> dict[str, object]:
    return {"start_to_first_step_seconds": statistics.median(start_to_first_step() for _ in range(REPEATS))}


MEASURES = {"steps": steps, "twin": twin, "data": data, "start": starting, "tried": tried,
            "convolutions": convolutions, "gradients": gradients, "busy": busy}  # fmt: skip


def timed(
    kind: str, network: str, ways: tuple[str, ...], shape: dict[str, object] | None = None
) -> tuple[dict[str, float], dict[str, int]]:
    """Milliseconds per image, medians of turns, and peak memory in MiB, both by way."""
    turns, memory = take_turns(job(kind, network, shape), ways, REPEATS)
    return {way: 1000 * statistics.median(seconds) / BATCH_SIZE for way, seconds in turns.items()}, memory


def job(kind: str, network: str, shape: dict[str, object] | None = None) -> Job:
    return Job(kind, network, BATCH_SIZE, IMAGES, data_constants(), shape or {})


def data_constants() -> dict[str, object]:
    return {name: getattr(pets, name) for name in ("DATASET", "DATA_ROOT", "OUTPUTS", "IMAGE_SIZE")}


def matrix_product(dtype: torch.dtype, side: int = 4096) -> float:
    """GFLOP/s of a square matrix product: the machine's practical ceiling."""
    a, b = (torch.randn(side, side, device=machine.device()).to(dtype) for _ in range(2))

    def once() -> float:
        start = time.perf_counter()
        (a @ b)[0, 0].item()
        return time.perf_counter() - start

    once()
    return 2 * side**3 / statistics.median(once() for _ in range(3)) / 1e9


def start_to_first_step() -> float:
    """Seconds from `python train.py` to the end of its first step, with the cache made."""
    data = [f"{name}={value}" for name, value in data_constants().items()]
    command = [sys.executable, str(REPOSITORY / "train.py"), *data, "RUN=benchmark-start", "NETWORKS=segnet_dsc"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        printed = b""
        while b"loss=" not in printed:  # the progress bar's first word of a loss
            byte = os.read(process.stderr.fileno(), 4096)
            if not byte:
                raise UserError(f"train.py ended before its first step: {printed.decode()[-300:]}")
            printed += byte
        seconds = time.perf_counter() - start
        process.kill()
    shutil.rmtree(pets.outputs_folder() / "benchmark-start", ignore_errors=True)
    return seconds


def write(part: str, found: dict[str, object]) -> list[dict]:
    """Puts a part's results in this machine's entry of benchmark.json; returns all entries, one per kind of machine."""
    about = machine.about() | constants()
    entries = read()
    old = entries.get(about["machine"], {})
    if part == "steps":
        old = old | about if is_alike(old) else about
    measured = old.get("measured", {}) | {part: {name: about[name] for name in ("commit", "command")}}
    entries[about["machine"]] = old | found | {"measured": measured}
    results.write_json(pets.published_folder() / "benchmark.json", list(entries.values()))
    return list(entries.values())


def constants() -> dict[str, object]:
    """What all parts of an entry have in common."""
    return {"version": results.VERSION, "data": pets.data_name(), "precision": machine.precision_name("auto"),
            "batch_size": BATCH_SIZE, "image_size": pets.IMAGE_SIZE, "repeats": REPEATS,
            "threads": torch.get_num_threads()}  # fmt: skip


def is_alike(entry: dict) -> bool:
    return constants().items() <= entry.items() and entry.get("optimizer", "adamw") == train.OPTIMIZER


def read() -> dict[str, dict]:
    """The entries that there are, by machine."""
    return {entry["machine"]: entry for entry in results.json_of("benchmark.json", pets.published_folder()) or ()}


if __name__ == "__main__":
    settings.run(main, pets)
