"""Tries ways of masked pretraining: few labelled images with it and without, on the validation tenth; keeps every line.

    python -m experiments.pretraining                      tries what outputs/published/pretraining.jsonl lacks
    python -m experiments.pretraining NAMES=vit-masked     one of those below

Nothing is pretrained on the validation tenth, and the test split is never read. Lines are of two kinds: what a
pretraining has learnt, and what a network has learnt from labels after it, as many epochs as one without.
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

import fetch_oxford_iiit_pets as pets
from common import checkpoints, results, settings
from common.settings import UserError
from experiments import trials
from experiments.cells import difference, markdown, spread
from experiments.tasks import FORMER

NAMES = ("all",)  # what is tried, of TRIED
SEEDS = (0, 1, 2)  # of the training on labels: its first weights, the order of images; a pretraining has one
AT_ONCE = 2  # trainings at a time, of one thread each

VIT = "vit_tiny_patch16_224"
HELD_OUT = "VALIDATION_SHARE=0.1 THREADS=1"
OWN = "NETWORK=segnet_dsc"  # SegNet as its own masked auto-encoder
# For pretrain.py; a network's patterns are learnt at the size at which its labels are
PRETRAINED = {
    "vit": f"NETWORK={VIT} IMAGE_SIZE=128 EPOCHS=1,81 BATCH_SIZE=32 {HELD_OUT}",
    # The same first weights, which are not timm's: fixed position embeddings, Xavier's matrices. Nothing is learnt
    "vit-untrained": f"NETWORK={VIT} IMAGE_SIZE=128 EPOCHS=1,2 BATCH_SIZE=32 LEARNING_RATE=1e-12 {HELD_OUT}",
    "vit-long": f"NETWORK={VIT} IMAGE_SIZE=128 EPOCHS=1,21 PASSES=20 BATCH_SIZE=256 {HELD_OUT}",
    "segnet": f"{OWN} IMAGE_SIZE=64 EPOCHS=1,16 BATCH_SIZE=16 LEARNING_RATE=2e-3 HIDDEN=0.5 {HELD_OUT}",
    "segnet128": f"{OWN} IMAGE_SIZE=128 EPOCHS=1,21 BATCH_SIZE=16 LEARNING_RATE=2e-3 HIDDEN=0.5 {HELD_OUT}",
    "segnet128-long": (
        f"{OWN} IMAGE_SIZE=128 EPOCHS=1,21 PASSES=5 BATCH_SIZE=32 LEARNING_RATE=2e-3 HIDDEN=0.5 {HELD_OUT}"
    ),
}
# For train.py; {} is the file that the pretraining left
LABELS = f"NETWORKS=segnet_dsc TRAIN_IMAGES=250 ZOOM=0.2 ROTATION=10.0 {HELD_OUT}"
UNDER_VIT = f"{LABELS} IMAGE_SIZE=128 SIZES=0.5,0.75,1 EPOCHS=1,41 ENCODER={VIT} ENCODER_RATE=0.25"
SEGNET = f"{LABELS} IMAGE_SIZE=64 SIZES=1 EPOCHS=1,41"
STARTED = f"{SEGNET} START_FROM={{}} ENCODER_RATE=1.0"


class Tried(NamedTuple):
    title: str
    arguments: str  # of train.py, but for the seed
    pretraining: str = ""  # which of PRETRAINED, or "": none
    base: str = ""  # what it is compared with


TRIED = {
    "vit-untrained": Tried("ViT, not pretrained", f"{UNDER_VIT} ENCODER_WEIGHTS={{}}", "vit-untrained"),
    "vit-masked": Tried("ViT, pretrained", f"{UNDER_VIT} ENCODER_WEIGHTS={{}}", "vit", "vit-untrained"),
    "vit-random": Tried("ViT from timm's first weights", f"{UNDER_VIT} ENCODER_WEIGHTS=random", "", "vit-untrained"),
    "segnet": Tried("separable SegNet", SEGNET),
    "segnet-masked": Tried(
        "separable SegNet, pretrained but for its last convolution", f"{STARTED} START_PART=body", "segnet", "segnet"
    ),
    "segnet-masked-encoder": Tried(
        "separable SegNet, its encoder pretrained", f"{STARTED} START_PART=encoder", "segnet", "segnet"
    ),
}


def main() -> None:
    settings.check(globals(), {"NAMES": ("all", *TRIED)}, {"AT_ONCE": (1, math.inf)})
    wanted = {name: tried for name, tried in TRIED.items() if name in NAMES or "all" in NAMES}
    before = dict.fromkeys(tried.pretraining for tried in wanted.values() if tried.pretraining)
    files = {"": ""} | dict(trials.at_once(AT_ONCE, file_of, [(name,) for name in before]))
    tries = [
        (name, f"{tried.arguments.format(files[tried.pretraining])} SEED={seed}")
        for seed in SEEDS
        for name, tried in wanted.items()
    ]
    missing = [(name, arguments) for name, arguments in tries if not known(key_of(name, arguments))]
    for line in trials.at_once(AT_ONCE, learn, missing):
        add(line)


def file_of(name: str) -> tuple[str, Path]:
    """A pretraining's name and the weights that it leaves; trained first where it has no line of its own."""
    arguments, key = PRETRAINED[name], {"kind": "pretraining", "name": name, "arguments": PRETRAINED[name]}
    path = path_of(name)
    folder = path.parent
    others = [
        line
        for line in results.lines_of("pretraining.jsonl", pets.published_folder())
        if (line["kind"], line["name"]) == ("pretraining", name) and line["arguments"] != PRETRAINED[name]
    ]
    if others:  # trainings are known by the path of what they began with
        raise UserError(f"pretraining.jsonl has a {name} with other arguments; give this one another name")
    if not path.exists() or not known(key):
        trials.run("pretrain.py", *arguments.split(), f"RUN=tried-{name}")
    if not known(key):
        saved = checkpoints.load_file(checkpoints.weights_path(folder, checkpoints.newest_epoch(folder)))
        leg = {name: value for name, value in saved["legs"][-1].items() if name != "constants"}  # key has them
        last = checkpoints.read_state(folder)["history"][-1]
        add(key | {"train_images": saved["train_images"], "epochs": last["epoch"], "loss": last["loss"],
                   "validation_loss": last["validation_loss"], "seconds": round(saved["train_seconds"]),
                   **leg, "commit": ", then ".join(leg["commit"] for leg in saved["legs"])})  # fmt: skip
    return name, path


