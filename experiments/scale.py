"""What a larger set costs: start, a pass, steps and memory at 1, 10 and 30 times Oxford-IIIT Pets' 3,680 images.

    python -m experiments.scale                 with the machine to itself; outputs/published/scale.json

The set is made of drawn pets, each listed under many names, in a folder that is removed; its cache of 110,400 images at
128 px takes 7.2 GB.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

import fetch_oxford_iiit_pets as pets
from common import machine, results, settings
from common.settings import UserError
from dataset import cache
from dataset.drawn_pets import draw_pet
from dataset.toy_pets import TOY_BREEDS
from experiments import ranks

TIMES = (1, 10, 30)  # as many images as the training split has
DRAWN = 240  # different drawings among them
STEPS = 40  # timed
RANKS = 2
DECODED = 2000  # images, by threads and by processes

UNIT = 3680  # images


def main() -> None:
    published, folder = pets.published_folder(), pets.outputs_folder().resolve() / "scale"
    shutil.rmtree(folder, ignore_errors=True)  # of one that was stopped
    folder.mkdir(parents=True)
    room, needed = shutil.disk_usage(folder).free, max(TIMES) * UNIT * 4 * pets.IMAGE_SIZE**2
    if room < 1.1 * needed:
        raise UserError(f"{folder} needs {1.1 * needed / 1e9:.1f} GB, and there are {room / 1e9:.1f}")
    pets.OUTPUTS = str(folder)
    try:
        result = {"image_size": pets.IMAGE_SIZE, "ranks": RANKS, "steps": STEPS,
                  **machine.about(), "decoding": decoding(), "sets": [measured(n * UNIT) for n in TIMES]}  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results.write_json(published / "scale.json", result)


def made(images: int) -> Path:
    """A DATA_ROOT with so many images in trainval.txt, each a link to one of the drawings."""
    root = Path(pets.OUTPUTS) / f"data-{images}"
    folder, random = root / "oxford-iiit-pet", np.random.default_rng(0)
    for part in ("images", "annotations/trimaps", "drawn"):
        (folder / part).mkdir(parents=True)
    for i in range(DRAWN):
        image, trimap = draw_pet(random, TOY_BREEDS[i % len(TOY_BREEDS)])
        image.save(folder / f"drawn/{i}.jpg", quality=92)
        trimap.save(folder / f"drawn/{i}.png")
    with open(folder / "annotations" / "trainval.txt", "w") as listing:
        for i in range(images):
            os.link(folder / f"drawn/{i % DRAWN}.jpg", folder / f"images/Pet_{i}.jpg")
            os.link(folder / f"drawn/{i % DRAWN}.png", folder / f"annotations/trimaps/Pet_{i}.png")
            listing.write(f"Pet_{i} {i % 37 + 1} {i % 2 + 1} 1\n")
    return root


def measured(images: int) -> dict[str, object]:
    """All costs of a set; its cache is made first, and dropped from memory before the pass."""
    pets.DATASET, pets.DATA_ROOT = "oxford-iiit-pet", str(made(images))
    size = f"IMAGE_SIZE={pets.IMAGE_SIZE}"
    first = ranks.timed(1, size, "STEPS=0")
    found: dict[str, object] = {"images": images, "decode_seconds": first["load_seconds"],
                                "decode_memory_mib": first["memory_mib"][0]}  # fmt: skip
    for name, n in (("one", 1), ("ranks", RANKS)):
        drop(Path(pets.OUTPUTS) / "cache" / f"trainval-{pets.IMAGE_SIZE}.bin")
        begin = time.time()
        of = ranks.timed(n, size, f"STEPS={STEPS}", "WHOLE_PASS=True", "NETWORKS=segnet_dsc")
        found[name] = of | {"start_seconds": of["first_step_at"] - begin}
        print(images, name, json.dumps(found[name]), flush=True)
    shutil.rmtree(Path(pets.OUTPUTS))
    return found


def drop(path: Path) -> None:
    """Has the system forget what it keeps of a file in memory."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def decoding() -> dict[str, float]:
    """Images per second that are decoded by one thread, by as many threads as there are cores, and by processes."""
    pets.DATASET, pets.DATA_ROOT = "oxford-iiit-pet", str(made(DECODED))
    pairs, cores = cache.read_list(pets.data_folder(), "trainval"), machine.usable_cores()
    ways: dict[str, Callable[[], Executor]] = {
        "one thread": lambda: ThreadPoolExecutor(1),
        f"{cores} threads": lambda: ThreadPoolExecutor(cores),
        f"{cores} processes": lambda: ProcessPoolExecutor(cores, get_context("spawn"), torch.set_num_threads, (1,)),
    }
    rates, kept = {}, torch.get_num_threads()
    torch.set_num_threads(1)
    for way, make in ways.items():
        with make() as pool:
            list(pool.map(Decode(pets.data_folder(), pets.IMAGE_SIZE), pairs[:64]))  # processes begin with imports
            start = time.perf_counter()
            list(pool.map(Decode(pets.data_folder(), pets.IMAGE_SIZE), pairs, chunksize=16))
            rates[way] = len(pairs) / (time.perf_counter() - start)
    torch.set_num_threads(kept)
    shutil.rmtree(Path(pets.OUTPUTS))
    return rates


class Decode:
    """cache.decode with its folder and size, which goes into another process as well."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size

    def __call__(self, pair: cache.Pair) -> int:
        return cache.decode(self.folder, pair, self.size)[0].numel()


if __name__ == "__main__":
    settings.run(main, pets)
