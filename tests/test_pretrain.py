"""Masked pretraining: that nothing hidden is seen, that it learns, and that what it leaves fits where it belongs."""

import shutil

import pytest
import torch
from conftest import PHOTOGRAPHS, run_here
from torch.nn import functional as F
from torchvision.transforms import v2

import fetch_oxford_iiit_pets as pets
import pretrain
import pretrained
import segnet
from common import checkpoints, machine, masking
from common.encoder_weights import import_timm
from common.files import load_file
from common.masked_autoencoder import MaskedPainter, MaskedTransformer, settle_statistics
from dataset import cache, photographs

pytest.importorskip("timm")
VIT = "vit_tiny_patch16_224"


@pytest.fixture
def quick(toy_root):
    """Constants of scripts: drawn pets at 32 px, in the real data's layout."""
    return f"DATA_ROOT={toy_root}", "IMAGE_SIZE=32", "THREADS=1"


def masked(kind, size, filling="noise"):
    torch.manual_seed(0)
    if kind == "transformer":
        return MaskedTransformer(VIT, size)
    return MaskedPainter(segnet.NETWORKS[kind](), 16, filling)


def test_squares_are_those_of_pytorchs_unfold_and_go_back():
    images = torch.rand(2, 3, 32, 48)
    squares = masking.squares_of(images, 16)
    assert torch.equal(squares, F.unfold(images, 16, stride=16).transpose(1, 2))
    assert torch.equal(masking.images_of(squares, 16, 32, 48), images)


def test_masks_hide_as_much_in_each_image_and_differ_by_image_and_step():
    random = torch.Generator().manual_seed(0)
    steps = [masking.random_masks(32, 64, 0.75, random) for _ in range(4)]
    assert all((mask.sum(1) == 48).all() for mask in steps)
    assert len({tuple(row.tolist()) for mask in steps for row in mask}) == 4 * 32
    often = torch.cat([masking.random_masks(1000, 16, 0.5, random) for _ in range(4)]).float().mean(0)
    assert (often - 0.5).abs().max() < 0.04  # 5 deviations: no square is preferred
    assert (masking.random_masks(9, 4, 0.99, random).sum(1) == 3).all()  # something is left to see
    assert (masking.random_masks(9, 4, 0.01, random).sum(1) == 1).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["transformer", "noise", "swap", "gray"])
def test_what_is_hidden_has_no_influence_at_all(kind, training):
    """Whatever else stands in hidden squares, every output is the same to the last bit; what is seen does matter."""
    network = masked("transformer" if kind == "transformer" else "segnet_dsc", 48, kind)
    images, random = torch.rand(4, 3, 48, 48), torch.Generator().manual_seed(1)
    settle_statistics(network.pretrained(), [images])  # or nothing would reach the last layers
    network.train(training)
    hidden = masking.random_masks(4, 9, 0.75, random)
    squares = masking.squares_of(images, 16)
    tampered, touched = (
        masking.images_of(torch.where(where[..., None], torch.rand(squares.shape), squares), 16, 48, 48)
        for where in (hidden, ~hidden)
    )
    found = []
    for seen in (images, tampered, touched):
        states = [value.clone() for value in network.state_dict().values()]
        random = torch.Generator().manual_seed(2)
        if kind == "transformer":
            found.append((network(seen, hidden, random), network.encode(seen, hidden)))
        else:
            shown = masking.hide(seen, hidden, 16, kind, random)
            bottleneck, handed_over = network.network.encode(shown)
            places = [places for places, _ in handed_over]
            found.append((network(seen, hidden, random.manual_seed(2)), bottleneck, *places))
        after = list(network.state_dict().values())
        found[-1] += tuple(value.clone() for value in after)  # BatchNorm's statistics too
        for value, was in zip(after, states):
            value.copy_(was)
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1]))
    assert not any(torch.equal(a, b) for a, b in zip(found[0][:2], found[2][:2]))


