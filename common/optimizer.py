"""Which parameters learn at which share of the learning rate, which of them decay, and by which optimiser."""

import math

import torch
from torch import Tensor, nn

from common import machine
from common.machine import say_once
from common.recorded import can_record

# Muon's: what its momentum keeps, and the polynomials ax + bx^3 + cx^5 that bring singular values near 1
MOMENTUM = 0.9  # 0.95, its authors' value, learned less in five epochs
POLYNOMIALS = ((7.9424, -22.2873, 15.8239), (3.5875, -2.5845, 0.4893), (2.6604, -1.9134, 0.4194))
NARROWEST = 16  # channels on either side of a weight that Muon takes: not the image's three, nor the classes'


def parameter_groups(
    network: nn.Module, encoder: list[nn.Module], shares: dict[str, float], weight_decay: float
) -> list[dict[str, object]]:
    """An optimiser's groups of the parameters that learn, each with its "share" of the learning rate.

    encoder: modules that are pretrained; shares: of "encoder", "full convolution" (across channels and pixels at once)
    and "other", and of "muon" where Muon is to take the weights across channels that are not the encoder's. Weights
    decay, BatchNorm's parameters and biases do not.
    """
    pretrained = {p for module in encoder for p in module.parameters()}
    kinds: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for p in network.parameters():
        if p in pretrained:
            kind = "encoder"
        elif "muon" in shares and p.ndim == 4 and min(p.shape[:2]) >= NARROWEST:
            kind = "muon"
        else:
            across_channels_and_pixels = p.ndim == 4 and p.shape[1] > 1 and p.shape[-1] > 1
            kind = "full convolution" if across_channels_and_pixels else "other"
        if p.requires_grad:
            kinds.setdefault((kind, p.ndim > 1), []).append(p)
    return [
        {
            "params": params,
            "share": shares[kind],
            "weight_decay": weight_decay if is_weight else 0.0,
            "muon": kind == "muon",
        }
        for (kind, is_weight), params in kinds.items()
    ]


class Muon(torch.optim.AdamW):
    """AdamW for all groups but those of "muon", whose weights (C_out, C_in, k, k) are taken as matrices.

    A step changes such a matrix by its momentum made orthogonal: in all directions by as much, not in a few by far
    the most. After K. Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/); the rate is scaled so that
    values change by as much as AdamW's at an equal rate, after Liu et al. 2025 (https://arxiv.org/abs/2502.16982,
    equation 4). torch.optim.Muon takes matrices alone, and computes in bfloat16 where that is slow, too.

    dtype: of the matrix products. Every rank makes them for itself, so ranks are to be machines of one kind.
    """

    def __init__(
        self, groups: list[dict], rate: float = 1e-3, dtype: torch.dtype = torch.float32, **options: object
    ) -> None:
        super().__init__(groups, rate, **options)
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        groups = self.param_groups
        for group in groups:
            if group["muon"]:
                self.change([p for p in group["params"] if p.grad is not None], group["lr"], group["weight_decay"])
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            super().step()
        finally:
            self.param_groups = groups

    def change(self, weights: list[nn.Parameter], rate: float | Tensor, weight_decay: float) -> None:
        """All at once, and products of matrices of one size together, which spares a GPU most of its launches."""
        if not weights:
            return
        gradients, momenta = [p.grad for p in weights], [self.momentum_of(p) for p in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's
        torch._foreach_mul_(weights, 1 - rate * weight_decay)
        alike: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for p, matrix in zip(weights, map(wide, ahead)):
            alike.setdefault(matrix.shape, []).append((p, matrix))
        for shape, pairs in alike.items():
            directions = orthogonal(torch.stack([matrix for _, matrix in pairs]).to(self.dtype))
            directions = directions.to(pairs[0][0].dtype) * (rate * 0.2 * math.sqrt(max(shape)))
            for (p, _), direction in zip(pairs, directions):
                p.sub_((direction if shape[0] == p.shape[0] else direction.T).reshape(p.shape))

    def momentum_of(self, p: nn.Parameter) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
            state["step"] = torch.zeros(())  # AdamW looks for one in whatever is loaded
        return state["momentum"]


def wide(weight: Tensor) -> Tensor:
    """A weight (C_out, ...) as a matrix (C_out, all else), or its transpose if that has fewer rows."""
    matrix = weight.flatten(1)
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def orthogonal(x: Tensor) -> Tensor:
    """Matrices (N, rows, columns >= rows), singular values brought to 0.71 to 1.29, as Newton and Schulz do it.

    Those below a hundredth of a matrix's size stay smaller. The size is the fourth root of the sum of their fourth
    powers: at least the largest one, and known from the first product. Each polynomial is the best for what those
    before it leave, after Amsel et al. 2025 (https://arxiv.org/abs/2505.16932): three do as much as five alike. Above
    its range a polynomial grows without bounds, so each is made for 2 % more, which bfloat16 may have rounded up.
    """
    squared = x @ x.mT
    size = squared.norm(dim=(1, 2), keepdim=True) + 1e-14
    x, squared = x / size.sqrt(), squared / size
    if x.shape[2] >= 3 * x.shape[1] and x.dtype != torch.bfloat16:
        return factor(squared) @ x
    for number, (a, b, c) in enumerate(POLYNOMIALS):
        squared = x @ x.mT if number else squared
        x = torch.baddbmm(x, torch.baddbmm(squared, squared, squared, beta=b, alpha=c), x, beta=a)
    return x


def factor(squared: Tensor) -> Tensor:
    """What the polynomials multiply x by, from x @ x.mT alone: half the work where x is wide.

    Not in bfloat16, whose rounding of x @ x.mT loses the small singular values.
    """
    identity = torch.eye(squared.shape[-1], dtype=squared.dtype, device=squared.device)
    found = None
    for a, b, c in POLYNOMIALS:
        left = squared if found is None else found @ squared @ found
        polynomial = torch.baddbmm(left, left, left, beta=b, alpha=c) + a * identity
        found = polynomial if found is None else polynomial @ found
    return found


def make(kind: type[torch.optim.Adam], groups: list[dict], rate: float, **options: object) -> torch.optim.Optimizer:
    """Adam, AdamW or Muon of `groups` as the device is quickest with it: fused, and so that its steps can be recorded.

    A recorded step reads its learning rates, one of each group, from tensors on the device.
    """
    device = machine.device()
    if not can_record():
        return kind(groups, rate, fused=has_fused(device), **options)
    own = [group | {"lr": torch.tensor(rate, device=device)} for group in groups]
    return kind(own, fused=True, capturable=True, **options)


def has_fused(device: torch.device) -> bool:
    """Whether a device takes an optimiser's step in one kernel; says so if it doesn't."""
    parameter = torch.zeros(1, device=device, requires_grad=True)
    parameter.grad = torch.zeros_like(parameter)
    try:
        torch.optim.AdamW([parameter], fused=True).step()
    except RuntimeError:
        say_once(f"no fused optimiser on {device.type}: its steps are taken tensor by tensor")
        return False
    return True
