"""A run's folder and its files: weights of each epoch, the state to resume from, the history.

    outputs/RUN/NETWORK/epoch_05.pt   weights, with all that is needed to build their network
    outputs/RUN/NETWORK/state.pt      the rest of what resuming needs, of the newest complete epoch
    outputs/RUN/NETWORK/history.csv   one row per epoch

Everything is read with weights_only=True: a file from a stranger can be wrong but can't run code.
"""

import contextlib
import csv
import os
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from common import distributed, files, machine
from common.files import clear_parts, load_file, write_atomically
from common.results import has_name
from common.settings import UserError, typed

TAKEN = ("cache", "predictions", "pretrained", "published", "scale", "toy", "..")  # folders in outputs that are no runs
LONGEST = 150  # bytes of a RUN, which names pictures too
KEPT = ("version", "constants", "data_identity", "legs")  # what the state repeats of `about`
OWN = ("epoch_*", "state", "history", "curves", "pretrained", "painted")  # by who has the lock; test.py draws beside it


def run_folder(outputs: Path, run: str, network: str) -> Path:
    return outputs / run / network


def check_run(run: str) -> None:
    """Raises UserError for a RUN that can't have a folder of its own in outputs."""
    if not run or run in TAKEN or Path(run).name != run or len(os.fsencode(run)) > LONGEST:
        said = f"RUN={run[:LONGEST]}: it names a folder in outputs, without slashes, of at most {LONGEST} bytes"
        raise UserError(f"{said}, and none of {', '.join(TAKEN)}")


def weights_path(folder: Path, epoch: int) -> Path:
    return folder / f"epoch_{epoch:02d}.pt"


def save(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    random: torch.Generator,
    history: list[dict[str, object]],
    about: dict[str, object],
) -> None:
    """Saves an epoch: first its weights, then the state that names them, so every state has its weights.

    about: what builds the network (see `pretrained.load_network`), and KEPT.
    """
    epoch = len(history)
    seconds = sum(row["seconds"] for row in history)
    weights = {**about, "epoch": epoch, "train_seconds": seconds, "weights": network.state_dict()}
    write_atomically(weights_path(folder, epoch), lambda part: torch.save(weights, part))
    state = {"optimizer": optimizer.state_dict(), "random": random.get_state(), "torch_random": torch.get_rng_state(),
             "history": history, **accelerators_random(), **{key: about[key] for key in KEPT}}  # fmt: skip
    write_atomically(folder / "state.pt", lambda part: torch.save(state, part))
    write_history(folder, history)


def read_state(folder: Path) -> dict[str, object] | None:
    """What `save` wrote of the newest complete epoch, its weights included; None for a new run.

    Raises UserError for files that are damaged or not of a run, and for epochs that the state doesn't know.
    """
    path = folder / "state.pt"
    state = load_file(path) if path.exists() else {"history": []}
    if path.exists() and (
        not {"optimizer", "random", "torch_random", "history", "constants"} <= set(state) or not state["history"]
    ):
        raise UserError(f"{path} is not the state of a run; delete {folder} to begin anew")
    done = len(state["history"])
    if stray := [epoch for epoch in epochs_in(folder) if epoch > done + 1]:  # one may be there, from a killed run
        raise UserError(
            f"{folder} holds epoch {stray[-1]}, but its state knows {done}; delete that folder, or choose another RUN"
        )
    return state | {"weights": read_epoch(folder, done)["weights"]} if done else None


def read_epoch(folder: Path, epoch: int) -> dict[str, object]:
    """What `save` wrote of an epoch. Raises UserError for a file that is damaged or not of a run."""
    path = weights_path(folder, epoch)
    saved = load_file(path)
    if not {"weights", "constants"} <= set(saved):
        raise UserError(f"{path} is not an epoch of a run; delete {folder} to begin anew")
    return saved


def restore(
    state: dict[str, object], network: nn.Module, optimizer: torch.optim.Optimizer, random: torch.Generator
) -> None:
    """Puts weights, optimiser and random numbers as they were when `save` wrote the state."""
    network.load_state_dict(state["weights"])
    kept = ("share", "weight_decay", "lr", "capturable", "fused")  # of this leg and its device, not of the one before
    of_this_leg = [{name: group[name] for name in kept} for group in optimizer.param_groups]
    groups = [group | own for group, own in zip(state["optimizer"]["param_groups"], of_this_leg)]
    optimizer.load_state_dict(state["optimizer"] | {"param_groups": groups})
    for group, own in zip(optimizer.param_groups, of_this_leg):
        group.update(own)  # loading copied the rates, which are tensors on some devices
    random.set_state(state["random"])
    torch.set_rng_state(state["torch_random"])  # dropout's, of some encoders
    for name in accelerators_random():
        if state.get(name) is not None:
            machine.accelerator().set_rng_state(state[name])


