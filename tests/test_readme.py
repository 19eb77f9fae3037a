"""The README against the committed files that its figures come from, and published rows against themselves."""

import re

import pytest
from conftest import ROOT

from common import results
from experiments import tables

README = (ROOT / "README.md").read_text()


def test_every_table_of_the_readme_is_what_the_committed_files_say():
    with_figures = {name for name, table in tables.TABLES.items() if len(table()) > 2}
    assert with_figures <= set(re.findall(r"<!-- (\w+) -->", README)) <= set(tables.TABLES)
    assert tables.updated(README) == README, "python tables.py writes them anew"


def test_a_figure_typed_by_hand_is_noticed():
    line = next(line for line in tables.results() if "| segnet |" in line)
    assert line in README
    assert tables.updated(README.replace(line, line.replace("0.", "0.9", 1))) == README


def test_every_picture_of_the_readme_is_committed_and_small():
    pictures = re.findall(r"\((outputs/[^)]*\.png)\)|src=\"(outputs/[^\"]*)\"", README)
    assert pictures
    for path in (first or second for first, second in pictures):
        assert 0 < (ROOT / path).stat().st_size < 500_000


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
