"""What pretraining is worth in labelled images: networks that learn from 250 to 3311 of them, as long as it pays.

    python -m experiments.curve                              what outputs/published lacks; days on 2 cores
    python -m experiments.curve COUNTS=250 VARIANTS=vit-untrained,vit-masked

1. A masked auto-encoder learns from the training images without labels, and without the validation tenth.
2. How long is trained? With 250 labels and one seed, steps are doubled for as long as that gains GAIN of mean IoU on
   the validation tenth. The best number is taken, and grows with the square root of the number of labels. Every try is
   a line in outputs/published/lengths.jsonl.
3. What has been trained for so long is tested on the test split: rows in outputs/published/results.jsonl.

The smaller sets are inside the larger, and the largest is all training images but the validation tenth. Lite0 comes
with ImageNet's weights: the labels of 1.3 M other images. The same network from random weights stands beside it.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import fetch_oxford_iiit_pets as pets
from common import results, settings
from common.files import append_line
from common.results import Row
from dataset import cache
from dataset.batches import numbers
from experiments import charts, compare, pretraining, trials
from experiments.tasks import FORMER, Task, row_of

# What is compared
COUNTS = (250, 500, 1000, 2000, 3311)  # labelled images
VARIANTS = ("all",)  # of those below, by name
MORE_SEEDS = (250, 1000)  # counts that are trained with three seeds; the others with one
AT_ONCE = 2  # runs at a time, of one thread each

# How long
FIRST = 250  # labelled images with which the length is chosen
LENGTHS = (1000, 2000, 4000, 8000, 16000, 32000)  # steps that are tried, in this order
GAIN = 0.01  # of mean IoU on the validation tenth, below which twice the steps are not worth it

BATCH = 8  # images per step
EPOCH = 250  # steps, about: an epoch of few images is several passes over them
BASE = f"NETWORKS=segnet_dsc SIZES=0.5,0.5,0.75,1 ZOOM=0.2 ROTATION=10.0 VALIDATION_SHARE=0.1 THREADS=1 {FORMER}"
VIT = "ENCODER=vit_tiny_patch16_224 ENCODER_RATE=0.25"
LITE0 = "ENCODER=tf_efficientnet_lite0 SKIP_FEATURES=True"


class Variant(NamedTuple):
    title: str
    setting: str  # for train.py; {} is the file of the pretrained weights
    pretraining: str = ""  # which of pretraining.PRETRAINED, or "": none


SETTINGS = {
    "segnet_dsc": Variant("separable SegNet", ""),
    "segnet_dsc-masked": Variant("separable SegNet, masked pretraining", "START_FROM={} ENCODER_RATE=1.0", "segnet128"),
    "segnet_dsc-masked-long": Variant(
        "separable SegNet, masked pretraining, 100 epochs", "START_FROM={} ENCODER_RATE=1.0", "segnet128-long"
    ),
    "vit-untrained": Variant("ViT, not pretrained", f"{VIT} ENCODER_WEIGHTS={{}}", "vit-untrained"),
    "vit-masked": Variant("ViT, masked pretraining on 3,311 images, 80 epochs", f"{VIT} ENCODER_WEIGHTS={{}}", "vit"),
    "vit-masked-long": Variant(
        "ViT, masked pretraining on 3,311 images, 400 epochs", f"{VIT} ENCODER_WEIGHTS={{}}", "vit-long"
    ),
    "lite0-random": Variant("Lite0 with skips, not pretrained", f"{LITE0} ENCODER_WEIGHTS=random ENCODER_RATE=1.0"),
    "lite0-imagenet": Variant("Lite0 with skips, ImageNet's weights and labels", LITE0),
}

# In lengths.jsonl, but no more of it is made: its first weights are timm's, not those that pretrain.py begins with
EARLIER = {"vit-random": Variant("ViT from timm's first weights", f"{VIT} ENCODER_WEIGHTS=random")}

# Mean IoU that Bridge et al. 2025 read on these data by labelled images (https://arxiv.org/abs/2512.03862); those of
# 2000 and 4000 are taken from a figure. Theirs differ: see experiments/README.md
PAPER = {
    "Bridge et al., from scratch": {250: 0.437, 500: 0.474, 1000: 0.533, 2000: 0.569, 4000: 0.630},
    "Bridge et al., SimMIM on 45 k images": {250: 0.527, 500: 0.556, 1000: 0.587, 2000: 0.614, 4000: 0.644},
    "Bridge et al., SimMIM on 200 k images": {250: 0.571, 500: 0.595, 1000: 0.624, 2000: 0.647, 4000: 0.676},
}


def main() -> None:
    counts = (1, available())
    settings.check(globals(), {"VARIANTS": ("all", *SETTINGS)},
                   {"COUNTS": counts, "FIRST": counts, "LENGTHS": (1, math.inf), "AT_ONCE": (1, math.inf)})  # fmt: skip
    wanted = [name for name in SETTINGS if name in VARIANTS or "all" in VARIANTS]
    for before in dict.fromkeys(SETTINGS[name].pretraining for name in wanted if SETTINGS[name].pretraining):
        pretraining.file_of(before)
    for split in ("trainval", "test"):  # so that runs at the same time don't decode them
        pets.load(split, pets.IMAGE_SIZE)
    steps = dict(trials.at_once(AT_ONCE, choose_length, [(name,) for name in wanted]))
    rows = [row for row in results.rows(pets.published_folder()) if row["data"] == pets.data_name()]
    missing = [(t,) for name in wanted for t in tasks_of(name, steps[name], COUNTS) if not row_of(t, rows)]
    for run in trials.at_once(AT_ONCE, compare.train_and_test, missing):
        print(f"{run} is done", flush=True)
    for name in wanted:  # of the length that was chosen, where its row was there before
        trials.remove(pets.outputs_folder() / task_of(name, FIRST, steps[name], seed=0).run)
    titled = {
        SETTINGS[name].title: {count: [row["mean_iou"] for row in found] for count, found in by_count.items()}
        for name, by_count in measured(pets.published_folder()).items()
    }
    charts.save_curve(pets.published_folder() / "curve.png", titled, PAPER)


def available() -> int:
    """How many labelled images there are beside the validation tenth."""
    share = float(dict(argument.split("=") for argument in BASE.split())["VALIDATION_SHARE"])
    return len(numbers(cache.read_list(pets.data_folder(), "trainval"), share)[0])


def choose_length(name: str) -> tuple[str, int]:
    """A variant, and for how many steps FIRST images want to be trained, by the rule above; what isn't known is tried.

    Of the runs that it makes, the chosen one's folder stays, to be tested.
    """
    folder, data = pets.published_folder(), pets.data_name()
    while steps := next_length(tries(name, folder, data)):
        line = tried(name, task_of(name, FIRST, steps, seed=0))
        append_line(folder / "lengths.jsonl", json.dumps(line))
        print(f"{name}, {FIRST} images, {steps} steps: {line['validation_mean_iou']}", flush=True)
    found = tries(name, folder, data)
    for steps in found.keys() - {best(found)}:
        trials.remove(pets.outputs_folder() / task_of(name, FIRST, steps, seed=0).run)
    return name, best(found)


def tries(name: str, folder: Path, data: str) -> dict[int, Row]:
    """A variant's lines in the folder's lengths.jsonl, on these data, by steps in the order of LENGTHS."""
    known = {"version": results.VERSION, "data": data}.items()
    lines = [line for line in results.lines_of("lengths.jsonl", folder) if known <= line.items()]
    by_arguments = {key_of(line["arguments"]): line for line in lines}
    arguments = {steps: key_of(task_of(name, FIRST, steps, seed=0).arguments) for steps in LENGTHS}
    return {steps: by_arguments[key] for steps, key in arguments.items() if key in by_arguments}


def key_of(arguments: Iterable[str]) -> frozenset[str]:
    """What a line is known by; those from before FORMER was given lack it."""
    return frozenset((*FORMER.split(), *arguments))


def next_length(found: dict[int, Row]) -> int | None:
    """The steps to be tried next; None when the last didn't gain GAIN over those before, or was the last of all."""
    reached = 0.0
    for steps in LENGTHS:
        if steps not in found:
            return steps
        if found[steps]["validation_mean_iou"] - reached < GAIN:
            break
        reached = found[steps]["validation_mean_iou"]
    return None


