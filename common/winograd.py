"""Winograd's convolutions: 3x3, with a quarter of the multiplications, to train on a CPU without bfloat16.

After Lavin and Gray 2016 (https://arxiv.org/abs/1509.09308), section 4.3, F(4x4, 3x3). The map is cut into tiles of 6x6
px that overlap by two, each of which gives a block of 4x4 px of the result. Tile and kernel are brought into another
basis, where the 36 numbers of the one are multiplied by those of the other and summed over channels, and the products
are brought back: 36 multiplications for 16 px, where the definition takes 9 for each. In PyTorch a change of basis is a
matrix product; 36 more, one for each place in a tile, mix the channels. The backward pass is made of their transposes.

Rounding costs a digit more than in torch's convolutions, and much less than bfloat16 does.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from common import machine

TILE, STEP = 6, 4  # px a side: of a tile, and of the block that it gives
# With fewer channels, or fewer pixels in the whole batch, the changes of basis take longer than they save, or take
# more memory than that is worth: measured for each layer of SegNet on two AMD cores, held to AVX2.
CHANNELS, PIXELS = 128, 1024
# MKL is x86's; elsewhere nothing was measured. Processors with bfloat16 train in that. Asked for float32 they keep
# torch's: ours were the faster on one such processor, and can hardly be on another (experiments/README.md, "Speed").
PAYS = torch.backends.mkl.is_available() and not machine.processor_has_bfloat16()

# For one side of a tile, of a kernel, and of a block: the paper's Bᵀ, G and Aᵀ
OF_TILE = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
           (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1))  # fmt: skip
OF_KERNEL = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
             (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip
OF_BLOCK = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def of_square(of_side: tuple[tuple[float, ...], ...]) -> Tensor:
    """The change of basis of a square whose values are in reading order, from that of one side."""
    matrix = torch.tensor(of_side, dtype=torch.float64, device="cpu")
    return torch.kron(matrix, matrix).float()


FROM_TILE, FROM_KERNEL, TO_BLOCK = map(of_square, (OF_TILE, OF_KERNEL, OF_BLOCK))  # (36, 36), (36, 9), (16, 36)


class Conv2d(nn.Conv2d):
    """torch's, but for a step of training in float32 on a CPU without bfloat16, which takes Winograd's if faster."""

    plain = False  # True: always torch's

    def forward(self, x: Tensor) -> Tensor:
        return _Convolution.apply(x, self.weight) if self.is_faster(x) else super().forward(x)

    def is_faster(self, x: Tensor) -> bool:
        trains = self.training and torch.is_grad_enabled() and self.weight.requires_grad and not self.plain
        if not (trains and PAYS and x.device.type == "cpu") or torch.is_autocast_enabled("cpu"):
            return False
        three = self.kernel_size == (3, 3) and self.padding == (1, 1) and self.padding_mode == "zeros"
        three = three and self.stride == self.dilation == (1, 1) and self.groups == 1 and self.bias is None
        fits = x.dtype == self.weight.dtype == torch.float32 and x.dim() == 4 and x.shape[1] == self.in_channels
        return three and fits and min(self.in_channels, self.out_channels) >= CHANNELS and x[:, 0].numel() >= PIXELS


def use_torchs(network: nn.Module) -> None:
    """Has a network train by torch's own convolutions: to compare with."""
    for module in network.modules():
        if isinstance(module, Conv2d):
            module.plain = True


