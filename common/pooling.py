"""2x2 max pooling that remembers where each maximum was in two bits, and the unpooling that reads them.

Of each stage of its encoder SegNet's decoder gets nothing but the places of the maxima (Badrinarayanan, Kendall
and Cipolla 2017, https://arxiv.org/abs/1511.00561, section 3), and the paper counts 2 bits a window for them.
`torch.nn.MaxPool2d(2, return_indices=True)` hands out int64, 64 bits. Here four windows share a byte.

Pooling and unpooling are each other's gradient: both backward passes are `scatter` and `gather` again.
"""

import functools

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from common.machine import say_once

# Bit patterns are chosen with integer instructions, which are exact for every value and, unlike
# torch.where, use the whole vector unit for 2-byte floats.
KNOWN = ("cpu", "cuda", "meta")  # devices that have them; others are tried
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes of an element: its integer type


def max_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Largest value of each 2x2 window, and its place in the window.

    x: (B, C, H, W), floating point, H and W at least 2; an odd last row or column is left out.
    Returns values (B, C, H//2, W//2), equal to `F.max_pool2d(x, 2)`, and places
    (B, ceil(C/4), H//2, W//2), uint8, for `max_unpool`; PyTorch's own, int64, where `takes_bits` says
    no. Of equal values the first in reading order counts, as in PyTorch. A NaN is handed on; where in
    its window it stood is not promised.
    """
    if not takes_bits(x):
        return F.max_pool2d(x, 2, return_indices=True)  # places are int64 indices
    return _MaxPool.apply(x)


def takes_bits(x: Tensor) -> bool:
    """Whether to pool in bit patterns: not in an export, since ONNX has none, nor to predict on CUDA.

    There PyTorch's one kernel is faster than forty short ones that Python launches; training records them, and
    launches them as one.
    """
    if torch.compiler.is_exporting() or (x.device.type == "cuda" and not torch.is_grad_enabled()):
        return False
    return x.device.type in KNOWN or has_bit_patterns(x.device.type, x.dtype)


def max_unpool(values: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    """Each value back at its place in a map of zeros.

    values: (B, C, h, w); places: as `max_pool` gave them; size: (H, W) of what was pooled.
    Returns (B, C, H, W), equal to `F.max_unpool2d` with the int64 indices.
    """
    if places.dtype == torch.int64:
        out = values.new_zeros(*values.shape[:2], size[0] * size[1])
        return out.scatter(2, places.flatten(2), values.flatten(2)).unflatten(2, size)
    return _MaxUnpool.apply(values, places, size[0], size[1])


@functools.cache
def has_bit_patterns(device: str, dtype: torch.dtype) -> bool:
    """Whether pooling in bit patterns gives on a device what the CPU gives; says so if it doesn't."""
    x = torch.arange(2 * 5 * 6 * 4).sin().view(2, 5, 6, 4).to(dtype, memory_format=torch.channels_last)
    try:
        values, places = largest(x.to(device))
        back = scatter(values, places, 6, 4)
        works = torch.equal(back.cpu(), scatter(*largest(x), 6, 4)) and torch.equal(gather(back, places), values)
    except (RuntimeError, TypeError):  # an operation or a type that the device lacks
        works = False
    if not works:
        say_once(f"pooling in bit patterns fails on {device}: PyTorch's own is taken, with places of 64 bits")
    return works


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor]:
        values, places = largest(x)
        ctx.save_for_backward(places)  # and not x, which the built-in keeps
        ctx.mark_non_differentiable(places)
        ctx.size = x.shape[-2:]
        return values, places

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor, _) -> Tensor:
        return scatter(gradient, ctx.saved_tensors[0], *ctx.size)


class _MaxUnpool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, places: Tensor, height: int, width: int) -> Tensor:
        ctx.save_for_backward(places)
        return scatter(values, places, height, width)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gather(gradient, ctx.saved_tensors[0]), None, None, None


def windows(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views of the top left, top right, bottom left and bottom right pixels of all 2x2 windows."""
    height, width = x.shape[-2] // 2 * 2, x.shape[-1] // 2 * 2
    return (x[..., 0:height:2, 0:width:2], x[..., 0:height:2, 1:width:2],
            x[..., 1:height:2, 0:width:2], x[..., 1:height:2, 1:width:2])  # fmt: skip


def largest(x: Tensor) -> tuple[Tensor, Tensor]:
    """The maxima of x's windows and their packed places."""
    top_left, top_right, bottom_left, bottom_right = windows(x)
    top, bottom = torch.maximum(top_left, top_right), torch.maximum(bottom_left, bottom_right)
    is_bottom = bottom > top  # strictly: the first of equals wins
    top_is_right, bottom_is_right = top_right > top_left, bottom_right > bottom_left
    is_right = top_is_right ^ ((top_is_right ^ bottom_is_right) & is_bottom)
    return torch.maximum(top, bottom), pack(is_bottom, is_right)


def scatter(values: Tensor, places: Tensor, height: int, width: int) -> Tensor:
    """Values (B, C, h, w) at their places in a map (B, C, height, width), zero elsewhere."""
    is_bottom, is_right = unpack(places, values)
    bits = values.view(BITS[values.itemsize])
    right, bottom_right = bits & is_right, bits & is_right & is_bottom
    left, bottom_left = bits ^ right, (bits ^ right) & is_bottom
    quarters = left ^ bottom_left, right ^ bottom_right, bottom_left, bottom_right
    layout = torch.channels_last if bits.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    out = torch.empty((*values.shape[:2], height, width), dtype=bits.dtype, device=bits.device, memory_format=layout)
    if height % 2 or width % 2:  # the last row or column, which belongs to no window
        out.zero_()
    for pixel, quarter in zip(windows(out), quarters):
        pixel.copy_(quarter)
    return out.view(values.dtype)


def gather(x: Tensor, places: Tensor) -> Tensor:
    """From each 2x2 window of x (B, C, H, W) the pixel that `places` names: (B, C, H//2, W//2)."""
    is_bottom, is_right = unpack(places, x)
    top_left, top_right, bottom_left, bottom_right = windows(x.view(BITS[x.itemsize]))
    top = top_left ^ ((top_left ^ top_right) & is_right)
    bottom = bottom_left ^ ((bottom_left ^ bottom_right) & is_right)
    return (top ^ ((top ^ bottom) & is_bottom)).view(x.dtype)


def pack(is_bottom: Tensor, is_right: Tensor) -> Tensor:
    """Two bits a window, four windows a byte: (B, C, h, w), bool, twice -> (B, ceil(C/4), h, w), uint8."""
    place = is_right.view(torch.uint8) | is_bottom.view(torch.uint8) << 1
    quarter = -(-place.shape[1] // 4)
    packed = place[:, :quarter].clone(memory_format=torch.preserve_format)
    for i in range(1, 4):
        part = place[:, i * quarter : (i + 1) * quarter]
        packed[:, : part.shape[1]] |= part << 2 * i
    return packed


def unpack(places: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Masks (B, C, h, w) of all ones (-1) where the maximum was at the bottom, and at the right.

    Their integer type has the width of `like`'s elements, and C is its number of channels.
    """
    place = torch.cat([places >> 2 * i & 3 for i in range(4)], 1)[:, : like.shape[1]]
    place = place.to(BITS[like.itemsize])
    return -(place >> 1), -(place & 1)
