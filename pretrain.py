"""Pretrains a network on images without labels: squares of each are hidden, and it learns to paint them.

    python pretrain.py                        a small vision transformer, on the training images
    python pretrain.py NETWORK=segnet_dsc     SegNet itself, whose three output channels paint R, G and B
    python pretrain.py IMAGES=holidays        on a folder of photographs
    torchrun --nproc-per-node=2 pretrain.py   by two processes that share each batch

    python train.py ENCODER=vit_tiny_patch16_224 ENCODER_WEIGHTS=FILE     puts the transformer under SegNet's decoder
    python train.py NETWORKS=segnet_dsc START_FROM=FILE                   goes on from the SegNet

FILE is outputs/pretrained/RUN/NETWORK/pretrained.pt, which is written at the end with a picture of what is painted.
Started again, it goes on where it stopped. After He et al. 2022 (https://arxiv.org/abs/2111.06377).
"""

from common import machine  # isort: skip - first: common/__init__.py says how torch's threads wait

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fetch_oxford_iiit_pets as pets
import pretrained
import segnet
from common import checkpoints, distributed, masking, pictures, results, settings, training
from common import optimizer as optimizers
from common.files import write_atomically
from common.masked_autoencoder import MaskedPainter, MaskedTransformer, check_divides, settle_statistics
from common.settings import UserError
from common.training import Run
from dataset import augment, photographs
from dataset.batches import numbers, on_device_if_small

# What is trained
NETWORK = "vit_tiny_patch16_224"  # a vision transformer of timm, or one of segnet.py's networks, e.g. segnet_dsc
RUN = "default"  # name of the run's folder in outputs/pretrained; a run with other constants wants another

# On what
IMAGES = ""  # folder of photographs; "": the training split, never the test split
VALIDATION_SHARE = 0.0  # of the images kept out of it; the same ones that train.py keeps out
FINER = 2  # images are kept at this multiple of IMAGE_SIZE, so that crops are sharp
CROP = 0.3  # the smallest part of an image's area that a crop shows; 1: always whole

# What is hidden
HIDDEN = 0.75  # share of an image's squares
SQUARE = 16  # px; in SegNet, at least a cell of its bottleneck, or that would see around it; a transformer has its own
FILLING = "noise"  # in SegNet; or "swap", seen squares of another image, or "gray"

# The transformer's decoder, which is thrown away
DECODER_WIDTH = 128  # a multiple of 32
DECODER_DEPTH = 2  # blocks

# How
EPOCHS = (1, 201)  # first, and one past the last
PASSES = 1  # over the images in an epoch; more of them where an epoch isn't worth a checkpoint
BATCH_SIZE = 64  # images per step
LEARNING_RATE = 1e-3  # the largest of the schedule, up and down by cosines
FULL_CONV_RATE = 0.25  # share of it for SegNet's full 3x3 convolutions, as in train.py
BETAS = (0.9, 0.95)  # AdamW's, the paper's
WEIGHT_DECAY = 0.05  # of matrices and kernels, the paper's
WARM_UP = 0.1  # share of the steps in which the rate climbs
SEED = 0  # of the first weights, the order of images, crops and masks

# The machine
THREADS = 0  # 0: one per core
PRECISION = "auto"  # bfloat16 where the hardware has it; or "bfloat16", "float32"
CHECK_EVERY = 10  # steps between readings of the loss, which synchronise a GPU

# What the constants may be: one of these, or from the first number to the second
CHOICES = {"FILLING": masking.FILLINGS}
RANGES = {
    **dict.fromkeys(("PASSES", "BATCH_SIZE", "CHECK_EVERY", "DECODER_DEPTH", "PICTURED"), (1, math.inf)),
    **dict.fromkeys(("LEARNING_RATE", "FULL_CONV_RATE"), (1e-12, math.inf)),
    "WEIGHT_DECAY": (0, math.inf),
    "FINER": (1, 2),  # beyond it crops, which are scaled without a filter, would alias
    "SEED": (0, 2**63 - 1),
    "VALIDATION_SHARE": (0, 0.99),
    "CROP": (0.01, 1),
    "HIDDEN": (0.01, 0.99),
    "SQUARE": (16, math.inf),
    "BETAS": (0, 0.9999),
    "WARM_UP": (0.001, 0.999),
}

# Which of them may differ when a run is resumed, as in train.py; its folder is the network's, data_identity the images'
FIXED = frozenset(
    {"DECODER_WIDTH", "DECODER_DEPTH", "SQUARE", "SEED", "IMAGE_SIZE", "FINER", "VALIDATION_SHARE", "BETAS"}
)
ANY_TIME = frozenset({"NETWORK", "RUN", "IMAGES", "THREADS", "CHECK_EVERY", "PICTURED"})

