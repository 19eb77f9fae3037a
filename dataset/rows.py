"""A cache file: a header that says of what, then a row of bytes per image, in the order of the list.

Rows are appended, and the file gets its name when all are there: a process that is killed leaves a part, and the next
one goes on after its last whole row. Read, the file is mapped into memory: what is not used is not read, processes
share what is, and neither takes memory that the system could not take back.
"""

import contextlib
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from common import distributed
from common.files import lock
from common.machine import say_once
from common.settings import UserError

HEADER = 4096  # bytes


def mapped(path: Path, key: str, shape: tuple[int, ...]) -> Tensor | None:
    """Rows of `shape`, (N, ...), uint8, that must not be written to; None if the file isn't there or doesn't fit."""
    with contextlib.suppress(OSError):
        with open(path, "rb") as file:
            if file.read(HEADER) != header(key) or os.fstat(file.fileno()).st_size != HEADER + math.prod(shape):
                return None
        try:
            found = np.memmap(path, np.uint8, "r", HEADER, shape)  # torch's own maps are refused beyond memory's size
        except (OSError, ValueError):  # some file systems map no files
            found = np.fromfile(path, np.uint8, offset=HEADER).reshape(shape)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(found)
    return None


def written(path: Path, key: str, shape: tuple[int, ...], blocks: Callable[[int], Iterable[Tensor]]) -> Tensor:
    """As `mapped`, but writes the file first, unless another process has done so meanwhile.

    blocks: makes the rows (n, ...) after the first so many, some at a time. What it raises is handed on; a part that
    it was interrupted in stays, to be gone on with. Raises UserError where there is no space or no permission.
    """
    if not distributed.is_first():
        time.sleep(1)  # the first, whose progress is seen, is to be the one
    try:
        locked = lock(path.with_suffix(".lock"))
    except BlockingIOError:
        say_once(f"another process is writing {path}; waiting for it")
        locked = lock(path.with_suffix(".lock"), wait=True)
    with locked or contextlib.nullcontext():
        found = mapped(path, key, shape)
        if found is None:
            owner = "" if locked else f".{os.getpid()}"  # where no lock keeps others from the same part
            append_all(path.with_name(f".{path.stem}{owner}.part{path.suffix}"), path, key, shape, blocks)
            found = mapped(path, key, shape)
    if found is None:
        raise UserError(f"{path} was written by another process at the same time; start again, or give other OUTPUTS")
    return found


def append_all(
    part: Path, path: Path, key: str, shape: tuple[int, ...], blocks: Callable[[int], Iterable[Tensor]]
) -> None:
    """Fills `part`, from where it was left if it is of the same key, and gives it its name."""
    try:
        with open(part, "ab+") as file:
            for block in blocks(rows_in(file, key, math.prod(shape[1:]))):
                file.write(block.numpy())
                file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except Exception as error:
        part.unlink(missing_ok=True)  # of no use: room is needed, or an image has to be mended
        if isinstance(error, OSError):
            raise UserError(f"{path} could not be written: {error}; make room there or allow writing") from error
        raise


def rows_in(file: BinaryIO, key: str, row: int) -> int:
    """How many whole rows of `row` bytes the file has; it is cut after the last, or begun anew if it is of another key.

    The file is left at its end.
    """
    file.seek(0)
    done = (os.fstat(file.fileno()).st_size - HEADER) // row if file.read(HEADER) == header(key) else 0
    file.truncate(HEADER + done * row if done else 0)
    if not done:
        file.write(header(key))
    return done


def header(key: str) -> bytes:
    return f"{key}\n".encode().ljust(HEADER, b"\0")
