"""predict.py as a pet owner runs it: upright, at the image's own size, and what can't be read is named."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import PHOTOGRAPHS, ROOT
from PIL import Image, ImageCms

import predict
import pretrained
from common import checkpoints, cutout, published
from common.settings import UserError
from dataset import photographs
from dataset.cache import read_pixels
from dataset.toy_pets import draw_pet

QUICK = ("DATASET=toy", "IMAGE_SIZE=32", "SIZES=1", "BATCH_SIZE=8", "NETWORKS=segnet_dsc", "EPOCHS=1,4", "THREADS=1")


@pytest.fixture
def trained(script, tmp_path):
    script("train.py", *QUICK)
    return tmp_path / "toy" / "default" / "segnet_dsc" / "epoch_03.pt"


def test_images_of_all_sizes_come_out_upright_and_unreadable_ones_are_named(script, trained, tmp_path):
    folder, out = tmp_path / "photos", tmp_path / "predictions"
    folder.mkdir()
    drawn, _ = draw_pet(np.random.default_rng(5))
    upright = drawn.resize((203, 121))
    upright.save(folder / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees clockwise to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.webp", lossless=True, exif=exif)
    upright.convert("RGBA").save(folder / "Upright.tiff")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more than a beginning")
    (folder / "phone.HEIC").write_bytes(b"....ftypheic")
    drawn.save(folder / f"{'long' * 60}.jpg")  # with an ending such as _overlay.jpg no file could have that name
    (folder / "notes.txt").write_text("not a picture, not looked at")
    Image.new("RGB", (1, 200)).save(folder / "thin.png")
    (folder / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(to Ghostscript) show\n")
    Image.new("L", (16, 16)).save(folder / "icon.bmp", format="ICO")  # decoded before its size is known
    command = [sys.executable, ROOT / "predict.py", folder, f"CHECKPOINT={trained}", f"FOLDER={out}", "SHEET=True"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert f"left out of {folder}, since HEIC can't be read here: phone.HEIC" in result.stdout
    skipped = result.stderr.partition("skipped:")[2].splitlines()[1:]
    assert [line.split()[0] for line in skipped] == [
        str(folder / name) for name in ("cut.jpg", "icon.bmp", "script.png")
    ]
    made = {path.name for path in out.iterdir()}
    names = ("turned", "Upright", "upright_2", "thin", "long" * 50)  # one file each where capitals make no difference
    kinds = ("overlay.jpg", "trimap.png", "cutout.png")
    assert made == {f"{name}_{kind}" for name in names for kind in kinds} | {"contact_sheet.png"}
    trimaps = [np.array(Image.open(out / f"{name}_trimap.png")) for name in names[:3]]
    assert trimaps[0].shape == (121, 203)
    assert set(np.unique(trimaps[0])) <= {1, 2, 3}
    assert len(np.unique(trimaps[0])) > 1  # it learnt something to tell apart
    assert all(np.array_equal(trimaps[0], other) for other in trimaps[1:])
    cutout = np.array(Image.open(out / "upright_2_cutout.png"))
    opaque = cutout[..., 3:] > 0
    assert np.array_equal(cutout[..., :3], np.array(upright) * opaque)  # what is clear is not in the file
    assert cutout[..., 3][trimaps[1] == 1].mean() > cutout[..., 3][trimaps[1] == 2].mean()


def test_exported_network_gives_the_same_labels_on_real_images(script, trained, tmp_path):
    """In batches of three sizes, prepared as the file's metadata say, by Pillow and numpy alone."""
    onnxruntime = pytest.importorskip("onnxruntime")
    said = script("predict.py", f"EXPORT={tmp_path / 'net.onnx'}", f"CHECKPOINT={trained}")
    assert "images (B, 3, 32, 32) in [0, 1]" in said
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    about = session.get_modelmeta().custom_metadata_map
    assert about["classes"] == "pet,background,border"
    assert about["input_range"].startswith("RGB, 0 to 1")
    size = int(about["image_size"])
    images = [
        Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        for path in sorted(PHOTOGRAPHS.glob("*.jpg"))
    ]
    images = np.stack([np.asarray(image).transpose(2, 0, 1) for image in images]).astype(np.float32) / 255
    network, _ = pretrained.load_network(trained)
    with torch.inference_mode():
        expected = network.eval()(torch.from_numpy(images))
    assert len(expected.argmax(1).unique()) > 1
    for batch in (1, 3, 8):
        (logits,) = session.run(["logits"], {"images": images[:batch]})
        error = np.abs(logits - expected[:batch].numpy())
        # Two values of a pooling window that are equal but for rounding may swap, which changes a patch a little.
        assert np.quantile(error, 0.95) < 1e-4 and error.max() < 0.02
        assert (logits.argmax(1) == expected[:batch].argmax(1).numpy()).mean() >= 0.9999


