"""Image and mask files. Masks are never read with OpenCV: it turns palette indices into grey values."""

from array import array
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from segtrain.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")


def read_image(path: Path) -> np.ndarray:
    """uint8 [H, W, 3] of an 8-bit image file. Raises DataError."""
    with _open(path) as file:
        _check_depth(file, path)
        return np.array(_load(file, path).convert("RGB"))


def read_mask(path: Path) -> np.ndarray:
    """uint8 [H, W] of an index mask: palette masks give their indices. Raises DataError."""
    with _open(path) as file:
        if file.mode.startswith("I"):
            values = np.asarray(_load(file, path))
            if values.max(initial=0) > 255 or values.min(initial=0) < 0:
                worst = values.max() if values.max() > 255 else values.min()
                raise DataError(
                    f"mask value {worst} ({(values == worst).sum()} pixels) is not from 0 to 255",
                    str(path),
                    "renumber the classes",
                )
            return values.astype(np.uint8)
        return np.array(_index(file, path)).astype(np.uint8, copy=False)


def mask_histogram(path: Path) -> np.ndarray:
    """int64 [256]: pixels per value of an index mask. Raises DataError.

    Pillow's histogram works on the decoded image without a copy to NumPy and without the interpreter lock.
    """
    with _open(path) as file:
        if file.mode in ("L", "P"):
            return np.frombuffer(array("q", _load(file, path).histogram()), dtype=np.int64)
    return np.bincount(read_mask(path).ravel(), minlength=256)


def image_size(path: Path, depth: bool = False) -> tuple[int, int]:
    """Height and width from the file's header. Raises DataError, with `depth` for more than 8 bits too."""
    with _open(path) as file:
        if depth:
            _check_depth(file, path)
        return file.height, file.width


def _check_depth(file: Image.Image, path: Path) -> None:
    if file.mode.startswith(("I", "F")):
        raise DataError(f"image of mode {file.mode}: more than 8 bits a channel", str(path), "convert it to 8 bits")


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except UnidentifiedImageError as error:
        size = path.stat().st_size
        what = "the file is empty (0 bytes)" if size == 0 else "not an image file, or damaged"
        raise DataError(what, str(path), "replace or remove the file") from error
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot be read: {error}", str(path), "replace or remove the file") from error


def _load(file: Image.Image, path: Path) -> Image.Image:
    try:
        file.load()
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises SyntaxError for broken PNG chunks
        raise DataError(f"cannot be decoded: {error}", str(path), "replace or remove the file") from error
    return file


def _index(file: Image.Image, path: Path) -> Image.Image:
    if file.mode not in ("1", "L", "P"):
        raise DataError(
            f"a mask of mode {file.mode}; one 8-bit channel of class indices is needed",
            str(path),
            "save the masks as 8-bit PNG whose grey value is the class index",
        )
    return _load(file, path)
