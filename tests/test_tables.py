"""Tables and sentences of the READMEs from rows that are known: paired by seed, and of what they say they are of."""

import re

import pytest

from common import results
from common.settings import UserError
from experiments import scaling, speed, tables, twin, views, worth


def test_what_trained_out_networks_cost_is_in_their_rows(monkeypatch):
    """Paired by seed, and nothing is said where one of the two has no rows of this version."""
    scores = {"segnet_dsc": (0.75, 0.5), "segnet": (0.78, 0.52)}
    record = [
        row | dict(zip(("mean_iou", "contour_mean_iou"), scores[row["network"]]))
        for row in results.rows()
        if row["run"].startswith("record100") and not row["mirror"] and row["network"] in scores
    ]
    monkeypatch.setattr(tables.findings, "rows", lambda: record)
    both = ("mean_iou", "contour_mean_iou")
    said = "+0.0300 ± 0.0000 (n=3) / +0.0200 ± 0.0000 (n=3) after 100 epochs with AdamW"
    assert tables.findings.by_recipe("segnet_dsc", "segnet", *both) == said
    assert tables.findings.by_recipe("segnet", "segnet_dsc", "mean_iou").startswith("-0.0300 ")
    assert tables.findings.by_recipe("segnet_dsc", "unet_dsc", *both) == ""
    one = [row for row in record if row["network"] == "segnet" or row["seed"] == 1]
    monkeypatch.setattr(tables.findings, "rows", lambda: one)
    assert "/ +0.0200 (one seed) after 100" in tables.findings.by_recipe("segnet_dsc", "segnet", *both)
    shorter = [
        row | {"mean_iou": row["mean_iou"] / 2} for row in results.rows() if re.match(r"muon40(-\d)?$", row["run"])
    ]
    monkeypatch.setattr(tables.findings, "rows", lambda: shorter + record)
    assert re.search("after 100 .* after 40 epochs", tables.findings.by_recipe("segnet_dsc", "segnet", "mean_iou"))
    monkeypatch.setattr(tables.findings, "rows", lambda: [row | {"version": 1} for row in record])
    assert tables.findings.by_recipe("segnet_dsc", "segnet", *both) == ""


def test_what_segnet_saves_is_said_with_its_sign(monkeypatch):
    """Less, or where it takes more, more: the least and the most over machines and networks."""

    def entry(*ours: int, quick: bool = True) -> dict:
        ways = {str(i): {"ours": {"ms": ms}, "unet": {"ms": 100}} for i, ms in enumerate(ours)}
        return {"unet_twin": {"train": ways, "infer": ways, "quick_gradients": quick}, "precision": "float32"}

    monkeypatch.setattr(twin, "entries", lambda: [entry(90, 70), entry(80)])
    assert twin.saved("train", "ms") == "10 to 30 % less"
    monkeypatch.setattr(twin, "entries", lambda: [entry(90, 70), entry(104)])
    assert twin.saved("train", "ms") == "4 % more to 30 % less"
    monkeypatch.setattr(twin, "entries", lambda: [entry(90, 70), entry(50, quick=False)])  # the U-Net's was slow
    assert twin.saved("train", "ms") == "10 to 30 % less"
    assert twin.saved("infer", "ms") == "10 to 50 % less"
    assert twin.on_which() == "the one machine timed since the U-Net's is quicker (float32)"


def test_how_far_memory_repeats_is_of_runs_of_the_same(monkeypatch):
    line = {"commit": "a", "image_size": 64, "batch_size": 8, "machine": "M", "threads": 2, "train_mib": 100}
    lines = [line | {"test_mib": 50}, line | {"test_mib": 40}, line | {"test_mib": 1, "commit": "b"}]
    monkeypatch.setattr(twin, "lines_of", lambda name: lines)
    entry = {"machine": "M", "precision": "bfloat16", "unet_twin": {}, "peak_memory_mib": {}}
    for kind, beside_unet in (("train", 97), ("infer", 100)):
        entry["unet_twin"][kind] = {"segnet": {"ours": {"peak_mib": beside_unet}}}
        entry["peak_memory_mib"][kind] = {"segnet": {"original": 1, "ours": 100, "ours_float32": 90}}
    monkeypatch.setattr(twin, "entries", lambda: [entry])
    assert (twin.repeats("train"), twin.repeats("infer")) == ("3 %", "20 %")
    entry["precision"] = "float32"  # so ours in float32 is ours once more
    assert twin.repeats("train") == "10 %"


