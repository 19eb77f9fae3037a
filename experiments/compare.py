"""Compares networks by training and testing what outputs/published/results.jsonl lacks; draws accuracy against cost.

    python -m experiments.compare                                all of experiments/tasks.py, days on a laptop
    python -m experiments.compare GROUPS=study DATA_ROOT=/data   constants of this file

A row counts if it was trained with the task's constants by this version of the code, whatever its name. Every row is
tested on the official test split; nothing here chooses constants for training.
"""

import math
import shutil

import fetch_oxford_iiit_pets as pets
from common import results, settings
from experiments import charts, findings, tasks, trials
from experiments.tasks import Task

GROUPS = ("study", "full", "clock", "forty", "muon", "record", "encoder", "larger")  # what is compared; see tasks.py
VARIANTS = ("all",)  # of the groups, by name
AT_ONCE = 2  # runs at a time, of one thread each; those that are not of "study" run alone, with all threads


def main() -> None:
    every = tasks.tasks()
    settings.check(globals(), {"GROUPS": tuple(dict.fromkeys(t.group for t in every)),
                               "VARIANTS": ("all", *dict.fromkeys(t.variant for t in every))},
                   {"AT_ONCE": (1, math.inf)})  # fmt: skip
    folder = pets.published_folder()
    rows = [row for row in results.rows(folder) if row["data"] == pets.data_name()]
    wanted = [t for t in every if t.group in GROUPS and (t.variant in VARIANTS or "all" in VARIANTS)]
    missing = [task for task in wanted if not tasks.row_of(task, rows)]
    print(f"{len(missing)} rows are missing: {', '.join(task.run for task in missing) or 'none'}", flush=True)
    make_caches(missing)
    for n, alone in ((AT_ONCE, False), (1, True)):
        for run in trials.at_once(n, train_and_test, [(task,) for task in missing if task.alone == alone]):
            print(f"{run} is done", flush=True)
    rows = [row for row in results.rows(folder) if row["data"] == pets.data_name()]
    charts.save_comparison(folder / "comparison.png", findings.comparison(rows))


def make_caches(missing: list[Task]) -> None:
    """Decodes images at the sizes that runs will ask for, so that runs at the same time don't."""
    sizes = {a.removeprefix("IMAGE_SIZE=") for task in missing for a in task.arguments if a.startswith("IMAGE_SIZE=")}
    for size in map(int, sizes):
        for split in ("trainval", "test"):
            pets.load(split, size)


def train_and_test(task: Task) -> str:
    trials.run("train.py", *task.arguments, f"RUN={task.run}")
    kept = [a for a in task.arguments if a.startswith(("IMAGE_SIZE=", "THREADS=", "PRECISION="))]
    kept += ["PUBLISH=True", "BASELINE=False"]
    kept += [] if task.pictured else ["EXAMPLES=0"]
    trials.run("test.py", *kept, f"RUN={task.run}", f"NETWORKS={task.network}")
    if not task.alone:
        shutil.rmtree(pets.outputs_folder() / task.run)
    return f"{task.run}, {task.network}"


if __name__ == "__main__":
    settings.run(main, pets)
