"""What the published rows say about SegNet: compare.py's variants in one table, questions answered from them."""

import statistics

import train
from common.results import VERSION, Row, json_of, lines_of, rows
from common.trimap import BORDER, CLASSES
from experiments import twin
from experiments.cells import difference, markdown, spread
from experiments.tasks import SEEDS, STUDY, Task, constants_of, row_of, tasks

MUON = "OPTIMIZER=muon"
AT_95 = 4.3  # standard errors to either side, of three seeds: Student's t with two degrees of freedom
OPTIMIZERS = {"muon": "Muon", "adamw": "AdamW"}


def comparison(lines: list[Row], groups: tuple[str, ...] = ("study", "full")) -> list[dict[str, object]]:
    """Groups of compare.py: an entry for each variant that has rows, results in lists over seeds."""
    names = ("pixel_accuracy", "mean_iou", "contour_mean_iou")
    found = []
    for (variant, *_), of_variant in by_variant(groups).items():
        chosen = [row for task in of_variant if (row := row_of(task, lines))]
        if chosen:
            first = chosen[0]
            found.append({
                "name": variant, "size": first["image_size"], "epochs": first["epochs"],
                "seeds": [row["seed"] for row in chosen],
                **{name: first[name] for name in ("parameters", "multiply_adds", "kept_bytes", "loss")},
                "constants": first["constants"], "by": kinds_of(chosen),
                **{name: [row[name] for row in chosen] for name in names},
                "border_iou": [row["class_iou"][BORDER] for row in chosen],
                "small_pets": [row["by_pet_size"]["small"]["mean_iou"] for row in chosen],
            })  # fmt: skip
    return found


def entries(size: int, groups: tuple[str, ...] = ("study", "full")) -> dict[str, dict[str, object]]:
    """The variants of some groups at a size, px, by name."""
    return {entry["name"]: entry for entry in comparison(rows(), groups) if entry["size"] == size}


def seeds_of(run: str, network: str, lines: list[Row] | None = None) -> list[Row]:
    """compare.py's rows of a run, among `lines` or all, one of each seed that there is, in their order."""
    names = {run, *(f"{run}-{seed}" for seed in SEEDS)}
    found = [task for task in tasks() if task.network == network and task.run in names]
    lines = rows() if lines is None else lines
    return [row for task in found if (row := row_of(task, lines))]


def by_variant(groups: tuple[str, ...]) -> dict[tuple[str, str, str], list[Task]]:
    """compare.py's tasks by variant, group and network: seeds of one training are together."""
    found: dict[tuple[str, str, str], list[Task]] = {}
    for task in tasks():
        if task.group in groups:
            found.setdefault((task.variant, task.group, task.network), []).append(task)
    return found


def compared() -> list[str]:
    cells = []
    for entry in sorted(comparison(rows()), key=lambda entry: -entry["size"]):
        measured = [spread(entry[name]) for name in ("pixel_accuracy", "mean_iou", "contour_mean_iou", "small_pets")]
        cells.append((
            entry["name"], entry["size"], len(entry["mean_iou"]), f"{entry['parameters'] / 1e6:.2f} M",
            f"{entry['multiply_adds'] / 1e9:.2f} G", f"{entry['kept_bytes'] / 1024:,.0f} KiB",
            *measured,
        ))  # fmt: skip
    header = ("network", "px", "seeds", "parameters", "multiply-adds", "kept", "pixel accuracy",
              "mean IoU", "near the contour", "small pets")  # fmt: skip
    return markdown(header, cells)


