"""Resuming: what may differ between the legs of a run, what may not, and what its row says of them."""

import json

import pytest
import torch

import fetch_oxford_iiit_pets as pets
import train
from common import checkpoints, machine
from dataset.cache import TRUTH

RUN = ("DATASET=toy", "IMAGE_SIZE=32", "SIZES=1", "BATCH_SIZE=16", "THREADS=1", "NETWORKS=segnet_dsc")


@pytest.fixture
def begun(script, tmp_path):
    """Two epochs of a run; its folder."""
    script("train.py", *RUN, "EPOCHS=1,3", "VALIDATION_SHARE=0.2")
    return tmp_path / "toy" / "default" / "segnet_dsc"


def test_another_leg_has_other_constants_but_the_same_images(script, begun, tmp_path):
    for other in ("VALIDATION_SHARE=0.25", "TRAIN_SHARE=0.5", "OPTIMIZER=adam", "SEED=1", "HEAD=original", "ENLARGE=2"):
        kept = () if other.startswith("VALIDATION") else ("VALIDATION_SHARE=0.2",)
        said = script("train.py", *RUN, "EPOCHS=3,4", *kept, other, fails=True)
        assert f"was begun with {other.partition('=')[0]}=" in said
    script("train.py", *RUN, "EPOCHS=3,4", "VALIDATION_SHARE=0.2", "LOSS=ce", "WEIGHT_DECAY=0.0")
    script("test.py", *RUN[:2], "NETWORKS=segnet_dsc", "EXAMPLES=0", "MIRROR=True", "PRECISION=float32")
    row = json.loads((tmp_path / "toy/results.jsonl").read_text().splitlines()[-1])
    legs = row["command"].split(", then ")
    assert [("EPOCHS=1,3" in leg, "EPOCHS=3,4" in leg) for leg in legs] == [(True, False), (False, True)]
    assert row["test_command"].startswith("python test.py") and "MIRROR=True" in row["test_command"]
    assert (row["mirror"], row["precision"], row["truth"], row["version"]) == (True, "float32", TRUTH, 2)
    assert row["test_commit"] == machine.commit()
    assert row["constants"]["LOSS"] == "ce"
    changed = {"EPOCHS": [[1, 3], [3, 4]], "LOSS": [train.LOSS, "ce"], "WEIGHT_DECAY": [train.WEIGHT_DECAY, 0]}
    assert row["changed"] == changed
    groups = checkpoints.load_file(begun / "state.pt")["optimizer"]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.0}
    assert row["threads"] == 1
    assert (row["train_images"], row["test_images"]) == (40, 24)  # a fifth of each breed's 12 is 2
    assert set(row["two_class"]) == {"pixel_accuracy", "pet_iou", "background_iou"}
    assert len(row["own_size"]["class_iou"]) == 3


def test_within_a_leg_nothing_may_change(script, begun, monkeypatch):
    constants = (*RUN, "EPOCHS=1,5", "VALIDATION_SHARE=0.2")
    said = script("train.py", *constants, fails=True)
    assert "with EPOCHS=1,3;" in said and "EPOCHS=3,5 goes on" in said
    said = script("train.py", *constants, "SEED=1", fails=True)
    assert "with EPOCHS=1,3, SEED=0;" in said and "goes on" not in said  # it wouldn't
    state = checkpoints.load_file(begun / "state.pt")
    state["constants"]["EPOCHS"] = (1, 5)  # as if it had been stopped
    torch.save(state, begun / "state.pt")
    assert "BATCH_SIZE=16" in script("train.py", *constants, "BATCH_SIZE=8", fails=True)
    with monkeypatch.context() as patch:
        here = machine.precision_name("auto")
        patch.setattr(machine, "precision_name", lambda _: "float16")  # as on another machine
        assert f"was begun on cpu in {here}, not cpu in float16" in script("train.py", *constants, fails=True)
    image = next((begun.parent.parent / "data-2/oxford-iiit-pet/images").glob("*.jpg"))
    whole = image.read_bytes()
    image.write_bytes(whole + b"\0")  # other data of the same names
    assert "was begun with other images; choose another RUN" in script("train.py", *constants, fails=True)
    image.write_bytes(whole)
    assert "going on after epoch 2" in script("train.py", *constants, "THREADS=2")  # like the machine, it's on record
    legs = checkpoints.load_file(begun / "state.pt")["legs"]
    assert [leg["threads"] for leg in legs] == [1, 2]


