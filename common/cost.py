"""What a network costs per image: multiply-adds, and bytes that its encoder hands to its decoder."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


@torch.inference_mode()
def multiply_adds(network: nn.Module, size: int) -> int:
    """Multiply-adds of the convolutions and linear layers for an image of size x size px."""
    total = 0

    def count(module: nn.Module, _, output: Tensor) -> None:
        nonlocal total
        places = output.numel() // module.weight.shape[0]  # each weight is used once at each
        total += module.weight.numel() * places

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    network.eval()(blank_image(network, size))
    for hook in hooks:
        hook.remove()
    return total


@torch.inference_mode(False)
@torch.enable_grad()
def kept_bytes(network: nn.Module, size: int, dtype: torch.dtype = torch.float32) -> int:
    """Bytes per image that the decoder is given beside the bottleneck in training: places of maxima, or whole maps.

    dtype: of the convolutions; maps of bfloat16 take half of float32's bytes, places always 2 bits per window.
    """
    image = blank_image(network, size)
    with torch.autocast(image.device.type, dtype, enabled=dtype != torch.float32):
        _, handed_over = network.eval().encode(image)
    return sum(tensor.nbytes for tensor in tensors_in(handed_over))


def tensors_in(nested: object) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, (list, tuple)):
        for part in nested:
            yield from tensors_in(part)


def blank_image(network: nn.Module, size: int) -> Tensor:
    return torch.zeros(1, 3, size, size, device=next(network.parameters()).device)
