"""Training steps of one process, or of ranks, timed: what ranks.py and scale.py start. The first rank prints JSON.

python -m experiments.rank_steps NETWORKS=segnet STEPS=30
torchrun --nproc-per-node=2 -m experiments.rank_steps THREADS=1
"""

import itertools
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

import fetch_oxford_iiit_pets as pets
import train
from common import distributed, machine, training
from dataset import augment
from dataset.batches import all_of, batches
from dataset.cache import Split
from segnet import NETWORKS

STEPS = 30  # that are timed; 0: images are loaded, no more
UNTIMED = 5  # steps before them
WHOLE_PASS = False  # True: also a pass over all images without a step


def main() -> None:
    distributed.check_batch(train.BATCH_SIZE)
    machine.set_up(train.THREADS)
    start = time.perf_counter()
    split = pets.load("trainval")
    found: dict[str, object] = {"load_seconds": time.perf_counter() - start, "images": len(split.images)}
    if STEPS:
        found |= steps_on(split)
    if WHOLE_PASS:
        found["pass_seconds"] = seconds_of(batches(all_of(split), train.BATCH_SIZE, torch.Generator().manual_seed(1)))
    found["memory_mib"] = distributed.gather([memory_mib()])
    print(json.dumps(found))


def steps_on(split: Split) -> dict[str, object]:
    """Images per second of all ranks together, when the first step had ended, and what gradients cost to average."""
    torch.manual_seed(0)
    network = NETWORKS[train.NETWORKS[0]]().to(machine.device(), memory_format=torch.channels_last)
    optimizer, learner = train.make_optimizer(network), distributed.together(network).train()
    endless = forever(split)
    take(1, endless, learner, optimizer)
    first_step_at = time.time()
    take(UNTIMED, endless, learner, optimizer)
    start = time.perf_counter()
    take(STEPS, endless, learner, optimizer)
    rate = STEPS * train.BATCH_SIZE / (time.perf_counter() - start)
    numbers = sum(parameter.numel() for parameter in network.parameters())
    found = {"first_step_at": first_step_at, "images_per_second": rate, "parameters": numbers}
    return found | ({"all_reduce_ms": all_reduce_ms(numbers)} if distributed.ranks() > 1 else {})


def take(steps: int, endless: Iterator, learner: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Steps as train.py takes them, with what ranks ask each other before each, and losses that are read."""
    dtype = machine.precision(train.PRECISION)

    def step(images: Tensor, trimaps: Tensor) -> Tensor:
        return train.train_step(learner, optimizer, images, trimaps, train.LOSS, dtype)

    some = itertools.islice(endless, steps)
    training.train_steps(step, some, steps, optimizer, lambda _: train.LEARNING_RATE / 10, 1, train.CHECK_EVERY)


def forever(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(0)
    while True:
        yield from batches(all_of(split), train.BATCH_SIZE, random)


def seconds_of(every: Iterator[tuple[Tensor, Tensor]]) -> float:
    start = time.perf_counter()
    for images, _ in every:
        images[0, 0, 0, 0].item()  # an accelerator would go on by itself
    return time.perf_counter() - start


def all_reduce_ms(numbers: int, turns: int = 7) -> float:
    """The median of what one average of so many float32 takes when all ranks begin at the same time."""
    tensor, seconds = torch.zeros(numbers, device=machine.device()), []
    for _ in range(turns):
        distributed.wait_for_all()
        start = time.perf_counter()
        dist.all_reduce(tensor)
        tensor[0].item()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


def memory_mib() -> dict[str, int]:
    """Of this process: its own, which it keeps, and what it has of mapped files, which the system may take back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    of = {
        name: int(rest.split()[0]) >> 10 for name, _, rest in (line.partition(":") for line in lines) if " kB" in rest
    }
    return {"own": of["RssAnon"], "mapped": of["RssFile"]}


if __name__ == "__main__":
    distributed.run(main, pets, train, augment)