def test_the_loss_counts_hidden_squares_alone_and_is_one_for_a_square_in_its_mean_colour():
    images = torch.rand(2, 3, 32, 32)
    hidden = masking.random_masks(2, 4, 0.5, torch.Generator().manual_seed(0))
    squares = masking.squares_of(images, 16)
    normalised = (squares - squares.mean(-1, keepdim=True)) / squares.std(-1, correction=0, keepdim=True)
    wrong_where_seen = torch.where(hidden[..., None], normalised, 7.0)
    assert masking.painting_loss(wrong_where_seen, images, hidden, 16) < 1e-6
    assert masking.painting_loss(torch.zeros_like(squares), images, hidden, 16) == pytest.approx(1, abs=1e-3)
    assert torch.allclose(masking.restored(wrong_where_seen, images, hidden, 16), images, atol=1e-4)


@pytest.mark.parametrize(("kind", "size"), [(VIT, 64), ("segnet_dsc", 32)])
def test_it_learns_to_paint_what_is_hidden(tmp_path, monkeypatch, kind, size):
    """Eight real images; 1 is what the mean colour of each square costs."""
    monkeypatch.setattr(pets, "IMAGE_SIZE", size)
    constants = {"CROP": 1.0, "HIDDEN": 0.5, "LEARNING_RATE": 2e-3, "EPOCHS": (1, 61), "PRECISION": "float32"}
    for name, value in ({"NETWORK": kind} | constants).items():
        monkeypatch.setattr(pretrain, name, value)
    images, _, _ = photographs.load(PHOTOGRAPHS, size, tmp_path)
    source = pretrain.Source(images, torch.arange(8), torch.arange(0), "", "")  # their trimaps come last
    torch.manual_seed(0)
    network = pretrain.build()
    optimizer, random = pretrain.make_optimizer(network), torch.Generator().manual_seed(0)
    losses = [pretrain.train_epoch(network, optimizer, source, epoch, random) for epoch in range(1, 61)]
    assert sum(losses[:10]) / 10 > 0.98
    assert sum(losses[-10:]) / 10 < 0.9


