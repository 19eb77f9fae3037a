"""The rows that compare.py makes and findings.py reads, each by the constants that it was trained with."""

import itertools
from typing import NamedTuple

import fetch_oxford_iiit_pets as pets
import train
from common import results, settings
from common.results import Row
from dataset import augment
from pretrained import full_name

# What train.py had as its own until Muon and Dice: rows and lines from before that name neither
FORMER = "LOSS=ce+iou OPTIMIZER=adamw"
# Separable networks at 64 px on a third of the images: what each change costs and brings. `tasks` has all of them train
# in float32, so that rows of one machine can stand beside those of another
STUDY = f"NETWORKS=segnet_dsc IMAGE_SIZE=64 SIZES=1 TRAIN_SHARE=0.3333 EPOCHS=1,6 THREADS=1 {FORMER}"
VARIANTS = {
    "segnet_dsc": "",
    "unet_dsc": "NETWORKS=unet_dsc",
    "bilinear_dsc": "NETWORKS=bilinear_dsc",
    "bilinear_maps_dsc": "NETWORKS=bilinear_maps_dsc",
    "segnet_maps_dsc": "NETWORKS=segnet_maps_dsc",
    "fifth-stage": "STAGES=5",
    "original-head": "HEAD=original",
    "cross-entropy": "LOSS=ce",
    "iou-loss": "LOSS=iou",
}
SEEDS = (0, 1, 2)  # of each variant
ORIGINAL = (
    "LOSS=ce HEAD=original SIZES=1 BATCH_SIZE=16 OPTIMIZER=adam LEARNING_RATE=1e-3 FULL_CONV_RATE=1.0 SCHEDULE=step "
    "PRECISION=float32"
)
FORTY = "EPOCHS=1,41 SIZES=0.5,0.5,0.75,1 ZOOM=0.2 ROTATION=10.0"
RECORD = "EPOCHS=1,101 SIZES=0.5,0.5,0.75,1 ZOOM=0.4 ROTATION=20.0"
ON_LITE2 = "ENCODER=tf_efficientnet_lite2 SKIP_FEATURES=True"
LITE2 = f"{ON_LITE2} SIZES=0.5,0.75,1 ZOOM=0.2 ROTATION=10.0"
TUNED = f"ENCODER=tf_efficientnet_lite0 EPOCHS=1,13 SIZES=0.5,0.75,1 ZOOM=0.2 ROTATION=10.0 {FORMER}"
FULL = (  # at 128 px, but for runs that end in -256: group, name of the run, networks, what it changes
    ("full", "defaults", "segnet_dsc,segnet,unet_dsc", ""),
    ("larger", "defaults-256", "segnet_dsc", "IMAGE_SIZE=256"),
    ("larger", "defaults-enlarged", "segnet_dsc", "ENLARGE=2"),
    ("full", "fifth-stage", "segnet_dsc", "STAGES=5"),
    ("forty", "record40", "segnet", f"{FORTY} {FORMER}"),
    ("muon", "muon40", "segnet_dsc,segnet,unet_dsc", FORTY),
    ("record", "record100", "segnet_dsc,segnet,unet_dsc", f"{RECORD} OPTIMIZER=adamw"),
    ("encoder", "lite0", "segnet_dsc,segnet", f"{TUNED} SKIP_FEATURES=True"),
    ("encoder", "lite0-frozen", "segnet_dsc,segnet", f"{TUNED} SKIP_FEATURES=True FREEZE_ENCODER=True"),
    ("encoder", "lite0-no-skips", "segnet_dsc,segnet", TUNED),
    ("encoder", "lite0-256", "segnet_dsc", f"{TUNED} SKIP_FEATURES=True IMAGE_SIZE=256"),
    ("encoder", "lite2-5", "segnet_dsc", ON_LITE2),
    ("encoder", "lite2-5-random", "segnet_dsc", f"{ON_LITE2} ENCODER_WEIGHTS=random ENCODER_RATE=1.0"),
    ("encoder", "lite2-5-256", "segnet_dsc", f"{ON_LITE2} IMAGE_SIZE=256"),
    ("encoder", "lite2-5-enlarged", "segnet_dsc", f"{ON_LITE2} ENLARGE=2"),
    ("encoder", "lite2", "segnet_dsc", f"{LITE2} EPOCHS=1,49 OPTIMIZER=adamw"),
    ("encoder", "lite2-muon", "segnet_dsc", f"{LITE2} EPOCHS=1,37"),
    ("encoder", "lite2-256", "segnet_dsc", f"{LITE2} EPOCHS=1,31 IMAGE_SIZE=256"),
    ("clock", "original", "segnet_dsc,segnet", ORIGINAL),
    ("clock", "sprint-muon", "segnet_dsc", "EPOCHS=1,3 SIZES=0.5,1 BATCH_SIZE=6 JITTER=0.0"),
    ("clock", "sprint-larger", "segnet_dsc", "EPOCHS=1,4 SIZES=0.5,0.625,1 JITTER=0.0"),
    ("clock", "sprint-18", "segnet", "EPOCHS=1,3 SIZES=0.5,1 JITTER=0.0 TRAIN_SHARE=0.18"),
    ("clock", "sprint-35", "segnet", "EPOCHS=1,3 SIZES=0.5,1 JITTER=0.0 TRAIN_SHARE=0.35"),
    # the two for machines without fast bfloat16
    ("clock", "sprint-18-float32", "segnet", "EPOCHS=1,3 SIZES=0.5,1 JITTER=0.0 TRAIN_SHARE=0.18 PRECISION=float32"),
    ("clock", "sprint-larger-float32", "segnet_dsc", "EPOCHS=1,4 SIZES=0.5,0.625,1 JITTER=0.0 PRECISION=float32"),
)
PICTURED = ("record100", "lite2", "lite2-256")  # whose weights are published: seed 0 is tested by breed, with pictures
IGNORED = {"THREADS", "DATASET"}  # constants that a row may have had otherwise


