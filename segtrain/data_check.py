"""Looking a dataset over: every file read once, by all cores, and what is wrong with it in words."""

import os
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from segtrain.data.dataset import SegmentationDataset, check_sample, check_values, mask_place, value_counts
from segtrain.data.file_lists import Finding
from segtrain.errors import DataError
from segtrain.tables import counted

SMALL, LARGE = 16, 8192  # height or width in pixels that is worth a word
LEVELS = ("error", "warning", "note")
NEVER = 1 << 62
_LOCK = threading.Lock()


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
        levels: the lowest and highest value of the image.
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


def check_dataset(splits: dict[str, SegmentationDataset], crop: list[int] | None, progress: bool = False):
    """Read every image and mask of the splits.

    Args:
        splits: {"train": dataset, …}.
        crop: height and width of the training crop, to name smaller images.
        progress: show a bar.

    Returns a SplitReport for each split; what concerns several splits is told with the one to change.
    """
    reports = [
        _check_split(name, dataset, crop if name == "train" else None, progress) for name, dataset in splits.items()
    ]
    _add_duplicates(reports)
    _add_missing_classes(reports)
    for report in reports:
        report.findings.sort(key=lambda f: LEVELS.index(f.level))
    return reports


def _check_split(name: str, dataset: SegmentationDataset, crop, progress: bool) -> SplitReport:
    from tqdm import tqdm

    count = len(dataset.names)
    threads = len(os.sched_getaffinity(0))
    objects = SmallestObjects(dataset.num_classes, dataset.background)
    with ThreadPoolExecutor(threads) as pool:
        samples = pool.map(lambda index: check_one(dataset, index, objects), range(count))
        bar = tqdm(samples, desc=f"checking {name}", total=count, leave=False, disable=None if progress else True)
        report = SplitReport(name, dataset, list(bar), list(getattr(dataset, "findings", [])), objects.found())
    report.findings += _errors(report) + _oddities(report, crop)
    return report


def check_one(dataset: SegmentationDataset, index: int, objects: "SmallestObjects") -> Sample:
    """Read image and mask `index`; what is wrong becomes an error of the sample."""
    errors: list[DataError] = []
    image = _tried(lambda: dataset.image(index), errors, str(dataset.names[index]))
    mask = None
    files = getattr(dataset, "masks", None)
    if files is None or dataset.multilabel or all(files[index]):  # a missing file is told already
        mask = _tried(lambda: dataset.mask(index), errors, str(dataset.names[index]))
    if image is None or mask is None:
        return Sample(index, errors)
    if image.shape[:2] != mask.shape[:2] and hasattr(dataset, "check_pair"):
        _tried(lambda: dataset.check_pair(index), errors, "")
    if not errors:
        _tried(lambda: check_sample(image, mask, dataset, index), errors, "")
    histogram = value_counts(mask)
    _tried(lambda: check_values(histogram, dataset, index), errors, "")
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
    return Sample(
        index,
        [],
        image.shape[:2],
        zlib.crc32(np.ascontiguousarray(image[::8])),
        pixels,
        valid,
        mask.shape[0] * mask.shape[1] - valid,
        (int(image.min()), int(image.max())),
        hasattr(dataset, "turned_apart") and dataset.turned_apart(index),
    )


class SmallestObjects:
    """The size in pixels of the smallest 8-connected component of each class over many masks; not of the background."""

    def __init__(self, num_classes: int, background: int | None):
        self._least = [0 if c == background else NEVER for c in range(num_classes)]

    def add(self, mask: np.ndarray, pixels: np.ndarray) -> None:
        """A mask [H, W] of indices, or [H, W, C] of labels, with `pixels` of each class. From any thread."""
        import cv2

        for label in np.flatnonzero(pixels).tolist():
            if self._least[label] <= 1:  # it cannot be less
                continue
            plane = cv2.inRange(mask, label, label) if mask.ndim == 2 else cv2.inRange(mask[..., label], 1, 1)
            x, y, width, height = cv2.boundingRect(plane)
            box = plane[y : y + height, x : x + width]
            areas = cv2.connectedComponentsWithStats(box, connectivity=8)[2][1:, cv2.CC_STAT_AREA]
            with _LOCK:
                self._least[label] = min(self._least[label], int(areas.min()))

    def found(self) -> np.ndarray:
        """int64 [C]; 0 where there is none."""
        return np.array([0 if least == NEVER else least for least in self._least], dtype=np.int64)


