"""Mask formats: from the numbers of a mask file to uint8 [H, W] of class indices, or multi-label [H, W, C] of 0 and 1.

One class per format; `dataset.mask_format` chooses. ColorMask is in colors.py. Each is built from the class names, ignore_index, whether EXIF turns
masks, and its settings; has `multilabel`; and `read(file)`, of ClassFiles one file per class (None: there is none).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segtrain.data.folder.images import MAX_PIXELS, decoded, has_one_bit, read_values, values_of
from segtrain.errors import ConfigError, DataError


class MaskFormat:
    """What all formats share: whether EXIF turns masks, and the most pixels that are read."""

    exif, max_pixels = True, MAX_PIXELS

    def values(self, path: Path) -> np.ndarray:
        return read_values(path, self.exif, lossless=True, max_pixels=self.max_pixels)


class IndexMask(MaskFormat):
    """The value is the class, after `remap`: 8- and 16-bit grey, palette, TIFF, npy.

    Args:
        remap: {value in the file: class}, to renumber and to merge; values it does not name stay as they are.
        ignore_values: values that become ignore_index.
    """

    multilabel = False

    def __init__(
        self, class_names: list[str], ignore_index: int, exif: bool, remap: Mapping | None = None, ignore_values=()
    ):
        self.exif = exif
        for value, label in (remap or {}).items():
            known = type(label) is int and (0 <= label < len(class_names) or label == ignore_index)
            if type(value) is not int or value < 0 or not known:
                raise ConfigError(
                    f"{value!r}: {label!r} does not map a mask value to a class",
                    "dataset.remap",
                    f"give {{VALUE: CLASS}}, whole numbers, classes from 0 to {len(class_names) - 1} or "
                    f"ignore_index={ignore_index}, for example {{255: 1}}",
                )
            if value in ignore_values:
                what = f"value {value} is both in remap and in ignore_values"
                raise ConfigError(what, "dataset.remap", "keep it in one of them")
        self.changes = {**(remap or {}), **dict.fromkeys(ignore_values, ignore_index)}
        self.table = np.arange(256, dtype=np.uint8)
        for value, label in self.changes.items():
            if 0 <= value < 256:
                self.table[value] = label

    def read(self, path: Path) -> np.ndarray:
        import cv2

        values = _one_channel(self.values(path), path)
        if values.dtype != np.uint8:
            return self._narrowed(values, path)
        return cv2.LUT(values, self.table) if self.changes else values

    def _narrowed(self, values: np.ndarray, path: Path) -> np.ndarray:
        if values.dtype.kind not in "iu" and not (np.isfinite(values) & (values == np.rint(values))).all():
            what = f"a mask of {values.dtype} values, some of which are no whole numbers"
            raise DataError(what, str(path), "save whole numbers, the class indices")
        found, inverse = np.unique(values, return_inverse=True)
        labels = np.array([self.changes.get(int(v), int(v)) for v in found])
        wrong = (labels < 0) | (labels > 255)
        if wrong.any():
            worst = int(found[wrong][-1])
            raise DataError(
                f"mask value {worst} ({int((values == worst).sum())} pixels) is not from 0 to 255",
                str(path),
                f"to ignore it: dataset.ignore_values=[{worst}]"
                + ("" if worst < 0 else f"; to map it to a class: 'dataset.remap={{{worst}: CLASS}}'"),
            )
        return labels.astype(np.uint8)[inverse.reshape(values.shape)]


class BinaryMask(MaskFormat):
    """Background and one class: 0 and any other one value; or what is above `threshold`, for grey edges and JPEG."""

    multilabel = False

    def __init__(
        self, class_names: list[str], ignore_index: int, exif: bool, threshold: int | None = None, ignore_values=()
    ):
        if len(class_names) != 2:
            what = f"a binary mask has 2 classes, but num_classes={len(class_names)}"
            raise ConfigError(what, "dataset.mask_format=binary", "set dataset.num_classes=2: background and the class")
        self.ignore_index, self.exif, self.threshold, self.ignore_values = ignore_index, exif, threshold, ignore_values

    def values(self, path: Path) -> np.ndarray:
        file = decoded(path, self.exif, lossless=self.threshold is None, max_pixels=self.max_pixels)
        values = values_of(file)
        return values * 255 if has_one_bit(file) else values  # white is above every threshold, as in 8 bits

    def read(self, path: Path) -> np.ndarray:
        return self.binary(_one_channel(self.values(path), path), path)

    def binary(self, values: np.ndarray, path: Path) -> np.ndarray:
        """uint8 of 0, 1 and ignore_index."""
        if not self.ignore_values:
            return two_values(values, self.threshold, path)
        ignored = np.isin(values, self.ignore_values)
        mask = two_values(np.where(ignored, 0, values), self.threshold, path)
        mask[ignored] = self.ignore_index
        return mask


class ChannelMask(BinaryMask):
    """Multi-label: channel c is not 0, or above `threshold`, where class c is."""

    multilabel = True

    def __init__(
        self, class_names: list[str], ignore_index: int, exif: bool, threshold: int | None = None, ignore_values=()
    ):
        if ignore_index < 2:
            what = f"ignore_index={ignore_index}: multi-label masks hold 0 and 1"
            raise ConfigError(what, "dataset.ignore_index", "use 255")
        self.num_classes, self.ignore_index, self.exif = len(class_names), ignore_index, exif
        self.threshold, self.ignore_values = threshold, ignore_values

    def read(self, path: Path) -> np.ndarray:
        values = self.values(path)
        values = values[..., None] if values.ndim == 2 else values
        if self.num_classes == 3:
            values = without_alpha(values, path)
        if values.shape[2] != self.num_classes:
            what = f"the mask has {values.shape[2]} channels, but dataset.num_classes={self.num_classes}"
            raise DataError(what, str(path), "give one channel per class")
        return np.stack([self.binary(values[..., c], path) for c in range(self.num_classes)], axis=2)


class ClassFiles(ChannelMask):
    """Multi-label: one binary file per class; a class without a file is nowhere in the image."""

    def read(self, paths: list[Path | None]) -> np.ndarray:
        there = [(number, path) for number, path in enumerate(paths) if path]
        values = [_one_channel(self.values(path), path) for _, path in there]
        check_same_size([(plane, path) for plane, (_, path) in zip(values, there, strict=True)])
        mask = np.zeros((*values[0].shape, len(paths)), dtype=np.uint8)
        for plane, (number, path) in zip(values, there, strict=True):
            mask[..., number] = self.binary(plane, path)
        return mask


def check_same_size(masks: list[tuple[np.ndarray, Path]]) -> None:
    """Raise DataError when masks of one image, each with its file, differ in height or width."""
    first, where = masks[0]
    for mask, path in masks:
        if mask.shape[:2] != first.shape[:2]:
            raise DataError(
                f"masks of one image differ in size: {first.shape[1]}×{first.shape[0]} and "
                f"{mask.shape[1]}×{mask.shape[0]} (width × height)",
                f"{where} and {path}",
                "make all the same size",
            )


def two_values(values: np.ndarray, threshold: int | None, path: Path) -> np.ndarray:
    """uint8, 1 above `threshold`; without one, 1 where a value is not 0, and only one other value is allowed."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"a mask of {values.dtype} values, some NaN or infinite", str(path), "save whole numbers")
    if threshold is not None:
        return (values > threshold).astype(np.uint8)
    highest = values.max(initial=0)
    grey = (values != 0) & (values != highest)
    if grey.any():
        between = np.unique(values[grey])
        hint = f"set where the class begins: dataset.threshold={int(highest) // 2} takes all values above"
        if len(between) == 1:
            odd = min(between[0], 0) or highest
            hint = f"to ignore {odd}: dataset.ignore_values=[{odd}]; or {hint}"
        what = f"value {between[0]}" if len(between) == 1 else f"{len(between)} values"
        raise DataError(
            f"a binary mask with {int(grey.sum())} pixels between 0 and {highest} ({what})", str(path), hint
        )
    return (values != 0).astype(np.uint8)