@pytest.mark.slow
def test_exported_in_int8_it_is_small_and_nearly_the_same(script, trained, tmp_path):
    """With scales from the images that are named; without any, a line says what is missing, and nothing is written."""
    onnxruntime = pytest.importorskip("onnxruntime")
    files = [tmp_path / "net.onnx", tmp_path / "int8.onnx"]
    script("predict.py", f"EXPORT={files[0]}", f"CHECKPOINT={trained}")
    assert "which images?" in script(
        "predict.py", f"EXPORT={files[1]}", "INT8=True", f"CHECKPOINT={trained}", fails=True
    )
    assert not files[1].exists()
    script("predict.py", f"EXPORT={files[1]}", "INT8=True", f"CHECKPOINT={trained}", str(PHOTOGRAPHS))
    assert files[1].stat().st_size < files[0].stat().st_size / 3
    sessions = [onnxruntime.InferenceSession(file) for file in files]
    about = [session.get_modelmeta().custom_metadata_map for session in sessions]
    assert about[0].items() <= about[1].items()
    images = {"images": np.random.default_rng(0).random((5, 3, 32, 32), np.float32)}
    ours, theirs = (session.run(["logits"], images)[0].argmax(1) for session in sessions)
    assert 0.9 < (ours == theirs).mean() < 1


def test_a_file_name_that_is_no_utf8_is_printed_all_the_same(tmp_path):
    save_network_that_sees_nothing(tmp_path / "net.pt")
    name = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    shutil.copy(PHOTOGRAPHS / "Bengal_20.jpg", name)
    command = [sys.executable, ROOT / "predict.py", name, f"CHECKPOINT={tmp_path / 'net.pt'}", f"FOLDER={tmp_path}"]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    result = subprocess.run([*command, "INPUT=32"], capture_output=True, check=False, env=strict)
    assert result.returncode == 0, result.stderr
    assert rb"no pet was found in caf\udce9.jpg" in result.stdout
    assert os.path.exists(os.fsencode(tmp_path) + b"/caf\xe9_trimap.png")
    assert len(photographs.load(tmp_path, 16, tmp_path / "cache")[0]) > 1


def red_is_pet() -> torch.nn.Module:
    """A "network" that looks at each pixel by itself."""
    network = torch.nn.Conv2d(3, 3, 1)
    network.load_state_dict(
        {
            "weight": torch.tensor([[40.0, 0, 0], [-40, 0, 0], [0, 0, 0]]).view(3, 3, 1, 1),
            "bias": torch.tensor([-20.0, 20, -30]),
        }
    )
    return network


