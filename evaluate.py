"""A network's predictions for photographs in memory, and what the metrics make of them."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import metrics


def as_input(images: Tensor, device: torch.device) -> Tensor:
    """Bytes (B, 3, H, W) -> floats in [0, 1] on the device, channels last, as the networks take them fastest."""
    images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
    return images.float().div_(255)


@torch.inference_mode()
def logits_of(network: nn.Module, images: Tensor, precision: torch.dtype, batch_size: int = 64) -> Iterator[Tensor]:
    """Logits (B, 3, H, W), float32, batch by batch, of photographs (N, 3, H, W), uint8."""
    network.eval()
    device = next(network.parameters()).device
    for batch in images.split(batch_size):
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            logits = network(as_input(batch, device))
        yield logits.float()


def evaluate(network: nn.Module, images: Tensor, trimaps: Tensor, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Confusion matrices (N, 3, 3), int64, and soft IoU (N,) of photographs (N, 3, H, W) with trimaps (N, 1, H, W)."""
    matrices, soft, start = [], [], 0
    for logits in logits_of(network, images, precision):
        truth = trimaps[start : start + len(logits)].to(logits.device)
        start += len(logits)
        matrices.append(metrics.confusion(logits.argmax(1, keepdim=True), truth))
        soft.append(metrics.soft_iou(logits, truth, softmax=True))
    return torch.cat(matrices).cpu(), torch.cat(soft).cpu()
