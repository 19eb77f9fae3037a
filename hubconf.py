"""For torch.hub: the networks of this repository in anybody's program, whatever its own modules are called.

    network = torch.hub.load(REPO, "segnet_dsc", pretrained=True).eval()      REPO: OWNER/NAME on GitHub, or
    network = torch.hub.load(FOLDER, "segnet_dsc", source="local", pretrained=True).eval()        a checkout
    logits = network(images)

images: (B, 3, H, W), float, RGB in [0, 1], not normalised further; 128x128 px is what the networks are trained at, or
256x256 where the name says so. A size that a network can't take raises ValueError.
logits: (B, 3, H, W); `logits.argmax(1)` is 0 for pet, 1 for background, 2 for the border between them.
"""

import contextlib
import importlib
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from torch import nn

dependencies = ["torch", "torchvision"]  # those on Lite2 need timm too, and say so

HERE = Path(__file__).resolve().parent
PREFIX = f"segnet_pets_{zlib.crc32(str(HERE).encode()):08x}_"  # of our modules' names, another in each checkout
LOCK = threading.Lock()


def segnet(pretrained: bool = False) -> nn.Module:
    """SegNet, 15.3 M parameters: images (B, 3, H, W) in [0, 1] -> logits of pet, background, border. H, W >= 16.

    pretrained: with the published weights; RuntimeError if there are none. Else they are random.
    """
    return network("segnet", pretrained)


def segnet_dsc(pretrained: bool = False) -> nn.Module:
    """SegNet of depthwise-separable convolutions, 1.75 M parameters; otherwise as `segnet`."""
    return network("segnet_dsc", pretrained)


def segnet_dsc_lite2(pretrained: bool = False) -> nn.Module:
    """The separable decoder, with skips, on EfficientNet-Lite2: 2.13 M parameters; otherwise as `segnet`.

    It needs timm. H and W are multiples of 16. pretrained=False leaves the encoder random as well.
    """
    return network("segnet_dsc_lite2", pretrained, encoder="tf_efficientnet_lite2", skips=True)


def segnet_dsc_lite2_256px(pretrained: bool = False) -> nn.Module:
    """`segnet_dsc_lite2`, trained at 256x256 px."""
    return network("segnet_dsc_lite2_256px", pretrained, encoder="tf_efficientnet_lite2", skips=True)


def network(name: str, is_pretrained: bool, **shape: object) -> nn.Module:
    """A network by the name of its weights. Raises RuntimeError, in one line, where it can't be had.

    shape: what builds it when it is not pretrained; a file of weights says that itself.
    """
    builder, files, settings = (ours(module) for module in ("pretrained", "common.published", "common.settings"))
    try:
        if is_pretrained:
            return builder.load_network(files.path_of(name), files.network_of(name))[0]
        return builder.build(files.network_of(name), **shape)
    except settings.UserError as error:
        raise RuntimeError(str(error)) from None


def ours(name: str) -> ModuleType:
    """This checkout's module of that name, though the program may have another one of the same name.

    Our modules import each other by plain names such as `common`, so for the time of the import those names are
    theirs; then the program has its own back. They stay in sys.modules under names with PREFIX, by which pickle and
    torch.compile find the networks' classes and functions.
    """
    with LOCK:
        if PREFIX + name not in sys.modules:
            with names_set_aside():
                importlib.import_module(name)
        return sys.modules[PREFIX + name]


@contextlib.contextmanager
def names_set_aside() -> Iterator[None]:
    """Within it, plain names of modules are those of this checkout."""
    names = {path.stem for path in HERE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}

    def taken_out() -> dict[str, ModuleType]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}

    theirs = taken_out()
    sys.modules.update({name.removeprefix(PREFIX): m for name, m in sys.modules.items() if name.startswith(PREFIX)})
    sys.path.insert(0, str(HERE))
    try:
        yield
        for name, module in taken_out().items():
            rename(module, PREFIX + name)
    finally:
        sys.path.remove(str(HERE))
        taken_out()  # what a failed import left
        sys.modules.update(theirs)


def rename(module: ModuleType, name: str) -> None:
    """Gives the module, and the classes and functions that are its own, another name."""
    for value in vars(module).values():
        if getattr(value, "__module__", None) == module.__name__:
            with contextlib.suppress(AttributeError, TypeError):  # of what is read-only
                value.__module__ = name
    module.__name__ = name
    sys.modules[name] = module