def decoders() -> list[str]:
    """What a decoder of the same widths makes of what it is handed: nothing, indices, maps, or both."""
    handed = {
        "bilinear_dsc": "nothing; upsampled bilinearly",
        "segnet_dsc": "pooling indices (SegNet)",
        "bilinear_maps_dsc": "maps, added; upsampled bilinearly",
        "segnet_maps_dsc": "pooling indices, and maps, added",
        "unet_dsc": "maps, joined; upsampled bilinearly (U-Net)",
    }
    found = entries(64)
    cells = []
    for name, what in handed.items():
        if name in found and "segnet_dsc" in found:
            entry, segnet = found[name], found["segnet_dsc"]
            cells.append((
                what, f"{entry['parameters'] / 1e6:.2f} M", f"{entry['kept_bytes'] / 1024:,.0f} KiB",
                len(entry["seeds"]), *(spread(entry[result]) for result in ("mean_iou", "border_iou")),
                *(paired(entry, segnet, result) for result in ("mean_iou", "border_iou")),
            ))  # fmt: skip
    header = ("the decoder is handed", "parameters", "per image", "seeds", "mean IoU", "border IoU",
              "mean IoU against SegNet", "border IoU against SegNet")  # fmt: skip
    return markdown(header, cells)


def paired(entry: dict[str, object], base: dict[str, object], result: str) -> str:
    """Mean difference from the base over the seeds that both have, its standard error, and how many."""
    return "-" if entry is base else difference(differences(entry, base, result))


def differences(entry: dict[str, object], base: dict[str, object], result: str) -> list[float]:
    """Differences from the base, for each seed that both have."""
    of_base = dict(zip(base["seeds"], base[result]))
    return [value - of_base[seed] for seed, value in zip(entry["seeds"], entry[result]) if seed in of_base]


def study_lines(study: str) -> dict[tuple[str, str], dict[int, Row]]:
    """study.py's lines of this version and its newest base, by setting and machine, then by seed."""
    lines = [line for line in lines_of("study.jsonl") if line.get("version", 1) == VERSION and line["study"] == study]
    found: dict[tuple[str, str], dict[int, Row]] = {}
    for line in lines:
        if line["base"] == lines[-1]["base"]:
            found.setdefault((line["setting"], line["machine"]), {})[line["seed"]] = line
    return found


def study_changes(lines: dict[int, Row], base: dict[int, Row], name: str) -> list[float]:
    """What one setting's lines differ by from another's in a result on the validation tenth, for each shared seed."""
    key = f"validation_{name}"
    return [line[key] - base[seed][key] for seed, line in lines.items() if seed in base]


def study_change(study: str, setting: str, name: str, beside: str = "") -> str:
    """The same for a setting beside another, or the base, on the machine that trained both with the most seeds."""
    lines = study_lines(study)
    by_machine = [
        study_changes(of, lines.get((beside, machine), {}), name)
        for (changed, machine), of in lines.items()
        if changed == setting
    ]
    return difference(max(by_machine, key=len, default=[]))


def aligned() -> list[str]:
    """Training on labels of the nearest pixel against aligned ones, by seed, scored on aligned labels."""
    wanted = [constants_of(tuple(STUDY.split()))[name] for name in ("IMAGE_SIZE", "TRAIN_SHARE")]
    old = {
        line["seed"]: line
        for line in lines_of("truth.jsonl")
        if [line["version"], *(line["constants"][name] for name in ("IMAGE_SIZE", "TRAIN_SHARE"))] == [VERSION, *wanted]
    }
    new = {
        row["seed"]: row
        for task in by_variant(("study",))[("segnet_dsc", "study", "segnet_dsc")]
        if (row := row_of(task, rows()))
    }
    shared = sorted(old.keys() & new.keys())
    cells, gains = [], []
    for seed in shared:
        pairs = (
            (old[seed]["mean_iou"], new[seed]["mean_iou"]),
            (old[seed]["border_iou"], new[seed]["class_iou"][BORDER]),
        )
        gains.append([after - before for before, after in pairs])
        cells.append((seed, *(f"{value:.4f}" for pair in pairs for value in pair)))
    if shared:
        cells.append(("difference", "", difference([g[0] for g in gains]), "", difference([g[1] for g in gains])))
    return markdown(("seed", "mean IoU, nearest", "aligned", "border IoU, nearest", "aligned"), cells)


