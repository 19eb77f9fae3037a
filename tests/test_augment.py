"""Augmentation on whole batches against torchvision's functions on one image."""

import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from dataset import augment
from dataset.toy_pets import draw_pet


def batch(n=64, size=32):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)
    trimaps = images[:, :1].long() // 86  # tied to the image, so that both must move together
    return images, trimaps


def test_jitter_equals_torchvision():
    images, _ = batch(8)
    factors = 0.7 + 0.6 * torch.rand(3, 8, 1, 1)
    found = augment.jitter(images.float(), *factors)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for i, image in enumerate(images / 255):
        b, c, s = (float(f[i]) for f in factors)
        expected = TF.adjust_saturation(TF.adjust_contrast(TF.adjust_brightness(image, b), c), s)
        assert torch.allclose(found[i], expected, atol=1e-6)


def test_each_image_has_its_own_draw_and_its_trimap_follows(monkeypatch):
    monkeypatch.setattr(augment, "JITTER", 0.0)
    images, trimaps = batch()
    found, moved = augment.augment(images, trimaps, torch.Generator().manual_seed(0))
    found_bytes = (found * 255).round().byte()
    flipped = torch.tensor([not torch.equal(a, b) for a, b in zip(images, found_bytes)])
    assert 16 < flipped.sum() < 48
    assert torch.equal(found_bytes[flipped], images[flipped].flip(3))
    assert torch.equal(moved, found_bytes[:, :1].long() // 86)
    again, _ = augment.augment(images, trimaps, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)


def test_zoom_and_rotation_move_image_and_trimap_alike(monkeypatch):
    for name, value in (("JITTER", 0.0), ("ZOOM", 0.2), ("ROTATION", 15.0)):
        monkeypatch.setattr(augment, name, value)
    _, trimap = draw_pet(__import__("numpy").random.default_rng(3))
    trimap = TF.resize(TF.pil_to_tensor(trimap), [64, 64], TF.InterpolationMode.NEAREST)[None].repeat(16, 1, 1, 1) - 1
    images = 255 * (trimap == 0).byte().repeat(1, 3, 1, 1)  # the pet's mask as an image
    found, moved = augment.augment(images, trimap, torch.Generator().manual_seed(1))
    assert set(moved.unique().tolist()) <= {0, 1, 2}
    assert moved.dtype == trimap.dtype
    agree = ((found[:, :1] > 0.5) == (moved == 0)).float().mean((1, 2, 3))
    assert agree.min() > 0.98  # nearest and bilinear differ along the edge alone
    assert (found - images / 255).abs().mean((1, 2, 3)).min() > 0.005  # and every one was moved


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_nothing_changes_when_nothing_is_asked_for(monkeypatch, dtype):
    monkeypatch.setattr(augment, "FLIP", 0.0)
    monkeypatch.setattr(augment, "JITTER", 0.0)
    images, trimaps = batch(4)
    found, moved = augment.augment(images, trimaps.to(dtype), torch.Generator())
    assert torch.allclose(found, images / 255, atol=1e-6)
    assert torch.equal(moved, trimaps.to(dtype))


def test_crops_show_parts_of_the_size_that_is_asked_for(monkeypatch):
    ramps = torch.arange(64).expand(64, 64)
    images = torch.stack((ramps, ramps.T, ramps)).to(torch.uint8).expand(300, -1, -1, -1)  # column, row
    random = torch.Generator().manual_seed(0)
    crops = augment.crop(images, 32, 0.3, random)
    assert crops.shape == (300, 3, 32, 32)
    middle = 255 * crops[:, :2, 8:24, 8:24]  # away from edges
    width, height = (middle[:, 0, 0, -1] - middle[:, 0, 0, 0]) / 15, (middle[:, 1, -1, 0] - middle[:, 1, 0, 0]) / 15
    area, ratio = (width * height).abs() / 4, (width / height).abs()  # a pixel is 2 of the image's where it is whole
    assert 0.29 < area.min() < 0.4 and 0.9 < area.max() < 1.01
    assert 0.74 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.34
    assert 0.4 < (width < 0).float().mean() < 0.6  # flipped
    assert (height > 0).all()
    whole = augment.crop(images[:50], 64, 1.0, random)
    same, mirrored = ((whole - x / 255).abs().amax((1, 2, 3)) < 1e-4 for x in (images[:50], images[:50].flip(3)))
    assert (same ^ mirrored).all() and same.any() and mirrored.any()
