"""Measures the original's way of training SegNet against this project's, on the machine at hand.

    python -m experiments.benchmark                          a few minutes, with the machine to itself
    python -m experiments.benchmark DATASET=toy REPEATS=1    on the toy data, to see how it works
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python -m experiments.benchmark      as on a machine with AVX2

The two ways take turns, each in a process of its own, and medians are compared: machines drift. The original:
every image decoded every epoch, float32, contiguous maps, built-in pooling, plain Adam.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time

import torch

import fetch_oxford_iiit_pets as pets
import train
from common import machine, results, settings
from common.cost import kept_bytes, multiply_adds
from common.files import REPOSITORY, write_atomically
from experiments import charts
from experiments.original import OriginalSegmentation
from experiments.ways import TWIN, Job, take_turns
from segnet import SEGNETS, ImageSegmentation, UNet

# What is measured
BATCH_SIZE = 16  # images per step, the original's
REPEATS = 5  # turns of each way, after one that is not counted
IMAGES = 512  # per turn of the data path: enough to reach its steady rate
WAYS = ("original", "ours", "ours_float32")  # the last: what ours gives where there is no fast bfloat16
TRIED = ("ours_compiled", "ours_giving_memory_back")  # what was tried and did not pay: torch.compile, plain malloc


def main() -> None:
    machine.set_up(train.THREADS)
    pets.load("trainval")  # makes the cache, so that nobody waits for it below
    result: dict[str, object] = {
        **machine.about(),
        "version": results.VERSION,
        "data": pets.data_name(),
        "precision": machine.precision_name("auto"),
        "batch_size": BATCH_SIZE,
        "image_size": pets.IMAGE_SIZE,
        "repeats": REPEATS,
    }
    result["matrix_product_gflops"] = {t: matrix_product(getattr(torch, t)) for t in {"float32", result["precision"]}}
    peak: dict[str, object] = {}
    for kind, key in (("train", "train_step_ms"), ("infer", "inference_ms")):
        result[key], result[f"{key}_fastest"], peak[kind] = {}, {}, {}
        for network in SEGNETS:
            turns, memory = take_turns(job(kind, network), WAYS, REPEATS)
            per_image = {way: [1000 * s / BATCH_SIZE for s in seconds] for way, seconds in turns.items()}
            result[key][network] = {way: statistics.median(ms) for way, ms in per_image.items()}
            result[f"{key}_fastest"][network] = {way: min(ms) for way, ms in per_image.items()}
            peak[kind][network] = memory
            print(kind, network, ", ".join(f"{w} {ms:.1f} ms" for w, ms in result[key][network].items()), flush=True)
    result["tried_train_step_ms"] = {}
    for network in SEGNETS if TRIED else ():
        turns, _ = take_turns(job("train", network), ("ours", *TRIED), REPEATS)
        result["tried_train_step_ms"][network] = {w: 1000 * statistics.median(s) / BATCH_SIZE for w, s in turns.items()}
    result["unet_twin"] = {kind: {network: against_twin(kind, network) for network in SEGNETS} for kind in peak}
    turns, _ = take_turns(job("data", "segnet"), WAYS[:2], REPEATS)
    result["data_images_per_second"] = {way: IMAGES / statistics.median(s) for way, s in turns.items()}
    data_ms = 1000 / result["data_images_per_second"]["ours"]
    result["data_share_of_step"] = {name: data_ms / by_way["ours"] for name, by_way in result["train_step_ms"].items()}
    result["peak_memory_mib"] = peak
    builtin = OriginalSegmentation(ImageSegmentation()).network
    handing_over = {"segnet_builtin": builtin, "segnet": ImageSegmentation(), "unet": UNet()}
    result["kept_bytes_per_image"] = {name: kept_bytes(net, pets.IMAGE_SIZE) for name, net in handing_over.items()}
    # forward, and twice that backward; a multiply-add is two operations
    step_gflop = {name: 3 * 2 * multiply_adds(network(), pets.IMAGE_SIZE) / 1e9 for name, network in SEGNETS.items()}
    result["step_gflop_per_image"] = step_gflop
    result["share_of_matrix_product"] = share_of_ceiling(result)
    result["start_to_first_step_seconds"] = statistics.median(start_to_first_step() for _ in range(3))
    write(result)


def job(kind: str, network: str) -> Job:
    return Job(kind, network, BATCH_SIZE, IMAGES, data_constants())


def data_constants() -> dict[str, object]:
    return {name: getattr(pets, name) for name in ("DATASET", "DATA_ROOT", "OUTPUTS", "IMAGE_SIZE")}


def against_twin(kind: str, network: str) -> dict[str, dict[str, float]]:
    """Milliseconds per image and peak memory in MiB, of SegNet ("ours") and of its U-Net twin ("unet")."""
    turns, memory = take_turns(job(kind, network), ("ours", TWIN), REPEATS)
    return {w: {"ms": 1000 * statistics.median(s) / BATCH_SIZE, "peak_mib": memory[w]} for w, s in turns.items()}


def share_of_ceiling(result: dict) -> dict[str, dict[str, float]]:
    """How much of the rate of a matrix product in the same precision each way's training step reaches."""
    precision = {"original": "float32", "ours": result["precision"], "ours_float32": "float32"}
    return {
        network: {
            way: result["step_gflop_per_image"][network] / (ms / 1000) / result["matrix_product_gflops"][precision[way]]
            for way, ms in by_way.items()
        }
        for network, by_way in result["train_step_ms"].items()
    }


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
                raise settings.UserError(f"train.py ended before its first step: {printed.decode()[-300:]}")
            printed += byte
        seconds = time.perf_counter() - start
        process.kill()
    shutil.rmtree(pets.outputs_folder() / "benchmark-start", ignore_errors=True)
    return seconds


def write(result: dict[str, object]) -> None:
    """Puts the result in the place of this machine's earlier one, in a list with an entry for each kind of machine."""
    folder = pets.published_folder()
    path = folder / "benchmark.json"
    entries = {entry["machine"]: entry for entry in (json.loads(path.read_text()) if path.exists() else [])}
    entries[result["machine"]] = result
    written = json.dumps(list(entries.values()), indent=1)
    write_atomically(path, lambda part: part.write_text(written + "\n"))
    charts.save_benchmark(folder / "benchmark.png", next(iter(entries.values())))
    charts.save_pooling(folder / "pooling.png")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    settings.run(main, pets)
