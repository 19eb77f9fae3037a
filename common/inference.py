"""A network's predictions for images in memory."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

PIXELS = 64 * 128 * 128  # in a batch, so that memory does not grow with the size of the images


def as_input(images: Tensor, device: torch.device) -> Tensor:
    """Bytes (B, 3, H, W) -> floats in [0, 1] on the device, channels last, as the networks take them fastest."""
    images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
    return images.float().div_(255)


def batch_size_of(images: Tensor) -> int:
    """How many of them are predicted at a time."""
    return max(1, PIXELS // (images.shape[-2] * images.shape[-1]))


@torch.inference_mode()
def logits_of(network: nn.Module, images: Tensor, precision: torch.dtype, mirror: bool = False) -> Iterator[Tensor]:
    """Logits (B, 3, H, W), float32, batch by batch, of images (N, 3, H, W), uint8.

    mirror: the mean of the probabilities of an image and of its mirror image, as logits.
    """
    if not len(images):
        return  # split would give one batch of no image
    network.eval()
    device = next(network.parameters()).device
    times = getattr(network, "enlarged", 1)  # of this project's networks
    for batch in images.split(max(1, batch_size_of(images) // times**2)):
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            logits = network(as_input(batch, device)).float()
            if mirror:
                mirrored = network(as_input(batch.flip(3), device)).float().flip(3)
                both = (logits.softmax(1) + mirrored.softmax(1)) / 2
                logits = both.clamp_(min=torch.finfo(both.dtype).tiny).log_()  # -inf would not interpolate
        yield logits
