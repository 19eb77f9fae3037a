"""The data path on toy files, on files as odd as the real ones, and on the real ones where they are."""

import os
import shutil
import struct

import numpy as np
import pytest
import torch
from conftest import SHARED
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

import fetch_oxford_iiit_pets as pets
from common import machine
from common.settings import UserError
from dataset import augment, cache
from dataset.batches import batches, divide


@pytest.fixture
def folder(toy_root, tmp_path, monkeypatch):
    """A copy of the toy data that a test may damage, and outputs of its own."""
    shutil.copytree(toy_root, tmp_path / "root")
    monkeypatch.setattr(pets, "DATA_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(pets, "OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "root" / "oxford-iiit-pet"


def first(folder):
    return cache.read_list(folder, "trainval")[0]


def test_original_and_augmented_hand_out_the_same_images(folder):
    trainset, testset = pets.original()
    image, trimap = trainset[0]
    assert isinstance(image, Image.Image)
    assert set(np.unique(trimap)) <= {1, 2, 3}
    flat_train, flat_test = pets.augmented()
    assert (len(trainset), len(testset), len(flat_train), len(flat_test)) == (48, 24, 48, 24)
    image, trimap = testset[3]
    item, label = flat_test[3]
    assert (item.shape, item.dtype, label.shape, label.dtype) == (
        (3, 128, 128),
        torch.float32,
        (1, 128, 128),
        torch.int64,
    )
    small = torch.from_numpy(np.array(image.resize((128, 128), Image.Resampling.BILINEAR))).permute(2, 0, 1) / 255
    assert (item - small).abs().max() <= 2 / 255  # Pillow's antialiased bilinear rounds once more
    small = torch.from_numpy(np.array(trimap.resize((128, 128), Image.Resampling.NEAREST))).long() - 1
    assert (label[0] == small).float().mean() > 0.97  # the two round half pixels differently
    assert torch.equal(flat_test[3][0], item)  # the test set does not change


def test_the_training_set_alone_is_augmented_and_works_in_a_data_loader(folder):
    trainset, testset = pets.augmented()
    assert not torch.equal(trainset[0][0], trainset[0][0])
    assert torch.equal(testset[-1][0], testset[len(testset) - 1][0])
    with pytest.raises(IndexError):
        testset[len(testset)]
    for dataset in (trainset, testset):
        images, trimaps = next(iter(DataLoader(dataset, batch_size=8, shuffle=True, num_workers=1)))
        assert images.shape == (8, 3, 128, 128)
        assert images.min() >= 0 and images.max() <= 1
        assert set(trimaps.unique().tolist()) <= {0, 1, 2}


def test_real_files_are_odd_and_load_all_the_same(folder):
    names = [pair.name for pair in cache.read_list(folder, "trainval")][:4]
    for name, mode, form in zip(names, ("P", "RGBA", "CMYK", "L"), ("GIF", "PNG", "JPEG", "JPEG")):
        path = folder / "images" / f"{name}.jpg"
        Image.open(path).convert("RGB").convert(mode).save(path, format=form)
    (folder / "annotations" / "trimaps" / f"._{names[0]}.png").write_bytes(b"\0\5\x16\7 of macOS")
    size = Image.open(folder / "images" / f"{names[0]}.jpg").size
    Image.new("L", size, 2).save(folder / "annotations" / "trimaps" / f"{names[0]}.png")
    split = pets.load("trainval")
    assert len(split.images) == 48
    assert (split.trimaps[0] == 1).all()  # background alone


def damage(kind, folder):
    pair = first(folder)
    image, trimap = cache.paths_of(folder, pair)
    listing = folder / "annotations" / "trainval.txt"
    if kind == "truncated":
        image.write_bytes(image.read_bytes()[:1500])
    elif kind == "empty":
        image.write_bytes(b"")
    elif kind == "missing":
        trimap.unlink()
    elif kind == "sizes":
        Image.open(trimap).crop((0, 0, 20, 20)).save(trimap)
    elif kind == "values":
        Image.fromarray(np.array(Image.open(trimap)) * 40).save(trimap)
    elif kind == "bomb":
        Image.new("L", (10_000, 10_000)).save(image, format="PNG")
        Image.new("L", (10_000, 10_000), 1).save(trimap)  # so that nothing else is wrong with it
    elif kind == "line":
        listing.write_text(listing.read_text().replace(f"{pair.name} 1", f"{pair.name} cat", 1))
    elif kind == "number":
        listing.write_text(listing.read_text().replace(f"{pair.name} 1", f"{pair.name} \xb2", 1))
    elif kind == "path":
        listing.write_text("../../secret 1 1 1\n" + listing.read_text())
    return pair, "trainval.txt" if kind in ("line", "number", "path") else pair.name


@pytest.mark.parametrize("kind", ["truncated", "empty", "missing", "sizes", "values", "bomb", "line", "number", "path"])
def test_damage_is_one_error_that_names_file_and_line(folder, kind):
    _, named = damage(kind, folder)
    with pytest.raises(UserError) as error:
        pets.load("trainval")
    assert named in str(error.value)
    assert "trainval.txt, line 1" in str(error.value)
    assert kind != "bomb" or "over 50,000,000" in str(error.value)
    assert not list((folder.parent.parent / "outputs").rglob("*.bin"))


def test_the_cache_is_used_when_it_fits_and_made_anew_when_it_does_not(folder, monkeypatch):
    expected = pets.load("trainval")
    (path,) = (folder.parent.parent / "outputs").rglob("trainval-128.bin")
    decode = cache.decode
    decoded = []
    monkeypatch.setattr(cache, "decode", lambda *args: decoded.append(args) or decode(*args))
    assert torch.equal(pets.load("trainval").images, expected.images)
    assert not decoded

    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PK\3\4 nonsense"):
        path.unlink()  # the old file is mapped into memory
        path.write_bytes(content)
        assert torch.equal(pets.load("trainval").images, expected.images)
        assert len(decoded) == 48
        decoded.clear()

    image, _ = cache.paths_of(folder, first(folder))
    pixels = Image.open(image)
    Image.new("RGB", pixels.size, "red").save(image)  # another image under the same name
    assert not torch.equal(pets.load("trainval").images, expected.images)
    decoded.clear()
    monkeypatch.setattr(cache, "CODE_VERSION", cache.CODE_VERSION + 1)
    pets.load("trainval")
    assert len(decoded) == 48


def test_the_toy_set_is_taken_only_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(pets, "OUTPUTS", str(tmp_path))
    monkeypatch.setattr(pets, "DATA_ROOT", str(tmp_path / "nothing"))
    monkeypatch.setattr(pets, "HOSTS", ("http://127.0.0.1:9/",))
    monkeypatch.setattr(pets.download, "BACK_OFF", 0.0)
    with pytest.raises(UserError, match="DATASET=toy"):
        pets.load("trainval")
    assert not (tmp_path / "toy").exists()
    monkeypatch.setattr(pets, "DATASET", "toy")
    assert len(pets.load("trainval").images) == 48
    assert pets.data_name() == "toy"


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "oxford-iiit-pet").exists(), reason="the real data are not here")
def test_real_data_have_their_published_counts(monkeypatch):
    monkeypatch.setattr(pets, "DATA_ROOT", str(SHARED))
    lists = {split: cache.read_list(pets.data_folder(), split) for split in ("trainval", "test")}
    assert {split: len(pairs) for split, pairs in lists.items()} == {"trainval": 3680, "test": 3669}
    assert len({pair.breed for pair in lists["test"]}) == 37
    assert not {pair.name for pair in lists["trainval"]} & {pair.name for pair in lists["test"]}
    shares = torch.zeros(3)
    for pair in lists["trainval"][::40]:
        shares += pets.class_shares(cache.decode(pets.data_folder(), pair, 128)[1][None])
    assert (shares / shares.sum()).tolist() == pytest.approx([0.300, 0.582, 0.118], abs=0.04)
    background_alone = next(pair for pair in lists["trainval"] if pair.name == "leonberger_18")
    assert (cache.decode(pets.data_folder(), background_alone, 128)[1] == 1).all()


