"""The scripts as a user runs them, on drawn pets; and training that is stopped and resumed."""

import csv
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import PHOTOGRAPHS, ROOT

import pretrained
import test as testing
import train
from common import machine, settings
from common.cost import multiply_adds
from common.settings import UserError
from experiments import report, tables

QUICK = ("DATASET=toy", "IMAGE_SIZE=32", "SIZES=1", "BATCH_SIZE=16", "THREADS=1")


def test_train_then_test_end_to_end(script, tmp_path):
    script("train.py", *QUICK, "EPOCHS=1,3", "VALIDATION_SHARE=0.25")
    folder = tmp_path / "toy" / "default"
    for network in ("segnet", "segnet_dsc"):
        names = {path.name for path in (folder / network).iterdir()}
        assert names == {"epoch_01.pt", "epoch_02.pt", "state.pt", "history.csv", "curves.png", "lock"}
        rows = list(csv.DictReader((folder / network / "history.csv").open()))
        assert [row["epoch"] for row in rows] == ["1", "2"]
        assert 0 < float(rows[1]["validation_pixel_accuracy"]) < 1
    printed = script("test.py", *QUICK[:2])
    assert "all_background" in printed
    rows = [json.loads(line) for line in (tmp_path / "toy" / "results.jsonl").read_text().splitlines()]
    assert [row["network"] for row in rows] == ["all_background", "segnet", "segnet_dsc"]
    row = rows[2]
    assert (row["data"], row["train_images"], row["test_images"], row["epochs"]) == ("toy", 36, 24, 2)
    assert 0 < row["train_seconds"] < 100
    assert row["command"].startswith("python train.py")
    assert all((folder / "segnet_dsc" / f"{kind}.png").stat().st_size > 10_000 for kind in ("best", "typical", "worst"))
    script("experiments.report", "DATASET=toy")
    report = (tmp_path / "toy" / "report.html").read_text()
    assert report.count("<img ") == 2 * 5  # curves, confusion, best, typical and worst of each network
    assert "http" not in report  # self-contained
    assert all(breed.replace("_", " ") in report for breed in row["by_breed"])
    assert f"{row['by_species']['cat']['mean_iou']:.4f}" in report
    pytest.importorskip("torchmetrics")
    script("test.py", *QUICK[:2], "NETWORKS=segnet_dsc", "USE_TORCHMETRICS=True")
    other = json.loads((tmp_path / "toy" / "results.jsonl").read_text().splitlines()[-1])
    for name in ("pixel_accuracy", "iou"):
        assert other[name] == pytest.approx(row[name], abs=1e-6)


def test_a_network_that_enlarges_its_images_is_trained_and_tested_as_any_other(script, tmp_path):
    constants = ("DATASET=toy", "IMAGE_SIZE=32", "NETWORKS=segnet_dsc", "THREADS=1")
    script("train.py", *constants, "ENLARGE=2", "SIZES=0.5,1", "EPOCHS=1,3", "RUN=enlarged")
    printed = script("test.py", *constants, "RUN=enlarged", "EXAMPLES=0", "BASELINE=False")
    assert "row of segnet_dsc added" in printed
    row = json.loads((tmp_path / "toy" / "results.jsonl").read_text())
    assert row["constants"]["ENLARGE"] == 2 and row["image_size"] == 32
    assert row["multiply_adds"] == multiply_adds(pretrained.build("segnet_dsc"), 64)
    checkpoint = f"CHECKPOINT={tmp_path}/toy/enlarged/segnet_dsc/epoch_02.pt"
    assert "takes 8 to 512 px" in script("predict.py", str(PHOTOGRAPHS), checkpoint, "INPUT=513", fails=True)
    assert "8 of 8 images" in script("predict.py", str(PHOTOGRAPHS), checkpoint, "TILES=2", "THREADS=1")


