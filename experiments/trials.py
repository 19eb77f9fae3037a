"""Runs of train.py and test.py with some constants changed, several at a time, for the other experiments."""

import csv
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import fetch_oxford_iiit_pets as pets
from common import checkpoints
from common.files import REPOSITORY
from common.settings import UserError


def data_constants() -> list[str]:
    """Which data this process works on and where its outputs go, NAME=VALUE each, for a script that it starts."""
    return [f"{name}={getattr(pets, name)}" for name in ("DATASET", "DATA_ROOT", "OUTPUTS")]


def run(script: str, *arguments: str) -> str:
    """Runs a script on the same data, to its end; returns what it printed. Raises UserError with its last line.

    script: "train.py", or a module such as "experiments.levers".
    """
    program = [str(REPOSITORY / script)] if script.endswith(".py") else ["-m", script]
    command = [sys.executable, *program, *data_constants(), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["it was stopped"])[-1]
        raise UserError(f"python {script} {' '.join(arguments)}: {last}")
    return result.stdout


def validated(name: str, arguments: list[str], script: str = "train.py") -> dict[str, float]:
    """Trains once, in a folder of that name that is removed; returns the last epoch's loss and validation results.

    Raises UserError if another process is training there.
    """
    folder = pets.outputs_folder() / re.sub(r"[^\w.+-]", "_", name)
    for old in list(folder.glob("*/")):  # of an experiment that was stopped
        with checkpoints.lock(old):  # or is running
            shutil.rmtree(old)
    start = time.perf_counter()
    run(script, *arguments, f"RUN={folder.name}")
    seconds = time.perf_counter() - start
    found = last_epoch(folder)
    shutil.rmtree(folder)
    return found | {"seconds": round(seconds, 1)}


def last_epoch(folder: Path) -> dict[str, float]:
    """The last epoch's loss and validation results, of the one network in a run's folder."""
    (history,) = folder.glob("*/history.csv")
    with open(history, newline="") as file:
        *_, last = csv.DictReader(file)
    return {name: round(float(value), 5) for name, value in last.items() if name.startswith(("loss", "validation"))}


def at_once(n: int, work: Callable[..., Any], tasks: Iterable[tuple]) -> Iterator[Any]:
    """work(*task) for each task, n at a time; results as they come, and the first error when all have ended."""
    failed = None
    with ThreadPoolExecutor(n) as pool:
        pending = [pool.submit(work, *task) for task in tasks]
        try:
            for done in as_completed(pending):
                if error := done.exception():
                    failed = failed or error
                else:
                    yield done.result()
        finally:  # after Ctrl-C nothing new is begun
            for future in pending:
                future.cancel()
    if failed:
        raise failed
