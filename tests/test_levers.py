"""levers.py: its losses against definitions and metrics, its levers against steps taken by hand; all off, train.py."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn import functional as F

import metrics
import pretrained
import train
from common import checkpoints, results
from experiments import levers, tasks

TOY = ("DATASET=toy", "IMAGE_SIZE=32", "SIZES=1", "BATCH_SIZE=16", "THREADS=1", "NETWORKS=segnet_dsc", "EPOCHS=1,3")


def batch(classes=3):
    torch.manual_seed(0)
    return torch.randn(2, 3, 4, 5), torch.randint(0, classes, (2, 1, 4, 5))


def certain(labels):
    """Logits whose softmax is one-hot."""
    return 1000.0 * F.one_hot(labels[:, 0], 3).permute(0, 3, 1, 2)


@pytest.mark.parametrize("classes", [3, 2])  # of the truth: with two, the border is absent
def test_of_certain_predictions_the_losses_are_one_minus_the_metrics(classes):
    _, truth = batch(classes)
    labels = torch.randint(0, 3, truth.shape)
    matrix = metrics.confusion(labels, truth).sum(0)
    present = metrics.class_iou(matrix)[:classes].mean()
    assert float(levers.lovasz_loss(certain(labels), truth)) == pytest.approx(1 - float(present), abs=1e-6)
    assert float(metrics.dice_loss(certain(labels), truth)) == pytest.approx(1 - float(metrics.dice(matrix)), abs=1e-4)


def test_the_lovasz_loss_is_the_extension_of_the_jaccard_loss():
    """By its definition for set functions: the integral over t of 1 - IoU where the pixels of error > t are wrong."""
    logits, truth = batch()
    expected = []
    for c, of_class in enumerate(logits.double().softmax(1).transpose(0, 1).flatten(1)):
        is_class = (truth == c).flatten()
        errors = (is_class.double() - of_class).abs()
        integral, levels = 0.0, sorted([0.0, *errors.tolist()])
        for low, high in itertools.pairwise(levels):
            predicted = is_class ^ (errors > low)  # wrong where the error is larger, right elsewhere
            integral += (high - low) * (1 - float((predicted & is_class).sum() / (predicted | is_class).sum()))
        expected.append(integral)
    assert float(levers.lovasz_loss(logits, truth)) == pytest.approx(sum(expected) / 3, abs=1e-6)


def test_coarse_maps_are_held_to_the_shares_of_their_cells():
    truth = torch.tensor([[0, 0, 1, 1], [0, 2, 1, 1]])[None, None]
    logits = torch.tensor([[0.5, 1.0], [0.0, 2.0], [-1.0, 0.0]]).view(1, 3, 1, 2)
    shares = torch.tensor([[0.75, 0.0, 0.25], [0.0, 1.0, 0.0]])
    expected = -(shares * logits[0, :, 0].T.log_softmax(1)).sum(1).mean()
    assert float(levers.on_shares(logits, truth)) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.slow
def test_off_it_is_train_py_and_each_lever_changes_the_weights(script, tmp_path):
    def weights(name):
        saved = checkpoints.load_file(tmp_path / "toy" / name / "segnet_dsc" / "epoch_02.pt")["weights"]
        return torch.cat([saved[key].flatten() for key in sorted(saved) if key.startswith(("dc", "uc"))])

    def learn(lever):
        name, is_set, _ = lever.partition("=")
        script("experiments.levers", *TOY, f"RUN=levers-{name}", *([lever] if is_set else []))

    levers = ("off", "SMOOTHING=0.1", "BORDER_WEIGHT=2.0", "LOSS=ce+lovasz", "DROPOUT=0.2", "COARSE=0.2")
    script("train.py", *TOY, "RUN=plain")
    with ThreadPoolExecutor(2) as two_at_a_time:  # each is a process
        list(two_at_a_time.map(learn, levers))
    for lever in levers:
        unchanged = torch.equal(weights("plain"), weights(f"levers-{lever.partition('=')[0]}"))
        assert unchanged == (lever == "off"), lever
    saved = checkpoints.load_file(tmp_path / "toy" / "levers-DROPOUT" / "segnet_dsc" / "epoch_02.pt")
    assert saved["constants"]["DROPOUT"] == 0.2  # as its row would say
    assert "levers-NAME" in script("experiments.levers", *TOY, "RUN=mine", fails=True)
    assert "such a run can't go on" in script("experiments.levers", *TOY, "RUN=levers-off", fails=True)
    assert "DROPOUT is from 0 to" in script("experiments.levers", *TOY, "DROPOUT=1.5", fails=True)


def test_a_row_of_a_lever_is_none_of_the_recipe():
    (task,) = [t for t in tasks.tasks() if (t.group, t.variant, t.run) == ("study", "segnet_dsc", "study-segnet_dsc-0")]
    constants = tasks.constants_of(task.arguments)
    row = {"network": "segnet_dsc", "version": results.VERSION, "mirror": False, "epochs": 5, "constants": constants}
    assert tasks.row_of(task, [row]) is row
    assert tasks.row_of(task, [row | {"constants": constants | {"SMOOTHING": 0.1}}]) is None


def test_averaged_weights_are_those_of_all_steps_and_are_what_is_validated(monkeypatch):
    monkeypatch.setattr(levers, "AVERAGE", 0.75)
    network = pretrained.build("segnet_dsc", **pretrained.SHAPE).train()
    optimizer = train.make_optimizer(network)
    expected = None
    for _ in range(3):
        images, truth = torch.rand(2, 3, 16, 16), torch.randint(0, 3, (2, 1, 16, 16))
        levers.train_step(network, optimizer, images, truth, "ce", torch.float32)
        now = {name: x.detach().clone() for name, x in network.state_dict().items() if x.is_floating_point()}
        expected = now if expected is None else {name: 0.75 * expected[name] + 0.25 * x for name, x in now.items()}
    seen = []
    levers.validate(lambda averaged, split: seen.append(averaged) or {}, network, None)
    for name, x in expected.items():
        torch.testing.assert_close(seen[0].state_dict()[name], x)


def test_dropout_leaves_whole_channels_of_the_bottleneck_out(monkeypatch):
    monkeypatch.setattr(levers, "DROPOUT", 0.5)
    network = levers.build(pretrained.build, "segnet_dsc", **pretrained.SHAPE).train()
    images = torch.rand(2, 3, 32, 32)
    dropped, _ = network.encode(images)
    monkeypatch.setattr(levers, "DROPOUT", 0.0)
    whole, _ = network.encode(images)
    kept = (dropped != 0).any(dim=3, keepdim=True).any(dim=2, keepdim=True)  # (B, C, 1, 1)
    alive = (whole != 0).flatten(2).any(2).sum()
    assert 0.4 < float(kept.sum() / alive) < 0.6
    torch.testing.assert_close(dropped, 2 * whole * kept)
    monkeypatch.setattr(levers, "DROPOUT", 0.5)
    torch.testing.assert_close(network.eval().encode(images)[0], network.encode(images)[0])
