"""A training step as a CUDA graph: recorded once, then replayed by a single launch.

A step of these networks is hundreds of short kernels. A GPU is through with them sooner than Python can ask for them
one by one; of a recorded step it is told all at once
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from common import distributed, machine
from common.machine import say_once

WARM_UP = 3  # steps of each shape that are taken as they are, before one is recorded


def can_record() -> bool:
    """Whether steps can be recorded here: on one CUDA device. Several ranks talk to each other within a step."""
    return machine.device().type == "cuda" and distributed.ranks() == 1


class Recorded:
    """A step that is recorded for each shape of batch, after a few taken as they are; all of them train.

    step: takes a batch of tensors on the device and returns its loss, a scalar. It must not read a tensor's value in
    Python, and whatever changes between steps must be in a tensor. Where a step can't be recorded, that is said once
    and all are taken as they are. The loss is overwritten by the next step.
    """

    def __init__(self, step: Callable[..., Tensor]) -> None:
        self.step = step
        self.taken: Counter[tuple[torch.Size, ...]] = Counter()
        self.recorded: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}
        self.can_record = can_record()
        self.stream = torch.cuda.Stream() if self.can_record else None

    def __call__(self, *batch: Tensor) -> Tensor:
        if not self.can_record:
            return self.step(*batch)
        shape = tuple(tensor.shape for tensor in batch)
        self.taken[shape] += 1
        if self.taken[shape] <= WARM_UP:
            return self.aside(*batch)
        if shape not in self.recorded and not self.record(shape, batch):
            return self.step(*batch)
        graph, inputs, loss = self.recorded[shape]
        for own, tensor in zip(inputs, batch):
            own.copy_(tensor)
        graph.replay()
        return loss

    def aside(self, *batch: Tensor) -> Tensor:
        """A step on a stream of its own: what it leaves behind must not tie the recording to the usual one."""
        usual = torch.cuda.current_stream()
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):
            loss = self.step(*batch)
        usual.wait_stream(self.stream)
        return loss

    def record(self, shape: tuple[torch.Size, ...], batch: tuple[Tensor, ...]) -> bool:
        """Records a step without taking it; whether that worked."""
        graph, inputs = torch.cuda.CUDAGraph(), [tensor.clone() for tensor in batch]
        try:
            with torch.cuda.graph(graph):
                loss = self.step(*inputs)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0][:200]
            say_once(f"steps can't be recorded as a CUDA graph, so they are slower: {reason}")
            self.can_record = False
            return False
        self.recorded[shape] = graph, inputs, loss
        return True
