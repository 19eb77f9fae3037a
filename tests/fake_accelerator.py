"""An accelerator called "fake", of which torch knows no more than of Apple's: it computes on the CPU, and lacks what it
is told to lack.

    python tests/fake_accelerator.py LACKED train.py EPOCHS=1,2 -- test.py     runs scripts on it, one after the other

LACKED: names of operations with commas between them, such as aten.view.dtype, and of types, such as float64.
"""

import runpy
import sys

import torch
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

LACKED = set()


class OnFake(torch.Tensor):
    """A tensor that says it is on the device, around one on the CPU."""

    @staticmethod
    def __new__(cls, raw):
        found = torch.Tensor._make_wrapper_subclass(
            cls, raw.size(), raw.stride(), raw.storage_offset(), dtype=raw.dtype, device="fake:0"
        )
        found.raw = raw
        return found

    def __reduce_ex__(self, protocol):  # is saved as the CPU's
        return self.raw.detach().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        return compute(function, *arguments, **(options or {}))


def compute(function, *arguments, **options):
    name = str(function)
    if name in LACKED:
        raise NotImplementedError(f"{name} is not implemented on fake")
    wanted = options.get("device")
    is_copy = name == "aten._to_copy.default" and wanted is not None
    mutated = [a for a, of in zip(arguments, function._schema.arguments) if of.alias_info and of.alias_info.is_write]
    plain = [tree_map(lambda x: x.raw if isinstance(x, OnFake) else x, part) for part in (list(arguments), options)]
    if wanted is not None:
        plain[1]["device"] = torch.device("cpu")
    result = function(*plain[0], **plain[1])
    if (is_copy and torch.device(wanted).type == "cpu") or name == "aten._local_scalar_dense.default":
        return result
    if mutated and isinstance(result, torch.Tensor):  # in place
        return mutated[0]
    return tree_map(lambda x: wrapped(x) if isinstance(x, torch.Tensor) else x, result)


def wrapped(raw):
    if str(raw.dtype).removeprefix("torch.") in LACKED:
        raise TypeError(f"Cannot convert a fake Tensor to {raw.dtype}, as the fake framework doesn't support it")
    return OnFake(raw)


class Module:
    """torch.fake, with what torch.mps has too."""

    random = torch.zeros(8, dtype=torch.uint8)

    is_initialized = is_available = staticmethod(lambda: True)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = manual_seed = staticmethod(lambda seed: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])
    get_rng_state = classmethod(lambda cls: cls.random)

    @classmethod
    def set_rng_state(cls, state):
        cls.random = state


def set_up():
    _setup_privateuseone_for_python_backend("fake", Module)
    registered = torch._C._dispatch_library("IMPL", "_", "", __file__, 0)  # of every operation, while it is kept
    registered.fallback("PrivateUse1", compute, False)
    tensor = torch.tensor  # which knows no devices in Python
    torch.tensor = lambda data, device=None, **options: tensor(data, **options).to(device)
    return registered


if __name__ == "__main__":
    LACKED |= set(sys.argv[1].split(","))
    kept = set_up()
    sys.path[:0] = ["."]
    for script in " ".join(sys.argv[2:]).split(" -- "):
        sys.argv = script.split()
        runpy.run_path(sys.argv[0], run_name="__main__")
