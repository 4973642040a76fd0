"""From the numbers of an image file to uint8 with the channels that are wanted."""

import math
from pathlib import Path

import numpy as np
from PIL import Image

from segtrain.errors import DataError

MANY_BANDS = 32  # fewer are the channels of an image, and not its height


def as_bytes(values: np.ndarray, value_range: tuple[float, float] | None, path: Path) -> np.ndarray:
    """uint8: values of `value_range` scaled; None: 8 bits as they are, 16 bits by their high byte.

    Raises DataError for values that are not finite, and for those that need a range.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise DataError(f"{count} values are NaN or infinite", str(path), "repair or remove the file")
    if value_range is not None:
        low, high = value_range
        scaled = (values.astype(np.float32) - low) * (255 / (high - low))
        return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    if values.dtype == np.uint8:
        return values
    low, high = (_as_number(v) for v in (values.min(), values.max()))
    deep = values.dtype.kind == "u" and values.dtype.itemsize == 2
    if deep and (high > 255 or high == 0):
        return (values >> 8).astype(np.uint8)
    what = f"{values.dtype} values from {low} to {high}" + (
        ": as 16 bits, it would be nothing but black" if deep else ""
    )
    raise NeedsRange(what, str(path), low=low, high=high, deep=deep)


class NeedsRange(DataError):
    """Values from `low` to `high` that are no 8 or 16 bits; `deep`: 16 bits, of which only the lower ones are used."""

    def __init__(self, what: str, where: str = "", fix: str = "", low: float = 0, high: float = 0, deep: bool = False):
        self.low, self.high, self.deep = low, high, deep
        super().__init__(what, where, fix or self.fix_of([self]))

    @staticmethod
    def fix_of(errors: list["NeedsRange"], of_others: list[int] | None = None) -> str:
        """The range of all images with such an error, and of others of 16 bits that can be read."""
        low, high = min(error.low for error in errors), max(error.high for error in errors)
        if of_others is not None:
            return f"set dataset.image_range=[{min(low, 0)},{max(high, of_others[1])}]"
        found = f"[{min(low, 0)},{high}]" if low < 0 or high > 255 else "[0,1]" if high <= 1 else "[0,255]"
        brighter = "; [0,65535] where other images are brighter" * any(error.deep for error in errors)
        return (
            f"set the values that are black and white in all images, for example dataset.image_range={found}{brighter}"
        )


def _as_number(value) -> float | int:
    number = float(value)
    return int(number) if number == math.floor(number) else round(number, 4)


def with_channels(values: np.ndarray, channels: int, path: Path) -> np.ndarray:
    """uint8 [H, W, channels] of [H, W] or [H, W, bands]: grey repeated, alpha dropped. Raises DataError."""
    values = values[..., None] if values.ndim == 2 else values
    bands = values.shape[2]
    if bands == channels or (channels, bands) in ((3, 4), (1, 2)):
        return np.ascontiguousarray(values[..., :channels])
    if channels == 3 and bands in (1, 2):
        return np.repeat(values[..., :1], 3, axis=2)
    if channels == 1 and bands in (3, 4):
        return np.array(Image.fromarray(np.ascontiguousarray(values[..., :3])).convert("L"))[..., None]
    if values.shape[0] == channels or values.shape[0] < MANY_BANDS <= min(values.shape[1:]):
        what = f"an image of shape {list(values.shape)}: channels come last"
        raise DataError(what, str(path), "save [height, width, channels], as array.transpose(1, 2, 0) gives")
    raise DataError(
        f"the image has {bands} channels, but dataset.channels={channels}",
        str(path),
        f"train with dataset.channels={bands}, or give images with {channels}",
    )
