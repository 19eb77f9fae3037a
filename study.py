"""Tries settings of the training recipe against each other on the validation tenth, and keeps every result.

    python study.py                 trains what outputs/published/study.jsonl lacks
    python study.py DATA_ROOT=/data SEEDS=0       constants of this file

Each run trains the separable network at 64 px on a third of the training photographs, in a minute or two, and
leaves a line, good or bad. The test split is never read.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import machine
import settings
from files import append_line
from settings import UserError

DATA_ROOT = "."  # holds oxford-iiit-pet
SEEDS = (0,)  # each setting is trained once with each
STUDY = "outputs/published/study.jsonl"  # a line a run

# What all runs share, and what each changes; NAME=VALUE as train.py takes them.
BASE = (
    "NETWORKS=segnet_dsc IMAGE_SIZE=64 SIZES=64 VALIDATION_SHARE=0.1 TRAIN_SHARE=0.3333 EPOCHS=1,6 "
    "BATCH_SIZE=8 LEARNING_RATE=2e-3 LOSS=ce HEAD=linear SCHEDULE=one_cycle WARM_UP=0.2 OPTIMIZER=adamw"
)
SETTINGS = (
    "",
    "NETWORKS=segnet",
    "NETWORKS=segnet FULL_CONV_RATE=0.5",
    "NETWORKS=segnet FULL_CONV_RATE=1.0",
    "LEARNING_RATE=4e-3",
    "BATCH_SIZE=16",
    "LOSS=iou",
    "LOSS=ce+iou",
    "HEAD=original",
    "EPOCHS=1,2 TRAIN_SHARE=1.0",
    "EPOCHS=1,2 TRAIN_SHARE=1.0 PRECISION=float32",
    "BATCH_SIZE=4 LEARNING_RATE=1e-3",
    "BATCH_SIZE=32 LEARNING_RATE=4e-3",
    "OPTIMIZER=adam SCHEDULE=step LEARNING_RATE=1e-3 FULL_CONV_RATE=1.0 BATCH_SIZE=16 HEAD=original",
    "SCHEDULE=trapezoid",
    "SCHEDULE=poly",
    "WEIGHT_DECAY=0.1",
    "JITTER=0.0",
    "ZOOM=0.2 ROTATION=10.0",
)

RUN = Path("outputs", "study-in-progress")  # of the run in progress; removed before the next


def main() -> None:
    path = Path(STUDY)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(line["setting"], line["base"], line["seed"]) for line in lines}
    for seed in SEEDS:
        for setting in SETTINGS:
            if (setting, BASE, seed) not in done:
                line = try_setting(setting, seed)
                append_line(path, json.dumps(line))
                print(json.dumps(line), flush=True)


def try_setting(setting: str, seed: int) -> dict[str, object]:
    """Trains once; returns the last epoch's figures on the validation tenth and what led to them."""
    changed = setting.split()
    changed_names = {argument.partition("=")[0] for argument in changed}
    kept = [argument for argument in BASE.split() if argument.partition("=")[0] not in changed_names]
    command = ["python", "train.py", *kept, *changed, f"SEED={seed}", f"RUN={RUN.name}", f"DATA_ROOT={DATA_ROOT}"]
    network = next(a.removeprefix("NETWORKS=") for a in (*changed, *kept) if a.startswith("NETWORKS="))
    shutil.rmtree(RUN, ignore_errors=True)
    start = time.perf_counter()
    result = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if result.returncode:
        raise UserError(f"{' '.join(command)}: {result.stderr.strip().splitlines()[-1]}")
    names, *rows = (line.split(",") for line in (RUN / network / "history.csv").read_text().splitlines())
    figures = {name: round(float(v), 5) for name, v in zip(names, rows[-1]) if name.startswith(("loss", "validation"))}
    return {"setting": setting, "base": BASE, "seed": seed, **figures, "seconds": round(seconds, 1),
            "commit": machine.commit(), "machine": machine.name()}  # fmt: skip


if __name__ == "__main__":
    settings.run(main)
