"""Full 3x3 convolutions that train with fewer multiplications, for CPUs that compute in float32.

After Lavin and Gray 2016 (https://arxiv.org/abs/1509.09308), section 4.3. The map is cut into tiles of 6x6 px that
overlap by two, each of which gives 4x4 px of the result. Tile and kernel are brought into another basis, where the 36
numbers of the one are multiplied by those of the other, and the products are brought back: 36 multiplications for 16
px, where the definition takes 9 for each. In PyTorch a change of basis is one matrix product, and channels are mixed
by 36. The backward pass is made of the transposes of the same products.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

TILE, STEP = 6, 4  # px a side: of a tile, and of what it gives
CHANNELS, PIXELS = 128, 1024  # with fewer channels, or pixels in the whole batch, changing the basis costs too much

# For one side of a tile, of a kernel, and of what a tile gives: the paper's Bᵀ, G and Aᵀ
TO_TILE = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
           (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1))  # fmt: skip
TO_KERNEL = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
             (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip
TO_BLOCK = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def both_sides(of_one: tuple[tuple[float, ...], ...]) -> Tensor:
    """The change of basis of a square whose values are in reading order, from that of one side."""
    matrix = torch.tensor(of_one, dtype=torch.float64)
    return torch.kron(matrix, matrix).float()


TILES, KERNELS, BLOCKS = map(both_sides, (TO_TILE, TO_KERNEL, TO_BLOCK))  # (36, 36), (36, 9), (16, 36)


class Conv2d(nn.Conv2d):
    """torch's, trained by the products above where that is faster; it predicts as torch's does."""

    plain = False  # True: always torch's own

    def forward(self, x: Tensor) -> Tensor:
        return _Convolution.apply(x, self.weight) if self.is_faster(x) else super().forward(x)

    def is_faster(self, x: Tensor) -> bool:
        """Measured with MKL alone, which torch has on x86; other processors keep torch's convolutions."""
        trains = torch.is_grad_enabled() and self.weight.requires_grad and not torch.compiler.is_exporting()
        in_float32 = x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if self.plain or not trains or not in_float32 or not torch.backends.mkl.is_available():
            return False
        three = self.kernel_size == (3, 3) and self.padding == (1, 1) and self.stride == self.dilation == (1, 1)
        large = min(self.in_channels, self.out_channels) >= CHANNELS and x[:, 0].numel() >= PIXELS
        return three and large and self.groups == 1 and self.bias is None


def use_torchs(network: nn.Module) -> None:
    """Has a network train by torch's own convolutions: to compare with."""
    for module in network.modules():
        if isinstance(module, Conv2d):
            module.plain = True


class _Convolution(torch.autograd.Function):
    """x (B, C, H, W), weight (K, C, 3, 3) -> (B, K, H, W), as if zeros lay around x; float32."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        tiles, kernels = in_other_basis(x, weight)
        ctx.save_for_backward(tiles, kernels)
        ctx.size = x.shape
        products = torch.bmm(tiles, kernels.transpose(1, 2))  # (36, tiles, K)
        return from_blocks(BLOCKS @ products.flatten(1), x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        tiles, kernels = ctx.saved_tensors
        products = (BLOCKS.T @ to_blocks(gradient)).view(TILE**2, -1, kernels.shape[1])
        of_kernels = (KERNELS.T @ torch.bmm(products.transpose(1, 2), tiles).flatten(1)).view(3, 3, *kernels.shape[1:])
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = from_tiles(TILES.T @ torch.bmm(products, kernels).flatten(1), ctx.size)
        return of_x, of_kernels.permute(2, 3, 0, 1)


def in_other_basis(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The tiles of x, (36, tiles, C), and the kernels, (36, K, C)."""
    kernels = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return (TILES @ to_tiles(x)).view(TILE**2, -1, x.shape[1]), (KERNELS @ kernels).view(TILE**2, *weight.shape[:2])


def count(side: int) -> int:
    """Tiles that a side needs."""
    return -(-side // STEP)


def padded(x: Tensor, before: int, overlap: int) -> Tensor:
    """x (B, C, H, W) with channels last, (B, H, W, C), and zeros around it: `before` at the top and left."""
    after = [STEP * count(side) + overlap - before - side for side in x.shape[-2:]]
    return F.pad(x.permute(0, 2, 3, 1), (0, 0, before, after[1], before, after[0])).contiguous()


def to_tiles(x: Tensor) -> Tensor:
    """Map (B, C, H, W) -> tiles (36, B*h*w*C)."""
    padded_x = padded(x, 1, TILE - STEP)
    image, row, column, channel = padded_x.stride()
    size = TILE, TILE, x.shape[0], count(x.shape[2]), count(x.shape[3]), x.shape[1]
    return padded_x.as_strided(size, (row, column, image, STEP * row, STEP * column, channel)).reshape(TILE**2, -1)


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


def from_blocks(blocks: Tensor, size: torch.Size) -> Tensor:
    """Blocks (16, B*h*w*K) -> map (B, K, H, W); of `size` B, H and W count."""
    images, _, height, width = size
    blocks = blocks.view(STEP, STEP, images, count(height), count(width), -1).permute(2, 3, 0, 4, 1, 5)
    return blocks.flatten(3, 4).flatten(1, 2)[:, :height, :width].permute(0, 3, 1, 2)
