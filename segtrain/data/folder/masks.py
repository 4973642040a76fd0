"""From the numbers of a mask file to classes: uint8 [H, W] of indices, or [H, W, C] of 0 and 1 for several a pixel.

One class a format; `dataset.mask_format` chooses. Each has `multilabel` and `read(place)`, where a place is a file,
or for ClassFiles a list of one file per class (None where an image has none).
"""

import functools
from array import array
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from segtrain.data.folder.images import decoded, read_values, values_of
from segtrain.data.value_counts import value_counts
from segtrain.errors import ConfigError, DataError, counted


class IndexMask:
    """The value is the class, after `remap`: 8- and 16-bit grey, palette, TIFF, npy.

    Args:
        remap: {value in the file: class}, to renumber and to merge; values it does not name stay as they are.
        ignore_values: values that become ignore_index.
    """

    multilabel = False

    def __init__(self, ignore_index: int, remap: Mapping[int, int] | None, ignore_values: list[int], exif: bool):
        self.exif = exif
        both = [value for value in ignore_values if value in {int(k) for k in remap or {}}]
        if both:
            raise ConfigError(
                f"value {both[0]} is in remap and in ignore_values", "dataset.remap", "leave it in one of them"
            )
        self.changes = {int(k): int(v) for k, v in (remap or {}).items()} | dict.fromkeys(ignore_values, ignore_index)
        self.table = np.arange(256, dtype=np.uint8)
        for value, label in self.changes.items():
            if 0 <= value < 256:
                self.table[value] = label

    def read(self, path: Path) -> np.ndarray:
        return self._labels(read_values(path, self.exif, lossless=True), path)

    def histogram(self, path: Path, classes: int = 256) -> np.ndarray:
        """int64 [256]: pixels per class, counted as of `value_counts`, and by Pillow where that saves a copy."""
        file = decoded(path, self.exif, lossless=True)
        if isinstance(file, Image.Image) and file.mode in ("L", "P"):
            found = np.frombuffer(array("q", file.histogram()), dtype=np.int64)
        else:
            values = _one_channel(values_of(file), path)
            if values.dtype != np.uint8:
                return value_counts(self._narrowed(values, path), classes)
            found = value_counts(values, 256 if self.changes else classes)
        return np.bincount(self.table, weights=found, minlength=256).astype(np.int64) if self.changes else found

    def _labels(self, values: np.ndarray, path: Path) -> np.ndarray:
        values = _one_channel(values, path)
        if values.dtype == np.uint8:
            return self.table[values] if self.changes else values
        return self._narrowed(values, path)

    def _narrowed(self, values: np.ndarray, path: Path) -> np.ndarray:
        if values.dtype.kind not in "iu":
            raise DataError(f"a mask of {values.dtype} values", str(path), "save whole numbers, the class indices")
        found, places = np.unique(values, return_inverse=True)
        labels = np.array([self.changes.get(int(v), int(v)) for v in found])
        wrong = (labels < 0) | (labels > 255)
        if wrong.any():
            worst = int(found[wrong][-1])
            raise DataError(
                f"mask value {worst} ({int((values == worst).sum())} pixels) is not from 0 to 255",
                str(path),
                f"what is to be ignored: dataset.ignore_values=[{worst}]"
                + ("" if worst < 0 else f"; what is a class: 'dataset.remap={{{worst}: CLASS}}'"),
            )
        return labels.astype(np.uint8)[places.reshape(values.shape)]


class ColorMask:
    """Each class is a colour, or several; a colour that is no class's is an error that names the nearest.

    Args:
        colors: for each class [r, g, b], or a list of such.
        ignore_colors: colours of ignored pixels.
    """

    multilabel = False

    def __init__(self, colors, ignore_colors, ignore_index: int, class_names: list[str], exif: bool):
        self.class_names, self.exif = class_names, exif
        self.codes: list[tuple[int, int]] = []
        for label, given in [*enumerate(colors), *((ignore_index, [c]) for c in ignore_colors)]:
            several = given if isinstance(given, list) and given and isinstance(given[0], list) else [given]
            self.codes += [(_code(color), label) for color in several]
        repeated = {code for code, _ in self.codes if [c for c, _ in self.codes].count(code) > 1}
        if repeated:
            raise ConfigError(f"the colour {_color(repeated.pop())} is given twice", "dataset.colors", "correct it")

    def read(self, path: Path) -> np.ndarray:
        values = _colours(path, self.exif)
        if values.dtype != np.uint8 or values.ndim != 3 or values.shape[2] not in (3, 4):
            raise DataError(
                f"a colour-coded mask has 3 channels of 8 bits, this has {values.dtype} {list(values.shape)}",
                str(path),
                "masks whose value is the class are dataset.mask_format=index",
            )
        r, g, b = (values[..., i].astype(np.int32) for i in range(3))
        codes = (r << 16) | (g << 8) | b
        labels = _color_table(tuple(self.codes))[codes]
        unknown = labels < 0
        if unknown.any():
            grey = "" if ((r != g) | (g != b)).any() else "; masks whose value is the class: dataset.mask_format=index"
            raise DataError(
                self._unknown(codes[unknown]),
                str(path),
                f"correct the mask, or dataset.colors; what is no class: dataset.ignore_colors{grey}",
            )
        return labels.astype(np.uint8)

    def palette(self) -> np.ndarray:
        """uint8 [C, 3]: the first colour of each class."""
        first = {label: code for code, label in reversed(self.codes)}
        return np.array([_color(first[label]) for label in range(len(self.class_names))], dtype=np.uint8)

    def _unknown(self, codes: np.ndarray) -> str:
        found, counts = np.unique(codes, return_counts=True)
        most = int(found[counts.argmax()])
        known = np.array([_color(code) for code, _ in self.codes])
        nearest, label = self.codes[int(((known - _color(most)) ** 2).sum(axis=1).argmin())]
        name = self.class_names[label] if label < len(self.class_names) else "ignored pixels"
        return (
            f"{counted(len(found), 'colour')} of no class ({counted(int(counts.sum()), 'pixel')}), most often {_color(most)}, which is nearest to "
            f"{_color(nearest)}, {name}"
        )


