"""The toy data set, drawn once, and a way to run the scripts as a user does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataset.toy_pets import write_toy_pets

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"  # the real data set, where there is one


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory) -> Path:
    """A DATA_ROOT with the toy data in the real layout."""
    root = tmp_path_factory.mktemp("toy")
    write_toy_pets(root / "oxford-iiit-pet")
    return root


@pytest.fixture
def script(tmp_path):
    """script("train.py", "EPOCHS=1,2"), script("experiments.study") -> what it printed; outputs go to tmp_path."""

    def run(name: str, *arguments: str, fails: bool = False) -> str:
        program = [name] if name.endswith(".py") else ["-m", name]
        command = [sys.executable, *program, f"OUTPUTS={tmp_path}", *arguments]
        environment = os.environ | {"PYTHONPATH": ""}
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        assert result.returncode == (1 if fails else 0), result.stderr
        assert "Traceback" not in result.stderr, result.stderr
        if fails:
            lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
            assert len(lines) == 1, result.stderr
            return lines[0]
        return result.stdout

    return run
