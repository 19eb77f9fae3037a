"""Trains both networks on Oxford-IIIT Pets, one after the other.

    python train.py                                 both networks, five epochs
    python train.py DATASET=toy                     on drawn pets, without the download
    python train.py EPOCHS=1,3 LOSS=iou RUN=iou     any constant, for one run
    torchrun --nproc-per-node=2 train.py            by two processes that share each batch

Started again, it goes on where it stopped.
"""

from common import machine  # isort: skip - first: common/__init__.py says how torch's threads wait

import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import fetch_oxford_iiit_pets as pets
import metrics
import pretrained
import segnet
from common import checkpoints, distributed, results, settings, training
from common import optimizer as optimizers
from common.recorded import Recorded
from common.settings import UserError
from common.training import Run
from common.trimap import BORDER
from dataset import augment
from dataset.batches import Part, batches, divide, steps_in
from dataset.cache import Split

# What is trained
NETWORKS = ("segnet", "segnet_dsc")  # in this order
HEAD = "linear"  # or "original": BatchNorm and ReLU after the last convolution; see segnet.py
KERNEL_SIZE = 3  # odd
STAGES = 4  # or 5
ENLARGE = 1  # times; the network upsamples its images so much itself, and averages its logits back to their size
RUN = "default"  # folder in outputs/; a run with other constants needs another name

# Pretrained, see pretrained.py and pretrain.py
ENCODER = ""  # "vgg16_bn", or one of timm such as "tf_efficientnet_lite0"; "": both networks from scratch
ENCODER_WEIGHTS = ""  # file of its weights; "": the library's own; "random": none, for comparison
FREEZE_ENCODER = False  # True: the decoder alone learns
SKIP_FEATURES = False  # True: the decoder gets the encoder's finer maps too, as in a U-Net
START_FROM = ""  # without ENCODER: file of weights of the same network that it begins with, as pretrain.py leaves them
START_PART = "body"  # which of them: all but the last convolution ("body"), or those of the "encoder"

# On what
VALIDATION_SHARE = 0.0  # of each breed's images kept out of training to choose constants by, e.g. 0.1
TRAIN_SHARE = 1.0  # of the other images, trained on; a smaller set is part of each larger one
TRAIN_IMAGES = 0  # how many of them instead, e.g. 250, spread evenly over breeds; 0: as TRAIN_SHARE says
SIZES = (0.5, 0.5, 0.75, 1.0, 1.0)  # shares of IMAGE_SIZE, in order over EPOCHS; the last epoch is always at 1.0

# How
EPOCHS = (1, 6)  # first, and one past the last
PASSES = 1  # over the images in an epoch; more of them where an epoch of few images isn't worth a checkpoint
BATCH_SIZE = 8  # images per step
LOSS = "ce+dice"  # or "ce": cross-entropy, "iou": -log of the soft IoU, "dice"; their sums in this order
OPTIMIZER = "muon"  # Muon for convolution weights across channels, AdamW for the rest; or "adamw", "adam"
LEARNING_RATE = 2e-3  # the largest of the schedule
FULL_CONV_RATE = 0.25  # times LEARNING_RATE: of full 3x3 convolutions, where Muon doesn't take them
MUON_RATE = 4.0  # times LEARNING_RATE: of the weights that Muon takes
ENCODER_RATE = 0.1  # times LEARNING_RATE: of a pretrained encoder, which has little to learn and much to lose
WEIGHT_DECAY = 0.01  # times the rate: what a step takes off convolution weights; not with adam
SCHEDULE = "one_cycle"  # up and down by cosines; or "step": x0.7 every seventh epoch
WARM_UP = 0.2  # share of the steps of EPOCHS in which one_cycle climbs
SEED = 0  # of the first weights, the order of images and their augmentation

# The machine
THREADS = 0  # 0: one per core
PRECISION = "auto"  # bfloat16 convolutions where the hardware has them; or "bfloat16", "float32"
CHECK_EVERY = 10  # steps between readings of the loss, which synchronise a GPU

# What the constants may be: one of these, or from the first number to the second
CHOICES = {
    "NETWORKS": tuple(segnet.NETWORKS),
    "HEAD": ("linear", "original"),
    "LOSS": tuple("+".join(some) for n in (1, 2, 3) for some in itertools.combinations(metrics.LOSSES, n)),
    "OPTIMIZER": ("muon", "adamw", "adam"),
    "SCHEDULE": ("one_cycle", "step"),
    "START_PART": ("body", "encoder"),
}
RANGES = {
    **dict.fromkeys(("PASSES", "BATCH_SIZE", "CHECK_EVERY", "KERNEL_SIZE"), (1, math.inf)),
    **dict.fromkeys(("LEARNING_RATE", "FULL_CONV_RATE", "MUON_RATE", "ENCODER_RATE"), (1e-12, math.inf)),
    "WEIGHT_DECAY": (0, math.inf),
    "VALIDATION_SHARE": (0, 0.99),
    "TRAIN_SHARE": (1e-6, 1),
    "TRAIN_IMAGES": (0, math.inf),
    "SIZES": (0.01, 1),
    "WARM_UP": (0.001, 0.999),
    "SEED": (0, 2**63 - 1),
}

