"""Pretrained encoders under SegNet's decoder: VGG16, whose first stages SegNet's encoder is, or any encoder of timm.

    python train.py ENCODER=tf_efficientnet_lite0 RUN=lite0                       all of it is tuned
    python train.py ENCODER=tf_efficientnet_lite0 FREEZE_ENCODER=True RUN=frozen  the decoder alone learns

VGG16 (https://arxiv.org/abs/1409.1556) fits SegNet exactly, pooling indices included. An encoder of timm
(https://github.com/huggingface/pytorch-image-models) has no such indices: its map of stride 16, SegNet's own
bottleneck, is upsampled bilinearly, as in the SegNet paper's variant of that name (section 3.3).
"""

import copy
import difflib
import itertools
import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from common import encoder_weights
from common.encoder_weights import LITE0, VGG, import_timm
from common.files import load_file
from common.gradients import quick_depthwise, upsample
from common.settings import UserError
from segnet import DECODER, NETWORKS, SEGNETS, ConvBlock, ImageSegmentation, averaged, check_shape, larger

STRIDE = 16  # of the bottleneck, px; image sizes are multiples of it
MOST_SAID = 100_000  # pieces of JSON that a checkpoint may say of its network; ours say two thousand

# What builds a network, beside its name; the values of checkpoints that don't say
SHAPE = {"head": "linear", "kernel_size": 3, "stages": 4, "encoder": "", "skips": False, "enlarge": 1}


class PretrainedSegmentation(nn.Module):
    """An encoder of timm and SegNet's decoder: images (B, 3, H, W) in [0, 1] -> logits (B, 3, H, W).

    base: "segnet" or "segnet_dsc", whose convolutions the decoder has.
    skips: the encoder's finer maps join the decoder's at their size, as in a U-Net.

    H and W are multiples of 16; `forward` raises UserError where they are not.
    Raises UserError for an encoder that timm doesn't have, or that has no map of stride 16, or no finer ones, and for
    what segnet.py refuses too.
    """

    enlarged = 1  # times, as that of segnet.py's networks

    def __init__(self, base: str, encoder: str, skips: bool = False, head: str = "linear", kernel_size: int = 3):
        super().__init__()
        stages = len(DECODER) - 1
        check_shape(kernel_size, head, stages)
        self.encoder, widths = timm_encoder(encoder)  # widths: channels by stride
        self.strides = list(widths)
        self.skips = [stride for stride in self.strides if stride < STRIDE] if skips else []
        if skips and not self.skips:
            raise UserError(f"ENCODER={encoder} has no maps finer than stride {STRIDE}; leave SKIP_FEATURES False")
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("std", torch.ones(3, 1, 1))
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
        return self.decode(*self.encode(x))

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """The bottleneck (B, C, H/16, W/16), H and W as enlarged, and maps for the decoder (or None), finest first."""
        step = STRIDE // math.gcd(STRIDE, self.enlarged)
        if x.shape[-1] % step or x.shape[-2] % step:
            raise UserError(f"images are multiples of {step} px a side, not {x.shape[-1]}x{x.shape[-2]}")
        x = larger(x, self.enlarged)
        with quick_depthwise(x):
            maps = dict(zip(self.strides, self.encoder((x - self.mean) / self.std)))
        return maps[STRIDE], [maps[2**i] if 2**i in self.skips else None for i in range(self.stages)]

    def decode(self, x: Tensor, handed_over: list[Tensor | None]) -> Tensor:
        """Logits (B, 3, H, W) from what `encode` returned; `handed_over` is emptied, so maps are freed once used."""
        x = self.project(x)  # (B, 512, H/16, W/16)
        for i in range(self.stages, 0, -1):
            x = upsample(x, (2 * x.shape[-2], 2 * x.shape[-1]))
            skipped = handed_over.pop()
            x = x if skipped is None else torch.cat((x, skipped), 1)
            x = self.get_submodule(f"uc{i}")(x)
        return averaged(x, self.enlarged)


