"""Files that are either complete or not there: written beside their place, then renamed into it."""

import contextlib
import errno
import os
import pickle
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import torch

from common import plain
from common.settings import UserError

TORCH_WRITERS = ("PytorchStreamWriter", "inline_container")  # in the RuntimeErrors of torch.save on a full disk
REPOSITORY = Path(__file__).resolve().parent.parent  # the checkout that this file is of


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Has `write` fill a file next to `path`, makes sure that it is on disk, and gives it its name.

    Raises UserError where there is no space or no permission; a file of that name is then as it was.
    """
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")  # pictures go by their suffix
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(name in str(error) for name in TORCH_WRITERS):
            raise
        reason = str(error).partition("\n")[0]
        in_the_way = isinstance(error, (FileExistsError, NotADirectoryError, IsADirectoryError))
        advice = "choose another place" if in_the_way else "make room there or allow writing"
        raise UserError(f"{path} could not be written: {reason}; {advice}") from error
    finally:
        with contextlib.suppress(OSError):  # there may be no such file, or no way to remove it
            part.unlink()


def clear_parts(folder: Path, stem: str) -> None:
    """Removes what processes that were killed left half-written; stem: pattern of the files' stems."""
    for part in folder.glob(f".{stem}.*.part.*"):
        with contextlib.suppress(OSError):  # another process may have been faster
            part.unlink()


def lock(path: Path, wait: bool = False) -> TextIO | None:
    """Takes a file of that name for this process, until it is closed or the process ends.

    None where there are no locks: on Windows, and in file systems that know none. Raises BlockingIOError if another
    process has it, unless it is to be waited for, and UserError if nothing can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w")  # noqa: SIM115 - the lock lasts as long as the file is open
        import fcntl
    except ImportError:  # Windows
        return None
    except OSError as error:
        raise UserError(f"{path.parent} can't be written to: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:  # of network file systems
        return None
    return file


def append_line(path: Path, line: str) -> None:
    """Adds a line to a text file, or leaves it as it was and raises UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            end = file.tell()
            data = (line + "\n").encode()
            if file.write(data) < len(data):  # the disk is full
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise UserError(f"{path} could not be written: {error}; make room there or allow writing") from error


def load_file(path: Path, mmap: bool = False) -> dict[str, object]:
    """What torch.save wrote, tensors on the CPU. Raises UserError if it is missing, damaged, or no plain file.

    mmap: tensors are mapped into memory, and read when they are used.
    """
    try:
        plain.check(path)
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is damaged, or holds more than tensors and is not loaded: it could run code"
        ) from error
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file makes torch.load raise of many kinds
        reason = textwrap.shorten(str(error).partition("\n")[0], 100)
        told = f": {reason}" if " " in reason else ""  # not the number that an opcode of pickle has
        raise UserError(f"{path} is damaged, or no file of weights{told}") from error
    if not isinstance(saved, dict):
        raise UserError(f"{path} holds a {type(saved).__name__}, not the weights of a network")
    return saved