class BinaryMask:
    """Background and one class: 0 and any other one value; or what is above `threshold`, for masks with grey edges."""

    multilabel = False

    def __init__(self, ignore_index: int, threshold: int | None, ignore_values: list[int], exif: bool):
        self.ignore_index, self.threshold, self.ignore_values, self.exif = ignore_index, threshold, ignore_values, exif

    def read(self, path: Path) -> np.ndarray:
        values = _one_channel(read_values(path, self.exif, lossless=True), path)
        ignored = np.isin(values, self.ignore_values) if self.ignore_values else None
        mask = two_values(values if ignored is None else np.where(ignored, 0, values), self.threshold, path)
        if ignored is not None:
            mask[ignored] = self.ignore_index
        return mask


class ChannelMask:
    """Several labels a pixel: channel c is not 0, or above `threshold`, where class c is."""

    multilabel = True

    def __init__(self, num_classes: int, threshold: int | None, exif: bool):
        self.num_classes, self.threshold, self.exif = num_classes, threshold, exif

    def read(self, path: Path) -> np.ndarray:
        values = read_values(path, self.exif, lossless=True)
        values = values[..., None] if values.ndim == 2 else values
        if values.shape[2] == 4 and self.num_classes == 3:
            values = values[..., :3]  # alpha
        if values.shape[2] != self.num_classes:
            raise DataError(
                f"the mask has {values.shape[2]} channels, dataset.num_classes={self.num_classes}",
                str(path),
                "give one channel per class",
            )
        return np.stack([two_values(values[..., c], self.threshold, path) for c in range(self.num_classes)], axis=2)


class ClassFiles:
    """Several labels a pixel: one binary file per class; a class without a file is nowhere in the image."""

    multilabel = True

    def __init__(self, num_classes: int, threshold: int | None, exif: bool):
        self.num_classes, self.threshold, self.exif = num_classes, threshold, exif

    def read(self, paths: list[Path | None]) -> np.ndarray:
        planes = [
            path and two_values(_one_channel(read_values(path, self.exif, lossless=True), path), self.threshold, path)
            for path in paths
        ]
        there = [(plane, path) for plane, path in zip(planes, paths, strict=True) if path]
        check_same_size(there)
        first, _ = there[0]
        return np.stack([np.zeros_like(first) if plane is None else plane for plane in planes], axis=2)


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
    """uint8, 1 where a value is above `threshold`; without one, where it is not 0, and only one other value is allowed."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"a mask of {values.dtype} values, some NaN or infinite", str(path), "save whole numbers")
    if threshold is not None:
        return (values > threshold).astype(np.uint8)
    highest = values.max(initial=0)
    grey = (values != 0) & (values != highest)
    if grey.any():
        between = np.unique(values[grey])
        hint = f"say where the class begins: dataset.threshold={int(highest) // 2} takes what is above"
        if len(between) == 1:
            hint += f"; when {highest} is to be ignored: dataset.ignore_values=[{highest}]"
        what = f"value {between[0]}" if len(between) == 1 else f"{len(between)} values"
        raise DataError(
            f"a binary mask with {int(grey.sum())} pixels between 0 and {highest} ({what})", str(path), hint
        )
    return (values != 0).astype(np.uint8)


def _one_channel(values: np.ndarray, path: Path) -> np.ndarray:
    if values.ndim == 2:
        return values
    colour = values[..., :3]
    if colour.shape[2] == 2:  # grey with alpha, when the second says nothing
        colour = colour[..., : 1 if (colour[..., 1] == colour.max()).all() else 2]
    if (colour == colour[..., :1]).all():
        return colour[..., 0]  # grey, or saved as colour
    raise DataError(
        f"a mask of {values.shape[2]} channels; one channel of class indices is needed",
        str(path),
        "colour-coded masks: dataset.mask_format=color with dataset.colors; a channel per class: mask_format=channels",
    )


def _colours(path: Path, exif: bool) -> np.ndarray:
    """The colours of a file: of a palette, too, and of grey, as programs save an image without colours."""
    file = decoded(path, exif, lossless=True)
    if isinstance(file, Image.Image) and file.mode in ("P", "PA", "1", "L", "LA"):
        file = file.convert("RGB")
    values = values_of(file)
    return np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else values


def rgb(color, key: str) -> list[int]:
    """Three numbers of 0 to 255. Raises ConfigError that names the key."""
    numbers = color if isinstance(color, list | tuple) else []
    if len(numbers) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in numbers):
        raise ConfigError(f"{color!r} is no colour", key, "give [r,g,b], each 0 to 255, per class")
    return list(numbers)


def _code(color) -> int:
    red, green, blue = rgb(color, "dataset.colors")
    return red << 16 | green << 8 | blue


def _color(code: int) -> tuple[int, int, int]:
    return code >> 16, code >> 8 & 255, code & 255


@functools.lru_cache(maxsize=4)
def _color_table(codes: tuple) -> np.ndarray:
    """int16 [2^24]: the label of every colour, -1 for none. Looking up is ten times as fast as searching."""
    table = np.full(1 << 24, -1, dtype=np.int16)
    for code, label in codes:
        table[code] = label
    return table
