"""Files that are written whole or not at all, and read as data.

Every write goes to a temporary file, is flushed to the disk and renamed. JSON carries a checksum, and NPZ files and
checkpoints are ZIP archives, which have one for each record: damage is found when a file is read.
"""

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import zipfile
from pathlib import Path

import numpy as np

from segtrain.errors import ConfigError, DiskError, Preempted

MAX_TEXT = 64 * 2**20  # bytes of a JSON file that is read
MAX_ARRAYS = 4 * 2**30  # bytes of the arrays of an NPZ file: 1.1 GB of 5,000 images with 171 classes and all scores
CHECKSUM = "checksum"
_PART = re.compile(r".+\.(json|yaml|csv|npz|pt|pt2|onnx|safetensors|html|svg|png|jpg)\.\d+\.part")
PICKLED = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|"
    r"torch (Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool|ComplexFloat|ComplexDouble)Storage"
)  # what plain containers of tensors are made of


def write_bytes(file: Path, content: bytes) -> None:
    """The whole file or none of it. Raises DiskError."""
    with whole(file) as stream:
        stream.write(content)


def write_text(file: Path, text: str) -> None:
    """UTF-8; what cannot be encoded is escaped. Raises DiskError."""
    write_bytes(file, text.encode("utf-8", errors="backslashreplace"))


def write_json(file: Path, content: dict) -> None:
    """With a checksum; NaN and infinity become null. Raises DiskError."""
    content = _for_json(content)
    content[CHECKSUM] = _checksum(content)
    write_text(file, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_rows(file: Path, rows: list[dict]) -> None:
    """A CSV file with a column for every key. Raises DiskError."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, stream.getvalue())


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none when there is no file. Raises ConfigError for a damaged one."""
    if not file.is_file():
        return []
    try:
        with file.open(encoding="utf-8", errors="replace", newline="") as stream:
            return list(csv.DictReader(stream))
    except csv.Error as error:
        raise _damaged(file, str(error)) from error


def write_arrays(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """A compressed NPZ file. Raises DiskError."""
    with whole(file) as stream:
        np.savez_compressed(stream, **arrays)


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """What write_arrays wrote. Raises ConfigError for a damaged file, before memory is allocated for the sizes it claims."""
    with _explained(file, "an NPZ file"), zipfile.ZipFile(file) as archive:
        claimed = 0
        for record in archive.infolist():
            with archive.open(record) as stream:
                version = np.lib.format.read_magic(stream)
                read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, _, dtype = read[version](stream)
            claimed += max(math.prod(shape) * dtype.itemsize, record.file_size)
        if claimed > MAX_ARRAYS:
            raise ValueError(f"its arrays claim {claimed / 2**20:,.0f} MiB")
        with np.load(file, allow_pickle=False) as saved:
            return dict(saved)


def read_json(file: Path) -> dict:
    """A JSON object without its checksum; empty when there is no such file. Raises ConfigError for a damaged one."""
    if not file.is_file():
        return {}
    with _explained(file, "JSON"):
        if file.stat().st_size > MAX_TEXT:
            raise ValueError(f"{file.stat().st_size / 2**20:,.0f} MiB is too large")
        content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise _damaged(file, "not a JSON object")
    checksum = content.pop(CHECKSUM, None)
    if checksum is not None and checksum != _checksum(content):
        raise _damaged(file, "it was changed after it was written: its checksum does not match")
    return content


def write_checkpoint(file: Path, content: dict) -> None:
    """Plain containers and tensors; NumPy's numbers and texts become Python's. Raises DiskError."""
    import torch

    # In memory first: torch tells a failing disk, or a signal, in an error of its own, and may write once more later.
    stream = io.BytesIO()
    torch.save(_plain(content), stream)
    write_bytes(file, stream.getvalue())  # copies nothing; freeing a view of it (getbuffer) can crash Python 3.12.1


def _plain(value):
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {_plain(key): _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value


def read_checkpoint(file: Path) -> dict:
    """What write_checkpoint wrote, on the CPU, without running code.

    Raises ConfigError for a missing file, and for a damaged one: the checksum of every record is compared.
    """
    import torch

    if not file.is_file():
        raise ConfigError("no such checkpoint", str(file), "name a run that wrote one: checkpoints/best.pt or last.pt")
    with _explained(file, "a checkpoint of segtrain"):
        with zipfile.ZipFile(file) as archive:
            if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
                raise ValueError("its records are compressed")
            if (record := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {record} does not match")
            for name in (record for record in archive.namelist() if record.endswith(".pkl")):
                _check_classes(archive.read(name))
        content = torch.load(file, map_location="cpu", weights_only=True)
        _check_sizes(content)
    if not isinstance(content, dict):
        raise _damaged(file, "not a checkpoint of segtrain")
    return content


def _check_classes(pickled: bytes) -> None:
    """Raise ValueError for what is not a plain container or tensor: some classes that torch allows are made at any size."""
    import pickletools

    for operation, value, _ in pickletools.genops(pickled):
        if operation.name in ("INST", "STACK_GLOBAL") or (operation.name == "GLOBAL" and not PICKLED.fullmatch(value)):
            raise ValueError(f"it holds {value or 'a class'}, which is not a tensor, number, text, list or mapping")


def _check_sizes(value) -> None:
    """Raise ValueError for a tensor that is larger than what is stored of it: a copy would take that memory."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"a tensor of {list(value.shape)} is stored in {value.untyped_storage().nbytes():,} bytes")
    elif isinstance(value, dict):
        for item in value.values():
            _check_sizes(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_sizes(item)


@contextlib.contextmanager
def whole(file: Path):
    """A stream whose content becomes `file` when the block ends without an error. Raises DiskError."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
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
    except OSError as error:
        read_only = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
        fix = "copy its folder to a place where you can write" if read_only else "free space, or write elsewhere"
        raise DiskError(f"cannot be written: {error.strerror}", str(file), fix) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what a process that was killed had not finished."""
    for part in folder.rglob("*.part"):
        if _PART.fullmatch(part.name) and part.is_file():
            part.unlink()


@contextlib.contextmanager
def _explained(file: Path, kind: str):
    """Any error becomes one that names the file: what is wrong inside a damaged file is told in a hundred ways."""
    try:
        yield
    except (Preempted, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise _damaged(file, f"not {kind}: {reason}") from error


def _damaged(file: Path, what: str) -> ConfigError:
    return ConfigError(what, str(file), "restore the file, or leave this folder out")


def are_numbers(values) -> bool:
    """Whether all are numbers, NaN among them, or None."""
    return all(value is None or type(value) in (int, float) for value in values)


def _checksum(content: dict) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def _for_json(value):
    if isinstance(value, dict):
        return {str(k): _for_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
