"""Several processes that train or test as one, started by torchrun; whatever they have to tell each other is in here.

    torchrun --nproc-per-node=2 train.py

Each process is a rank. All read the same files and draw the same random numbers, and each works on its share of a batch
or of a test split. The first alone writes and prints; of errors, the rank that fails first tells its own. In a process
of its own, nothing here does anything.
"""

import contextlib
import datetime
import os
import sys
from collections.abc import Callable
from types import ModuleType

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common import machine, settings
from common.settings import UserError

TOLD = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # by torchrun, to each process
PATIENCE = 600  # seconds; a rank that is waited for longer is given up. One that ends is noticed at once


def ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if ranks() > 1 else 0


def is_first() -> bool:
    """Whether this rank writes and prints."""
    return rank() == 0


def run(main: Callable[..., None], *modules: ModuleType) -> None:
    """settings.run, which torchrun's processes do together."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        settings.run(main, *modules)
        return
    if missing := [name for name in TOLD if name not in os.environ]:
        sys.exit(f"error: WORLD_SIZE is set, {', '.join(missing)} not: start with torchrun, or without WORLD_SIZE")
    timeout = datetime.timedelta(seconds=PATIENCE)
    store, own, size = next(dist.rendezvous("env://", timeout=timeout))
    try:
        dist.init_process_group(backend(), timeout=timeout, store=dist.PrefixStore("group", store), rank=own,
                                world_size=size)  # fmt: skip
        with contextlib.ExitStack() as silenced:
            if not is_first():
                nowhere = silenced.enter_context(open(os.devnull, "w"))
                silenced.enter_context(contextlib.redirect_stdout(nowhere))
                silenced.enter_context(contextlib.redirect_stderr(nowhere))
            settings.run(main, *modules)
    except BaseException as error:
        end(error, store)
    dist.destroy_process_group()


def backend() -> str:
    """What carries tensors of the CPU, and of this rank's accelerator, which is chosen here. Raises UserError."""
    device, own = machine.device(), int(os.environ["LOCAL_RANK"])
    if device.type == "cpu":
        return "cpu:gloo"
    if own >= (there := torch.accelerator.device_count()):
        raise UserError(f"there are {there} {device.type} devices on this machine: --nproc-per-node={there}")
    torch.accelerator.set_device_index(own)
    return f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}"


def end(error: BaseException, store: dist.Store) -> None:
    """Ends this rank after an error, and tells it if no other rank has told one before."""
    if isinstance(error, SystemExit) and not error.code:
        raise error
    try:
        is_told = store.add("failed", 1) > 1
    except RuntimeError:  # it ended with its rank
        is_told = False
    if is_told:
        sys.exit(1)
    if isinstance(error, UserError):
        sys.exit(f"error: {error}")
    if isinstance(error, KeyboardInterrupt):  # before settings.run heeds it
        sys.exit("\nstopped")
    if isinstance(error, dist.DistError) or "gloo" in str(error):  # so it says where a connection breaks
        sys.exit("error: another rank was killed or can't be reached, which ends this one; "
                 "training goes on after the newest complete epoch with the same command")  # fmt: skip
    raise error


def check_batch(batch_size: int) -> None:
    """Raises UserError if a batch can't be divided among the ranks."""
    if batch_size % ranks():
        raise UserError(f"BATCH_SIZE={batch_size} can't be divided among {ranks()} ranks: give a multiple of {ranks()}")


def share(batch: Tensor) -> Tensor:
    """This rank's images of a batch; all where they can't be divided evenly, as in a set smaller than a batch."""
    return batch if len(batch) % ranks() else batch.chunk(ranks())[rank()]


def size_of_share(n: int) -> int:
    """How many of a batch of n images `share` gives to each rank."""
    return n if n % ranks() else n // ranks()


def share_of_batches(n: int, batch_size: int) -> tuple[int, int]:
    """The first of this rank's images, and one past its last: whole batches of the n images, as even as they can be."""
    count = -(-n // batch_size)
    first, past = (min(n, count * r // ranks() * batch_size) for r in (rank(), rank() + 1))
    return first, past


def together(network: nn.Module) -> nn.Module:
    """The network as steps take it: ranks begin with the first's weights, and their gradients are averaged.

    On accelerators BatchNorm is over the whole batch; torch has nothing of the kind for CPUs, where it is over the
    rank's share.
    """
    if ranks() == 1:
        return network
    if machine.accelerator():
        timm = sys.modules.get("timm")  # its BatchNorm holds the activation too, which torch's way would lose
        convert = timm.layers.convert_sync_batchnorm if timm else nn.SyncBatchNorm.convert_sync_batchnorm
        network = convert(network)  # in place, and with the same parameters
    encoder = hasattr(network, "encoder")  # timm's may hold weights that no map of ours needs
    return DistributedDataParallel(
        network, forward_sync_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=encoder
    )


def alone(network: nn.Module) -> nn.Module:
    """The network that `together` was given."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def spread_statistics(network: nn.Module) -> None:
    """Gives all ranks the first's running statistics of BatchNorm."""
    for buffer in network.buffers() if ranks() > 1 else ():
        dist.broadcast(buffer, 0)


def mean(value: Tensor) -> Tensor:
    """The mean over ranks of a tensor that each has, a loss or sums that it is made of.

    Its gradient is that of the rank's own value: where gradients are averaged, as `together` does, that is the mean's.
    """
    if ranks() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / ranks() + (value - value.detach() if value.requires_grad else 0)


def any_rank(flag: bool) -> bool:
    """Whether it is true on any rank, which all learn at the same time."""
    if ranks() == 1:
        return flag
    flags = torch.tensor(int(flag))  # on the CPU, so that no accelerator is waited for
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def own_generator(common: torch.Generator) -> torch.Generator:
    """Random numbers for a rank's own images, where only these are drawn for, from those that all ranks share."""
    if ranks() == 1:
        return common
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=common)) + rank())


def gather(items: list) -> list:
    """The lists of all ranks, one behind the other."""
    if ranks() == 1:
        return items
    lists: list[list] = [[] for _ in range(ranks())]
    dist.all_gather_object(lists, items)
    return [item for each in lists for item in each]


def wait_for_all() -> None:
    """Returns when all ranks have come this far."""
    if ranks() > 1:
        dist.barrier()