def full_name(network: str, encoder: str) -> str:
    """What a network with an encoder is called in folders and rows: segnet_lite0; without one, as it is."""
    short = encoder.removeprefix("tf_efficientnet_").replace(".", "_")
    return f"{network}_{short}" if encoder else network


def build(
    name: str,
    encoder: str = "",
    skips: bool = False,
    head: str = "linear",
    kernel_size: int = 3,
    stages: int = 4,
    enlarge: int = 1,
) -> nn.Module:
    """A new network, its weights random, by its `full_name`. Raises UserError for what there isn't or doesn't fit.

    enlarge: times, from 1 to 8, that the network upsamples its images; see segnet.py. No weight depends on it.
    """
    names = {full_name(base, encoder): base for base in NETWORKS}
    if name not in names:
        raise UserError(f"no network is called {name!r}; there are {', '.join(names)}")
    if not isinstance(enlarge, int) or not 1 <= enlarge <= 8:
        raise UserError(f"images are enlarged 1 to 8 times, not {enlarge}")
    base = names[name]
    if not encoder:
        network = NETWORKS[base](kernel_size, head, stages)
    elif base not in SEGNETS:
        raise UserError(f"ENCODER goes with NETWORKS={','.join(SEGNETS)}; SKIP_FEATURES=True makes a U-Net of them")
    elif encoder == VGG:
        if base != "segnet" or skips or kernel_size != 3:
            raise UserError(f"ENCODER={VGG} is that of NETWORKS=segnet KERNEL_SIZE=3, without SKIP_FEATURES")
        network = ImageSegmentation(kernel_size, head, stages)
    elif stages != len(DECODER) - 1:
        raise UserError(f"STAGES is {len(DECODER) - 1} with an encoder of timm, whose own depth counts")
    else:
        network = PretrainedSegmentation(base, encoder, skips, head, kernel_size)
    network.enlarged = enlarge
    return network


def load_network(path: Path, expected: str = "") -> tuple[nn.Module, dict[str, object]]:
    """The network whose weights are in a checkpoint, and what the file says about it.

    A bare state dict, as the original notebook saved it, is taken for the network that its layers are of, with the
    original head. Raises UserError if the file is of another network than expected ("": any), or does not fit.
    """
    saved = load_file(path)
    if "weights" not in saved:
        separable = any(".depthwise." in key for key in saved if isinstance(key, str))
        saved = {"weights": saved, "network": expected or ("segnet_dsc" if separable else "segnet"), "head": "original"}
    saved = SHAPE | saved
    about = {key: value for key, value in saved.items() if key != "weights"}
    check_about(about, path)
    expected = expected or saved.get("network")
    if not expected:
        raise UserError(f"{path} doesn't say of which network it is")
    if saved.get("network") != expected:
        raise UserError(f"{path} is of {saved.get('network')!r}, not of {expected!r}")
    shape = {key: saved[key] for key in SHAPE}
    try:
        with torch.device("meta"):  # first without memory, of which a file from a stranger could ask for any amount
            network = build(expected, **shape)
    except UserError as error:
        raise UserError(f"{path}: {str(error)[:300]}") from error
    try:
        network.load_state_dict(saved["weights"], assign=True)
    except (RuntimeError, AttributeError, TypeError) as error:  # by what is wrong with the file
        details = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise UserError(f"{path} does not fit {expected} with head {saved['head']!r}: {details[:300]}") from error
    if sum(tensor.nbytes for tensor in network.state_dict().values()) > path.stat().st_size:
        raise UserError(f"{path} is damaged: its weights have more numbers than it holds")
    network = build(expected, **shape)
    network.load_state_dict(saved["weights"])
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise UserError(f"{path} has weights that are not finite; if it was trained here, take an earlier epoch")
    return network, about


