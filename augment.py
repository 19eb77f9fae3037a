"""Random changes of training photographs, drawn for each photograph of a batch by itself.

torchvision's transforms draw once a call, so a batch would be flipped as a whole; and a call for each
photograph costs more than a training step should wait. Flips and jitter here act on whole batches.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

FLIP = 0.5  # probability of a horizontal flip
JITTER = 0.3  # brightness, contrast and saturation are each scaled by 1-JITTER to 1+JITTER
ZOOM = 0.0  # photographs are magnified by 1-ZOOM to 1+ZOOM and shifted by up to ZOOM/4 of a side; 0: never
ROTATION = 0.0  # degrees to either side; 0: never

GRAY = (0.2989, 0.587, 0.114)  # weights of R, G and B in a pixel's gray, ITU-R 601 as torchvision rounds it


def augment(images: Tensor, trimaps: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """One draw a photograph of all changes that the constants above ask for.

    images: (B, 3, H, W), float in [0, 1]; trimaps: (B, 1, H, W), integer; random: on the CPU.
    Returns the same shapes and types, a photograph and its trimap always moved together.
    """
    flipped = torch.rand(len(images), 1, 1, 1, generator=random) < FLIP
    flipped = flipped.to(images.device)
    images = torch.where(flipped, images.flip(3), images)
    trimaps = torch.where(flipped, trimaps.flip(3), trimaps)
    if ZOOM or ROTATION:
        images, trimaps = move(images, trimaps, random)
    factors = 1 + JITTER * (2 * torch.rand(3, len(images), 1, 1, 1, generator=random) - 1)
    return jitter(images, *factors.to(images.device)), trimaps


def jitter(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Scales brightness, then contrast around the mean gray, then saturation around each pixel's gray.

    images: (B, 3, H, W) in [0, 1], as is the result; the factors: (B, 1, 1, 1), 1 for no change.
    Each step equals torchvision.transforms.v2.functional.adjust_brightness, _contrast and _saturation.
    """
    images = (images * brightness).clamp_(0, 1)
    mean = gray(images).mean((1, 2, 3), keepdim=True)
    images.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 1)
    rest = gray(images).mul_(1 - saturation)
    return images.mul_(saturation).add_(rest).clamp_(0, 1)


def gray(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W)"""
    red, green, blue = images.split(1, 1)
    return (red * GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])


def move(images: Tensor, trimaps: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turns, magnifies and shifts each photograph: bilinear, edges mirrored; its trimap: nearest."""
    angle, zoom, right, down = 2 * torch.rand(4, len(images), generator=random) - 1
    angle, scale = angle * ROTATION * torch.pi / 180, 1 / (1 + zoom * ZOOM)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [torch.stack(row, 1) for row in ((cos, -sin, right * ZOOM / 2), (sin, cos, down * ZOOM / 2))]
    grid = F.affine_grid(torch.stack(rows, 1).to(images.device), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)
    labels = F.grid_sample(trimaps.to(images.dtype), grid, "nearest", "reflection", align_corners=False)
    return moved, labels.to(trimaps.dtype)