def test_augmentation_keeps_pairs_together_through_the_data_set(folder, monkeypatch):
    monkeypatch.setattr(augment, "JITTER", 0.0)
    trainset, _ = pets.augmented()
    image, trimap = trainset.split.images[5] / 255, trainset.split.trimaps[5].long()
    seen = {(torch.allclose(i, image), torch.equal(t, trimap)) for i, t in (trainset[5] for _ in range(20))}
    assert seen == {(True, True), (False, False)}


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    grey = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    for name in ("grey.png", "grey.tiff"):
        Image.fromarray(grey).save(tmp_path / name)
        pixels = cache.read_pixels(tmp_path / name, "RGB")
        assert pixels.shape == (3, 8, 8)
        assert np.array_equal(pixels[0].numpy(), (grey // 257).astype(np.uint8))


@pytest.mark.parametrize("values", [np.linspace(0, 1, 64), np.linspace(0, 7e4, 64), np.linspace(-9, 1e3, 64)])
def test_more_than_sixteen_bits_are_refused(tmp_path, values):
    """Whose range nobody knows; Pillow would make them black or noise."""
    kind = np.float32 if values.max() <= 1 else np.int32
    Image.fromarray(values.astype(kind).reshape(8, 8)).save(tmp_path / "deep.tiff")
    with pytest.raises(UserError, match=r"deep\.tiff has pixels of 32 bits"):
        cache.read_pixels(tmp_path / "deep.tiff", "RGB")


@pytest.mark.parametrize("orientation", range(1, 10))
def test_photographs_are_turned_as_pillow_turns_them_whatever_else_their_exif_data_hold(tmp_path, orientation):
    path, pixels = tmp_path / "turned.png", np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    said = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    odd = struct.pack("<HHI4s", 0x011A, 2, 4, b"odd")  # a resolution in letters, which Pillow can't write again
    for tags in ([said], [said, odd]):
        exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(tags) + struct.pack("<I", 0)
        Image.fromarray(pixels).save(path, exif=exif)
        if odd not in tags:
            with Image.open(path) as image:
                expected = np.asarray(ImageOps.exif_transpose(image))
        assert np.array_equal(cache.read_pixels(path, "RGB", upright=True).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_photographs_are_turned_once(tmp_path, suffix, orientation):
    """Whatever Pillow does by itself when it loads them."""
    path, pixels = tmp_path / f"turned.{suffix}", np.zeros((5, 7, 3), dtype=np.uint8)
    pixels[0, 0], exif = 255, Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(pixels).save(path, exif=exif, **options)
    found = cache.read_pixels(path, "RGB", upright=True)[0].numpy()
    height, width = (5, 7) if orientation < 5 else (7, 5)
    row = height - 1 if orientation in (3, 4, 7, 8) else 0
    column = width - 1 if orientation in (2, 3, 6, 7) else 0
    assert found.shape == (height, width)
    assert list(zip(*found.nonzero())) == [(row, column)]  # where the camera's first pixel is seen


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_photographs_of_damaged_exif_data_are_seen_as_they_are(tmp_path, suffix):
    path = tmp_path / f"damaged.{suffix}"
    for damaged in (b"Exif\0\0neither II nor MM", b"Exif\0\0II*\0"):
        Image.new("RGB", (7, 5), "white").save(path, exif=damaged)
        assert cache.read_pixels(path, "RGB", upright=True).shape == (3, 5, 7)


def test_threads_heed_a_containers_quota(tmp_path):
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert machine.cpu_quota(tmp_path, own) == float("inf")
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")  # its parent's holds too
    assert machine.cpu_quota(tmp_path, own) == 1.5
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.cpu_quota(tmp_path, own) == 0.5
    assert machine.cpu_quota(tmp_path / "none", tmp_path / "none") == float("inf")
    assert 1 <= machine.usable_cores() <= os.cpu_count()


def test_images_in_training_are_not_copied(folder):
    split = pets.load("trainval")
    _, nothing = divide(split, 0.0, 1.0)
    assert not len(nothing.images)
    part, validation = divide(split, 0.25, 1.0)
    assert part.split.images.data_ptr() == split.images.data_ptr()
    assert (len(part.rows), len(validation.images)) == (36, 12)
    for images, trimaps in batches(part, 36, torch.Generator()):
        assert (images.shape, trimaps.shape) == ((36, 3, 128, 128), (36, 1, 128, 128))
