"""Random changes of training images, drawn for each image of a batch by itself.

torchvision's transforms draw once a call, so a batch would be flipped as a whole; and a call for each
image costs more than a training step should wait. Flips and jitter here act on whole batches.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.trimap import CLASSES

FLIP = 0.5  # probability of a horizontal flip
JITTER = 0.3  # brightness, contrast and saturation are each scaled by 1-JITTER to 1+JITTER
ZOOM = 0.0  # images are magnified by 1-ZOOM to 1+ZOOM and shifted by up to ZOOM/4 of a side; 0: never
ROTATION = 0.0  # degrees to either side; 0: never

RANGES = {"FLIP": (0, 1), "JITTER": (0, 1), "ZOOM": (0, 0.9), "ROTATION": (0, 180)}  # what they may be

GRAY = (0.2989, 0.587, 0.114)  # weights of R, G and B in a pixel's gray, ITU-R 601 as torchvision rounds it


def augment(images: Tensor, trimaps: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """One draw per image of all changes that the constants above ask for.

    images: (B, 3, H, W), uint8; trimaps: (B, 1, H, W), integer; random: on the CPU.
    Returns the images as float in [0, 1] with channels last in memory, and the trimaps, always moved together.
    """
    n, device = len(images), images.device
    flipped = torch.rand(n, generator=random) < FLIP
    chosen = (torch.arange(n) + n * flipped).to(device)  # whole images are chosen faster than pixels
    images, trimaps = (torch.cat((x, x.flip(3))).index_select(0, chosen) for x in (images, trimaps))
    images = images.float()
    if ZOOM or ROTATION:
        images, trimaps = move(images, trimaps, random)
    factors = 1 + JITTER * (2 * torch.rand(3, n, 1, 1, generator=random) - 1)
    return jitter(images, *factors.to(device)), trimaps


def jitter(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Scales brightness, then contrast around the mean gray, then saturation around each pixel's gray.

    images: (B, 3, H, W), float in [0, 255], spoilt; the factors: (B, 1, 1), 1 for no change.
    Returns (B, 3, H, W) in [0, 1], channels last in memory. Each step equals
    torchvision.transforms.v2.functional.adjust_brightness, _contrast and _saturation.
    """
    n, _, height, width = images.shape
    pixels = images.flatten(2).mul_(brightness / 255).clamp_(max=1)  # (B, 3, pixels)
    gray = torch.tensor(GRAY, device=images.device)
    mean = (pixels.mean(2) @ gray).view(n, 1, 1)
    pixels.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 1)
    mix = saturation * torch.eye(3, device=images.device) + (1 - saturation) * gray  # row: weights of a new channel
    pixels = torch.bmm(pixels.transpose(1, 2), mix.transpose(1, 2)).clamp_(0, 1)  # (B, pixels, 3)
    return pixels.view(n, height, width, 3).permute(0, 3, 1, 2)


def move(images: Tensor, trimaps: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turns, magnifies and shifts each image (float), bilinearly, edges mirrored; a pixel gets the commonest label."""
    angle, zoom, right, down = 2 * torch.rand(4, len(images), generator=random) - 1
    angle, scale = angle * ROTATION * torch.pi / 180, 1 / (1 + zoom * ZOOM)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [torch.stack(row, 1) for row in ((cos, -sin, right * ZOOM / 2), (sin, cos, down * ZOOM / 2))]
    grid = F.affine_grid(torch.stack(rows, 1).to(images.device), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)
    one_hot = F.one_hot(trimaps[:, 0].long(), len(CLASSES)).permute(0, 3, 1, 2).to(images.dtype)
    shares = F.grid_sample(one_hot, grid, "bilinear", "reflection", align_corners=False)
    return moved, shares.argmax(1, keepdim=True).to(trimaps.dtype)


def crop(images: Tensor, size: int, least: float, random: torch.Generator) -> Tensor:
    """A random part of each image, flipped or not, at size x size px: (B, 3, size, size), float in [0, 1].

    images: (B, 3, H, W), uint8, at most 2 * size px a side, since nothing is antialiased; least: the smallest part of
    an image's area, 1 for always the whole image. Sides are 3:4 to 4:3 where they fit, as in torchvision's
    RandomResizedCrop.
    """
    n = len(images)
    area, stretch, right, down, side = torch.rand(5, n, generator=random)
    area = least + (1 - least) * area
    ratio = ((2 * stretch - 1) * torch.minimum(-area.log(), torch.tensor(4 / 3).log())).exp()
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    flip, zero = torch.where(side < FLIP, -1.0, 1.0), torch.zeros(n)
    rows = ((flip * width, zero, (1 - width) * (2 * right - 1)), (zero, height, (1 - height) * (2 * down - 1)))
    theta = torch.stack([torch.stack(row, 1) for row in rows], 1).to(images.device)  # (B, 2, 3)
    grid = F.affine_grid(theta, [n, 3, size, size], align_corners=False)
    return F.grid_sample(images.float().div_(255), grid, "bilinear", "border", align_corners=False)
