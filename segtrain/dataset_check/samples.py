"""One image and its mask: errors, size, pixels of each class, and what else the check of a dataset needs."""

import contextlib
import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from segtrain.data.dataset import SegmentationDataset, check_mask, check_sample, class_pixels
from segtrain.data.folder.findings import Finding
from segtrain.data.folder.folder import Folder
from segtrain.data.folder.images import read_values
from segtrain.data.folder.masks import IndexMask
from segtrain.dataset_check.smallest_objects import SmallestObjects
from segtrain.errors import DataError

DARK = 16  # of 255: an image without higher values is a finding
UNUSED = 64  # of 255: 16-bit images of which none has higher values leave most grey levels unused


@dataclass(frozen=True)
class Sample:
    """Facts about one image and its mask."""

    index: int  # in its split
    errors: list[DataError] = field(default_factory=list)  # what is wrong, in words, with the fix
    size: tuple[int, int] = (0, 0)  # height and width
    checksum: int = 0  # of every eighth row; equal images have equal ones
    pixels: np.ndarray | None = None  # int64 [C], of each class
    counted: np.ndarray | None = None  # int64 [C], pixels that count for each class
    valid: int = 0  # pixels that count for any class
    ignored: int = 0  # pixels that do not
    levels: tuple[int, int] = (0, 255)  # lowest and highest value; of every eighth row unless that is dark or flat
    colours: dict = field(default_factory=dict)  # of a palette mask, [r, g, b] by the index that some pixel has
    turned_apart: bool = False  # whether EXIF turns the image in another way than its mask


@dataclass
class SplitReport:
    """One split: its samples and findings."""

    name: str
    dataset: SegmentationDataset
    samples: list[Sample]
    findings: list[Finding]
    objects: SmallestObjects

    @property
    def readable(self) -> list[Sample]:
        """The samples without errors."""
        return [s for s in self.samples if s.pixels is not None]

    @property
    def errors(self) -> list[DataError]:
        return [error for sample in self.samples for error in sample.errors]

    @property
    def pixels(self) -> np.ndarray:
        """int64 [C]."""
        return self._table.sum(axis=0)

    @property
    def images(self) -> np.ndarray:
        """int64 [C]: images that hold the class."""
        return (self._table > 0).sum(axis=0)

    @property
    def _table(self) -> np.ndarray:
        return np.array([s.pixels for s in self.readable], dtype=np.int64).reshape(-1, self.dataset.num_classes)

    def add(self, level: str, what: str, files: list[str], fix: str) -> None:
        self.findings.append(Finding(level, what, files, fix))


def range_to_set(dataset, highest: int, index: int = 0) -> list[int] | None:
    """dataset.image_range for images of 16 bits, such as `index`, whose high bytes reach no higher than `highest` of 255.

    None for other images, where a range is set, and where the images are resized: that flattens their highest values.
    """
    if (
        highest >= UNUSED
        or not isinstance(dataset, Folder)
        or dataset.image_range is not None
        or dataset.resize is not None
    ):
        return None
    values = read_values(dataset.images[index])
    to_grey = dataset.channels == 1 and values.ndim == 3  # likewise
    return [0, 256 * highest + 255] if values.dtype.itemsize == 2 and not to_grey else None


def check_one(dataset: SegmentationDataset, index: int, objects: SmallestObjects) -> Sample:
    """Read image and mask `index`; what is wrong becomes an error of the sample."""
    errors: list[DataError] = []
    image = mask = pixels = None
    name = str(dataset.names[index])
    with _collected(errors, name):
        image = dataset.image(index)
    if not dataset.has_mask(index):
        return Sample(index, errors)
    with _collected(errors, name):
        mask = dataset.mask(index)
    if errors:
        return Sample(index, errors)
    with _collected(errors, name):
        check_mask(mask, dataset, index)
        if isinstance(image, np.ndarray) and image.shape[:2] != mask.shape[:2]:
            dataset.check_pair(index)
        check_sample(image, mask, dataset, index)
    if isinstance(mask, np.ndarray) and mask.dtype == np.uint8 and mask.ndim > 1:
        with _collected(errors, name):
            pixels = class_pixels(mask, dataset, index)
    return Sample(index, errors) if errors else _facts(dataset, index, image, mask, pixels, objects)


@contextlib.contextmanager
def _collected(errors: list[DataError], where: str):
    """Errors inside are added to a list; whatever a user's dataset raises is a finding here, not a crash."""
    try:
        yield
    except DataError as error:
        errors.append(error)
    except MemoryError:  # says nothing of the image
        raise
    except Exception as error:
        errors.append(DataError(f"{type(error).__name__}: {error}", where, "see the dataset class"))


def _facts(dataset, index: int, image, mask, pixels, objects: SmallestObjects) -> Sample:
    labelled = mask != dataset.ignore_index
    valid = int((labelled.any(axis=2) if dataset.multilabel else pixels).sum())
    counted = labelled.sum(axis=(0, 1)) if dataset.multilabel else np.full(len(pixels), valid)
    objects.add(mask, pixels)
    rows = np.ascontiguousarray(image[::8])
    bright = rows.max() >= UNUSED and rows.min() < rows.max()  # then the image is: all of it takes eight times as long
    levels = rows if bright else image
    return Sample(
        index,
        size=image.shape[:2],
        checksum=zlib.crc32(rows),
        pixels=pixels,
        counted=counted,
        valid=valid,
        ignored=mask.shape[0] * mask.shape[1] - valid,
        levels=(int(levels.min()), int(levels.max())),
        colours=_palette_colours(dataset, index, pixels),
        turned_apart=dataset.turned_apart(index),
    )


def _palette_colours(dataset, index: int, pixels: np.ndarray) -> dict[int, tuple[int, ...]]:
    """The colour of each class in the palette of its mask; empty for other masks, and where values are mapped to classes."""
    if not isinstance(dataset, Folder) or not isinstance(dataset.format, IndexMask) or dataset.format.changes:
        return {}
    mask = dataset.masks[index][0]
    if mask is None or mask.suffix.lower() != ".png":
        return {}
    with Image.open(mask) as file:
        palette = (file.getpalette() or []) if file.mode == "P" else []
    there = [label for label in np.flatnonzero(pixels).tolist() if 3 * label + 3 <= len(palette)]
    return {label: tuple(palette[3 * label : 3 * label + 3]) for label in there}
