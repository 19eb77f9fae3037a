"""The ways of training that the benchmark compares, each in a process of its own that takes its turn when told to."""

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
from torch import Tensor, nn

import fetch_oxford_iiit_pets as pets
import pretrained
import train
from common import SPINS, gradients, machine
from common.recorded import WARM_UP, Recorded, can_record
from common.winograd import use_torchs
from dataset.batches import all_of, batches
from experiments.original import OriginalPets, OriginalSegmentation
from segnet import SEGNETS

TWIN = "unet"  # a way: the same widths and the same step, but whole maps are handed to the decoder
TORCHS = "torchs_float32"  # a way: ours in float32, but by torch's own convolutions
SPINNING = "ours_spinning"  # a way: ours, but threads wait for each other as GNU OpenMP has them
TORCHS_GRADIENTS = "torchs_gradients"  # a way: ours, but by none of the gradients of common/gradients.py
IN_FLOAT32 = ("original", "ours_float32", TORCHS)


class Job(NamedTuple):
    """What is measured in each way; a worker is a new process, so all that it needs is in here."""

    kind: str  # "train", "infer" or "data"
    network: str  # as pretrained.full_name says it
    batch_size: int
    images: int  # per turn of the data path
    data: dict[str, object]  # constants of fetch_oxford_iiit_pets.py
    shape: dict[str, object]  # what builds the network, beside its name


def take_turns(job: Job, ways: tuple[str, ...], repeats: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of each turn and peak memory in MiB, both by way; the first turn of each is not counted."""
    spawn = multiprocessing.get_context("spawn")
    workers, usual = {}, os.environ["GOMP_SPINCOUNT"]
    for way in ways:
        here, there = spawn.Pipe()
        os.environ["GOMP_SPINCOUNT"] = "300000" if way == SPINNING else SPINS
        spawn.Process(target=work, args=(job, way, there), daemon=True).start()
        there.close()  # so that a worker that dies is noticed
        workers[way] = here
    os.environ["GOMP_SPINCOUNT"] = usual
    seconds: dict[str, list[float]] = {way: [] for way in workers}
    for turn in range(1 + repeats):
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


def work(job: Job, way: str, pipe: Connection) -> None:
    """A process that takes its turn when it is told to; its last answer is its peak memory in MiB."""
    for name, value in job.data.items():
        setattr(pets, name, value)
    if way in ("original", "ours_giving_memory_back"):
        machine.set_threads(train.THREADS)
    else:
        machine.set_up(train.THREADS)
    turn = {"train": training, "infer": inference, "data": data_path}[job.kind](job, way)
    while pipe.recv() == "go":
        turn()  # not counted: caches are cold after the others' turns, as they never are in training
        start = time.perf_counter()
        turn()
        pipe.send(time.perf_counter() - start)
    pipe.send(machine.peak_memory_mib())


def prepared(job: Job, way: str) -> tuple[nn.Module, torch.dtype, Tensor, Tensor]:
    """A network, its precision, and a batch."""
    torch.manual_seed(0)
    layout = torch.contiguous_format if way == "original" else torch.channels_last
    if way == "original":
        net = OriginalSegmentation(SEGNETS[job.network](head="original"))
    else:
        net = pretrained.build(job.network.replace("segnet", TWIN) if way == TWIN else job.network, **job.shape)
    if way == TORCHS:
        use_torchs(net)
    gradients.QUICK = way != TORCHS_GRADIENTS
    images = torch.rand(job.batch_size, 3, pets.IMAGE_SIZE, pets.IMAGE_SIZE)
    trimaps = torch.randint(0, 3, (job.batch_size, 1, pets.IMAGE_SIZE, pets.IMAGE_SIZE))
    dtype = machine.precision("float32" if way in IN_FLOAT32 else "auto")
    device = machine.device()
    return net.to(device, memory_format=layout), dtype, images.to(device, memory_format=layout), trimaps.to(device)


def training(job: Job, way: str) -> Callable[[], object]:
    net, dtype, images, trimaps = prepared(job, way)
    if way == "ours_compiled":
        net.compile()
    train.PRECISION = str(dtype).removeprefix("torch.")  # Muon's products too
    train.ENCODER = job.shape.get("encoder", "")
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    optimizer = adam if way == "original" else train.make_optimizer(net)

    def plain(*batch: Tensor) -> Tensor:
        return train.train_step(net, optimizer, *batch, "ce", dtype)

    step = plain if way == "original" else Recorded(plain)  # as train.py takes them
    for _ in range(WARM_UP + 1 if can_record() else 0):  # so that no turn has to record
        step(images, trimaps)
    return lambda: step(images, trimaps).item()


def inference(job: Job, way: str) -> Callable[[], object]:
    net, dtype, images, _ = prepared(job, way)
    net.eval()

    @torch.inference_mode()
    def turn() -> Tensor:
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            return net(images).argmax(1).cpu()

    return turn


def data_path(job: Job, way: str) -> Callable[[], object]:
    """A turn prepares `job.images` augmented images for training."""
    if way == "original":
        files = OriginalPets(pets.data_folder().parent, pets.IMAGE_SIZE)

        def original() -> None:
            chosen = torch.randint(0, len(files), (job.images,)).tolist()
            for start in range(0, job.images, job.batch_size):
                torch.utils.data.default_collate([files[i] for i in chosen[start : start + job.batch_size]])

        return original
    part, random = all_of(pets.load("trainval")), torch.Generator().manual_seed(0)
    every = batches(part, job.batch_size, random)

    def ours() -> None:
        nonlocal every
        for _ in range(job.images // job.batch_size):
            batch = next(every, None)
            if batch is None:  # an epoch's end
                every = batches(part, job.batch_size, random)
                batch = next(every)
        batch[0].sum().item()  # a GPU would go on by itself

    return ours