# Which of them may differ when a run is resumed
FIXED = frozenset(  # never
    {"HEAD", "KERNEL_SIZE", "STAGES", "ENLARGE", "OPTIMIZER", "SEED", "IMAGE_SIZE", "VALIDATION_SHARE", "TRAIN_SHARE"}
    | {"ENCODER", "ENCODER_WEIGHTS", "FREEZE_ENCODER", "SKIP_FEATURES", "START_FROM", "START_PART", "TRAIN_IMAGES"}
)
ANY_TIME = frozenset({"NETWORKS", "RUN", "THREADS", "CHECK_EVERY"})  # always; others, where EPOCHS begins a new leg


def main() -> None:
    machine.stop_on_signals(at_once=distributed.ranks() == 1)
    check_constants()
    machine.set_up(THREADS)
    train_sets = {}
    sizes = {size_in(epoch) for epoch in range(*EPOCHS)} | {pets.IMAGE_SIZE}
    for size in sorted(sizes):  # IMAGE_SIZE is the last, so validation_set is of that size
        split = pets.load("trainval", size)
        train_sets[size], validation_set = divide(split, VALIDATION_SHARE, TRAIN_SHARE, TRAIN_IMAGES)
    try:
        for network in NETWORKS:
            train_network(network, train_sets, validation_set)
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on after the newest complete epoch")


def check_constants() -> None:
    """Raises UserError for values that would fail only later."""
    training.check_epochs(EPOCHS)
    settings.check(globals(), CHOICES, RANGES)
    settings.check(vars(augment), {}, augment.RANGES)
    distributed.check_batch(BATCH_SIZE)
    checkpoints.check_run(RUN)
    if not ENCODER and (SKIP_FEATURES or ENCODER_WEIGHTS):
        raise UserError("SKIP_FEATURES and ENCODER_WEIGHTS need an ENCODER")
    if (ENCODER and START_FROM) or (FREEZE_ENCODER and not (ENCODER or START_FROM)):
        raise UserError("give an ENCODER or START_FROM, not both; FREEZE_ENCODER needs one of them")
    if TRAIN_IMAGES and TRAIN_SHARE != 1:
        raise UserError("give TRAIN_IMAGES or TRAIN_SHARE, not both")
    machine.precision(PRECISION)
    for network in NETWORKS:
        with torch.device("meta"):  # without its weights
            pretrained.build(pretrained.full_name(network, ENCODER), **shape())
    if pets.IMAGE_SIZE < 2**STAGES:
        raise UserError(f"IMAGE_SIZE is at least {2**STAGES} px, since the networks halve {STAGES} times")


def shape() -> dict[str, object]:
    """What builds a network, beside its name."""
    return {"head": HEAD, "kernel_size": KERNEL_SIZE, "stages": STAGES, "encoder": ENCODER, "skips": SKIP_FEATURES,
            "enlarge": ENLARGE}  # fmt: skip


def train_network(name: str, train_sets: dict[int, Part], validation_set: Split) -> None:
    """Trains one network through EPOCHS, going on from the newest epoch that its folder holds.

    train_sets: the same images at each size that an epoch asks for, by size in px.
    """
    name = pretrained.full_name(name, ENCODER)
    folder = checkpoints.run_folder(pets.outputs_folder(), RUN, name)
    about = {"network": name, **shape(), "version": results.VERSION, "data": pets.data_name(),
             "data_identity": pets.identity("trainval"), "train_images": len(train_sets[pets.IMAGE_SIZE].rows),
             "constants": constants(), "legs": []}  # fmt: skip
    with checkpoints.lock(folder):
        torch.manual_seed(SEED)
        network = pretrained.build(name, **shape())
        if ENCODER or START_FROM:
            images = distributed.size_of_share(min(BATCH_SIZE, about["train_images"]))
            prepare_encoder(network, images, new=not (folder / "state.pt").exists())
        network.to(machine.device(), memory_format=torch.channels_last)
        random = torch.Generator().manual_seed(SEED)
        run = Run(name, folder, network, make_optimizer(network), random, [], about)
        defaults = settings.defaults(sys.modules[__name__]) | settings.defaults(augment) | settings.defaults(pets)
        training.resume(run, EPOCHS, PRECISION, FIXED, defaults)
        learner = distributed.together(network)
        step = step_of(learner, run.optimizer)

        def one_epoch(epoch: int) -> dict[str, object]:
            size = size_in(epoch)
            loss = train_epoch(learner, run.optimizer, step, train_sets[size], epoch, random)
            return {"size": size, "loss": loss} | validate(network, validation_set)

        training.train_epochs(run, EPOCHS[1], one_epoch)


