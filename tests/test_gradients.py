"""Gradients that are computed another way on a CPU, against torch's in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pretrained
import segnet
from common import gradients

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def error(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@pytest.fixture
def used(monkeypatch):
    """The weights of the convolutions whose gradients are not left to torch, in the order of their forward passes."""
    found, convolution = [], gradients._Depthwise.apply
    monkeypatch.setattr(gradients._Depthwise, "apply", lambda x, w, *rest: found.append(w) or convolution(x, w, *rest))
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "bias"),
    [
        ((12, 12), (5, 5), 1, 2, False),
        ((13, 10), (5, 5), 2, 0, True),
        ((16, 16), (3, 3), 2, 1, False),
        ((9, 14), (7, 4), (1, 3), (3, 1), True),
        ((8, 9), (1, 6), (2, 1), (0, 5), False),
    ],
)
def test_values_and_gradients_are_torchs(size, kernel, stride, padding, bias, layout, used):
    """In bfloat16, by autocast; the errors are those of torch's own, whose gradients are rounded as often."""
    torch.manual_seed(sum(size))
    x = torch.randn(3, 6, *size).contiguous(memory_format=layout).requires_grad_()
    weight, offset = torch.randn(6, 1, *kernel, requires_grad=True), torch.randn(6, requires_grad=True)
    inputs = (x, weight, offset) if bias else (x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        found, torchs = (
            convolution(*inputs, *([] if bias else [None]), stride, padding, groups=6)
            for convolution in (gradients.conv2d, torch.conv2d)
        )
    assert len(used) == 1
    assert torch.equal(found, torchs)
    gradient = torch.randn(found.shape).bfloat16()
    rounded = [tensor.detach().bfloat16().double().requires_grad_() for tensor in inputs]
    exact = torch.conv2d(*rounded, *([] if bias else [None]), stride, padding, groups=6)
    expected = torch.autograd.grad(exact, rounded, gradient.double())
    for own, other, true in zip(*(torch.autograd.grad(y, inputs, gradient) for y in (found, torchs)), expected):
        assert own.shape == other.shape
        assert own.dtype == other.dtype == torch.float32
        assert error(own, true) <= max(1.1 * error(other, true), 0.003)


@pytest.mark.parametrize(
    ("changed", "is_ours"),
    [({}, True), ({"stride": 2, "kernel": 3}, True), ({"dtype": torch.float32}, False), ({"kernel": 3}, False),
     ({"groups": 2}, False), ({"maps": 8}, False), ({"dilation": 2}, False), ({"padding": "same"}, False)],
)  # fmt: skip
def test_only_what_is_slow_is_computed_another_way(changed, is_ours, used):
    given = {"dtype": torch.bfloat16, "kernel": 5, "maps": 4, "groups": 4, "dilation": 1, "padding": 2, "stride": 1}
    given |= changed
    x = torch.randn(2, 4, 12, 12, dtype=given["dtype"])
    weight = torch.randn(given["maps"], 4 // given["groups"], given["kernel"], given["kernel"], dtype=given["dtype"])
    options = {name: given[name] for name in ("stride", "padding", "dilation", "groups")}
    assert torch.equal(gradients.conv2d(x, weight, **options), torch.conv2d(x, weight, **options))
    assert len(used) == is_ours
    with torch.no_grad():
        gradients.conv2d(x, weight, **options)
    assert len(used) == is_ours


@pytest.mark.parametrize(
    ("to", "dtype", "is_ours"),
    [
        (torch.bfloat16, torch.float32, True),
        (torch.bfloat16, torch.float64, False),
        (torch.float16, torch.float32, False),
    ],
)
def test_autocast_decides_what_is_slow(to, dtype, is_ours, used):
    """float64 stays as it is; float16 was not measured. A batch without its first dimension is torch's too."""
    x, weight = torch.randn(1, 2, 6, 6, dtype=dtype), torch.randn(2, 1, 5, 5, dtype=dtype)
    with torch.autocast("cpu", to):
        gradients.conv2d(x, weight, groups=2)
        gradients.conv2d(x[0], weight, groups=2)
    assert len(used) == is_ours


def test_the_quick_way_is_taken(monkeypatch):
    """5x5 kernels in parts, gradients of strided convolutions' inputs in float32."""
    assert gradients.parts(3) == [(0, 3)]
    assert gradients.parts(5) == [(0, 3), (2, 3)]
    assert gradients.parts(7) == [(0, 3), (3, 3), (4, 3)]
    seen = []

    def watched(name, torchs):
        return lambda x, *rest, **more: seen.append((name, x)) or torchs(x, *rest, **more)

    monkeypatch.setattr(gradients, "conv2d_weight", watched("conv2d_weight", gradients.conv2d_weight))
    monkeypatch.setattr(F, "conv_transpose2d", watched("conv_transpose2d", F.conv_transpose2d))
    x, weight = (torch.randn(shape).bfloat16().requires_grad_() for shape in ((1, 2, 13, 13), (2, 1, 5, 5)))
    gradients.conv2d(x, weight, stride=2, groups=2).sum().backward()
    assert [name for name, _ in seen] == ["conv_transpose2d"] + 4 * ["conv2d_weight"]
    assert seen[0][1].dtype == torch.float32
    assert all(part.is_contiguous(memory_format=torch.channels_last) for _, part in seen[1:])


def test_pytorchs_own_can_be_had_to_compare_with(used, monkeypatch):
    monkeypatch.setattr(gradients, "QUICK", False)
    x, weight = (torch.randn(shape).bfloat16().requires_grad_() for shape in ((1, 2, 6, 6), (2, 1, 5, 5)))
    with gradients.quick_depthwise(x):
        torch.conv2d(x, weight, groups=2)
    gradients.conv2d(x, weight, groups=2)
    assert not used
    assert not gradients.upsample(x, (12, 12))._backward_hooks


@pytest.mark.parametrize(("name", "shape", "maps"), [
    ("unet_dsc", {}, 4), ("bilinear_dsc", {}, 4), ("bilinear_maps_dsc", {}, 4), ("segnet_dsc", {}, 0),
    ("segnet_lite0", {"encoder": "tf_efficientnet_lite0", "skips": True}, 4),
])  # fmt: skip
def test_networks_upsample_by_it(name, shape, maps, monkeypatch):
    if shape:
        pytest.importorskip("timm")
    sizes, upsample = [], gradients.upsample
    for module in (segnet, pretrained):
        monkeypatch.setattr(module, "upsample", lambda x, size: sizes.append(tuple(size)) or upsample(x, size))
    pretrained.build(name, **shape)(torch.rand(2, 3, 64, 64))
    assert sizes == [(side, side) for side in (8, 16, 32, 64)][:maps]


def test_no_gradient_is_computed_that_nothing_needs(monkeypatch):
    computed = []
    for name in ("gradient_of_input", "gradient_of_weight"):
        monkeypatch.setattr(gradients, name, lambda *args, name=name: computed.append(name))
    x, weight = torch.randn(1, 2, 6, 6).bfloat16(), torch.randn(2, 1, 5, 5).bfloat16()
    gradients.conv2d(x, weight.requires_grad_(), groups=2).sum().backward()
    gradients.conv2d(x.requires_grad_(), weight.detach(), groups=2).sum().backward()
    assert computed == ["gradient_of_weight", "gradient_of_input"]


def depthwise(network):
    return [module for module in network.modules() if isinstance(module, nn.Conv2d) and module.groups > 1]


def test_an_encoders_convolutions_are_reached_and_put_back(used):
    """They are of timm's own classes, whose padding depends on the image; some have 5x5 kernels, some strides."""
    pytest.importorskip("timm")
    network = pretrained.build("segnet_dsc_lite0", encoder="tf_efficientnet_lite0", skips=True)
    slow = [m.weight for m in depthwise(network.encoder) if max(m.kernel_size) > 3 or max(m.stride) > 1]
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.rand(2, 3, 64, 64)).float().sum().backward()
        F.conv2d(torch.rand(1, 2, 8, 8), torch.rand(2, 1, 5, 5, requires_grad=True), groups=2)
    assert len(slow) > 5
    assert [id(weight) for weight in used] == [id(weight) for weight in slow]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_upsampling_gets_whole_gradients(layout):
    """In channels_last, not a part of a larger map's, as torch.cat hands back; it computes what F.interpolate does."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 7).contiguous(memory_format=layout).requires_grad_()
    other = torch.randn(2, 3, 10, 14)
    found = gradients.upsample(x, (10, 14))
    gradient = torch.randn(2, 7, 10, 14).contiguous(memory_format=layout)
    seen = []
    found.register_hook(lambda part: seen.append(part.is_contiguous(memory_format=torch.channels_last)))
    (own,) = torch.autograd.grad(torch.cat((other, found), 1), x, gradient)
    expected = F.interpolate(x, (10, 14), mode="bilinear")
    assert torch.equal(found, expected)
    torch.testing.assert_close(own, torch.autograd.grad(expected, x, gradient[:, 3:])[0])
    assert seen == [True]


@pytest.mark.parametrize("name", ["segnet_dsc", "unet_dsc"])
def test_kernels_of_5x5_train_as_by_torchs_gradients(name, used, monkeypatch):
    """A whole network in bfloat16: the same logits, and gradients that differ by their rounding."""
    torch.manual_seed(0)
    network = segnet.NETWORKS[name](kernel_size=5)
    images, wanted = torch.rand(2, 3, 32, 32), torch.randint(0, 3, (2, 32, 32))

    def trained_once():
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images)
        network.zero_grad()
        F.cross_entropy(logits.float(), wanted).backward()
        return logits, torch.cat([p.grad.flatten() for p in network.parameters()])

    logits, own = trained_once()
    assert len(used) == len(depthwise(network)) > 5
    monkeypatch.setattr(gradients, "is_slow", lambda *args: False)
    torchs_logits, torchs = trained_once()
    assert len(used) == len(depthwise(network))
    assert torch.equal(logits, torchs_logits)
    assert error(own, torchs.double()) < 0.005