class _Convolution(torch.autograd.Function):
    """x (B, C, H, W), weight (K, C, 3, 3) -> (B, K, H, W), as if zeros lay around x; float32."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        tiles = (FROM_TILE @ to_tiles(x)).view(TILE**2, -1, x.shape[1])
        ctx.save_for_backward(tiles, weight)
        ctx.size = x.shape
        products = torch.bmm(tiles, in_other_basis(weight).transpose(1, 2))  # (36, tiles, K)
        return from_blocks(TO_BLOCK @ products.flatten(1), weight.shape[0], x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        tiles, weight = ctx.saved_tensors
        products = (TO_BLOCK.T @ to_blocks(gradient)).view(TILE**2, -1, weight.shape[0])
        of_kernels = torch.bmm(products.transpose(1, 2), tiles)  # (36, K, C)
        of_weight = (FROM_KERNEL.T @ of_kernels.flatten(1)).view(3, 3, *weight.shape[:2]).permute(2, 3, 0, 1)
        if not ctx.needs_input_grad[0]:
            return None, of_weight
        of_tiles = torch.bmm(products, in_other_basis(weight))  # of kernels made again: kept, they are four weights
        return from_tiles(FROM_TILE.T @ of_tiles.flatten(1), ctx.size), of_weight


def in_other_basis(weight: Tensor) -> Tensor:
    """Kernels (K, C, 3, 3) -> (36, K, C)."""
    return (FROM_KERNEL @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(TILE**2, *weight.shape[:2])


def count(side: int) -> int:
    """Tiles that a side needs."""
    return -(-side // STEP)


def padded(x: Tensor, before: int, overlap: int) -> Tensor:
    """x (B, C, H, W) with channels last, (B, H, W, C), and zeros around it: `before` px at the top and left."""
    after = [STEP * count(side) + overlap - before - side for side in x.shape[-2:]]
    return F.pad(x.permute(0, 2, 3, 1), (0, 0, before, after[1], before, after[0])).contiguous()


def to_tiles(x: Tensor) -> Tensor:
    """Map (B, C, H, W) -> tiles (36, B*h*w*C)."""
    framed = padded(x, 1, TILE - STEP)
    image, row, column, channel = framed.stride()
    size = TILE, TILE, x.shape[0], count(x.shape[2]), count(x.shape[3]), x.shape[1]
    return framed.as_strided(size, (row, column, image, STEP * row, STEP * column, channel)).reshape(TILE**2, -1)


def from_tiles(tiles: Tensor, size: torch.Size) -> Tensor:
    """The transpose of to_tiles: tiles (36, B*h*w*C) -> map of `size` (B, C, H, W), where tiles overlap their sum."""
    images, channels, height, width = size
    rows, columns = count(height), count(width)
    tiles = tiles.view(TILE, TILE, images, rows, columns, channels).permute(2, 3, 0, 4, 1, 5)
    summed = tiles.new_zeros(images, rows + 1, STEP, columns + 1, STEP, channels)
    summed[:, :-1, :, :-1] = tiles[:, :, :STEP, :, :STEP]
    summed[:, 1:, : TILE - STEP, :-1] += tiles[:, :, STEP:, :, :STEP]
    summed[:, :-1, :, 1:, : TILE - STEP] += tiles[:, :, :STEP, :, STEP:]
    summed[:, 1:, : TILE - STEP, 1:, : TILE - STEP] += tiles[:, :, STEP:, :, STEP:]
    return summed.flatten(3, 4).flatten(1, 2)[:, 1 : height + 1, 1 : width + 1].permute(0, 3, 1, 2)


def to_blocks(x: Tensor) -> Tensor:
    """Map (B, K, H, W) -> its blocks of 4x4 px (16, B*h*w*K)."""
    rows, columns = count(x.shape[2]), count(x.shape[3])
    blocks = padded(x, 0, 0).view(-1, rows, STEP, columns, STEP, x.shape[1])
    return blocks.permute(2, 4, 0, 1, 3, 5).reshape(STEP**2, -1)


def from_blocks(blocks: Tensor, channels: int, size: torch.Size) -> Tensor:
    """Blocks (16, B*h*w*K) -> map (B, K, H, W). channels: K; size: of a map with the same B, H and W."""
    images, _, height, width = size
    blocks = blocks.view(STEP, STEP, images, count(height), count(width), channels).permute(2, 3, 0, 4, 1, 5)
    joined = blocks.flatten(3, 4).flatten(1, 2)[:, :height, :width].permute(0, 3, 1, 2)
    return joined.contiguous(memory_format=torch.channels_last)
