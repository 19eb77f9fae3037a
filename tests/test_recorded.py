"""Steps recorded as a CUDA graph against steps taken as they are."""

import copy

import pytest
import torch

import segnet
import train
from common import machine, training
from common.recorded import Recorded

RECORDED = [("segnet", "muon"), ("segnet_dsc", "adamw"), ("segnet_dsc", "muon"), ("unet_dsc", "adamw")]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def steps_of(network, sizes, wrap):
    """The losses of a step at each size and of its own rate, and the weights after them."""
    network = copy.deepcopy(network).train().to(machine.device(), memory_format=torch.channels_last)
    optimizer = train.make_optimizer(network)
    step = wrap(lambda x, y: train.train_step(network, optimizer, x, y, "ce+iou", torch.float32))
    losses = []
    for number, size in enumerate(sizes):
        random = torch.Generator().manual_seed(number)
        images = torch.rand(2, 3, size, size, generator=random).to(machine.device())
        trimaps = torch.randint(0, 3, (2, 1, size, size), generator=random).to(machine.device())
        training.set_rate(optimizer, 1e-3 / (1 + number))
        losses.append(float(step(images, trimaps)))
    return losses, network.state_dict(), step


@CUDA
@pytest.mark.parametrize("name, optimizer", RECORDED)
def test_recorded_steps_are_those_that_they_stand_for(monkeypatch, name, optimizer):
    """At two sizes in turns, each step at another rate."""
    monkeypatch.setattr(train, "OPTIMIZER", optimizer)
    monkeypatch.setattr(train, "PRECISION", "float32")  # of Muon's products
    torch.manual_seed(0)
    network, sizes = segnet.NETWORKS[name](), [32, 32, 48, 32, 32, 32, 48, 48, 48, 48, 32, 48]
    expected, weights, _ = steps_of(network, sizes, lambda step: step)
    found, own_weights, step = steps_of(network, sizes, Recorded)
    assert len(step.recorded) == 2
    assert found == pytest.approx(expected, rel=1e-2)  # sums in other orders, in TF32, grow apart
    for key, value in weights.items():
        torch.testing.assert_close(own_weights[key], value, rtol=1e-2, atol=1e-3)
    assert {int(n) for key, n in own_weights.items() if key.endswith("num_batches_tracked")} == {len(sizes)}


@CUDA
def test_a_step_that_waits_for_the_gpu_is_taken_as_it_is(capsys):
    taken = []
    step = Recorded(lambda x: taken.append(x.sum().item()) or x.sum())
    x = torch.ones(4, device="cuda")
    assert [float(step(x * i)) for i in range(8)] == [4 * i for i in range(8)]
    assert "can't be recorded" in capsys.readouterr().err
