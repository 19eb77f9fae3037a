"""Published weights: one file for each network in outputs/published/weights, which git keeps.

    outputs/published/weights/segnet_dsc.pt               named for its network
    outputs/published/weights/segnet_dsc_lite2_256px.pt   and for the size of its images, where that is not 128 px

A file is a checkpoint (see `pretrained.load_network`) with its row of results under "row", and with most tensors in
float16; they are float32 again in the network that they are loaded into.
"""

import difflib
import importlib.util
import re
from pathlib import Path

from common.encoder_weights import VGG
from common.files import load_file
from common.machine import say_once
from common.results import PUBLISHED
from common.settings import UserError

FOLDER = PUBLISHED / "weights"


def name_of(network: str, size: int) -> str:
    """What the weights of a network that was trained at `size` px are called; at 128 px by its name alone."""
    return network if size == 128 else f"{network}_{size}px"


def network_of(name: str) -> str:
    """The network that weights of that name are of."""
    return re.sub(r"_\d+px$", "", name)


def names() -> list[str]:
    """What there are published weights of."""
    return sorted(path.stem for path in FOLDER.glob("*.pt"))


def chosen(checkpoint: str, name: str) -> Path:
    """The file that CHECKPOINT, or else WEIGHTS, names. Raises UserError where one was meant for the other."""
    if not checkpoint:
        return path_of(name)
    if checkpoint in names() and not Path(checkpoint).exists():
        raise UserError(f"CHECKPOINT={checkpoint} is not there; the published weights are WEIGHTS={checkpoint}")
    return Path(checkpoint)


def path_of(name: str) -> Path:
    """The file of a network's weights. Raises UserError where there is none, with the names that are near."""
    found = names()
    if name in found:
        return FOLDER / f"{name}.pt"
    if Path(name).name != name or name.endswith(".pt"):
        raise UserError(f"WEIGHTS={name} is no name of published weights, such as segnet; CHECKPOINT= takes a file")
    if not found:
        raise UserError(f"no weights of {name!r}: none are published yet in {FOLDER}; train first, python train.py")
    near = difflib.get_close_matches(name, found, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(found)}"
    raise UserError(f"no published weights are called {name!r}; {hint}")


def best() -> Path | None:
    """The file whose row has the highest mean IoU; None if there is no file. Raises UserError for a damaged one.

    Where timm is not installed, of those that need none.
    """
    ranked = sorted((FOLDER / f"{name}.pt" for name in names()), key=mean_iou, reverse=True)
    usable = [path for path in ranked if not needs_timm(path) or importlib.util.find_spec("timm")]
    if ranked and ranked[0] not in usable:
        say_once(f"the best published network is {ranked[0].stem}, which needs timm: pip install timm")
    return usable[0] if usable else None


def needs_timm(path: Path) -> bool:
    return load_file(path, mmap=True).get("encoder") not in (None, "", VGG)


def mean_iou(path: Path) -> float:
    row = load_file(path, mmap=True).get("row")
    if not isinstance(row, dict) or not isinstance(row.get("mean_iou"), float):
        raise UserError(f"{path} has no row of results; python -m experiments.publish_weights makes such files")
    return row["mean_iou"]
