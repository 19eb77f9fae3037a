"""Two real processes that train and test as one: against one process, killed, stopped, and with a fault in only one."""

import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, epochs_in, same, wait_for

import pretrained
import segnet
from common import distributed, machine
from common.checkpoints import load_file
from common.settings import UserError

TOY = ("DATASET=toy", "IMAGE_SIZE=32", "THREADS=1", "NETWORKS=segnet_dsc")
QUICK = (*TOY, "SIZES=1", "BATCH_SIZE=16")
PAINTED = ("DATASET=toy", "IMAGE_SIZE=32", "THREADS=1", "NETWORK=segnet_dsc", "BATCH_SIZE=16")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
MOST = 30  # seconds that anything may take to end


@pytest.fixture
def processes():
    """Those that are put in here are killed after the test."""
    found = []
    yield found
    for process in found:
        process.kill()
        process.communicate()


@pytest.fixture
def start(tmp_path, processes):
    """start("train.py", "RUN=a", ...) -> two ranks, begun as torchrun would, but without its process."""

    def run(program, *arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
        constants = {"test.py": TOY, "pretrain.py": PAINTED}.get(program, QUICK)
        command = [sys.executable, program, f"OUTPUTS={tmp_path}", *constants, *arguments]
        for rank in ("0", "1"):
            environment = os.environ | group | {"RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": str(ROOT)}
            processes.append(subprocess.Popen(command, env=environment, **options))
        return processes[-2:]

    return run


@pytest.fixture
def torchrun(tmp_path, processes):
    """torchrun("RUN=a", ...) -> torchrun's process, with train.py in two ranks."""

    def run(*arguments, **options):
        command = [*TORCHRUN, "train.py", f"OUTPUTS={tmp_path}", *QUICK, *arguments]
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
        processes.append(subprocess.Popen(command, **options))
        return processes[-1]

    return run


def ended(ranks, *codes):
    """What the ranks said, line by line, after they have ended with these codes, and no traceback."""
    said = [rank.communicate(timeout=200) for rank in ranks]
    assert tuple(rank.returncode for rank in ranks) == codes, said
    lines = [line for _, errors in said for line in errors.replace("\r", "\n").splitlines()]
    assert "Traceback" not in "".join(lines), lines
    return [
        line for line in lines if line.strip() and "step" not in line.partition(":")[2][:60] and "image/s" not in line
    ]


def ranks_of(process):
    """The numbers of the processes that torchrun has started, by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    rank = {}
    for child in map(int, children):
        settings = dict(
            entry.split("=", 1) for entry in Path(f"/proc/{child}/environ").read_text().split("\0") if entry
        )
        rank[int(settings["RANK"])] = child
    return rank


@pytest.mark.slow
def test_ranks_do_what_one_process_does(start):
    """tests/ranks_program.py compares, on both ranks."""
    ranks = start("tests/ranks_program.py")
    ended(ranks, 0, 0)


@pytest.mark.slow
def test_ranks_leave_one_set_of_files_and_others_go_on_with_them(start, script, tmp_path):
    files = tmp_path / "toy/default/segnet_dsc"
    assert not ended(start("train.py", "EPOCHS=1,2"), 0, 0)
    assert {path.name for path in files.iterdir()} == {"epoch_01.pt", "state.pt", "history.csv", "curves.png", "lock"}
    assert "going on after epoch 1" in script("train.py", *QUICK, "EPOCHS=2,3")
    assert not ended(start("train.py", "EPOCHS=3,4"), 0, 0)
    legs = load_file(files / "state.pt")["legs"]
    assert [leg["ranks"] for leg in legs] == [2, 1, 2]
    assert [leg["command"].partition(" train.py")[0] for leg in legs] == ["torchrun --nproc-per-node=2", "python",
                                                                          "torchrun --nproc-per-node=2"]  # fmt: skip
    script("test.py", *TOY)
    assert not ended(start("test.py"), 0, 0)
    lines = (tmp_path / "toy/results.jsonl").read_text().splitlines()
    own = ("test_seconds", "test_command", "command")
    rows = [{key: value for key, value in json.loads(line).items() if key not in own} for line in lines]
    assert len(rows) == 4 and rows[1]["network"] == "segnet_dsc" and rows[1]["ranks"] == "2, then 1"
    assert rows[:2] == rows[2:]


@pytest.mark.slow
def test_ranks_pretrain_one_network_that_one_process_goes_on_with(start, script, tmp_path):
    files = tmp_path / "toy/pretrained/default/segnet_dsc"
    assert not ended(start("pretrain.py", "EPOCHS=1,3"), 0, 0)
    assert {path.name for path in files.iterdir()} == {
        "epoch_01.pt", "epoch_02.pt", "state.pt", "history.csv", "curves.png", "lock", "painted.png", "pretrained.pt",
    }  # fmt: skip
    assert "going on after epoch 2" in script("pretrain.py", *PAINTED, "EPOCHS=3,4")
    assert [leg["ranks"] for leg in load_file(files / "state.pt")["legs"]] == [2, 1]
    start_from = f"START_FROM={files / 'pretrained.pt'}"
    assert not ended(start("train.py", "EPOCHS=1,2", start_from), 0, 0)


@pytest.mark.slow
def test_few_images_on_an_encoder_by_two_ranks(start):
    """Three can't be halved, so each rank trains on all; of two each gets one, too few for BatchNorm at 16 px."""
    encoder = (f"ENCODER={pretrained.LITE0}", "ENCODER_WEIGHTS=random", "IMAGE_SIZE=16", "EPOCHS=1,2")
    ended(start("train.py", *encoder, "TRAIN_IMAGES=3"), 0, 0)  # torch warns that it looks for unused weights
    ranks = start("train.py", *encoder, "TRAIN_IMAGES=2", "RUN=two")
    said = "".join(text for rank in ranks for text in rank.communicate(timeout=200))
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert said.count("BatchNorm can't learn from one image per step and rank") == 1 and "Traceback" not in said


@pytest.mark.slow
def test_a_killed_rank_ends_the_other_which_says_so(start, tmp_path):
    files = tmp_path / "toy/default/segnet_dsc"
    ranks = start("train.py", "EPOCHS=1,500")
    wait_for(files / "state.pt", *ranks)
    ranks[1].kill()
    begin = time.monotonic()
    (line,) = ended(ranks, 1, -signal.SIGKILL)
    assert time.monotonic() - begin < MOST
    assert line.startswith("error: another rank was killed")
    assert epochs_in(files) >= 1


def test_a_batch_that_cannot_be_divided(monkeypatch):
    monkeypatch.setattr(distributed, "ranks", lambda: 3)
    distributed.check_batch(6)
    with pytest.raises(UserError, match="BATCH_SIZE=8 can't be divided among 3 ranks: give a multiple of 3"):
        distributed.check_batch(8)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert [len(distributed.share(torch.empty(n))) for n in (6, 4)] == [2, 4]


@pytest.mark.parametrize("n", [0, 1, 4, 5, 24, 25, 101])
def test_shares_of_a_split_are_whole_batches_and_all_of_them(monkeypatch, n):
    for ranks in (1, 2, 3, 7):
        monkeypatch.setattr(distributed, "ranks", lambda ranks=ranks: ranks)
        shares = []
        for rank in range(ranks):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            shares.append(distributed.share_of_batches(n, 5))
        assert [i for first, past in shares for i in range(first, past)] == list(range(n))
        assert all(first % 5 == 0 or first == n for first, _ in shares)
        sizes = [past - first for first, past in shares]
        assert max(sizes) - min(sizes) < 10


@pytest.mark.parametrize(
    ("name", "encoder", "skips"),
    [*((name, "", False) for name in segnet.NETWORKS), *(("segnet_lite0", pretrained.LITE0, s) for s in (True, False))],
)
def test_every_parameter_takes_part_in_a_step(name, encoder, skips):
    """Ranks wait for the gradient of each that learns."""
    network = pretrained.build(name, **pretrained.SHAPE | {"encoder": encoder, "skips": skips})
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(("name", "encoder"), [("segnet_dsc", ""), ("segnet_dsc_lite0", pretrained.LITE0)])
def test_batchnorm_over_all_ranks_computes_the_same(monkeypatch, name, encoder):
    """As on accelerators. timm's BatchNorm holds the activation that follows it."""
    torch.manual_seed(0)
    network = pretrained.build(name, encoder=encoder).eval()
    images = torch.rand(2, 3, 32, 32)
    expected, learnt = network(images), {id(p) for p in network.parameters()}
    monkeypatch.setattr(distributed, "ranks", lambda: 2)
    monkeypatch.setattr(machine, "accelerator", lambda: True)
    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda network, **_: network)
    learner = distributed.together(network)
    kinds = {type(module).__name__ for module in learner.modules() if "BatchNorm" in type(module).__name__}
    assert kinds <= {"SyncBatchNorm", "SyncBatchNormAct"} and kinds
    assert torch.equal(learner(images), expected)
    assert {id(p) for p in learner.parameters()} == learnt  # by an optimiser that was made before


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rank"), [(signal.SIGTERM, 0), (signal.SIGKILL, 1)])
def test_torchrun_ends_soon_with_one_line_of_ours(torchrun, tmp_path, kind, rank):
    files = tmp_path / "toy/default/segnet_dsc"
    process = torchrun("EPOCHS=1,500")
    wait_for(files / "state.pt", process)
    children = ranks_of(process)
    os.kill(children[rank], kind)
    begin = time.monotonic()
    _, said = process.communicate(timeout=2 * MOST)
    assert time.monotonic() - begin < MOST
    assert process.returncode == 1
    assert not any(Path(f"/proc/{child}").exists() for child in children.values())
    line = "error: another rank was killed" if kind == signal.SIGKILL else "stopped; the same command goes on"
    assert said.count(line) == 1
    assert epochs_in(files) >= 1
    assert not list(files.glob(".*.part*")) or kind == signal.SIGKILL


