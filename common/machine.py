"""The machine at hand: device, precision, memory settings that make it fast, signals, its name for the records."""

import contextlib
import ctypes
import functools
import math
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import torch

from common.files import REPOSITORY
from common.settings import UserError

MOST_THREADS = 4096

stopping = threading.Event()  # a signal has come
saving = threading.Event()  # it has to wait


def device() -> torch.device:
    """The accelerator that torch knows here, a GPU or Apple's MPS; without one, the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def accelerator() -> ModuleType | None:
    """The accelerator's module, such as torch.cuda or torch.mps, which have much in common; None without one."""
    kind = device().type
    return None if kind == "cpu" else torch.get_device_module(kind)


def set_up(threads: int) -> None:
    """Threads (0: one per core), TF32 on a GPU, and an allocator that keeps what it has."""
    commit()
    set_threads(threads)
    if accelerator():
        torch.set_float32_matmul_precision("high")
    keep_freed_memory()


def set_threads(threads: int) -> None:
    """0: one for each core that this process may use, fewer where torchrun has several use them. Raises UserError."""
    if not 0 <= threads <= MOST_THREADS:
        raise UserError(f"THREADS={threads}: 0 for one per core, or how many, up to {MOST_THREADS}")
    torch.set_num_threads(threads or max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def usable_cores() -> int:
    """Cores that this process may run on, no more than its container's CPU quota pays for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cpu_quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")))))


def cpu_quota(root: Path, own: Path) -> float:
    """CPU seconds per second that the process's control groups grant, inf if there is no limit.

    root: where control groups are mounted; own: the file that names the process's. Version 2 writes "QUOTA PERIOD" or
    "max PERIOD" into cpu.max of each group (https://docs.kernel.org/admin-guide/cgroup-v2.html), version 1 has two
    files.
    """
    limits = [math.inf]
    with contextlib.suppress(OSError, ValueError):
        group = next((line.partition("::")[2] for line in own.read_text().splitlines() if line.startswith("0::")), "/")
        folder = root / group.lstrip("/")
        for place in (folder, *folder.parents):
            if (place / "cpu.max").exists():
                quota, period = (place / "cpu.max").read_text().split()
                limits += [] if quota == "max" else [int(quota) / int(period)]
    with contextlib.suppress(OSError, ValueError):
        quota = int((root / "cpu/cpu.cfs_quota_us").read_text())
        limits += [quota / int((root / "cpu/cpu.cfs_period_us").read_text())] if quota > 0 else []
    return min(limits)


def keep_freed_memory() -> None:
    """Has glibc keep freed memory instead of giving it back to the kernel after each use.

    A training step frees and asks again for hundreds of MB; without this a third of its time goes into the
    kernel handing out the same pages, zeroed. Elsewhere than on Linux with glibc nothing happens.
    """
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError, OSError):
        return
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_top_pad, 2**28)


def stop_on_signals(at_once: bool = True) -> None:
    """Has SIGTERM stop like Ctrl-C: at once, or after an epoch that is being saved, at the next step.

    at_once: False where every stop waits for the next step, to be agreed on with other processes.

    A KeyboardInterrupt that is raised while Python cleans an object up is printed and lost; matplotlib, which draws
    the curves, has much to clean up.
    """

    def stop(*_: object) -> None:
        stopping.set()
        if at_once and not saving.is_set():
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell has its background jobs do
            signal.signal(number, stop)


def precision(name: str) -> torch.dtype:
    """The type in which convolutions are computed: "bfloat16", "float32", or what pays here for "auto".

    Weights, BatchNorm statistics, loss and optimiser are float32 in any case, but for Muon's products. Raises UserError
    for another name.
    """
    types = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if name == "auto":
        return torch.bfloat16 if bfloat16_pays() else torch.float32
    if name == "bfloat16" and not bfloat16_pays():
        say_once("PRECISION=bfloat16 is emulated on this machine, many times slower than float32; auto takes that")
    if name not in types:
        raise UserError(f'PRECISION is "auto", "bfloat16" or "float32", not {name!r}')
    return types[name]


def bfloat16_pays() -> bool:
    """Whether this machine multiplies bfloat16 faster: GPUs that say so, CPUs with AMX or the dot products of AVX-512.

    Elsewhere each product is emulated: on AVX2 a training step takes 17 times as long as in float32. MPS doesn't say.
    """
    if module := accelerator():
        return hasattr(module, "is_bf16_supported") and module.is_bf16_supported(False)  # without emulation
    return processor_has_bfloat16()


def processor_has_bfloat16() -> bool:
    """Whether convolutions on the CPU take bfloat16 by AMX or AVX-512; ONEDNN_MAX_CPU_ISA may hold them to less."""
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16")) and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@functools.cache
def say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def precision_name(name: str) -> str:
    """What `precision` makes of a name: "bfloat16" or "float32"."""
    return str(precision(name)).removeprefix("torch.")


def peak_memory_mib(process: int | str = "self") -> int:
    """The most memory that a process has had; 0 where the system doesn't tell, or it has ended.

    process: its number, or this one, of which it is the accelerator's memory if there is one.
    """
    if process == "self" and accelerator():
        with contextlib.suppress(RuntimeError):  # of those that don't count
            return torch.accelerator.max_memory_allocated() >> 20
        return 0
    lines = []
    with contextlib.suppress(OSError):  # getrusage would count the parent's peak in
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM:")), 0)


def name() -> str:
    """The GPU, or processor and cores, for a row of results; e.g. "Intel(R) Xeon(R) Processor, AMX, 2 cores"."""
    module = accelerator()
    if hasattr(module, "get_device_name"):
        return module.get_device_name()
    info = Path("/proc/cpuinfo")
    found = processor(info.read_text() if info.exists() else "") or platform.processor() or platform.machine()
    return f"{found}{f', {device().type}' if module else vectors()}, {os.cpu_count()} cores"


def processor(info: str) -> str:
    """The first processor that /proc/cpuinfo names; "" if none.

    With its family and model where the name has no number, as on rented machines: of one name one may be twice as fast
    as another.
    """
    pairs = (line.partition(":") for line in reversed(info.splitlines()))
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    found = fields.get("model name", "")
    if found and "cpu family" in fields and not re.search(r"\d", found):
        found += f" (family {fields['cpu family']}, model {fields['model']})"
    return found


def vectors() -> str:
    """The widest vectors that a network's speed depends on, ", AMX" and so on; "" where PyTorch doesn't know.

    ONEDNN_MAX_CPU_ISA=AVX2 makes an AVX2 machine of one with more: "held to AVX2".
    """
    has = torch.cpu.get_capabilities()
    if has.get("avx512_f") and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ", held to AVX2"
    kinds = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 with bfloat16", "avx512_f": "AVX-512", "avx2": "AVX2"}
    return next((f", {kind}" for key, kind in kinds.items() if has.get(key)), "")


@functools.cache
def commit(folder: Path = REPOSITORY) -> str:
    """The checkout's commit, with a + if its code differs from it; "" outside a git checkout.

    As it was when a process asked first: `set_up` does, before a commit can come in between.
    """
    git = ["git", "-C", str(folder)]
    code = [".", ":!outputs"]  # rows of results that are added there change no result
    try:
        head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *code], capture_output=True, check=False)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if changed.returncode else "")


def command() -> str:
    """The command that this process is, as it is typed at the top of the checkout."""
    script = Path(sys.argv[0])
    is_experiment = script.resolve().parent == REPOSITORY / "experiments"
    program = f"-m experiments.{script.stem}" if is_experiment else script.name
    each, machines = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"))
    launcher = f"torchrun --nnodes={machines} --nproc-per-node={each}" if machines * each > 1 else "python"
    return f"{launcher.replace(' --nnodes=1 ', ' ')} {shlex.join([*program.split(), *sys.argv[1:]])}"


def about() -> dict[str, object]:
    """What a published result depends on beside its constants, and the command that this process is."""
    return {
        "machine": name(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "commit": commit(),
        "command": command(),
    }
