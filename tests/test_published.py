"""Published weights: small, exact enough, chosen by name or by their row, and refused when something is wrong."""

import json

import pytest
import torch
from conftest import PHOTOGRAPHS

import hubconf
import pretrained
from common import published, results
from common.files import load_file
from common.settings import UserError
from experiments import publish_weights

QUICK = ("DATASET=toy", "IMAGE_SIZE=32", "SIZES=1", "BATCH_SIZE=8", "THREADS=1", "EPOCHS=1,3")


@pytest.fixture
def weights_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "FOLDER", tmp_path / "weights")
    return tmp_path / "weights"


def write_published(folder, network, mean_iou):
    """A file of random weights in the published form."""
    weights = publish_weights.halved(pretrained.build(network).state_dict())
    folder.mkdir(exist_ok=True)
    about = {"network": network, **pretrained.SHAPE, "constants": {"IMAGE_SIZE": 32}}
    torch.save(about | {"weights": weights, "row": {"mean_iou": mean_iou}}, folder / f"{network}.pt")


def test_trained_tested_published_and_scored_again(script, tmp_path, weights_folder):
    script("train.py", *QUICK, "NETWORKS=segnet_dsc")
    script("test.py", *QUICK[:2], "NETWORKS=segnet_dsc", "EXAMPLES=0")
    rows = [json.loads(line) for line in (tmp_path / "toy/results.jsonl").read_text().splitlines()]
    checkpoint = tmp_path / "toy/default/segnet_dsc/epoch_02.pt"
    with pytest.raises(UserError, match="has no published row"):
        publish_weights.publish(checkpoint.with_name("epoch_01.pt"), rows)
    with pytest.raises(UserError, match="has no published row"):  # of the same constants, trained once more
        publish_weights.publish(checkpoint, [row | {"train_seconds": row["train_seconds"] + 1} for row in rows])
    path = publish_weights.publish(checkpoint, rows)
    assert path == weights_folder / "segnet_dsc_32px.pt"
    assert path.stat().st_size < 0.56 * checkpoint.stat().st_size
    network, about = pretrained.load_network(path)
    assert about["row"] == rows[1] and about["legs"]
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32, torch.int64}

    said = script("test.py", *QUICK[:2], "WEIGHTS=segnet_dsc_32px", "EXAMPLES=1")
    assert (tmp_path / "toy/weights-segnet_dsc_32px/segnet_dsc/best.png").exists()  # where the report looks for it
    again = json.loads((tmp_path / "toy/results.jsonl").read_text().splitlines()[-1])
    assert f"as published: mean IoU {rows[1]['mean_iou']:.4f}" in said
    assert (again["run"], again["network"]) == ("weights-segnet_dsc_32px", "segnet_dsc")
    assert again["mean_iou"] == pytest.approx(rows[1]["mean_iou"], abs=5e-4)


def test_a_published_training_has_one_row_and_its_own_curves(script, tmp_path, weights_folder):
    publish = ("test.py", *QUICK[:2], "NETWORKS=segnet_dsc", "PUBLISH=True", "EXAMPLES=1", "BASELINE=False")
    for seed, run in enumerate(("default", "other")):
        script("train.py", *QUICK, "NETWORKS=segnet_dsc", f"RUN={run}", f"SEED={seed}")
    checkpoint = tmp_path / "toy/other/segnet_dsc/epoch_02.pt"
    script(*publish, f"CHECKPOINT={checkpoint}")
    curves = tmp_path / "toy/published/file-other-epoch_02_segnet_dsc_curves.png"
    assert curves.read_bytes() == checkpoint.with_name("curves.png").read_bytes()
    script(*publish, "RUN=default", "NETWORKS=segnet_dsc,segnet_dsc", "BASELINE=True")
    (row,) = (row for row in results.rows(tmp_path / "toy/published") if row["run"] == "default")
    publish_weights.publish(tmp_path / "toy/default/segnet_dsc/epoch_02.pt", [row])
    for again in ("RUN=default", "WEIGHTS=segnet_dsc_32px", f"CHECKPOINT={checkpoint}"):
        assert "already; publish another RUN" in script(*publish, again, fails=True)
    script(*publish, "WEIGHTS=segnet_dsc_32px", "MIRROR=True")  # another way of testing
    assert not list((tmp_path / "toy/published").glob("weights-*_curves.png"))
    script(*publish, "RUN=default", "MIRROR=True", "EXAMPLES=0", "BASELINE=True")
    rows = results.rows(tmp_path / "toy/published")
    assert [row["run"] for row in rows].count("baseline") == 1
    assert {row["run"]: "by_breed" in row for row in rows if row["run"] != "baseline"} == {
        "file-other-epoch_02": False,
        "default": True,
        "weights-segnet_dsc_32px-mirror": True,
        "default-mirror": False,
    }


