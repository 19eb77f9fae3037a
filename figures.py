"""The pictures: photographs with trimaps, curves, typical and worst cases, confusion matrices, pooling indices."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # draws into files; needs no screen
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from files import write_atomically
from trimap import CLASSES, COLOURS

CLASS_COLOURS = ListedColormap(COLOURS)


def save(figure: Figure, path: Path, dpi: int = 100) -> None:
    write_atomically(path, lambda part: figure.savefig(part, dpi=dpi, bbox_inches="tight"))
    plt.close(figure)


def show(axes: plt.Axes, pixels: Tensor) -> None:
    """A photograph (3, H, W) in [0, 1] or a trimap (1, H, W)."""
    if len(pixels) == 3:
        axes.imshow(pixels.permute(1, 2, 0).numpy())
    else:
        axes.imshow(pixels[0].numpy(), cmap=CLASS_COLOURS, vmin=0, vmax=2, interpolation="nearest")
    axes.set_axis_off()


def legend(figure: Figure, extra: tuple[tuple[str, str], ...] = ()) -> None:
    patches = [Patch(facecolor=c, edgecolor="#999999", label=n) for n, c in (*zip(CLASSES, COLOURS), *extra)]
    figure.legend(handles=patches, loc="lower center", ncol=len(patches), frameon=False, bbox_to_anchor=(0.5, -0.04))


def save_photographs(path: Path, images: Tensor, trimaps: Tensor, title: str) -> None:
    """A grid of photographs (8, 3, H, W) in [0, 1] and, below each, its trimap (8, 1, H, W)."""
    figure, axes = plt.subplots(4, 4, figsize=(7, 7.4), layout="constrained")
    for i in range(8):
        row, column = i // 4 * 2, i % 4
        show(axes[row, column], images[i])
        show(axes[row + 1, column], trimaps[i])
    figure.suptitle(title)
    legend(figure)
    save(figure, path)


def save_curves(path: Path, history: list[dict[str, object]], title: str) -> None:
    """Training loss and, where there are any, validation figures over the epochs."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    epochs = [row["epoch"] for row in history]
    axes.plot(epochs, [row["loss"] for row in history], "o-", color="black", label="training loss")
    axes.set(xlabel="epoch", ylabel="loss", title=title, ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    names = [name for name in history[0] if name.startswith("validation_")]
    if names:
        right = axes.twinx()
        for name in names:
            label = name.removeprefix("validation_").replace("_", " ")
            right.plot(epochs, [row[name] for row in history], "o--", label=label)
        right.set(ylabel="validation", ylim=(None, 1))
        right.legend(loc="center left", frameon=False)
    axes.legend(loc="lower left", frameon=False)
    save(figure, path)


def save_examples(path: Path, cases: list[dict[str, object]], title: str) -> None:
    """A row a case: photograph, truth, prediction and where they differ.

    A case: "image" (3, H, W) in [0, 1], "truth" and "prediction" (1, H, W), "label" for its left edge.
    """
    figure, axes = plt.subplots(len(cases), 4, figsize=(6.6, 1.72 * len(cases)), layout="constrained", squeeze=False)
    for row, case in zip(axes, cases):
        show(row[0], case["image"])
        show(row[1], case["truth"])
        show(row[2], case["prediction"])
        wrong = (case["truth"] != case["prediction"])[0].numpy()
        faded = 0.35 * case["image"].permute(1, 2, 0).numpy() + 0.65
        row[3].imshow(np.where(wrong[..., None], to_rgb("#c1121f"), faded))
        row[3].set_axis_off()
        row[0].text(
            -0.06, 0.5, case["label"], transform=row[0].transAxes, rotation=90, va="center", ha="right", fontsize=7
        )
    for column, name in zip(axes[0], ("photograph", "truth", "prediction", "error")):
        column.set_title(name, fontsize=9)
    figure.suptitle(title, fontsize=10)
    legend(figure, extra=(("wrong", "#c1121f"),))
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
