"""PNG files: damage that Pillow reads over, and a faster way to read what most masks are, 8-bit grey."""

import io
import os
import struct
from pathlib import Path

import numpy as np
from PIL.PngImagePlugin import ChunkStream

from segtrain.errors import DataError

_SIGNATURE, _END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_GREY_8 = b"\x08\x00"  # bit depth and colour type
_PLAIN = {b"IHDR", b"IDAT", b"IEND", b"pHYs", b"tEXt"}  # chunks that change no pixel, and of which libpng never warns


def read_png(path: Path, max_pixels: int) -> tuple[bytes | None, np.ndarray | None]:
    """The bytes of a PNG, whatever its suffix, and its pixels, uint8 [H, W], when it is a plain 8-bit grey one.

    Raises DataError for a PNG that is cut off or has a wrong checksum. Pillow does not check those of the pixels when it
    decodes: of a mask with one wrong bit it may read other classes.
    """
    try:
        with path.open("rb") as stream:
            if stream.read(len(_SIGNATURE)) != _SIGNATURE:
                return None, None
            data = _SIGNATURE + stream.read()
    except OSError as error:
        raise _damaged(f"cannot be read: {error}", path) from error
    kinds = _checked_kinds(data, path)
    width, height = struct.unpack_from(">II", data, 16)
    check_pixels(height, width, max_pixels, path)
    large = max(width, height) > 1_000_000  # than libpng takes
    if data[24:26] != _GREY_8 or kinds - _PLAIN or large:
        return data, None
    import cv2

    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise _damaged("cannot be decoded: the pixels do not match the size in its header", path)
    return data, values


def check_pixels(height: int, width: int, max_pixels: int, path: Path) -> None:
    """Raise DataError for an image of more than `max_pixels`, before it is decoded."""
    if height * width > max_pixels:
        raise DataError(
            f"{width}×{height} is {height * width / 1e6:,.0f} million pixels, more than dataset.max_pixels={max_pixels:,}",
            str(path),
            "cut it into tiles, because each file is read whole; or raise dataset.max_pixels",
        )


def has_exif(stream) -> bool:
    """Whether a PNG has an eXIf chunk; of one after the pixels Pillow knows when it has decoded them."""
    start = stream.tell()
    stream.seek(len(_SIGNATURE))
    while len(head := stream.read(8)) == 8 and head[4:] not in (b"eXIf", b"IEND"):
        stream.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    stream.seek(start)
    return head[4:] == b"eXIf"


def _checked_kinds(data: bytes, path: Path) -> set[bytes]:
    """The kinds of chunks there are. Raises DataError where a checksum is wrong or the end is missing."""
    stream = io.BytesIO(data)
    stream.seek(len(_SIGNATURE))
    try:
        kinds = {b"IEND", *ChunkStream(stream).verify()}
        end = data[stream.tell() - 8 : stream.tell() + 4]  # which Pillow does not check
        whole, cut = end == _END, len(end) < len(_END)
    except (OSError, SyntaxError):
        whole, cut = False, stream.tell() == len(data)
    if not whole:
        raise _damaged(f"cannot be decoded: {'the file is cut off' if cut else 'a checksum is wrong'}", path)
    if data[8:16] != b"\0\0\0\x0dIHDR":
        raise _damaged("cannot be decoded: it does not begin with a header", path)
    return kinds


def _damaged(what: str, path: Path) -> DataError:
    return DataError(what, str(path), "replace or remove the file")