def test_statistics_that_float16_cannot_hold_stay_float32():
    weights = pretrained.build("segnet_dsc").state_dict()
    weights["bn_input.running_var"] = torch.tensor([1e-9, 1e6, 1.0])
    weights["dc1.seq.0.depthwise.weight"] = torch.full((3, 1, 3, 3), 1e-8)  # zero in float16
    weights["uc1.seq.0.pointwise.weight"] = torch.full((64, 64, 1, 1), 1e5)  # infinite
    halved = publish_weights.halved(weights)
    kept = {key for key, value in halved.items() if value.dtype == torch.float32 and value.dim() > 1}
    assert kept == {"dc1.seq.0.depthwise.weight", "uc1.seq.0.pointwise.weight"}
    network = pretrained.build("segnet_dsc")
    network.load_state_dict(halved)
    for key, value in network.state_dict().items():
        assert torch.allclose(value, weights[key], rtol=2e-3, atol=1e-7), key


def test_predict_takes_the_newest_trained_or_else_the_best_published(script, tmp_path, weights_folder):
    write_published(weights_folder, "segnet_dsc", 0.7)
    write_published(weights_folder, "segnet", 0.6)
    images = str(PHOTOGRAPHS)
    assert script("predict.py", images, "THREADS=1").startswith(f"segnet_dsc, {weights_folder}")
    made = {path.name for path in (tmp_path / "predictions").iterdir()}
    assert len(made) == 8 * 3 and "Siamese_93_cutout.png" in made
    image = str(PHOTOGRAPHS / "Bengal_20.jpg")
    assert script("predict.py", image, "WEIGHTS=segnet", "THREADS=1").startswith("segnet, ")
    (tmp_path / "own" / "segnet_dsc").mkdir(parents=True)
    (weights_folder / "segnet_dsc.pt").rename(tmp_path / "own/segnet_dsc/epoch_01.pt")
    assert "own" in script("predict.py", image, "THREADS=1").splitlines()[0]


def test_without_timm_the_best_is_of_those_that_need_none(script, weights_folder, monkeypatch):
    write_published(weights_folder, "segnet_dsc", 0.7)
    write_published(weights_folder, "segnet", 0.8)
    better = load_file(weights_folder / "segnet.pt") | {"encoder": "tf_efficientnet_lite0"}
    torch.save(better, weights_folder / "segnet.pt")
    assert published.best().stem == "segnet"
    monkeypatch.setattr(published.importlib.util, "find_spec", lambda name: None)
    assert published.best().stem == "segnet_dsc"


def test_what_is_wrong_is_told_in_a_line(script, weights_folder):
    class Code:
        def __reduce__(self):
            return print, ("the file's code has run",)

    image = str(PHOTOGRAPHS / "Bengal_20.jpg")
    assert "none are published yet" in script("predict.py", image, "WEIGHTS=segnet", fails=True)
    write_published(weights_folder, "segnet_dsc", 0.7)
    path = weights_folder / "segnet_dsc.pt"
    for program in (("predict.py", image), ("test.py", "DATASET=toy", "IMAGE_SIZE=32")):
        assert "did you mean segnet_dsc?" in script(*program, "WEIGHTS=segnet_dcs", fails=True)
    path.rename(weights_folder / "segnet.pt")
    assert "is of 'segnet_dsc', not of 'segnet'" in script("predict.py", image, "WEIGHTS=segnet", fails=True)
    whole = (weights_folder / "segnet.pt").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert f"{path} is damaged" in script("predict.py", image, "WEIGHTS=segnet_dsc", fails=True)
    assert f"{path} is damaged" in script("predict.py", image, fails=True)
    torch.save({"weights": Code(), "network": "segnet_dsc"}, path)
    assert "could run code" in script("predict.py", image, "WEIGHTS=segnet_dsc", fails=True)
    torch.save(load_file(weights_folder / "segnet.pt") | {"row": None}, path)
    assert "has no row of results" in script("predict.py", image, fails=True)


def test_a_file_too_large_is_refused_and_the_old_one_stays(tmp_path, weights_folder, monkeypatch):
    write_published(weights_folder, "segnet_dsc", 0.7)
    path = (weights_folder / "segnet_dsc.pt").rename(weights_folder / "segnet_dsc_32px.pt")
    before = path.read_bytes()
    row = {"network": "segnet_dsc", "epochs": 1, "version": 2, "constants": {"IMAGE_SIZE": 32}, "mirror": False}
    torch.save(load_file(path) | {"epoch": 1, "version": 2}, tmp_path / "new.pt")
    monkeypatch.setattr(publish_weights, "LARGEST", 1)
    with pytest.raises(UserError, match=r"makes 3\.\d MB; published weights are 1 at most"):
        publish_weights.publish(tmp_path / "new.pt", [row])
    assert path.read_bytes() == before
    assert [file.name for file in weights_folder.iterdir()] == ["segnet_dsc_32px.pt"]
    monkeypatch.setattr(publish_weights, "LARGEST", 35)
    publish_weights.publish(tmp_path / "new.pt", [row])
    assert load_file(path)["row"] == row


def test_weights_for_other_sizes_are_named_for_them():
    assert [published.name_of("segnet", size) for size in (64, 128, 256)] == ["segnet_64px", "segnet", "segnet_256px"]
    for network in ("segnet_dsc", "segnet_dsc_vit_tiny_patch16_224"):
        assert all(published.network_of(published.name_of(network, size)) == network for size in (128, 256))


def test_all_that_is_published_is_on_the_hub():
    for name in published.names():
        assert callable(getattr(hubconf, name))
        row = load_file(published.path_of(name), mmap=True)["row"]
        assert published.name_of(row["network"], row["image_size"]) == name
