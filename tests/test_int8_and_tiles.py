"""large_images.py and onnx_int8.py on drawn pets: what they score is what metrics.py says of the same images."""

import json

import pytest
import torch

import fetch_oxford_iiit_pets as pets
import metrics
import predict
import pretrained
from common import machine, results
from experiments import large_images, tables, views

QUICK = ("DATASET=toy", "IMAGE_SIZE=32", "SIZES=1", "BATCH_SIZE=8", "NETWORKS=segnet_dsc", "EPOCHS=1,4", "THREADS=1")


@pytest.fixture
def trained(script, tmp_path, monkeypatch):
    """The weights of a network trained without the validation tenth, which predict.py is told to take."""
    for name in ("CHECKPOINT", "INPUT", "TILES", "MIRROR", "PRECISION", "THREADS"):
        monkeypatch.setattr(predict, name, getattr(predict, name))  # put back after the test
    script("train.py", *QUICK, "VALIDATION_SHARE=0.1")
    predict.CHECKPOINT = str(tmp_path / "toy" / "default" / "segnet_dsc" / "epoch_03.pt")
    predict.MIRROR, predict.PRECISION, predict.THREADS = False, "float32", 1
    predict.load.cache_clear()
    return predict.chosen_weights()


def reference(path):
    network, _ = pretrained.load_network(path)
    part = large_images.validation_part(32)
    own_trimap = lambda i: pets.trimap_at_own_size(part.pairs[i])  # noqa: E731
    return metrics.evaluate(network, part.images, part.trimaps, machine.precision("float32"), own_trimap=own_trimap)


def test_squeezing_scores_as_metrics_do_and_tiles_are_added_beside_it(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(large_images, "WAYS", ("", "TILES=2", "INPUT=64"))
    large_images.main()
    lines = results.lines_of("large_images.jsonl", tmp_path / "toy" / "published")
    assert [line["way"] for line in lines] == ["", "TILES=2", "INPUT=64"]
    expected = reference(trained).own_size
    assert lines[0]["own_size"]["mean_iou"] == pytest.approx(metrics.own_size_summary(expected.sum(0))["mean_iou"])
    assert lines[0]["by_pet_size"]["small"] == pytest.approx(metrics.by_pet_size(expected)["small"])
    assert len({line["own_size"]["mean_iou"] for line in lines}) == 3
    assert all(line["held_out"] and line["images"] == 4 and line["weights"].startswith("default/") for line in lines)
    monkeypatch.setattr(views, "lines_of", lambda name: lines)
    assert f"{lines[1]['own_size']['mean_iou']:.4f} (" in views.large_images()[3]


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_lines_say_whether_the_images_were_trained_on(share, tmp_path, capsys):
    about = {"network": "segnet_dsc", **pretrained.SHAPE, "constants": {"VALIDATION_SHARE": share}}
    torch.save(about | {"weights": pretrained.build("segnet_dsc").state_dict()}, tmp_path / "net.pt")
    assert large_images.facts_of(tmp_path / "net.pt")["held_out"] == (share > 0)
    assert ("flatters" in capsys.readouterr().out) == (share == 0)


@pytest.mark.slow
def test_onnx_scores_as_pytorch_does_and_int8_nearly_so(trained, tmp_path, monkeypatch):
    onnx_int8 = pytest.importorskip("experiments.onnx_int8")
    monkeypatch.setattr(onnx_int8, "TIMED", 1)
    monkeypatch.setattr(onnx_int8, "REPEATS", 1)
    monkeypatch.setattr(pets, "IMAGE_SIZE", 32)
    onnx_int8.main()
    found = json.loads((tmp_path / "toy" / "published" / "onnx.json").read_text())
    assert set(found["ways"]) == {"float32", "int8_static", "int8_dynamic", "pytorch"}
    expected = float(metrics.mean_iou(reference(trained).matrices.sum(0)))
    assert found["ways"]["pytorch"]["mean_iou"] == pytest.approx(expected)
    assert found["ways"]["float32"]["mean_iou"] == pytest.approx(expected, abs=1e-3)
    for name in ("int8_static", "int8_dynamic"):
        way = found["ways"][name]
        assert 0.9 < way["same_labels_as_float32"] < 1
        assert way["megabytes"] < found["ways"]["float32"]["megabytes"] / 3
        assert way["ms_per_image"] > 0
    monkeypatch.setattr(tables, "json_of", lambda name: results.json_of(name, tmp_path / "toy" / "published"))
    assert any("ONNX, int8, static" in line for line in tables.onnx())
