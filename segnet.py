"""SegNet, its depthwise-separable twin and U-Nets of the same widths, for three classes of pixels.

After Badrinarayanan, Kendall and Cipolla 2017 (https://arxiv.org/abs/1511.00561): VGG16's convolutions as the encoder,
and a decoder that is handed the encoder's last map and, of each stage, only where the pooling maxima were. Unlike the
paper's: four stages instead of five, and random first weights instead of VGG16's. The separable variant replaces each
convolution by a depthwise and a pointwise one, as in MobileNet (https://arxiv.org/abs/1704.04861), but with no
BatchNorm and ReLU between the two.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.gradients import DepthwiseConv2d, upsample
from common.pooling import max_pool, max_unpool
from common.settings import UserError
from common.winograd import Conv2d

# Channels before, between and after the convolutions of each stage, the finest stage first. At 128 px the stages work
# on maps of 128, 64, 32, 16 (and 8) px a side; the bottleneck has half of the last. The decoder runs from the last
# entry to the first, which ends in the three classes.
ENCODER = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
DECODER = ((64, 64, 3), (128, 128, 64), (256, 256, 256, 128), (512, 512, 512, 256), (512, 512, 512, 512))


class DepthwiseSeparableConv2d(nn.Module):
    """A k x k convolution of each channel by itself, then a 1x1 convolution across channels.

    Of the k*k*C_in*C_out weights of a full convolution it keeps k*k*C_in + C_in*C_out.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int, bias: bool) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv2d(in_channels, kernel_size, padding)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class ConvBlock(nn.Module):
    """Convolution, BatchNorm and ReLU for each pair of neighbours in `widths`; the map keeps its size.

    linear_end: the last convolution has a bias instead of BatchNorm and ReLU, so its output has any sign.
    """

    def __init__(self, conv: type[nn.Module], widths: tuple[int, ...], kernel_size: int, linear_end: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        pairs = list(zip(widths, widths[1:]))
        for number, (width_in, width_out) in enumerate(pairs, start=1):
            linear = linear_end and number == len(pairs)
            layers.append(conv(width_in, width_out, kernel_size, padding=kernel_size // 2, bias=linear))
            if not linear:
                # In place: neither BatchNorm nor ReLU needs BatchNorm's output for its gradient.
                layers += [nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)]
        self.seq = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


def larger(images: Tensor, times: int) -> Tensor:
    """Images (B, 3, H, W) upsampled bilinearly to (B, 3, times*H, times*W): no more detail, but finer maps inside."""
    return images if times == 1 else F.interpolate(images, scale_factor=times, mode="bilinear")


def averaged(logits: Tensor, times: int) -> Tensor:
    """Logits (B, 3, times*H, times*W) averaged to (B, 3, H, W)."""
    return logits if times == 1 else F.avg_pool2d(logits.float(), times)


def check_shape(kernel_size: int, head: str, stages: int) -> None:
    """Raises UserError for what no network here can be built with."""
    if head not in ("linear", "original"):
        raise UserError(f'head is "linear" or "original", not {head!r}')
    if stages not in (4, 5):
        raise UserError(f"stages is 4 or 5, not {stages}")
    if not isinstance(kernel_size, int) or kernel_size % 2 == 0 or not 1 <= kernel_size <= 127:
        raise UserError(f"kernel_size is odd, so that maps keep their size, and at most 127; not {kernel_size}")


class ImageSegmentation(nn.Module):
    """SegNet: images (B, 3, H, W) in [0, 1] -> logits (B, 3, H, W) of pet, background and border.

    kernel_size: odd; of all convolutions.
    head: "linear" ends in a convolution with bias; "original" ends in BatchNorm and ReLU, as in the original
        notebook, so that a logit is never negative.
    stages: 4, or 5 as in the paper. The fifth is off: its convolutions see maps of 8x8 where images have 128 px, and
        results are worse with it (README, "Findings").

    Raises UserError for another head, other stages, a kernel that is even or larger than 127, and in `forward` for a
    map that is too small to be pooled so often.
    """

    conv: type[nn.Module] = Conv2d  # nn.Conv2d, but for how CPUs without bfloat16 train: common/winograd.py
    maps_joined = 1  # at each stage of the decoder: the one from below
    enlarged = 1  # times: `encode` upsamples the images, `decode` averages the logits back to their size

    def __init__(self, kernel_size: int = 3, head: str = "linear", stages: int = 4) -> None:
        super().__init__()
        check_shape(kernel_size, head, stages)
        self.stages = stages
        self.bn_input = nn.BatchNorm2d(3)
        # dc1, dc2 ... and uc1, uc2 ... are the names in state dicts that the original notebook saved.
        for i in range(1, stages + 1):
            self.add_module(f"dc{i}", ConvBlock(self.conv, ENCODER[i - 1], kernel_size, linear_end=False))
        for i in range(stages, 0, -1):
            linear_end = i == 1 and head == "linear"
            width, *widths = DECODER[i - 1]
            self.add_module(
                f"uc{i}", ConvBlock(self.conv, (width * self.maps_joined, *widths), kernel_size, linear_end)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(*self.encode(x))

    def encode(self, x: Tensor) -> tuple[Tensor, list[object]]:
        """The bottleneck (B, C, H/2**stages, W/2**stages), and what each stage hands to the decoder, finest first.

        H and W as enlarged.
        """
        smallest = math.ceil(2**self.stages / self.enlarged)
        if min(x.shape[-2:]) < smallest:
            raise UserError(
                f"images are at least {smallest}x{smallest} px for {self.stages} stages, "
                f"not {x.shape[-1]}x{x.shape[-2]}"
            )
        x = self.bn_input(larger(x, self.enlarged))
        handed_over = []
        for i in range(1, self.stages + 1):
            x = self.get_submodule(f"dc{i}")(x)  # (B, C, H, W)
            x, kept = self.down(x)  # (B, C, H/2, W/2)
            handed_over.append(kept)
        return x, handed_over

    def decode(self, x: Tensor, handed_over: list[object]) -> Tensor:
        """Logits (B, 3, H, W) from what `encode` returned; `handed_over` is emptied, so maps are freed once used."""
        for i in range(self.stages, 0, -1):
            x = self.up(x, handed_over.pop())
            x = self.get_submodule(f"uc{i}")(x)
        return averaged(x, self.enlarged)

    @staticmethod
    def down(x: Tensor) -> tuple[Tensor, object]:
        """The map at half its size, and what the decoder needs to bring it back: places of the maxima, and size."""
        size = x.shape[-2:]
        x, places = max_pool(x)
        return x, (places, size)

    @staticmethod
    def up(x: Tensor, kept: object) -> Tensor:
        places, size = kept
        return max_unpool(x, places, size)


class ImageSegmentationDSC(ImageSegmentation):
    """SegNet of depthwise-separable convolutions."""

    conv = DepthwiseSeparableConv2d


class UNet(ImageSegmentation):
    """The same encoder and decoder, but handing over whole maps, after https://arxiv.org/abs/1505.04597."""

    maps_joined = 2  # the one from below, and the encoder's

    @staticmethod
    def down(x: Tensor) -> tuple[Tensor, object]:
        return F.max_pool2d(x, 2), x

    @staticmethod
    def up(x: Tensor, kept: object) -> Tensor:
        return torch.cat((kept, upsample(x, kept.shape[-2:])), 1)


class UNetDSC(UNet):
    """The U-Net of depthwise-separable convolutions."""

    conv = DepthwiseSeparableConv2d


class BilinearDSC(ImageSegmentationDSC):
    """Separable, with nothing handed over: the decoder upsamples bilinearly. For comparison: what do indices give?"""

    @staticmethod
    def down(x: Tensor) -> tuple[Tensor, object]:
        return F.max_pool2d(x, 2), x.shape[-2:]

    @staticmethod
    def up(x: Tensor, kept: object) -> Tensor:
        return upsample(x, kept)


class BilinearMapsDSC(UNetDSC):
    """The encoder's maps are added, not joined, as in LinkNet (arXiv 1707.03718): no parameter for them."""

    maps_joined = 1

    @staticmethod
    def up(x: Tensor, kept: object) -> Tensor:
        return upsample(x, kept.shape[-2:]) + kept


class SegNetMapsDSC(ImageSegmentationDSC):
    """The separable SegNet with the encoder's maps added to what is unpooled by its indices."""

    @staticmethod
    def down(x: Tensor) -> tuple[Tensor, object]:
        pooled, places = max_pool(x)
        return pooled, (places, x)

    @staticmethod
    def up(x: Tensor, kept: object) -> Tensor:
        places, handed_over = kept
        return max_unpool(x, places, handed_over.shape[-2:]) + handed_over


# As NETWORKS in train.py names them
SEGNETS = {"segnet": ImageSegmentation, "segnet_dsc": ImageSegmentationDSC}
UNETS = {"unet": UNet, "unet_dsc": UNetDSC}
DECODERS = {"bilinear_dsc": BilinearDSC, "bilinear_maps_dsc": BilinearMapsDSC, "segnet_maps_dsc": SegNetMapsDSC}
NETWORKS = SEGNETS | UNETS | DECODERS


def count_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
