"""Files, names and settings that nobody meant to give: told in a line, before they cost memory or an hour."""

import pytest
import torch

import predict
import pretrained
from common import checkpoints, distributed, machine, pictures, settings
from common.results import lines_of
from common.settings import UserError
from experiments import levers, ranks, study, trials


def deep():
    """Lists that hold one another twice: a few bytes in a file, 2 ** 40 numbers written out."""
    found = 0
    for _ in range(40):
        found = [found, found]
    return found


@pytest.fixture
def saved():
    return {"weights": pretrained.build("segnet_dsc").state_dict(), "network": "segnet_dsc"}


def test_weights_of_more_numbers_than_their_file_are_refused(tmp_path):
    shape = pretrained.SHAPE | {"kernel_size": 127}
    with torch.device("meta"):
        weights = pretrained.build("segnet", **shape).state_dict()
    expanded = {key: torch.zeros(()).expand(value.shape) for key, value in weights.items()}  # 100 GB, from 4 bytes each
    for said, told in ((weights, "_rebuild_meta_tensor_no_storage"), (expanded, "more numbers than it holds")):
        torch.save({"weights": said, "network": "segnet", **shape}, tmp_path / "small.pt")
        with pytest.raises(UserError, match=told):
            pretrained.load_network(tmp_path / "small.pt")


@pytest.mark.parametrize("wrong", [
    {"legs": "all"}, {"legs": [1]}, {"row": "x"}, {"train_seconds": "x"}, {"epoch": "3"},
    {"constants": {"LOSS": torch.zeros(2)}}, {"weights": torch.zeros(2)}, {"row": {"data": "toy"}},
    {"constants": {"LOSS": deep()}}, {"network": deep()},
])  # fmt: skip
def test_a_checkpoint_of_other_types_is_damaged(tmp_path, saved, wrong):
    torch.save(saved | wrong, tmp_path / "wrong.pt")
    with pytest.raises(UserError, match=r"wrong.pt (is damaged|does not fit)"):
        pretrained.load_network(tmp_path / "wrong.pt")
    if "weights" in wrong:
        with pytest.raises(UserError, match=r"wrong.pt is damaged"):
            pretrained.start_from(pretrained.build("segnet_dsc"), tmp_path / "wrong.pt", "body")


def test_a_fault_of_ours_is_no_damaged_file(tmp_path, saved, monkeypatch):
    def fail(*_):
        raise TypeError("ours")

    torch.save(saved, tmp_path / "right.pt")
    monkeypatch.setattr(pretrained, "NETWORKS", {"segnet_dsc": fail})
    with pytest.raises(TypeError, match="ours"):
        pretrained.load_network(tmp_path / "right.pt")


def test_an_encoder_of_one_size_is_given_no_other(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    encoder = "levit_128s"  # 224 px alone
    name = pretrained.full_name("segnet_dsc", encoder)
    about = {"network": name, **pretrained.SHAPE, "encoder": encoder, "constants": {"IMAGE_SIZE": 224}}
    weights = pretrained.build(name, **{key: about[key] for key in pretrained.SHAPE}).state_dict()
    torch.save(about | {"weights": weights}, tmp_path / "fixed.pt")
    assert predict.load(tmp_path / "fixed.pt")[1] == 224
    predict.load.cache_clear()
    monkeypatch.setattr(predict, "INPUT", 192)
    with pytest.raises(UserError, match=r"can't take images of 192 px \(INPUT=192\); it takes 224"):
        predict.load(tmp_path / "fixed.pt")


@pytest.mark.parametrize("content", [b"3\n", b"[]\n", b'""\n', b"{\n", b"\xff\n"])
def test_lines_that_are_no_rows_are_named(tmp_path, content):
    (tmp_path / "results.jsonl").write_bytes(b"{}\n" + content)
    with pytest.raises(UserError, match=r"results.jsonl(, line 2: no (JSON|row)| can't be read)"):
        lines_of("results.jsonl", tmp_path)
    assert lines_of("other.jsonl", tmp_path) == []
    with pytest.raises(UserError, match="can't be read"):
        lines_of(tmp_path.name, tmp_path.parent)  # a folder


def test_paths_that_cannot_be_looked_at(tmp_path, monkeypatch):
    long = f"{'x' * 300}.jpg"
    assert [path.name for path in predict.images_in([long])] == [long]  # and is skipped like any that can't be read
    with pytest.raises(UserError, match="can't be read: File name too long"):
        predict.find(None, 32, predict.images_in([long])[0])

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(predict.Path, "iterdir", refuse)
    with pytest.raises(UserError, match="can't be read: Permission denied"):
        predict.images_in([str(tmp_path)])
    with pytest.raises(UserError, match="of at most 150 bytes"):
        checkpoints.check_run("\N{CAT FACE}" * 40)
    (tmp_path / "folder.onnx").mkdir()
    for export in (".", "/", str(tmp_path), "own.jpg", "epoch_01.pt", str(tmp_path / "folder.onnx")):
        monkeypatch.setattr(predict, "EXPORT", export)
        with pytest.raises(UserError, match=r"named NAME\.onnx, and no folder"):
            predict.check_constants([])


def test_a_study_names_runs_that_may_be(monkeypatch, tmp_path):
    """Its names hold the settings that it tries."""
    monkeypatch.setattr(trials.pets, "OUTPUTS", str(tmp_path))
    monkeypatch.setattr(trials, "run", lambda *arguments: checkpoints.check_run(arguments[-1].removeprefix("RUN=")))
    monkeypatch.setattr(trials, "finished", lambda folder: {"folder": folder.name})
    monkeypatch.setattr(study.pets, "data_name", lambda: "toy")
    found = [study.try_setting(name, setting, 2) for name, of in study.LEVERS.items() for setting in of]
    assert max(len(line["folder"]) for line in found) > 60


def test_numbers_beyond_reason():
    with pytest.raises(UserError, match="up to 4096"):
        machine.set_threads(10**11)
    for text in (str(10**20), "{[]}", "(" * 10_000):
        with pytest.raises(UserError, match="SEED="):
            settings.parse("SEED", text, 0)


def test_a_scheduler_without_torchrun_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in distributed.TOLD:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match="RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not: start with torchrun"):
        distributed.run(lambda: None)


def test_experiments_refuse_what_would_say_nothing(monkeypatch):
    monkeypatch.setattr(ranks, "RANKS", 1)
    with pytest.raises(UserError, match="RANKS=1: two or more"):
        ranks.main()
    monkeypatch.setattr(levers.train, "START_FROM", "some.pt")
    monkeypatch.setattr(levers, "COARSE", 0.2)
    with pytest.raises(UserError, match="START_FROM has no weights of"):
        levers.main()


def test_a_run_clears_what_a_killed_one_left_and_not_what_a_test_is_drawing(tmp_path):
    own = [".epoch_03.7.part.pt", ".state.7.part.pt", ".history.7.part.csv", ".curves.7.part.png"]
    for name in (*own, ".best.8.part.png", "epoch_02.pt"):
        (tmp_path / name).touch()
    with checkpoints.lock(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".best.8.part.png", "epoch_02.pt", "lock"}


def test_pictures_of_names_with_dollars(tmp_path):
    case = {"image": torch.zeros(3, 8, 8), "truth": torch.zeros(1, 8, 8), "prediction": torch.zeros(1, 8, 8)}
    pictures.save_examples(tmp_path / "a.png", [case | {"label": "a$b_$"}], "a$b_$")
    assert (tmp_path / "a.png").exists()