def without_alpha(values: np.ndarray, path: Path) -> np.ndarray:
    """Values [H, W, 4] as [H, W, 3]; others as they are.

    Raises DataError where transparent pixels have several colours, or one that other pixels show: what is seen is not
    what the colours hold.
    """
    if values.shape[2] != 4:
        return values
    colour, hidden = values[..., :3], values[..., 3] == 0
    codes = colour.astype(np.int64) @ np.array([1, 1 << 16, 1 << 32])
    found = np.unique(codes[hidden])
    if len(found) > 1 or np.isin(codes[~hidden], found).any():
        what = f"a mask with {int(hidden.sum())} transparent pixels, whose colours cannot be seen"
        raise DataError(what, str(path), "save it without transparency, each class in a colour of its own")
    return colour


def _one_channel(values: np.ndarray, path: Path) -> np.ndarray:
    if values.ndim == 2:
        return values
    colour = without_alpha(values, path)[..., :3]
    if colour.shape[2] == 2:  # grey with alpha, when the second is full everywhere
        colour = colour[..., : 1 if (colour[..., 1] == colour.max()).all() else 2]
    if (colour == colour[..., :1]).all():
        return colour[..., 0]  # grey, or saved as colour
    what = f"a mask with {values.shape[2]} channels, but one channel of class indices is needed"
    fix = "for one channel per class: dataset.mask_format=channels"
    if values.shape[2] == 2:
        fix = f"for grey with transparency: save it as grey alone; {fix}"
    else:
        fix = f"for colour-coded masks: dataset.mask_format=color with dataset.colors, which `segtrain check` finds; {fix}"
    raise DataError(what, str(path), fix)