def _tried(read, errors: list[DataError], where: str):
    try:
        return read()
    except DataError as error:
        errors.append(error)
    except Exception as error:  # whatever a user's dataset raises is a finding here, not a crash
        errors.append(DataError(f"{type(error).__name__}: {error}", where, "see the dataset class"))
    return None


def _errors(report: SplitReport) -> list[Finding]:
    """One finding per kind of error: the same words but for the numbers."""
    kinds: dict[str, list[DataError]] = {}
    for sample in report.samples:
        for error in sample.errors:
            kinds.setdefault("".join(c for c in error.what if not c.isdigit())[:60], []).append(error)
    found = []
    for errors in kinds.values():
        more = f" (and {len(errors) - 1} more files like it)" if errors[1:] else ""
        alike = len({error.what for error in errors}) == 1
        places = [error.where if alike else f"{error.where}: {error.what}" for error in errors]
        found.append(Finding("error", errors[0].what + more, places, errors[0].fix))
    return found


def _oddities(report: SplitReport, crop) -> list[Finding]:
    """What is no error in one file, but worth a word."""
    dataset, samples = report.dataset, report.readable

    def places(chosen) -> list[str]:
        return [_image_place(dataset, s.index) for s in chosen]

    background = dataset.background
    foreground = [c for c in range(dataset.num_classes) if c != background]
    ignored = [s for s in samples if s.valid == 0]
    empty = [s for s in samples if s.valid and not s.pixels[foreground].any()]
    tiny = [s for s in samples if min(s.size) < SMALL]
    index_format = dataset.ignore_index == 255 and not dataset.multilabel
    lost = [s for s in samples if index_format and s.valid and s.ignored and np.flatnonzero(s.pixels).tolist() == [0]]
    turned = [s for s in samples if s.turned_apart]
    giant = [s for s in samples if max(s.size) > LARGE]
    small = [s for s in samples if crop and (s.size[0] < crop[0] or s.size[1] < crop[1])]
    flat = [s for s in samples if s.levels[0] == s.levels[1]]
    dark = [s for s in samples if s.levels[0] < s.levels[1] <= 16]
    share = f"{100 * len(empty) / max(len(samples), 1):.0f} %"
    rows = [
        ("warning", ignored, "mask", "with nothing but ignored pixels", "remove them: they teach nothing"),
        ("warning", lost, "mask", "with nothing but 0 and 255, and 255 is ignored",
         "when 255 is the class: dataset.mask_format=binary, or 'dataset.remap={255: 1}' with dataset.ignore_index=254"),
        ("warning", turned, "image", "turned by EXIF orientation where the mask is not",
         "compare a sample with its mask (--out shows some); dataset.exif=ignore takes both as they are stored"),
        ("warning", flat, "image", "with one value everywhere", "look at them"),
        ("warning", dark, "image", f"with no value above {max((s.levels[1] for s in dark), default=0)} of 255",
         "for images of 10 or 12 bits set dataset.image_range=[0,4095]"),
        ("warning", tiny, "image", f"smaller than {SMALL} pixels", "look at them"),
        ("warning", giant, "image", f"larger than {LARGE} pixels", "cut them into tiles: each is read whole"),
        ("warning", small, "image", f"smaller than the crop augment.size={list(crop or [])}, to be padded with "
         "ignored pixels", "lower augment.size"),
        ("note", empty, "image", f"({share}) without foreground", "that is no error"),
    ]  # fmt: skip
    found = [
        Finding(level, f"{counted(len(chosen), noun)} {what}", places(chosen), fix)
        for level, chosen, noun, what, fix in rows
        if chosen
    ]
    if samples and background is not None and not report.pixels[background] and not dataset.multilabel:
        name = dataset.class_names[background]
        found.append(
            Finding(
                "warning", f"no pixel is {name}, the background", [], "dataset.background=null, or another class index"
            )
        )
    damaged = len(samples) < len(report.samples)
    if (
        samples
        and not damaged
        and not dataset.multilabel
        and dataset.num_classes > 1
        and len(np.flatnonzero(report.pixels)) == 1
    ):
        only = dataset.class_names[int(np.flatnonzero(report.pixels)[0])]
        found.append(
            Finding(
                "error",
                f"all masks hold one class, {only}",
                [mask_place(dataset, samples[0].index)],
                "there is nothing to tell apart"
                + (
                    ", and 255 is ignored: when it is the class, dataset.mask_format=binary"
                    if lost
                    else ": correct dataset.mask_format, threshold, remap or ignore_index"
                ),
            )
        )
    return found


