"""Training that is killed, stopped, started twice, or out of space: what must be left, and what must be said."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import ROOT, epochs_in, same, wait_for

import train
from common import machine, results
from common.checkpoints import load_file, write_history
from common.files import append_line, write_atomically
from common.settings import UserError
from dataset.batches import all_of
from dataset.cache import Split

QUICK = ("DATASET=toy", "IMAGE_SIZE=32", "SIZES=1", "BATCH_SIZE=16", "THREADS=1", "NETWORKS=segnet_dsc")


@pytest.fixture
def start(tmp_path):
    """start("RUN=a", ...) -> train.py running on drawn pets, outputs in tmp_path."""
    processes = []

    def run(*constants, **options):
        command = [sys.executable, str(ROOT / "train.py"), f"OUTPUTS={tmp_path}", *QUICK, *constants]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, **pipes, **options))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def weights(folder, epoch):
    return load_file(folder / f"epoch_{epoch:02d}.pt")["weights"]


def kill_often(start, folder, kills):
    """Kills training `kills` times, half of them while it writes; returns how often an epoch was lost."""
    moments, lost, run, killed, newest = random.Random(0), 0, 0, 0, 0
    begin = time.monotonic()
    assert start("RUN=whole", "EPOCHS=1,7").wait() == 0
    whole = time.monotonic() - begin  # seconds of a run that nothing stops
    expected = weights(folder / "whole/segnet_dsc", 6)
    while killed < kills:
        files = folder / f"killed{run}" / "segnet_dsc"
        process = start(f"RUN=killed{run}", "EPOCHS=1,7")
        begin, moment = time.monotonic(), moments.uniform(0.3, 0.9) * whole
        while time.monotonic() < begin + moment and process.poll() is None:
            time.sleep(0.001)
        while killed % 2 and process.poll() is None and not list(files.glob(".*.part.*")):
            pass  # every other one while a file is half-written
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        elif not newest:
            whole = time.monotonic() - begin  # the machine is faster now, and kills would go on coming too late
        _, said = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), said
        epochs = epochs_in(files)
        lost += epochs < newest
        newest = epochs
        if process.returncode == 0:
            lost += not same(weights(files, 6), expected)
            run, newest = run + 1, 0
    final = start(f"RUN=killed{run}", "EPOCHS=1,7")
    said, _ = final.communicate()
    assert not newest or f"going on after epoch {newest}" in said
    files = folder / f"killed{run}" / "segnet_dsc"
    lost += not same(weights(files, 6), expected)
    assert not list(files.glob(".*"))  # what a killed run left half-written is gone
    return lost


@pytest.mark.slow
def test_killed_six_times_nothing_is_lost_and_the_weights_are_the_same(start, tmp_path):
    assert kill_often(start, tmp_path / "toy", 6) == 0


@pytest.mark.many_kills
def test_killed_fifty_times(start, tmp_path):
    lost = kill_often(start, tmp_path / "toy", 50)
    line = {"kills": 50, "lost": lost, **machine.about(), "command": "python -m pytest -m many_kills"}
    append_line(ROOT / "outputs/published/kills.jsonl", json.dumps(line))
    assert lost == 0


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_once_and_says_how_to_go_on(start, tmp_path, kind):
    def heed_ctrl_c():  # which a shell has its background jobs ignore
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = start("EPOCHS=1,500", preexec_fn=heed_ctrl_c)
    wait_for(tmp_path / "toy/default/segnet_dsc/state.pt", process)
    begin = time.monotonic()
    process.send_signal(kind)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - begin < 5
    assert process.returncode == 1
    assert "the same command goes on" in said
    assert "Traceback" not in said


def test_a_second_run_in_the_same_folder_is_refused(start, tmp_path):
    first = start("EPOCHS=1,500")
    wait_for(tmp_path / "toy/default/segnet_dsc/state.pt", first)
    second = start("EPOCHS=1,500")
    assert "another run is writing" in second.communicate(timeout=30)[1]
    assert second.returncode == 1
    assert first.poll() is None


@pytest.mark.parametrize(
    ("most", "named"),
    [
        pytest.param(100_000, "trainval-32.bin", marks=pytest.mark.slow),
        pytest.param(10_000_000, "state.pt", marks=pytest.mark.slow),
        pytest.param(5_000_000, "epoch_02.pt", marks=pytest.mark.slow),
    ],
)
def test_no_space_is_told_and_leaves_earlier_epochs_whole(start, tmp_path, most, named):
    """A limit on the size of files stands for a full disk: a write beyond it fails half-way."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    files, by = tmp_path / "toy/default/segnet_dsc", "OPTIMIZER=adamw"  # whose state is larger than the weights
    first = "1" if named == "trainval-32.bin" else "2"  # an earlier epoch where there can be one
    if first == "2":
        assert start(by, "EPOCHS=1,2").wait() == 0
    process = start(by, f"EPOCHS={first},3", preexec_fn=limit)
    _, said = process.communicate()
    assert process.returncode == 1, said
    assert named in said and "could not be written" in said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob(".*.part*"))
    assert epochs_in(files) == int(first) - 1
    assert start(by, f"EPOCHS={first},3").wait() == 0  # with room again it goes on
    assert epochs_in(files) == 2