def shares() -> list[str]:
    """How much wider or narrower each class becomes when labels are resized, against the full-size trimaps."""
    counted = (json_of("class_shares.json") or {}).get("class_shares", {})
    full, cells = counted.get("full", {}).get("full"), []
    for size, by_way in counted.items():
        for way, found in by_way.items():
            change = [share / of_full - 1 for share, of_full in zip(found, full)]
            cells.append((size if size == "full" else f"{size} px, {way}", *(f"{share:.4f}" for share in found),
                          *(("-",) * 3 if size == "full" else (f"{100 * c:+.1f} %" for c in change))))  # fmt: skip
    return markdown(("labels", *CLASSES, *(f"{name}, change" for name in CLASSES)), cells)


def answers() -> list[str]:
    """Questions about SegNet, each answered in short sentences; every word that judges comes from the numbers."""
    unet, fifth = Pair("segnet_dsc", "unet_dsc", 64), Pair("segnet_dsc", "fifth-stage", 64)
    nothing, maps = Pair("bilinear_dsc", "segnet_dsc", 64), Pair("segnet_dsc", "bilinear_maps_dsc", 64)
    both = Pair("bilinear_maps_dsc", "segnet_maps_dsc", 64)
    full, deeper = Pair("segnet_dsc", "segnet", 128), Pair("segnet_dsc", "fifth-stage", 128)
    border, all_classes = (study_change("moved", "LOSS=ce+dice", name) for name in ("border_iou", "mean_iou"))
    return [
        f"**What does SegNet save?** Its decoder is handed {unet.ratio('kept_bytes'):.0f} times fewer bytes than a "
        f"U-Net's of the same widths, {unet.ratio('kept_bytes') / 2:.0f} times in bfloat16, which halves maps but not "
        f"indices. A training step takes {twin.saved('train', 'ms')} time on {twin.on_which()}. On all that were timed "
        f"predicting takes {twin.saved('infer', 'ms')}, and the process's peak memory in training is "
        f"{twin.saved('train', 'peak_mib')}, where two runs of the same differ by up to {twin.repeats('train')}.",
        "**What does that cost?** The U-Net's mean IoU minus SegNet's, both separable, over all pixels / at most "
        f"3 of 128 px from the border: {by_recipe('segnet_dsc', 'unet_dsc', 'mean_iou', 'contour_mean_iou')}; "
        f"{unet.gain()} / {unet.gain('contour_mean_iou')} in the short runs (there at most 2 of 64 px from it).",
        f"**What do pooling indices give?** In the short runs {nothing.gain()} of mean IoU over nothing handed "
        f"over; whole maps, added without a parameter more, give {maps.gain()} over indices. With maps, indices in "
        f"place of bilinear upsampling change it by {both.gain()}.",
        f"**What does separable convolution cost?** SegNet has {full.ratio('parameters'):.0f} times the parameters "
        f"of its separable twin and {full.ratio('multiply_adds'):.0f} times the multiply-adds. Its mean IoU minus the "
        f"twin's: {by_recipe('segnet_dsc', 'segnet', 'mean_iou')}.",
        f"**Which loss finds small pets, and which the border?** {losses()}. Dice in place of the soft IoU in the "
        f"sum changes the border's IoU by {border}, mean IoU by {all_classes} (64 px, 24 epochs with AdamW, on the "
        "validation tenth).",
        "**Does the paper's fifth stage help at 128 px?** "
        f"{deeper.verdict()}: it changes the separable network's mean IoU by {deeper.gain()} after "
        f"{deeper.first['epochs']} epochs, by {fifth.gain()} in the short runs.",
        f"**What does Muon bring?** {muon()}",
    ]


def by_recipe(first: str, second: str, *results: str) -> str:
    """What the second network gains over the first at 128 px, in each recipe that has rows of both, longest first."""
    said = []
    for group in ("record", "muon", "full"):
        if {first, second} <= entries(128, (group,)).keys():
            pair = Pair(first, second, 128, (group,))
            gains = " / ".join(pair.gain(result) for result in results)
            said.append(f"{gains} after {pair.first['epochs']} epochs with {how(pair.first)}{across(*pair.both)}")
    return "; ".join(said)


