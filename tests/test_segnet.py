"""The networks against the original's published sizes and names, and against a SegNet of PyTorch's own layers."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common import inference
from common.inference import logits_of
from common.settings import UserError
from pretrained import load_network
from segnet import (
    ENCODER,
    SEGNETS,
    ImageSegmentation,
    ImageSegmentationDSC,
    UNet,
    count_parameters,
)


class Notebook(nn.Module):
    """SegNet as the original notebook wrote it: built-in pooling, indices of 64 bits; and its parameter names."""

    def __init__(self, separable: bool) -> None:
        super().__init__()
        down = [(3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512)]
        up = [(64, 64, 3), (128, 128, 64), (256, 256, 256, 128), (512, 512, 512, 256)]
        widths = {f"dc{i}": w for i, w in enumerate(down, 1)} | {
            f"uc{i}": w for i, w in reversed(list(enumerate(up, 1)))
        }
        self.bn_input = nn.BatchNorm2d(3)
        for name, block in widths.items():
            layers = []
            for i, o in zip(block, block[1:]):
                conv = nn.Conv2d(i, o, 3, padding=1, bias=False)
                if separable:
                    conv = nn.Sequential()
                    conv.add_module("depthwise", nn.Conv2d(i, i, 3, padding=1, groups=i, bias=False))
                    conv.add_module("pointwise", nn.Conv2d(i, o, 1, bias=False))
                layers += [conv, nn.BatchNorm2d(o), nn.ReLU()]
            block = nn.Module()
            block.seq = nn.Sequential(*layers)
            self.add_module(name, block)

    def forward(self, x):
        x, saved = self.bn_input(x), []
        for name in ("dc1", "dc2", "dc3", "dc4"):
            x = self.get_submodule(name).seq(x)
            pooled, indices = nn.functional.max_pool2d(x, 2, return_indices=True)
            saved.append((indices, x.shape[-2:]))
            x = pooled
        for name in ("uc4", "uc3", "uc2", "uc1"):
            indices, size = saved.pop()
            x = self.get_submodule(name).seq(nn.functional.max_unpool2d(x, indices, 2, output_size=size))
        return x


@pytest.mark.parametrize(("network", "published"), [("segnet", 15_274_892), ("segnet_dsc", 1_749_671)])
def test_parameters_are_as_many_as_published(network, published):
    assert count_parameters(SEGNETS[network](head="original")) == published


@pytest.mark.parametrize("network", SEGNETS)
def test_a_notebook_checkpoint_gives_the_notebooks_logits_and_gradients(network, tmp_path):
    torch.manual_seed(0)
    notebook = Notebook(network == "segnet_dsc").train()
    torch.save(notebook.state_dict(), tmp_path / "notebook.pt")
    ours, about = load_network(tmp_path / "notebook.pt", network)  # loads strictly
    assert about["head"] == "original"
    notebook, ours = notebook.double(), ours.double()  # so that rounding doesn't turn near ties of maxima round
    x = torch.rand(4, 3, 50, 37, dtype=torch.float64)
    expected, found = notebook(x), ours.train()(x)
    assert torch.allclose(found, expected, rtol=1e-9)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    for (name, p), (_, q) in zip(notebook.named_parameters(), ours.named_parameters()):
        assert torch.allclose(p.grad, q.grad, atol=1e-9 * max(1.0, p.grad.abs().max())), name


def test_the_unet_twin_differs_in_what_is_handed_over_alone():
    torch.manual_seed(0)
    segnet, unet = ImageSegmentation().eval(), UNet().eval()
    unet.load_state_dict({k: v for k, v in segnet.state_dict().items() if not k.startswith("uc")}, strict=False)
    for i in range(1, 5):  # with no weight on the encoder's maps, only what comes from below is left
        theirs, ours = (net.get_submodule(f"uc{i}").state_dict() for net in (segnet, unet))
        own = theirs["seq.0.weight"]
        theirs["seq.0.weight"] = torch.cat((torch.zeros(own.shape[0], ENCODER[i - 1][-1], 3, 3), own), 1)
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
        unet.get_submodule(f"uc{i}").load_state_dict(theirs)
    x = torch.rand(2, 3, 45, 64)
    with torch.inference_mode():
        expected, found = segnet.bn_input(x), unet(x)
        sizes = []
        for i in range(1, 5):
            sizes.append(expected.shape[-2:])
            expected = nn.functional.max_pool2d(segnet.get_submodule(f"dc{i}")(expected), 2)
        for i in range(4, 0, -1):
            expected = nn.functional.interpolate(expected, sizes.pop(), mode="bilinear")
            expected = segnet.get_submodule(f"uc{i}")(expected)
        assert torch.allclose(found, expected, atol=1e-5)
        unet.uc1.seq[0].weight[:, :64] = 1.0  # and the encoder's maps do arrive
        assert not torch.allclose(unet(x), expected, atol=1e-3)


@pytest.mark.parametrize(("stages", "smallest"), [(4, 16), (5, 32)])
def test_any_size_from_the_smallest(stages, smallest):
    network = ImageSegmentationDSC(stages=stages).eval()
    for height, width in ((smallest, smallest), (smallest + 1, 2 * smallest - 1), (45, 70)):
        assert network(torch.rand(1, 3, height, width)).shape == (1, 3, height, width)
    with pytest.raises(UserError, match=f"at least {smallest}x{smallest} px"):
        network(torch.rand(1, 3, smallest - 1, 64))


def test_heads_differ_in_sign_only_where_they_should():
    x = torch.rand(2, 3, 32, 32)
    assert ImageSegmentation(head="original")(x).min() >= 0
    assert ImageSegmentation(head="linear")(x).min() < 0


def test_what_the_decoder_gets_is_zero_but_for_one_pixel_of_each_window():
    network = ImageSegmentationDSC().eval()
    seen = []
    network.uc1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(torch.rand(1, 3, 32, 32))
    assert (seen[0] != 0).float().mean() <= 0.25


@pytest.mark.parametrize("wrong", [{"head": "round"}, {"stages": 3}, {"kernel_size": 2}])
def test_shapes_that_there_are_not(wrong):
    with pytest.raises(UserError, match=str(next(iter(wrong.values())))):
        ImageSegmentation(**wrong)


def test_wrong_checkpoints_are_refused_with_the_reason(tmp_path):
    class Code:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    state = ImageSegmentationDSC().state_dict()
    about = {"network": "segnet_dsc", "head": "linear", "kernel_size": 3, "stages": 4}
    files = {
        "code": ({**about, "weights": Code()}, "could run code"),
        "other": ({**about, "network": "segnet", "weights": state}, "is of 'segnet'"),
        "head": ({**about, "head": "original", "weights": state}, "does not fit"),
        "key": ({**about, "weights": {k: v for k, v in state.items() if k != "bn_input.weight"}}, "bn_input.weight"),
        "tensor": (torch.zeros(3), "not the weights of a network"),
    }
    for name, (content, reason) in files.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(UserError, match=reason):
            load_network(tmp_path / name, "segnet_dsc")
    assert not (tmp_path / "ran").exists()
    torch.save({**about, "weights": state}, tmp_path / "cut")
    whole = (tmp_path / "cut").read_bytes()
    for share in (0, 0.1, 0.5, 0.999):
        (tmp_path / "cut").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserError, match="damaged"):
            load_network(tmp_path / "cut", "segnet_dsc")


def test_mirror_averaging_knows_neither_left_nor_right():
    torch.manual_seed(0)
    network = ImageSegmentationDSC()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    for norm in network.modules():
        norm.momentum = 1.0  # BatchNorm's statistics after one batch: an untrained network's maps fade without
    network(images / 255)
    plain, mirrored = (next(logits_of(network, x, torch.float32)).softmax(1) for x in (images, images.flip(3)))
    found = next(logits_of(network, images, torch.float32, mirror=True)).softmax(1)
    assert torch.allclose(found, (plain + mirrored.flip(3)) / 2, atol=1e-6)
    assert (found - plain).abs().max() > 0.01


@pytest.mark.parametrize("times", [2, 3])
def test_an_enlarged_image_is_pillows_and_its_logits_are_averages(times, tmp_path, monkeypatch):
    """By the weights of the network without it, in batches that are as much smaller."""
    torch.manual_seed(0)
    plain = ImageSegmentationDSC().eval()
    images = torch.randint(0, 256, (3, 3, 32, 48), dtype=torch.uint8)
    planes = [Image.fromarray(plane.float().numpy()) for plane in images.flatten(0, 1)]
    planes = [np.asarray(plane.resize((48 * times, 32 * times), Image.Resampling.BILINEAR)) for plane in planes]
    with torch.inference_mode():
        large = plain(torch.from_numpy(np.stack(planes)).view(3, 3, 32 * times, 48 * times) / 255)
    expected = large.view(3, 3, 32, times, 48, times).mean((3, 5))
    saved = {"weights": plain.state_dict(), "network": "segnet_dsc", "enlarge": times}
    torch.save(saved, tmp_path / "enlarged.pt")
    network, _ = load_network(tmp_path / "enlarged.pt")
    monkeypatch.setattr(inference, "PIXELS", 3 * 32 * 48 * times**2)  # all of them at a time, and no more
    (found,) = logits_of(pickle.loads(pickle.dumps(network)), images, torch.float32)
    assert torch.allclose(found, expected, atol=1e-5)
    monkeypatch.setattr(inference, "PIXELS", 3 * 32 * 48 * times**2 - 1)
    assert [len(logits) for logits in logits_of(network, images, torch.float32)] == [2, 1]
    with pytest.raises(UserError, match=f"at least {16 // times + (times == 3)}x"):
        network(torch.rand(1, 3, 4, 4))
    torch.save(saved | {"enlarge": 9}, tmp_path / "enlarged.pt")
    with pytest.raises(UserError, match="enlarged 1 to 8 times, not 9"):
        load_network(tmp_path / "enlarged.pt")
