"""What the cells of tables say: means with deviations, differences paired by seed; and the tables themselves."""

import functools
import statistics

from common.results import Row


def markdown(header: tuple[str, ...], cells: list[tuple]) -> list[str]:
    """A table: its header, its rule and a line for each tuple of cells."""
    return ["| " + " | ".join(map(str, line)) + " |" for line in (header, ("---",) * len(header), *cells)]


def mean(rows: list[Row], *path: str | int) -> float:
    """The mean over rows of a result, which may be inside others."""
    return statistics.mean(functools.reduce(lambda found, key: found[key], path, row) for row in rows)


def spread(values: list[float], digits: int = 4) -> str:
    """Mean ± standard deviation; the mean alone of one value."""
    average = f"{statistics.mean(values):.{digits}f}"
    return f"{average} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else average


def difference(differences: list[float]) -> str:
    """Mean ± standard error of differences paired by seed; of one, that it is one."""
    if len(differences) < 2:
        return f"{differences[0]:+.4f} (one seed)" if differences else "-"
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.mean(differences):+.4f} ± {error:.4f} (n={len(differences)})"
