"""Colour-coded masks: from colours to uint8 [H, W] of class indices."""

import functools
from pathlib import Path

import numpy as np
from PIL import Image

from segtrain.data.folder.images import decoded, values_of
from segtrain.data.folder.masks import MaskFormat, without_alpha
from segtrain.errors import ConfigError, DataError, counted


class ColorMask(MaskFormat):
    """Each class is a colour, or several; a colour that is no class's is an error that names the nearest.

    Args:
        colors: for each class [r, g, b], or a list of such.
        ignore_colors: colours of ignored pixels.
    """

    multilabel = False

    def __init__(self, class_names: list[str], ignore_index: int, exif: bool, colors: list | None, ignore_colors=()):
        self.class_names, self.exif = class_names, exif
        if colors is None or len(colors) != len(class_names):
            what = f"{len(colors or [])} colours for {len(class_names)} classes"
            raise ConfigError(what, "dataset.colors", "give one [r,g,b] per class, or a list of them")
        self.codes: list[tuple[int, int]] = []
        for label, given in [*enumerate(colors), *((ignore_index, [c]) for c in ignore_colors)]:
            several = given if isinstance(given, list) and given and isinstance(given[0], list) else [given]
            for red, green, blue in (rgb(color, "dataset.colors") for color in several):
                self.codes.append((red << 16 | green << 8 | blue, label))
        repeated = {code for code, _ in self.codes if [c for c, _ in self.codes].count(code) > 1}
        if repeated:
            raise ConfigError(f"the colour {color_of(repeated.pop())} is given twice", "dataset.colors", "correct it")

    def read(self, path: Path) -> np.ndarray:
        file = decoded(path, self.exif, True, self.max_pixels)
        if isinstance(file, Image.Image) and file.mode in ("P", "PA", "1", "L", "LA"):
            transparent = file.mode in ("PA", "LA") or "transparency" in file.info
            file = file.convert(
                "RGBA" if transparent else "RGB"
            )  # grey, too: programs save an image without colours so
        values = values_of(file)
        values = np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else values
        if values.dtype != np.uint8 or values.ndim != 3 or values.shape[2] not in (3, 4):
            what = f"a colour-coded mask has 3 channels of 8 bits, but this one has {values.dtype} {list(values.shape)}"
            raise DataError(what, str(path), "for masks whose values are the classes, set dataset.mask_format=index")
        codes = color_codes(without_alpha(values, path))
        labels = _color_table(tuple(self.codes))[codes]
        unknown = labels < 0
        if unknown.any():
            grey = (
                ""
                if (codes % 0x010101).any()
                else "; for masks whose values are the classes: dataset.mask_format=index"
            )
            what = self._unknown(codes[unknown])
            fix = f"correct the mask, or dataset.colors; to ignore colours: dataset.ignore_colors{grey}"
            raise DataError(what, str(path), fix)
        return labels.astype(np.uint8)

    def palette(self) -> np.ndarray:
        """uint8 [C, 3]: the first colour of each class."""
        first = {label: code for code, label in reversed(self.codes)}
        return np.array([color_of(first[label]) for label in range(len(self.class_names))], dtype=np.uint8)

    def _unknown(self, codes: np.ndarray) -> str:
        found, counts = np.unique(codes, return_counts=True)
        most = int(found[counts.argmax()])
        known = np.array([color_of(code) for code, _ in self.codes])
        nearest, label = self.codes[int(((known - color_of(most)) ** 2).sum(axis=1).argmin())]
        name = self.class_names[label] if label < len(self.class_names) else "ignored pixels"
        return (
            f"{counted(len(found), 'colour')} without a class ({counted(int(counts.sum()), 'pixel')}), most often "
            f"{color_of(most)}, which is nearest to {color_of(nearest)}, {name}"
        )


def rgb(color, key: str) -> list[int]:
    """Three numbers of 0 to 255. Raises ConfigError that names the key."""
    numbers = color if isinstance(color, list | tuple) else []
    if len(numbers) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in numbers):
        raise ConfigError(f"{color!r} is not a colour", key, "give [r,g,b], each 0 to 255, per class")
    return list(numbers)


def color_codes(colors: np.ndarray) -> np.ndarray:
    """int32 [H, W]: a number for each colour of uint8 [H, W, 3 or more]."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def color_of(code: int) -> tuple[int, int, int]:
    """The colour with such a number."""
    return code >> 16, code >> 8 & 255, code & 255


@functools.lru_cache(maxsize=4)
def _color_table(codes: tuple) -> np.ndarray:
    """int16 [2^24]: the label of every colour, -1 for none. Looking up is ten times as fast as searching."""
    table = np.full(1 << 24, -1, dtype=np.int16)
    for code, label in codes:
        table[code] = label
    return table
