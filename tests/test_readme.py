"""The READMEs against the committed files that their numbers come from, and published rows against themselves."""

import json
import re

import pytest
from conftest import ROOT

from common import results
from experiments import tables

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
    assert "No: it changes mean IoU by -" in said
    swapped = []
    for row in results.rows():
        other = {"fifth-stage": "defaults", "defaults": "fifth-stage"}.get(row["run"])
        is_pair = row["network"] == "segnet_dsc" and other
        swapped.append(row | {"run": other} if is_pair else row)
    monkeypatch.setattr(tables.findings, "rows", lambda: swapped)
    assert "Yes: it changes mean IoU by +" in " ".join(tables.TABLES["answers"]())


def test_readme_is_short_and_its_links_lead_somewhere():
    assert len(TEXTS["README.md"].splitlines()) <= 170
    for name, text in TEXTS.items():
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)|src=\"([^\"]*)\"", text)
        for link in (first or second for first, second in links):
            assert ((ROOT / name).parent / link).exists(), f"{name}: {link}"


def test_published_pictures_are_small_and_shown():
    """By a README, or by the report on the published rows."""
    rows = {f"{row['run']}_{row['network']}" for row in results.rows()}
    for path in results.PUBLISHED.glob("*.png"):
        assert 0 < path.stat().st_size < 500_000
        assert any(path.name in text for text in TEXTS.values()) or path.stem.rpartition("_")[0] in rows


@pytest.mark.parametrize("row", results.rows(), ids=lambda row: f"{row['run']}-{row['network']}")
def test_published_rows_are_whole(row):
    assert row["data"] in ("oxford", "oxford-256px-copy")
    assert row["test_images"] == 3669
    assert sum(map(sum, row["confusion"])) == 3669 * row["image_size"] ** 2
    right = sum(row["confusion"][c][c] for c in range(3))
    assert row["pixel_accuracy"] == pytest.approx(right / sum(map(sum, row["confusion"])))
    if row["network"] != "all_background":
        assert row["train_images"] == 3680 or row["run"].startswith(("study-", "labels-"))
        assert row["commit"] and row["command"] and row["machine"] and row["train_seconds"] > 0


@pytest.mark.parametrize("name", ["benchmark.json", "agreement.json"])
def test_measurements_name_machine_commit_and_command(name):
    measured = json.loads((results.PUBLISHED / name).read_text())
    for entry in measured if isinstance(measured, list) else [measured]:
        assert entry["commit"] and entry["machine"] and entry["command"].startswith("python ")
