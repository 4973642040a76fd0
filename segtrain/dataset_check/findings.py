"""The check of a dataset: every file is read once, by all cores, and what is wrong becomes a finding."""

import re
from collections import Counter

import numpy as np

from segtrain.data.dataset import as_dataset, group_of
from segtrain.data.folder.folder import Folder
from segtrain.data.folder.masks import ClassFiles, IndexMask
from segtrain.data.folder.values import NeedsRange
from segtrain.data.mask_values import WrongValues, both_ways, of_all
from segtrain.data.threads import in_threads
from segtrain.dataset_check.samples import DARK, Sample, SplitReport, check_one, range_to_set
from segtrain.dataset_check.smallest_objects import SmallestObjects
from segtrain.errors import DataError, counted, few

SMALL, LARGE = 16, 8192  # height or width in pixels that is a finding


def check_dataset(splits: dict, crop: list[int] | None) -> list[SplitReport]:
    """Read every image and mask of the splits.

    Args:
        splits: {"train": dataset, …}, each a SegmentationDataset, or any class with what that requires.
        crop: height and width of the training crop, to name smaller images.

    Returns a SplitReport for each split; a finding about several splits is in the report of the one to change.
    """
    reports = [_read_split(name, as_dataset(d)) for name, d in splits.items()]
    needing = [error for report in reports for error in report.errors if isinstance(error, NeedsRange)]
    wanted = unused_levels(reports)
    for report in reports:
        _add_errors(report, needing, wanted)
        _add_oddities(report, crop if report.name == "train" else None, wanted)
    if wanted is not None:
        first, levels = reports[0], wanted[1] // 256 + 1
        what = f"the images have 16 bits and no value above {wanted[1]}: {levels} of 256 grey levels are used"
        first.add("warning", what, _files(first, first.readable[:1]), f"set dataset.image_range=[0,{wanted[1]}]")
    _add_palettes(reports)
    _add_duplicates(reports)
    _add_missing_classes(reports)
    _add_shared_groups(reports)
    return reports


def _add_shared_groups(reports: list[SplitReport]) -> None:
    """Groups that are in two splits: scores on one of them are better than on new scenes or patients."""
    groups = [{group_of(report.dataset, i) for i in range(len(report.dataset.names))} for report in reports]
    for i, report in enumerate(reports):
        for other, before in zip(reports[:i], groups, strict=False):
            if shared := sorted(groups[i] & before - {str(name) for name in report.dataset.names}):
                what = f"{counted(len(shared), 'group')} of dataset.groups in {other.name} and {report.name}: {few(shared)}"
                report.add("warning", what, [], "keep each scene or patient in one split; dataset.splits=ratio does")


def unused_levels(reports: list[SplitReport]) -> list[int] | None:
    """The dataset.image_range with which images of 16 bits would use all grey levels, where they use few; else None."""
    first, highest = reports[0], max((s.levels[1] for report in reports for s in report.readable), default=255)
    return range_to_set(first.dataset, highest, first.readable[0].index) if first.readable else None


def _read_split(name: str, dataset) -> SplitReport:
    objects = SmallestObjects(dataset.num_classes, dataset.background)
    indices = range(len(dataset.names))
    samples = in_threads(lambda index: check_one(dataset, index, objects), indices, f"checking {name}")
    return SplitReport(name, dataset, list(samples), list(dataset.findings), objects)


def _add_errors(report: SplitReport, needing: list[NeedsRange], wanted: list[int] | None) -> None:
    """One finding per kind of error: the same words but for the numbers.

    Args:
        needing: the errors of all splits for images that need a range, which is one for all.
        wanted: that of the images which can be read.
    """
    kinds: dict[str, list[DataError]] = {}
    every = report.errors
    if wrong := [error for error in every if isinstance(error, WrongValues)]:
        error = of_all(report.dataset, wrong, report.pixels)
        report.add("error", error.what, [error.where for error in wrong], error.fix)
    for error in (error for error in every if not isinstance(error, WrongValues)):
        kinds.setdefault(re.sub(r"[-\d.,]+", "", error.what)[:60], []).append(error)
    for errors in kinds.values():
        more = f" (and {len(errors) - 1} more files like it)" if errors[1:] else ""
        alike = len({error.what for error in errors}) == 1
        files = [error.where if alike else f"{error.where}: {error.what}" for error in errors]
        fix = NeedsRange.fix_of(needing, wanted) if isinstance(errors[0], NeedsRange) else errors[0].fix
        report.add("error", errors[0].what + more, files, fix)


