"""The READMEs against the committed files that their numbers come from, and published rows against themselves."""

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT

from common import results
from experiments import tables, tasks

TEXTS = {name: (ROOT / name).read_text() for name in tables.DOCUMENTS}


def test_every_table_is_what_the_committed_files_say():
    marks = re.findall(r"<!-- (\w+) -->", "".join(TEXTS.values()))
    assert sorted(marks) == sorted(tables.TABLES)  # each stands once
    for name, text in TEXTS.items():
        assert tables.updated(text) == text, f"{name}: python -m experiments.tables writes its tables anew"


def test_a_number_typed_by_hand_is_noticed():
    text = TEXTS["experiments/README.md"]
    line = next(line for line in tables.results() if "| segnet |" in line)
    assert line in text
    assert tables.updated(text.replace(line, line.replace("0.", "0.9", 1))) == text


def test_what_the_answers_claim_is_in_the_rows(monkeypatch):
    """The sentences turn round with the numbers: with the variants' rows exchanged they say the opposite."""
    said = " ".join(tables.TABLES["answers"]())
    assert "No: it changes the separable network's mean IoU by -" in said
    swapped = results.rows()
    for i, row in enumerate(swapped):
        named = re.fullmatch(r"(defaults|fifth-stage)(-\d)?", row["run"]) and row["network"] == "segnet_dsc"
        if named:
            swapped[i] = row | {"constants": row["constants"] | {"STAGES": 9 - row["constants"]["STAGES"]}}
    monkeypatch.setattr(tables.findings, "rows", lambda: swapped)
    assert "Yes: it changes the separable network's mean IoU by +" in " ".join(tables.TABLES["answers"]())
    one = [row for row in swapped if not re.match(r"(defaults|fifth-stage)-\d$", row["run"])]
    spread = [
        row | ({"mean_iou": row["mean_iou"] - 0.05 * row["seed"]} if "fifth" in row["run"] else {}) for row in swapped
    ]
    for undecided in (one, spread):
        monkeypatch.setattr(tables.findings, "rows", lambda found=undecided: found)
        assert "Undecided: it changes the separable network's mean IoU by +" in " ".join(tables.TABLES["answers"]())


def test_readme_is_short_and_its_links_lead_somewhere():
    assert len(TEXTS["README.md"].splitlines()) <= 170
    for name, text in TEXTS.items():
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)|src=\"([^\"]*)\"", text)
        for link in (first or second for first, second in links):
            assert ((ROOT / name).parent / link).exists(), f"{name}: {link}"


def test_published_files_are_small_and_pictures_are_shown():
    """By a README, or by the report on the published rows. Weights, in a folder of their own, may be larger."""
    rows = {f"{row['run']}_{row['network']}" for row in results.rows()}
    for path in filter(Path.is_file, results.PUBLISHED.iterdir()):
        assert 0 < path.stat().st_size < 500_000, path
        is_shown = any(path.name in text for text in TEXTS.values()) or path.stem.rpartition("_")[0] in rows
        assert path.suffix != ".png" or is_shown, path


def test_no_training_counts_twice():
    """Tables take every row of a run for another seed."""
    rows = results.rows()
    named = {(row["run"], row["network"], row["mirror"]) for row in rows}
    trained = {
        json.dumps([row["network"], row.get("constants"), row["mirror"], row["machine"]], sort_keys=True)
        for row in rows
    }
    assert len(named) == len(trained) == len(rows)
    for name in results.FILES:
        assert {results.published_file(row["run"]) for row in results.lines_of(name)} == {name}


@pytest.mark.parametrize("row", results.rows(), ids=lambda row: f"{row['run']}-{row['network']}")
def test_published_rows_are_whole(row):
    assert row["data"] in ("oxford", "oxford-256px-copy")
    assert row["test_images"] == 3669
    assert ("by_breed" in row) == (row["run"] in tasks.PICTURED)
    assert sum(map(sum, row["confusion"])) == 3669 * row["image_size"] ** 2
    right = sum(row["confusion"][c][c] for c in range(3))
    assert row["pixel_accuracy"] == pytest.approx(right / sum(map(sum, row["confusion"])))
    if row["network"] != "all_background":
        whole = row["constants"]["TRAIN_SHARE"] == 1 and results.has_name(row["run"])
        assert row["train_images"] == 3680 or not whole
        assert row["commit"] and row["command"] and row["machine"] and row["train_seconds"] > 0


@pytest.mark.parametrize("name", ["benchmark.json", "agreement.json", "agreement_segnet.json"])
def test_measurements_name_machine_commit_and_command(name):
    measured = json.loads((results.PUBLISHED / name).read_text())
    for entry in measured if isinstance(measured, list) else [measured]:
        assert entry["commit"] and entry["machine"] and entry["command"].startswith("python ")
