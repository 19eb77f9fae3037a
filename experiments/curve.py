"""What pretraining is worth in labelled images: networks trained on 250 to 3680 of them, each for as long as it gains.

    python -m experiments.curve                              what outputs/published lacks; days on 2 cores
    python -m experiments.curve COUNTS=250 VARIANTS=segnet_dsc,segnet_dsc-masked

1. pretrain.py learns from the training images without labels, and without the validation tenth.
2. How long? Twice as many steps, as long as that gains GAIN of mean IoU on the validation tenth, with one seed; more
   images begin with what fewer have wanted. Those labels choose the length and nothing else. Every try is a line in
   outputs/published/lengths.jsonl.
3. Each network is trained for so long on its labelled images, the smaller sets inside the larger, and tested on the
   test split: rows in outputs/published/results.jsonl.

Lite0 comes with ImageNet's weights: the labels of 1.3 M other images. The control gets as many images more from scratch
as the masked pretraining has seen.
"""

import json
from typing import NamedTuple

import fetch_oxford_iiit_pets as pets
from common import machine, results, settings
from common.files import append_line
from common.settings import UserError
from dataset import cache
from dataset.batches import numbers
from experiments import compare, trials
from experiments.tasks import Task, row_of

# What is compared
COUNTS = (250, 500, 1000, 2000, 3680)  # labelled images
VARIANTS = ("all",)  # of those below, by name
MORE_SEEDS = (250, 1000)  # counts that are trained with three seeds; the others with one
AT_ONCE = 2  # runs at a time, of one thread each

# How long
LENGTHS = (1000, 2000, 4000, 8000, 16000, 32000)  # steps that are tried, in this order
GAIN = 0.005  # of mean IoU on the validation tenth, below which twice the steps are not worth it
HELD_OUT = 0.1  # the validation tenth

BATCH = 8  # images per step
BASE = f"NETWORKS=segnet_dsc SIZES=0.5,0.75,1 ZOOM=0.2 ROTATION=10.0 BATCH_SIZE={BATCH} THREADS=1"
VIT = "vit_tiny_patch16_224"
PASSES = {"segnet_dsc": 20, VIT: 80}  # epochs of pretraining; 80 is what pretraining.py has tried
PRETRAINING = {  # for pretrain.py
    "segnet_dsc": f"NETWORK=segnet_dsc BATCH_SIZE=32 LEARNING_RATE=2e-3 EPOCHS=1,{PASSES['segnet_dsc'] + 1}",
    VIT: f"NETWORK={VIT} BATCH_SIZE=32 EPOCHS=1,{PASSES[VIT] + 1}",
}


class Variant(NamedTuple):
    setting: str  # for train.py; {} is the file of the pretrained weights
    pretraining: str = ""  # which, or "": none
    longer_than: str = ""  # the variant whose steps it takes, and those that the pretraining took; "": its own


SETTINGS = {
    "segnet_dsc": Variant(""),
    "segnet_dsc-longer": Variant("", longer_than="segnet_dsc"),
    "segnet_dsc-masked": Variant("START_FROM={} ENCODER_RATE=1.0", "segnet_dsc"),
    "vit-random": Variant(f"ENCODER={VIT} ENCODER_WEIGHTS=random ENCODER_RATE=0.25"),
    "vit-masked": Variant(f"ENCODER={VIT} ENCODER_WEIGHTS={{}} ENCODER_RATE=0.25", VIT),
    "lite0-imagenet": Variant("ENCODER=tf_efficientnet_lite0"),
}


