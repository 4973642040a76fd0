"""Looking a dataset over: every file read once, by all cores, and what is wrong with it in words."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from segtrain.cpu import cores, in_chunks
from segtrain.data.dataset import SegmentationDataset, mask_place
from segtrain.data.folder.findings import Finding
from segtrain.data.folder.masks import ClassFiles, IndexMask
from segtrain.dataset_check.samples import DARK, Sample, SplitReport, check_one
from segtrain.dataset_check.smallest_objects import SmallestObjects
from segtrain.errors import DataError, counted

SMALL, LARGE = 16, 8192  # height or width in pixels that is worth a word
LEVELS = ("error", "warning", "note")


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
    objects = SmallestObjects(dataset.num_classes, dataset.background)
    with ThreadPoolExecutor(cores()) as pool:
        chunks = in_chunks(range(count))
        checked = pool.map(lambda chunk: [check_one(dataset, index, objects) for index in chunk], chunks)
        samples = (sample for chunk in checked for sample in chunk)
        bar = tqdm(samples, desc=f"checking {name}", total=count, leave=False, disable=None if progress else True)
        report = SplitReport(name, dataset, list(bar), list(getattr(dataset, "findings", [])), objects.found())
    report.findings += _errors(report) + _oddities(report, crop)
    return report


def _errors(report: SplitReport) -> list[Finding]:
    """One finding per kind of error: the same words but for the numbers."""
    kinds: dict[str, list[DataError]] = {}
    for sample in report.samples:
        for error in sample.errors:
            kinds.setdefault(re.sub(r"[-\d.,]+", "", error.what)[:60], []).append(error)
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
    index_format = dataset.ignore_index == 255 and isinstance(getattr(dataset, "format", None), IndexMask)
    lost = [s for s in samples if index_format and s.valid and s.ignored and np.flatnonzero(s.pixels).tolist() == [0]]
    turned = [s for s in samples if s.turned_apart]
    giant = [s for s in samples if max(s.size) > LARGE]
    small = [s for s in samples if crop and (s.size[0] < crop[0] or s.size[1] < crop[1])]
    flat = [s for s in samples if s.levels[0] == s.levels[1]]
    dark = [s for s in samples if s.levels[0] < s.levels[1] <= DARK]
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
    return found + _classes_of_all(report, bool(lost))


def _classes_of_all(report: SplitReport, lost: bool) -> list[Finding]:
    """Whether the masks of a split together have a background and something else; `lost`: they may have ignored it."""
    dataset, samples, background = report.dataset, report.readable, report.dataset.background
    if not samples or dataset.multilabel:
        return []
    found = []
    if background is not None and not report.pixels[background]:
        what = f"no pixel is {dataset.class_names[background]}, the background"
        found.append(Finding("warning", what, [], "dataset.background=null, or another class index"))
    there = np.flatnonzero(report.pixels)
    if len(samples) == len(report.samples) and dataset.num_classes > 1 and len(there) == 1:
        fix = "there is nothing to tell apart" + (
            ", and 255 is ignored: when it is the class, dataset.mask_format=binary"
            if lost
            else ": correct dataset.mask_format, threshold, remap or ignore_index"
        )
        what = f"all masks hold one class, {dataset.class_names[there[0]]}"
        found.append(Finding("error", what, [mask_place(dataset, samples[0].index)], fix))
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
                    same = f"{place} = {earlier}" if place != earlier else f"{place}, in the lists of both splits"
                    (within if other is report else across).append(same)
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
    unread = len(train.samples) - len(train.readable)
    among = f" in the {counted(len(train.readable), 'image')} that can be read" if unread else ""
    for report in by_name.values():
        if report is train:
            continue
        lost, only_train = absent & (report.pixels > 0), ~absent & (report.pixels == 0)
        if lost.any():
            with_it = [_image_place(report.dataset, s.index) for s in report.readable if s.pixels[lost].any()]
            what = f"{', '.join(names[lost])} is in {report.name} but not in train{among}"
            fix = "it cannot be learned: move images to train, or merge the class with dataset.remap"
            report.findings.append(Finding("error", what, with_it, fix))
        if only_train.any():
            what = f"no {report.name} pixel of {', '.join(names[only_train])}"
            with_it = [_image_place(train.dataset, s.index) for s in train.readable if s.pixels[only_train].any()]
            fix = "its score will be n/a: move images with it here, such as those named"
            report.findings.append(Finding("warning", what, with_it, fix))
    if absent.any():
        what = f"no training pixel of {', '.join(names[absent])}{among}"
        found_by_name = isinstance(getattr(train.dataset, "format", None), ClassFiles)
        wrong = "class_names or masks, by which its files are found" if found_by_name else "num_classes, or the masks"
        fix = f"it cannot be learned, and any weighting gives it 0: correct dataset.{wrong}"
        train.findings.append(Finding("warning", what, [], fix))


def _image_place(dataset: SegmentationDataset, index: int) -> str:
    images = getattr(dataset, "images", None)
    return (
        str(images[index])
        if images is not None
        else f"{dataset.split if hasattr(dataset, 'split') else ''} {dataset.names[index]}"
    )