def test_what_muon_brings_is_paired_by_seed(monkeypatch):
    """In whatever order rows and lines stand in their files; lines of another machine are not beside them."""
    by_seed = {0: 0.1, 1: 0.2, 2: 0.4}
    rows = [
        row | {"mean_iou": by_seed[row["seed"]] + (0.05 if row["run"].startswith("muon40") else 0)}
        for row in results.rows()
        if re.match("muon40|record100", row["run"])
    ]
    settings = ("LOSS=ce+dice", "LOSS=ce+dice OPTIMIZER=muon", "OPTIMIZER=muon", "")
    lines = [
        {"study": study, "setting": setting, "seed": seed, "base": "", "version": results.VERSION, "machine": "one",
         "validation_mean_iou": by_seed[seed] + 0.01 * settings.index(setting)}
        for study in ("moved", "rates", "short") for setting in settings for seed in by_seed
    ]  # fmt: skip
    elsewhere = [line | {"machine": "other", "validation_mean_iou": 0.9} for line in lines if line["seed"] != 2]
    lines += [line for line in elsewhere if line["setting"] != "OPTIMIZER=muon"]
    for some, others in ((rows, lines[:12]), (rows[::-1], lines[11::-1])):
        monkeypatch.setattr(tables.findings, "rows", lambda found=some: found)
        monkeypatch.setattr(tables.findings, "lines_of", lambda name, found=others: found + lines[12:])
        said = tables.findings.muon()
        assert (
            "minus that of 100 with AdamW, which had stronger zoom and rotation: SegNet +0.0500 ± 0.0000 (n=3)" in said
        )
        assert "separable +0.0500 ± 0.0000 (n=3) (one by a CPU, the other by a GPU)" in said
        assert "by -0.0100 ± 0.0000 (n=3) (separable) and -0.0100 ± 0.0000 (n=3) (SegNet) in short runs" in said
        assert "by +0.0100 ± 0.0000 (n=3) (separable) in 24 epochs with Dice." in said


def test_what_else_two_recipes_differ_in_is_said():
    strong, weak, turned = (
        {"constants": {"ZOOM": zoom, "ROTATION": turn}} for zoom, turn in ((0.4, 20), (0.2, 10), (0.2, 20))
    )
    pairs = ((strong, weak, "stronger"), (weak, strong, "weaker"), (turned, weak, "other"), (strong, turned, "other"))
    for first, second, kind in pairs:
        assert tables.findings.moved_otherwise(first, second) == f", which had {kind} zoom and rotation"
    assert tables.findings.moved_otherwise(weak, weak) == ""


def test_tables_are_of_one_set_of_data(monkeypatch):
    lines = {"results.jsonl": [{"data": "a"}], "study.jsonl": [{}], "lengths.jsonl": [{"data": "b"}]}
    monkeypatch.setattr(tables, "lines_of", lambda name: lines.get(name, []))
    with pytest.raises(UserError, match="results on a, b"):
        tables.main()


def test_a_row_says_on_how_many_cores_it_was_trained():
    """One number, or those of its legs."""
    row = {"machine": "AMD EPYC, AVX-512, 2 cores"}
    cores = [tables.cores_of(row | {"threads": threads}) for threads in (1, 2, "1, then 2")]
    assert cores == ["1 core, AVX-512", "2 cores, AVX-512", "1, then 2 cores, AVX-512"]


