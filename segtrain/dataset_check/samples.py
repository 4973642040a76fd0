"""Reading images and masks to look them over: what each tells, and what is wrong with it."""

import zlib
from dataclasses import dataclass, field

import numpy as np

from segtrain.data.dataset import SegmentationDataset, check_mask, check_sample, check_values
from segtrain.data.folder.findings import Finding
from segtrain.data.value_counts import value_counts
from segtrain.dataset_check.smallest_objects import SmallestObjects
from segtrain.errors import DataError

DARK = 16  # of 255: an image without higher values is worth a word


@dataclass(frozen=True)
class Sample:
    """What reading one image and its mask told.

    Attributes:
        index: in its split.
        errors: what is wrong, in words, with what to do.
        size: height and width.
        checksum: of every eighth row; equal images have equal ones.
        pixels: int64 [C], of each class.
        valid, ignored: pixels that count in any channel; pixels that do not.
        levels: the lowest and highest value, of every eighth row when that is neither flat nor dark.
        turned_apart: whether EXIF turns the image in another way than its mask.
    """

    index: int
    errors: list[DataError] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    checksum: int = 0
    pixels: np.ndarray | None = None
    valid: int = 0
    ignored: int = 0
    levels: tuple[int, int] = (0, 255)
    turned_apart: bool = False


@dataclass
class SplitReport:
    """One split: its samples, and what there is to say of it."""

    name: str
    dataset: SegmentationDataset
    samples: list[Sample]
    findings: list[Finding]
    smallest: np.ndarray  # int64 [C]: pixels of the smallest object (connected component) of a class; 0: there is none

    @property
    def readable(self) -> list[Sample]:
        return [s for s in self.samples if s.pixels is not None]

    @property
    def pixels(self) -> np.ndarray:
        """int64 [C]."""
        return sum((s.pixels for s in self.readable), self._zeros())

    @property
    def images(self) -> np.ndarray:
        """int64 [C]: images that hold the class."""
        return sum(((s.pixels > 0).astype(np.int64) for s in self.readable), self._zeros())

    def _zeros(self) -> np.ndarray:
        return np.zeros(self.dataset.num_classes, dtype=np.int64)


def check_one(dataset: SegmentationDataset, index: int, objects: SmallestObjects) -> Sample:
    """Read image and mask `index`; what is wrong becomes an error of the sample."""
    errors: list[DataError] = []
    name, files = str(dataset.names[index]), getattr(dataset, "masks", None)
    told = files is not None and not dataset.multilabel and not all(files[index])  # that a file is missing
    image = _tried(lambda: dataset.image(index), errors, name)
    mask = None if told else _tried(lambda: dataset.mask(index), errors, name)
    if errors or told:
        return Sample(index, errors)
    _tried(lambda: check_mask(mask, dataset, index), errors, name)
    if not errors and hasattr(dataset, "check_pair") and getattr(image, "shape", mask.shape)[:2] != mask.shape[:2]:
        _tried(lambda: dataset.check_pair(index), errors, name)
    if not errors:
        _tried(lambda: check_sample(image, mask, dataset, index), errors, name)
    if getattr(mask, "dtype", None) == np.uint8:
        histogram = value_counts(mask, 2 if dataset.multilabel else dataset.num_classes)
        _tried(lambda: check_values(histogram, dataset, index), errors, name)
    if errors:
        return Sample(index, errors)
    if dataset.multilabel:
        pixels = (mask == 1).sum(axis=(0, 1))
        valid = int((mask != dataset.ignore_index).any(axis=2).sum())
    else:
        pixels = histogram[: dataset.num_classes].copy()
        pixels[dataset.ignore_index : dataset.ignore_index + 1] = 0
        valid = int(pixels.sum())
    objects.add(mask, pixels)
    rows = np.ascontiguousarray(image[::8])
    bright = rows.max() > DARK and rows.min() < rows.max()  # then the image is: all of it takes eight times as long
    seen = rows if bright else image
    return Sample(
        index,
        [],
        image.shape[:2],
        zlib.crc32(rows),
        pixels,
        valid,
        mask.shape[0] * mask.shape[1] - valid,
        (int(seen.min()), int(seen.max())),
        hasattr(dataset, "turned_apart") and dataset.turned_apart(index),
    )


def _tried(read, errors: list[DataError], where: str):
    try:
        return read()
    except DataError as error:
        errors.append(error)
    except Exception as error:  # whatever a user's dataset raises is a finding here, not a crash
        errors.append(DataError(f"{type(error).__name__}: {error}", where, "see the dataset class"))
    return None
