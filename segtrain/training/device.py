"""Where a model runs and in which precision."""

import contextlib
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode

from segtrain.cpu import jobs
from segtrain.errors import ConfigError, counted, did_you_mean
from segtrain.ranks import Processes
from segtrain.signals import leave_if_stopped

log = logging.getLogger("segtrain")

WAIT = 0.5  # seconds between two looks for a GPU


@contextlib.contextmanager
def gpu_of_its_own(name: str):
    """Within this, of several jobs at the same time on this machine each has a GPU that none of the others has.

    The GPU becomes the current one, which auto and cuda mean. When all are taken, this waits.

    Args:
        name: of the device in the config.
    """
    if jobs() == 1 or name not in ("auto", "cuda") or not torch.cuda.is_available():
        yield
        return
    found = [_uuid(index) for index in range(torch.cuda.device_count())]
    with one_of(found) as chosen:
        torch.cuda.set_device(found.index(chosen))
        log.info(f"GPU {found.index(chosen)} of {len(found)}")
        yield


@contextlib.contextmanager
def one_of(names: list[str], folder: Path | None = None) -> Iterator[str]:
    """A name that no other process of this user on this machine has; it waits until one is free.

    A lock on a file: it ends with its process, however that ends.
    """
    from filelock import FileLock, Timeout

    folder = folder or Path(tempfile.gettempdir()) / f"segtrain-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    locks = {name: FileLock(folder / f"{name}.lock") for name in names}
    waited = False
    while True:
        for name, lock in locks.items():
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0)
            if lock.is_locked:
                try:
                    yield name
                finally:
                    lock.release()
                return
        if not waited:
            log.info(f"waiting for one of {len(names)} GPUs, which other jobs are using")
        waited = True
        leave_if_stopped()
        time.sleep(WAIT)


def gpu_of_process(processes: Processes) -> torch.device:
    """The GPU of this one of several processes that train a network together. Every process calls this.

    Raises ConfigError, in all of them, when two have the same GPU or one has none.
    """
    there = torch.cuda.device_count()
    number = processes.rank.local if there > 1 else 0  # Slurm may show each process its own alone
    found = processes.gathered(_uuid(number) if number < there else None)
    if None in found or len({*found}) < len(found):
        what = f"{processes.size} processes, but {counted(len({*found} - {None}), 'GPU')} for them"
        fix = "start as many as there are GPUs (torchrun --nproc_per_node), or set trainer.device=cpu"
        raise ConfigError(what, "trainer.device", fix)
    return torch.device("cuda", number)


def _uuid(number: int) -> str:
    return str(torch.cuda.get_device_properties(number).uuid)


def choose_device(name: str) -> torch.device:
    """auto: CUDA when there is one, else the CPU. Raises ConfigError for a device that is not there.

    cuda:N becomes the current device, the one for which PyTorch pins memory and whose kernels and memory it means.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"no device {name!r}", "trainer.device", "use auto, cpu, cuda or cuda:N") from error
    found = torch.cuda.device_count()
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= found):
        raise ConfigError(
            f"device {name!r}, but {found or 'no'} CUDA device{'s' * (found != 1)} found",
            "trainer.device",
            "use trainer.device=cpu or auto, or install a CUDA build of PyTorch with its driver",
        )
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """auto: bfloat16 on a CUDA device that has it, else float32. Raises ConfigError for an unknown name.

    float32 is float32: TensorFloat-32, which rounds to 10 bits and is PyTorch's default for convolutions, is off.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    if name not in known:
        close = did_you_mean(str(name).replace("fp", "float"), known)
        raise ConfigError(f"no precision {name!r}{close}", "trainer.precision", f"use auto, {', '.join(known)}")
    if device.type == "cpu" and not _has(name):
        log.warning(f"this CPU has no instructions for {name} and emulates them: float32 (trainer.precision) is faster")
    return known[name]


def _has(precision: str) -> bool:
    """Whether the CPU computes convolutions in this precision."""
    if precision == "float32" or not torch.backends.mkldnn.is_available():
        return True
    found = torch.ops.mkldnn
    return found._is_mkldnn_bf16_supported() if precision == "bfloat16" else found._is_mkldnn_fp16_supported()


def precision_advice(name: str, device: torch.device, size: Sequence[int]) -> list[str]:
    """Of a CPU that computes bfloat16 in tiles (AMX), where precision=auto is float32; small images gain little.

    Args:
        size: height and width of what the network is trained on.
    """
    if name != "auto" or device.type != "cpu" or math.prod(size) < 128 * 128:
        return []
    if not torch.cpu.get_capabilities().get("amx_bf16"):
        return []
    return ["this CPU has AMX: trainer.precision=bfloat16 trains 1.5 to 2 times as fast"]


@contextlib.contextmanager
def autocast(device: torch.device, precision: torch.dtype, training: bool = False):
    """The context of a forward pass; with training of one that has a backward."""
    if precision == torch.float32:
        yield
        return
    slow = training and device.type == "cpu"
    with torch.autocast(device.type, dtype=precision), DepthwiseInFloat32() if slow else contextlib.nullcontext():
        yield


class DepthwiseInFloat32(TorchFunctionMode):
    """Within this, depthwise convolutions that oneDNN is slow at in half precision are computed in float32.

    Its backward of a depthwise convolution with a stride or a kernel larger than 3×3 takes 3 to 8 times as long in bfloat16
    as in float32 (measured with oneDNN 3.13, AVX512-BF16 and AMX): half of the training step of an EfficientNet.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not torch.conv2d or not args or not _is_slow_in_half(*args, **kwargs):
            return func(*args, **kwargs)
        images, *rest = args
        with torch.autocast("cpu", enabled=False):
            found = func(images.float(), *rest, **kwargs)
        return found.to(torch.get_autocast_dtype("cpu"))


def _is_slow_in_half(images, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> bool:
    depthwise = groups > 1 and weight.shape[1] == 1
    return depthwise and (weight.shape[-1] > 3 or stride not in (1, (1, 1), [1, 1]))
