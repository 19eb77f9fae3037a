"""What curve.py and pretraining.py have found, for the READMEs: tables, and what pretraining is worth in labels."""

import itertools
from pathlib import Path

from common.results import PUBLISHED, Row
from common.trimap import BORDER
from experiments import curve as runs
from experiments import pretraining, views
from experiments.cells import difference, markdown, mean, spread
from experiments.findings import how, kinds_of, seeds_of

PAIRS = {  # what pretraining changes: with it, without
    "the transformer, masked pretraining, 80 epochs": ("vit-masked", "vit-untrained"),
    "the transformer, masked pretraining, 400 epochs": ("vit-masked-long", "vit-untrained"),
    "the separable SegNet, masked pretraining": ("segnet_dsc-masked", "segnet_dsc"),
    "Lite0 with skips, ImageNet's weights and labels": ("lite0-imagenet", "lite0-random"),
    "another network: Lite0 with them in place of the separable SegNet": ("lite0-imagenet", "segnet_dsc"),
}


def curve(folder: Path = PUBLISHED) -> list[str]:
    """Mean IoU on the test split over labelled images, with the paper's below."""
    by_variant = runs.measured(folder)
    counts = sorted({count for by_count in by_variant.values() for count in by_count})
    if not counts:
        return ["Not measured yet."]
    cells = [
        (runs.SETTINGS[name].title, *(of_seeds(by_count[count]) if count in by_count else "-" for count in counts))
        for name, by_count in by_variant.items()
    ]
    for name, values in runs.PAPER.items():
        nearest = [min(values, key=lambda known: abs(known - count)) for count in counts]
        told = (f"{values[n]:.3f}" + ("" if n == count else f" ({n})") for n, count in zip(nearest, counts))
        cells.append((name, *told))
    return markdown(("mean IoU", *(f"{count} labels" for count in counts)), cells)


def of_seeds(rows: list[Row]) -> str:
    return spread([row["mean_iou"] for row in rows]) + (f" (n={len(rows)})" if len(rows) > 1 else "")


def curve_gains(folder: Path = PUBLISHED) -> list[str]:
    """What pretraining changes in mean IoU on the test split, with each number of labels."""
    found = {what: gains for what, pair in PAIRS.items() if (gains := gains_of(*pair, folder))}
    counts = sorted({count for gains in found.values() for count in gains})
    if not counts:
        return ["Not measured yet."]
    cells = [(what, *(difference(gains.get(count, [])) for count in counts)) for what, gains in found.items()]
    return markdown(("change in mean IoU", *(f"{count} labels" for count in counts)), cells)


def gains_of(with_it: str, without: str, folder: Path = PUBLISHED) -> dict[int, list[float]]:
    """Differences in mean IoU between two variants, for each seed that both have, by number of labels."""
    by_variant = runs.measured(folder)
    found = {}
    for count, rows in by_variant.get(with_it, {}).items():
        base = {row["seed"]: row["mean_iou"] for row in by_variant.get(without, {}).get(count, [])}
        if differences := [row["mean_iou"] - base[row["seed"]] for row in rows if row["seed"] in base]:
            found[count] = differences
    return found


def tried_lengths(folder: Path = PUBLISHED) -> list[str]:
    """Mean IoU on the validation tenth over steps, and the minutes that they took; before them those of pretraining."""
    variants = runs.SETTINGS | runs.EARLIER
    data = runs.data_of(folder)
    by_variant = {name: by_steps for name in variants if (by_steps := runs.tries(name, folder, data))}
    steps = [n for n in runs.LENGTHS if any(n in by_steps for by_steps in by_variant.values())]
    if not steps:
        return ["Not measured yet."]
    cells = []
    for name, by_steps in by_variant.items():
        before = pretraining.line_of(variants[name].pretraining)
        took = minutes(before) if before and pretraining.learns(before) else "-"
        told = {n: f"{line['validation_mean_iou']:.4f} ({minutes(line)})" for n, line in by_steps.items()}
        cells.append((variants[name].title, took, *(told.get(n, "-") for n in steps)))
    return markdown((f"mean IoU with {runs.FIRST} labels", "pretraining", *(f"{n} steps" for n in steps)), cells)


def minutes(line: Row) -> str:
    return f"{line['seconds'] / 60:.0f} min"


def answers() -> list[str]:
    """What pretraining is worth, and what larger images are, for the README."""
    return [in_epochs(), in_pixels(), in_labels()]


def in_epochs() -> str:
    """In those of the default recipe; beside it, SegNet from scratch."""
    with_it, without = (seeds_of(run, "segnet_dsc_lite2") for run in ("lite2-5", "lite2-5-random"))
    scratch, base = seeds_of("muon40", "segnet"), {row["seed"]: row["mean_iou"] for row in without}
    gains = [row["mean_iou"] - base[row["seed"]] for row in with_it if row["seed"] in base]
    return (
        f"**What do ImageNet's weights bring in {with_it[0]['epochs']} epochs?** By the default recipe (Muon for the "
        "decoder) the separable decoder on EfficientNet-Lite2 with skips "
        "(`ENCODER=tf_efficientnet_lite2 SKIP_FEATURES=True`) has a mean IoU of "
        f"{with_seeds(with_it)} with them, {with_seeds(without)} from random weights, which learn at ten times the "
        f"rate; by seed {difference(gains)}. From scratch SegNet has {with_seeds(scratch)} after "
        f"{scratch[0]['epochs']} epochs with zoom and rotation."
    )


