"""Muon against PyTorch's own, which takes matrices alone, and an SVD; which weights it takes; what is kept of it."""

import copy

import pytest
import torch
from torch import nn

import segnet
import train
from common import checkpoints, machine, optimizer

SHAPES = [(32, 64), (64, 32), (48, 48), (16, 144), (160, 144)]  # of the last two the kernel is 3 x 3


@pytest.mark.parametrize("shape", SHAPES)
def test_muon_is_pytorchs_with_weights_of_convolutions(monkeypatch, shape):
    """Both with directions made exactly orthogonal: ours by an SVD, PyTorch's by a polynomial, in bfloat16.

    Beside it, in the same products, a weight that is its transpose.
    """
    monkeypatch.setattr(optimizer, "orthogonal", svd_orthogonal)
    random = torch.Generator().manual_seed(0)
    rows, columns = shape
    kernel = 3 if columns % 9 == 0 else 1
    start = torch.randn(rows, columns // kernel**2, kernel, kernel, generator=random)
    ours = nn.Parameter(start.clone(memory_format=torch.channels_last))
    theirs = nn.Parameter(start.flatten(1).clone())
    turned, other = nn.Parameter(start.flatten(1).T[..., None, None].clone()), nn.Parameter(torch.ones(3))
    groups = [{"params": [turned, ours], "muon": True, "weight_decay": 0.1}, {"params": [other], "muon": False}]
    own = optimizer.Muon(groups, 0.02)
    reference = torch.optim.Muon(
        [theirs], 0.02, weight_decay=0.1, momentum=optimizer.MOMENTUM, adjust_lr_fn="match_rms_adamw",
        ns_coefficients=(1.875, -1.25, 0.375), ns_steps=20,
    )  # fmt: skip
    for _ in range(5):
        gradient = torch.randn(shape, generator=random)
        ours.grad, theirs.grad, other.grad = gradient.view_as(start).clone(), gradient.clone(), torch.ones(3)
        turned.grad = gradient.T[..., None, None].clone()
        own.step()
        reference.step()
    assert (theirs - start.flatten(1)).abs().max() > 0.04
    assert (ours.flatten(1) - theirs).abs().max() < 1e-3
    assert (turned.flatten(1).T - theirs).abs().max() < 1e-3
    assert other.tolist() == pytest.approx([0.9] * 3, abs=0.01)  # by AdamW, five times the rate


def svd_orthogonal(matrices):
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    return u @ v


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_keeps_directions_and_brings_their_lengths_near_1(shape, scale):
    matrices = torch.randn(2, *sorted(shape), generator=torch.Generator().manual_seed(1))
    matrices *= torch.tensor([scale, 1e-3]).view(2, 1, 1)  # none leans on its neighbour's size
    found = optimizer.orthogonal(matrices)
    for matrix, turned in zip(matrices, found):
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        inside = u.T @ turned @ v.T
        lengths = inside.diagonal()
        assert (inside - lengths.diag()).abs().max() < 1e-3
        counted = s > 0.01 * (s**4).sum() ** 0.25
        assert counted.float().mean() > 0.9
        assert lengths[counted].min() > 0.7 and lengths.max() < 1.3 and lengths.min() > 0
    rounded = optimizer.orthogonal(matrices.bfloat16()).float()
    assert (rounded - found).norm() < 0.2 * rounded.norm()


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_direction_that_dominates_is_not_blown_up_by_rounding(shape, noise):
    """Where a matrix has one direction, that has the largest length that the polynomials are made for."""
    for seed in range(20):
        random = torch.Generator().manual_seed(seed)
        size = sorted(shape)
        rows, columns = (torch.nn.functional.normalize(torch.randn(n, generator=random), dim=0) for n in size)
        matrix = torch.outer(rows, columns) + noise * torch.randn(size, generator=random) / max(size) ** 0.5
        lengths = torch.linalg.svdvals(optimizer.orthogonal(matrix[None].bfloat16())[0].float())
        assert 0.6 < lengths[0] < 1.4


def test_weights_without_a_gradient_stay_as_they_are():
    weight = nn.Parameter(torch.ones(16, 16, 1, 1))
    other = nn.Parameter(torch.ones(3))
    optimizer.Muon([{"params": [weight], "muon": True}, {"params": [other], "muon": False}], 0.1).step()
    assert torch.equal(weight, torch.ones_like(weight))
    assert torch.equal(other, torch.ones(3))


@pytest.mark.parametrize("name, layer", [("segnet_dsc", "pointwise"), ("segnet", "seq"), ("unet_dsc", "pointwise")])
def test_muon_takes_the_weights_across_channels_but_the_first_and_the_last(monkeypatch, name, layer):
    monkeypatch.setattr(train, "OPTIMIZER", "muon")
    with torch.device("meta"):
        network = segnet.NETWORKS[name]()
    steps = train.make_optimizer(network)
    names = {p: name for name, p in network.named_parameters()}
    taken = [names[p] for group in steps.param_groups if group["muon"] for p in group["params"]]
    across = [key for key, p in network.named_parameters() if p.ndim == 4 and p.shape[1] > 1 and layer in key]
    assert taken == across[1:-1]
    assert sum(len(group["params"]) for group in steps.param_groups) == len(names)


@pytest.mark.parametrize("name", ["segnet", "segnet_dsc"])
@pytest.mark.parametrize("optimizer_name", ["muon", "adamw", "adam"])
def test_each_parameter_has_its_share_of_the_rate_and_its_decay(monkeypatch, name, optimizer_name):
    """BatchNorm's and biases decay nowhere; an encoder that is pretrained learns at its own rate, and not by Muon."""
    rates = {"ENCODER_RATE": 0.2, "FULL_CONV_RATE": 0.3, "MUON_RATE": 5.0, "WEIGHT_DECAY": 0.7, "START_FROM": "a file"}
    for constant, value in (rates | {"OPTIMIZER": optimizer_name}).items():
        monkeypatch.setattr(train, constant, value)
    with torch.device("meta"):
        network = segnet.NETWORKS[name]()
    names = {p: key for key, p in network.named_parameters()}
    found = {
        names[p]: (group["share"], group["weight_decay"], group["muon"])
        for group in train.make_optimizer(network).param_groups
        for p in group["params"]
    }
    for key, p in network.named_parameters():
        decay = 0.7 if p.ndim == 4 and optimizer_name != "adam" else 0.0
        share, by_muon = 1.0, False
        if key.startswith(("bn_input", "dc")):
            share = 0.2
        elif p.ndim == 4 and p.shape[1] > 1 and optimizer_name == "muon" and p.shape[0] > 3:
            share, by_muon = 5.0, True
        elif p.ndim == 4 and p.shape[1] > 1 and p.shape[-1] == 3:
            share = 0.3
        assert found[key] == (share, decay, by_muon), key


def test_muon_goes_on_where_it_was(monkeypatch, tmp_path):
    monkeypatch.setattr(train, "OPTIMIZER", "muon")
    torch.manual_seed(0)
    device = machine.device()
    batches = [(torch.rand(2, 3, 16, 16), torch.randint(0, 3, (2, 1, 16, 16))) for _ in range(4)]
    network = segnet.NETWORKS["segnet_dsc"]().to(device)
    steps = train.make_optimizer(network)

    def learn(network, steps, some):
        for batch in some:
            train.train_step(network, steps, *(x.to(device) for x in batch), "ce", torch.float32)

    learn(network, steps, batches[:2])
    about = dict.fromkeys(checkpoints.KEPT, 0)
    checkpoints.save(tmp_path, network, steps, torch.Generator(), [{"epoch": 1, "seconds": 1.0}], about)
    resumed = copy.deepcopy(network)
    again = train.make_optimizer(resumed)
    checkpoints.restore(checkpoints.read_state(tmp_path), resumed, again, torch.Generator())
    learn(network, steps, batches[2:])
    learn(resumed, again, batches[2:])
    for key, value in network.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
