"""What networks cost, against arithmetic done by hand."""

import pytest
import torch

import pretrained
from common.cost import kept_bytes, multiply_adds
from segnet import NETWORKS, ImageSegmentation, ImageSegmentationDSC, UNet, UNetDSC


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


def test_decoders_of_the_ablation_differ_in_what_they_are_handed_alone():
    """As many parameters and multiply-adds as SegNet's; and what is handed over does arrive."""
    segnet = NETWORKS["segnet_dsc"]()
    torch.manual_seed(0)
    image = torch.rand(1, 3, 48, 64)
    elements = 64 * 64**2 + 128 * 32**2 + 256 * 16**2 + 512 * 8**2
    for name, maps, indices in (("bilinear_dsc", 0, 0), ("bilinear_maps_dsc", 1, 0), ("segnet_maps_dsc", 1, 1)):
        network = NETWORKS[name]().eval()
        network.load_state_dict(segnet.state_dict())
        assert multiply_adds(network, 64) == multiply_adds(segnet, 64)
        assert kept_bytes(network, 64) == maps * 4 * elements + indices * elements // 16
        assert kept_bytes(network, 64, torch.bfloat16) == maps * 2 * elements + indices * elements // 16
        bottleneck, handed_over = network.encode(image)
        whole = network.decode(bottleneck, list(handed_over))
        assert torch.equal(whole, network(image))
        emptied = [tuple(torch.zeros_like(t) if t.is_floating_point() else t for t in kept) if isinstance(kept, tuple)
                   else torch.zeros_like(kept) for kept in handed_over if not isinstance(kept, torch.Size)]  # fmt: skip
        assert not maps or not torch.allclose(network.decode(bottleneck, emptied), whole)


def test_segnet_hands_over_two_bits_a_window_and_a_unet_whole_maps():
    elements = 64 * 64**2 + 128 * 32**2 + 256 * 16**2 + 512 * 8**2
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        network = ImageSegmentation().to(device)
        with torch.inference_mode():  # as where rows are written; what is kept is kept in training
            assert kept_bytes(network, 64) == elements // 4 // 4
        assert kept_bytes(network, 64) == elements // 4 // 4  # and measuring leaves no trace
    assert kept_bytes(UNet(), 64) == kept_bytes(UNetDSC(), 64) == 4 * elements
    enlarged = pretrained.build("segnet", enlarge=2)
    assert kept_bytes(enlarged, 32) == elements // 4 // 4
    assert multiply_adds(enlarged, 32) == multiply_adds(ImageSegmentation(), 64)