def test_tiles_find_what_is_too_small_for_the_square_and_change_nothing_else():
    pixels = torch.zeros(3, 250, 300, dtype=torch.uint8)
    pixels[0, 20:250, 40:160] = 255  # a large pet, and a small one
    pixels[0, 100:106, 217:223] = 255
    truth = pixels[:1] == 0  # background is class 1
    found = {}
    for tiles in (0, 2, 5):
        probabilities = cutout.probabilities_of(red_is_pet(), pixels, 32, torch.float32, mirror=True, tiles=tiles)
        assert torch.allclose(probabilities.sum(0), torch.ones(250, 300))
        found[tiles] = cutout.labels_of(probabilities)
        assert (found[tiles] != truth.long()).float().mean() < 0.02
    small = (slice(None), slice(100, 106), slice(217, 223))
    assert (found[0][small] == 1).all()
    assert (found[5][small] == 0).float().mean() > 0.5
    plain = torch.full((3, 1, 40), 255, dtype=torch.uint8)
    for tiles in (0, 1, 4):  # of a single row, more than it has pixels
        probabilities = cutout.probabilities_of(red_is_pet(), plain, 32, torch.float32, False, tiles)
        assert torch.allclose(probabilities[0], torch.ones(1, 40))


def test_tiles_overlap_by_half_and_their_votes_add_to_one():
    votes = torch.zeros(120, 60)
    for rows, columns in cutout.tiles_of(120, 60, 5):
        assert (rows.stop - rows.start, columns.stop - columns.start) == (40, 20)
        votes[rows, columns] += cutout.hat(40)[:, None] * cutout.hat(20)
    assert torch.allclose(votes[20:-20, 10:-10], torch.ones(80, 40))
    assert votes.min() > 0
    thin = {(rows.start, rows.stop) for rows, _ in cutout.tiles_of(3, 60, 8)}
    assert min(thin)[0] == 0 and max(thin)[1] == 3 and all(start < stop for start, stop in thin)


def test_mistakes_are_told_in_a_line(script, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "FOLDER", tmp_path / "weights")
    assert "train first" in script("predict.py", "cat.jpg", fails=True)
    assert "TILES is from 0 to 8" in script("predict.py", "cat.jpg", "TILES=9", fails=True)
    assert "INT8 is for EXPORT" in script("predict.py", "cat.jpg", "INT8=True", fails=True)
    assert "PRECISION is" in script("predict.py", "cat.jpg", "PRECISION=half", fails=True)
    assert "EXPORT takes no images" in script("predict.py", "cat.jpg", "EXPORT=a.onnx", fails=True)
    assert "leave out EXPORT" in script("predict.py", "PAGE=True", "EXPORT=a.onnx", fails=True)
    for program in ("predict.py", "test.py"):
        assert "not both" in script(program, "CHECKPOINT=a.pt", "WEIGHTS=segnet", fails=True)
    for command in (("predict.py", "cat.jpg"), ("test.py", "DATASET=toy")):
        assert "CHECKPOINT= takes a file" in script(*command, "WEIGHTS=own/a.pt", fails=True)
    torch.save({"weights": {}, "network": "unheard-of"}, tmp_path / "other.pt")
    assert "no network is called 'unheard-of'" in script(
        "predict.py", "cat.jpg", f"CHECKPOINT={tmp_path / 'other.pt'}", fails=True
    )
    saved = {"weights": pretrained.build("segnet_dsc").state_dict(), "network": "segnet_dsc"}
    (tmp_path / "photograph.pt").write_bytes((PHOTOGRAPHS / "Bengal_20.jpg").read_bytes())
    said = script("predict.py", "cat.jpg", f"CHECKPOINT={tmp_path / 'photograph.pt'}", fails=True)
    assert "photograph.pt is damaged, or no file of weights" in said
    astray = {
        key: torch.full_like(value, torch.nan) for key, value in saved["weights"].items() if value.is_floating_point()
    }
    for wrong, told in (
        ({"weights": saved["weights"] | astray}, "not finite"),
        ({"network": ""}, "wrong.pt doesn't say of which network"),
        ({"kernel_size": 99_999}, "at most 127; not 99999"),  # of which one layer would be 2 TB
        ({"kernel_size": 127}, "does not fit segnet_dsc"),
        ({"stages": "4"}, "is damaged: stages is 4"),
        ({"constants": 5}, "is damaged: constants is 5"),
        ({"constants": {"IMAGE_SIZE": 60_000}}, "says IMAGE_SIZE=60000, and segnet_dsc takes 16 to 1024 px"),
    ):
        torch.save(saved | wrong, tmp_path / "wrong.pt")
        assert told in script("predict.py", "cat.jpg", f"CHECKPOINT={tmp_path / 'wrong.pt'}", fails=True)
    torch.save(saved, tmp_path / "right.pt")
    right = f"CHECKPOINT={tmp_path / 'right.pt'}"
    for wanted in ("cat.jpg", f"EXPORT={tmp_path / 'net.onnx'}"):
        assert "INPUT=8, and segnet_dsc takes 16 to" in script("predict.py", wanted, right, "INPUT=8", fails=True)
    Image.new("RGB", (70_000, 1)).save(tmp_path / "long.png")
    with pytest.raises(UserError, match="longer than 65,500 px"):
        predict.find(None, 32, tmp_path / "long.png")
    (tmp_path / "file").touch()
    said = script("predict.py", str(PHOTOGRAPHS), right, f"FOLDER={tmp_path / 'file'}", fails=True)
    assert "Bengal_20_overlay.jpg could not be written" in said and "skipped" not in said  # the first of eight ends it
    assert "choose another place" in said


