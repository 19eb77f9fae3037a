"""Whether a file of weights holds dense tensors and plain values alone, before torch.load makes anything of it.

torch.load(weights_only=True) runs no code from a file. What it does call can still ask for any memory, of a file of a
kilobyte: bytearray(n), a list that is copied again and again, one record that is read under many names.
"""

import io
import pickle
import re
from pathlib import Path
from typing import BinaryIO

import torch

from common.settings import UserError

STORAGE = re.compile(r"torch(\.cuda)? \w+Storage")
REBUILT = re.compile(r"torch\._utils _rebuild_(tensor(_v2)?|parameter)")
MOST_DIMENSIONS = 8  # of a tensor


class Made(dict):
    """Stands for an OrderedDict, which torch.save makes empty and then fills."""

    def __init__(self) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """What a state dict says of its modules."""


class Reader(pickle._Unpickler):  # Python's own: pickle.Unpickler asks for memory by numbers that are in the file
    """Goes through a pickle of torch.save's and makes nothing of it. Raises UserError where it holds more.

    records: sizes in bytes of the file's records by name; None in files of torch before 1.6, of which torch reads no
    more than there is.
    """

    def __init__(self, path: Path, pickled: BinaryIO, records: dict[str, int] | None = None) -> None:
        super().__init__(pickled, encoding="utf-8")
        self.path, self.records = path, records

    def find_class(self, module: str, name: str) -> object:
        called = f"{module} {name}"
        if called == "collections OrderedDict":
            return Made
        if REBUILT.fullmatch(called):
            return self.rebuilt
        if STORAGE.fullmatch(called):
            return name  # is handed over, never called
        raise self.error(f"it holds {called}")

    def rebuilt(self, *arguments: object) -> None:
        if any(isinstance(found, tuple) and len(found) > MOST_DIMENSIONS for found in arguments):
            raise self.error(f"it holds a tensor of more than {MOST_DIMENSIONS} dimensions")

    def persistent_load(self, pid: tuple) -> None:
        _, storage, key, _, numbers, *_ = pid
        if not key.isdecimal():
            raise self.error(f"it holds a record {key[:60]}")
        if self.records is not None:
            there, wanted = self.records[f"data/{key}"], numbers * getattr(torch, storage)._dtype.itemsize
            if not 0 <= wanted <= there:
                raise self.error(f"it has {there} bytes where it says {wanted}")

    def error(self, what: str) -> UserError:
        return UserError(
            f"{self.path} is not loaded: {what[:200]}; beside dense tensors and plain values a file of weights could "
            "run code or fill the memory"
        )


def check(path: Path) -> None:
    """Raises UserError for a file that holds more; others of its errors are those of a damaged file, of many kinds."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":  # of torch before 1.6: five pickles, then the numbers
            file.seek(0)
            for _ in range(5):
                Reader(path, file).load()
            return
        file.seek(0)
        found = torch._C.PyTorchFileReader(file)  # torch.load's own: another may see other records in the same bytes
        records = {name: found.get_record_size(name) for name in found.get_all_records()}
        if sum(records.values()) > path.stat().st_size:
            raise UserError(f"{path} is compressed, which torch.save's files are not: it could unpack to any size")
        Reader(path, io.BytesIO(found.get_record("data.pkl")), records).load()
