"""Atomic file writes: to a temporary file, flushed to the disk, then renamed."""

import contextlib
import csv
import io
import json
import math
import os
from pathlib import Path

import numpy as np

from segtrain.errors import ConfigError, DiskError


def write_bytes(file: Path, content: bytes) -> None:
    """Raises DiskError."""
    with _whole(file) as stream:
        stream.write(content)


def write_text(file: Path, text: str) -> None:
    """UTF-8; what cannot be encoded is escaped. Raises DiskError."""
    write_bytes(file, text.encode("utf-8", errors="backslashreplace"))


def write_json(file: Path, content: dict) -> None:
    """NaN and infinity become null. Raises DiskError."""
    write_text(file, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def write_rows(file: Path, rows: list[dict]) -> None:
    """A CSV file with a column for every key. Raises DiskError."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, stream.getvalue())


def write_arrays(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """A compressed npz file. Raises DiskError."""
    with _whole(file) as stream:
        np.savez_compressed(stream, **arrays)


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """What write_arrays wrote."""
    with np.load(file, allow_pickle=False) as saved:
        return dict(saved)


def read_json(file: Path) -> dict:
    """A JSON object; empty when there is no such file. Raises ConfigError for a damaged one."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"not JSON: {error}", str(file), "leave this folder out, or restore the file") from error
    if not isinstance(content, dict):
        raise ConfigError("not a JSON object", str(file), "leave this folder out, or restore the file")
    return content


def write_checkpoint(file: Path, content: dict) -> None:
    """Plain containers and tensors. Raises DiskError."""
    import torch

    with _whole(file) as stream:
        torch.save(content, stream)


def read_checkpoint(file: Path, device="cpu") -> dict:
    """What write_checkpoint wrote, without running code. Raises ConfigError for a missing or damaged file."""
    import torch

    if not file.is_file():
        raise ConfigError("no such checkpoint", str(file), "name a run that wrote one: checkpoints/best.pt or last.pt")
    try:
        return torch.load(file, map_location=device, weights_only=True)
    except Exception as error:
        raise ConfigError(f"not a checkpoint of segtrain: {str(error).splitlines()[0]}", str(file)) from error


@contextlib.contextmanager
def _whole(file: Path):
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        part.unlink(missing_ok=True)
        what = str(error).splitlines()[0] if isinstance(error, RuntimeError) else error.strerror
        raise DiskError(f"cannot be written: {what}", str(file), "free space, or write elsewhere") from error


def _plain(value):
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
