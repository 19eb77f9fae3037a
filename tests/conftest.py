"""The toy data set, drawn once, a way to run the scripts as a user does, and what tests of killed runs look at."""

import contextlib
import io
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fetch_oxford_iiit_pets as pets
from common import machine, settings
from common.files import load_file
from dataset import augment
from dataset.toy_pets import write_toy_pets

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"  # the real data set, where there is one
PHOTOGRAPHS = ROOT / "tests" / "photographs"  # eight pairs of its test split, which are always here


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: a process for each core that is ours, at most eight for the sake of memory."""
    return min(8, machine.usable_cores())


def pytest_configure() -> None:
    """Has each worker of pytest-xdist, and what it starts, keep to a core: threads that compete take far longer."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")  # gw0, gw1 ...
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        number = os.getppid() + int(worker.removeprefix("gw"))  # so that another pytest takes other cores
        os.sched_setaffinity(0, {cores[number % len(cores)]})
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory) -> Path:
    """A DATA_ROOT with the toy data in the real layout."""
    root = tmp_path_factory.mktemp("toy")
    write_toy_pets(root / "oxford-iiit-pet")
    return root


@pytest.fixture
def script(tmp_path, monkeypatch):
    """script("train.py", "EPOCHS=1,2") -> what it printed; outputs go to tmp_path.

    It runs in this process, which saves seconds of imports each time, as `__main__` and with a command line of its
    own; what it changes in modules and signals is put back. script("experiments.study") in a process of its own.
    """
    for module in (pets, augment):
        for name, value in settings.constants(module).items():
            monkeypatch.setattr(module, name, value)  # put back after the test
    for name in ("stopping", "saving"):
        monkeypatch.setattr(machine, name, threading.Event())
    was = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(name: str, *arguments: str, fails: bool = False) -> str:
        here = run_here if name.endswith(".py") else run_apart
        for module, constants in defaults.items():
            vars(module).update(constants)
        code, said, errors = here(name, f"OUTPUTS={tmp_path}", *arguments)
        assert code == (1 if fails else 0), errors
        assert "Traceback" not in errors, errors
        if fails:
            lines = [line for line in errors.splitlines() if line.startswith("error: ")]
            assert len(lines) == 1, errors
            return lines[0]
        return said

    defaults = {module: settings.constants(module) for module in (pets, augment)}
    yield run
    for number, handler in was.items():
        signal.signal(number, handler)


def run_here(name: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a script."""
    out, errors, code = io.StringIO(), io.StringIO(), 0
    argv, sys.argv = sys.argv, [str(ROOT / name), *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            runpy.run_path(str(ROOT / name), run_name="__main__")
    except SystemExit as stop:  # Python prints what is no number, and exits with 1
        code = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
        errors.write(stop.code if isinstance(stop.code, str) else "")
    finally:
        sys.argv = argv
    return code, out.getvalue(), errors.getvalue()


def run_apart(name: str, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", name, *arguments]
    environment = os.environ | {"PYTHONPATH": ""}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    return result.returncode, result.stdout, result.stderr


def wait_for(path: Path, *processes: subprocess.Popen) -> None:
    """Until the file is there; fails if a process ends before."""
    while not path.exists():
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        time.sleep(0.005)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two state dicts are equal."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def epochs_in(files: Path) -> int:
    """Complete epochs by the state of a run's folder; raises at any damaged file of a final name."""
    for path in files.glob("[!.]*.pt"):
        load_file(path)
    return len(load_file(files / "state.pt")["history"]) if (files / "state.pt").exists() else 0