def check_about(about: dict[str, object], path: Path) -> None:
    """Raises UserError if what a checkpoint says of its network is of other types than `checkpoints.save` writes."""
    said = {"network": "", "constants": {}, "row": {}, "legs": [], "epoch": 0, "train_seconds": 0.0}
    wrong = [key for key, like in (SHAPE | said).items() if not isinstance(about.get(key, like), type(like))]
    if not wrong and not all(isinstance(leg, dict) for leg in about.get("legs", ())):
        wrong = ["legs"]
    if not wrong and not isinstance(about.get("row", {"mean_iou": 0.0}).get("mean_iou"), float):
        wrong = ["row"]
    if wrong:
        found = about[wrong[0]]
        shown = str(found)[:60] if isinstance(found, (str, int, float)) else f"a {type(found).__name__}"
        raise UserError(f"{path} is damaged: {wrong[0]} is {shown}")
    try:
        pieces = sum(1 for _ in itertools.islice(json.JSONEncoder().iterencode(about), MOST_SAID))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: what it says of its network is not plain: {error}") from error
    if pieces == MOST_SAID:  # lists that hold one another make any number of few bytes
        raise UserError(f"{path} is damaged: it says more of its network than any training does")


def encoder_of(network: nn.Module) -> list[nn.Module]:
    """The modules that pretraining has trained: what stays as it is when the encoder is frozen."""
    if isinstance(network, PretrainedSegmentation):
        return [network.encoder]
    return [network.bn_input, *(network.get_submodule(f"dc{i}") for i in range(1, network.stages + 1))]


def timm_encoder(
    name: str, constant: str = "ENCODER", others: tuple[str, ...] = (VGG, LITE0)
) -> tuple[nn.Module, dict[int, int]]:
    """A module whose forward gives the maps down to stride 16, finest first, and their channels by stride.

    constant: what names it, and others: what else it may name, for errors. Raises UserError for what is no encoder.
    """
    timm = import_timm()
    if not timm.is_model(name) or ((tag := name.partition(".")[2]) and tag not in timm_tags(name)):
        known = [*others, *timm.list_models(), *timm.list_pretrained(f"{name.partition('.')[0]}.*")]
        near = difflib.get_close_matches(name, dict.fromkeys(known), n=4, cutoff=0.4) or others
        raise UserError(f"{constant}={name}: timm has no such model; near: {', '.join(near)}")
    with torch.device("meta"):  # its shapes, without weights
        strides = timm.create_model(name, features_only=True).feature_info.reduction()
    if STRIDE not in strides:
        raise UserError(f"{constant}={name} has no map of stride {STRIDE}: its strides are {sorted(set(strides))}")
    if len(set(strides)) == 1:  # a transformer, of one stride from end to end: its last block alone
        options = {"features_only": True, "feature_cls": "getter", "out_indices": 1}
        try:
            encoder = timm.create_model(name, dynamic_img_size=True, **options)  # interpolates position embeddings
        except TypeError:
            encoder = timm.create_model(name, **options)  # takes its own size alone, which check_sizes tells
    else:
        options = {"out_indices": tuple(range(strides.index(STRIDE) + 1))}
        try:
            encoder = timm.create_model(name, features_only=True, feature_cls="getter", **options)
        except TypeError as error:  # of a few models, which know no getter
            raise UserError(f"{constant}={name}: timm has no way to its maps; choose another") from error
    widths = dict(zip(encoder.feature_info.reduction(), encoder.feature_info.channels()))
    if STRIDE not in widths:
        raise UserError(f"{constant}={name} hands out maps of stride {sorted(widths)} alone; choose another")
    return encoder, widths


def timm_tags(name: str) -> list[str]:
    """The sets of pretrained weights of a model of timm, e.g. ["mae", "dino", ...]."""
    return [known.partition(".")[2] for known in import_timm().list_pretrained(f"{name.partition('.')[0]}.*")]