class Task(NamedTuple):
    group: str  # "study", or one of FULL's; "curve" of curve.py
    variant: str  # what tables call it
    run: str
    arguments: tuple[str, ...]  # NAME=VALUE for train.py

    @property
    def network(self) -> str:
        """What rows call the network that the arguments ask for."""
        of = dict(argument.split("=", 1) for argument in self.arguments)
        return full_name(of["NETWORKS"], of.get("ENCODER", ""))

    @property
    def alone(self) -> bool:
        """With all threads, and weights kept; or one of many at a time, of which the row is kept."""
        return self.group not in ("study", "curve")

    @property
    def pictured(self) -> bool:
        return self.run in PICTURED


def tasks() -> list[Task]:
    found = [
        Task("study", name, f"study-{name}-{seed}", (*changed(STUDY, setting), "PRECISION=float32", f"SEED={seed}"))
        for seed in SEEDS
        for name, setting in VARIANTS.items()
    ]
    for group, run, networks, setting in FULL:
        for network, seed in itertools.product(networks.split(","), SEEDS):
            variant = network if run in ("defaults", "record40", "record100", "muon40") else run
            arguments = (f"NETWORKS={network}", *setting.split(), f"SEED={seed}")
            found.append(Task(group, variant, run if seed == 0 else f"{run}-{seed}", arguments))
    return found


def changed(base: str, setting: str) -> list[str]:
    """The constants of `base`, NAME=VALUE each, with those of `setting` in their place or behind them."""
    names = {argument.partition("=")[0] for argument in setting.split()}
    return [argument for argument in base.split() if argument.partition("=")[0] not in names] + setting.split()


def row_of(task: Task, rows: list[Row]) -> Row | None:
    """The newest row that was trained with the task's constants, to their end, by this version of the code, or None.

    rows: all on the same data.
    """
    wanted, defaults = constants_of(task.arguments), constants_of(())
    for row in reversed(rows):
        if (row["network"], row.get("version"), row.get("mirror")) != (task.network, results.VERSION, False):
            continue
        had = defaults | row["constants"]
        if had["PRECISION"] == "auto" != wanted["PRECISION"]:
            had["PRECISION"] = row.get("train_precision") or row["precision"]  # what that machine took
        if (
            had.keys() <= wanted.keys() | IGNORED  # and not by levers.py
            and row["epochs"] == wanted["EPOCHS"][1] - 1
            and all(had[name] == value for name, value in wanted.items())
        ):
            return row
    return None


def constants_of(arguments: tuple[str, ...]) -> dict[str, object]:
    """All constants that decide the weights, as train.py would have them with these arguments."""
    found = {}
    for module in (pets, augment, train):
        found |= settings.defaults(module)
    for argument in arguments:
        name, _, text = argument.partition("=")
        found[name] = settings.parse(name, text, found[name])
    return {name: as_lists(found[name]) for name in train.constants().keys() - IGNORED}


def as_lists(value: object) -> object:
    """As JSON has it, which knows no tuples."""
    return list(value) if isinstance(value, tuple) else value
