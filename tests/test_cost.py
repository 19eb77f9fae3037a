"""What networks cost, against arithmetic done by hand."""

import pytest

from common.cost import kept_bytes, multiply_adds
from segnet import ImageSegmentation, ImageSegmentationDSC, UNet, UNetDSC


@pytest.mark.parametrize(("network", "by_hand"), [
    # 3x3 convolutions of both halves at 64, 32, 16 and 8 px, in multiply-adds a pixel
    (ImageSegmentation, 9 * (64**2 * (3 * 64 + 64 * 64 + 64 * 64 + 64 * 3)
                             + 32**2 * (64 * 128 + 128 * 128 + 128 * 128 + 128 * 64)
                             + 16**2 * (128 * 256 + 4 * 256 * 256 + 256 * 128)
                             + 8**2 * (256 * 512 + 4 * 512 * 512 + 512 * 256))),
    (ImageSegmentationDSC, 64**2 * (9 * (3 + 3 * 64) + 3 * 64 + 2 * 64 * 64 + 64 * 3)
                           + 32**2 * (9 * (64 + 3 * 128) + 2 * 64 * 128 + 2 * 128 * 128)
                           + 16**2 * (9 * (128 + 5 * 256) + 2 * 128 * 256 + 4 * 256 * 256)
                           + 8**2 * (9 * (256 + 5 * 512) + 2 * 256 * 512 + 4 * 512 * 512)),
])  # fmt: skip
def test_multiply_adds(network, by_hand):
    assert multiply_adds(network(), 64) == by_hand


def test_segnet_hands_over_two_bits_a_window_and_a_unet_whole_maps():
    elements = 64 * 64**2 + 128 * 32**2 + 256 * 16**2 + 512 * 8**2
    network = ImageSegmentation()
    assert kept_bytes(network, 64) == elements // 4 // 4
    assert kept_bytes(network, 64) == elements // 4 // 4  # and measuring leaves no trace
    assert kept_bytes(UNet(), 64) == kept_bytes(UNetDSC(), 64) == 4 * elements