def test_tables_of_ranks_and_scale_say_what_was_measured(monkeypatch):
    """Before anything has been measured they say so; 8 images in 400 ms, of which 40 average, are 90 ms each."""
    measured = {"ranks": 2, "steps": 3, "repeats": 2, "machine": "M", "all_reduce_ms": {"segnet": 40.0},
                "images_per_second": {"segnet": {"128": {"one": [10.0, 12.0], "ranks": [20.0, 20.0]}}},
                "trained": {"network": "segnet_dsc", "image_size": 64},
                "mean_iou": {"one": [0.5], "ranks": [0.52]}}  # fmt: skip
    turn = {"start_seconds": 3.0, "pass_seconds": 2.0, "images_per_second": 60.0}
    turns = {"one": turn | {"memory_mib": [{"own": 1500, "mapped": 9}]},
             "ranks": turn | {"memory_mib": [{"own": 7, "mapped": 9}, {"own": 8, "mapped": 5}]}}  # fmt: skip
    larger = {"sets": [{"images": 7200, "decode_seconds": 90, **turns}], "image_size": 128, "ranks": 2, "steps": 3,
              "machine": "M", "decoding": {"one thread": 99.6}}  # fmt: skip
    gpu = {"machine": "NVIDIA H100", "train_step_ms": {name: {"ours": 1.0} for name in ("segnet", "segnet_dsc")}}
    for found, ranks, scale in ((None, "Not measured yet", "Not measured yet"), (measured, "2 ranks", "100 images/s")):
        files = {"ranks.json": found, "scale.json": found and larger, "benchmark.json": found and [gpu]}
        monkeypatch.setattr(scaling, "json_of", files.get)
        assert ranks in "".join(scaling.ranks()) and scale in scaling.scale()[0]
        assert ("as timed" in scaling.how_far()[0]) == bool(found)
    assert "| segnet | 128 | 11.0 | 20.0 | 1.82 (1.67 to 2.00) |" in scaling.ranks()
    assert "+0.0200" in scaling.ranks()[-1]
    rows = scaling.scale()
    assert "| 7,200 | 1.5 | one process | 3.0 | 2.0 | 60.0 | 2.0 | 1,500 | 9 |" in rows
    assert "| 7,200 | 1.5 | 2 ranks of one thread | 3.0 | 2.0 | 60.0 | 2.0 | 7 + 8 | 9 |" in rows
    assert "| segnet | 128 | 8 | 70 ms | 90 ms | 7.0 |" in scaling.how_far()
    assert scaling.how_far()[2].endswith(" | 0.24 ms | 55 µs | 1000 µs | 38.7 | 2.1 |")  # 0.24 ms are a tenth of a step


def test_seeds_of_a_recipe_share_a_line(monkeypatch):
    """Not so other networks, other recipes, or the same weights tested otherwise; minutes are the first seed's."""
    row = next(row for row in results.rows() if row["run"] == "record100" and row["network"] == "segnet")
    rows = [
        row | {"run": f"r-{seed}" if seed else "r", "seed": seed, "mean_iou": 0.7 + seed / 10} for seed in (2, 0, 1)
    ]
    rows[1]["train_seconds"] = 0
    rows += [row | {"run": "r-256"}, row | {"run": "r-mirror", "mirror": True}, row | {"run": "r", "network": "other"}]
    rows += [row | {"run": "r-1-mirror", "mirror": True, "seed": 1}]
    monkeypatch.setattr(tables, "rows", lambda: rows)
    lines = [line.split(" | ") for line in tables.results()[2:]]
    assert (lines[0][1], lines[0][2], lines[0][7]) == ("r", "3", "0.8000 ± 0.1000")
    assert [line[1:3] for line in lines[1:]] == [["r-256", "1"], ["r-mirror", "2"], ["r", "1"]]
    assert lines[0][4] == "-"


def test_changes_are_paired_by_seed(monkeypatch):
    """Mirror images against the same weights without them, 256 px against 128 px at the images' own size."""
    names = ("pixel_accuracy", "mean_iou", "custom_iou")
    row = {"network": "n", "image_size": 128, "epochs": 5} | dict.fromkeys(names, 0.5)
    plain = [
        row | {"run": run, "mirror": False, "mean_iou": of, "seed": seed, "constants": {"SEED": seed, "ZOOM": zoom}}
        for run, of, seed, zoom in (("r", 0.5, 0, 0), ("r-1", 0.7, 1, 0), ("s", 0.9, 0, 1))
    ]
    mirrored = [
        row | {"run": run, "mirror": True, "mean_iou": of, "seed": seed, "constants": {"ZOOM": 0, "SEED": seed}}
        for run, of, seed in (("r-1-mirror", 0.73, 1), ("weights-n-mirror", 0.51, 0))
    ]
    monkeypatch.setattr(views, "rows", lambda: plain + mirrored)
    assert views.mirror()[2:] == [
        "| n | r | 128 | 5 | +0.0000 ± 0.0000 (n=2) | +0.0200 ± 0.0100 (n=2) | +0.0000 ± 0.0000 (n=2) |"
    ]
    own = {
        run: [
            {"seed": seed, "epochs": 5, "own_size": {"mean_iou": of, "class_iou": [0, 0, of / 2]}}
            for seed, of in scores
        ]
        for run, scores in {
            "defaults": [(0, 0.5), (1, 0.9), (2, 0.1)],
            "defaults-256": [(1, 0.91), (0, 0.53)],
            "defaults-enlarged": [(2, 0.1), (1, 0.9), (0, 0.52)],
        }.items()
    }
    monkeypatch.setattr(views, "seeds_of", lambda run, network: own.get(run, []))
    (line,) = views.twice()[2:]
    assert line.endswith("| 5 | 0.5000 ± 0.4000 | 0.7200 ± 0.2687 | +0.0200 ± 0.0100 (n=2) | +0.0100 ± 0.0050 (n=2) |")
    (line,) = views.enlarged()[2:]
    assert line.split(" | ")[4:] == [
        "+0.0067 ± 0.0067 (n=3)",
        "+0.0100 ± 0.0000 (n=2)",
        "+0.0033 ± 0.0033 (n=3)",
        "+0.0050 ± 0.0000 (n=2) |",
    ]
    own |= {run.replace("defaults", "lite2-5"): rows for run, rows in own.items()}
    monkeypatch.setattr(worth, "seeds_of", views.seeds_of)
    said = worth.in_pixels()
    assert "in 5 epochs" in said and "+0.0200 ± 0.0100 (n=2) and +0.0100 ± 0.0050 (n=2) with that encoder" in said
    assert "scratch: 33 and 33 % of the gain" in said


