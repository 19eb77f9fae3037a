"""Tries settings of the training recipe against each other on the validation tenth, and keeps every result.

    python -m experiments.study                             trains what outputs/published/study.jsonl lacks
    python -m experiments.study DATA_ROOT=/data SEEDS=0     constants of this file

Each run leaves a line, good or bad. "short", "rates", "long" and "moved" train on a third of the training images at
64 px, "encoder" at 128 px; the others on all of them at 128 px. The validation tenth is kept out of all, and the test
split is never read.
"""

import fnmatch
import math

import fetch_oxford_iiit_pets as pets
from common import machine, results, settings
from experiments import trials
from experiments.tasks import FORMER, changed

STUDIES = ("short", "rates", "long", "moved", "encoder", "sprint", "sprint_segnet")  # the others take days
SEEDS = (0, 1, 2)  # each setting is trained once with each
ONLY = "*"  # of which settings, as a pattern of file names; "": the bases alone
ELSEWHERE = True  # False: what another kind of machine has trained is trained here too, to be compared on one
AT_ONCE = 2  # runs at a time, of one thread each: two do a fifth more than one run of two threads

# What all runs of a study share, and what each changes; NAME=VALUE as train.py takes them.
COMMON = (
    "NETWORKS=segnet_dsc IMAGE_SIZE=64 SIZES=1 VALIDATION_SHARE=0.1 TRAIN_SHARE=0.3333 THREADS=1 "
    "BATCH_SIZE=8 LEARNING_RATE=2e-3 LOSS=ce+iou HEAD=linear SCHEDULE=one_cycle WARM_UP=0.2 OPTIMIZER=adamw"
)
AT_128 = "NETWORKS=segnet_dsc IMAGE_SIZE=128 VALIDATION_SHARE=0.1 THREADS=1 ZOOM=0.2 ROTATION=10.0"
SPRINT = " ".join(changed(COMMON, "IMAGE_SIZE=128 TRAIN_SHARE=1 EPOCHS=1,6 SIZES=0.5,0.5,0.75,1,1"))
LITE0 = "ENCODER=tf_efficientnet_lite0 SKIP_FEATURES=True SIZES=0.5,0.75,1 EPOCHS=1,13 ENCODER_RATE=0.1"
BASES = {
    "short": f"{COMMON} EPOCHS=1,6",
    "rates": f"{COMMON} EPOCHS=1,6".replace("segnet_dsc", "segnet"),
    "long": f"{COMMON} EPOCHS=1,25",
    "moved": f"{COMMON} EPOCHS=1,25 ZOOM=0.2 ROTATION=10.0",
    "encoder": (
        "NETWORKS=segnet_dsc ENCODER=tf_efficientnet_lite0 SKIP_FEATURES=True IMAGE_SIZE=128 SIZES=0.5,0.75,1 "
        "VALIDATION_SHARE=0.1 TRAIN_SHARE=0.3333 THREADS=1 EPOCHS=1,13 ZOOM=0.2 ROTATION=10.0 ENCODER_RATE=0.1"
    ),
    "sprint": SPRINT,
    "sprint_segnet": " ".join(changed(SPRINT, "NETWORKS=segnet EPOCHS=1,3 SIZES=0.5,1")),
    "record": f"{AT_128} SIZES=0.5,0.5,0.75,1 EPOCHS=1,41 LOSS=ce+dice",
    "tuned": f"{AT_128} {LITE0}",
}
SCRIPTS = {"moved": "experiments.levers"}  # in place of train.py
LEVERS = {
    # The base, and what it would be without each of its levers
    "short": ("", "OPTIMIZER=muon", "LOSS=ce", "LOSS=iou", "HEAD=original", "SCHEDULE=step", "BATCH_SIZE=16"),
    # What full 3x3 convolutions of SegNet want
    "rates": ("", "FULL_CONV_RATE=1.0", "OPTIMIZER=muon"),
    # What runs want that are long enough to learn the images by heart
    "long": ("", "ZOOM=0.2 ROTATION=10.0"),
    # What else they might want; what no constant of train.py asks for is in levers.py
    "moved": (
        "",
        "ZOOM=0.4 ROTATION=20.0",
        "JITTER=0.5",
        "WEIGHT_DECAY=0.1",
        "SMOOTHING=0.1",
        "BORDER_WEIGHT=2.0",
        "LOSS=ce+dice",
        "LOSS=ce+dice OPTIMIZER=muon",
        "LOSS=ce+lovasz",
        "LOSS=ce+iou+lovasz",
        "DROPOUT=0.2",
        "COARSE=0.2",
        "AVERAGE=0.998",
    ),
    # How much a pretrained encoder should learn
    "encoder": ("", "FREEZE_ENCODER=True"),
    # How short a recipe may be that is as good as the original's
    "sprint": (
        "",
        "EPOCHS=1,4 SIZES=0.5,0.75,1",
        "EPOCHS=1,5 SIZES=0.5,0.5,0.75,1",
        "EPOCHS=1,5 SIZES=0.5,0.5,0.75,1 LOSS=ce+dice",
        "EPOCHS=1,5 SIZES=0.5,0.5,0.75,1 LOSS=ce",
        "EPOCHS=1,5 SIZES=0.5,0.5,0.75,1 LEARNING_RATE=4e-3",
        "EPOCHS=1,5 SIZES=0.5,0.5,0.75,1 LOSS=ce+dice BATCH_SIZE=4",
        "EPOCHS=1,5 SIZES=0.5,0.5,0.75,1 LOSS=ce+dice LEARNING_RATE=4e-3",
        "EPOCHS=1,5 SIZES=0.5,0.75,0.75,1 LOSS=ce+dice LEARNING_RATE=4e-3",
        "EPOCHS=1,4 SIZES=0.5,0.5,1 LOSS=ce+dice OPTIMIZER=muon JITTER=0.0",
        "EPOCHS=1,4 SIZES=0.5,0.625,1 LOSS=ce+dice OPTIMIZER=muon JITTER=0.0",
        "EPOCHS=1,4 SIZES=0.5,0.625,1 LOSS=ce+dice OPTIMIZER=muon JITTER=0.0 TRAIN_SHARE=0.85",
        "EPOCHS=1,4 SIZES=0.5,0.625,1 LOSS=ce+dice OPTIMIZER=muon JITTER=0.0 TRAIN_SHARE=0.75",
        "EPOCHS=1,4 SIZES=0.5,0.5,1 LOSS=ce OPTIMIZER=muon JITTER=0.0",
        "EPOCHS=1,3 SIZES=0.625,1 LOSS=ce+dice OPTIMIZER=muon",
        "EPOCHS=1,3 SIZES=0.625,1 LOSS=ce+dice OPTIMIZER=muon JITTER=0.0",
        "EPOCHS=1,3 SIZES=0.625,1 LOSS=ce+dice OPTIMIZER=muon JITTER=0.0 BATCH_SIZE=6",
        "EPOCHS=1,3 SIZES=0.5,1 LOSS=ce+dice OPTIMIZER=muon JITTER=0.0 BATCH_SIZE=6",
        "EPOCHS=1,3 SIZES=0.5,1 LOSS=ce+dice OPTIMIZER=muon JITTER=0.0 BATCH_SIZE=6 MUON_RATE=8.0",
        "EPOCHS=1,3 SIZES=0.5,1 LOSS=ce+dice OPTIMIZER=muon JITTER=0.0 BATCH_SIZE=6 WARM_UP=0.1",
    ),
    "sprint_segnet": (
        "",
        "EPOCHS=1,2 SIZES=1",
        "TRAIN_SHARE=0.8",
        "LOSS=ce+dice OPTIMIZER=muon JITTER=0.0 TRAIN_SHARE=0.18",
        "LOSS=ce+dice OPTIMIZER=muon JITTER=0.0 TRAIN_SHARE=0.35",
        "LOSS=ce+dice OPTIMIZER=muon JITTER=0.0 TRAIN_SHARE=0.25",
    ),
    # What the longest runs want, at their own size
    "record": (
        "",
        "LOSS=ce+iou",
        "LEARNING_RATE=4e-3",
        "WEIGHT_DECAY=0.05",
        "EPOCHS=1,101",
        "EPOCHS=1,101 ZOOM=0.4 ROTATION=20.0",
    ),
    # What a pretrained encoder wants: loss, rate, sizes and length; and a larger one
    "tuned": (
        "",
        "LOSS=ce+dice",
        "LOSS=ce+dice ENCODER_RATE=0.3",
        "LOSS=ce+dice FREEZE_ENCODER=True",
        "LOSS=ce+dice SIZES=1",
        "LOSS=ce+dice ENCODER=tf_efficientnet_lite2",
        "LOSS=ce+dice EPOCHS=1,25",
        "LOSS=ce+dice EPOCHS=1,49",
        "LOSS=ce+dice EPOCHS=1,49 ZOOM=0.4 ROTATION=20.0",
        "LOSS=ce+dice OPTIMIZER=muon",
    ),
}