def line_of(name: str) -> dict[str, object] | None:
    """What a pretraining has learnt; None if it has no line."""
    key = {"kind": "pretraining", "name": name, "version": results.VERSION}.items()
    return next((line for line in reversed(results.lines_of("pretraining.jsonl")) if key <= line.items()), None)


def path_of(name: str) -> Path:
    """Where a pretraining leaves its weights."""
    network = next(a.removeprefix("NETWORK=") for a in PRETRAINED[name].split() if a.startswith("NETWORK="))
    return checkpoints.run_folder(pets.outputs_folder() / "pretrained", f"tried-{name}", network) / "pretrained.pt"


def learn(name: str, arguments: str) -> dict[str, object]:
    """A line on what labels have taught."""
    found = trials.validated(
        f"pretraining-in-progress-{name}-{arguments.split()[-1]}", [*FORMER.split(), *arguments.split()]
    )
    return found | key_of(name, arguments)


def key_of(name: str, arguments: str) -> dict[str, object]:
    """What a line on labels is known by: its way, and the arguments of train.py and of pretrain.py."""
    before = PRETRAINED.get(TRIED[name].pretraining, "")
    return {"kind": "labels", "name": name, "pretraining": before, "arguments": arguments}


def known(key: dict[str, object]) -> bool:
    key = key | {"version": results.VERSION, "data": pets.data_name()}
    return any(key.items() <= line.items() for line in results.lines_of("pretraining.jsonl", pets.published_folder()))