def _add_duplicates(reports: list[SplitReport]) -> None:
    """Images of equal pixels within a split, and across splits, where validation would score what was learned."""
    seen: dict[tuple, list[tuple[SplitReport, Sample]]] = {}
    for report in reports:
        within, across = [], []
        for sample in report.readable:
            if sample.levels[0] == sample.levels[1]:
                continue  # empty images are equal, but tell nothing
            others = seen.setdefault((sample.checksum, sample.size), [])
            for other, first in others:
                if np.array_equal(report.dataset.image(sample.index), other.dataset.image(first.index)):
                    place, earlier = (
                        _image_place(report.dataset, sample.index),
                        _image_place(other.dataset, first.index),
                    )
                    (within if other is report else across).append(f"{place} = {earlier}")
                    break
            else:
                others.append((report, sample))
        if across:
            fix = "remove them from one split: the scores are of images that were learned"
            what = f"{counted(len(across), 'image')} found in an earlier split too, pixel by pixel"
            report.findings.append(Finding("error", what, across, fix))
        if within:
            what = f"{counted(len(within), 'image')} found twice, pixel by pixel"
            report.findings.append(Finding("warning", what, within, "remove the copies: they count double"))


def _add_missing_classes(reports: list[SplitReport]) -> None:
    by_name = {report.name: report for report in reports if report.readable}
    if "train" not in by_name:
        return
    train = by_name["train"]
    names = np.array(train.dataset.class_names)
    absent = train.pixels == 0
    for report in by_name.values():
        lost = absent & (report.pixels > 0) if report is not train else np.zeros_like(absent)
        if lost.any():
            report.findings.append(
                Finding(
                    "error",
                    f"{', '.join(names[lost])} is in {report.name} but not in train",
                    [],
                    "it cannot be learned: move images to train, or merge the class with dataset.remap",
                )
            )
    if absent.any():
        train.findings.append(
            Finding(
                "warning",
                f"no training pixel of {', '.join(names[absent])}",
                [],
                "it cannot be learned, and any weighting gives it 0: correct dataset.num_classes, or the masks",
            )
        )
    for report in by_name.values():
        only_train = (train.pixels > 0) & (report.pixels == 0)
        if report is not train and only_train.any():
            report.findings.append(
                Finding(
                    "warning",
                    f"no {report.name} pixel of {', '.join(names[only_train])}",
                    [],
                    "its score will be n/a: move images with it here",
                )
            )


def _image_place(dataset: SegmentationDataset, index: int) -> str:
    images = getattr(dataset, "images", None)
    return (
        str(images[index])
        if images is not None
        else f"{dataset.split if hasattr(dataset, 'split') else ''} {dataset.names[index]}"
    )