def main() -> None:
    settings.check(globals(), {"STUDIES": tuple(LEVERS)}, {"AT_ONCE": (1, math.inf)})
    path = pets.published_folder() / "study.jsonl"
    lines = results.lines_of(path.name, path.parent)
    lines = [line for line in lines if (line.get("version"), line.get("data")) == (results.VERSION, pets.data_name())]
    here = machine.about()["machine"]
    done = {(line["setting"], line["base"], line["seed"]) for line in lines if ELSEWHERE or line["machine"] == here}
    wanted = [(study, setting, seed) for study in STUDIES for seed in SEEDS for setting in LEVERS[study]]
    missing = [
        (study, setting, seed)
        for study, setting, seed in wanted
        if fnmatch.fnmatchcase(setting, ONLY) and (setting, BASES[study], seed) not in done
    ]
    for line in trials.at_once(AT_ONCE, try_setting, missing):
        results.add_line(path, line)


def try_setting(study: str, setting: str, seed: int) -> dict[str, object]:
    """Trains once; returns the last epoch's results on the validation tenth and what led to them."""
    arguments = [*changed(" ".join(changed(FORMER, BASES[study])), setting), f"SEED={seed}"]
    script = SCRIPTS.get(study, "train.py")
    found = trials.validated(f"study-in-progress-{study} {seed} {setting}", arguments, script)
    line = {"study": study, "setting": setting, "version": results.VERSION, "base": BASES[study], "seed": seed, **found}
    return line | {"data": pets.data_name(), "script": script}


if __name__ == "__main__":
    settings.run(main, pets)
