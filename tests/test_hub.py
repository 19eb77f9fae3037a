"""torch.hub from a folder whose own modules have the names of ours: neither may ever see the other's."""

import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

import pretrained
from common import published
from experiments import publish_weights

NAMES = ("train", "test", "metrics", "segnet", "pretrained", "predict")  # modules of the program that uses ours
FOLDERS = ("common", "dataset")

PROGRAM = """
import io, pickle, sys, torch
import common, metrics, train, common.files
before = {name: sys.modules[name] for name in ("common", "metrics", "train", "common.files")}
path = list(sys.path)
checkout = sys.argv[1]
load = lambda name, **options: torch.hub.load(checkout, name, source="local", trust_repo=True, **options).eval()

network = load("segnet_dsc", pretrained=True)
other = load("segnet")  # a second time, with our modules there already
assert all(sys.modules[name] is module for name, module in before.items())
import dataset, predict, pretrained, segnet, test
from common import pooling
for module in (common, dataset, metrics, predict, pooling, pretrained, segnet, test, train):
    assert module.MINE, module
assert sys.path == path
assert not [name for name, m in sys.modules.items() if (getattr(m, "__file__", None) or "").startswith(checkout)
            and not name.startswith("segnet_pets_")]

images = torch.load("images.pt")
with torch.inference_mode():
    logits = network(images)
    whole = pickle.loads(pickle.dumps(network))
    assert torch.equal(whole(images), logits)
    compiled = torch.compile(network, backend="eager")
    assert torch.allclose(compiled(images), logits, atol=1e-5)
    assert other(images).shape == logits.shape
    try:
        other(images[..., :8])
    except ValueError as error:
        assert "at least 16x16 px" in str(error)
    else:
        raise AssertionError("a map too small to be pooled was taken")
network.train()(images).sum().backward()
assert load("segnet_dsc").__class__ is network.__class__
torch.save(logits, "logits.pt")
for name in ("segnet", "segnet_dsc_lite2"):
    try:
        load(name, pretrained=True)
    except RuntimeError as error:
        print(error)
"""


@pytest.fixture
def checkout(tmp_path):
    """Our files as git has them, and published weights of the separable network, random."""
    folder = tmp_path / "checkout"
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "*.py"], capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    weights = folder / published.FOLDER.relative_to(ROOT)
    weights.mkdir(parents=True)
    about = {"network": "segnet_dsc", **pretrained.SHAPE, "row": {"mean_iou": 0.7}}
    state = publish_weights.halved(pretrained.build("segnet_dsc").state_dict())
    torch.save(about | {"weights": state}, weights / "segnet_dsc.pt")
    return folder


def test_networks_load_beside_modules_of_the_same_names(checkout, tmp_path):
    program = tmp_path / "program"
    for name in FOLDERS:
        (program / name).mkdir(parents=True)
        (program / name / "__init__.py").write_text("MINE = True\n")
    for name in (*NAMES, "common/files", "common/pooling"):
        (program / f"{name}.py").write_text("MINE = True\n")
    (program / "main.py").write_text(PROGRAM)
    images = torch.rand(2, 3, 32, 48)
    torch.save(images, program / "images.pt")
    command = [sys.executable, "main.py", str(checkout)]
    result = subprocess.run(command, cwd=program, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    network, _ = pretrained.load_network(checkout / published.FOLDER.relative_to(ROOT) / "segnet_dsc.pt")
    with torch.inference_mode():
        expected = network.eval()(images)
    assert torch.allclose(torch.load(program / "logits.pt"), expected, atol=1e-5)
    told = [line for line in result.stdout.splitlines() if "no published weights are called" in line]
    assert len(told) == 2 and "did you mean segnet_dsc?" in told[0]