PICTURED = 8  # images in the picture


class Source(NamedTuple):
    """Images (N, 3, S, S), uint8, S = FINER * IMAGE_SIZE, mapped from their cache or on the device; what they are."""

    images: Tensor
    training: Tensor  # numbers of those to learn from, (n,), int64
    validation: Tensor  # and of those to measure by
    data: str
    identity: str


def main() -> None:
    machine.stop_on_signals(at_once=distributed.ranks() == 1)
    check_constants()
    machine.set_up(THREADS)
    try:
        pretrain(load())
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on after the newest complete epoch")


def check_constants() -> None:
    """Raises UserError for values that would fail only later."""
    training.check_epochs(EPOCHS)
    settings.check(globals(), CHOICES, RANGES)
    if len(BETAS) != 2:
        raise UserError(f"BETAS={','.join(map(str, BETAS))}: two of them, e.g. BETAS=0.9,0.95")
    distributed.check_batch(BATCH_SIZE)
    checkpoints.check_run(RUN)
    if DECODER_WIDTH < 32 or DECODER_WIDTH % 32:
        raise UserError(f"DECODER_WIDTH={DECODER_WIDTH}: it is a multiple of 32")
    machine.precision(PRECISION)
    with torch.device("meta"):  # without its weights
        build()


def build() -> MaskedTransformer | MaskedPainter:
    if NETWORK in segnet.NETWORKS:
        check_divides(pets.IMAGE_SIZE, SQUARE)
        return MaskedPainter(pretrained.build(NETWORK), SQUARE, FILLING)
    # Names what is near, and refuses what train.py could not take
    pretrained.timm_encoder(NETWORK, "NETWORK", (*segnet.NETWORKS, "vit_tiny_patch16_224"))
    return MaskedTransformer(NETWORK, pets.IMAGE_SIZE, DECODER_WIDTH, DECODER_DEPTH)


def load() -> Source:
    size = FINER * pets.IMAGE_SIZE
    if IMAGES:
        images, pairs, identity = photographs.load(Path(IMAGES), size, pets.outputs_folder() / "cache")
        data = f"{len(pairs)} photographs"
    else:
        images, _, pairs = pets.load("trainval", size)
        data, identity = pets.data_name(), pets.identity("trainval")
    chosen, kept_out = numbers(pairs, VALIDATION_SHARE)
    (images,) = on_device_if_small(images)
    return Source(images, torch.tensor(chosen), torch.tensor(kept_out, dtype=torch.long), data, identity)


def pretrain(source: Source) -> None:
    """Trains through EPOCHS, going on from the newest that the folder holds; then leaves what train.py takes."""
    folder = checkpoints.run_folder(pets.outputs_folder() / "pretrained", RUN, NETWORK)
    about = {"network": f"masked_{NETWORK}", "version": results.VERSION, "data": source.data,
             "data_identity": source.identity, "train_images": len(source.training),
             "constants": constants(), "legs": []}  # fmt: skip
    with checkpoints.lock(folder):
        torch.manual_seed(SEED)
        network = build().to(machine.device(), memory_format=torch.channels_last)
        random = torch.Generator().manual_seed(SEED)
        run = Run(f"{NETWORK}, masked", folder, network, make_optimizer(network), random, [], about)
        defaults = settings.defaults(sys.modules[__name__]) | settings.defaults(augment) | settings.defaults(pets)
        training.resume(run, EPOCHS, PRECISION, FIXED, defaults)
        learner = distributed.together(network)

        def one_epoch(epoch: int) -> dict[str, object]:
            if distributed.is_first():
                checkpoints.forget_before(folder, epoch - 1)
            loss = train_epoch(learner, run.optimizer, source, epoch, random)
            return {"loss": loss} | validate(network, source)

        training.train_epochs(run, EPOCHS[1], one_epoch)
        machine.saving.set()
        if distributed.is_first():
            save_picture(folder / "painted.png", network, source)
        hand_over(folder / "pretrained.pt", network, source, about)
        machine.saving.clear()
        print(f"{folder / 'pretrained.pt'} is for train.py, painted.png shows what it paints")


def make_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    full_convolution = FULL_CONV_RATE if NETWORK in segnet.NETWORKS else 1.0  # a transformer's cuts patches out
    groups = optimizers.parameter_groups(
        network, [], {"full convolution": full_convolution, "other": 1.0}, WEIGHT_DECAY
    )
    return optimizers.make(torch.optim.AdamW, groups, LEARNING_RATE, betas=BETAS)