def best(found: dict[int, Row]) -> int:
    return max(found, key=lambda steps: found[steps]["validation_mean_iou"])


def tried(name: str, task: Task) -> dict[str, object]:
    """Trains, and returns the line of that; the run's folder stays."""
    trials.run("train.py", *task.arguments, f"RUN={task.run}")
    line = {"variant": name, "arguments": list(task.arguments), "version": results.VERSION, "data": pets.data_name()}
    return line | trials.finished(pets.outputs_folder() / task.run)


def task_of(name: str, count: int, steps: int, seed: int) -> Task:
    """A training on so many labelled images, for about so many steps: whole epochs."""
    variant = (SETTINGS | EARLIER)[name]
    passes = max(1, round(EPOCH * BATCH / count))
    epochs = max(1, round(steps / (passes * max(1, count // BATCH))))
    path = pretraining.path_of(variant.pretraining) if variant.pretraining else ""
    setting = [argument.format(path) for argument in variant.setting.split()]
    counted = f"IMAGE_SIZE={pets.IMAGE_SIZE} BATCH_SIZE={BATCH} TRAIN_IMAGES={count} PASSES={passes}"
    arguments = (*BASE.split(), *setting, *counted.split(), f"EPOCHS=1,{epochs + 1}", f"SEED={seed}")
    return Task("curve", name, f"curve-{name}-{count}-{steps}-{seed}", arguments)


def tasks_of(name: str, chosen: int, counts: tuple[int, ...], seeds: tuple[int, ...] = ()) -> list[Task]:
    """Trainings of a variant; chosen: steps for FIRST labelled images; seeds: (): three for MORE_SEEDS, else one."""
    return [
        task_of(name, count, round(chosen * math.sqrt(count / FIRST)), seed)
        for count in counts
        for seed in seeds or ((0, 1, 2) if count in MORE_SEEDS else (0,))
    ]


def measured(folder: Path = results.PUBLISHED) -> dict[str, dict[int, list[Row]]]:
    """Rows of what has been trained for the steps chosen, by variant and number of labelled images.

    Of the data that lengths.jsonl ends with.
    """
    data = data_of(folder)
    rows = [row for row in results.rows(folder) if row["run"].startswith("curve-") and row["data"] == data]
    found: dict[str, dict[int, list[Row]]] = {}
    for name in SETTINGS:
        by_steps = tries(name, folder, data)
        for row in rows if by_steps and not next_length(by_steps) else ():
            (task,) = tasks_of(name, best(by_steps), (row["train_images"],), seeds=(row["seed"],))
            if row_of(task, [row]):
                found.setdefault(name, {}).setdefault(row["train_images"], []).append(row)
    return {name: dict(sorted(by_count.items())) for name, by_count in found.items()}


def data_of(folder: Path) -> str:
    lines = results.lines_of("lengths.jsonl", folder)
    return lines[-1]["data"] if lines else ""


if __name__ == "__main__":
    settings.run(main, pets)
