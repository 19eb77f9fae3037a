"""What a network costs per image: multiply-adds, and bytes that its encoder hands to its decoder."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(network: nn.Module, size: int) -> int:
    """Multiply-adds of convolutions, linear layers and attention for an image of size x size px; torch counts them."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network.eval()(blank_image(network, size))
    return counter.get_total_flops() // 2


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
