"""Rows of results: one JSON line per tested network, in the results.jsonl of a folder."""

import json
from pathlib import Path

from common.files import REPOSITORY
from common.settings import UserError

PUBLISHED = REPOSITORY / "outputs" / "published"  # what git keeps

VERSION = 2  # raised by hand whenever the same command would give other results; rows of two versions never mix

OLD_MARK = " †"  # in tables: trained and scored on the labels of version 1, resized to the nearest pixel

Row = dict  # a line of results.jsonl, or of another file of JSON lines


def rows(folder: Path = PUBLISHED) -> list[Row]:
    return lines_of("results.jsonl", folder)


def lines_of(name: str, folder: Path = PUBLISHED) -> list[Row]:
    """The lines of a file of JSON lines, none if it isn't there. Raises UserError that names a damaged line."""
    path, found = folder / name, []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: no JSON, {error}; delete that line") from error
    return found


def current(lines: list[Row]) -> list[Row]:
    """The rows of this version, and of earlier ones those that have no successor of the same run and network yet."""
    newest = {}
    for row in lines:
        key = row["run"], row["network"]
        newest[key] = max(newest.get(key, 0), row.get("version", 1))
    return [row for row in lines if row.get("version", 1) == newest[row["run"], row["network"]]]


def mark(row: Row) -> str:
    """What tables put behind the name of a row of an earlier version."""
    return OLD_MARK if row.get("version", 1) < VERSION else ""


def has_name(run: str) -> bool:
    """Whether a run stands for itself, and is not one of the many that experiments/ compares."""
    return not run.startswith(("study-", "labels-", "curve-", "pretraining-", "levers-"))
