"""Runs of train.py and test.py with some constants changed, several at a time, for the other experiments."""

import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import fetch_oxford_iiit_pets as pets
from common import checkpoints
from common.files import REPOSITORY
from common.settings import UserError
from test import of_all_legs


def data_constants() -> list[str]:
    """Which data this process works on and where its outputs go, NAME=VALUE each, for a script that it starts."""
    return [f"{name}={getattr(pets, name)}" for name in ("DATASET", "DATA_ROOT", "OUTPUTS")]


def run(script: str, *arguments: str, ranks: int = 1) -> str:
    """Runs a script on the same data, to its end; returns what it printed. Raises UserError with its last line.

    script: "train.py", or a module such as "experiments.levers"; ranks: processes that run it together.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    program = [str(REPOSITORY / script)] if script.endswith(".py") else ["-m", script]
    command = [sys.executable, *launcher, *program, *data_constants(), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["it was stopped"]
        own = [line for line in lines if line.startswith("error: ")]  # before what the launcher says of it
        raise UserError(f"python {script} {' '.join(arguments)}: {(own or lines)[-1]}")
    return result.stdout


def validated(name: str, arguments: list[str], script: str = "train.py") -> dict[str, object]:
    """Trains once, in a folder of that name that is removed; returns what `finished` says of it.

    Raises UserError if another process is training there.
    """
    folder = pets.outputs_folder() / re.sub(r"[^\w.+-]", "_", name)
    remove(folder)
    run(script, *arguments, f"RUN={folder.name}")
    found = finished(folder)
    remove(folder)
    return found


def remove(folder: Path) -> None:
    """Deletes a run, which an experiment may have left that was stopped. Raises UserError if it is running."""
    for of_network in list(folder.glob("*/")):
        with checkpoints.lock(of_network):
            shutil.rmtree(of_network)
    shutil.rmtree(folder, ignore_errors=True)


def finished(folder: Path) -> dict[str, object]:
    """What is known of a run of one network: the last epoch's results, and what its checkpoint says of its training."""
    (of_network,) = folder.glob("*/")
    saved = checkpoints.load_file(checkpoints.weights_path(of_network, checkpoints.newest_epoch(of_network)))
    return last_epoch(folder) | {"seconds": round(saved["train_seconds"])} | of_all_legs(saved)


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
