"""What the masks hold where dataset.num_classes is not set: the number of classes, or the settings to choose from."""

from collections import Counter

import numpy as np

from segtrain.data.folder import Folder
from segtrain.data.folder.colors import color_codes, color_of
from segtrain.data.folder.images import read_values
from segtrain.data.mask_values import GREY, MANY, value_counts
from segtrain.data.threads import in_threads, tried
from segtrain.errors import ConfigError, DataError, few

UNSET = "dataset.num_classes is not set, and the masks hold "


def number_of_classes(dataset: Folder) -> tuple[int, str]:
    """One more than the highest value in the masks, and the values in words.

    Args:
        dataset: of 255 classes and index masks, with `strict=False`.

    Raises ConfigError, with the settings to choose from, where the values are no classes from 0 on, DataError where no
    mask can be read.
    """
    indices = [index for index in range(len(dataset.names)) if dataset.has_mask(index)]
    if not indices:
        errors = [finding for finding in dataset.findings if finding.level == "error"]
        raise DataError("; ".join(error.what for error in errors), few(errors[0].files), errors[0].fix)
    read = in_threads(lambda index: tried(lambda: value_counts(dataset.mask(index))), indices, "reading masks")
    masks = list(read)
    readable = [found for found in masks if not isinstance(found, DataError)]
    if len(readable) < len(masks):
        # An all black colour mask reads as one of indices.
        other = _other_masks(dataset, indices, colours=bool(readable))
        if other or not readable:
            raise other or masks[0]
    pixels = sum(readable)
    values = np.flatnonzero(pixels).tolist()
    labels = [value for value in values if value != dataset.ignore_index]
    count = 2 if values == [0, 255] else len(labels) if labels[:1] == [1] else labels[-1] + 1 if labels else 0
    listed = few([*map(str, values)], 20)
    edges = len(labels) > 8 and labels[-1] > MANY and pixels[0] + pixels[values[-1]] > 0.8 * pixels.sum()
    if len(labels) > MANY or edges:
        fix = f"{GREY}; otherwise give the number of classes"
        raise ConfigError(f"{UNSET}{len(labels)} values", "dataset.num_classes", fix)
    if count < 2 or len(labels) < count - 1:
        fix = _numbered(values, dataset.ignore_index)
        if len(values) > 2:
            fix += "; if a value is a mistake, set only dataset.num_classes, and `segtrain check` names the files"
        raise ConfigError(UNSET + listed, "dataset.num_classes", fix)
    if dataset.ignore_index in values and values != [0, 255]:
        listed += f" ({dataset.ignore_index} is ignored: {100 * pixels[dataset.ignore_index] / pixels.sum():.2g} % of the pixels)"
    return count, listed


def _other_masks(dataset: Folder, indices: list[int], colours: bool) -> ConfigError | None:
    """The settings for colour-coded masks, or, unless `colours`, for values above 255; None for masks of any other kind."""
    files = [file for index in indices for file in dataset.masks[index] if file is not None]
    read = in_threads(
        lambda file: tried(lambda: _held(read_values(file, dataset.exif, True))), files, "reading masks again"
    )
    pixels: Counter = Counter()
    for held in read:
        if isinstance(held, DataError):
            continue
        if held is None:
            return None
        pixels.update(held)
    if any(isinstance(value, tuple) for value in pixels):  # black and grey ones may be saved without colours
        grey = {value: pixels.pop(value) for value in [*pixels] if isinstance(value, int)}
        if max(grey, default=0) > 255:
            return None
        pixels.update({(value, value, value): count for value, count in grey.items()})
    values = [value for value, _ in pixels.most_common()]
    if not values or (colours and isinstance(values[0], int) and max(values) < 256):
        return None
    if isinstance(values[0], int):
        values = sorted(values)
        fix = _numbered(values, dataset.ignore_index) if len(values) <= MANY else GREY
        if len(values) > 255:
            fix += "; of class indices there can be 255, so merge some with dataset.remap"
        elif len(values) > MANY:
            fix += ", or save class indices"
        return ConfigError(f"{UNSET}{_listed(values, 'values')}", "dataset.num_classes", fix)
    if len(values) > MANY:
        fix = "save them as PNG, drawn without smooth edges: each pixel has the colour of its class"
        return ConfigError(f"{UNSET}{len(values):,} colours", "dataset.num_classes", fix)
    first = "black" if (0, 0, 0) in values else "the colour of most pixels"
    values.sort(key=any)  # black first
    colors = ",".join(f"[{r},{g},{b}]" for r, g, b in values)
    of_colours = f"if each colour is a class, dataset.mask_format=color dataset.num_classes={len(values)} "
    of_colours += (
        f"'dataset.colors=[{colors}]', the background first (here {first}; without one dataset.background=null); "
    )
    of_colours += "a colour that means unlabelled goes from there into dataset.ignore_colors, with one class less"
    of_channels = "if each channel is a class (multi-label), dataset.mask_format=channels dataset.num_classes=3 "
    of_channels += "dataset.background=null loss=bce_dice"
    numbers = {number for color in values for number in color}
    ways = [of_colours]
    if numbers <= {0, 1, 255} and 1 in numbers:  # no colours that anyone would see
        ways = [of_channels + " dataset.ignore_values=[255]" * (255 in numbers), of_colours]
    elif all(len({color[channel] for color in values}) <= 2 for channel in range(3)):
        ways.append(of_channels)
    return ConfigError(UNSET + _listed(values, "colours"), "dataset.num_classes", "; ".join(ways))


def _held(values: np.ndarray) -> Counter | None:
    """Pixels of each whole number in a mask [H, W], or of each colour (r, g, b); None for masks of another kind."""
    if values.ndim == 2 and values.dtype.kind in "iu":
        found, counts = np.unique(values, return_counts=True)
        return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    if values.dtype != np.uint8 or values.ndim != 3 or values.shape[2] not in (3, 4):
        return None
    found, counts = np.unique(color_codes(values), return_counts=True)
    return Counter(dict(zip(map(color_of, found.tolist()), counts.tolist(), strict=True)))


def _listed(values: list, noun: str) -> str:
    words = [str(list(value) if isinstance(value, tuple) else value) for value in values]
    return f"{len(values)} {noun}: {few(words, 8)}"


def _numbered(values: list[int], ignored: int) -> str:
    """How masks of a few other values can be trained on: the values as classes 0, 1, …"""
    kept = [value for value in values if value != ignored]
    if len(values) < 2:
        return "give the number of classes, and see docs/dataset.md for other masks"

    def as_classes(chosen: list[int]) -> str:
        pairs = ", ".join(f"{value}: {label}" for label, value in enumerate(chosen) if value != label)
        return f"dataset.num_classes={len(chosen)}" + (f" 'dataset.remap={{{pairs}}}'" if pairs else "")

    if kept == values:
        return f"if each value is a class, {as_classes(values)}"
    return f"if {ignored} is a class, {as_classes(values)}; if it means unlabelled, {as_classes(kept)}"
