"""Tests trained networks on the test split: a table, one row of results per network, examples, confusion matrices.

    python test.py                            the newest epoch of both networks of the run "default"
    python test.py DATASET=toy                on drawn pets
    python test.py RUN=iou NETWORKS=segnet_dsc EPOCH=3        any constant, for one run
    python test.py WEIGHTS=segnet_dsc         published weights
    torchrun --nproc-per-node=2 test.py       by two processes, each on its share of the images

Results are over the whole test split at once, the custom IoU as a mean over images; "batch_mean" is over batches.
"""

from common import machine  # isort: skip - first: common/__init__.py says how torch's threads wait

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import fetch_oxford_iiit_pets as pets
import metrics
import pretrained
import segnet
from common import checkpoints, distributed, pictures, published, results, settings
from common.cost import kept_bytes, multiply_adds
from common.files import append_line, write_atomically
from common.inference import logits_of
from common.settings import UserError
from common.trimap import BACKGROUND, CLASSES
from dataset import cache
from dataset.cache import Split
from segnet import count_parameters

# What is tested
NETWORKS = ("segnet", "segnet_dsc")
RUN = "default"  # the run's folder in outputs/
EPOCH = 0  # 0: the newest
CHECKPOINT = ""  # a file of weights instead; e.g. one of the original notebook
WEIGHTS = ""  # name of published weights instead, e.g. segnet_dsc

# How
MIRROR = False  # True: the mean of the predictions for an image and its mirror image, a row of its own
USE_TORCHMETRICS = False  # True: pixel accuracy and IoU from torchmetrics instead of our own equal code
BATCH_OF_ORIGINAL = 16  # images; for batch_mean alone
EXAMPLES = 4  # cases in each picture; 0: no pictures
BASELINE = True  # False: no row of the "network" that calls everything background
PUBLISH = False  # True: the rows go to outputs/published/, which git keeps

# The machine
THREADS = 0  # 0: one per core
PRECISION = "auto"  # "bfloat16", "float32", or what is faster here

RANGES = {"EPOCH": (0, math.inf), "EXAMPLES": (0, 100), "BATCH_OF_ORIGINAL": (1, math.inf)}


def main() -> None:
    machine.set_up(THREADS)
    settings.check(globals(), {}, RANGES)
    if not NETWORKS:
        raise UserError(f"NETWORKS is empty; there are {', '.join(segnet.NETWORKS)}")
    if CHECKPOINT and WEIGHTS:
        raise UserError("give CHECKPOINT or WEIGHTS, not both")
    checkpoints.check_run(RUN)
    loaded = [load(name) for name in tested_networks()]
    split = pets.load("test")
    rows = [baseline(split)] if BASELINE and distributed.is_first() else []
    for network, about in loaded:
        network.to(machine.device(), memory_format=torch.channels_last)
        row, matrices = test_performance(network, about, split)
        if EXAMPLES and distributed.is_first():
            show_examples(network, about["network"], split, matrices)
        rows.append(row)
        if about.get("row", {}).get("data") == row["data"]:
            print(f"{row['network']} as published: mean IoU {about['row']['mean_iou']:.4f}, here {row['mean_iou']:.4f}")
    print_table(rows)
    new = [row for row in rows if not (PUBLISH and is_published(row))]  # every test computes the baseline anew
    if distributed.is_first():
        for row in new:
            append_line(results_path(), json.dumps(row, separators=(",", ":")))  # a tenth shorter than with spaces
            print(f"row of {row['network']} added to {results_path()}")


def load(name: str) -> tuple[nn.Module, dict[str, object]]:
    """A network and what its checkpoint says; name: "" for the one that CHECKPOINT is of.

    Raises UserError if it is of another size, or published already.
    """
    path = weights_of(name)
    network, about = pretrained.load_network(path, published.network_of(name))
    trained_for = about.get("constants", {}).get("IMAGE_SIZE", pets.IMAGE_SIZE)
    if trained_for != pets.IMAGE_SIZE:
        raise UserError(f"{path} was trained for IMAGE_SIZE={trained_for}: give that")
    if PUBLISH and is_published(facts_of(about) | {"mirror": MIRROR}):  # tested once
        raise UserError(f"{results_path()} has {about['network']} of run {row_name()} already; publish another RUN")
    return network, about


def tested_networks() -> tuple[str, ...]:
    if CHECKPOINT:
        return ("",)
    return (WEIGHTS,) if WEIGHTS else tuple(dict.fromkeys(NETWORKS))


def weights_of(name: str) -> Path:
    if CHECKPOINT or WEIGHTS:
        return published.chosen(CHECKPOINT, WEIGHTS)
    folder = checkpoints.run_folder(pets.outputs_folder(), RUN, name)
    return checkpoints.weights_path(folder, EPOCH or checkpoints.newest_epoch(folder))