def accelerators_random() -> dict[str, Tensor]:
    """The accelerator's random state under its name, such as "cuda_random"; nothing without one."""
    module = machine.accelerator()
    return {f"{machine.device().type}_random": module.get_rng_state()} if module else {}


def check_same_run(
    folder: Path, was: dict[str, object], now: dict[str, object], defaults: dict[str, object], new_leg: bool
) -> None:
    """Raises UserError if what a run was begun with differs now where it must not.

    was: its state; now: KEPT as it would be now, with those constants alone that may not differ; defaults: of constants
    that an old state may lack; new_leg: device and precision may differ.
    """
    begun = f"{folder} was begun"
    if was.get("version", 1) != now["version"]:
        raise UserError(f"{begun} by version {was.get('version', 1)} of this code; choose another RUN, or delete it")
    if was["data_identity"] != now["data_identity"]:
        raise UserError(f"{begun} with other images; choose another RUN, or delete it")
    hardware, here = ([leg[key] for key in ("device", "precision")] for leg in (was["legs"][-1], now["legs"][-1]))
    if hardware != here and not new_leg:
        raise UserError(f"{begun} on {' in '.join(hardware)}, not {' in '.join(here)}; choose another RUN")
    if differ := differing(was["constants"], now["constants"], defaults):
        others = {name: value for name, value in now["constants"].items() if name != "EPOCHS"}
        done, more = len(was.get("history", ())), ""
        if done and not differing(was["constants"], others, defaults):
            more = f"; EPOCHS={done + 1},{now['constants']['EPOCHS'][1]} goes on"
        raise UserError(f"{begun} with {differ}; give the same, or another RUN, or delete that folder{more}")


def differing(was: dict[str, object], now: dict[str, object], defaults: dict[str, object]) -> str:
    """Those of `now` that were otherwise, as "NAME=VALUE, ..." of then; "" if there are none.

    What `was` lacks had its default: an old state doesn't know the constants that came later.
    """
    earlier = {name: was.get(name, defaults.get(name)) for name in sorted(now)}
    return ", ".join(f"{name}={typed(value)}" for name, value in earlier.items() if value != now[name])


def epochs_in(folder: Path) -> list[int]:
    """The numbers of the epochs with saved weights, in order."""
    names = [re.fullmatch(r"epoch_(\d+)\.pt", path.name) for path in folder.glob("epoch_*.pt")]
    return sorted(int(name[1]) for name in names if name)


def forget_before(folder: Path, epoch: int) -> None:
    """Removes the weights of earlier epochs, of runs whose newest alone is of use."""
    for old in epochs_in(folder):
        if old < epoch:
            weights_path(folder, old).unlink()


def newest_epoch(folder: Path) -> int:
    """The number of the newest epoch with saved weights. Raises UserError if there is none."""
    epochs = epochs_in(folder)
    if not epochs:
        others = sorted({path.parent.name for path in folder.parent.glob("*/epoch_*.pt")})
        hint = f"NETWORKS={','.join(others)} are there" if others else "train first: python train.py"
        raise UserError(f"no trained network in {folder}; {hint}")
    return epochs[-1]


def newest_weights(outputs: Path) -> Path | None:
    """The newest epoch of any run but those of experiments; None if there is no run."""
    paths = (path for path in outputs.glob("*/*/epoch_*.pt") if has_name(path.parent.parent.name))
    return max(paths, key=lambda path: path.stat().st_mtime, default=None)


def write_history(folder: Path, history: list[dict[str, object]]) -> None:
    def write(part: Path) -> None:
        with open(part, "w", newline="") as file:
            names = dict.fromkeys(name for row in history for name in row)  # legs may differ in their columns
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(history)

    write_atomically(folder / "history.csv", write)


def lock(folder: Path) -> contextlib.AbstractContextManager:
    """Takes the folder for this run until it ends, and clears it of files that a killed one left half-written.

    Raises UserError if another process has it, or if nothing can be written there. Windows, and file systems that
    know no locks, go without.
    """
    if not distributed.is_first():
        return contextlib.nullcontext()
    try:
        locked = files.lock(folder / "lock")
    except BlockingIOError as error:
        raise UserError(f"another run is writing to {folder}; wait for it or choose another RUN") from error
    if not locked:
        return contextlib.nullcontext()
    for stem in OWN:
        clear_parts(folder, stem)
    return locked