def test_a_constant_that_an_old_state_lacks_had_its_default(script, begun):
    state = checkpoints.load_file(begun / "state.pt")
    for name in ("ENCODER", "SKIP_FEATURES", "WARM_UP"):
        del state["constants"][name]
    state["constants"]["EPOCHS"] = (1, 4)
    torch.save(state, begun / "state.pt")
    constants = (*RUN, "EPOCHS=1,4", "VALIDATION_SHARE=0.2")
    assert f"WARM_UP={train.WARM_UP}" in script("train.py", *constants, "WARM_UP=0.3", fails=True)
    assert "going on after epoch 2" in script("train.py", *constants)
    state = checkpoints.load_file(begun / "state.pt")
    del state["version"]  # as before there were versions
    torch.save(state, begun / "state.pt")
    said = script("train.py", *RUN, "EPOCHS=4,5", "VALIDATION_SHARE=0.2", fails=True)
    assert "was begun by version 1 of this code; choose another RUN" in said


def test_a_leg_by_other_constants_says_what_was_before(script, begun):
    printed = script("train.py", *RUN, "EPOCHS=3,4", "VALIDATION_SHARE=0.2", "LOSS=ce")
    assert f"going on after epoch 2 in {begun}, begun with LOSS={train.LOSS}\n" in printed


def test_old_epochs_beside_a_lost_state_are_not_taken_for_new_ones(script, begun):
    constants = (*RUN, "EPOCHS=1,3", "VALIDATION_SHARE=0.2")
    (begun / "state.pt").unlink()
    said = script("train.py", *constants, fails=True)
    assert "holds epoch 2, but its state knows 0" in said and "delete that folder" in said
    (begun / "epoch_02.pt").unlink()  # one epoch without a state is what a kill in the first save leaves
    said = script("train.py", *RUN, "EPOCHS=1,5", "VALIDATION_SHARE=0.2", fails=True)
    assert "was begun with EPOCHS=1,3;" in said and "goes on" not in said
    assert "was begun with SEED=0" in script("train.py", *constants, "SEED=3", fails=True)  # but not of another run
    assert "2 epochs in" in script("train.py", *constants)
    torch.save(torch.load(begun / "epoch_02.pt", weights_only=True)["weights"], begun / "epoch_02.pt")
    assert "epoch_02.pt is not an epoch of a run" in script("train.py", *constants, fails=True)
    (begun / "epoch_02.pt").rename(begun / "epoch_01.pt")
    (begun / "state.pt").unlink()
    assert "epoch_01.pt is not an epoch of a run" in script("train.py", *constants, fails=True)


def test_a_gpus_random_numbers_are_kept(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.tensor([7], dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", seen.append)
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW([{"params": network.parameters(), "share": 1.0}], fused=True)
    about = {"version": 2, "constants": {}, "data_identity": "", "legs": []}
    checkpoints.save(tmp_path, network, optimizer, torch.Generator(), [{"epoch": 1, "seconds": 1.0}], about)
    without = torch.optim.AdamW([{"params": network.parameters(), "share": 1.0}], fused=False)
    checkpoints.restore(checkpoints.read_state(tmp_path), network, without, torch.Generator())
    assert [int(state) for state in seen] == [7]
    assert [group["fused"] for group in without.param_groups] == [False]  # as this device wants it


@pytest.mark.parametrize(("epochs", "image_size", "sizes"), [
    ((1, 6), 128, [64, 64, 96, 128, 128]),
    ((1, 6), 256, [128, 128, 192, 256, 256]),
    ((1, 6), 32, [16, 16, 32, 32, 32]),
    ((1, 3), 128, [64, 128]),
    ((1, 2), 128, [128]),
    ((6, 8), 128, [64, 128]),
    ((1, 4), 100, [48, 48, 100]),
    ((1, 6), 80, [48, 48, 64, 80, 80]),
    ((1, 6), 20, [16, 16, 16, 20, 20]),
])  # fmt: skip
def test_epochs_are_at_shares_of_the_image_size_and_the_last_is_whole(monkeypatch, epochs, image_size, sizes):
    monkeypatch.setattr(train, "EPOCHS", epochs)
    monkeypatch.setattr(pets, "IMAGE_SIZE", image_size)
    assert [train.size_in(epoch) for epoch in range(*epochs)] == sizes


def test_an_epoch_of_two_passes_is_two_epochs(script, tmp_path):
    for run, arguments in (("one", ("EPOCHS=1,5",)), ("two", ("EPOCHS=1,3", "PASSES=2"))):
        script("train.py", *RUN, *arguments, "TRAIN_IMAGES=32", f"RUN={run}")
    last, same = (torch.load(tmp_path / "toy" / path, weights_only=True)["weights"]
                  for path in ("one/segnet_dsc/epoch_04.pt", "two/segnet_dsc/epoch_02.pt"))  # fmt: skip
    assert all(torch.equal(last[name], same[name]) for name in last)
