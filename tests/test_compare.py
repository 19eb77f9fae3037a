"""compare.py and study.py on drawn pets: they train what is missing, once, and their tables and charts follow."""

import json

import pytest

import fetch_oxford_iiit_pets as pets
import train
from common import checkpoints, results, settings
from common.settings import UserError
from experiments import compare, findings, study, tasks, trials

QUICK = "NETWORKS=segnet_dsc IMAGE_SIZE=32 SIZES=1 BATCH_SIZE=16 EPOCHS=1,2 THREADS=1"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    for name, value in (("DATASET", "toy"), ("OUTPUTS", str(tmp_path)), ("IMAGE_SIZE", 32)):
        monkeypatch.setattr(pets, name, value)
    return tmp_path / "toy"


@pytest.mark.slow
def test_compare_trains_what_is_missing_and_no_more(toy, monkeypatch, capsys):
    for name, value in (("STUDY", QUICK), ("SEEDS", (0, 1)),
                        ("VARIANTS", {"segnet_dsc": "", "unet_dsc": "NETWORKS=unet_dsc"}), ("FULL", ())):  # fmt: skip
        monkeypatch.setattr(tasks, name, value)
    monkeypatch.setattr(compare, "GROUPS", ("study",))
    compare.main()
    rows = results.rows(toy / "published")
    study_runs = [f"study-{name}-{seed}" for name in ("segnet_dsc", "unet_dsc") for seed in (0, 1)]
    assert sorted(row["run"] for row in rows if row["run"] != "baseline") == study_runs
    assert not list(toy.glob("study-*/*"))  # rows stay, weights don't
    entries = {entry["name"]: entry for entry in findings.comparison(rows)}
    of = [row["mean_iou"] for row in rows if row["run"].startswith("study-unet_dsc")]
    assert sorted(entries["unet_dsc"]["mean_iou"]) == sorted(of)
    assert len(of) == 2
    assert {row["precision"] for row in rows if row["run"] != "baseline"} == {"float32"}  # whatever the machine has
    assert entries["unet_dsc"]["kept_bytes"] == 64 * entries["segnet_dsc"]["kept_bytes"]
    assert {path.name for path in (toy / "published").glob("*.png")} == {"comparison.png"}
    other = [row | {"data": "oxford", "mean_iou": 0.99} for row in rows]  # after these, of other images
    monkeypatch.setattr(compare.results, "rows", lambda _: rows + other)
    drawn = []
    monkeypatch.setattr(compare.charts, "save_comparison", lambda _, found: drawn.extend(found))
    compare.main()
    assert "0 rows are missing" in capsys.readouterr().out
    assert 0.99 not in [score for entry in drawn for score in entry["mean_iou"]] and drawn
    monkeypatch.undo()
    assert results.rows(toy / "published") == rows


@pytest.mark.slow
def test_study_keeps_a_line_of_the_validation_part_for_each_run(toy, monkeypatch):
    levers = ("", "LOSS=unheard-of", "LOSS=ce")
    bases = {"short": f"{QUICK} VALIDATION_SHARE=0.2"}
    for name, value in (("STUDIES", ("short",)), ("BASES", bases), ("LEVERS", {"short": levers}), ("SEEDS", (0,))):
        monkeypatch.setattr(study, name, value)
    for _ in range(2):
        with pytest.raises(UserError, match="there are ce, iou"):  # and the others are not lost for it
            study.main()
    lines = results.lines_of("study.jsonl", toy / "published")
    assert sorted(line["setting"] for line in lines) == ["", "LOSS=ce"]
    assert all(0 < line["validation_mean_iou"] < 1 for line in lines)
    path = toy / "published" / "study.jsonl"
    path.write_text("".join(json.dumps(line | {"machine": "another"}) + "\n" for line in lines))
    monkeypatch.setattr(study, "ONLY", "")
    for elsewhere, there in ((True, 2), (False, 3), (False, 3)):  # the base alone is trained here too, once
        monkeypatch.setattr(study, "ELSEWHERE", elsewhere)
        study.main()
        assert len(results.lines_of(path.name, path.parent)) == there
    assert [line["setting"] for line in results.lines_of(path.name, path.parent)][2] == ""
    with checkpoints.lock(toy / "study-one" / "segnet_dsc"), pytest.raises(UserError, match="another run"):
        trials.validated("study-one", QUICK.split())  # and what is there stays
    assert (toy / "study-one" / "segnet_dsc").exists()


@pytest.mark.slow
def test_a_failing_run_says_which_and_why(toy, monkeypatch):
    monkeypatch.setattr(compare, "GROUPS", ("study",))
    monkeypatch.setattr(tasks, "VARIANTS", {"x": "STAGES=7"})
    monkeypatch.setattr(tasks, "SEEDS", (0,))
    with pytest.raises(UserError, match=r"train.py .*STAGES=7.*stages is 4 or 5"):
        compare.main()


def test_a_row_counts_by_its_constants_and_version_and_not_by_its_name(monkeypatch):
    task = next(task for task in tasks.tasks() if task.variant == "unet_dsc" and task.group == "study")
    row = {
        "run": "any", "network": "unet_dsc", "version": results.VERSION, "mirror": False, "image_size": 64, "epochs": 5,
        "constants": json.loads(json.dumps(tasks.constants_of(task.arguments))),
    }  # fmt: skip
    assert tasks.row_of(task, [row]) is row
    assert not tasks.row_of(task, [row | {"version": 1}])
    assert not tasks.row_of(task, [row | {"epochs": 2}])  # an earlier epoch of the same run
    assert not tasks.row_of(task, [row | {"mirror": True}])
    assert not tasks.row_of(task, [row | {"network": "segnet_dsc"}])
    assert not tasks.row_of(task, [row | {"constants": row["constants"] | {"LEARNING_RATE": 1e-3}}])
    auto = row | {"constants": row["constants"] | {"PRECISION": "auto"}}
    assert tasks.row_of(task, [auto | {"precision": "float32"}])
    assert not tasks.row_of(task, [auto | {"precision": "bfloat16"}])  # of a machine that has it
    assert not tasks.row_of(task, [row | {"version": 1}])
    edited = settings.defaults(train) | {"LEARNING_RATE": 1e-3}
    monkeypatch.setattr(tasks.settings, "defaults", lambda module: edited if module is train else {})
    monkeypatch.setattr(train, "constants", lambda: edited)
    assert not tasks.row_of(task._replace(arguments=("NETWORKS=unet_dsc",)), [row])
