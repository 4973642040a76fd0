"""Checkpoints: plain containers only, written whole or not at all, read without running code."""

import os
from pathlib import Path

import torch

from segtrain.errors import ConfigError, DiskError


def save_checkpoint(state: dict, file: Path) -> None:
    """Write beside the file, flush to the disk, then replace: a crash leaves the old file. Raises DiskError."""
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)
        _sync_folder(file.parent)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        part.unlink(missing_ok=True)
        raise DiskError(
            f"the checkpoint cannot be written: {str(error).splitlines()[0]}",
            str(file),
            "free space, then `segtrain resume`",
        ) from error


def load_checkpoint(file: Path, device: torch.device | str = "cpu") -> dict:
    """Read what save_checkpoint wrote. Raises ConfigError for a missing or damaged file."""
    if not file.is_file():
        raise ConfigError("no such checkpoint", str(file), "name a run that wrote one: checkpoints/best.pt or last.pt")
    try:
        return torch.load(file, map_location=device, weights_only=True)
    except Exception as error:
        raise ConfigError(f"not a checkpoint of segtrain: {str(error).splitlines()[0]}", str(file)) from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