def test_the_encoder_goes_into_a_fresh_model_of_timm_with_the_same_tokens(tmp_path):
    timm, network = import_timm(), masked("transformer", 128).eval()
    torch.nn.init.normal_(network.encoder.norm.weight)  # so that it counts which norm is meant
    file = tmp_path / "pretrained.pt"
    torch.save(network.pretrained().state_dict(), file)
    fresh = timm.create_model(VIT, num_classes=0, dynamic_img_size=True).eval()
    fresh.load_state_dict(load_file(file))  # strict
    below = pretrained.build(pretrained.full_name("segnet_dsc", VIT), encoder=VIT).eval()
    pretrained.load_weights(below, VIT, str(file))
    for size in (64, 96, 128):
        images, nothing = torch.rand(2, 3, size, size), torch.zeros(2, (size // 16) ** 2, dtype=torch.bool)
        with torch.no_grad():
            ours = network.encode(images, nothing)
            theirs = fresh.forward_features((images - network.mean) / network.std)
            last = below.encode(images)[0].flatten(2).transpose(1, 2)  # before the last norm, without class token
            assert torch.allclose(ours, theirs, atol=1e-4)
            assert torch.allclose(ours[:, 1:], network.encoder.norm(last), atol=1e-4)


@pytest.mark.parametrize("head", ["linear", "original"])
@pytest.mark.parametrize("part", ["body", "encoder"])
def test_segnet_begins_from_the_part_that_is_asked_for(tmp_path, part, head):
    network = masked("segnet_dsc", 32)
    saved = {"network": "masked_segnet_dsc", "weights": network.pretrained().state_dict()}
    torch.save(saved, tmp_path / "pretrained.pt")
    new = pretrained.build("segnet_dsc", head=head)
    for value in new.state_dict().values():
        value += 1  # no tensor is by chance as in the file
    before = {key: value.clone() for key, value in new.state_dict().items()}
    pretrained.start_from(new, tmp_path / "pretrained.pt", part)
    for key, value in new.state_dict().items():
        from_file = key.startswith(("bn_input", "dc")) if part == "encoder" else not is_last(key)
        assert torch.equal(value, saved["weights"][key] if from_file else before[key]), key


def is_last(key):
    return key.startswith(("uc1.seq.3.", "uc1.seq.4."))  # the last convolution, and the original head's BatchNorm


def test_statistics_are_those_of_whole_images():
    network = masked("segnet_dsc", 32).network
    batches = [torch.rand(4, 3, 32, 32) * scale for scale in (1, 3)]
    settle_statistics(network, [*batches, torch.ones(1, 3, 32, 32)])  # the last, smaller one doesn't count as much
    mean = torch.cat(batches).mean((0, 2, 3))
    assert torch.allclose(network.bn_input.running_mean, mean, atol=1e-6)
    assert network.bn_input.momentum == 0.1
    assert not network.training


@pytest.mark.slow
@pytest.mark.parametrize("network", [VIT, "segnet_dsc"])
def test_a_pretraining_that_is_stopped_goes_on_to_the_very_same_weights(script, quick, tmp_path, monkeypatch, network):
    constants = (*quick, f"NETWORK={network}", "EPOCHS=1,4", "BATCH_SIZE=16", "VALIDATION_SHARE=0.25")
    whole, stopped = (tmp_path / "pretrained" / run / network for run in ("whole", "stopped"))
    save = checkpoints.save

    def stop_after_the_second(folder, *rest):
        save(folder, *rest)
        if (folder / "epoch_02.pt").exists():
            machine.stopping.set()

    script("pretrain.py", *constants, "RUN=whole")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", stop_after_the_second)
        code, _, said = run_here("pretrain.py", *constants, f"OUTPUTS={tmp_path}", "RUN=stopped")
    assert code == 1 and "the same command goes on" in said
    assert not (stopped / "pretrained.pt").exists()
    machine.stopping.clear()
    assert "HIDDEN=0.75" in script("pretrain.py", *constants, "RUN=stopped", "HIDDEN=0.5", fails=True)
    assert "going on after epoch 2" in script("pretrain.py", *constants, "RUN=stopped")
    for name in ("epoch_03.pt", "pretrained.pt"):
        a, b = (load_file(folder / name) for folder in (whole, stopped))
        a, b = (found.get("weights", found) for found in (a, b))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    left = {path.name for path in stopped.iterdir()}
    assert left >= {"curves.png", "history.csv", "painted.png", "state.pt"}
    assert "epoch_01.pt" not in left  # the newest alone is of use
    assert "validation_loss" in (whole / "history.csv").read_text()


def test_train_goes_on_from_what_pretrain_leaves_and_not_from_anything_else(script, quick, tmp_path):
    vit, own = (tmp_path / "pretrained/default" / network / "pretrained.pt" for network in (VIT, "segnet_dsc"))
    for network in (VIT, "segnet_dsc"):
        script("pretrain.py", *quick, f"NETWORK={network}", "EPOCHS=1,2", "BATCH_SIZE=48")
    quick = (*quick, "SIZES=1", "BATCH_SIZE=16", "EPOCHS=1,2", "NETWORKS=segnet_dsc")
    said = script("train.py", *quick, "RUN=a", f"START_FROM={own}", "TRAIN_IMAGES=10", "FREEZE_ENCODER=True")
    assert f"body from {own}" in said
    assert checkpoints.newest_weights(tmp_path) == tmp_path / "a/segnet_dsc/epoch_01.pt"  # for predict.py
    saved = load_file(tmp_path / "a/segnet_dsc/epoch_01.pt")
    assert saved["train_images"] == 10
    assert all(torch.equal(saved["weights"][k], v) for k, v in load_file(own)["weights"].items() if k.startswith("dc"))
    under = ("RUN=b", f"ENCODER={VIT}", "TRAIN_IMAGES=8")
    assert f"from {vit}" in script("train.py", *quick, *under, f"ENCODER_WEIGHTS={vit}")
    for other, missing in (
        ((f"START_FROM={vit}",), "bn_input.weight is missing"),
        ((f"START_FROM={own}", "NETWORKS=segnet"), "dc1.seq.0.weight is missing"),
        ((f"ENCODER={VIT}", f"ENCODER_WEIGHTS={own}"), "cls_token is missing"),
    ):
        said = script("train.py", *quick, "RUN=c", *other, fails=True)
        assert f"weights of another architecture: {missing}" in said
    assert "not both" in script("train.py", *quick, f"ENCODER={VIT}", f"START_FROM={own}", fails=True)
    assert f"was begun with FREEZE_ENCODER=True, START_FROM={own}" in script(
        "train.py", *quick, "RUN=a", "TRAIN_IMAGES=10", fails=True
    )


def test_bad_input_is_told_in_a_line(script, quick, tmp_path):
    def told(*constants):
        return script("pretrain.py", *quick, *constants, fails=True)

    (tmp_path / "empty").mkdir()
    assert "has no photographs (.jpg" in told(f"IMAGES={tmp_path / 'empty'}")
    assert "is no folder" in told(f"IMAGES={tmp_path / 'nowhere'}")
    assert "IMAGE_SIZE=100 can't be cut into squares of 16 px; 96 and 112 can" in told("IMAGE_SIZE=100")
    assert "squares of 48 px; 96 and 144 can" in told("NETWORK=segnet", "SQUARE=48", "IMAGE_SIZE=128")
    assert "SQUARE is at least 16" in told("NETWORK=segnet", "SQUARE=8")
    assert "resnet18 is no plain vision transformer" in told("NETWORK=resnet18")
    assert "no such model; near: " in told("NETWORK=vit_tiny_patch16_244")
    assert "NETWORK=segnet_dcs: timm has no such model; near: segnet_dsc" in told("NETWORK=segnet_dcs")
    assert "NETWORK=vit_small_patch14_dinov2 has no map of stride 16" in told("NETWORK=vit_small_patch14_dinov2")
    assert "near: segnet, " in told("NETWORK=zzzzzz")
    assert "NETWORK=vit_base_r50_s16_224 is no plain" in told("NETWORK=vit_base_r50_s16_224")  # patches by a ResNet
    assert "FINER is from 1 to 2" in told("FINER=3")
    assert "FILLING=zeros: there are noise, swap, gray" in told("FILLING=zeros")
    assert "DECODER_WIDTH=100" in told("DECODER_WIDTH=100")
    assert "BETAS=0.9: two of them" in told("BETAS=0.9")
    assert "PICTURED=0" in told("PICTURED=0")  # at the start, and not after the last epoch
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "torn.JPG").write_bytes(b"\xff\xd8 and no more")
    assert "torn.JPG is no picture" in told(f"IMAGES={tmp_path / 'some'}")


def test_any_folder_of_photographs_is_decoded_once(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    shutil.copytree(PHOTOGRAPHS, folder / "deeper", ignore=shutil.ignore_patterns("trimaps"))
    images, pairs, identity = photographs.load(folder, 32, tmp_path / "cache")
    assert [pair.name for pair in pairs][:2] == ["deeper/Bengal_20.jpg", "deeper/Maine_Coon_272.jpg"]
    pixels = cache.read_pixels(PHOTOGRAPHS / "Bengal_20.jpg", "RGB")
    assert torch.equal(images[0], v2.functional.resize(pixels, [32, 32], antialias=True))
    with monkeypatch.context() as patch:
        patch.setattr(photographs, "decode_from", None)  # not called again
        assert torch.equal(photographs.load(folder, 32, tmp_path / "cache")[0], images)
    shutil.copy(PHOTOGRAPHS / "Bengal_20.jpg", folder / "one_more.jpg")
    more, _, other = photographs.load(folder, 32, tmp_path / "cache")
    assert len(more) == 9 and other != identity
    own = folder / "outputs"  # where a run draws, and then goes on
    own.mkdir()
    shutil.copy(PHOTOGRAPHS / "Bengal_20.jpg", own / "curves.jpg")
    assert len(photographs.load(folder, 32, own / "cache")[0]) == 9
