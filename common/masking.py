"""Masks for masked auto-encoding: squares of an image that a network doesn't see and has to paint.

After He et al. 2022 (https://arxiv.org/abs/2111.06377). Squares are numbered row by row; images are (B, 3, H, W), and
masks (B, N), bool, True where a square is hidden, equally many in each image.
"""

import torch
from torch import Tensor

FILLINGS = ("noise", "swap", "gray")  # of hidden squares: uniform noise, seen squares of another image, or 0.5
GRAY = 0.5


def squares_of(images: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W) cut into squares of side x side px: (B, N, C * side * side)."""
    n, channels, height, width = images.shape
    cut = images.reshape(n, channels, height // side, side, width // side, side)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(n, (height // side) * (width // side), channels * side * side)


def images_of(squares: Tensor, side: int, height: int, width: int) -> Tensor:
    """What squares_of was given, (B, C, height, width)."""
    cut = squares.reshape(len(squares), height // side, width // side, -1, side, side)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(len(squares), -1, height, width)


def random_masks(images: int, squares: int, share: float, random: torch.Generator) -> Tensor:
    """A mask (images, squares) for each image by itself; share: of its squares, of which one at least stays visible."""
    hidden = min(squares - 1, max(1, round(share * squares)))
    ranks = torch.rand(images, squares, generator=random).argsort(1)
    return torch.zeros(images, squares, dtype=torch.bool).scatter_(1, ranks[:, :hidden], True)


def hide(images: Tensor, hidden: Tensor, side: int, filling: str, random: torch.Generator) -> Tensor:
    """The images with other pixels in their hidden squares; filling: one of FILLINGS; random: on the CPU.

    No pixel of a hidden square is anywhere in the result, not in another image of the batch either.
    """
    squares = squares_of(images, side)
    n, count, length = squares.shape
    if filling == "noise":
        other = torch.rand(squares.shape, generator=random).to(images.device)
    elif filling == "swap":
        seen = squares[~hidden].view(n, -1, length).roll(1, 0)
        chosen = torch.randint(seen.shape[1], (n, count), generator=random).to(images.device)
        other = seen.gather(1, chosen[..., None].expand(-1, -1, length))
    else:
        other = torch.full_like(squares, GRAY)
    shown = torch.where(hidden[..., None], other, squares)
    return images_of(shown, side, *images.shape[-2:]).contiguous(memory_format=torch.channels_last)


def normalised(squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squares of mean 0 and variance 1, as they are to be painted, and mean and deviation of each, (B, N, 1)."""
    mean = squares.mean(-1, keepdim=True)
    centred = squares - mean
    deviation = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return centred / deviation, mean, deviation


def painting_loss(painted: Tensor, images: Tensor, hidden: Tensor, side: int) -> Tensor:
    """Mean squared error of the hidden squares alone; painted: (B, N, 3 * side * side), normalised.

    1 is what painting all of a square, in all channels, in its one mean value costs.
    """
    wanted, _, _ = normalised(squares_of(images, side))
    errors = (painted.float() - wanted).square().mean(-1)  # (B, N)
    return (errors * hidden).sum() / hidden.sum()


def restored(painted: Tensor, images: Tensor, hidden: Tensor, side: int) -> Tensor:
    """The images with their hidden squares as painted, in [0, 1]; mean and deviation of each are the image's own."""
    squares = squares_of(images, side)
    _, mean, deviation = normalised(squares)
    whole = torch.where(hidden[..., None], painted.float() * deviation + mean, squares)
    return images_of(whole, side, *images.shape[-2:]).clamp(0, 1)