def in_pixels() -> str:
    """Of images of twice the size, with ImageNet's weights and from scratch; and of them without their detail."""
    epochs = seeds_of("defaults-256", "segnet_dsc")[0]["epochs"]
    runs = (("lite2-5", "segnet_dsc_lite2"), ("defaults", "segnet_dsc"))

    def both(kind: str) -> str:
        found = [
            " and ".join(views.change(run, run + kind, network, *path) for path in ((), ("class_iou", BORDER)))
            for run, network in runs
        ]
        return f"{found[0]} with that encoder, {found[1]} for the separable SegNet from scratch"

    shares = [
        100 * views.mean_change(run, f"{run}-enlarged", network) / views.mean_change(run, f"{run}-256", network)
        for run, network in runs
    ]
    return (
        f"**What do 256 px in place of 128 bring in {epochs} epochs?** For four times the computing, in mean IoU and "
        f"that of the border at the images' own size: {both('-256')}. As much computing on images of 128 px, which the "
        f"network itself enlarges (`ENLARGE=2`), brings {both('-enlarged')}: {shares[0]:.0f} and "
        f"{shares[1]:.0f} % of the gain in mean IoU."
    )


def in_labels() -> str:
    """With which weights, and whether it lasts."""
    by_variant, few, most = runs.measured(), runs.FIRST, runs.COUNTS[-1]
    scratch, imagenet, masked = (by_variant[name] for name in ("segnet_dsc", "lite0-imagenet", "vit-masked-long"))
    weights, painting, lead = (
        gains_of(*pair)
        for pair in (("lite0-imagenet", "lite0-random"), ("vit-masked-long", "vit-untrained"),
                     ("lite0-imagenet", "segnet_dsc"))
    )  # fmt: skip
    used = [row for by_count in by_variant.values() for rows in by_count.values() for row in rows]
    return (
        f"**What is pretraining worth in labels?** In mean IoU, with {how(imagenet[few][0])}, by {kinds_of(used)}. "
        f"*ImageNet's weights* change EfficientNet-Lite0 with skips by {changes(weights)}, to "
        f"{with_seeds(imagenet[few])}{as_many(imagenet[few], scratch, 'the separable SegNet from scratch')}. Against "
        f"that SegNet it has {changes(lead, *runs.MORE_SEEDS, most)}. *Masked pretraining*, without labels, changes a "
        f"small vision transformer by {changes(painting)}; with {few} it reaches {with_seeds(masked[few])}"
        f"{as_many(masked[few], by_variant['vit-untrained'], 'without it')}. It changes the separable SegNet by "
        f"{pretraining.change('segnet-masked')} (64 px, on the validation tenth). "
        "[More](experiments/README.md#what-a-label-is-worth)."
    )


def with_seeds(rows: list[Row]) -> str:
    return of_seeds(rows) + (" (one seed)" if len(rows) == 1 else "")


def as_many(reached: list[Row], by_count: dict[int, list[Row]], whose: str) -> str:
    """How many labels another variant needs for the same mean IoU, as a part of a sentence; "" if nothing is known.

    reached: rows of one number of labels; by_count: those of the other variant.
    """
    value, means = mean(reached, "mean_iou"), {count: mean(rows, "mean_iou") for count, rows in by_count.items()}
    labels = labels_for(value, means)
    if labels is None:
        nearest = (max if value > max(means.values()) else min)(means, key=means.get)
        if nearest == reached[0]["train_images"]:
            return ""
        said, used = f"{'more' if value > means[nearest] else 'less'} than {whose} with {nearest:,}", [nearest]
    else:
        said = f"as much as {whose} with about {float(f'{labels:.2g}'):,.0f}"
        used = [max(count for count in means if count <= labels), min(count for count in means if count >= labels)]
    return f", {said}" + (" (one seed)" if any(len(by_count[count]) == 1 for count in used) else "")


def labels_for(value: float, curve: dict[int, float]) -> float | None:
    """At how many labels a curve reaches a value: straight lines over the logarithm of labels. None beyond its ends.

    curve: mean IoU by number of labels.
    """
    for (fewer, there), (more, then) in itertools.pairwise(sorted(curve.items())):
        if min(there, then) <= value <= max(there, then) and there != then:
            return min(more, fewer * (more / fewer) ** ((value - there) / (then - there)))
    return None


def changes(gains: dict[int, list[float]], *counts: int) -> str:
    """Gains with these numbers of labels, or else with those that are meant to have several seeds."""
    wanted = counts or runs.MORE_SEEDS
    told = [f"{difference(found)} with {count:,}" for count, found in gains.items() if count in wanted]
    return ", ".join(told) + " labels" if told else "an amount not measured yet"
