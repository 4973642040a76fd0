"""PNG files: the damage that Pillow does not see, and a faster way to read what most masks are, 8-bit grey."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from segtrain.errors import DataError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_8 = b"\x08\x00"  # bit depth and colour type
_NOT_PLAIN = {b"tRNS", b"eXIf", b"acTL"}  # transparency, orientation, animation


def read_png(path: Path) -> tuple[bytes, np.ndarray | None]:
    """The bytes of a file, and its pixels, uint8 [H, W], when it is a plain 8-bit grey PNG.

    Raises DataError for a PNG that is cut off or has a wrong checksum. Pillow does not look at those of the pixels: of
    a mask with one wrong bit it may read other classes.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error}", str(path), "replace or remove the file") from error
    if not data.startswith(_SIGNATURE):
        return data, None
    kinds = _checked_chunks(data, path)
    width, height = struct.unpack_from(">II", data, 16)
    if data[24:26] != _GREY_8 or kinds & _NOT_PLAIN or width * height > Image.MAX_IMAGE_PIXELS:
        return data, None
    import cv2

    return data, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # None: Pillow names what is wrong


def _checked_chunks(data: bytes, path: Path) -> set[bytes]:
    """The kinds of chunks there are. Raises DataError."""
    view, start, kind, kinds = memoryview(data), len(_SIGNATURE), b"", set()
    while kind != b"IEND":
        if start + 8 > len(data):
            raise DataError("cannot be decoded: the file is cut off", str(path), "replace or remove the file")
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if data[end : end + 4] != zlib.crc32(view[start + 4 : end]).to_bytes(4, "big"):
            what = "a checksum is wrong" if end + 4 <= len(data) else "the file is cut off"
            raise DataError(f"cannot be decoded: {what}", str(path), "replace or remove the file")
        kinds.add(kind)
        start = end + 4
    return kinds
