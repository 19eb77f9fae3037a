"""The curve over labelled images on drawn pets: how long is chosen by its rule, and what is missing is trained once."""

import pytest

import fetch_oxford_iiit_pets as pets
from common import results
from experiments import curve, pretraining, tasks, worth

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
    monkeypatch.setattr(curve, "tried", lambda name, task: {
        "arguments": list(task.arguments), "version": results.VERSION, "data": "toy", "validation_mean_iou": next(said)
    })  # fmt: skip
    for _ in range(2):  # the second time from the lines
        assert curve.choose_length("segnet_dsc") == ("segnet_dsc", chosen)
    lines = results.lines_of("lengths.jsonl", toy / "published")
    assert len(lines) == tries
    assert all("VALIDATION_SHARE=0.1" in line["arguments"] for line in lines)
    assert curve.best(curve.tries("segnet_dsc", toy / "published", "toy")) == chosen
    assert curve.tries("vit-random", toy / "published", "toy") == {}


def test_what_is_tested_is_what_was_tried():
    task = curve.task_of("vit-random", curve.FIRST, 2000, 0)
    assert task in curve.tasks_of("vit-random", 2000, (curve.FIRST,))


@pytest.mark.parametrize("name", list(curve.SETTINGS))
@pytest.mark.parametrize("count", curve.COUNTS)
def test_every_variants_constants_are_trains_own(name, count):
    tasks_of = curve.tasks_of(name, 1000, (count,))
    assert len({task.run for task in tasks_of}) == len(tasks_of) == (3 if count in (250, 1000) else 1)
    found = tasks.constants_of(tasks_of[0].arguments)
    steps = (found["EPOCHS"][1] - 1) * found["PASSES"] * (count // found["BATCH_SIZE"])
    assert steps == pytest.approx(1000 * (count / 250) ** 0.5, abs=207)  # whole epochs, of 413 steps at most
    assert found["EPOCHS"][1] - 1 >= len(found["SIZES"])  # so that each size has its epochs
    assert found["TRAIN_IMAGES"] == count
    assert found["VALIDATION_SHARE"] == 0.1
    assert bool(found["START_FROM"]) == name.startswith("segnet_dsc-masked")


def test_what_pretraining_brings_is_paired_by_seed(monkeypatch):

    def of(**by_count):
        return {
            int(n[1:]): [{"seed": seed, "mean_iou": v} for seed, v in enumerate(values)]
            for n, values in by_count.items()
        }

    found = {"vit-masked": of(n250=[0.55, 0.56], n1000=[0.6]), "vit-untrained": of(n250=[0.50, 0.53, 0.9], n500=[0.1])}
    monkeypatch.setattr(curve, "measured", lambda folder: found)
    gains = worth.gains_of("vit-masked", "vit-untrained")
    assert gains == {250: pytest.approx([0.05, 0.03])}
    assert worth.curve_gains()[2] == "| the transformer, masked pretraining, 80 epochs | +0.0400 ± 0.0100 (n=2) |"
    assert worth.changes(gains | {500: [0.1]}) == "+0.0400 ± 0.0100 (n=2) with 250 labels"
    assert worth.changes(gains | {500: [0.1]}, 500) == "+0.1000 (one seed) with 500 labels"
    assert worth.changes({1000: [0.1]}) == "+0.1000 (one seed) with 1,000 labels"
    assert worth.changes({500: [0.1, 0.1]}) == worth.changes({}) == "an amount not measured yet"


@pytest.mark.parametrize(("reached", "said"), [
    (0.45, ", as much as it with about 500"),
    (0.50, ", as much as it with about 1,000"),  # a point of the curve itself
    (0.575, ", as much as it with about 2,800 (one seed)"),  # 1000 * 4 ** 0.75, on the way to one seed
    (0.39, ""),  # less than with as many
    (0.6, ", as much as it with about 4,000 (one seed)"),
    (0.61, ", more than it with 4,000 (one seed)"),
])  # fmt: skip
def test_worth_in_labels_is_read_off_the_curve(reached, said):
    scores = {250: (0.3, 0.5), 1000: (0.4, 0.6), 4000: (0.6,)}
    by_count = {count: [{"mean_iou": score} for score in of] for count, of in scores.items()}
    assert worth.as_many([{"mean_iou": reached, "train_images": 250}], by_count, "it") == said


def test_pretraining_is_compared_with_as_many_epochs_of_as_many_labels(monkeypatch):
    monkeypatch.setattr(
        pretraining,
        "TRIED",
        {"with": pretraining.Tried("", "", "own", "without"), "without": pretraining.Tried("", "")},
    )
    labels = {name: f"TRAIN_IMAGES=250 EPOCHS=1,{end} IMAGE_SIZE=64" for name, end in (("long", 41), ("short", 11))}
    by_way = {
        ("without", "", labels[name]): {"0": {"validation_mean_iou": x}} for name, x in (("short", 0.2), ("long", 0.5))
    }
    found = {"0": {"validation_mean_iou": 0.6, "arguments": f"{labels['long']} SEED=0"}}
    assert pretraining.changes_of(by_way, "with", found) == [pytest.approx(0.1)]
    del by_way["without", "", labels["long"]]
    assert pretraining.changes_of(by_way, "with", found) == []


@pytest.mark.slow
def test_what_is_missing_is_trained_once(toy, monkeypatch, capsys):
    held_out = "VALIDATION_SHARE=0.25 THREADS=1"
    own = f"NETWORK=segnet_dsc IMAGE_SIZE=32 BATCH_SIZE=16 EPOCHS=1,2 {held_out}"
    for name, value in (("BASE", f"NETWORKS=segnet_dsc SIZES=1 {held_out}"), ("FIRST", 16), ("AT_ONCE", 1),
                        ("LENGTHS", (2, 4)), ("COUNTS", (16, 32)), ("MORE_SEEDS", ()), ("EPOCH", 2),
                        ("VARIANTS", ("segnet_dsc-masked",))):  # fmt: skip
        monkeypatch.setattr(curve, name, value)
    monkeypatch.setattr(pretraining, "PRETRAINED", dict.fromkeys(pretraining.PRETRAINED, own))
    curve.main()
    rows = [row for row in results.rows(toy / "published") if row["run"] != "baseline"]
    lines = results.lines_of("lengths.jsonl", toy / "published")
    assert [row["train_images"] for row in rows] == [16, 32]
    assert {row["constants"]["PASSES"] for row in rows} == {1}
    assert rows[0]["constants"]["START_FROM"].endswith("pretrained/tried-segnet128/segnet_dsc/pretrained.pt")
    assert not list(toy.glob("curve-*"))
    assert curve.measured(toy / "published") == {"segnet_dsc-masked": {16: rows[:1], 32: rows[1:]}}
    assert (toy / "published/curve.png").exists()
    header, _, masked, *paper = worth.curve(toy / "published")
    assert "16 labels" in header and f"{rows[1]['mean_iou']:.4f}" in masked
    assert len(paper) == 3
    assert [line["command"].startswith("python train.py") for line in lines] == [True] * len(lines)
    assert " min)" in worth.tried_lengths(toy / "published")[2]
    capsys.readouterr()
    curve.main()
    assert "is done" not in capsys.readouterr().out
    assert results.lines_of("lengths.jsonl", toy / "published") == lines
    assert [row for row in results.rows(toy / "published") if row["run"] != "baseline"] == rows


@pytest.mark.slow
def test_ways_of_pretraining_leave_a_line_each(toy, monkeypatch):
    held_out = "VALIDATION_SHARE=0.25 THREADS=1 IMAGE_SIZE=32"
    labelled = f"NETWORKS=segnet_dsc SIZES=1 TRAIN_IMAGES=8 EPOCHS=1,2 {held_out}"
    monkeypatch.setattr(pretraining, "PRETRAINED", {"own": f"NETWORK=segnet_dsc BATCH_SIZE=16 EPOCHS=1,3 {held_out}"})
    masked = pretraining.Tried("masked", f"{labelled} START_FROM={{}}", "own", "segnet")
    tried = {"segnet": pretraining.Tried("plain", labelled), "segnet-masked": masked}
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