def sizes_taken(network: PretrainedSegmentation, sizes: tuple[int, ...], images: int) -> list[int]:
    """Those of `sizes`, px, that the network's encoder can take, tried without computing anything."""
    encoder, taken = copy.deepcopy(network.encoder).to("meta"), []
    for size in sizes:
        side = size * network.enlarged
        try:
            maps = encoder(torch.empty(images, 3, side, side, device="meta"))
        except (ValueError, RuntimeError, AssertionError):  # timm's encoders refuse in these ways
            continue
        if all(found.shape[-1] * stride == side for found, stride in zip(maps, network.strides)):
            taken.append(size)
    return taken


def check_sizes(
    network: nn.Module, sizes: tuple[int, ...], images: int = 2, frozen: bool = False, said: str = "SIZES, IMAGE_SIZE"
) -> None:
    """Raises UserError for image sizes, px, that the network's encoder can't take; it names those it can.

    images: of one step and rank; BatchNorm can't learn from a single value. frozen: the encoder's doesn't learn. said:
    by what the sizes were given.
    """
    if not isinstance(network, PretrainedSegmentation):
        return
    one = images == 1 and STRIDE in [size * network.enlarged for size in sizes]  # whose bottleneck has one cell
    images = max(2, images) if frozen else images
    bad = set(sizes) - set(sizes_taken(network, sizes, images))
    if one or (bad and images == 1 and bad <= set(sizes_taken(network, sizes, 2))):
        raise UserError("BatchNorm can't learn from one image per step and rank that is so small; raise BATCH_SIZE")
    if bad:
        others = {side // network.enlarged for side in range(4 * STRIDE, 17 * STRIDE, STRIDE)}
        others = sizes_taken(network, tuple(sorted(others)), images)
        raise UserError(
            f"the encoder can't take images of {', '.join(map(str, sorted(bad)))} px ({said}); "
            f"it takes {', '.join(map(str, others)) or 'none up to 256'}"
        )


def load_weights(network: nn.Module, encoder: str, file: str) -> str:
    """Gives the network's encoder its pretrained weights, of a file or else of the library's; returns whose.

    "random" leaves them as they are. Raises UserError for weights that can't be had, are damaged, or are of another
    architecture.
    """
    state, where = ({}, file) if file == "random" else encoder_weights.find(encoder, file)
    if encoder == VGG:
        if file != "random":
            encoder_weights.fold_vgg(network.bn_input, encoder_of(network)[1:], state, where)
        return where
    config = import_timm().get_pretrained_cfg(encoder)
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    if "_conv_stem.weight" in state:
        state = encoder_weights.renamed_lite(state)
        mean, std = (torch.full((3,), value) for value in (encoder_weights.LITE_MEAN, encoder_weights.LITE_STD))
    if file != "random":
        own = network.encoder.model
        shapes = {key: tuple(value.shape) for key, value in own.state_dict().items()}
        own.load_state_dict(encoder_weights.chosen(state, shapes, where))
    network.mean.copy_(mean.view(3, 1, 1))
    network.std.copy_(std.view(3, 1, 1))
    return where


def start_from(network: nn.Module, path: Path, part: str) -> None:
    """Gives a new network weights that pretrain.py left, or those of a checkpoint.

    part: "encoder", or "body", all but the last convolution and what follows it. Raises UserError for weights of other
    names or shapes; networks that differ in what has no weights, such as upsampling, may exchange theirs.
    """
    saved = load_file(path)
    state, own = saved.get("weights", saved), network.state_dict()
    if not isinstance(state, dict):
        raise UserError(f"{path} is damaged: weights is {str(state)[:60]}")
    convolutions = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    last = convolutions[-1].removesuffix(".pointwise").removesuffix(".depthwise")  # uc1.seq.N
    block, _, number = last.rpartition(".")
    replaced = tuple(f"{block}.{i}." for i in range(int(number), len(network.get_submodule(block))))
    kept = ("bn_input.", "dc") if part == "encoder" else ("",)
    shapes = {key: tuple(own[key].shape) for key in own if key.startswith(kept) and not key.startswith(replaced)}
    network.load_state_dict(own | encoder_weights.chosen(state, shapes, str(path)))
