"""Convolutions with fewer multiplications against torch's, in float64."""

import pytest
import torch
from torch.nn import functional as F

from common import winograd
from common.winograd import Conv2d
from segnet import ImageSegmentation, ImageSegmentationDSC

LAYOUTS = [torch.contiguous_format, torch.channels_last]
on_x86 = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="only x86 has MKL")


def largest_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(4, 4), (8, 12), (1, 1), (3, 9), (5, 6), (10, 7), (2, 15)])
def test_values_and_gradients_are_torchs(size, layout):
    torch.manual_seed(sum(size))
    x = torch.randn(3, 5, *size).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(7, 5, 3, 3).contiguous(memory_format=layout).requires_grad_()
    gradient = torch.randn(3, 7, *size).contiguous(memory_format=layout)
    found = winograd._Convolution.apply(x, weight)
    expected = F.conv2d(x.double(), weight.double(), padding=1)
    assert found.shape == expected.shape
    assert largest_error(found.detach(), expected.detach()) < 1e-5
    ours = torch.autograd.grad(found, (x, weight), gradient)
    theirs = torch.autograd.grad(expected, (x, weight), gradient.double())
    for own, other in zip(ours, theirs):
        assert own.shape == other.shape
        assert largest_error(own, other) < 1e-5


def test_what_needs_no_gradient_gets_none():
    x, weight = torch.randn(1, 2, 5, 5), torch.randn(2, 2, 3, 3, requires_grad=True)
    winograd._Convolution.apply(x, weight).sum().backward()
    assert x.grad is None
    assert weight.grad.shape == weight.shape


@on_x86
@pytest.mark.parametrize(("network", "narrow"), [(ImageSegmentation, 6), (ImageSegmentationDSC, 0)])
def test_where_a_network_uses_them(network, narrow, monkeypatch):
    """In training, in float32, on a CPU; and nowhere else."""
    torch.manual_seed(0)
    seen = []
    ours = winograd._Convolution.apply

    def watched(x, weight):
        seen.append(weight.shape[:2])
        return ours(x, weight)

    monkeypatch.setattr(winograd._Convolution, "apply", watched)
    net = network().train()
    convolutions = [module for module in net.modules() if isinstance(module, Conv2d)]
    deep = [m for m in convolutions if min(m.in_channels, m.out_channels) >= winograd.CHANNELS]
    x = torch.rand(16, 3, 64, 64)  # at the coarsest stage 16 maps of 8x8
    net(x)
    assert len(seen) == len(deep)
    assert len(convolutions) - len(deep) == narrow
    seen.clear()
    net(x[:1])  # too few pixels at the coarser stages
    assert len(seen) < len(deep) or not deep
    seen.clear()
    with torch.no_grad():
        net(x)
    with torch.autocast("cpu", torch.bfloat16):
        net(x)
    for module in convolutions:
        module.plain = True
    net(x)
    net.requires_grad_(False)(x)
    assert not seen


@on_x86
def test_a_training_steps_gradients_are_those_of_float64():
    """Nearly as near as with torch's convolutions: maxima that almost tie fall either way in float32."""

    def gradients(dtype, plain):
        torch.manual_seed(0)
        net = ImageSegmentation().to(dtype, memory_format=torch.channels_last)
        for module in net.modules():
            if isinstance(module, Conv2d):
                module.plain = plain
        images, trimaps = torch.rand(12, 3, 80, 80).to(dtype), torch.randint(0, 3, (12, 80, 80))  # 10x10, the coarsest
        F.cross_entropy(net(images), trimaps).backward()
        return torch.cat([p.grad.flatten().double() for p in net.parameters()])

    exact = gradients(torch.float64, plain=True)
    torchs, ours = (float((gradients(torch.float32, plain) - exact).norm() / exact.norm()) for plain in (True, False))
    assert 0 < torchs < ours < 10 * torchs, (torchs, ours)


def test_other_shapes_stay_torchs():
    x = torch.rand(1, 128, 40, 40)
    for changed in ({"bias": True}, {"kernel_size": 5}, {"padding": 0}, {"stride": 2}, {"dilation": 2}, {"groups": 2}):
        settings = {"kernel_size": 3, "padding": 1, "bias": False} | changed
        convolution = Conv2d(128, 128, **settings)
        assert not convolution.is_faster(x)
        expected = F.conv2d(x, convolution.weight, convolution.bias, convolution.stride, convolution.padding,
                            convolution.dilation, convolution.groups)  # fmt: skip
        assert torch.equal(convolution(x), expected)
    assert Conv2d(128, 128, 3, padding=1, bias=False).is_faster(x) == torch.backends.mkl.is_available()
