"""Cache files: made in pieces, gone on with after a kill, waited for, mapped and not held in memory."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import ROOT

import fetch_oxford_iiit_pets as pets
from common import machine
from common.files import lock
from common.settings import UserError
from dataset import cache, rows

SLOWLY = """
import sys, time
import fetch_oxford_iiit_pets as pets
from dataset import cache
pets.DATA_ROOT, pets.OUTPUTS, decode, cache.AT_ONCE = *sys.argv[1:3], cache.decode, 8
cache.decode = lambda *of: time.sleep(0.05) or decode(*of)
pets.load("trainval")
"""


@pytest.fixture
def decoded(toy_root, tmp_path, monkeypatch):
    """Which images have been decoded; eight at once, with outputs in tmp_path."""
    decode, names = cache.decode, []
    monkeypatch.setattr(pets, "DATA_ROOT", str(toy_root))
    monkeypatch.setattr(pets, "OUTPUTS", str(tmp_path))
    monkeypatch.setattr(cache, "AT_ONCE", 8)
    monkeypatch.setattr(cache, "decode", lambda *of: names.append(of[1].name) or decode(*of))
    return names


def is_right(split):
    for i in (0, 17, 47):
        image, trimap = cache.decode(pets.data_folder(), split.pairs[i], 128)
        assert torch.equal(split.images[i], image) and torch.equal(split.trimaps[i], trimap)


def test_a_decode_that_was_killed_is_gone_on_with_by_the_process_that_waits(decoded, toy_root, tmp_path, monkeypatch):
    command = [sys.executable, "-c", SLOWLY, str(toy_root), str(tmp_path)]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    part = tmp_path / "cache" / ".trainval-128.part.bin"
    while not (part.exists() and part.stat().st_size > rows.HEADER):
        assert first.poll() is None
        time.sleep(0.005)
    said = []
    monkeypatch.setattr(rows, "say_once", said.append)
    threading.Timer(0.3, first.kill).start()  # while the other waits for it
    split = pets.load("trainval")
    assert first.wait() == -signal.SIGKILL
    assert said == [f"another process is writing {tmp_path}/cache/trainval-128.bin; waiting for it"]
    assert 0 < len(decoded) < 48 and decoded[-1] == split.pairs[-1].name
    is_right(split)
    assert not part.exists()


def test_a_part_is_gone_on_with_after_its_last_whole_row(decoded, tmp_path, monkeypatch):
    whole = pets.load("trainval")
    os.rename(tmp_path / "cache/trainval-128.bin", tmp_path / "whole.bin")
    decoded.clear()
    row = 4 * 128 * 128
    part = tmp_path / "cache" / ".trainval-128.part.bin"
    for kept, left in ((rows.HEADER + 20 * row + 7, 28), (rows.HEADER + 5, 48), (100, 48), (0, 48)):
        part.write_bytes((tmp_path / "whole.bin").read_bytes()[:kept])
        split = pets.load("trainval")
        assert len(decoded) == left
        assert torch.equal(split.images, whole.images) and torch.equal(split.trimaps, whole.trimaps)
        (tmp_path / "cache/trainval-128.bin").unlink()
        decoded.clear()
    part.write_bytes(b"x" + (tmp_path / "whole.bin").read_bytes()[1:-row])  # of other images
    is_right(pets.load("trainval"))
    assert len(decoded) == 48 + 3


def test_a_stop_while_decoding_leaves_the_part(decoded, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "stopping", threading.Event())
    part = tmp_path / "cache" / ".trainval-128.part.bin"
    counting = cache.decode

    def stop_at_20(*of):
        if len(decoded) == 20:
            machine.stopping.set()
        return counting(*of)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cache, "decode", stop_at_20)
        pets.load("trainval")
    assert part.stat().st_size == rows.HEADER + 24 * 4 * 128 * 128
    machine.stopping.clear()
    is_right(pets.load("trainval"))


def test_a_set_larger_than_memory_is_mapped(tmp_path):
    """Twice as large as memory, of which nothing but two rows takes room."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    n = 2 * total // (4 * 512 * 512)
    path = tmp_path / "huge.bin"
    with open(path, "wb") as file:
        file.write(rows.header("key"))
        file.truncate(rows.HEADER + n * 4 * 512 * 512)  # a file of holes
        file.seek(-1, os.SEEK_END)
        file.write(b"\7")
    found = rows.mapped(path, "key", (n, 4, 512, 512))
    assert int(found.index_select(0, torch.tensor([n - 1, 0]))[0, 3, -1, -1]) == 7
    assert rows.mapped(path, "key", (n - 1, 4, 512, 512)) is None


def test_where_files_cannot_be_mapped_or_locked(decoded, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(19, "No such device")

    monkeypatch.setattr(rows.np, "memmap", fails)
    monkeypatch.setattr("fcntl.flock", fails)
    assert lock(tmp_path / "lock") is None
    is_right(pets.load("trainval"))
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["trainval-128.bin", "trainval-128.lock"]


def test_another_set_written_at_the_same_time_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "lock", lambda *_: None)

    def blocks(done):
        yield torch.zeros(2, 3, dtype=torch.uint8)

    def replace(part, path):
        path.write_bytes(rows.header("other"))

    monkeypatch.setattr(rows.os, "replace", replace)
    with pytest.raises(UserError, match="written by another process at the same time"):
        rows.written(tmp_path / "a.bin", "key", (2, 3), blocks)
