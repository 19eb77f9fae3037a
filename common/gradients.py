"""Backward passes that PyTorch is slow at on a CPU, taken another way; the result is the same but for rounding.

What whole steps gain stands in experiments/README.md, "Speed". These operations were timed alone, with PyTorch 2.14, on
one processor with AVX-512 and bfloat16, on maps of 16 px and more:

- In bfloat16 the gradient of a depthwise 5x5 kernel takes ten times as long as those of its 3x3 parts together.
- In bfloat16 the gradient of a depthwise convolution's input takes six times as long as in float32 if it has a stride.
- The gradient of bilinear upsampling is computed value by value, ten times as slowly, unless it gets one that is whole
  and in channels_last. Behind torch.cat it gets a slice.
"""

import contextlib

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight
from torch.overrides import TorchFunctionMode

QUICK = True  # False: PyTorch's own, to compare with
LARGEST = 3  # side of the depthwise kernels whose gradient PyTorch is quick at


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, of maps (B, C, h, w) to (B, C, H, W)."""
    enlarged = F.interpolate(x, size, mode="bilinear")
    if QUICK and enlarged.requires_grad and enlarged.device.type == "cpu":
        enlarged.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
    return enlarged


class DepthwiseConv2d(nn.Conv2d):
    """Each channel by itself, without bias."""

    def __init__(self, channels: int, kernel_size: int, padding: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=padding, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)


def quick_depthwise(x: Tensor) -> contextlib.AbstractContextManager:
    """Inside, the depthwise convolutions of any module become as quick as this file's, if x is on a CPU."""
    applies = QUICK and x.device.type == "cpu" and torch.is_grad_enabled()
    return _QuickDepthwise() if applies else contextlib.nullcontext()


class _QuickDepthwise(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return (conv2d if function is torch.conv2d else function)(*args, **(kwargs or {}))


def conv2d(input: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:
    """torch.conv2d, but for how gradients are computed where torch's are slow; they have no gradients of their own."""
    if is_slow(input, weight, stride, padding, dilation, groups):
        return _Depthwise.apply(input, weight, bias, pair(stride), pair(padding))
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


def is_slow(x: Tensor, weight: Tensor, stride, padding, dilation, groups: int) -> bool:
    """Whether a convolution is depthwise, in bfloat16 and on a CPU, its kernel large or its stride more than 1."""
    if not QUICK or groups == 1 or (max(weight.shape[2:]) <= LARGEST and max(pair(stride)) == 1):
        return False
    if x.dim() != 4 or not groups == x.shape[1] == weight.shape[0] or isinstance(padding, str):
        return False
    if x.device.type != "cpu" or max(pair(dilation)) > 1 or not torch.is_grad_enabled():
        return False
    types = {x.dtype, weight.dtype}
    if torch.is_autocast_enabled("cpu") and types <= {torch.float32, torch.bfloat16}:
        types = {torch.get_autocast_dtype("cpu")}
    return types == {torch.bfloat16}


def pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    """The value for height and for width, of what torch.conv2d takes."""
    return (value, value) if isinstance(value, int) else tuple(value) * (2 if len(value) == 1 else 1)


class _Depthwise(torch.autograd.Function):
    """x (B, C, H, W), weight (C, 1, k, l), bias (C) or None -> (B, C, H', W'), in bfloat16."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple, padding: tuple) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(x, weight, bias, stride, padding, groups=x.shape[1])

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        return (
            gradient_of_input(x, weight, gradient, ctx.stride, ctx.padding) if of_x else None,
            gradient_of_weight(x, weight, gradient, ctx.stride, ctx.padding) if of_weight else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
            None,
            None,
        )


def gradient_of_input(x: Tensor, weight: Tensor, gradient: Tensor, stride: tuple, padding: tuple) -> Tensor:
    """In float32 if there is a stride."""
    dtype = torch.float32 if max(stride) > 1 else x.dtype
    reached = [
        (n - 1) * step - 2 * pad + k for n, step, pad, k in zip(gradient.shape[2:], stride, padding, weight.shape[2:])
    ]
    rest = [size - end for size, end in zip(x.shape[2:], reached)]  # px at the end that no kernel saw
    found = F.conv_transpose2d(gradient.to(dtype), weight.to(dtype), None, stride, padding, rest, groups=x.shape[1])
    return found.to(x.dtype)


def gradient_of_weight(x: Tensor, weight: Tensor, gradient: Tensor, stride: tuple, padding: tuple) -> Tensor:
    """Part by part of the kernel, of the pixels of x that each part was multiplied with."""
    gradient = gradient.contiguous(memory_format=torch.channels_last)  # once, rather than for each part
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0])) if any(padding) else x
    found = torch.empty_like(weight)
    for top, height in parts(weight.shape[2]):
        for left, width in parts(weight.shape[3]):
            bottom = top + (gradient.shape[2] - 1) * stride[0] + height
            right = left + (gradient.shape[3] - 1) * stride[1] + width
            seen = x[..., top:bottom, left:right].contiguous(memory_format=torch.channels_last)
            part = found[..., top : top + height, left : left + width]
            part.copy_(conv2d_weight(seen, part.shape, gradient, stride, groups=len(weight)))
    return found


def parts(side: int) -> list[tuple[int, int]]:
    """(start, length) of the parts of a kernel's side, none longer than LARGEST; the last two may overlap."""
    length = min(side, LARGEST)
    return [(min(start, side - length), length) for start in range(0, side, length)]
