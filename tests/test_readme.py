"""The README's figures against the committed files that they come from."""

import json

import pytest
from conftest import ROOT

PUBLISHED = ROOT / "outputs" / "published"
README = (ROOT / "README.md").read_text()


def result_line(row):
    """A published row as a line of the README's table of results."""
    figures = ("pixel_accuracy", "mean_iou", "iou", "iou_old_torchmetrics", "custom_iou", "dice")
    minutes = f"{row['train_seconds'] / 60:.0f}" if row.get("train_seconds") else "-"
    cells = [row["network"], row["run"], str(row["epochs"]), minutes, *(f"{row[name]:.4f}" for name in figures)]
    return "| " + " | ".join(cells) + " |"


def size_line(row):
    """A published row as a line of the table by size of pet: pixel accuracy / mean IoU."""
    thirds = [f"{t['pixel_accuracy']:.3f} / {t['mean_iou']:.3f}" for t in row["by_pet_size"].values()]
    classes = [f"{share:.3f}" for share in row["class_iou"]]
    return "| " + " | ".join([row["network"], row["run"], *thirds, *classes]) + " |"


def rows():
    path = PUBLISHED / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_published_row_is_in_the_readme_as_it_was_measured():
    assert rows()
    for row in rows():
        assert result_line(row) in README
        assert size_line(row) in README


def test_the_readme_has_no_row_that_was_not_published():
    lines = {line for row in rows() for line in (result_line(row), size_line(row))}
    networks = tuple(f"| {row['network']} |" for row in rows())
    assert {line for line in README.splitlines() if line.startswith(networks)} == lines


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row['run']}-{row['network']}")
def test_published_rows_are_whole(row):
    assert row["data"] in ("oxford", "oxford-256px-copy")
    assert row["test_images"] == 3669
    assert sum(map(sum, row["confusion"])) == 3669 * row["image_size"] ** 2
    right = sum(row["confusion"][c][c] for c in range(3))
    assert row["pixel_accuracy"] == pytest.approx(right / sum(map(sum, row["confusion"])))
    if row["network"] != "all_background":
        assert row["train_images"] in (3680, 3312)
        assert row["commit"] and row["command"] and row["machine"] and row["train_seconds"] > 0


def study_line(line):
    """A line of the study as a line of the README's table of choices."""
    names = ("pixel_accuracy", "mean_iou", "iou", "custom_iou")
    figures = [f"{line[f'validation_{name}']:.4f}" for name in names]
    return (
        "| " + " | ".join([f"`{line['setting']}`" if line["setting"] else "base", str(line["seed"]), *figures]) + " |"
    )


def study():
    """Lines of the study with its newest base."""
    lines = [json.loads(line) for line in (PUBLISHED / "study.jsonl").read_text().splitlines()]
    return [line for line in lines if line["base"] == lines[-1]["base"]]


def test_the_table_of_choices_is_the_study():
    for line in study():
        assert study_line(line) in README


def benchmark_lines(result):
    """The README's table of speed, from benchmark.json."""
    lines = []
    for key, name in (("train_step_ms", "training step"), ("inference_ms", "inference")):
        for network, by_way in result[key].items():
            ways = [by_way[way] for way in ("original", "ours_float32", "ours")]
            lines.append(f"| {name}, {network}, ms a photograph | " + " | ".join(f"{ms:.1f}" for ms in ways)
                         + f" | {ways[0] / ways[2]:.1f}x |")  # fmt: skip
    for kind in ("train", "infer"):
        for network, by_way in result["peak_memory_mib"][kind].items():
            ways = [by_way[way] for way in ("original", "ours_float32", "ours")]
            lines.append(f"| peak memory, {kind}, {network}, MiB | " + " | ".join(str(n) for n in ways)
                         + f" | {ways[0] / ways[2]:.1f}x |")  # fmt: skip
    data = result["data_images_per_second"]
    lines.append(f"| data path, photographs/s | {data['original']:.0f} | {data['ours']:.0f} | {data['ours']:.0f} | "
                 f"{data['ours'] / data['original']:.0f}x |")  # fmt: skip
    kept = result["kept_bytes_per_image"]
    lines.append(f"| kept for the decoder, bytes a photograph | {kept['segnet_builtin']:,} | {kept['segnet']:,} | "
                 f"{kept['segnet']:,} | {kept['segnet_builtin'] / kept['segnet']:.0f}x |")  # fmt: skip
    return lines


def test_the_table_of_speed_is_what_benchmark_py_wrote():
    for line in benchmark_lines(json.loads((PUBLISHED / "benchmark.json").read_text())):
        assert line in README


def test_the_agreement_of_both_steps_is_what_agreement_py_wrote():
    mean = json.loads((PUBLISHED / "agreement.json").read_text())["mean"]
    assert f"{mean['original']:.4f} (original) and {mean['ours']:.4f} (ours)" in README