def test_a_folder_gives_its_pictures_and_not_what_was_made_of_them(tmp_path, capsys):
    """Nor what a Mac leaves beside them on other disks."""
    names = ("cat.jpg", "cat.png", "cat_nap.png", "dog.PNG", "no_overlay.jpg", "cat_cutout.webp", "contact_sheet.jpg")
    made = ("cat_overlay.jpg", "cat_2_trimap.png", "cat_cutout.png", "cat_nap_2_cutout.png", "dog_overlay.jpg")
    for name in (*names, *made, "contact_sheet.png", "._cat.jpg"):
        (tmp_path / name).touch()
    assert {path.name for path in predict.images_in([str(tmp_path)])} == {*names}
    assert "since they were made here: 6 pictures, such as cat_2_trimap.png" in capsys.readouterr().out
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "contact_sheet.png").touch()
    assert len(predict.images_in([str(tmp_path / "other")])) == 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_those_that_the_files_profile_means(mode, tmp_path):
    """By sRGB's with red and green exchanged; a broken one changes nothing."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    other = profile.replace(b"rXYZ", b"?").replace(b"gXYZ", b"rXYZ").replace(b"?", b"gXYZ")
    red, green = (204, 0, 0), (0, 204, 0)
    image = Image.new("RGB", (9, 5), red).convert(mode)
    for icc, seen in ((profile, red), (other, green), (other[:200], red), (b"no profile", red)):
        image.save(tmp_path / "a.png", icc_profile=icc)
        found = read_pixels(tmp_path / "a.png", "RGB", upright=True)
        assert (found - torch.tensor(seen)[:, None, None]).abs().max() <= 2
    image.convert("RGB").save(tmp_path / "a.tif", tiffinfo={34675: 7})  # a profile that is a number
    assert read_pixels(tmp_path / "a.tif", "RGB", upright=True)[0, 0, 0] == 204


@pytest.mark.parametrize(
    ("start", "told"),
    [(b"\0\0\0\x18ftypheic", "is HEIC"), (b"\0\0\0\x18ftypisom", "is no picture"), (b"", "is no picture")],
)
def test_what_only_looks_like_a_jpeg_is_told_as_what_it_is(start, told, tmp_path):
    (tmp_path / "a.jpg").write_bytes(start + bytes(99))
    with pytest.raises(UserError, match=f"a.jpg {told}.* save it as JPEG"):
        read_pixels(tmp_path / "a.jpg", "RGB")
    with pytest.raises(UserError, match=r"is no picture \(list.txt, line 3\): it is damaged, unpack"):
        read_pixels(tmp_path / "a.jpg", "L", "list.txt, line 3")


def test_the_newest_network_is_none_of_an_experiment(tmp_path):
    for run in ("own", "curve-vit-random-250-8000-0", "study-now", "levers-smooth", "ranks-2-0"):  # the newest last
        path = tmp_path / run / "segnet_dsc" / "epoch_01.pt"
        path.parent.mkdir(parents=True)
        path.touch()
    assert checkpoints.newest_weights(tmp_path).parent.parent.name == "own"


def test_a_cut_out_is_cut_through_the_middle_of_the_border():
    """By the odds of pet against background, however probable the border is between them."""
    odds = torch.tensor([[0.75, 0.25, 0], [0.3, 0.1, 0.6], [0.1, 0.3, 0.6], [0.01, 0.01, 0.98], [0.02, 0.3, 0.68],
                         [1, 0, 0], [0, 0, 1]]).T[:, None]  # fmt: skip
    pixels = torch.arange(1, 22, dtype=torch.uint8).view(3, 1, 7)
    cut = cutout.cut_out(pixels, odds)
    assert cut[3, 0].tolist() == [207, 207, 48, 128, 0, 255, 128]  # 255 * ((share - 0.5) / 0.8 + 0.5)
    assert torch.equal(cut[:3], torch.cat((pixels[..., :4], torch.zeros(3, 1, 1), pixels[..., 5:]), 2).byte())
    assert cutout.cut_out(pixels, odds, soft=0)[3, 0].tolist() == [255, 255, 0, 128, 0, 255, 128]


def test_what_is_clear_lends_a_thumbnail_no_colour():
    cut = torch.zeros(4, 4, 8, dtype=torch.uint8)
    cut[:, :, :3] = torch.tensor([200, 100, 50, 255], dtype=torch.uint8)[:, None, None]
    small = cutout.thumbnail(cut, 4)
    assert small.shape == (4, 2, 4)
    edge = small[3] > 25
    assert (small[3][edge] < 255).any()
    assert (small[:3, edge].int() - torch.tensor([200, 100, 50])[:, None]).abs().max() <= 1


def save_network_that_sees_nothing(path):
    network = pretrained.build("segnet_dsc")
    torch.nn.init.zeros_(network.uc1.seq[-1].pointwise.weight)
    network.uc1.seq[-1].pointwise.bias.data = torch.tensor([-99.0, 99.0, -99.0])
    torch.save({"weights": network.state_dict(), "network": "segnet_dsc"}, path)


def test_what_no_pet_is_in_is_said_and_transparent_ground_is_seen_as_white(script, trained, tmp_path):
    Image.new("RGBA", (60, 40), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (60, 40), "white").save(tmp_path / "white.png")
    assert torch.equal(*(read_pixels(tmp_path / f"{name}.png", "RGB", upright=True) for name in ("clear", "white")))
    save_network_that_sees_nothing(tmp_path / "nothing.pt")
    said = script("predict.py", str(tmp_path / "clear.png"), f"CHECKPOINT={tmp_path / 'nothing.pt'}", "THREADS=1")
    assert "1 of 1 images" in said and "no pet was found in clear.png" in said
    assert "no pet" not in script("predict.py", str(tmp_path / "white.png"), f"CHECKPOINT={trained}", "THREADS=1")


def test_a_constant_in_small_letters_is_not_taken_for_a_file(script, tmp_path):
    message = script("predict.py", str(PHOTOGRAPHS), "weights=segnet_dsc", fails=True)
    assert message.strip().endswith("weights=segnet_dsc: constants are written in capitals, WEIGHTS=segnet_dsc")
    assert "INPUT=130" in script("predict.py", str(PHOTOGRAPHS), "WEIGHTS=segnet_dsc_lite2", "INPUT=130", fails=True)