def row_name() -> str:
    """What a row calls its run: RUN, weights-NAME, or for CHECKPOINT file-NAME, the run's before that of an epoch."""
    path = Path(CHECKPOINT).resolve()
    of_file = f"{path.parts[-3]}-{path.stem}" if path.stem.startswith("epoch_") and path.parts[3:] else path.stem
    name = f"file-{of_file}" if CHECKPOINT else f"weights-{WEIGHTS}" if WEIGHTS else RUN
    return name + ("-mirror" if MIRROR else "")


def test_performance(network: nn.Module, about: dict[str, object], split: Split) -> tuple[dict, Tensor]:
    """A row of results, and the confusion matrix of each image (N, 3, 3).

    about: what the checkpoint says of its training.
    """
    start = time.perf_counter()
    dtype = machine.precision(PRECISION)
    found = metrics.evaluate(network, split.images, split.trimaps, dtype, MIRROR, own_trimap_of(split))
    seconds = time.perf_counter() - start
    row = facts_of(about) | {"test_images": len(split.images)}
    row |= results_of(found, split)
    pictured = EXAMPLES and not row["seed"]
    if not results.has_name(row["run"]) or (PUBLISH and not pictured):
        del row["by_breed"]  # half of a row: git keeps it for rows with pictures, which are of seed 0
    if USE_TORCHMETRICS and distributed.is_first():
        row |= from_torchmetrics(network, split)
    row |= {
        "parameters": count_parameters(network),
        "multiply_adds": multiply_adds(network, pets.IMAGE_SIZE),
        "kept_bytes": kept_bytes(network, pets.IMAGE_SIZE, dtype),
        "train_seconds": about.get("train_seconds"),
        "test_seconds": seconds,
    }
    return row | of_all_legs(about) | of_this_test(), found.matrices


def facts_of(about: dict[str, object]) -> dict[str, object]:
    """What a row says of a network before it is tested."""
    constants = about.get("constants", {})
    return {
        "run": row_name(),
        "network": about["network"],
        "head": about["head"],
        "encoder": about.get("encoder", ""),
        "frozen": constants.get("FREEZE_ENCODER", False),
        "skips": about.get("skips", False),
        "train_share": constants.get("TRAIN_SHARE"),
        "version": about.get("version", 1),
        "constants": constants,
        "data": pets.data_name(),
        "train_images": about.get("train_images"),
        "epochs": about.get("epoch"),
        "image_size": pets.IMAGE_SIZE,
        "loss": constants.get("LOSS"),  # of the last leg, as all constants
        "train_precision": of_all_legs(about)["precision"],
        "seed": constants.get("SEED"),
    }


def own_trimap_of(split: Split) -> Callable[[int], Tensor]:
    """Reads the trimap of image number i at its own size."""
    return lambda i: pets.trimap_at_own_size(split.pairs[i])


def of_all_legs(about: dict[str, object]) -> dict[str, object]:
    """Machine, commit, command and so on of a checkpoint's training; where its legs differ, those of each.

    "changed": the constants that differ between legs, with their value in each.
    """
    legs = about.get("legs") or [about]  # version 1 kept one
    keys = ("machine", "ranks", "threads", "torch", "precision", "commit", "command")
    of_each = {key: [leg.get(key) for leg in legs] for key in keys}
    by_leg = {key: [v for i, v in enumerate(values) if v not in values[:i]] for key, values in of_each.items()}
    found = {key: of[0] if len(of) == 1 else ", then ".join(map(str, of)) for key, of in by_leg.items()}
    constants = [leg["constants"] for leg in legs if "constants" in leg]
    values = {name: [of_leg.get(name) for of_leg in constants] for name in about.get("constants", {})}
    changed = {name: of_legs for name, of_legs in values.items() if any(v != of_legs[0] for v in of_legs)}
    return found | ({"changed": changed} if changed else {})


def of_this_test() -> dict[str, object]:
    return {
        "precision": machine.precision_name(PRECISION),  # of this test
        "mirror": MIRROR,
        "truth": cache.TRUTH,
        "test_commit": machine.commit(),
        "test_command": machine.command(),
        "test_machine": machine.name(),
    }


def results_of(found: metrics.Evaluation, split: Split) -> dict[str, object]:
    """All results of a row."""
    row = metrics.summary(found) | {
        "by_pet_size": metrics.by_pet_size(found.matrices),
        "by_species": metrics.by_group(found.matrices, [pair.species for pair in split.pairs]),
        "by_breed": metrics.by_group(found.matrices, [pair.name.rpartition("_")[0] for pair in split.pairs]),
        "batch_mean": metrics.batch_mean(found.matrices, found.soft, BATCH_OF_ORIGINAL),
        "confusion": found.matrices.sum(0).tolist(),
    }
    return results.rounded(row)


def baseline(split: Split) -> dict[str, object]:
    """The row of a "network" that calls every pixel background: what any network has to beat."""
    row = {"run": "baseline", "network": "all_background", "head": None, "data": pets.data_name(), "train_images": 0}
    row |= {"test_images": len(split.images), "epochs": 0, "image_size": pets.IMAGE_SIZE, "loss": None, "seed": None}
    row |= results_of(metrics.all_background(split.trimaps, own_trimap_of(split)), split)
    row |= {"version": results.VERSION, "parameters": 0, "train_seconds": 0, "test_seconds": 0}
    return row | machine.about() | of_this_test() | {"mirror": False}  # as good in either


