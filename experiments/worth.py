"""What curve.py and pretraining.py have found, for the READMEs: tables, and what pretraining is worth in labels."""

import statistics
from pathlib import Path

from common.results import PUBLISHED, Row
from experiments import curve as runs
from experiments import pretraining
from experiments.findings import difference, markdown, seeds_of, spread

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


def answer() -> str:
    """What pretraining is worth, for the README: in labels, with which weights, and where it stops."""
    by_variant, few = runs.measured(), runs.FIRST
    scratch = seeds_of("record100", "segnet_dsc")
    every = scratch[0]["train_images"]
    lead = gains_of("lite0-imagenet", "segnet_dsc")
    return (
        f"**What is pretraining worth in labels?** With *ImageNet's weights*, and so the labels of 1.3 M other images, "
        f"{few} labelled images ({every - runs.COUNTS[-1]} more chose how long to train) bring Lite0 under SegNet's "
        f"separable decoder with skips to a mean IoU of {with_seeds(by_variant['lite0-imagenet'][few])}; from scratch "
        f"the separable SegNet reaches {with_seeds(by_variant['segnet_dsc'][few])} with as many and "
        f"{with_seeds(scratch)} with {every:,} ({scratch[0]['epochs']} epochs with `LOSS={scratch[0]['loss']}`), and "
        f"{of_weights(gains_of('lite0-imagenet', 'lite0-random'))}. *Masked "
        "pretraining*, which needs no labels, brings a small vision transformer under SegNet's decoder, by 400 epochs, "
        f"{tested(gains_of('vit-masked-long', 'vit-untrained'), by_variant['vit-masked-long'])}, each side trained "
        f"out, and the separable SegNet {pretraining.change('segnet-masked')} at 64 px. *Where does it stop?* The lead "
        f"of Lite0 over the separable SegNet is {changes(lead)}{ends(lead) or '; where it ends is not measured'}. "
        "([More](experiments/README.md#what-a-label-is-worth).)"
    )


def with_seeds(rows: list[Row]) -> str:
    return of_seeds(rows) + (" (one seed)" if len(rows) == 1 else "")


def of_weights(gains: dict[int, list[float]]) -> str:
    """What the weights give alone, against the same network from random ones."""
    if not gains:
        return "what the weights bring without the other network is not measured yet"
    return f"the weights alone bring {changes(gains)}"


def tested(gains: dict[int, list[float]], with_it: dict[int, list[Row]]) -> str:
    """What masked pretraining gives on the test split, and what is reached with it; rows by number of labels."""
    reached = ", ".join(with_seeds(with_it[count]) for count in gains)
    return f"{changes(gains)}{ends(gains)} (to {reached})" if gains else "an amount not measured yet"


def ends(gains: dict[int, list[float]]) -> str:
    """Where a gain ends, in brackets."""
    end = reach(gains, runs.GAIN)
    return end and f" ({end})"


def changes(gains: dict[int, list[float]]) -> str:
    return ", ".join(f"{difference(found)} with {count:,}" for count, found in gains.items()) + " labels"


def reach(gains: dict[int, list[float]], least: float) -> str:
    """From which number of labels on the mean gain is less than that; "" where no two numbers have several seeds."""
    means = {count: statistics.mean(found) for count, found in sorted(gains.items()) if len(found) > 1}
    if len(means) < 2:
        return ""
    worth_it = [count for count, gain in means.items() if gain >= least]
    beyond = [count for count in means if not worth_it or count > worth_it[-1]]
    if beyond:
        return f"less than {least} from {beyond[0]:,} on"
    return f"still {least} or more with {worth_it[-1]:,}, the most that have several seeds" if worth_it else ""