@pytest.mark.slow
def test_an_error_of_one_rank_or_of_both_is_told_once(torchrun):
    def limit():  # stands for a full disk: the first rank alone writes files
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))

    cases = (
        ("LOSS=ce", "epoch_01.pt could not be written", limit),
        ("LEARNING_RATE=1e6", "the loss is not finite", None),
        ("BATCH_SIZE=15", "can't be divided among 2 ranks", None),
    )
    for constant, expected, before in cases:
        process = torchrun("EPOCHS=1,3", f"RUN={constant[:5]}", constant, preexec_fn=before)
        _, said = process.communicate(timeout=200)
        assert process.returncode == 1
        (line,) = [line for line in said.replace("\r", "\n").splitlines() if line.lstrip().startswith("error: ")]
        assert expected in line
        assert "Traceback" not in said.partition("torch/distributed/elastic")[0]  # torchrun's report has one


@pytest.mark.slow
def test_killed_six_times_under_torchrun_nothing_is_lost(torchrun, tmp_path):
    """One of the ranks, in turns, half of the times while the first writes."""
    moments, lost, killed, run, newest = random.Random(0), 0, 0, 0, 0
    assert torchrun("RUN=whole", "EPOCHS=1,7").wait() == 0
    expected = load_file(tmp_path / "toy/whole/segnet_dsc/epoch_06.pt")["weights"]
    while killed < 6:
        files = tmp_path / "toy" / f"killed{run}" / "segnet_dsc"
        process = torchrun(f"RUN=killed{run}", "EPOCHS=1,7")
        wait_for(files / f"epoch_{newest + 1:02d}.pt", process)
        time.sleep(moments.uniform(0, 0.5))
        while killed % 2 and process.poll() is None and not list(files.glob(".*.part.*")):
            pass
        if process.poll() is None and (children := ranks_of(process)).keys() == {0, 1}:
            os.kill(children[killed // 2 % 2], signal.SIGKILL)
            killed += 1
        begin = time.monotonic()
        process.communicate(timeout=2 * MOST)
        assert process.returncode == 0 or time.monotonic() - begin < MOST
        epochs = epochs_in(files)
        lost += epochs < newest
        newest = epochs
        if newest == 6:
            lost += not same(load_file(files / "epoch_06.pt")["weights"], expected)
            run, newest = run + 1, 0
    assert torchrun(f"RUN=killed{run}", "EPOCHS=1,7").wait() == 0
    files = tmp_path / "toy" / f"killed{run}" / "segnet_dsc"
    assert same(load_file(files / "epoch_06.pt")["weights"], expected)
    assert not list(files.glob(".*"))
    assert lost == 0