def from_torchmetrics(network: nn.Module, split: Split) -> dict[str, float]:
    try:
        from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
    except ImportError as error:
        raise UserError("USE_TORCHMETRICS needs torchmetrics: pip install torchmetrics==1.9.0") from error
    accuracy = MulticlassAccuracy(len(CLASSES), average="micro")
    jaccard = MulticlassJaccardIndex(len(CLASSES), average="micro", ignore_index=BACKGROUND)
    start = 0
    for logits in logits_of(network, split.images, machine.precision(PRECISION), MIRROR):
        labels, truth = logits.argmax(1, keepdim=True).cpu(), split.trimaps[start : start + len(logits)].long()
        start += len(logits)
        accuracy.update(labels, truth)
        jaccard.update(labels, truth)
    return {"pixel_accuracy": float(accuracy.compute()), "iou": float(jaccard.compute())}


def show_examples(network: nn.Module, name: str, split: Split, matrices: Tensor) -> None:
    """Saves pictures of the best, of typical and of the worst cases, and of the confusion matrix."""
    present = matrices.sum(1) + matrices.sum(2) > 0  # a class in neither truth nor prediction is no fault
    scores = (metrics.class_iou(matrices) * present).sum(1) / present.sum(1)
    order = scores.argsort(stable=True, descending=True)
    middle = max(0, len(order) - EXAMPLES) // 2
    kinds = {"best": order[:EXAMPLES], "typical": order[middle : middle + EXAMPLES], "worst": order[-EXAMPLES:].flip(0)}
    folder, prefix = checkpoints.run_folder(pets.outputs_folder(), row_name(), name), ""
    if PUBLISH:
        folder, prefix = pets.published_folder(), f"{row_name()}_{name}_"
    for kind, chosen in kinds.items():
        logits = torch.cat(list(logits_of(network, split.images[chosen], machine.precision(PRECISION), MIRROR)))
        cases = [
            {
                "image": split.images[i] / 255,
                "truth": split.trimaps[i],
                "prediction": prediction,
                "label": f"{split.pairs[i].name}\nmean IoU {float(scores[i]):.2f}",
            }
            for i, prediction in zip(chosen.tolist(), logits.argmax(1, keepdim=True).cpu())
        ]
        title = f"{name}, run {row_name()}: {kind} of the test split"
        pictures.save_examples(folder / f"{prefix}{kind}.png", cases, title)
    pictures.save_confusion(folder / f"{prefix}confusion.png", matrices.sum(0), f"{name}, shares of the true class")
    curves = weights_of(name).with_name("curves.png")
    if PUBLISH and curves.exists() and not WEIGHTS:
        write_atomically(folder / f"{prefix}curves.png", lambda part: shutil.copyfile(curves, part))
    print(f"drawn: {folder / f'{prefix}best.png'}, typical, worst, confusion")


def print_table(rows: list[dict]) -> None:
    columns = [*metrics.FROM_MATRIX, "custom_iou"]
    print(f"\n{rows[0]['data']}, {rows[0]['test_images']} test images at {pets.IMAGE_SIZE} px")
    print(f"{'network':16}" + "".join(f"{name.replace('iou_old_torchmetrics', 'iou, old'):>16}" for name in columns))
    for row in rows:
        print(f"{row['network']:16}" + "".join(f"{row[name]:16.4f}" for name in columns))
    print(f"\n{'network':16}" + "".join(f"{f'IoU, {name}':>16}" for name in CLASSES) + f"{'mean at own size':>20}")
    for row in rows:
        classes = "".join(f"{iou:16.4f}" for iou in row["class_iou"])
        print(f"{row['network']:16}{classes}{row['own_size']['mean_iou']:20.4f}")
    print(f"\n{'network':16}" + "".join(f"{f'{s} pets':>24}" for s in rows[0]["by_pet_size"]) + "    (pixel, mean IoU)")
    for row in rows:
        thirds = row["by_pet_size"].values()
        print(f"{row['network']:16}" + "".join(f"{t['pixel_accuracy']:16.4f}{t['mean_iou']:8.4f}" for t in thirds))
    print("\niou leaves out pixels of true background, as the original does; custom_iou is soft: see metrics.py")


def results_path() -> Path:
    if PUBLISH:
        return pets.published_folder() / results.published_file(row_name())
    return pets.outputs_folder() / "results.jsonl"


def is_published(row: dict[str, object]) -> bool:
    """Whether there is a row of the same run and network, trained with the same constants by the same version.

    Weights that CHECKPOINT or WEIGHTS names have another run in their row: any with those constants counts.
    """
    names = ("network", "version", "data", "constants", "epochs", "mirror")
    names += () if CHECKPOINT or WEIGHTS else ("run",)
    wanted = json.loads(json.dumps([row.get(name) for name in names]))  # JSON knows no tuples
    return any([old.get(name) for name in names] == wanted for old in results.rows(pets.published_folder()))


if __name__ == "__main__":
    distributed.run(main, pets)
