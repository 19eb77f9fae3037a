"""Pooling against PyTorch's own, which keeps 64 bits for each of our two."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from common.pooling import max_pool, max_unpool
from segnet import SEGNETS

SHAPES = [(1, 1, 2, 2), (2, 3, 5, 4), (1, 6, 7, 9), (3, 8, 16, 12), (2, 5, 2, 3)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize(("shape", "dtype", "layout"), list(itertools.product(SHAPES, DTYPES, LAYOUTS)))
@pytest.mark.parametrize("values", ["random", "ties", "negative"])
@pytest.mark.parametrize("device", DEVICES)
def test_values_and_gradients_equal_the_built_ins(shape, dtype, layout, values, device):
    torch.manual_seed(sum(shape))
    x = torch.randn(shape)
    x = {"random": x, "ties": x.round().clamp(-1, 1), "negative": -x.abs() - 1}[values]
    x = x.to(device, dtype).contiguous(memory_format=layout)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()

    pooled, places = max_pool(ours)
    unpooled = max_unpool(pooled * 2, places, x.shape[-2:])
    expected, indices = F.max_pool2d(theirs, 2, return_indices=True)
    expected_unpooled = F.max_unpool2d(expected * 2, indices, 2, output_size=x.shape[-2:])
    assert torch.equal(pooled, expected)
    assert torch.equal(unpooled, expected_unpooled)
    with torch.no_grad():
        assert torch.equal(max_unpool(*max_pool(x), x.shape[-2:]), max_unpool(pooled, places, x.shape[-2:]))

    weights = torch.randn(shape).to(device, dtype)
    (unpooled * weights).sum().backward()
    (expected_unpooled * weights).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)


def test_what_is_kept_is_two_bits_a_window():
    x = torch.randn(2, 64, 128, 128, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        _, places = max_pool(x)
    windows = 2 * 64 * 64 * 64
    assert places.numel() * places.element_size() == windows // 4
    assert [t.data_ptr() for t in kept] == [places.data_ptr()]  # nothing else is kept for the gradient


@pytest.mark.parametrize("network", SEGNETS)
def test_a_training_step_is_deterministic(network):
    def step():
        torch.manual_seed(1)
        net = SEGNETS[network]()
        logits = net(torch.rand(2, 3, 33, 32))
        F.cross_entropy(logits, torch.randint(0, 3, (2, 33, 32))).backward()
        return [p.grad for p in net.parameters()]

    torch.use_deterministic_algorithms(True)  # F.max_unpool2d raises under it
    try:
        assert all(torch.equal(a, b) for a, b in zip(step(), step()))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore")  # the exporter's own, about its dependencies
def test_exported_segnet_gives_the_same_logits(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    net = SEGNETS["segnet"]().eval()
    x = torch.rand(3, 3, 64, 64)
    torch.onnx.export(net, (x,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected = net(x)
    assert torch.allclose(torch.from_numpy(logits), expected, atol=1e-4)