def _add_oddities(report: SplitReport, crop, wanted: list[int] | None) -> None:
    """What is no error in one file, but may be one."""
    dataset, samples = report.dataset, report.readable
    foreground = [c for c in range(dataset.num_classes) if c != dataset.background]
    empty = [s for s in samples if s.valid and not s.pixels[foreground].any()]
    ignored_255 = dataset.ignore_index == 255 and _has_format(dataset, IndexMask)
    lost = [s for s in samples if ignored_255 and s.valid and s.ignored and np.flatnonzero(s.pixels).tolist() == [0]]
    all_lost = lost and not dataset.multilabel and not report.pixels[1:].any()
    dark = [s for s in samples if s.levels[0] < s.levels[1] <= DARK] if wanted is None else []
    given = dataset.image_range if isinstance(dataset, Folder) else None
    share = f"{100 * len(empty) / max(len(samples), 1):.0f} %"
    rows = [
        ("warning", [s for s in samples if s.valid == 0], "mask", "with nothing but ignored pixels",
         "remove them: they have no effect"),
        ("warning", [] if all_lost else lost, "mask", "with nothing but 0 and 255, and 255 is ignored",
         "if 255 is the class: dataset.mask_format=binary, or 'dataset.remap={255: 1}' with dataset.ignore_index=254"),
        ("warning", [s for s in samples if s.turned_apart], "image", "turned by EXIF orientation, unlike the mask",
         "compare a sample with its mask (--out shows some); dataset.exif=ignore keeps both as stored"),
        ("warning", [s for s in samples if s.levels[0] == s.levels[1]], "image", "with one value everywhere",
         "open some of them"),
        ("warning", dark, "image", f"with no value above {max((s.levels[1] for s in dark), default=0)} of 255",
         f"check dataset.image_range={given}" if given else "open some of them; images that use few of 16 bits need "
         "dataset.image_range"),
        ("warning", [s for s in samples if min(s.size) < SMALL], "image", f"smaller than {SMALL} pixels",
         "open some of them"),
        ("warning", [s for s in samples if max(s.size) > LARGE], "image", f"larger than {LARGE} pixels",
         "cut them into tiles, because each file is read whole"),
        ("warning", [s for s in samples if crop and (s.size[0] < crop[0] or s.size[1] < crop[1])], "image",
         f"smaller than the crop augment.size={list(crop or [])}, so they are padded with ignored pixels",
         "lower augment.size"),
        ("note", empty, "image", f"({share}) without foreground", "this is not an error"),
    ]  # fmt: skip
    for level, chosen, noun, what, fix in rows:
        if chosen:
            report.add(level, f"{counted(len(chosen), noun)} {what}", _files(report, chosen), fix)
    if samples and not dataset.multilabel:
        _add_classes_of_all(report, lost if all_lost else [])


def _add_classes_of_all(report: SplitReport, lost: list[Sample]) -> None:
    """Whether the masks of a split together have a background and something else; `lost`: those that ignore it as 255."""
    dataset, samples, background = report.dataset, report.readable, report.dataset.background
    if background is not None and not report.pixels[background]:
        what = f"no pixel belongs to {dataset.class_names[background]}, the background"
        report.add("warning", what, [], "set dataset.background=null, or another class index")
    there = np.flatnonzero(report.pixels)
    if len(samples) == len(report.samples) and dataset.num_classes > 1 and len(there) == 1:
        what = f"all masks hold one class, {dataset.class_names[there[0]]}: there is nothing to tell apart"
        fix = "correct dataset.mask_format, threshold, remap or ignore_index"
        files = [dataset.mask_file(sample.index) for sample in lost or samples[:1]]
        if lost:
            ignored = sum(s.ignored for s in samples)
            share = f"{100 * ignored / (ignored + report.pixels.sum()):.2g} % of the pixels"
            what, fix = f"the masks hold 0 and 255 ({share}), and 255 is ignored", both_ways(dataset.class_names)
        report.add("error", what, files, fix)


