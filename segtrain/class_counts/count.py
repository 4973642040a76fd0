"""How many pixels and images each class has: one pass over the masks, with threads."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segtrain.class_counts.cache import cached_rows
from segtrain.class_counts.locations import PLACES, VERSION, find_places
from segtrain.cpu import cores, in_chunks
from segtrain.data.dataset import SegmentationDataset, check_values
from segtrain.data.value_counts import value_counts
from segtrain.data.views import read_mask
from segtrain.errors import DataError

log = logging.getLogger("segtrain")

MOST_SKIPPED = 0.01  # share of the images that dataset.on_error=skip may leave out


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
        skipped: images that could not be read and are left out (dataset.on_error=skip).
        per_image: int64 [num_images, C], pixels of each class in each image.
        background: index of the background class, or None.
        multilabel: whether a pixel may have several classes.
        places: int64 [num_images, PLACES], pixels of the foreground classes as of find_places; None: not asked for.
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
    places: np.ndarray | None = None
    skipped: int = 0

    @property
    def share(self) -> np.ndarray:
        """float64 [C]: pixels of the class over valid pixels."""
        return self.pixels / np.maximum(self.valid_pixels, 1)

    @property
    def absent(self) -> list[str]:
        """Names of the classes without pixels."""
        return [name for name, pixels in zip(self.class_names, self.pixels, strict=True) if pixels == 0]

    def to_dict(self) -> dict:
        """For class_counts.json."""
        rows = zip(self.class_names, self.pixels.tolist(), self.share.tolist(), self.images.tolist(), strict=True)
        return {
            "classes": [
                {"index": i, "name": name, "pixels": pixels, "share": share, "images": images}
                for i, (name, pixels, share, images) in enumerate(rows)
            ],
            "valid_pixels": int(self.valid_pixels.max()),
            "ignored_pixels": self.ignored_pixels,
            "images": self.num_images,
            "images_without_foreground": self.num_empty,
            "images_skipped": self.skipped,
        }


def count_classes(
    dataset: SegmentationDataset,
    cache: Path | None = None,
    threads: int | None = None,
    progress: bool = False,
    places: bool = False,
) -> ClassCounts:
    """Count the masks of a dataset.

    Args:
        dataset: one split; its `mask_histogram` is used when it has one.
        cache: folder where the counts of each mask are kept under the dataset's `mask_key`. None: no cache.
        threads: None uses every core this process may run on.
        progress: show a progress bar.
        places: keep some pixels of each foreground class of each image, for crops that are centred on them.

    Raises DataError that names the file for a mask that cannot be read or has values outside the classes.
    """

    def count(indices) -> np.ndarray:
        return _count(dataset, indices, threads, progress, places)

    if cache is None or not hasattr(dataset, "mask_key"):
        return summed(count(range(len(dataset.names))), dataset)
    kind = f"places {VERSION} {dataset.background}" if places else ""
    return summed(cached_rows(dataset, cache, count, _columns(dataset, places), kind), dataset)


def default_cache() -> Path:
    """Where counts are kept: $SEGTRAIN_CACHE, or segtrain/ in the user's cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("SEGTRAIN_CACHE") or home / "segtrain")


def _columns(dataset, places: bool) -> int:
    return (PLACES if places else 0) + 2 * dataset.num_classes + 1


def _count(dataset, indices, threads: int | None, progress: bool, places: bool) -> np.ndarray:
    """int64 [images, columns]: places, pixels of each class, valid pixels of each class's channel, all pixels."""
    table = np.zeros((len(indices), _columns(dataset, places)), dtype=np.int64)
    errors: dict[int, DataError] = {}  # by row: one an image
    with ThreadPoolExecutor(threads or cores()) as pool, _bar(len(indices), progress) as bar:
        counted = pool.map(lambda chunk: _count_chunk(dataset, chunk, places), in_chunks(indices))
        unfit = _pair_errors(dataset, indices)  # while the threads decode
        for row, result in enumerate(result for chunk in counted for result in chunk):
            if isinstance(result, DataError):
                errors[row] = result
            elif row in unfit:
                errors[row] = unfit[row]
            else:
                table[row] = result
            bar.update()
    few = len(errors) <= MOST_SKIPPED * len(dataset.names)
    if errors and getattr(dataset, "on_error", "raise") == "skip" and few:
        for error in errors.values():
            log.warning(f"skipped: {error.what}: {error.where}")
    elif errors:
        first = next(iter(errors.values()))
        more = f" (and {len(errors) - 1} more masks have errors)" if len(errors) > 1 else ""
        some = "; `segtrain check` lists them all" if more else ""
        raise DataError(first.what + more, first.where, first.fix + some)
    return table


