"""Class counts: pixels and images of each class, from one pass over the masks with threads.

Class locations are some pixels of each class of an image, found while its mask is counted; crops are centred on them.
"""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from segtrain.class_counts.cache import cached_rows
from segtrain.data.dataset import SegmentationDataset, as_dataset, class_pixels, read_mask
from segtrain.data.mask_values import WrongValues, of_all
from segtrain.data.threads import in_threads, tried
from segtrain.errors import DataError

LOCATIONS = 256  # of an image
VERSION = 1  # of what find_locations finds: to be raised when it changes, since locations are cached


@dataclass(frozen=True)
class ClassCounts:
    """Counts per class over a split; ignored pixels are never counted.

    Attributes:
        class_names: C names.
        pixels: int64 [C], pixels of the class (n_c).
        images: int64 [C], images the class is in (i_c).
        pixels_of_images: int64 [C], valid pixels of the images the class is in (m_c).
        valid_pixels: int64 [C], pixels that are not ignored in the channel of the class (N_c).
        ignored_pixels: int, averaged over the channels.
        num_images, num_empty: images; images with no class but the background.
        per_image: int64 [num_images, C], pixels of each class in each image.
        background: index of the background class, or None.
        multilabel: whether a pixel may have several classes.
        locations: int64 [num_images, LOCATIONS], class locations of the foreground, as of find_locations; or None.
    """

    class_names: list[str]
    pixels: np.ndarray
    images: np.ndarray
    pixels_of_images: np.ndarray
    valid_pixels: np.ndarray
    ignored_pixels: int
    num_images: int
    num_empty: int
    per_image: np.ndarray
    background: int | None = None
    multilabel: bool = False
    locations: np.ndarray | None = None

    @property
    def share(self) -> np.ndarray:
        """float64 [C]: pixels of the class over valid pixels."""
        return self.pixels / np.maximum(self.valid_pixels, 1)

    @property
    def absent(self) -> list[str]:
        """Names of the classes without pixels."""
        return [name for name, pixels in zip(self.class_names, self.pixels, strict=True) if pixels == 0]

    def draw_locations(self, images: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """int [n]: a pixel of class `classes[i]` of image `images[i]`, row · width + column, at random; -1: has none."""
        if self.locations is None:
            raise ValueError("foreground oversampling needs count_classes(dataset, locations=True)")
        locations = self.locations[images]
        fits = (locations >= 0) & (locations % 256 == classes[:, None])
        drawn = np.where(fits, rng.random(locations.shape), -1.0).argmax(axis=1)
        return np.where(fits.any(axis=1), locations[np.arange(len(locations)), drawn] // 256, -1)

    def to_dict(self) -> dict:
        """For class_counts.json."""
        rows = zip(self.class_names, self.pixels.tolist(), self.share.tolist(), self.images.tolist(), strict=True)
        return {
            "classes": [
                {"index": i, "name": name, "pixels": pixels, "share": share, "images": images}
                for i, (name, pixels, share, images) in enumerate(rows)
            ],
            "background": self.background,
            "multilabel": self.multilabel,
            "valid_pixels": int(self.valid_pixels.max()),
            "ignored_pixels": self.ignored_pixels,
            "images": self.num_images,
            "images_without_foreground": self.num_empty,
        }


def count_classes(
    dataset, cache: Path | None = None, threads: int | None = None, locations: bool = False
) -> ClassCounts:
    """Count the masks of a dataset.

    Args:
        dataset: one split: a SegmentationDataset, or any class with what that requires.
        cache: folder where the counts of each mask are kept under the dataset's `mask_key`. None: no cache.
        threads: None uses every core this process may run on.
        locations: keep class locations, for foreground oversampling.

    Raises DataError that names the file for a mask that cannot be read or has values outside the classes.
    """
    dataset = as_dataset(dataset)
    count = partial(_count, dataset, threads=threads, locations=locations)
    if cache is None:
        return summed(count(range(len(dataset.names))), dataset)
    kind = f"locations {VERSION} {dataset.background}" if locations else ""
    return summed(cached_rows(dataset, cache, count, _columns(dataset, locations), kind), dataset)


def default_cache() -> Path:
    """Where counts are kept: $SEGTRAIN_CACHE, or segtrain/ in the user's cache folder, of a user without one in outputs/."""
    if given := os.environ.get("SEGTRAIN_CACHE"):
        return Path(given)
    if home := os.environ.get("XDG_CACHE_HOME"):
        return Path(home) / "segtrain"
    try:
        return Path.home() / ".cache" / "segtrain"
    except RuntimeError:  # in a container, of a user that is not in its list
        return Path("outputs") / ".cache"


def _columns(dataset: SegmentationDataset, locations: bool) -> int:
    return (LOCATIONS if locations else 0) + 2 * dataset.num_classes + 1


def _count(dataset, indices, threads: int | None, locations: bool) -> np.ndarray:
    """int64 [images, columns], a `_row` of each image. Raises the first DataError, with the number of all."""
    table = np.zeros((len(indices), _columns(dataset, locations)), dtype=np.int64)
    errors: list[DataError] = []

    rows = in_threads(lambda i: tried(_row, dataset, i, locations), indices, "counting classes", threads)
    for number, row in enumerate(rows):
        # Sizes are compared here, while the threads decode: reading headers is Python, which threads would wait for.
        error = row if isinstance(row, DataError) else tried(dataset.check_pair, indices[number])
        if error is None:
            table[number] = row
        else:
            errors.append(error)
    if errors:
        first, more, fix = errors[0], "", ""
        if all(isinstance(error, WrongValues) for error in errors):
            first = of_all(dataset, errors, summed(table, dataset).pixels)
        elif errors[1:]:
            more, fix = f" ({len(errors) - 1} more masks have errors)", "; `segtrain check` lists them all"
        raise DataError(first.what + more, first.where, first.fix + fix)
    return table


def _row(dataset: SegmentationDataset, index: int, locations: bool) -> np.ndarray:
    """int64 [columns]: locations, pixels of each class, valid pixels of each class's channel, all pixels."""
    mask = read_mask(dataset, index)
    pixels, every = class_pixels(mask, dataset, index), mask.shape[0] * mask.shape[1]
    valid = (mask != dataset.ignore_index).sum(axis=(0, 1)) if dataset.multilabel else [pixels.sum()] * len(pixels)
    row = np.concatenate([pixels, valid, [every]])
    if not locations:
        return row
    present = [c for c in np.flatnonzero(pixels).tolist() if c != dataset.background]
    return np.concatenate([find_locations(mask, present), row])


def find_locations(mask: np.ndarray, classes: list[int]) -> np.ndarray:
    """int64 [LOCATIONS]: 256 · pixel + class, with pixel = row · width + column; -1 where there are fewer.

    The classes share the locations evenly, but for those with fewer pixels. Of each of as many parts of a class's
    pixels, in the order of rows, one is drawn, always the same for the same mask: at even steps all could be in one
    column.

    Args:
        mask: class indices [H, W]; multi-label 0 and 1, [H, W, C].
        classes: that the mask has.
    """
    pixels = {c: np.flatnonzero(mask == c if mask.ndim == 2 else mask[..., c] == 1) for c in classes}
    found, used = np.full(LOCATIONS, -1, dtype=np.int64), 0
    for left, label in enumerate(sorted(classes, key=lambda c: len(pixels[c]))):
        number = min((LOCATIONS - used) // (len(classes) - left), len(pixels[label]))
        parts = np.arange(number) + np.random.default_rng(label).random(number)
        chosen = pixels[label][(parts * len(pixels[label]) / max(number, 1)).astype(np.int64)]
        found[used : used + number] = 256 * chosen + label
        used += number
    return found


def summed(table: np.ndarray, dataset: SegmentationDataset) -> ClassCounts:
    """Counts from a row per image, as of `_row`."""
    classes = dataset.num_classes
    locations, pixels, valid, _ = np.split(table, [-2 * classes - 1, -classes - 1, -1], axis=1)
    present = pixels > 0
    foreground = np.arange(classes) != (-1 if dataset.background is None else dataset.background)
    return ClassCounts(
        class_names=list(dataset.class_names),
        pixels=pixels.sum(axis=0),
        images=present.sum(axis=0),
        pixels_of_images=(present * valid).sum(axis=0),
        valid_pixels=valid.sum(axis=0),
        ignored_pixels=int(table[:, -1].sum() - valid.sum() // classes),
        num_images=len(table),
        num_empty=int((~present[:, foreground].any(axis=1)).sum()),
        per_image=pixels,
        background=dataset.background,
        multilabel=dataset.multilabel,
        locations=locations if locations.size else None,
    )
