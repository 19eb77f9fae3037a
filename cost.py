"""What a network costs for one photograph: multiply-adds, and bytes that its encoder hands to its decoder."""

import torch
from torch import Tensor, nn

from pretrained import PretrainedSegmentation


@torch.inference_mode()
def multiply_adds(network: nn.Module, size: int) -> int:
    """Multiply-adds of the convolutions and linear layers for a photograph of size x size px."""
    total = 0

    def count(module: nn.Module, _, output: Tensor) -> None:
        nonlocal total
        places = output.numel() // module.weight.shape[0]  # each weight is used once at each
        total += module.weight.numel() * places

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    run(network, size)
    for hook in hooks:
        hook.remove()
    return total


@torch.inference_mode()
def kept_bytes(network: nn.Module, size: int) -> int:
    """Bytes, in float32, that the decoder is given beside the bottleneck: places of maxima, or whole maps."""
    if isinstance(network, PretrainedSegmentation):
        x = torch.zeros(1, 3, size, size, device=network.mean.device)
        maps = dict(zip(network.strides, network.eval().encoder(x)))
        return sum(maps[stride].nbytes for stride in network.skips)
    total, down, own = 0, network.down, vars(network).get("down")

    def counted(x: Tensor) -> tuple[Tensor, object]:
        nonlocal total
        x, kept = down(x)
        total += sum(t.nbytes for t in (kept if isinstance(kept, tuple) else (kept,)) if isinstance(t, Tensor))
        return x, kept

    network.down = counted
    run(network, size)
    del network.down  # the class's again
    if own:
        network.down = own
    return total


def run(network: nn.Module, size: int) -> None:
    network.eval()(torch.zeros(1, 3, size, size, device=next(network.parameters()).device))
