"""The original's way of training SegNet, kept to be measured against: benchmark.py and agreement.py."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms
from torchvision.datasets import OxfordIIITPet

from common.winograd import use_torchs
from segnet import ImageSegmentation


class OriginalSegmentation(nn.Module):
    """A network with built-in pooling (indices of 8 bytes) and convolutions, and ReLUs that make new maps."""

    def __init__(self, network: ImageSegmentation) -> None:
        super().__init__()
        self.network = network
        network.down, network.up = builtin_down, builtin_up
        use_torchs(network)
        for module in network.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.contiguous())


def builtin_down(x: Tensor) -> tuple[Tensor, object]:
    size = x.shape[-2:]
    x, indices = F.max_pool2d(x, 2, return_indices=True)
    return x, (indices, size)


def builtin_up(x: Tensor, kept: object) -> Tensor:
    indices, size = kept
    return F.max_unpool2d(x, indices, 2, output_size=size)


class OriginalPets(OxfordIIITPet):
    """Training images, each decoded, squeezed, flipped and jittered when it is asked for."""

    def __init__(self, root: Path, size: int) -> None:
        super().__init__(root, "trainval", target_types="segmentation")
        resize = transforms.Resize((size, size), interpolation=transforms.InterpolationMode.NEAREST)
        self.both = transforms.Compose([resize, transforms.RandomHorizontalFlip()])
        self.jitter = transforms.ColorJitter(0.3, 0.3, 0.3)
        self.to_tensor = transforms.ToTensor()

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image, trimap = super().__getitem__(i)
        moved = self.both(torch.cat([self.to_tensor(image), self.to_tensor(trimap)]))
        return self.jitter(moved[:3]), (moved[3:] * 255).long() - 1