def prepare_encoder(network: nn.Module, images: int, new: bool = True) -> None:
    """Gives a new run its pretrained weights; freezes the encoder if it is to stay as it is.

    images: how many a rank sees in one step.
    """
    pretrained.check_sizes(network, tuple(size_in(epoch) for epoch in range(*EPOCHS)), images, FREEZE_ENCODER)
    if new and START_FROM:
        pretrained.start_from(network, Path(START_FROM), START_PART)
        print(f"{START_PART} from {START_FROM}")
    elif new:
        print(f"weights of {ENCODER} from {pretrained.load_weights(network, ENCODER, ENCODER_WEIGHTS)}")
    if FREEZE_ENCODER:
        for module in pretrained.encoder_of(network):
            module.requires_grad_(False)


def make_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """OPTIMIZER with its groups of parameters. BatchNorm's and biases don't decay; with adam nothing does."""
    shares = {"encoder": ENCODER_RATE, "full convolution": FULL_CONV_RATE, "other": 1.0}
    if OPTIMIZER == "muon":
        shares["muon"] = MUON_RATE
    encoder = pretrained.encoder_of(network) if ENCODER or START_FROM else []
    groups = optimizers.parameter_groups(network, encoder, shares, 0.0 if OPTIMIZER == "adam" else WEIGHT_DECAY)
    if OPTIMIZER == "muon":
        return optimizers.make(optimizers.Muon, groups, LEARNING_RATE, dtype=machine.precision(PRECISION))
    return optimizers.make(torch.optim.Adam if OPTIMIZER == "adam" else torch.optim.AdamW, groups, LEARNING_RATE)


def constants() -> dict[str, object]:
    """All that decides what the trained weights will be, but for the rounding of THREADS, which the legs record."""
    found = settings.constants(sys.modules[__name__]) | settings.constants(augment)
    found |= {name: getattr(pets, name) for name in ("DATASET", "IMAGE_SIZE")}
    return {name: value for name, value in found.items() if name not in ANY_TIME}


def size_in(epoch: int) -> int:
    """Side of the images of an epoch, px: a share of IMAGE_SIZE, rounded to 2**STAGES; in the last epoch all of it."""
    first, end = EPOCHS
    share = 1.0 if epoch == end - 1 else SIZES[(epoch - first) * len(SIZES) // (end - first)]
    if share == 1:
        return pets.IMAGE_SIZE
    step = 2**STAGES
    return min(pets.IMAGE_SIZE, max(1, int(share * pets.IMAGE_SIZE / step + 0.5)) * step)


def rate_at(progress: float, epoch: int) -> float:
    """Share of LEARNING_RATE at a point of EPOCHS: progress in [0, 1), epoch from 1."""
    if SCHEDULE == "one_cycle":
        return training.up_and_down(progress, WARM_UP)
    return 0.7 ** ((epoch - 1) // 7)


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: Callable[[Tensor, Tensor], Tensor],
    part: Part,
    epoch: int,
    random: torch.Generator,
) -> float:
    """PASSES passes over the images; returns the mean loss. Raises UserError at a loss that is not finite.

    step: as step_of gives it.
    """
    network.train()
    if FREEZE_ENCODER:
        for module in pretrained.encoder_of(distributed.alone(network)):
            module.eval()  # its BatchNorm statistics stay as they are
    first, end = EPOCHS
    steps = PASSES * steps_in(part, BATCH_SIZE)

    def rate(share: float) -> float:
        return LEARNING_RATE * rate_at((epoch - first + share) / (end - first), epoch)

    fed = (batch for _ in range(PASSES) for batch in batches(part, BATCH_SIZE, random))
    loss = training.train_steps(step, fed, steps, optimizer, rate, epoch, CHECK_EVERY)
    distributed.spread_statistics(network)
    training.check_weights(network, steps, epoch)
    return loss


def step_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> Recorded:
    """train_step by this file's constants, of images and trimaps alone; on CUDA recorded when first taken."""
    dtype = machine.precision(PRECISION)
    return Recorded(lambda images, trimaps: train_step(network, optimizer, images, trimaps, LOSS, dtype))


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    trimaps: Tensor,
    loss: str,
    dtype: torch.dtype,
) -> Tensor:
    """One step on a batch: images (B, 3, H, W) in [0, 1], trimaps (B, 1, H, W), long. Returns its loss.

    loss: as LOSS; dtype: of the convolutions.
    """
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        logits = network(images)  # (B, 3, H, W)
    value = metrics.segmentation_loss(loss, logits.float(), trimaps)
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    return value.detach()


def validate(network: nn.Module, split: Split) -> dict[str, float]:
    """Results on the validation part at IMAGE_SIZE; none if there is no such part."""
    if not len(split.images):
        return {}
    found = metrics.evaluate(network, split.images, split.trimaps, machine.precision(PRECISION))
    everything = metrics.summary(found)
    kept = {name: everything[name] for name in ("pixel_accuracy", "mean_iou", "iou", "custom_iou")}
    kept["border_iou"] = everything["class_iou"][BORDER]
    kept["small_pets_mean_iou"] = metrics.by_pet_size(found.matrices)["small"]["mean_iou"]
    return {f"validation_{name}": value for name, value in kept.items()}


if __name__ == "__main__":
    distributed.run(main, pets, augment)
