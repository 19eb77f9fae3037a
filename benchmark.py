"""Measures the original's way of training SegNet against this project's, on the machine at hand.

    python benchmark.py                          on the data in DATA_ROOT; a few minutes, with the machine to itself
    python benchmark.py DATASET=toy REPEATS=1    a look at how it works

The two ways take turns, each in a process of its own, and medians are compared: machines drift. The original:
every photograph decoded every epoch, float32, contiguous maps, built-in pooling, plain Adam.
"""

import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn

import charts
import fetch_oxford_iiit_pets as pets
import machine
import settings
import tables
import train
from batches import batches
from cost import kept_bytes, multiply_adds
from files import write_atomically
from original import OriginalPets, OriginalSegmentation, builtin_down
from segnet import NETWORKS, SEGNETS, ImageSegmentation, UNet

# What is measured
BATCH_SIZE = 16  # photographs a step, the original's
REPEATS = 5  # turns of each way, after one that is not counted
PHOTOGRAPHS = 512  # in a turn of the data path: enough to be in its stride
WAYS = ("original", "ours", "ours_float32")  # the last: what ours gives where there is no fast bfloat16
TRIED = ("ours_compiled", "ours_giving_memory_back")  # what was tried and did not pay: torch.compile, plain malloc

TWIN = "unet"  # the same widths and the same step, but whole maps are handed to the decoder

# The separable network's after 5 epochs of the original recipe on these data, means over batches of 16
QUALITY = {"pixel_accuracy": 0.8540, "iou": 0.6861, "custom_iou": 0.6001}


def main() -> None:
    machine.set_up(train.THREADS)
    pets.load("trainval")  # makes the cache, so that nobody waits for it below
    result: dict[str, object] = {
        **machine.about(),
        "data": pets.data_name(),
        "precision": str(machine.precision("auto")).removeprefix("torch."),
        "batch_size": BATCH_SIZE,
        "image_size": pets.IMAGE_SIZE,
        "repeats": REPEATS,
    }
    result["matrix_product_gflops"] = {t: matrix_product(getattr(torch, t)) for t in {"float32", result["precision"]}}
    peak: dict[str, object] = {}
    for kind, key in (("train", "train_step_ms"), ("infer", "inference_ms")):
        result[key], result[f"{key}_fastest"], peak[kind] = {}, {}, {}
        for network in SEGNETS:
            turns, memory = take_turns(kind, network, WAYS)
            per_photograph = {way: [1000 * s / BATCH_SIZE for s in seconds] for way, seconds in turns.items()}
            result[key][network] = {way: statistics.median(ms) for way, ms in per_photograph.items()}
            result[f"{key}_fastest"][network] = {way: min(ms) for way, ms in per_photograph.items()}
            peak[kind][network] = memory
            print(kind, network, ", ".join(f"{w} {ms:.1f} ms" for w, ms in result[key][network].items()), flush=True)
    result["tried_train_step_ms"] = {}
    for network in SEGNETS if TRIED else ():
        turns, _ = take_turns("train", network, ("ours", *TRIED))
        result["tried_train_step_ms"][network] = {w: 1000 * statistics.median(s) / BATCH_SIZE for w, s in turns.items()}
    result["unet_twin"] = {kind: {network: against_twin(kind, network) for network in SEGNETS} for kind in peak}
    turns, _ = take_turns("data", "segnet", WAYS[:2])
    result["data_images_per_second"] = {way: PHOTOGRAPHS / statistics.median(s) for way, s in turns.items()}
    data_ms = 1000 / result["data_images_per_second"]["ours"]
    result["data_share_of_step"] = {name: data_ms / by_way["ours"] for name, by_way in result["train_step_ms"].items()}
    result["peak_memory_mib"] = peak
    handing_over = {"segnet_builtin": ImageSegmentation(), "segnet": ImageSegmentation(), "unet": UNet()}
    handing_over["segnet_builtin"].down = builtin_down
    result["kept_bytes_per_image"] = {name: kept_bytes(net, pets.IMAGE_SIZE) for name, net in handing_over.items()}
    # forward, and twice that backward; a multiply-add is two operations
    step_gflop = {name: 3 * 2 * multiply_adds(network(), pets.IMAGE_SIZE) / 1e9 for name, network in SEGNETS.items()}
    result["step_gflop_per_image"] = step_gflop
    result["share_of_matrix_product"] = share_of_ceiling(result)
    result["start_to_first_step_seconds"] = statistics.median(start_to_first_step() for _ in range(3))
    result["time_to_quality_seconds"] = {network: time_to_quality(network, result) for network in SEGNETS}
    write(result)


def against_twin(kind: str, network: str) -> dict[str, dict[str, float]]:
    """Milliseconds a photograph and peak memory in MiB, of SegNet ("ours") and of its U-Net twin ("unet")."""
    turns, memory = take_turns(kind, network, ("ours", TWIN))
    return {w: {"ms": 1000 * statistics.median(s) / BATCH_SIZE, "peak_mib": memory[w]} for w, s in turns.items()}


