"""Charts of what the benchmark and the comparison found, and how pooling works."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from common.pictures import save
from common.pooling import max_pool, max_unpool


def save_benchmark(path: Path, result: dict) -> None:
    """Bars of the original against ours: training step, inference, peak memory; and what a decoder is handed."""
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
    panels = {
        "training step, ms per image": result["train_step_ms"],
        "inference, ms per image": result["inference_ms"],
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
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncol=3, frameon=False, fontsize=8)
    names = {
        "unet": "U-Net,\nwhole maps",
        "segnet_builtin": "SegNet,\n64-bit indices",
        "segnet": "SegNet here,\n2 bits",
    }
    values = [result["kept_bytes_per_image"][name] / 1024 for name in names]
    bars = axes[3].bar(list(names.values()), values, color=("#3b5b7a", "#8d99ae", "#bc4b51"))
    axes[3].bar_label(bars, [f"{value:,.0f}" for value in values], fontsize=7)
    axes[3].tick_params(axis="x", labelsize=7)
    axes[3].set_title("handed to the decoder, KiB per image", fontsize=9)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def save_comparison(path: Path, entries: list[dict]) -> None:
    """Mean IoU over multiply-adds, one panel per image size; areas are bytes kept, bars a deviation over seeds."""
    sizes = sorted({entry["size"] for entry in entries})
    if not sizes:
        return
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(entry["name"] for entry in entries))}
    figure, panels = plt.subplots(len(sizes), 1, figsize=(5.6, 3.2 * len(sizes)), layout="constrained", squeeze=False)
    for axis, size in zip(panels[:, 0], sizes):
        same_size = [entry for entry in entries if entry["size"] == size]
        step = 0.01 * max(entry["multiply_adds"] for entry in same_size) / 1e9  # aside, where costs are the same
        for i, entry in enumerate(same_size):
            beside = sum(other["multiply_adds"] == entry["multiply_adds"] for other in same_size[:i])
            x, values = entry["multiply_adds"] / 1e9 + step * beside, np.array(entry["mean_iou"])
            deviation = values.std(ddof=1) if len(values) > 1 else 0
            axis.errorbar(x, values.mean(), deviation, color="#8d99ae", capsize=3, zorder=1)
            axis.scatter(x, values.mean(), 20 + entry["kept_bytes"] / size**2 / 4, color=colours[entry["name"]],
                         alpha=0.8, label=f"{entry['name']}:\n{entry['kept_bytes'] / 1024:,.0f} KiB kept")  # fmt: skip
        axis.set(xlabel="10⁹ multiply-adds (dots side by side: the same)", ylabel="mean IoU")
        axis.set_title(f"{size} px")
        axis.margins(0.2)
        axis.spines[["top", "right"]].set_visible(False)
        legend = axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        for handle in legend.legend_handles:
            handle.set_sizes([30])
    save(figure, path)


def save_curve(path: Path, by_variant: dict[str, dict[int, list[float]]], others: dict[str, dict[int, float]]) -> None:
    """Mean IoU over the number of labelled images, a line for each title; bars are a deviation over seeds.

    others: published elsewhere, dashed.
    """
    figure, axis = plt.subplots(figsize=(6.4, 5.6), layout="constrained")
    for title, by_count in by_variant.items():
        means = [np.mean(values) for values in by_count.values()]
        deviations = [np.std(values, ddof=1) if len(values) > 1 else 0 for values in by_count.values()]
        axis.errorbar(list(by_count), means, deviations, fmt="o-", capsize=3, label=title)
    for grey, (title, by_count) in zip(("0.75", "0.6", "0.45"), others.items()):
        axis.plot(list(by_count), list(by_count.values()), "s--", color=grey, markersize=4, label=title)
    numbers = sorted({number for by_count in by_variant.values() for number in by_count})
    axis.set(xlabel="labelled images", ylabel="mean IoU on the test split", xscale="log")
    axis.set_xticks(numbers, map(str, numbers))
    axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncol=2, frameon=False, fontsize=8)
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
