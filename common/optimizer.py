"""Which parameters learn at which share of the learning rate, and which of them decay."""

import torch
from torch import nn

from common import machine
from common.machine import say_once
from common.recorded import can_record


def parameter_groups(
    network: nn.Module, encoder: list[nn.Module], shares: dict[str, float], weight_decay: float
) -> list[dict[str, object]]:
    """An optimiser's groups of the parameters that learn, each with its "share" of the learning rate.

    encoder: modules that are pretrained; shares: of "encoder", "full convolution" (across channels and pixels at once)
    and "other". Weights decay, BatchNorm's parameters and biases do not.
    """
    pretrained = {p for module in encoder for p in module.parameters()}
    kinds: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for p in network.parameters():
        across_channels_and_pixels = p.ndim == 4 and p.shape[1] > 1 and p.shape[-1] > 1
        kind = "encoder" if p in pretrained else "full convolution" if across_channels_and_pixels else "other"
        if p.requires_grad:
            kinds.setdefault((kind, p.ndim > 1), []).append(p)
    return [
        {"params": params, "share": shares[kind], "weight_decay": weight_decay if is_weight else 0.0}
        for (kind, is_weight), params in kinds.items()
    ]


def make(kind: type[torch.optim.Adam], groups: list[dict], rate: float, **options: object) -> torch.optim.Optimizer:
    """Adam or AdamW of `groups` as the device is quickest with it: fused, and so that its steps can be recorded.

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
