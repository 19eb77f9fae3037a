"""Does the fast step learn the same? One epoch by the original's step and by ours, from the same seed.

    python agreement.py DATA_ROOT=/data         a few minutes; writes outputs/published/agreement.json

Both train the separable network at 64 px with the same photographs, flips and jitter in the same order, at the
original's batch size and rate. The original's step: float32, contiguous maps, built-in pooling. Both are judged on
the validation tenth, in float32.
"""

import json
from pathlib import Path

import torch

import fetch_oxford_iiit_pets as pets
import machine
import metrics
import settings
import train
from batches import divide, resized
from evaluate import evaluate
from files import write_atomically
from original import OriginalSegmentation
from segnet import NETWORKS

SEEDS = (0, 1, 2)
SIZE = 64  # px a side
THREADS = 0  # 0: one a core
JSON = "outputs/published/agreement.json"


def main() -> None:
    machine.set_up(THREADS)
    train.EPOCHS, train.LOSS, train.BATCH_SIZE, train.LEARNING_RATE = (1, 2), "ce", 16, 1e-3
    parts = divide(pets.load("trainval"), 0.1, 1.0)
    train_set, validation_set = (resized(part, SIZE) for part in parts)
    accuracies: dict[str, list[float]] = {"original": [], "ours": []}
    for seed in SEEDS:
        for way, found in accuracies.items():
            found.append(train_once(way, seed, train_set, validation_set))
            print(f"seed {seed}, {way}: validation pixel accuracy {found[-1]:.4f}", flush=True)
    means = {way: sum(found) / len(found) for way, found in accuracies.items()}
    result = {"validation_pixel_accuracy": accuracies, "mean": means, "difference": means["ours"] - means["original"],
              "size": SIZE, "seeds": SEEDS, **machine.about()}  # fmt: skip
    write_atomically(Path(JSON), lambda part: part.write_text(json.dumps(result, indent=1) + "\n"))
    print(json.dumps(result, indent=1))


def train_once(way: str, seed: int, train_set: pets.Split, validation_set: pets.Split) -> float:
    """Pixel accuracy on the validation part after one epoch."""
    torch.manual_seed(seed)
    network = NETWORKS["segnet_dsc"]()
    train.PRECISION = "float32" if way == "original" else "auto"
    network = OriginalSegmentation(network) if way == "original" else network.to(memory_format=torch.channels_last)
    network.to(machine.device())
    train.train_epoch(network, train.make_optimizer(network), train_set, 1, torch.Generator().manual_seed(seed))
    found = evaluate(network, validation_set.images, validation_set.trimaps, torch.float32)
    return float(metrics.pixel_accuracy(found.matrices.sum(0)))


if __name__ == "__main__":
    settings.run(main, pets)
