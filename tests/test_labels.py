"""Labels at other sizes: against a loop over areas, and against flips, which must not change them by one pixel."""

import functools
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import PHOTOGRAPHS

from dataset import augment, cache
from dataset.labels import resize_labels
from dataset.toy_pets import draw_pet

SIZES = (128, 96, 64, 48)


@functools.cache
def toy_trimaps(n):
    random = np.random.default_rng(7)
    return [torch.from_numpy(np.array(draw_pet(random)[1]))[None] - 1 for _ in range(n)]


@functools.cache
def real_trimaps(n):
    """Eight of the test split, or fewer."""
    paths = sorted((PHOTOGRAPHS / "trimaps").glob("*.png"))
    assert len(paths) == 8
    return [cache.read_pixels(path, "L") - 1 for path in paths[:n]]


def areas_by_loop(trimap, row, column, size, margin):
    """Area of each class in pixel (row, column) of size x size, widened by `margin` of it on all sides."""
    height, width = trimap.shape
    y, x = Fraction(height, size), Fraction(width, size)
    top, bottom = (row - margin) * y, (row + 1 + margin) * y
    left, right = (column - margin) * x, (column + 1 + margin) * x
    areas = [Fraction(0)] * 3
    for i in range(max(0, int(top)), min(height, -int(-bottom // 1))):
        for j in range(max(0, int(left)), min(width, -int(-right // 1))):
            tall = min(bottom, i + 1) - max(top, i)
            wide = min(right, j + 1) - max(left, j)
            if tall > 0 and wide > 0:
                areas[trimap[i, j]] += tall * wide
    return areas


def check_against_loop(trimap, size, places):
    found = resize_labels(trimap, size, size)[0]
    pixels = trimap[0].tolist()
    pixels = np.array(pixels)
    for row, column in places:
        areas = areas_by_loop(pixels, row, column, size, Fraction(0))
        best = [c for c in range(3) if areas[c] == max(areas)]
        if len(best) > 1:
            wider = areas_by_loop(pixels, row, column, size, Fraction(1, 2))
            best = [c for c in best if wider[c] == max(wider[b] for b in best)]
        expected = next(c for c in (2, 0, 1) if c in best)  # border, pet, background
        assert int(found[row, column]) == expected, (row, column, areas)


@pytest.mark.parametrize("trimaps", [toy_trimaps, real_trimaps])
def test_a_label_is_the_class_of_the_largest_area(trimaps):
    """Up to 150 pixels on and around an edge, and 30 others, of each of ten drawn and eight real trimaps."""
    random = np.random.default_rng(0)
    for number, trimap in enumerate(trimaps(10)):
        size = SIZES[number % len(SIZES)]
        found = resize_labels(trimap, size, size)[0]
        edge = (found[1:, 1:] != found[:-1, :-1]).nonzero().tolist()
        edge = [edge[i] for i in random.permutation(len(edge))[:150]]
        check_against_loop(trimap, size, [*edge, *random.integers(0, size, (30, 2)).tolist()])


def test_equal_areas_are_decided_by_what_is_around_and_not_by_the_class():
    thin = torch.tensor([[1, 1, 1, 2, 0, 0, 0, 0]] * 8, dtype=torch.uint8)[None]  # half of the second pixel is border
    assert resize_labels(thin, 4, 4)[0, 0].tolist() == [1, 1, 0, 0]  # and more around it background
    wide = torch.tensor([[1, 1, 1, 2, 2, 2, 0, 0]] * 8, dtype=torch.uint8)[None]
    assert resize_labels(wide, 4, 4)[0, 0].tolist() == [1, 2, 2, 0]


@pytest.mark.parametrize("trimaps", [toy_trimaps, real_trimaps])
@pytest.mark.parametrize("size", SIZES)
def test_the_labels_of_a_flipped_image_are_the_flipped_labels(trimaps, size):
    for trimap in trimaps(8):
        for axis in (1, 2):
            flipped = resize_labels(trimap.flip(axis), size, size)
            assert torch.equal(flipped, resize_labels(trimap, size, size).flip(axis))
        assert torch.equal(resize_labels(trimap.mT, size, size), resize_labels(trimap, size, size).mT)


@pytest.mark.parametrize(("trimaps", "size"), [(toy_trimaps, 64), *((real_trimaps, size) for size in SIZES)])
def test_class_shares_stay_within_3_percent_of_the_full_size(trimaps, size):
    def shares(labels):
        return torch.stack([(labels == c).double().mean() for c in range(3)])

    full, small = torch.zeros(3, dtype=torch.double), torch.zeros(3, dtype=torch.double)
    for trimap in trimaps(40):
        full += shares(trimap)
        small += shares(resize_labels(trimap, size, size))
    assert (small / full - 1).abs().max() < 0.03


def test_enlarged_labels_are_those_of_the_pixel_that_lies_there():
    labels = torch.randint(0, 3, (1, 5, 7), dtype=torch.uint8)
    assert torch.equal(resize_labels(labels, 15, 21), labels.repeat_interleave(3, 1).repeat_interleave(3, 2))
    assert resize_labels(labels, 5, 7) is labels


def test_images_and_labels_lie_on_each_other():
    """The pet's mask as an image: where the resized image is more than half pet, so are the labels."""
    offsets = []
    for trimap in toy_trimaps(20):
        mask = 255 * (trimap == 0).byte()
        small = cache.v2.functional.resize(mask, [64, 64], antialias=True)[0].float() / 255
        labels = resize_labels(trimap, 64, 64)[0] == 0
        sure = (small - 0.5).abs() > 0.25
        assert torch.equal(labels[sure], small[sure] > 0.5)
        centre = [(m * torch.arange(64)).sum() / m.sum() for m in (small.sum(0), labels.float().sum(0))]
        offsets.append(float(centre[1] - centre[0]))
    assert abs(sum(offsets) / len(offsets)) < 0.05  # px; nearest-neighbour labels were off by 0.25 to 0.5


def test_moves_commute_with_flips_too(monkeypatch):
    monkeypatch.setattr(augment, "ZOOM", 0.2)
    monkeypatch.setattr(augment, "ROTATION", 15.0)
    trimaps = torch.stack([resize_labels(t, 64, 64) for t in toy_trimaps(12)])
    images = torch.rand(12, 3, 64, 64)

    class Mirrored:
        """The same random moves, to the other side."""

        def __enter__(self):
            self.rand = torch.rand
            torch.rand = lambda *args, **kwargs: self.mirrored(self.rand(*args, **kwargs))

        def mirrored(self, drawn):
            drawn[[0, 2]] = 1 - drawn[[0, 2]]  # clockwise becomes anticlockwise, and to the right to the left
            return drawn

        def __exit__(self, *_):
            torch.rand = self.rand

    moved, labels = augment.move(images, trimaps, torch.Generator().manual_seed(0))
    with Mirrored():
        other, other_labels = augment.move(images.flip(3), trimaps.flip(3), torch.Generator().manual_seed(0))
    assert torch.allclose(moved.flip(3), other, atol=1e-4)
    assert (labels.flip(3) != other_labels).float().mean() < 1e-5
    assert not torch.equal(labels, trimaps)