def take_turns(kind: str, network: str, ways: tuple[str, ...]) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of each turn and peak memory in MiB, both by way."""
    spawn = multiprocessing.get_context("spawn")
    workers = {}
    for way in ways:
        here, there = spawn.Pipe()
        spawn.Process(target=work, args=(kind, network, way, there), daemon=True).start()
        there.close()  # so that a worker that dies is noticed
        workers[way] = here
    seconds: dict[str, list[float]] = {way: [] for way in workers}
    for turn in range(1 + REPEATS):
        for way, pipe in workers.items():
            pipe.send("go")
            if turn >= 1:
                seconds[way].append(pipe.recv())
            else:
                pipe.recv()
    peaks = {}
    for way, pipe in workers.items():
        pipe.send("stop")
        peaks[way] = pipe.recv()
    return seconds, peaks


def work(kind: str, network: str, way: str, pipe: Connection) -> None:
    """A process that takes its turn when it is told to; its last answer is its peak memory in MiB."""
    settings.set_from_command_line(sys.modules[__name__], pets)  # a new process has the same command line
    if way in ("original", "ours_giving_memory_back"):
        machine.set_threads(train.THREADS)
    else:
        machine.set_up(train.THREADS)
    train.LOSS = "ce"  # for all of them: the original's
    turn = {"train": training, "infer": inference, "data": data_path}[kind](network, way)
    while pipe.recv() == "go":
        turn()  # not counted: caches are cold after the others' turns, as they never are in training
        start = time.perf_counter()
        turn()
        pipe.send(time.perf_counter() - start)
    pipe.send(machine.peak_memory_mib())


def prepared(network: str, way: str) -> tuple[nn.Module, torch.dtype, Tensor, Tensor]:
    """A network, its precision, and a batch."""
    torch.manual_seed(0)
    layout = torch.contiguous_format if way == "original" else torch.channels_last
    if way == "original":
        net = OriginalSegmentation(SEGNETS[network](head="original"))
    else:
        net = NETWORKS[network.replace("segnet", TWIN) if way == TWIN else network]()
    images = torch.rand(BATCH_SIZE, 3, pets.IMAGE_SIZE, pets.IMAGE_SIZE)
    trimaps = torch.randint(0, 3, (BATCH_SIZE, 1, pets.IMAGE_SIZE, pets.IMAGE_SIZE))
    dtype = machine.precision("float32" if way in ("original", "ours_float32") else "auto")
    device = machine.device()
    return net.to(device, memory_format=layout), dtype, images.to(device, memory_format=layout), trimaps.to(device)


def training(network: str, way: str) -> Callable[[], object]:
    net, dtype, images, trimaps = prepared(network, way)
    if way == "ours_compiled":
        net.compile()
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    optimizer = adam if way == "original" else train.make_optimizer(net)
    return lambda: train.train_step(net, optimizer, images, trimaps, dtype).item()


def inference(network: str, way: str) -> Callable[[], object]:
    net, dtype, images, _ = prepared(network, way)
    net.eval()

    @torch.inference_mode()
    def turn() -> Tensor:
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            return net(images).argmax(1).cpu()

    return turn


def data_path(_: str, way: str) -> Callable[[], object]:
    """A turn prepares PHOTOGRAPHS augmented photographs for training."""
    if way != "original":
        split, random = pets.load("trainval"), torch.Generator().manual_seed(0)
        every = batches(split, BATCH_SIZE, random)

        def ours() -> None:
            nonlocal every
            for _ in range(PHOTOGRAPHS // BATCH_SIZE):
                batch = next(every, None)
                if batch is None:  # an epoch's end
                    every = batches(split, BATCH_SIZE, random)
                    batch = next(every)
            batch[0].sum().item()  # a GPU would go on by itself

        return ours
    photographs = OriginalPets(pets.data_folder().parent, pets.IMAGE_SIZE)

    def original() -> None:
        chosen = torch.randint(0, len(photographs), (PHOTOGRAPHS,)).tolist()
        for start in range(0, PHOTOGRAPHS, BATCH_SIZE):
            torch.utils.data.default_collate([photographs[i] for i in chosen[start : start + BATCH_SIZE]])

    return original


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
    data = [f"{name}={getattr(pets, name)}" for name in ("DATASET", "DATA_ROOT", "OUTPUTS", "IMAGE_SIZE")]
    script = str(Path(__file__).with_name("train.py"))
    command = [sys.executable, script, *data, "RUN=benchmark-start", "NETWORKS=segnet_dsc"]
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


def time_to_quality(network: str, result: dict) -> dict[str, float | None]:
    """Seconds of the original's 5 epochs, from what a photograph costs it, and of our fastest run as good as they.

    Ours is from a published row, with the start of the process; None if no row of these data on this machine is that
    good, by the original's own protocol.
    """
    photographs = len(pets.load("trainval").images)
    original_ms = result["train_step_ms"][network]["original"] + 1000 / result["data_images_per_second"]["original"]
    same = {"network": network, "machine": result["machine"], "data": result["data"]}
    rows = [row for row in tables.rows(pets.published_folder()) if same.items() <= row.items()]
    good = [row for row in rows if all(row["batch_mean"][name] >= least for name, least in QUALITY.items())]
    here = [row["train_seconds"] for row in good]
    ours = min(here) + result["start_to_first_step_seconds"] if here else None
    return {"original": 5 * photographs * original_ms / 1000, "ours": ours}


def write(result: dict[str, object]) -> None:
    folder = pets.published_folder()
    write_atomically(folder / "benchmark.json", lambda part: part.write_text(json.dumps(result, indent=1) + "\n"))
    charts.save_benchmark(folder / "benchmark.png", result)
    charts.save_pooling(folder / "pooling.png")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    settings.run(main, pets)