def add(line: dict[str, object]) -> None:
    line |= {"version": results.VERSION, "data": pets.data_name()}
    results.add_line(pets.published_folder() / "pretraining.jsonl", line)


Way = tuple[str, str, str]  # its name, what pretrained it, and what trained it but for the seed


def ways() -> dict[Way, dict[str, dict]]:
    """The lines on labels, by way and by seed."""
    by_way: dict[Way, dict[str, dict]] = {}
    for line in results.lines_of("pretraining.jsonl"):
        if line["kind"] == "labels" and line["version"] == results.VERSION:
            arguments, seed = line["arguments"].rsplit(" SEED=", 1)
            by_way.setdefault((line["name"], line["pretraining"], arguments), {})[seed] = line
    return by_way


def changes_of(by_way: dict[Way, dict[str, dict]], name: str, found: dict[str, dict]) -> list[float]:
    """Changes in mean IoU against the way that it is compared with, for each seed that both have."""
    base = TRIED[name].base
    of = [labels_of(line["arguments"]) for line in found.values()]
    alike = (some for (n, _, arguments), some in by_way.items() if n == base and labels_of(arguments) in of)
    compared = {seed: line for some in alike for seed, line in some.items()}
    key = "validation_mean_iou"
    return [line[key] - compared[seed][key] for seed, line in found.items() if seed in compared]


def labels_of(arguments: str) -> set[str]:
    """Those of train.py's arguments that say which labels are learnt from, and for how long."""
    return {argument for argument in arguments.split() if argument.startswith(("TRAIN_IMAGES", "IMAGE_SIZE", "EPOCHS"))}


def pretraining() -> list[str]:
    """A table of all that was tried: after which pretraining, how much the labels have taught, newest last."""
    lines, cells, by_way = results.lines_of("pretraining.jsonl"), [], ways()
    before = {line["arguments"]: line for line in lines if line["kind"] == "pretraining"}
    for (name, pretrained, arguments), found in by_way.items():
        of = dict(argument.split("=", 1) for argument in arguments.split())
        means = (spread([line[f"validation_{result}"] for line in found.values()])
                 for result in ("pixel_accuracy", "mean_iou", "border_iou"))  # fmt: skip
        learnt = told(before[pretrained]) if pretrained else "-"
        gained = difference(changes_of(by_way, name, found))
        facts = TRIED[name].title, of["IMAGE_SIZE"], learnt, of["TRAIN_IMAGES"], epochs_of(of), len(found)
        cells.append((*facts, *means, gained))
    header = ("network", "px", "pretraining", "labelled images", "epochs", "seeds", "pixel accuracy", "mean IoU",
              "border IoU", "change in mean IoU")  # fmt: skip
    return markdown(header, cells)


def change(name: str) -> str:
    """What a pretraining has changed in mean IoU after equal steps on labels."""
    (found,) = (found for (way, *_), found in ways().items() if way == name)
    return difference(changes_of(ways(), name, found))


def learns(line: dict[str, object]) -> bool:
    """Whether a pretraining changes weights; at a rate of nothing it leaves the first ones."""
    return "LEARNING_RATE=1e-12" not in line["arguments"]


def told(line: dict[str, object]) -> str:
    """What a pretraining was, in the table."""
    if not learns(line):
        return "none, the same first weights"
    passes = re.search(r"PASSES=(\d+)", line["arguments"])
    epochs = line["epochs"] * (int(passes[1]) if passes else 1)
    return f"{line['train_images']} images, {epochs} epochs, loss {line['validation_loss']:.3f}"


def epochs_of(arguments: dict[str, str]) -> int:
    return int(arguments["EPOCHS"].split(",")[1]) - 1


if __name__ == "__main__":
    settings.run(main, pets)
