"""Rows of results: one JSON line per tested network, in the results.jsonl of a folder; other files beside it.

In the published folder the rows of runs that experiments/ compares have a file of their own, results_experiments.jsonl.
"""

import json
from pathlib import Path
from typing import Any

from common.files import REPOSITORY, append_line, write_atomically
from common.settings import UserError

PUBLISHED = REPOSITORY / "outputs" / "published"  # what git keeps

VERSION = 2  # raised by hand when the same constants give other results, but for rounding; versions never mix

FILES = ("results.jsonl", "results_experiments.jsonl")

Row = dict  # a line of results.jsonl, or of another file of JSON lines


def rows(folder: Path = PUBLISHED) -> list[Row]:
    """Of runs that stand for themselves, then of those that experiments/ compares; each kind in the order of tests."""
    return [row for name in FILES for row in lines_of(name, folder)]


def lines_of(name: str, folder: Path = PUBLISHED) -> list[Row]:
    """The lines of a file of JSON lines, none if it isn't there. Raises UserError that names a damaged line."""
    path, found = folder / name, []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: no JSON, {error}; delete that line") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: no row, but a {type(row).__name__}; delete that line")
        found.append(row)
    return found


def add_line(path: Path, line: Row) -> None:
    """Adds a line to a file of JSON lines, and prints it."""
    append_line(path, json.dumps(line))
    print(json.dumps(line), flush=True)


def json_of(name: str, folder: Path = PUBLISHED) -> Any:
    """What a file of JSON holds, None if it isn't there."""
    path = folder / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_json(path: Path, found: object) -> None:
    write_atomically(path, lambda part: part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8"))


def rounded(found: object) -> object:
    """Results with six digits behind the point; seeds differ in the third."""
    if isinstance(found, float):
        return round(found, 6)
    if isinstance(found, dict):
        return {key: rounded(value) for key, value in found.items()}
    return [rounded(value) for value in found] if isinstance(found, list) else found


def run_of(row: Row) -> str:
    """The name of a row's run that its other seeds share, and the same weights tested with mirror images."""
    return row["run"].removesuffix("-mirror").removesuffix(f"-{row['seed']}")


EXPERIMENTS = ("study-", "curve-", "pretraining-", "levers-", "ranks-", "benchmark-")  # what their runs begin with


def has_name(run: str) -> bool:
    """Whether a run stands for itself, and is not one of the many that experiments/ compares."""
    return not run.startswith(EXPERIMENTS)


def published_file(run: str) -> str:
    """Which of FILES has a run's rows, so that none grows too large for a repository."""
    return FILES[0] if has_name(run) else FILES[1]