def main() -> None:
    if AT_ONCE < 1:
        raise UserError("AT_ONCE is at least 1")
    settings.check(globals(), {"VARIANTS": ("all", *SETTINGS)}, {"COUNTS": (1, available(0.0))})
    wanted = [name for name in SETTINGS if name in VARIANTS or "all" in VARIANTS]
    for pretraining in dict.fromkeys(SETTINGS[name].pretraining for name in wanted if SETTINGS[name].pretraining):
        print(trials.run("pretrain.py", *pretraining_of(pretraining)), flush=True)
    for split in ("trainval", "test"):  # so that runs at the same time don't decode them
        pets.load(split, pets.IMAGE_SIZE)
    tried = dict.fromkeys(SETTINGS[name].longer_than or name for name in wanted)
    steps = {}
    for chosen in trials.at_once(AT_ONCE, choose_lengths, [(name,) for name in tried]):
        steps |= chosen
    tasks = [task for name in wanted for count in COUNTS for task in tasks_of(name, count, steps)]
    rows = [row for row in results.rows(pets.published_folder()) if row["data"] == pets.data_name()]
    missing = [(task,) for task in tasks if not row_of(task, rows)]
    for run in trials.at_once(AT_ONCE, compare.train_and_test, missing):
        print(f"{run} is done", flush=True)


def available(held_out: float) -> int:
    """How many labelled images there are beside the share that is held out."""
    return len(numbers(cache.read_list(pets.data_folder(), "trainval"), held_out)[0])


def pretraining_of(network: str) -> list[str]:
    """pretrain.py's arguments."""
    shared = [f"IMAGE_SIZE={pets.IMAGE_SIZE}", f"VALIDATION_SHARE={HELD_OUT}", "RUN=curve", "THREADS=1"]
    return [*PRETRAINING[network].split(), *shared]


def arguments_of(name: str, count: int, steps: int, seed: int) -> list[str]:
    """train.py's, for so many labelled images and at least so many steps."""
    variant = SETTINGS[name]
    file = pets.outputs_folder() / "pretrained" / "curve" / variant.pretraining / "pretrained.pt"
    epochs = -(-steps // max(1, count // BATCH))
    counted = f"IMAGE_SIZE={pets.IMAGE_SIZE} TRAIN_IMAGES={count} EPOCHS=1,{epochs + 1} SEED={seed}"
    return [*BASE.split(), *variant.setting.format(file).split(), *counted.split()]


def choose_lengths(name: str) -> dict[tuple[str, int], int]:
    """The steps that a variant is trained for on each of COUNTS images, by the rule above."""
    found, least = {}, LENGTHS[0]
    for count in sorted(COUNTS):
        least = found[name, count] = choose_length(name, count, least)
    return found


def choose_length(name: str, count: int, least: int) -> int:
    """The steps for so many images, from `least` on; what isn't known yet is tried."""
    path = pets.published_folder() / "lengths.jsonl"
    best = {}
    for steps in LENGTHS[LENGTHS.index(least) :]:
        arguments = arguments_of(name, min(count, available(HELD_OUT)), steps, seed=0)
        arguments.append(f"VALIDATION_SHARE={HELD_OUT}")
        key = {"arguments": arguments, "version": results.VERSION, "data": pets.data_name()}
        known = [line for line in results.lines_of(path.name, path.parent) if key.items() <= line.items()]
        line = known[-1] if known else key | {"variant": name, "count": count, "steps": steps} | tried(name, arguments)
        if not known:
            append_line(path, json.dumps(line))
            print(f"{name}, {count} images, {steps} steps: {line['validation_mean_iou']}", flush=True)
        gain = line["validation_mean_iou"] - best.get("validation_mean_iou", 0)
        best = line if gain > 0 else best
        if best and gain < GAIN:
            break
    return best["steps"]


def tried(name: str, arguments: list[str]) -> dict[str, object]:
    found = trials.validated(f"curve-in-progress-{' '.join([name, *arguments[-4:]])}", arguments)
    return found | {"commit": machine.commit(), "machine": machine.name(), "precision": machine.precision_name("auto")}


def tasks_of(name: str, count: int, steps: dict[tuple[str, int], int]) -> list[Task]:
    variant = SETTINGS[name]
    chosen = steps[variant.longer_than or name, count]
    if variant.longer_than:  # images seen in pretraining, in steps of BATCH
        chosen += PASSES[variant.longer_than] * available(HELD_OUT) // BATCH
    seeds = (0, 1, 2) if count in MORE_SEEDS else (0,)
    return [
        Task("curve", name, f"labels-{name}-{count}-{seed}", tuple(arguments_of(name, count, chosen, seed)))
        for seed in seeds
    ]


if __name__ == "__main__":
    settings.run(main, pets)
