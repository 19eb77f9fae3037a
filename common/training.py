"""What train.py and pretrain.py share: epochs that are saved and resumed, and steps whose loss is watched."""

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common import checkpoints, distributed, machine, pictures
from common.settings import UserError

DRAWN_EVERY = 10  # seconds at least between two drawings of the curves, each of which takes as long as a GPU's epoch


class Run(NamedTuple):
    """A network in training, and all that its folder keeps of it."""

    name: str  # of the network
    folder: Path
    network: nn.Module
    optimizer: torch.optim.Optimizer  # each of its groups has a "share" of the learning rate
    random: torch.Generator  # of the order of images and their augmentation
    history: list[dict[str, object]]  # one row per epoch that is complete
    about: dict[str, object]  # what builds the network, and what checkpoints.KEPT names


def resume(
    run: Run, epochs: tuple[int, int], precision: str, fixed: frozenset[str], defaults: dict[str, object]
) -> None:
    """Puts everything as it was after the newest complete epoch; a new run is left as it is.

    The leg that begins here joins those before in run.about["legs"]. epochs: EPOCHS; precision: PRECISION; fixed:
    names of the constants that no leg may change; defaults: of constants that an old state may lack.
    Raises UserError where the run can't go on with these constants.
    """
    state = checkpoints.read_state(run.folder)
    run.history[:] = state["history"] if state else []
    done, (first, end) = len(run.history), epochs
    if len(set(distributed.gather([done]))) > 1:
        raise UserError(f"ranks find different epochs in {run.folder}: OUTPUTS has to be one that all machines see")
    if first > done + 1:
        raise UserError(f"EPOCHS={first},{end} needs epoch {first - 1}, but {run.folder} has {done} epochs")
    run.about["legs"] = with_this_leg(state.get("legs", []) if state else [], run.about["constants"], precision)
    changed = check_resumable(run, state, epochs, fixed, defaults)
    if state:
        checkpoints.restore(state, run.network, run.optimizer, run.random)
        if distributed.is_first():
            checkpoints.write_history(run.folder, run.history)  # where a kill came between the state and its table
        print(f"going on after epoch {done} in {run.folder}" + (f", begun with {changed}" if changed else ""))


def with_this_leg(legs: list[dict], constants: dict[str, object], precision: str) -> list[dict]:
    """A run's legs, and after them the one that begins here, if it is another than the last."""
    leg = machine.about() | {"device": machine.device().type, "precision": machine.precision_name(precision)}
    leg |= {"ranks": distributed.ranks(), "constants": constants}
    return legs if leg in legs[-1:] else [*legs, leg]


def check_resumable(
    run: Run, state: dict | None, epochs: tuple[int, int], fixed: frozenset[str], defaults: dict[str, object]
) -> str:
    """What a run that is there was begun with where that differs from now; "" for a new one, or no difference.

    state: of its newest epoch, if any. Raises UserError where it may not differ.
    """
    if not state and 1 not in checkpoints.epochs_in(run.folder):  # a kill in the first save leaves one without a state
        return ""
    constants, done = run.about["constants"], len(run.history)
    was = state or checkpoints.read_epoch(run.folder, 1)
    now = run.about | {"constants": compared_constants(constants, epochs, done, fixed)}
    checkpoints.check_same_run(run.folder, was, now, defaults, new_leg=epochs[0] == done + 1 > 1)
    others = {name: value for name, value in constants.items() if name != "EPOCHS"}
    return checkpoints.differing(was["constants"], others, defaults)


def compared_constants(
    constants: dict[str, object], epochs: tuple[int, int], done: int, fixed: frozenset[str]
) -> dict[str, object]:
    """The constants that may not differ from those that a run of `done` epochs was begun with.

    Where EPOCHS begins after the epochs that are there, it asks for a new leg: all that are not fixed may be others.
    Where all EPOCHS are there already, nothing is trained, and EPOCHS may be others.
    """
    first, end = epochs
    if first == done + 1 > 1:
        return {name: value for name, value in constants.items() if name in fixed}
    return {name: value for name, value in constants.items() if name != "EPOCHS" or end > done + 1}


