"""Where a model runs and in which precision."""

import contextlib

import torch

from segtrain.errors import ConfigError, did_you_mean


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
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if name not in known:
        raise ConfigError(
            f"no precision {name!r}{did_you_mean(name, known)}",
            "trainer.precision",
            f"use auto, {', '.join(known)}",
        )
    return known[name]


def autocast(device: torch.device, precision: torch.dtype):
    """The context of a forward pass."""
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=precision)