def constants() -> dict[str, object]:
    """All that decides what the trained weights will be, but for the rounding of THREADS, which the legs record."""
    found = settings.constants(sys.modules[__name__])
    found |= {"FLIP": augment.FLIP, "DATASET": pets.DATASET, "IMAGE_SIZE": pets.IMAGE_SIZE}
    return {name: value for name, value in found.items() if name not in ANY_TIME}


def train_epoch(
    network: nn.Module, optimizer: torch.optim.Optimizer, source: Source, epoch: int, random: torch.Generator
) -> float:
    """PASSES passes over the images; returns the mean loss. Raises UserError at a loss that is not finite."""
    network.train()
    first, end = EPOCHS
    steps = PASSES * max(1, len(source.training) // BATCH_SIZE)

    def step(batch: Tensor) -> Tensor:
        value = painting_loss(network, batch, distributed.own_generator(random))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value.detach()

    def rate(share: float) -> float:
        return LEARNING_RATE * training.up_and_down((epoch - first + share) / (end - first), WARM_UP)

    fed = (batch for _ in range(PASSES) for batch in crops(source, steps // PASSES, random))
    loss = training.train_steps(step, fed, steps, optimizer, rate, epoch, CHECK_EVERY)
    distributed.spread_statistics(network)
    training.check_weights(network, steps, epoch)
    return loss


def crops(source: Source, steps: int, random: torch.Generator) -> Iterator[tuple[Tensor]]:
    """A pass of batches (B, 3, IMAGE_SIZE, IMAGE_SIZE) in [0, 1] on the device, in a random order."""
    order = source.training[torch.randperm(len(source.training), generator=random)]
    for chosen in order.split(BATCH_SIZE)[:steps]:
        images = chosen_of(source, chosen)
        yield (distributed.share(augment.crop(images, pets.IMAGE_SIZE, CROP, random)),)


def chosen_of(source: Source, chosen: Tensor) -> Tensor:
    """Images on the device, by their numbers."""
    return source.images.index_select(0, chosen.to(source.images.device)).to(machine.device())


def whole(source: Source, chosen: Tensor) -> Iterator[Tensor]:
    """Batches of whole images, as crops gives them; chosen: their numbers."""
    for some in chosen.split(BATCH_SIZE):
        pixels = chosen_of(source, some).float().div_(255)
        yield F.interpolate(pixels, (pets.IMAGE_SIZE, pets.IMAGE_SIZE), mode="bilinear", antialias=True)


def painting_loss(network: nn.Module, images: Tensor, random: torch.Generator) -> Tensor:
    """The loss of a batch under new masks."""
    painted, hidden = paint(network, images, random)
    return masking.painting_loss(painted, images, hidden, distributed.alone(network).side)


def paint(network: nn.Module, images: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """All squares as the network paints them under new masks, and those masks."""
    dtype, squares = machine.precision(PRECISION), (pets.IMAGE_SIZE // distributed.alone(network).side) ** 2
    hidden = masking.random_masks(len(images), squares, HIDDEN, random).to(images.device)
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        return network(images, hidden, random), hidden


@torch.no_grad()
def validate(network: nn.Module, source: Source) -> dict[str, float]:
    """The loss on the validation part, whole and under the same masks every time; none if there is no such part."""
    if not len(source.validation):
        return {}
    network.eval()
    random, total = torch.Generator().manual_seed(0), 0.0
    for batch in whole(source, source.validation):
        total += float(painting_loss(network, batch, random)) * len(batch)
    return {"validation_loss": total / len(source.validation)}


@torch.no_grad()
def save_picture(path: Path, network: nn.Module, source: Source) -> None:
    network.eval()
    known = source.validation if len(source.validation) else source.training
    images = torch.cat(list(whole(source, known[:: max(1, len(known) // PICTURED)][:PICTURED])))
    painted, hidden = paint(network, images, torch.Generator().manual_seed(0))
    gray = masking.hide(images, hidden, network.side, "gray", torch.Generator())
    columns = {"image": images, "seen": gray, "painted": masking.restored(painted, images, hidden, network.side)}
    pictures.save_columns(path, {name: column.cpu() for name, column in columns.items()})


def hand_over(path: Path, network: nn.Module, source: Source, about: dict[str, object]) -> None:
    """Writes what has been pretrained: an encoder's weights under timm's names, or a checkpoint of a SegNet."""
    found = network.pretrained()
    mixed = torch.randperm(len(source.training), generator=torch.Generator().manual_seed(SEED))  # they lie by breed
    settle_statistics(found, whole(source, source.training[mixed]))
    saved = found.state_dict()
    if NETWORK in segnet.NETWORKS:
        saved = {**about, **pretrained.SHAPE, "weights": saved}
    if distributed.is_first():
        write_atomically(path, lambda part: torch.save(saved, part))


if __name__ == "__main__":
    distributed.run(main, pets)
