"""Does the fast step learn the same? One epoch by the original's step and by ours, from the same seed.

    python -m experiments.agreement DATA_ROOT=/data         20 minutes; writes outputs/published/agreement.json
    python -m experiments.agreement NETWORK=segnet TRAIN_SHARE=0.3333 SEEDS=0,1,2,3,4      agreement_segnet.json

All train a network at 64 px with the same images, flips and jitter in the same order, at the
original's batch size and rate, and are judged on the validation tenth, in float32. The original's step: float32,
contiguous maps, built-in pooling and convolutions. Ours in float32 is the same arithmetic summed in another order, but
for SegNet's convolutions (common/winograd.py): by how much it differs from the original's is by how much an epoch
magnifies rounding, and hardly a step can agree better than that.
"""

import json

import torch

import fetch_oxford_iiit_pets as pets
import metrics
import train
from common import machine, results, settings, training
from dataset.batches import Part, batches, divide, steps_in
from dataset.cache import Split
from experiments.original import OriginalSegmentation
from segnet import NETWORKS

NETWORK = "segnet_dsc"
TRAIN_SHARE = 1.0  # of the images that are not for validation
SEEDS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
SIZE = 64  # px a side
BATCH_SIZE = 16  # images per step, the original's
LEARNING_RATE = 1e-3  # the original's, as the largest of train.py's schedule
THREADS = 0  # 0: one per core
WAYS = ("original", "ours_float32", "ours")


def main() -> None:
    train.OPTIMIZER = "adamw"  # Muon's products are rounded in bfloat16 too: that is another question
    settings.check(globals(), {"NETWORK": tuple(NETWORKS)}, {"TRAIN_SHARE": (1e-6, 1)})
    machine.set_up(THREADS)
    train_set, validation_set = divide(pets.load("trainval", SIZE), 0.1, TRAIN_SHARE)
    accuracies: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in SEEDS:
        for way, found in accuracies.items():
            found.append(train_once(way, seed, train_set, validation_set, BATCH_SIZE, LEARNING_RATE))
            print(f"seed {seed}, {way}: validation pixel accuracy {found[-1]:.4f}", flush=True)
    result = {"network": NETWORK, "validation_pixel_accuracy": accuracies, "version": results.VERSION,
              "data": pets.data_name(), "size": SIZE, "train_images": len(train_set.rows), "seeds": SEEDS,
              **machine.about()}  # fmt: skip
    name = "agreement.json" if NETWORK == "segnet_dsc" else f"agreement_{NETWORK}.json"
    results.write_json(pets.published_folder() / name, result)
    print(json.dumps(result, indent=1))


def train_once(
    way: str, seed: int, train_set: Part, validation_set: Split, batch_size: int, learning_rate: float
) -> float:
    """Pixel accuracy on the validation part after one epoch of cross-entropy; way: one of WAYS."""
    torch.manual_seed(seed)
    network = NETWORKS[NETWORK]()
    network = OriginalSegmentation(network) if way == "original" else network.to(memory_format=torch.channels_last)
    network.to(machine.device()).train()
    optimizer = train.make_optimizer(network)
    dtype = machine.precision("auto" if way == "ours" else "float32")
    steps = steps_in(train_set, batch_size)
    for step, (images, trimaps) in enumerate(batches(train_set, batch_size, torch.Generator().manual_seed(seed))):
        training.set_rate(optimizer, learning_rate * train.rate_at(step / steps, 1))
        train.train_step(network, optimizer, images, trimaps, "ce", dtype)
    found = metrics.evaluate(network, validation_set.images, validation_set.trimaps, torch.float32)
    return float(metrics.pixel_accuracy(found.matrices.sum(0)))


if __name__ == "__main__":
    settings.run(main, pets)
