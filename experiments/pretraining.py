"""Tries ways of masked pretraining: few labelled images with it and without, on the validation tenth; keeps every line.

    python -m experiments.pretraining                      tries what outputs/published/pretraining.jsonl lacks
    python -m experiments.pretraining NAMES=vit-masked     one of those below

Nothing is pretrained on the validation tenth, and the test split is never read. Lines are of two kinds: what a
pretraining has learnt, and what a network has learnt from labels after it, as many epochs as one without.
"""

import json
from pathlib import Path

import fetch_oxford_iiit_pets as pets
from common import checkpoints, machine, results, settings
from common.files import append_line
from experiments import trials
from experiments.findings import markdown
from experiments.tasks import changed

NAMES = ("all",)  # what is tried, of TRIED

VIT = "vit_tiny_patch16_224"
HELD_OUT = "VALIDATION_SHARE=0.1 THREADS=1 SEED=0"
# For pretrain.py; a network's patterns are learnt at the size at which its labels are
PRETRAINED = {
    "vit": f"NETWORK={VIT} IMAGE_SIZE=128 EPOCHS=1,31 BATCH_SIZE=32 {HELD_OUT}",
    "segnet": f"NETWORK=segnet_dsc IMAGE_SIZE=64 EPOCHS=1,16 BATCH_SIZE=16 LEARNING_RATE=2e-3 HIDDEN=0.5 {HELD_OUT}",
}
# For train.py; {} is the file that the pretraining left
LABELS = f"NETWORKS=segnet_dsc TRAIN_IMAGES=250 ZOOM=0.2 ROTATION=10.0 {HELD_OUT}"
UNDER_VIT = f"{LABELS} IMAGE_SIZE=128 SIZES=0.5,0.75,1 EPOCHS=1,41 ENCODER={VIT} ENCODER_RATE=0.25"
SEGNET = f"{LABELS} IMAGE_SIZE=64 SIZES=1 EPOCHS=1,41"
TRIED = {  # name: pretraining, arguments
    "vit-random": ("", f"{UNDER_VIT} ENCODER_WEIGHTS=random"),
    "vit-masked": ("vit", f"{UNDER_VIT} ENCODER_WEIGHTS={{}}"),
    "segnet": ("", SEGNET),
    "segnet-masked": ("segnet", f"{SEGNET} START_FROM={{}} START_PART=body ENCODER_RATE=1.0"),
    "segnet-masked-encoder": ("segnet", f"{SEGNET} START_FROM={{}} START_PART=encoder ENCODER_RATE=1.0"),
}


def main() -> None:
    settings.check(globals(), {"NAMES": ("all", *TRIED)}, {})
    for name, (pretraining, arguments) in TRIED.items():
        if name in NAMES or "all" in NAMES:
            file = file_of(pretraining) if pretraining else ""
            keep(name, arguments.format(file), pretraining)


def file_of(name: str) -> Path:
    """The weights that a pretraining leaves; trained first where they aren't there, with a line of its own."""
    arguments = PRETRAINED[name]
    network = next(a.removeprefix("NETWORK=") for a in arguments.split() if a.startswith("NETWORK="))
    folder = checkpoints.run_folder(pets.outputs_folder() / "pretrained", f"tried-{name}", network)
    if not known("pretraining", name, arguments):
        trials.run("pretrain.py", *arguments.split(), f"RUN=tried-{name}")
        saved = checkpoints.load_file(checkpoints.weights_path(folder, checkpoints.newest_epoch(folder)))
        last = checkpoints.read_state(folder)["history"][-1]
        add({"kind": "pretraining", "name": name, "arguments": arguments, "train_images": saved["train_images"],
             "epochs": last["epoch"], "loss": last["loss"], "validation_loss": last["validation_loss"],
             "seconds": round(saved["train_seconds"]), **saved["legs"][-1],
             "commit": ", then ".join(leg["commit"] for leg in saved["legs"])})  # fmt: skip
    return folder / "pretrained.pt"


def keep(name: str, arguments: str, pretraining: str) -> None:
    if not known("labels", name, arguments):
        found = trials.validated(f"pretraining-in-progress-{name}", changed(arguments, ""))
        add({"kind": "labels", "name": name, "pretraining": pretraining, "arguments": arguments, **found,
             **machine.about(), "command": f"python train.py {arguments}"})  # fmt: skip


def known(kind: str, name: str, arguments: str) -> bool:
    key = {"kind": kind, "name": name, "arguments": arguments, "version": results.VERSION, "data": pets.data_name()}
    return any(key.items() <= line.items() for line in results.lines_of("pretraining.jsonl", pets.published_folder()))


def add(line: dict[str, object]) -> None:
    line |= {"version": results.VERSION, "data": pets.data_name()}
    append_line(pets.published_folder() / "pretraining.jsonl", json.dumps(line))
    print(json.dumps(line), flush=True)


def pretraining() -> list[str]:
    """A table of all lines: after which pretraining, how much the labels have taught."""
    lines, cells = results.lines_of("pretraining.jsonl"), []
    for line in lines:
        if line["kind"] == "labels":
            of = dict(argument.split("=", 1) for argument in line["arguments"].split())
            before = "-"
            for earlier in lines:
                if earlier["kind"] == "pretraining" and earlier["name"] == line["pretraining"]:
                    before = f"{earlier['train_images']} images, {earlier['epochs']} epochs, "
                    before += f"loss {earlier['validation_loss']:.3f}"
            epochs = int(of["EPOCHS"].split(",")[1]) - 1
            found = (f"{line[f'validation_{name}']:.4f}" for name in ("pixel_accuracy", "mean_iou", "border_iou"))
            cells.append((line["name"], of["IMAGE_SIZE"], before, of["TRAIN_IMAGES"], epochs, of["SEED"], *found))
    header = ("network", "px", "pretraining", "labelled images", "epochs", "seed", "pixel accuracy", "mean IoU",
              "border IoU")  # fmt: skip
    return markdown(header, cells)


if __name__ == "__main__":
    settings.run(main, pets)
