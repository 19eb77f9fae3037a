"""What a training epoch is fed: a choice of images, in augmented batches."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from common import distributed, machine
from common.settings import UserError
from dataset import augment
from dataset.cache import Pair, Split

KEPT_ON_DEVICE = 2**31  # bytes; of a larger set an accelerator is handed batch after batch


class Part(NamedTuple):
    """Some of a split's images; nothing of it is copied."""

    split: Split
    rows: Tensor  # (n,), int64, their numbers

    @property
    def pairs(self) -> list[Pair]:
        return [self.split.pairs[i] for i in self.rows.tolist()]


def divide(
    split: Split, validation_share: float, train_share: float = 1.0, train_images: int = 0
) -> tuple[Part, Split]:
    """A training and a validation part, each with its share of every breed; the same ones on every machine.

    train_share: of the images that are not for validation; train_images: how many of them instead, of the breeds as
    evenly as can be, 0 for as many as train_share says. A smaller set is part of each larger one.
    The validation part, which is evaluated in its order, is a copy. Raises UserError if there are fewer images.
    """
    chosen, kept_out = numbers(split.pairs, validation_share, train_share, train_images)
    if len(chosen) == len(split.pairs):
        return all_of(split), copied(split, [])
    return Part(split, torch.tensor(chosen)), copied(split, kept_out)


def numbers(
    pairs: list[Pair], validation_share: float, train_share: float = 1.0, train_images: int = 0
) -> tuple[list[int], list[int]]:
    """The numbers of the images that `divide` puts into training and into validation."""
    training: list[tuple[int, int]] = []  # each image's place in the order of its breed, and its number
    validation: list[int] = []
    random = torch.Generator().manual_seed(0)
    for breed in sorted({pair.breed for pair in pairs}):
        members = [i for i, pair in enumerate(pairs) if pair.breed == breed]
        order = torch.randperm(len(members), generator=random).tolist()
        kept = max(1, len(members) - round(len(members) * validation_share))
        used = kept if train_images else max(1, round(kept * train_share))
        training += [(place, members[i]) for place, i in enumerate(order[:used])]
        validation += [members[i] for i in order[kept:]]
    if validation_share and not validation:
        raise UserError(f"VALIDATION_SHARE={validation_share} keeps out no image of any breed: raise it")
    if train_images > len(training):
        raise UserError(f"TRAIN_IMAGES={train_images}: there are {len(training)} images to learn from")
    if train_images:  # the first of each breed, then the second of each
        training = sorted(training, key=lambda placed: placed[0])[:train_images]
    return [i for _, i in training], validation


def all_of(split: Split) -> Part:
    return Part(split, torch.arange(len(split.images)))


def copied(split: Split, chosen: list[int]) -> Split:
    return Split(split.images[chosen], split.trimaps[chosen], [split.pairs[i] for i in chosen])


def steps_in(part: Part, batch_size: int) -> int:
    """Batches per pass: the last, smaller one is left out if there is another."""
    return max(1, len(part.rows) // batch_size)


def on_device_if_small(*tensors: Tensor) -> list[Tensor]:
    """The tensors on the device, if they are no more than KEPT_ON_DEVICE; else where they are."""
    fit = sum(tensor.nbytes for tensor in tensors) <= KEPT_ON_DEVICE
    return [tensor.to(machine.device()) if fit else tensor for tensor in tensors]


def batches(part: Part, batch_size: int, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over a part, in augmented batches on the device, in a random order: images (B, 3, H, W), float in
    [0, 1], and trimaps (B, 1, H, W), long.

    A batch is a choice of rows, and no others are read. An accelerator is handed the whole split first, so that no
    batch has to wait, unless it is larger than KEPT_ON_DEVICE. Of several ranks each gets its share of every batch.
    """
    device = machine.device()
    images, trimaps = on_device_if_small(part.split.images, part.split.trimaps)
    order = part.rows[torch.randperm(len(part.rows), generator=random)].to(images.device)
    for chosen in order.split(batch_size)[: steps_in(part, batch_size)]:
        batch = (x.index_select(0, chosen).to(device, non_blocking=True) for x in (images, trimaps))
        augmented, labels = augment.augment(*batch, random)  # on each rank of all, so that none depends on the ranks
        yield distributed.share(augmented), distributed.share(labels).long()
