"""What ranks bring and what a larger set costs, on a few drawn pets: every number is there, nothing else is left."""

import json

import pytest

import fetch_oxford_iiit_pets as pets
from common import results
from experiments import ranks, scale, scaling


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    for name, value in (("DATASET", "toy"), ("DATA_ROOT", "."), ("OUTPUTS", str(tmp_path)), ("IMAGE_SIZE", 32)):
        monkeypatch.setattr(pets, name, value)
    published = pets.published_folder()
    monkeypatch.setattr(scaling, "json_of", lambda name: results.json_of(name, published))
    return tmp_path / "toy"


@pytest.mark.slow
def test_ranks_against_one_process(outputs, monkeypatch):
    for name, value in (("NETWORKS", ("segnet_dsc",)), ("IMAGE_SIZES", (32,)), ("REPEATS", 1), ("STEPS", 2),
                        ("SEEDS", (0,)), ("TRAINED_SIZE", 32), ("RANKS", 2)):  # fmt: skip
        monkeypatch.setattr(ranks, name, value)
    ranks.main()
    found = json.loads((outputs / "published/ranks.json").read_text())
    assert all(rate[0] > 0 for rate in found["images_per_second"]["segnet_dsc"]["32"].values())
    assert found["all_reduce_ms"]["segnet_dsc"] > 0 and found["parameters"]["segnet_dsc"] == 1_749_668
    rows = results.rows(outputs)
    assert [row["ranks"] for row in rows] == [1, 2]
    assert found["mean_iou"] == {"one": [rows[0]["mean_iou"]], "ranks": [rows[1]["mean_iou"]]}
    assert not list(outputs.glob("ranks-*"))
    assert len(scaling.ranks()) > 6 and len(scaling.how_far()) == 12


@pytest.mark.slow
def test_costs_of_a_set(outputs, monkeypatch):
    for name, value in (("UNIT", 80), ("TIMES", (1, 2)), ("DRAWN", 8), ("STEPS", 2), ("DECODED", 64)):
        monkeypatch.setattr(scale, name, value)
    scale.main()
    found = json.loads((outputs / "published/scale.json").read_text())
    assert len(found["decoding"]) in (2, 3) and all(rate > 0 for rate in found["decoding"].values())
    for n, images in zip((80, 160), found["sets"]):
        assert images["images"] == images["ranks"]["images"] == n
        assert [len(images[way]["memory_mib"]) for way in ("one", "ranks")] == [1, 2]
        assert (
            images["decode_seconds"] > 0 and images["one"]["pass_seconds"] > 0 and images["ranks"]["start_seconds"] > 0
        )
    assert [path.name for path in outputs.iterdir()] == ["published"]
    assert len(scaling.scale()) == 8
