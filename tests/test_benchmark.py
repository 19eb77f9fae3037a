"""The benchmark, whole, on drawn pets at 32 px: what it writes, and what it must find whatever the machine."""

import importlib.util
import json

import pytest
import torch

import fetch_oxford_iiit_pets as pets
import train
from common import gradients, machine, winograd
from common.winograd import Conv2d
from dataset.batches import divide
from experiments import agreement, benchmark, speed, tasks, ways


class Orders(list):
    """A worker's end of its pipe: gives it the orders in this list, and keeps what it answers."""

    def recv(self) -> str:
        return self.pop(0)

    def send(self, answer: float) -> None:
        assert answer > 0  # seconds of a turn, and at the end MiB


@pytest.mark.parametrize("way", [*benchmark.WAYS, ways.TWIN, ways.TORCHS, ways.TORCHS_GRADIENTS])
def test_a_worker_measures_batches_of_the_size_asked_for(way, monkeypatch):
    """It is a new process: of the command line it knows what its job says. What is float32 is so in Muon too."""
    seen, step = [], train.train_step

    def watched(network, optimizer, images, trimaps, loss, dtype):
        seen.append(images.shape)
        assert getattr(optimizer, "dtype", torch.float32) == dtype
        kinds = {module.plain for module in network.modules() if isinstance(module, Conv2d)}
        assert kinds == {way in ("original", ways.TORCHS)}  # whose convolutions are torch's
        assert gradients.QUICK is (way != ways.TORCHS_GRADIENTS)
        return step(network, optimizer, images, trimaps, loss, dtype)

    monkeypatch.setattr(train, "train_step", watched)
    for module, name in ((train, "PRECISION"), (train, "ENCODER"), (gradients, "QUICK")):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back after the test
    for name in ("DATASET", "IMAGE_SIZE"):
        monkeypatch.setattr(pets, name, getattr(pets, name))  # put back after the test
    job = ways.Job("train", "segnet", 4, 32, {"DATASET": "toy", "IMAGE_SIZE": 32}, {})
    ways.work(job, way, Orders(["go", "stop"]))
    assert {tuple(shape) for shape in seen} == {(4, 3, 32, 32)}


@pytest.mark.slow
def test_benchmark_measures_and_writes_everything(script, tmp_path):
    script(
        "experiments.benchmark",
        "DATASET=toy",
        "IMAGE_SIZE=32",
        "REPEATS=1",
        "BUSY_TURNS=1",
        "BATCH_SIZE=4",
        "IMAGES=32",
        "PARTS=steps,convolutions,gradients,busy,twin,data,start",
    )
    folder = tmp_path / "toy" / "published"
    (result,) = json.loads((folder / "benchmark.json").read_text())
    for key in ("train_step_ms", "inference_ms"):
        for network in ("segnet", "segnet_dsc"):
            assert all(result[key][network][way] > 0 for way in ("original", "ours", "ours_float32"))
            assert result["peak_memory_mib"]["train"][network]["ours"] > 100
            twin = result["unet_twin"]["train" if key == "train_step_ms" else "infer"][network]
            assert all(twin[way]["ms"] > 0 and twin[way]["peak_mib"] > 100 for way in ("ours", "unet"))
    assert result.get("convolutions", {}).keys() == ({"ours_float32", "torchs_float32"} if winograd.PAYS else set())
    kept = result["kept_bytes_per_image"]
    windows = sum(channels * (32 // 2**i) ** 2 for i, channels in enumerate((64, 128, 256, 512), start=1))
    assert kept == {"segnet_builtin": 8 * windows, "segnet": windows // 4, "unet": 4 * 4 * windows}
    assert result["data_images_per_second"]["ours"] > result["data_images_per_second"]["original"]
    assert result["start_to_first_step_seconds"] > 0
    assert result["unet_twin"]["quick_gradients"]
    titles = [title for title in benchmark.GRADIENTS if "lite" not in title or importlib.util.find_spec("timm")]
    quick = machine.device().type == "cpu" and machine.bfloat16_pays()
    assert list(result.get("gradients", {})) == (titles if quick else [])
    assert all(step["ms"] > 0 for by_way in result.get("gradients", {}).values() for step in by_way.values())
    parts = ["steps", "twin", "data", "start", *(["convolutions"] if winograd.PAYS else []), *(["gradients"] * quick)]
    parts += ["busy"] * (machine.device().type == "cpu")
    assert list(result["measured"]) == parts
    assert list(result["decode_seconds"]) == ["16", "20", "24", "32"]
    assert all(seconds > 0 for seconds in result["decode_seconds"].values())
    assert abs(result["step_gflop_per_image"]["segnet"] - 54.7 / 16) < 0.02  # counted elsewhere at 128 px: 54.7
    assert result["step_gflop_per_image"]["segnet_dsc"] < result["step_gflop_per_image"]["segnet"] / 8
    assert (folder / "benchmark.png").stat().st_size > 10_000
    assert (folder / "pooling.png").stat().st_size > 10_000
    assert not (tmp_path / "toy" / "benchmark-start").exists()


@pytest.mark.slow
def test_either_step_learns_the_same_from_the_same_seed(monkeypatch, tmp_path):
    for name, value in {"DATASET": "toy", "OUTPUTS": str(tmp_path), "IMAGE_SIZE": 32}.items():
        monkeypatch.setattr(pets, name, value)
    monkeypatch.setattr(agreement.train, "OPTIMIZER", "adamw")
    parts = divide(pets.load("trainval"), 0.2, 1.0)
    of_seeds = [[agreement.train_once(way, seed, *parts, 1, 1e-4) for way in agreement.WAYS] for seed in (0, 1)]
    assert abs(of_seeds[0][0] - of_seeds[1][0]) > 0.04  # it can differ
    for original, ours_float32, ours in of_seeds:
        assert abs(ours_float32 - original) < 0.01
        assert abs(ours - original) < 0.02


def test_all_sizes_of_the_timed_recipes_are_decoded_by_the_benchmark():
    recipes = [task for task in tasks.tasks() if task.run in speed.RECIPES]
    assert len(recipes) == len(speed.RECIPES)
    for task in recipes:
        assert set(tasks.constants_of(task.arguments)["SIZES"]) <= set(benchmark.SHARES), task
