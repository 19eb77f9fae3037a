"""From an image of any size to the probabilities of its pixels, the tinted overlay, and the pet cut out."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.inference import logits_of
from common.trimap import BACKGROUND, BORDER, COLOURS

TINT = 0.5  # of the class's colour in an overlay
SOFT = 0.8  # width of a cut-out's soft edge, as a share of all probabilities; near 0 it is cut with scissors


def probabilities_of(network: nn.Module, pixels: Tensor, size: int, precision: torch.dtype, mirror: bool) -> Tensor:
    """Probabilities of the classes, (3, H, W), of an image (3, H, W), uint8.

    It is squeezed to the square of size x size px that the network was trained on; logits are brought back to its
    size. mirror: the mean over the image and its mirror image.
    """
    small = F.interpolate(pixels[None], (size, size), mode="bilinear", antialias=True)
    logits = next(logits_of(network, small, precision, mirror)).cpu()
    return F.interpolate(logits, pixels.shape[-2:], mode="bilinear")[0].softmax(0)


def labels_of(probabilities: Tensor) -> Tensor:
    """The most probable classes, (1, H, W), of probabilities (3, H, W)."""
    pet, background, border = probabilities
    # The same as argmax(0), which is slow over a first dimension of three.
    is_border = border > torch.maximum(pet, background)
    return torch.where(is_border, BORDER, (background > pet).long())[None]


def cut_out(pixels: Tensor, probabilities: Tensor, soft: float = SOFT) -> Tensor:
    """The image (3, H, W), uint8, with a fourth channel: how opaque it is, 255 in the pet and 0 outside.

    soft: from 0 to 1. Half of the border is pet; at 0.8 the ground is clear below a tenth and the pet whole above
    nine tenths.
    """
    pet, _, border = probabilities
    alpha = (pet + border / 2 - 0.5).div_(max(soft, 0.01)).add_(0.5).clamp_(0, 1)
    return torch.cat((pixels, (255 * alpha).round().byte()[None]))


def overlay(pixels: Tensor, labels: Tensor) -> Tensor:
    """The image (3, H, W), uint8, tinted by class: pet and border in their colours, background as it is."""
    colours = torch.tensor([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS])  # (3, RGB)
    shares = torch.tensor([TINT if c != BACKGROUND else 0.0 for c in range(len(COLOURS))])
    tinted = pixels + shares[labels] * (colours.T[:, labels[0]] - pixels.float())
    return tinted.round().byte()
