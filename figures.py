"""The pictures: photographs with trimaps, curves, typical and worst cases, confusion matrices, pooling indices."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # draws into files; needs no screen
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from files import write_atomically
from pooling import max_pool, max_unpool
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
    figure.legend(handles=patches, loc="lower center", ncol=len(patches), frameon=False, bbox_to_anchor=(0.5, -0.07))


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
    names = [name for name in history[-1] if name.startswith("validation_")]
    if names:
        right = axes.twinx()
        for name in names:
            label = name.removeprefix("validation_").replace("_", " ")
            right.plot(epochs, [row.get(name, np.nan) for row in history], "o--", label=label)
        right.set(ylabel="validation", ylim=(None, 1))
    figure.legend(loc="outside lower center", ncol=3, frameon=False, fontsize=8)
    save(figure, path)


def save_examples(path: Path, typical: list[dict], worst: list[dict], title: str) -> None:
    """Typical cases on the left, the worst on the right, a row each: photograph, truth, prediction, error.

    A case: "image" (3, H, W) in [0, 1], "truth" and "prediction" (1, H, W), "label" for its left edge.
    """
    figure, axes = plt.subplots(
        len(typical), 9, figsize=(11.5, 1.4 * len(typical)), width_ratios=[1, 1, 1, 1, 0.2, 1, 1, 1, 1],
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for row, left, right in zip(axes, typical, worst):
        row[4].set_axis_off()
        show_case(row[:4], left)
        show_case(row[5:], right)
    for first, kind in ((0, "typical"), (5, "worst")):
        for axis, name in zip(axes[0, first:], (f"{kind}: photograph", "truth", "prediction", "error")):
            axis.set_title(name, fontsize=8)
    figure.suptitle(title, fontsize=10)
    legend(figure, extra=(("wrong", "#c1121f"),))
    save(figure, path)


def show_case(axes: np.ndarray, case: dict) -> None:
    show(axes[0], case["image"])
    show(axes[1], case["truth"])
    show(axes[2], case["prediction"])
    wrong = (case["truth"] != case["prediction"])[0].numpy()
    faded = 0.35 * case["image"].permute(1, 2, 0).numpy() + 0.65
    axes[3].imshow(np.where(wrong[..., None], to_rgb("#c1121f"), faded))
    axes[3].set_axis_off()
    axes[0].text(
        -0.06, 0.5, case["label"], transform=axes[0].transAxes, rotation=90, va="center", ha="right", fontsize=6
    )


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


def save_benchmark(path: Path, result: dict) -> None:
    """Bars of the original against ours: training step, inference, peak memory; and what a decoder is handed."""
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
    panels = {
        "training step, ms a photograph": result["train_step_ms"],
        "inference, ms a photograph": result["inference_ms"],
        "peak memory of training, MiB": result["peak_memory_mib"]["train"],
    }
    colours = {"original": "#8d99ae", "ours_float32": "#f4a259", "ours": "#bc4b51"}
    for axis, (title, by_network) in zip(axes, panels.items()):
        for i, (way, colour) in enumerate(colours.items()):
            values = [by_way[way] for by_way in by_network.values()]
            bars = axis.bar(
                [x + 0.27 * i for x in range(len(values))], values, 0.25, color=colour, label=way.replace("_", ", ")
            )
            axis.bar_label(bars, [f"{value:.0f}" for value in values], fontsize=7)
        axis.set_xticks([x + 0.27 for x in range(len(by_network))], list(by_network))
        axis.set_title(title, fontsize=9)
    axes[0].legend(frameon=False, fontsize=8)
    names = {
        "unet": "U-Net,\nwhole maps",
        "segnet_builtin": "SegNet,\n64-bit indices",
        "segnet": "SegNet here,\n2 bits",
    }
    values = [result["kept_bytes_per_image"][name] / 1024 for name in names]
    bars = axes[3].bar(list(names.values()), values, color=("#3b5b7a", "#8d99ae", "#bc4b51"))
    axes[3].bar_label(bars, [f"{value:,.0f}" for value in values], fontsize=7)
    axes[3].tick_params(axis="x", labelsize=7)
    axes[3].set_title("handed to the decoder, KiB a photograph", fontsize=9)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def save_pooling(path: Path) -> None:
    """What passes from encoder to decoder, on a map of 4x4: the values pooled, their places, the map unpooled."""
    x = torch.tensor([[0.1, 0.4, 0.0, 0.2], [0.9, 0.3, 0.5, 0.1], [0.2, 0.0, 0.3, 0.7], [0.1, 0.6, 0.2, 0.4]])
    values, places = max_pool(x[None, None])
    unpooled = max_unpool(values, places, (4, 4))[0, 0]
    codes = (places[0, 0] & 3).tolist()  # one channel: the byte's two lowest bits
    figure, axes = plt.subplots(1, 4, figsize=(9, 2.7), layout="constrained")
    panels = {
        "a map of the encoder": x,
        "pooled: what goes on down": values[0, 0],
        "places: what the decoder gets": torch.zeros(2, 2),
        "unpooled in the decoder": unpooled,
    }
    for axis, (title, numbers) in zip(axes, panels.items()):
        is_places = title.startswith("places")
        axis.imshow(numbers.numpy(), cmap="YlOrBr", vmin=0, vmax=1.6)
        for (i, j), value in np.ndenumerate(numbers.numpy()):
            text = f"{codes[i][j]:02b}" if is_places else f"{value:.1f}" if value or axis is axes[0] else "0"
            axis.text(j, i, text, ha="center", va="center", weight="bold" if is_places else "normal")
        side = len(numbers)
        axis.set(title=title, xticks=[n - 0.5 for n in range(side + 1)], yticks=[n - 0.5 for n in range(side + 1)])
        axis.title.set_fontsize(9)
        axis.grid(color="white", linewidth=1)
        axis.tick_params(length=0, labelbottom=False, labelleft=False)
    for axis in (axes[0], axes[3]):
        for edge in (-0.5, 1.5, 3.5):
            axis.axhline(edge, color="#3b5b7a")
            axis.axvline(edge, color="#3b5b7a")
    save(figure, path)