def muon() -> str:
    """What both networks gain by it when trained out, and in the studies, where nothing else changes."""
    ours, record = (entries(128, (group,))["segnet"] for group in ("muon", "record"))
    separable, separable_record = (entries(128, (group,))["segnet_dsc"] for group in ("muon", "record"))
    beside_dice = study_change("moved", f"LOSS=ce+dice {MUON}", "mean_iou", beside="LOSS=ce+dice")
    short, of_segnet = (study_change(study, MUON, "mean_iou") for study in ("short", "rates"))
    return (
        f"Mean IoU of {ours['epochs']} epochs with {how(ours)} minus that of {record['epochs']} with {how(record)}"
        f"{moved_otherwise(record, ours)}: SegNet {paired(ours, record, 'mean_iou')}, separable "
        f"{paired(separable, separable_record, 'mean_iou')}{across(separable, separable_record)}. With nothing else "
        f"changed, on the validation tenth, it differs by {short} (separable) and {of_segnet} (SegNet) in short runs"
        + (f", by {beside_dice} (separable) in 24 epochs with Dice." if beside_dice != "-" else ".")
    )


def moved_otherwise(first: dict[str, object], second: dict[str, object]) -> str:
    """What is to be said of a variant whose images were zoomed and turned more than another's, or less."""
    more = [first["constants"][name] - second["constants"][name] for name in ("ZOOM", "ROTATION")]
    if more == [0, 0]:
        return ""
    kind = "stronger" if min(more) > 0 else "weaker" if max(more) < 0 else "other"
    return f", which had {kind} zoom and rotation"


def kind_of(machine: str) -> str:
    return "CPU" if machine.endswith("cores") and ", mps, " not in machine else "GPU"


def kinds_of(found: list[Row]) -> str:
    """What trained some rows: "CPU", "GPU" or "CPU and GPU"."""
    return " and ".join(sorted({kind_of(row["machine"]) for row in found}))


def across(first: dict[str, object], second: dict[str, object]) -> str:
    """What is to be said where two variants were trained by machines of two kinds."""
    return "" if first["by"] == second["by"] else f" (one by a {first['by']}, the other by a {second['by']})"


def how(row: Row) -> str:
    """The optimiser that a row was trained with, and the loss where it is not the default."""
    loss = "" if row["loss"] == train.LOSS else f"`{row['loss']}` and "
    return loss + OPTIMIZERS[row["constants"]["OPTIMIZER"]]


def losses() -> str:
    """Mean IoU on small pets by loss, best first."""
    titles = {"cross-entropy": "cross-entropy", "segnet_dsc": "`ce+iou`", "iou-loss": "the IoU loss"}
    small = entries(64)
    ranked = sorted(titles, key=lambda name: -statistics.mean(small[name]["small_pets"]))
    ranking = ", ".join(f"{titles[name]} {spread(small[name]['small_pets'])}" for name in ranked)
    return (
        f"Mean IoU on the smallest third of pets in the short runs: {ranking}; the first two differ by "
        f"{paired(small[ranked[0]], small[ranked[1]], 'small_pets')}"
    )


class Pair:
    """Two variants at one size: what the second gains over the first, for each seed that both have."""

    def __init__(self, first: str, second: str, size: int, groups: tuple[str, ...] = ("study", "full")) -> None:
        self.both = self.first, self.second = [entries(size, groups)[name] for name in (first, second)]

    def gain(self, result: str = "mean_iou") -> str:
        return paired(self.second, self.first, result)

    def verdict(self) -> str:
        """Whether the second's mean IoU is higher; "Undecided" where three seeds or more don't say so at 95 %."""
        found = differences(self.second, self.first, "mean_iou")
        mean = statistics.mean(found)
        if len(found) < 3 or abs(mean) < AT_95 * statistics.stdev(found) / len(found) ** 0.5:
            return "Undecided"
        return "Yes" if mean > 0 else "No"

    def ratio(self, cost: str) -> float:
        """How many times as much either of them costs as the other: at least 1."""
        first, second = self.first[cost], self.second[cost]
        return max(first, second) / min(first, second)
