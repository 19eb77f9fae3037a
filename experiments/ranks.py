"""What several ranks bring on one machine: one process with all its threads against as many ranks of one thread.

    python -m experiments.ranks                       with the machine to itself; outputs/published/ranks.json
    python -m experiments.ranks SEEDS=0 REPEATS=1     sooner

Images per second in turns, each in new processes, and the mean IoU on the test split after train.py's default recipe,
but for FORMER.
"""

import json
import shutil
import statistics

import fetch_oxford_iiit_pets as pets
import train
from common import machine, results, settings
from common.settings import UserError
from experiments import trials
from experiments.tasks import FORMER

NETWORKS = ("segnet", "segnet_dsc")  # whose steps are timed
IMAGE_SIZES = (64, 128)  # px a side
REPEATS = 5  # turns of each way
STEPS = 40  # per turn
SEEDS = (0, 1, 2)  # trained each way
TRAINED = "segnet_dsc"  # by the default recipe, but for FORMER
TRAINED_SIZE = 64  # px a side
RANKS = 0  # 0: one per core


def main() -> None:
    ways = {"one": 1, "ranks": RANKS or machine.usable_cores()}
    if ways["ranks"] < 2 or train.BATCH_SIZE % ways["ranks"]:
        raise UserError(f"RANKS={ways['ranks']}: two or more, which divide a batch of {train.BATCH_SIZE} images")
    result = {"ranks": ways["ranks"], "steps": STEPS, "repeats": REPEATS, "data": pets.data_name(), **machine.about()}
    result["images_per_second"], result["all_reduce_ms"], result["parameters"] = {}, {}, {}
    for network in NETWORKS:
        for size in IMAGE_SIZES:
            turns = {way: [] for way in ways}
            for _ in range(REPEATS):
                for way, ranks in ways.items():
                    turns[way].append(timed(ranks, f"NETWORKS={network}", f"IMAGE_SIZE={size}", f"STEPS={STEPS}"))
            rates = {way: [turn["images_per_second"] for turn in found] for way, found in turns.items()}
            result["images_per_second"].setdefault(network, {})[size] = rates
            result["parameters"][network] = turns["ranks"][0]["parameters"]
            result["all_reduce_ms"][network] = statistics.median(turn["all_reduce_ms"] for turn in turns["ranks"])
            print(
                network, size, {way: f"{statistics.median(of):.1f} images/s" for way, of in rates.items()}, flush=True
            )
    result["trained"] = {"network": TRAINED, "image_size": TRAINED_SIZE, "seeds": SEEDS}
    result["mean_iou"] = {way: [] for way in ways}
    for seed in SEEDS:
        for way, ranks in ways.items():
            result["mean_iou"][way].append(trained(ranks, seed))
            print(f"seed {seed}, {way}: mean IoU {result['mean_iou'][way][-1]:.4f}", flush=True)
    results.write_json(pets.published_folder() / "ranks.json", result)


def timed(ranks: int, *arguments: str) -> dict[str, object]:
    """What rank_steps.py measures."""
    return json.loads(run(ranks, "experiments.rank_steps", *FORMER.split(), *arguments).splitlines()[-1])


def trained(ranks: int, seed: int) -> float:
    """Mean IoU on the test split of a network that so many ranks have trained; all are tested by one process."""
    name = f"ranks-{ranks}-{seed}"
    of = (f"RUN={name}", f"NETWORKS={TRAINED}", f"IMAGE_SIZE={TRAINED_SIZE}")
    run(ranks, "train.py", *of, *FORMER.split(), f"SEED={seed}")
    run(1, "test.py", *of, "EXAMPLES=0", "BASELINE=False")
    row = json.loads((pets.outputs_folder() / "results.jsonl").read_text().splitlines()[-1])
    shutil.rmtree(pets.outputs_folder() / name)
    return row["mean_iou"]


def run(ranks: int, script: str, *arguments: str) -> str:
    """What a script prints, run by so many ranks of one thread, or by one process with all. Raises UserError."""
    return trials.run(script, *arguments, f"THREADS={int(ranks > 1)}", ranks=ranks)


if __name__ == "__main__":
    settings.run(main, pets)