def check_epochs(epochs: tuple[int, ...]) -> None:
    if len(epochs) != 2 or not 1 <= epochs[0] < epochs[1]:
        raise UserError(f"EPOCHS={','.join(map(str, epochs))}: the first and one past the last, e.g. EPOCHS=1,6")


def train_epochs(run: Run, end: int, train_epoch: Callable[[int], dict[str, object]]) -> None:
    """Trains the epochs up to `end`, which is one past the last, and saves each; curves are drawn now and then.

    train_epoch: trains an epoch, given its number; returns its row for the history.
    """
    drawn = -math.inf
    for epoch in range(len(run.history) + 1, end):
        start = time.perf_counter()
        row = {"epoch": epoch} | train_epoch(epoch)
        run.history.append(row | {"seconds": time.perf_counter() - start})
        if distributed.is_first():
            machine.saving.set()
            checkpoints.save(run.folder, run.network, run.optimizer, run.random, run.history, run.about)
            if epoch == end - 1 or time.perf_counter() - drawn > DRAWN_EVERY:
                pictures.save_curves(run.folder / "curves.png", run.history, run.name)
                drawn = time.perf_counter()
            machine.saving.clear()
        print(f"{run.name}:", ", ".join(f"{key} {value:.4g}" for key, value in run.history[-1].items()), flush=True)
    distributed.wait_for_all()  # until all files are there
    print(f"{run.name}: {len(run.history)} epochs in {run.folder}")


def train_steps(
    step: Callable[..., Tensor],
    batches: Iterable[tuple[Tensor, ...]],
    steps: int,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[float], float],
    epoch: int,
    check_every: int,
) -> float:
    """One epoch of `steps` steps; returns the mean loss. Raises UserError at a loss that is not finite.

    step: trains on a batch and returns its loss, a scalar; rate: the learning rate by share of the epoch, in [0, 1);
    check_every: steps between readings of the loss, which synchronise a GPU.
    """
    losses = torch.zeros(steps, device=machine.device())
    with tqdm(total=steps, desc=f"epoch {epoch}", unit="step", leave=False) as bar:
        for number, batch in enumerate(batches):
            if distributed.any_rank(machine.stopping.is_set()):
                raise KeyboardInterrupt
            set_rate(optimizer, rate(number / steps))
            losses[number] = distributed.mean(step(*batch))
            if number % check_every == 0 or number == steps - 1:
                bar.set_postfix(loss=f"{check_finite(losses[: number + 1], epoch):.3f}")
            bar.update()
    return float(losses.mean())


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives each group its share of a learning rate; in place where it is a tensor, which a recorded step reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(group["share"] * rate)
        else:
            group["lr"] = group["share"] * rate


def check_finite(losses: Tensor, epoch: int) -> float:
    """The last loss. Raises UserError that names the first step whose loss is not finite."""
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        raise not_finite(epoch, int(bad[0]) + 1)
    return float(losses[-1])


def check_weights(network: nn.Module, steps: int, epoch: int) -> None:
    """Raises UserError, as for a loss, if the last step has spoilt the weights."""
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise not_finite(epoch, steps)


def not_finite(epoch: int, step: int) -> UserError:
    return UserError(
        f"the loss is not finite in epoch {epoch}, step {step}; the epochs before are kept. "
        "Try a smaller LEARNING_RATE, under another RUN"
    )


def up_and_down(progress: float, warm_up: float) -> float:
    """Share of the largest rate at a point of EPOCHS, in [0, 1): up from 0.04 by a cosine, and down to 0.

    warm_up: share of them in which it climbs. After Smith and Topin 2018 (https://arxiv.org/abs/1708.07120).
    """
    if progress < warm_up:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / warm_up)) / 2
    return (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up))) / 2
