"""Pictures: images with their trimaps, best and worst cases, cut-outs, training curves, confusion matrices."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # draws into files; needs no screen
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from common.files import write_atomically
from common.trimap import CLASSES, COLOURS

CLASS_COLOURS = ListedColormap(COLOURS)


def save(figure: Figure, path: Path, dpi: int = 100) -> None:
    write_atomically(path, lambda part: figure.savefig(part, dpi=dpi, bbox_inches="tight"))
    plt.close(figure)


def show(axes: plt.Axes, pixels: Tensor) -> None:
    """An image (3, H, W) in [0, 1] or a trimap (1, H, W)."""
    if len(pixels) == 3:
        axes.imshow(pixels.permute(1, 2, 0).numpy())
    else:
        axes.imshow(pixels[0].numpy(), cmap=CLASS_COLOURS, vmin=0, vmax=2, interpolation="nearest")
    axes.set_axis_off()


def legend(figure: Figure, extra: tuple[tuple[str, str], ...] = ()) -> None:
    patches = [Patch(facecolor=c, edgecolor="#999999", label=n) for n, c in (*zip(CLASSES, COLOURS), *extra)]
    figure.legend(handles=patches, loc="lower center", ncol=len(patches), frameon=False, bbox_to_anchor=(0.5, -0.07))


def save_grid(path: Path, images: Tensor, trimaps: Tensor, title: str) -> None:
    """A grid of images (8, 3, H, W) in [0, 1] and, below each, its trimap (8, 1, H, W)."""
    figure, axes = plt.subplots(4, 4, figsize=(7, 7.4), layout="constrained")
    for i in range(8):
        row, column = i // 4 * 2, i % 4
        show(axes[row, column], images[i])
        show(axes[row + 1, column], trimaps[i])
    figure.suptitle(title)
    legend(figure)
    save(figure, path)


def save_examples(path: Path, cases: list[dict], title: str) -> None:
    """One row per case: image, truth, prediction, error.

    A case: "image" (3, H, W) in [0, 1], "truth" and "prediction" (1, H, W), "label" for its left edge.
    """
    figure, axes = plt.subplots(
        len(cases), 4, figsize=(5.8, 1.4 * len(cases) + 0.3), layout="constrained", squeeze=False
    )
    for row, case in zip(axes, cases):
        show_case(row, case)
    for axis, name in zip(axes[0], ("image", "truth", "prediction", "error")):
        axis.set_title(name, fontsize=9)
    figure.suptitle(title, fontsize=10, parse_math=False)  # names of runs and images may have dollars
    legend(figure, extra=(("wrong", "#c1121f"),))
    save(figure, path)


def save_columns(path: Path, columns: dict[str, Tensor]) -> None:
    """A column for each name, of images (N, 3, H, W) in [0, 1]."""
    rows = len(next(iter(columns.values())))
    size = 1.4 * len(columns), 1.4 * rows + 0.3
    figure, axes = plt.subplots(rows, len(columns), figsize=size, layout="constrained", squeeze=False)
    for column, (name, images) in zip(axes.T, columns.items()):
        column[0].set_title(name, fontsize=9)
        for axis, image in zip(column, images):
            show(axis, image)
    save(figure, path)


def show_case(axes: np.ndarray, case: dict) -> None:
    show(axes[0], case["image"])
    show(axes[1], case["truth"])
    show(axes[2], case["prediction"])
    wrong = (case["truth"] != case["prediction"])[0].numpy()
    faded = 0.35 * case["image"].permute(1, 2, 0).numpy() + 0.65
    axes[3].imshow(np.where(wrong[..., None], to_rgb("#c1121f"), faded))
    axes[3].set_axis_off()
    place = {"transform": axes[0].transAxes, "rotation": 90, "va": "center", "ha": "right"}
    axes[0].text(-0.06, 0.5, case["label"], fontsize=6, parse_math=False, **place)


def save_curves(path: Path, history: list[dict[str, object]], title: str) -> None:
    """Training loss and, where there are any, validation loss and results over the epochs."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    epochs = [row["epoch"] for row in history]
    axes.plot(epochs, [row["loss"] for row in history], "o-", color="black", label="training loss")
    axes.set(xlabel="epoch", ylabel="loss", title=title, ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    if "validation_loss" in history[-1]:
        axes.plot(epochs, [row.get("validation_loss", np.nan) for row in history], "o--", label="validation loss")
    names = [name for name in history[-1] if name.startswith("validation_") and name != "validation_loss"]
    if names:
        right = axes.twinx()
        for name in names:
            label = name.removeprefix("validation_").replace("_", " ")
            right.plot(epochs, [row.get(name, np.nan) for row in history], "o--", label=label)
        right.set(ylabel="validation", ylim=(None, 1))
    figure.legend(loc="outside lower center", ncol=3, frameon=False, fontsize=8)
    save(figure, path)


def save_confusion(path: Path, matrix: Tensor, title: str) -> None:
    """Confusion matrix (3, 3), [truth, prediction], in shares of the true class."""
    shares = (matrix.double() / matrix.sum(1, keepdim=True).clamp(min=1)).numpy()
    figure, axes = plt.subplots(figsize=(3.8, 3.4), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), share in np.ndenumerate(shares):
        axes.text(j, i, f"{share:.3f}", ha="center", va="center", color="white" if share > 0.55 else "black")
    axes.set_xticks(range(len(CLASSES)), CLASSES)
    axes.set_yticks(range(len(CLASSES)), CLASSES)
    axes.set(xlabel="prediction", ylabel="truth", title=title)
    save(figure, path)


def save_contact_sheet(path: Path, cutouts: list[Tensor], columns: int = 5) -> None:
    """Cut-outs, each (4, h, w), uint8, on a chequered ground that shows what is transparent."""
    rows = -(-len(cutouts) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.7 * columns, 1.7 * rows), layout="constrained", squeeze=False)
    for axis, cutout in zip(axes.flat, cutouts):
        height, width = cutout.shape[-2:]
        chequers = 0.75 + 0.2 * (np.add.outer(np.arange(height) // 8, np.arange(width) // 8) % 2)
        axis.imshow(chequers, cmap="gray", vmin=0, vmax=1)
        axis.imshow(cutout.permute(1, 2, 0).numpy())
    for axis in axes.flat:
        axis.set_axis_off()
    save(figure, path, dpi=80)