def test_no_space_for_the_table_leaves_the_old_one(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    rows = [{"epoch": epoch, "loss": 0.1} for epoch in range(1, 2001)]
    write_history(tmp_path, rows[:2])
    old = (tmp_path / "history.csv").read_text()
    code = "import pathlib; from common import checkpoints; "
    code += f"checkpoints.write_history(pathlib.Path({str(tmp_path)!r}), {rows})"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert "history.csv could not be written" in result.stderr
    assert (tmp_path / "history.csv").read_text() == old
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]


def test_no_space_for_a_row_leaves_the_rows_before_it(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    path = tmp_path / "results.jsonl"
    append_line(path, json.dumps({"run": "x" * 9_900}))
    old = path.read_text()
    code = f"from common import files; import pathlib; files.append_line(pathlib.Path({str(path)!r}), 'y' * 200)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert "results.jsonl could not be written" in result.stderr
    assert path.read_text() == old
    append_line(path, '{"run": "cut')
    with pytest.raises(UserError, match=r"results.jsonl, line 2"):
        results.rows(tmp_path)


def test_an_outputs_folder_that_cannot_be_written_is_named(start, tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "default").write_text("a file where the run's folder should be")
    process = start()
    assert "toy/default" in process.communicate()[1]
    assert process.returncode == 1


def test_a_read_only_outputs_folder_is_named(tmp_path):
    folder = tmp_path / "outputs"
    folder.mkdir()
    folder.chmod(0o555)
    command = [sys.executable, str(ROOT / "train.py"), f"OUTPUTS={folder}", *QUICK]
    if os.geteuid() == 0:  # whom no mode keeps out, but for those capabilities
        if not shutil.which("setpriv"):
            pytest.skip("root can write anywhere, and there is no setpriv to give that up")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert str(folder) in result.stderr and "Permission denied" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(folder.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(part):
        part.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_fault_of_ours_is_no_full_disk(tmp_path):
    def fail(part):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        write_atomically(tmp_path / "file.pt", fail)


@pytest.mark.slow
def test_one_thread_and_two_agree(start, tmp_path):
    """Sums are taken in another order: after an epoch the weights differ by less than 5 % of what another seed's do."""
    after = {}
    for name, constants in {"one": (), "two": ("THREADS=2",), "seed": ("SEED=1",)}.items():
        assert start(f"RUN={name}", "EPOCHS=1,2", "PRECISION=float32", *constants).wait() == 0
        saved = load_file(tmp_path / "toy" / name / "segnet_dsc" / "epoch_01.pt")
        assert saved["legs"][-1]["threads"] == (2 if name == "two" else 1)
        after[name] = torch.cat([saved["weights"][k].flatten() for k in saved["weights"] if k.endswith("weight")])
    differ = [float((after["one"] - after[other]).norm()) for other in ("two", "seed")]
    assert differ[0] < 0.05 * differ[1]


def test_a_signal_while_an_epoch_is_saved_stops_the_next_step(monkeypatch):
    for name in ("stopping", "saving"):
        monkeypatch.setattr(machine, name, threading.Event())
    was = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    machine.stop_on_signals()
    try:
        machine.saving.set()
        signal.raise_signal(signal.SIGTERM)  # and nothing is raised here
        machine.saving.clear()
        pixels = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
        network = train.segnet.NETWORKS["segnet_dsc"]()
        with pytest.raises(KeyboardInterrupt):
            part = all_of(Split(pixels, pixels[:, :1], []))
            optimizer = train.make_optimizer(network)
            train.train_epoch(network, optimizer, train.step_of(network, optimizer), part, 1, torch.Generator())
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in was.items():
            signal.signal(number, handler)
