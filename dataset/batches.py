"""What a training epoch is fed: a choice of images, in augmented batches."""

from collections.abc import Iterator

import torch
from torch import Tensor

from common import machine
from dataset import augment
from dataset.cache import Split


def divide(split: Split, validation_share: float, train_share: float) -> tuple[Split, Split]:
    """A training and a validation part, each with its share of every breed; the same ones on every machine.

    With all images in training it is the split itself, which is not copied.
    """
    if validation_share == 0 and train_share == 1:
        return split, part_of(split, [])
    chosen: tuple[list[int], list[int]] = [], []
    random = torch.Generator().manual_seed(0)
    for breed in sorted({pair.breed for pair in split.pairs}):
        members = [i for i, pair in enumerate(split.pairs) if pair.breed == breed]
        order = torch.randperm(len(members), generator=random).tolist()
        kept = max(1, len(members) - round(len(members) * validation_share))
        chosen[0].extend(members[i] for i in order[: max(1, round(kept * train_share))])
        chosen[1].extend(members[i] for i in order[kept:])
    return part_of(split, chosen[0]), part_of(split, chosen[1])


def part_of(split: Split, chosen: list[int]) -> Split:
    return Split(split.images[chosen], split.trimaps[chosen], [split.pairs[i] for i in chosen])


def steps_in(split: Split, batch_size: int) -> int:
    """Batches per epoch: the last, smaller one is left out if there is another."""
    return max(1, len(split.images) // batch_size)


def batches(split: Split, batch_size: int, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch of augmented batches on the device, in a random order: images (B, 3, H, W), float in [0, 1], and
    trimaps (B, 1, H, W), long.

    The images are in memory, on a GPU in its own: a batch is a choice of them, and nothing has to wait.
    """
    device = machine.device()
    images, trimaps = split.images.to(device), split.trimaps.to(device)
    order = torch.randperm(len(images), generator=random).to(device)
    for chosen in order.split(batch_size)[: steps_in(split, batch_size)]:
        batch = images.index_select(0, chosen), trimaps.index_select(0, chosen)
        augmented, labels = augment.augment(*batch, random)
        yield augmented, labels.long()