def _pair_errors(dataset, indices) -> dict[int, DataError]:
    """By row of the table, the images that do not fit their masks."""
    errors = {}
    for row, index in enumerate(indices if hasattr(dataset, "check_pair") else ()):
        try:
            dataset.check_pair(index)
        except DataError as error:
            errors[row] = error
    return errors


def _count_chunk(dataset, indices, places: bool) -> list:
    """A row of the table, or a DataError, for each image."""
    if places:
        return [_tried(_row_with_places, dataset, index) for index in indices]
    if dataset.multilabel:
        return [_tried(_count_labels, dataset, index) for index in indices]
    results = [_tried(_histogram, dataset, index) for index in indices]
    # Rows from histograms all at once: one by one they would cost a tenth of the decoding.
    good = [place for place, result in enumerate(results) if not isinstance(result, DataError)]
    for place, row in zip(good, _rows(dataset, [indices[p] for p in good], [results[p] for p in good]), strict=True):
        results[place] = row
    return results


def _rows(dataset, indices: list[int], histograms: list[np.ndarray]) -> list:
    """Rows of the table from histograms [256] of the masks; a DataError for values that are no class."""
    if not histograms:
        return []
    values, classes, ignore = np.stack(histograms), dataset.num_classes, dataset.ignore_index
    total = values.sum(axis=1, keepdims=True)
    table = np.repeat(total - values[:, ignore : ignore + 1], 2 * classes + 1, axis=1)
    table[:, :classes], table[:, -1:] = values[:, :classes], total
    if ignore < classes:
        table[:, ignore] = 0
    rows = list(table)
    for place in np.flatnonzero(table[:, :classes].sum(axis=1) != table[:, classes]):
        try:
            check_values(values[place], dataset, indices[place])
        except DataError as error:
            rows[place] = error
    return rows


def _row_with_places(dataset, index: int):
    mask = read_mask(dataset, index)
    if dataset.multilabel:
        row = _count_labels(dataset, index, mask)
    else:
        row = _rows(dataset, [index], [value_counts(mask, dataset.num_classes)])[0]
    if isinstance(row, DataError):
        return row
    present = [c for c in np.flatnonzero(row[: dataset.num_classes]).tolist() if c != dataset.background]
    return np.concatenate([find_places(mask, present), row])


def _tried(count, dataset, index: int):
    try:
        return count(dataset, index)
    except DataError as error:
        return error


def _bar(total: int, progress: bool):
    from tqdm import tqdm

    return tqdm(desc="counting classes", unit="mask", total=total, leave=False, disable=None if progress else True)


def _histogram(dataset, index: int) -> np.ndarray:
    histogram = getattr(dataset, "mask_histogram", None)
    return histogram(index) if histogram else value_counts(read_mask(dataset, index), dataset.num_classes)


def _count_labels(dataset, index: int, mask: np.ndarray | None = None) -> np.ndarray:
    mask, ignore = read_mask(dataset, index) if mask is None else mask, dataset.ignore_index
    check_values(value_counts(mask, 2), dataset, index)
    pixels = ((mask == 1) & (mask != ignore)).sum(axis=(0, 1))
    valid = (mask != ignore).sum(axis=(0, 1))
    return np.concatenate([pixels, valid, [mask.shape[0] * mask.shape[1]]])


def summed(table: np.ndarray, dataset) -> ClassCounts:
    """Counts from a row an image: places where asked for, pixels of each class, valid pixels of each class's channel,
    all pixels."""
    classes = dataset.num_classes
    places, pixels, valid, _ = np.split(table, [-2 * classes - 1, -classes - 1, -1], axis=1)
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
        num_empty=int((~present[:, foreground].any(axis=1) & (table[:, -1] > 0)).sum()),
        per_image=pixels,
        background=dataset.background,
        multilabel=dataset.multilabel,
        places=places if places.size else None,
        skipped=int((table[:, -1] == 0).sum()),
    )
