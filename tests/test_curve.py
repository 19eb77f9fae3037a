"""The curve over labelled images on drawn pets: how long is chosen by its rule, and what is missing is trained once."""

import itertools

import pytest

import fetch_oxford_iiit_pets as pets
from common import results
from experiments import curve, pretraining, tasks

pytest.importorskip("timm")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    for name, value in (("DATASET", "toy"), ("OUTPUTS", str(tmp_path)), ("IMAGE_SIZE", 32)):
        monkeypatch.setattr(pets, name, value)
    return tmp_path / "toy"


@pytest.mark.parametrize(("found", "chosen", "tries"), [
    ((0.40, 0.50, 0.501, 0.9), 4000, 3),  # a small gain ends it, and counts
    ((0.40, 0.50, 0.45, 0.9), 2000, 3),
    ((0.40, 0.402, 0.9, 0.9), 2000, 2),
    ((0.1, 0.2, 0.3, 0.4), 8000, 4),  # the list ends it
])  # fmt: skip
def test_twice_the_steps_as_long_as_they_gain(toy, monkeypatch, found, chosen, tries):
    said = iter(found)
    monkeypatch.setattr(curve, "LENGTHS", (1000, 2000, 4000, 8000))
    monkeypatch.setattr(curve, "tried", lambda *_: {"validation_mean_iou": next(said)})
    for _ in range(2):  # the second time from the lines
        assert curve.choose_length("segnet_dsc", 16, 1000) == chosen
    lines = results.lines_of("lengths.jsonl", toy / "published")
    assert [line["steps"] for line in lines] == [1000, 2000, 4000, 8000][:tries]
    assert all("VALIDATION_SHARE=0.1" in line["arguments"] for line in lines)


def test_more_images_begin_with_the_steps_that_fewer_have_wanted(toy, monkeypatch):
    monkeypatch.setattr(curve, "LENGTHS", (1000, 2000, 4000, 8000))
    monkeypatch.setattr(curve, "COUNTS", (32, 16))
    said = iter((0.4, 0.5, 0.5, 0.6, 0.7, 0.7))  # 16 images: 1000, 2000, 4000 steps; 32 images: 2000, 4000, 8000
    monkeypatch.setattr(curve, "tried", lambda *_: {"validation_mean_iou": next(said)})
    assert curve.choose_lengths("segnet_dsc") == {("segnet_dsc", 16): 2000, ("segnet_dsc", 32): 4000}
    assert next(said, None) is None


def test_the_control_sees_as_many_images_more_as_the_pretraining_saw(toy):
    steps = {("segnet_dsc", 40): 1000}
    usual, longer = (curve.tasks_of(name, 40, steps) for name in ("segnet_dsc", "segnet_dsc-longer"))
    epochs = [tasks.constants_of(task.arguments)["EPOCHS"][1] - 1 for task in (usual[0], longer[0])]
    seen = (epochs[1] - epochs[0]) * 40
    assert seen == pytest.approx(curve.PASSES["segnet_dsc"] * curve.available(curve.HELD_OUT), abs=40)


def test_every_variants_constants_are_trains_own():
    for name, count in itertools.product(curve.SETTINGS, curve.COUNTS):
        found = tasks.constants_of(tuple(curve.arguments_of(name, count, 1000, 0)))
        assert found["TRAIN_IMAGES"] == count
        assert 1000 <= (found["EPOCHS"][1] - 1) * (count // curve.BATCH) < 1000 + count // curve.BATCH
        assert bool(found["START_FROM"]) == (name == "segnet_dsc-masked")


@pytest.mark.slow
def test_what_is_missing_is_trained_once(toy, monkeypatch, capsys):
    quick = "NETWORKS=segnet_dsc SIZES=1 BATCH_SIZE=8 THREADS=1"
    pretraining = {"segnet_dsc": "NETWORK=segnet_dsc BATCH_SIZE=16 EPOCHS=1,2"}
    for name, value in (("BASE", quick), ("PRETRAINING", pretraining), ("PASSES", {"segnet_dsc": 1}), ("AT_ONCE", 1),
                        ("LENGTHS", (2, 4)), ("COUNTS", (16,)), ("MORE_SEEDS", ()),
                        ("VARIANTS", ("segnet_dsc", "segnet_dsc-longer", "segnet_dsc-masked"))):  # fmt: skip
        monkeypatch.setattr(curve, name, value)
    curve.main()
    rows = [row for row in results.rows(toy / "published") if row["run"] != "baseline"]
    assert [row["run"] for row in rows] == [f"labels-{name}-16-0" for name in curve.VARIANTS]
    assert {row["train_images"] for row in rows} == {16}
    assert rows[2]["constants"]["START_FROM"].endswith("pretrained/curve/segnet_dsc/pretrained.pt")
    lines = results.lines_of("lengths.jsonl", toy / "published")
    capsys.readouterr()
    curve.main()
    assert "is done" not in capsys.readouterr().out
    assert results.lines_of("lengths.jsonl", toy / "published") == lines
    assert results.rows(toy / "published") == rows


@pytest.mark.slow
def test_ways_of_pretraining_leave_a_line_each(toy, monkeypatch):
    held_out = "VALIDATION_SHARE=0.25 THREADS=1 IMAGE_SIZE=32"
    labelled = f"NETWORKS=segnet_dsc SIZES=1 TRAIN_IMAGES=8 EPOCHS=1,2 {held_out}"
    monkeypatch.setattr(pretraining, "PRETRAINED", {"own": f"NETWORK=segnet_dsc BATCH_SIZE=16 EPOCHS=1,3 {held_out}"})
    tried = {"segnet": ("", labelled, ""), "segnet-masked": ("own", f"{labelled} START_FROM={{}}", "segnet")}
    for name, value in (("TRIED", tried), ("SEEDS", (0, 1)), ("AT_ONCE", 1)):
        monkeypatch.setattr(pretraining, name, value)
    for _ in range(2):
        pretraining.main()
    lines = results.lines_of("pretraining.jsonl", toy / "published")
    assert [(line["kind"], line["name"], line["arguments"].split()[-1]) for line in lines] == [
        ("pretraining", "own", "IMAGE_SIZE=32"),
        *(("labels", name, f"SEED={seed}") for seed in (0, 1) for name in tried),
    ]
    monkeypatch.setattr(pretraining.results, "lines_of", lambda _: lines)
    *_, without, masked = pretraining.pretraining()
    assert "36 images, 2 epochs, loss " in masked and "-" in without.split(" | ")
    changes = [lines[i + 1]["validation_mean_iou"] - lines[i]["validation_mean_iou"] for i in (1, 3)]
    assert f"{sum(changes) / 2:+.4f} ± " in masked
    assert (lines[0]["epochs"], lines[0]["train_images"]) == (2, 36)
    assert all(0 < lines[i]["validation_mean_iou"] < 1 for i in (1, 2, 3, 4))
    assert all(line["command"].startswith("python ") and line["machine"] for line in lines)