def _add_palettes(reports: list[SplitReport]) -> None:
    """Palette masks in which a value has several colours: then the colours, not the values, may be the classes."""
    pairs = {pair for report in reports for sample in report.readable for pair in sample.colours.items()}
    labels, colours = Counter(label for label, _ in pairs), sorted({colour for _, colour in pairs})
    every = ",".join(f"[{','.join(map(str, colour))}]" for colour in colours)
    fix = f"if the colours are the classes: dataset.mask_format=color dataset.num_classes={len(colours)} "
    fix += f"'dataset.colors=[{every}]', the background first; if the values are, leave it"
    for report in reports:
        if odd := [s for s in report.readable if any(labels[label] > 1 for label in s.colours)]:
            label = min(label for label, number in labels.items() if number > 1)
            what = (
                f"{counted(len(odd), 'palette mask')} whose palettes differ: value {label} has {labels[label]} colours"
            )
            report.add("warning", what, [report.dataset.mask_file(s.index) for s in odd], fix)


def _add_duplicates(reports: list[SplitReport]) -> None:
    """Images of equal pixels within a split, and across splits, where validation would score what was learned."""
    seen: dict[tuple, list[tuple[SplitReport, Sample]]] = {}
    for report in reports:
        within, across = [], []
        for sample in report.readable:
            if sample.levels[0] == sample.levels[1]:
                continue  # images of one value are equal by nature
            others = seen.setdefault((sample.checksum, sample.size), [])
            for other, first in others:
                if np.array_equal(report.dataset.image(sample.index), other.dataset.image(first.index)):
                    (file,), (earlier,) = _files(report, [sample]), _files(other, [first])
                    same = f"{file} = {earlier}" if file != earlier else f"{file}, in the lists of both splits"
                    (within if other is report else across).append(same)
                    break
            else:
                others.append((report, sample))
        if across:
            fix = "remove them from one split, or scores are measured on training images"
            what = f"{counted(len(across), 'image')} found in an earlier split too, pixel by pixel"
            report.add("error", what, across, fix)
        if within:
            what = f"{counted(len(within), 'image')} found twice, pixel by pixel"
            report.add("warning", what, within, "remove the copies, because they count double")


def _add_missing_classes(reports: list[SplitReport]) -> None:
    """Classes that only some splits have."""
    by_name = {report.name: report for report in reports if report.readable}
    if "train" not in by_name:
        return
    train = by_name.pop("train")
    names = np.array(train.dataset.class_names)
    absent = train.pixels == 0
    unread = len(train.samples) - len(train.readable)
    among = f" in the {counted(len(train.readable), 'image')} that can be read" if unread else ""
    for report in by_name.values():
        lost, only_train = absent & (report.pixels > 0), ~absent & (report.pixels == 0)
        if lost.any():
            with_it = _files(report, [s for s in report.readable if s.pixels[lost].any()])
            what = f"{', '.join(names[lost])} is in {report.name} but not in train{among}"
            fix = "such a class cannot be learned: move images to train, or merge the class with dataset.remap"
            report.add("error", what, with_it, fix)
        if only_train.any():
            what = f"no {report.name} pixel of {', '.join(names[only_train])}"
            with_it = _files(train, [s for s in train.readable if s.pixels[only_train].any()])
            report.add(
                "warning",
                what,
                with_it,
                "its score will be n/a: move images with it to this split, such as those listed",
            )
    if absent.any():
        what = f"no training pixel of {', '.join(names[absent])}{among}"
        by_file = _has_format(train.dataset, ClassFiles)
        wrong = "class_names or masks, by which its files are found" if by_file else "num_classes, or the masks"
        fix = (
            f"such a class cannot be learned, and weights computed from the masks are 0 for it: correct dataset.{wrong}"
        )
        train.add("warning", what, [], fix)


def _has_format(dataset, kind: type) -> bool:
    return isinstance(dataset, Folder) and isinstance(dataset.format, kind)


def _files(report: SplitReport, samples: list[Sample]) -> list[str]:
    """The image files of samples."""
    return [report.dataset.image_file(sample.index) for sample in samples]
