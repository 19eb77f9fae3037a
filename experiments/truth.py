"""What aligned labels are worth: compare.py's separable network at 64 px, trained on labels of the nearest pixel.

    python -m experiments.truth DATA_ROOT=/data       minutes per run; adds to outputs/published/truth.jsonl

Everything but the training labels is as in compare.py's rows of the same seeds, the aligned labels of the test split
included, so that they differ in pairs. Also counts how much of each class either way of resizing leaves.
"""

import time

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

import fetch_oxford_iiit_pets as pets
import metrics
import train
from common import machine, results, settings
from common.trimap import BORDER
from dataset.batches import Part, divide
from dataset.cache import Split
from dataset.labels import resize_labels
from experiments.tasks import STUDY, constants_of
from segnet import NETWORKS

SEEDS = (0, 1, 2)
SIZE = 64  # px a side
TRAIN_SHARE = 0.3333  # of the training images
THREADS = 1  # 0: one per core
SHARE_SIZES = (128, 96, 64, 48)  # px a side, at which classes are counted


def main() -> None:
    machine.set_up(THREADS)
    train.PRECISION, train.LOSS, train.OPTIMIZER = "float32", "ce+iou", "adamw"  # as the rows beside it, tasks.STUDY
    folder = pets.published_folder()
    constants = constants_of((*STUDY.split(), f"IMAGE_SIZE={SIZE}", f"TRAIN_SHARE={TRAIN_SHARE}"))
    recipe = {"version": results.VERSION, "constants": recipe_of(constants)}
    lines = [line for line in results.lines_of("truth.jsonl", folder) if line["data"] == pets.data_name()]
    done = {
        line["seed"]
        for line in lines
        if (line["version"], recipe_of(constants_of(()) | line["constants"])) == tuple(recipe.values())
    }
    aligned, test_set = pets.load("trainval", SIZE), pets.load("test", SIZE)
    shifted = aligned._replace(trimaps=torch.stack([nearest(pets.trimap_at_own_size(p), SIZE) for p in aligned.pairs]))
    train_set, _ = divide(shifted, 0.0, TRAIN_SHARE)
    for seed in SEEDS:
        if seed not in done:
            line = {"train_labels": "nearest", "seed": seed, **recipe, **train_once(seed, train_set, test_set)}
            line |= {"train_images": len(train_set.rows), "size": SIZE, "data": pets.data_name(), **machine.about()}
            line["precision"] = train.PRECISION
            results.add_line(folder / "truth.jsonl", line)
    counted = {"class_shares": class_shares(aligned), "images": len(aligned.pairs), "data": pets.data_name()}
    results.write_json(folder / "class_shares.json", counted | machine.about())


def recipe_of(constants: dict[str, object]) -> dict[str, object]:
    """Without those that all lines differ in, or have from here."""
    return {name: value for name, value in constants.items() if name not in ("SEED", "PRECISION")}


def nearest(trimap: Tensor, size: int) -> Tensor:
    """Labels (1, size, size) as version 1 of the cache had them."""
    return TF.resize(trimap, [size, size], InterpolationMode.NEAREST)


def train_once(seed: int, train_set: Part, test_set: Split) -> dict[str, float]:
    """Results on the aligned test labels after the epochs of train.py's default recipe, by STUDY's loss and step."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    network = NETWORKS["segnet_dsc"]().to(machine.device(), memory_format=torch.channels_last)
    optimizer, random = train.make_optimizer(network), torch.Generator().manual_seed(seed)
    step = train.step_of(network, optimizer)
    for epoch in range(*train.EPOCHS):
        train.train_epoch(network, optimizer, step, train_set, epoch, random)
    seconds = time.perf_counter() - start
    found = metrics.evaluate(network, test_set.images, test_set.trimaps, machine.precision(train.PRECISION))
    summary = metrics.summary(found)
    scores = {name: summary[name] for name in ("pixel_accuracy", "mean_iou", "contour_mean_iou")}
    return scores | {"border_iou": summary["class_iou"][BORDER], "train_seconds": seconds}


def class_shares(split: Split) -> dict[str, dict[str, list[float]]]:
    """Share of each class in all pixels, averaged over images: at full size, and resized by either way."""
    sums: dict[tuple[str, str], Tensor] = {}
    for pair in split.pairs:
        full = pets.trimap_at_own_size(pair)
        resized = {("full", "full"): full}
        for size in SHARE_SIZES:
            resized |= {
                (str(size), "area"): resize_labels(full, size, size),
                (str(size), "nearest"): nearest(full, size),
            }
        for key, labels in resized.items():
            sums[key] = sums.get(key, 0) + pets.class_shares(labels[None])
    found: dict[str, dict[str, list[float]]] = {}
    for (size, way), total in sums.items():
        found.setdefault(size, {})[way] = (total / len(split.pairs)).tolist()
    return found


if __name__ == "__main__":
    settings.run(main, pets)
