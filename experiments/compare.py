"""Compares networks by training and testing what outputs/published/results.jsonl lacks; draws accuracy against cost.

    python -m experiments.compare                                all groups of rows below, hours on a laptop
    python -m experiments.compare GROUPS=study DATA_ROOT=/data   constants of this file

Every row is tested on the official test split; nothing here chooses constants for training.
"""

import shutil
from typing import NamedTuple

import fetch_oxford_iiit_pets as pets
from common import results, settings
from common.settings import UserError
from experiments import charts, findings, trials
from pretrained import full_name

GROUPS = ("study", "full", "labels")  # what is compared; see tasks()
SEEDS = (0, 1, 2)  # of each row of "study"
AT_ONCE = 2  # runs at a time, of one thread each; those of "full" run alone, with all threads

# Separable networks at 64 px on a third of the images: what each change costs and brings
STUDY = "NETWORKS=segnet_dsc IMAGE_SIZE=64 SIZES=64 TRAIN_SHARE=0.3333 EPOCHS=1,6 THREADS=1"
VARIANTS = {
    "segnet_dsc": "",
    "fifth-stage": "STAGES=5",
    "original-head": "HEAD=original",
    "cross-entropy": "LOSS=ce",
    "iou-loss": "LOSS=iou",
    "unet_dsc": "NETWORKS=unet_dsc",
}
# The default recipe at 128 px: names of runs, and what each changes
FULL = (
    ("defaults", "NETWORKS=segnet_dsc"),
    ("defaults", "NETWORKS=segnet"),
    ("defaults", "NETWORKS=unet_dsc"),
    ("fifth-stage", "NETWORKS=segnet_dsc STAGES=5"),
)
# What pretraining is worth in labelled images: 1380 steps of 8 each
LABELS = "NETWORKS=segnet_dsc IMAGE_SIZE=96 SIZES=64,64,96 THREADS=1"
ENCODERS = {
    "segnet_dsc": "",
    "lite0-random": "ENCODER=tf_efficientnet_lite0 ENCODER_WEIGHTS=random ENCODER_RATE=1.0",
    "lite0-pretrained": "ENCODER=tf_efficientnet_lite0",
}
SHARES = {0.1: "TRAIN_SHARE=0.1 EPOCHS=1,31", 0.3: "TRAIN_SHARE=0.3 EPOCHS=1,11", 1.0: "TRAIN_SHARE=1.0 EPOCHS=1,4"}


class Task(NamedTuple):
    run: str
    network: str  # as rows name it
    arguments: list[str]  # NAME=VALUE for train.py
    alone: bool  # with all threads, pictures and weights kept; or one of many at a time, of which the row is kept


def main() -> None:
    if AT_ONCE < 1:
        raise UserError("AT_ONCE is at least 1")
    if unknown := set(GROUPS) - {"study", "full", "labels"}:
        raise UserError(f"GROUPS={','.join(unknown)}: there are study, full, labels")
    folder = pets.published_folder()
    done = {(row["run"], row["network"]) for row in results.rows(folder)}
    missing = [task for task in tasks() if (task.run, task.network) not in done]
    print(f"{len(missing)} rows are missing: {', '.join(task.run for task in missing) or 'none'}", flush=True)
    make_caches(missing)
    for n, alone in ((AT_ONCE, False), (1, True)):
        for run in trials.at_once(n, train_and_test, [(task,) for task in missing if task.alone == alone]):
            print(f"{run} is done", flush=True)
    rows = results.rows(folder)
    charts.save_comparison(folder / "comparison.png", findings.comparison(rows))
    charts.save_labels(folder / "labels.png", findings.labels(rows))


def tasks() -> list[Task]:
    """All rows of GROUPS."""
    found = []
    if "study" in GROUPS:
        for seed in SEEDS:
            for name, setting in VARIANTS.items():
                arguments = [*trials.changed(STUDY, setting), f"SEED={seed}"]
                found.append(Task(f"study-{name}-{seed}", network_in(arguments), arguments, False))
    if "labels" in GROUPS:
        for share, setting in SHARES.items():
            for name, encoder in ENCODERS.items():
                arguments = trials.changed(LABELS, f"{setting} {encoder}")
                found.append(Task(f"labels-{name}-{share}", network_in(arguments), arguments, False))
    if "full" in GROUPS:
        found += [Task(run, network_in(setting.split()), setting.split(), True) for run, setting in FULL]
    return found


def network_in(arguments: list[str]) -> str:
    """What rows call the network that these constants of train.py ask for."""
    of = dict(argument.split("=", 1) for argument in arguments)
    return full_name(of["NETWORKS"], of.get("ENCODER", ""))


def make_caches(missing: list[Task]) -> None:
    """Decodes all images at the sizes that runs will ask for, so that runs at the same time don't."""
    sizes = {a.removeprefix("IMAGE_SIZE=") for task in missing for a in task.arguments if a.startswith("IMAGE_SIZE=")}
    for size in {pets.IMAGE_SIZE, *map(int, sizes)}:
        for split in ("trainval", "test"):
            pets.load(split, size)


def train_and_test(task: Task) -> str:
    trials.run("train.py", *task.arguments, f"RUN={task.run}")
    kept = [a for a in task.arguments if a.startswith(("IMAGE_SIZE=", "THREADS="))]
    kept += ["PUBLISH=True", "BASELINE=False"]
    kept += [] if task.alone else ["EXAMPLES=0"]
    trials.run("test.py", *kept, f"RUN={task.run}", f"NETWORKS={task.network}")
    if not task.alone:
        shutil.rmtree(pets.outputs_folder() / task.run)
    return f"{task.run}, {task.network}"


if __name__ == "__main__":
    settings.run(main, pets)
