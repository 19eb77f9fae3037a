"""Trains as train.py does, with what is tried beside it: losses, dropout, coarser maps, averaged weights.

    python -m experiments.levers SMOOTHING=0.1 RUN=levers-smooth     all constants of train.py, and those below
    python -m experiments.levers LOSS=ce+lovasz RUN=levers-lovasz    LOSS may be one of LOSSES

study.py tells which of them help; one that does belongs in train.py. With all of them off, nothing differs from it.
These runs are for their validation results: they are not resumed, and averaged weights are not saved.
"""

import copy
import functools
import os
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

import fetch_oxford_iiit_pets as pets
import metrics
import pretrained
import segnet
import train
from common import distributed, results, settings
from common.settings import UserError
from common.trimap import CLASSES
from dataset import augment
from dataset.cache import Split

SMOOTHING = 0.0  # share of each label that cross-entropy spreads over all classes
BORDER_WEIGHT = 1.0  # of border pixels in cross-entropy, where others have 1
DROPOUT = 0.0  # share of the bottleneck's channels that a step leaves out
COARSE = 0.0  # weight of each loss on one of the decoder's coarser maps
AVERAGE = 0.0  # of the averaged weights, what a step keeps, e.g. 0.998; they are validated in place of the last

RANGES = {
    **dict.fromkeys(("SMOOTHING", "DROPOUT", "AVERAGE"), (0, 0.9999)),
    **dict.fromkeys(("BORDER_WEIGHT", "COARSE"), (0, float("inf"))),
}
LOSSES = (*train.CHOICES["LOSS"], "ce+lovasz", "ce+iou+lovasz")

averages: dict[nn.Module, nn.Module] = {}  # by the network in training


def main() -> None:
    settings.check(globals(), {}, RANGES)
    if train.ENCODER and (DROPOUT or COARSE):
        raise UserError("DROPOUT and COARSE are for networks without an ENCODER")
    if train.ENLARGE > 1 and COARSE:
        raise UserError("COARSE needs ENLARGE=1: it compares coarser maps with labels, which are not enlarged")
    if (train.START_FROM and COARSE) or (train.FREEZE_ENCODER and DROPOUT):
        raise UserError("COARSE adds heads, which START_FROM has no weights of; a frozen encoder has no DROPOUT")
    if distributed.ranks() > 1:
        raise UserError("levers are for one process")
    if results.has_name(train.RUN):
        raise UserError(f"RUN={train.RUN}: levers-NAME, so that predict.py doesn't take the network for one to use")
    if os.path.exists(folder := pets.outputs_folder() / train.RUN):
        raise UserError(f"{folder} is there, and such a run can't go on; choose another RUN, or delete it")
    train.CHOICES["LOSS"] = LOSSES
    train.train_step, train.constants = train_step, partial(constants, train.constants)
    if DROPOUT or COARSE:
        pretrained.build = partial(build, pretrained.build)
    if AVERAGE:
        train.validate = partial(validate, train.validate)
    train.main()


def constants(plain: Callable[[], dict[str, object]]) -> dict[str, object]:
    """train.py's, and those of this file: a checkpoint and its row say them."""
    return plain() | {name: globals()[name] for name in RANGES}


def build(plain: Callable[..., nn.Module], name: str, **shape: object) -> nn.Module:
    """The network that `plain` builds, its bottleneck with dropout, its decoder with heads on its coarser maps."""
    network = plain(name, **shape)
    stages = shape["stages"]
    if DROPOUT:
        # Before pooling, which commutes with it: whole channels are left out
        block = network.get_submodule(f"dc{stages}")
        block.register_forward_hook(lambda module, _, x: F.dropout2d(x, DROPOUT, module.training))
    if COARSE:
        network.coarse = nn.ModuleList()
        for i in range(2, stages + 1):  # from half the image's size
            network.coarse.append(head := nn.Conv2d(segnet.DECODER[i - 1][-1], len(CLASSES), 1))
            network.get_submodule(f"uc{i}").register_forward_hook(partial(remember, head))
    return network


def remember(head: nn.Conv2d, block: nn.Module, _: object, x: Tensor) -> None:
    if block.training:
        head.logits = head(x)  # (B, 3, h, w)


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    trimaps: Tensor,
    loss: str,
    dtype: torch.dtype,
) -> Tensor:
    """train.train_step with the losses of this file."""
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        logits = network(images)
    losses = metrics.LOSSES | {"ce": cross_entropy, "lovasz": lovasz_loss}
    value = metrics.segmentation_loss(loss, logits.float(), trimaps, losses)
    for head in network.coarse if COARSE else ():
        value = value + COARSE * on_shares(head.__dict__.pop("logits").float(), trimaps)
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    if AVERAGE:
        average(network)
    return value.detach()


@torch.no_grad()
def average(network: nn.Module) -> None:
    """Moves the averaged weights a little towards the network's, BatchNorm's statistics too.

    By swa_utils' own rule, but not by its AveragedModel, which has Python wait for a GPU.
    """
    if network not in averages:
        averages[network] = copy.deepcopy(network)
        return
    both = zip(averages[network].state_dict().values(), network.state_dict().values())
    averaged, now = zip(*(pair for pair in both if pair[0].is_floating_point()))
    get_ema_multi_avg_fn(AVERAGE)(list(averaged), list(now), None)


def cross_entropy(logits: Tensor, trimaps: Tensor) -> Tensor:
    weight = class_weights(BORDER_WEIGHT, logits.device) if BORDER_WEIGHT != 1 else None
    return F.cross_entropy(logits, trimaps[:, 0], weight, label_smoothing=SMOOTHING)


@functools.cache
def class_weights(border: float, device: torch.device) -> Tensor:
    """Once for all steps: a copy from the CPU in each could not be recorded."""
    return torch.tensor((1.0, 1.0, border), device=device)


def on_shares(logits: Tensor, trimaps: Tensor) -> Tensor:
    """Cross-entropy of a coarser map (B, 3, h, w) against each class's share of its cells; h and w divide H and W."""
    one_hot = F.one_hot(trimaps[:, 0], len(CLASSES)).permute(0, 3, 1, 2).float()
    return F.cross_entropy(logits, F.adaptive_avg_pool2d(one_hot, logits.shape[-2:]))


def lovasz_loss(logits: Tensor, trimaps: Tensor) -> Tensor:
    """The Lovász extension of 1 - IoU, the mean over the classes that the batch has.

    Berman et al. 2018 (https://arxiv.org/abs/1705.08790), equations 8 to 12: errors are sorted, and each is weighted by
    what its pixel adds to 1 - IoU when it is called wrong after all with larger errors.
    """
    probabilities = logits.softmax(1).transpose(0, 1).flatten(1)  # (3, pixels)
    found, present = [], []
    for c, of_class in enumerate(probabilities):
        truth = (trimaps == c).flatten().float()
        present.append(truth.amax())  # a number on the device: Python doesn't wait for it
        errors, order = (truth - of_class).abs().sort(descending=True)
        truth = truth[order]
        missed, added = truth.cumsum(0), (1 - truth).cumsum(0)
        lost = 1 - (truth.sum() - missed) / (truth.sum() + added)  # 1 - IoU with so many pixels wrong
        found.append(present[-1] * (errors @ lost.diff(prepend=lost.new_zeros(1))))
    return torch.stack(found).sum() / torch.stack(present).sum()


def validate(plain: Callable[..., dict[str, float]], network: nn.Module, split: Split) -> dict[str, float]:
    return plain(averages[network], split)


if __name__ == "__main__":
    distributed.run(main, pets, train, augment)
