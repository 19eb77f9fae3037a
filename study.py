"""Tries settings of the training recipe against each other on the validation tenth, and keeps every result.

    python study.py NAME NAME=VALUE ...       tries one setting: train.py's constants, three seeds

Runs are of the separable network at 64 px on a third of the training photographs, so that one takes a minute
or two. Each leaves a line in outputs/published/study.jsonl, good or bad.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from files import append_line

BASE = ("NETWORKS=segnet_dsc", "IMAGE_SIZE=64", "SIZES=64", "VALIDATION_SHARE=0.1", "TRAIN_SHARE=0.3333")
SEEDS = (0, 1, 2)
STUDY = Path("outputs/published/study.jsonl")


def try_setting(label: str, constants: list[str], seed: int) -> dict[str, object]:
    """Trains once with these constants and returns the line for the study."""
    arguments = [*BASE, *constants, f"SEED={seed}", f"RUN=study/{label}-{seed}"]
    start = time.perf_counter()
    subprocess.run([sys.executable, "train.py", *arguments], check=True, capture_output=True)
    outputs = next((a.partition("=")[2] for a in arguments if a.startswith("OUTPUTS=")), "outputs")
    history = Path(outputs, "study", f"{label}-{seed}", "segnet_dsc", "history.csv")
    names, *rows = (line.split(",") for line in history.read_text().splitlines())
    figures = {k: round(float(v), 5) for k, v in zip(names, rows[-1]) if k.startswith(("validation", "loss"))}
    seconds = round(time.perf_counter() - start, 1)
    return {"label": label, "constants": constants, "seed": seed, **figures, "seconds": seconds}