def test_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(script, tmp_path):
    """And another seed does not."""
    constants = (*QUICK, "NETWORKS=segnet_dsc", "VALIDATION_SHARE=0.0")
    script("train.py", *constants, "RUN=whole", "EPOCHS=1,5")
    script("train.py", *constants, "RUN=seed", "EPOCHS=1,5", "SEED=1")
    folder = tmp_path / "toy/parts/segnet_dsc"
    command = [sys.executable, ROOT / "train.py", *constants, "RUN=parts", "EPOCHS=1,5", f"OUTPUTS={tmp_path}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (folder / "state.pt").exists() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert not (folder / "epoch_04.pt").exists()
    printed = script("train.py", *constants, "RUN=parts", "EPOCHS=1,5")
    assert "going on after epoch" in printed
    whole, parts, seed = (
        torch.load(tmp_path / f"toy/{run}/segnet_dsc/epoch_04.pt", weights_only=True)["weights"]
        for run in ("whole", "parts", "seed")
    )
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert not all(torch.equal(whole[key], seed[key]) for key in whole)


def test_mistakes_are_one_line(script, tmp_path):
    assert "EPOCHS" in script("train.py", "EPOCH=3", fails=True)
    assert "expected int" in script("train.py", "BATCH_SIZE=many", fails=True)
    assert "e.g. EPOCHS=1,6" in script("train.py", "EPOCHS=5", fails=True)
    assert "SIZES is from 0.01 to 1" in script("train.py", "SIZES=64,128", fails=True)
    assert "ZOOM is from 0 to 0.9" in script("train.py", "ZOOM=40", fails=True)
    assert "at least 16 px" in script("fetch_oxford_iiit_pets.py", *QUICK[:1], "IMAGE_SIZE=8", fails=True)
    assert "at most 4096 px" in script("train.py", *QUICK[:1], "IMAGE_SIZE=1000000", "SIZES=1", fails=True)
    assert "train first" in script("test.py", "DATASET=toy", fails=True)
    assert "there are segnet, segnet_dsc, unet, unet_dsc" in script("train.py", *QUICK, "NETWORKS=vnet", fails=True)
    assert "stages is 4 or 5" in script("train.py", *QUICK, "STAGES=7", fails=True)
    assert "THREADS=-1" in script("test.py", "DATASET=toy", "THREADS=-1", fails=True)
    assert "EPOCHS=6,9 needs epoch 5" in script("train.py", *QUICK, "EPOCHS=6,9", fails=True)
    for run in ("", "published", "../elsewhere", "a/b", ".."):
        assert "it names a folder in outputs" in script("train.py", *QUICK, f"RUN={run}", fails=True)
        assert "it names a folder in outputs" in script("test.py", "DATASET=toy", f"RUN={run}", fails=True)
    assert "SEED is from 0" in script("train.py", *QUICK, "SEED=-1", fails=True)
    assert "there are ce, iou, dice, ce+iou, ce+dice" in script("train.py", *QUICK, "LOSS=lovasz", fails=True)
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
    assert "give its parent" in script("train.py", f"DATA_ROOT={tmp_path}", fails=True)
    script("train.py", *QUICK, "NETWORKS=segnet_dsc", "EPOCHS=1,2")
    message = script("train.py", *QUICK, "NETWORKS=segnet_dsc", "EPOCHS=1,3", "LEARNING_RATE=0.1", fails=True)
    assert f"LEARNING_RATE={train.LEARNING_RATE}" in message and "RUN" in message
    assert "SEED=0" in script("train.py", *QUICK, "NETWORKS=segnet_dsc", "EPOCHS=2,3", "SEED=1", fails=True)
    message = script("test.py", "DATASET=toy", "NETWORKS=segnet_dsc", "IMAGE_SIZE=48", fails=True)
    assert "was trained for IMAGE_SIZE=32" in message
    assert "EXAMPLES is from 0 to 100" in script("test.py", *QUICK[:2], "EXAMPLES=-1", fails=True)
    checkpoint = f"CHECKPOINT={tmp_path}/toy/default/segnet_dsc/epoch_01.pt"  # says itself what it is of
    assert "row of segnet_dsc added" in script("test.py", *QUICK[:2], checkpoint, "EXAMPLES=0")


@pytest.mark.parametrize(("file", "name"), [("epoch_02.pt", "file-my-epoch_02"), ("cache.pt", "file-cache")])
def test_a_row_names_the_file_that_it_is_of(file, name, tmp_path, monkeypatch):
    """From its own folder too."""
    folder = tmp_path / "my" / "segnet"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    for path in (file, f"../segnet/{file}", folder / file):
        monkeypatch.setattr(testing, "CHECKPOINT", str(path))
        assert testing.row_name() == name


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_epochs_before(script, tmp_path):
    constants = (*QUICK, "NETWORKS=segnet_dsc")
    script("train.py", *constants, "EPOCHS=1,2")
    message = script("train.py", *constants, "EPOCHS=2,9", "LEARNING_RATE=1e6", fails=True)
    assert re.search(r"not finite in epoch \d+, step \d+", message)
    newest = max((tmp_path / "toy/default/segnet_dsc").glob("epoch_*.pt"))
    weights = torch.load(newest, weights_only=True)["weights"]
    assert all(tensor.isfinite().all() for tensor in weights.values())


PROGRAMS = [path.name for path in sorted(ROOT.glob("*.py")) if 'if __name__ == "__main__"' in path.read_text()]
EXPERIMENTS = [
    f"experiments.{path.stem}"
    for path in sorted((ROOT / "experiments").glob("*.py"))
    if 'if __name__ == "__main__"' in path.read_text()
]


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_the_docstring_and_every_constant_with_its_comment(script, program, flag):
    printed = script(program, flag)
    module = __import__(program.removesuffix(".py"))
    assert printed.startswith(module.__doc__.splitlines()[0])
    for name, value in settings.constants(module).items():
        assert f"{name}={value if not isinstance(value, tuple) else ''}"[:40] in printed
    if program == "train.py":
        assert re.search(r"^  How$(\n    .*)*\n    BATCH_SIZE=8 +images per step$", printed, re.MULTILINE)
        assert "JITTER=0.3" in printed and "DATA_ROOT=." in printed


def test_what_does_not_fit_on_a_line_is_no_option():
    assert {"SUMMARY", "CARD"} <= vars(tables).keys() and "STYLE" in vars(report)
    assert settings.constants(tables).keys() == {"DOCUMENTS", "ON_DATA"}
    assert settings.constants(report).keys() == {"PUBLISHED", "RUNS", "FILE"}


def test_help_may_be_cut_short():
    """As by `| head -1`: a pipe that nobody reads any longer."""
    reader, writer = os.pipe()
    os.close(reader)
    program = [sys.executable, str(ROOT / "fetch_oxford_iiit_pets.py"), "--help"]
    result = subprocess.run(program, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_experiments_run_as_modules_and_know_their_command(script, monkeypatch, capsys):
    assert len(EXPERIMENTS) >= 8
    for program in EXPERIMENTS:
        monkeypatch.setattr(sys, "argv", [str(ROOT / f"{program.replace('.', '/')}.py"), "--help"])
        assert machine.command() == f"python -m {program} --help"
        runpy.run_module(program, run_name="__main__", alter_sys=True)
        assert f"python -m {program}" in capsys.readouterr().out
    assert "python -m experiments.report" in script("experiments.report", "--help")  # in a process of its own


def test_constants_keep_their_type():
    assert settings.parse("A", "1,6", (1, 2)) == (1, 6)
    assert settings.parse("A", "segnet", ("a", "b")) == ("segnet",)
    assert settings.parse("A", "1e-3", 1.0) == 0.001
    assert settings.parse("A", "2", 1.0) == 2.0
    assert settings.parse("A", "2", "text") == "2"
    for text, default in (("1.5", 1), ("yes", True), ("1", True), ("x,1", (1, 2))):
        with pytest.raises(UserError):
            settings.parse("A", text, default)


def test_a_misspelt_constant_is_answered_with_the_right_one(monkeypatch):
    for name in settings.constants(train):
        with pytest.raises(UserError, match=rf"\b{name}\b"):
            settings.set_constants([f"{name[:-1]}=1"], train, train.pets, train.augment)


@pytest.mark.parametrize("schedule", ["one_cycle", "step"])
def test_schedules_start_within_and_end_low(monkeypatch, schedule):
    monkeypatch.setattr(train, "SCHEDULE", schedule)
    rates = [train.rate_at(i / 1000, 1) for i in range(1000)]
    assert min(rates) > 0 and max(rates) <= 1
    assert max(rates) > 0.99
    assert schedule == "step" or rates[-1] < 0.01
    assert train.rate_at(0.0, 8) == 0.7 or schedule != "step"