def test_the_stopwatch_counts_seeds_that_reach_the_originals_mean(monkeypatch):
    entry = {"machine": "M", "threads": 2, "data_images_per_second": {"original": 100.0}, "precision": "float32",
             "train_step_ms": {key: {"original": 90.0, "ours": 9.0} for key in ("segnet", "segnet_dsc")},
             "decode_seconds": {"64": 0.5, "96": 1.5, "128": 3.0}}  # fmt: skip
    scores = dict.fromkeys(speed.SCORES, 0.5)
    row = {"machine": "M", "threads": 2, "train_images": 100, "epochs": 5, "train_seconds": 5.0, "seed": 0,
           "image_size": 128, "constants": {"SIZES": [0.5, 0.5, 0.75, 1.0]}, **scores}  # fmt: skip
    found = {"original": [row | {"mean_iou": 0.4}, row | {"mean_iou": 0.6}],
             "sprint-18": [row, row | {"mean_iou": 0.49, "seed": 1}, row | {"mean_iou": 0.7, "seed": 2}]}  # fmt: skip
    monkeypatch.setattr(speed, "entries", lambda: [entry, entry | {"machine": "other"}])
    monkeypatch.setattr(speed, "rows", lambda: [row for of_run in found.values() for row in of_run])

    def seeds_of(run, network, lines=None):
        return [row for row in found.get(run, []) if network == "segnet" and (lines is None or row in lines)]

    monkeypatch.setattr(speed, "seeds_of", seeds_of)
    for not_timed in ({"threads": 1}, {"seed": 1}, {"machine": "other still"}):
        found["sprint-35"] = [row | not_timed]
        (line,) = speed.stopwatch()[2:]
    assert line.startswith("| segnet | `EPOCHS=1,3 SIZES=0.5,1 JITTER=0.0 TRAIN_SHARE=0.18` | M | 50 | 10 | 5.0x | ")
    assert [cell.rpartition(": ")[2] for cell in line.strip(" |").split(" | ")[6:]] == [
        "3 of 3",
        "2 of 3",
        "3 of 3",
        "3 of 3",
        "3 of 3",
    ]
    assert speed.gains()[2].startswith(
        "| M, float32, measured with older code | 9 ms by AdamW: 10.0x | - |"
    )  # one seed of three isn't as good
    found["sprint-18"][1]["mean_iou"] = 0.5
    assert "| after 10 s: 5.0x |" in speed.gains()[2]
    found["sprint-18"][2]["iou_old_torchmetrics"] = 0.4
    assert "| after 10 s: 5.0x; old `iou` 2 of 3 |" in speed.gains()[2]
    found["sprint-18"][0]["iou"] = 0.4
    assert "| after 10 s: 5.0x; `iou` 2 of 3, old `iou` 2 of 3 |" in speed.gains()[2]
    found["sprint-18"][2]["iou_old_torchmetrics"] = row["iou"] = 0.5
    found["sprint-35"] = [row | {"constants": {"SIZES": [0.5]}}]  # decodes at two sizes alone: 3.5 s
    assert "| after 8 s: 5.9x |" in speed.gains()[2]
    found["sprint-35"][0]["train_seconds"] = 45.0  # the soonest is told, not the first of RECIPES
    assert "| after 10 s: 5.0x |" in speed.gains()[2]
    del entry["decode_seconds"]
    assert speed.stopwatch() == ["Not measured yet."]
