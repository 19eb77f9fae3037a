"""Publishes a tested network's weights: half the size, with the row of results that they belong to.

    python -m experiments.publish_weights CHECKPOINT=outputs/record100/segnet_dsc/epoch_100.pt

writes outputs/published/weights/segnet_dsc.pt, in place of the one that was there; _256px stands behind the name where
the network was trained at 256 px, and so on for all sizes but 128. The row has to be there first:
`python test.py RUN=record100 PUBLISH=True`.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

import pretrained
from common import published, results, settings
from common.files import load_file, write_atomically
from common.settings import UserError

CHECKPOINT = ""  # the file of weights to publish

LARGEST = 35  # MB, of one file
LARGEST_TOGETHER = 45  # MB, of all
LOSS = 1e-3  # of a tensor's norm at most, or it stays float32; rounding alone costs half of that


def main() -> None:
    if not CHECKPOINT:
        raise UserError("which weights? CHECKPOINT=outputs/RUN/NETWORK/epoch_NN.pt")
    path = publish(Path(CHECKPOINT), results.rows())
    print(f"written: {path}, {megabytes(path):.1f} MB")
    together = sum(map(megabytes, published.FOLDER.glob("*.pt")))
    print(f"all published weights: {together:.1f} MB")
    if together > LARGEST_TOGETHER:
        raise UserError(f"that is more than {LARGEST_TOGETHER} MB; remove one, or publish a smaller network")


def publish(checkpoint: Path, rows: list[results.Row]) -> Path:
    """Writes the file of a checkpoint's weights and returns its path.

    Raises UserError, and leaves what was there, for a checkpoint that doesn't load or has no row, and for a file
    over LARGEST.
    """
    _, about = pretrained.load_network(checkpoint)
    row = row_of(about, rows, checkpoint)
    saved = about | {"row": row, "weights": halved(load_file(checkpoint)["weights"])}
    path = published.FOLDER / f"{published.name_of(about['network'], row['constants']['IMAGE_SIZE'])}.pt"

    def write(part: Path) -> None:
        torch.save(saved, part)
        if megabytes(part) > LARGEST:
            raise UserError(f"{checkpoint} makes {megabytes(part):.1f} MB; published weights are {LARGEST} at most")

    write_atomically(path, write)
    return path


def halved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with its matrices and kernels in float16.

    Statistics, scales and biases of BatchNorm, a thousandth of the whole, stay float32: small variances would
    underflow and large ones overflow. So does any tensor that would lose more than LOSS of its norm.
    """
    return {key: half_of(value) if value.is_floating_point() else value for key, value in weights.items()}


def half_of(tensor: Tensor) -> Tensor:
    half = tensor.half()
    fits = (half.float() - tensor).norm() <= LOSS * tensor.norm()  # false for inf and nan too
    return half if tensor.dim() > 1 and fits else tensor


def row_of(about: dict[str, object], rows: list[results.Row], checkpoint: Path) -> results.Row:
    """The newest row of the very training that the checkpoint is of; its seconds tell it from others alike."""
    wanted = {
        "network": about.get("network"),
        "epochs": about.get("epoch"),
        "version": about.get("version", 1),
        "constants": json.loads(json.dumps(about.get("constants"))),  # tuples are lists in a row
        "data": about.get("data"),
        "train_seconds": about.get("train_seconds"),
        "mirror": False,
    }
    found = [row for row in rows if results.rounded({key: row.get(key) for key in wanted}) == results.rounded(wanted)]
    if not found or not wanted["constants"]:
        raise UserError(f"{checkpoint} has no published row; test it first: python test.py RUN=... PUBLISH=True")
    return found[-1]


def megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6


if __name__ == "__main__":
    settings.run(main)
