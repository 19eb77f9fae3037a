"""Files of weights from strangers: what torch.save writes of dense tensors is read, and nothing that calls for more."""

import codecs
import copy
import io
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from conftest import same

from common.files import load_file
from common.settings import UserError


class Call:
    """Pickled, it is a call of a function when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def by_the_first_torch(tensor):
    return Call(torch._utils._rebuild_tensor, tensor._typed_storage(), 0, tuple(tensor.shape), tensor.stride())


@pytest.mark.parametrize("of_today", [True, False])
def test_what_trainings_save_is_read(tmp_path, of_today):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3), torch.nn.BatchNorm2d(3)).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=torch.tensor(1e-3))
    network(torch.ones(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    saved = {"weights": network.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state(),
             "parameter": network[0].bias, "half": torch.ones(2, dtype=torch.bfloat16), "flag": torch.tensor(True),
             "first": by_the_first_torch(torch.ones(2, 2)),
             "constants": {"SIZES": (0.5, 1.0), "RUN": "a", "N": 2**70}}  # fmt: skip
    torch.save(saved, tmp_path / "saved.pt", _use_new_zipfile_serialization=of_today)
    read = load_file(tmp_path / "saved.pt")
    assert same(read["weights"], saved["weights"]) and read["constants"] == saved["constants"]
    assert same(read["optimizer"]["state"][0], saved["optimizer"]["state"][0])
    assert torch.equal(read["first"], torch.ones(2, 2)) and torch.equal(read["parameter"], network[0].bias)


@pytest.mark.parametrize(("call", "told"), [
    (Call(bytearray, 10**12), "bytearray"),
    (Call(codecs.encode, Call(codecs.encode, b"xx", "hex"), "hex"), "_codecs encode"),
    (Call(print, "run"), "print"),
    (Call(OrderedDict, torch.zeros(1, 1).expand(10**7, 2)), "positional argument"),  # a row of it is made for each
    (torch.zeros(10**6).to_sparse(), "sparse"),
    (torch.zeros(()).expand((1,) * 9), "more than 8 dimensions"),
])  # fmt: skip
@pytest.mark.parametrize("of_today", [True, False])
def test_nothing_else_is_called(tmp_path, capsys, call, told, of_today):
    torch.save({"weights": call}, tmp_path / "calls.pt", _use_new_zipfile_serialization=of_today)
    with pytest.raises(UserError, match=rf"calls.pt is (not loaded|damaged).*: .*{told}"):
        load_file(tmp_path / "calls.pt")
    assert capsys.readouterr().out == ""


def rewritten(path, name=lambda name: name, content=lambda name, content: content, packed=zipfile.ZIP_STORED):
    """The file anew, with other names, contents or packing of its records."""
    with zipfile.ZipFile(path) as old:
        entries = [(entry, old.read(entry)) for entry in old.namelist()]
    with zipfile.ZipFile(path, "w") as new:
        for entry, data in entries:
            new.writestr(name(entry), content(entry, data), packed)


def pickled(tensors):
    """data.pkl of float tensors, (key, how many numbers) each."""

    class Storage:
        def __init__(self, *of):
            self.of = of

    class Pickler(pickle.Pickler):
        def persistent_id(self, found):
            return ("storage", torch.FloatStorage, found.of[0], "cpu", found.of[1]) if type(found) is Storage else None

    found = io.BytesIO()
    calls = [
        Call(torch._utils._rebuild_tensor_v2, Storage(key, n), 0, (n,), (1,), False, OrderedDict())
        for key, n in tensors
    ]
    Pickler(found, 2).dump({"weights": calls})
    return found.getvalue()


def test_records_are_as_large_as_they_look(tmp_path):
    path = tmp_path / "weights.pt"

    def refused(told, **changes):
        torch.save({"weights": torch.zeros(100_000)}, path)
        rewritten(path, **changes)
        with pytest.raises(UserError, match=told):
            load_file(path)

    def said(*tensors):
        return {"content": lambda name, data: pickled(tensors) if name.endswith("data.pkl") else data}

    refused("weights.pt is compressed", packed=zipfile.ZIP_DEFLATED)
    refused("400000 bytes where it says 400004", **said(("0", 100_001)))
    refused("400000 bytes where it says -4", **said(("0", -1)))
    refused("it holds a record a", **said(("a", 10), ("A", 10)), name=lambda name: name.replace("data/0", "data/a"))
    torch.save({"weights": Call(bytearray, 10**12)}, path)
    rewritten(path, name=lambda name: name.replace("data.pkl", "DATA.PKL"))  # torch finds it all the same
    with pytest.raises(UserError, match="it holds __builtin__ bytearray"):
        load_file(path)
    torch.save({"weights": torch.zeros(100_000)}, path)
    rewritten(path, **said(("0", 100_000), ("0", 50_000)))
    assert [len(tensor) for tensor in load_file(path)["weights"]] == [100_000, 50_000]
    with zipfile.ZipFile(path, "a") as archive:
        second = copy.copy(archive.getinfo("weights/data/0"))  # of the same bytes
        second.filename = "weights/data/1"
        archive.filelist.append(second)
        archive.writestr("weights/other", b"")  # so that the list is written anew
    with pytest.raises(UserError, match="is compressed"):
        load_file(path)
