"""Folder: a dataset in folders, with images and masks of any usual kind."""

import hashlib
import logging
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from segtrain.arguments import Fraction, Label, NonNegativeInt, PositiveInt, Range, checked
from segtrain.data.dataset import SegmentationDataset, check_classes
from segtrain.data.folder.colors import ColorMask, rgb
from segtrain.data.folder.images import MAX_PIXELS, image_size, orientation, read_image
from segtrain.data.folder.layout import SPLIT_FILE, Layout
from segtrain.data.folder.masks import BinaryMask, ChannelMask, ClassFiles, IndexMask, check_same_size
from segtrain.data.folder.suggestions import files_of
from segtrain.data.mask_values import both_ways
from segtrain.data.resize import Resize, resize_image, resize_mask, resized_size
from segtrain.data.threads import in_threads, tried
from segtrain.data.views import EveryAnnotator, read_checked
from segtrain.errors import ConfigError, DataError, counted

log = logging.getLogger("segtrain")

Several = Annotated[list[str], Range("2 to 30 different names", lambda v: 1 < len(set(v)) == len(v) <= 30)]
ValueRange = Annotated[list[float], Range("[low, high], low < high", lambda v: len(v) == 2 and v[0] < v[1])]
FORMATS = {  # of masks, and the settings that each reads
    "index": (IndexMask, ("remap", "ignore_values")),
    "color": (ColorMask, ("colors", "ignore_colors")),
    "binary": (BinaryMask, ("threshold", "ignore_values")),
    "channels": (ChannelMask, ("threshold", "ignore_values")),
    "files": (ClassFiles, ("threshold", "ignore_values")),
}
MOST_SKIPPED = 0.01  # share of the images of a split that on_error=skip may leave out


class Folder(SegmentationDataset):
    """Images and masks in folders below `root`, at any depth; a mask has its image's stem, or is found by a
    pattern, which is recognised where all masks end alike (`a.jpg`, `a_mask.png`).

    Args:
        splits: how images are assigned to train and val.
            auto: the first of folders, files and ratio that the folders have; of ratio, a note.
            folders: `root/train/images`, `root/train/masks`, `root/val/…` (or `root/images/train`, `root/masks/train`).
            files: `root/images`, `root/masks`, and `root/train.txt`, `root/val.txt` with one file stem per line.
            ratio: `root/images`, `root/masks`; the share `val_ratio` of the stems with the smallest hash is val, so
                a file stays in its split when others are added.
            kfold: as ratio; of `folds` parts of about equal size, part number `fold` (from 0) is val. The parts
                change when files are added.
        images: the folder of the images below `root`, `{split}` filled in, or with a * those of one name, `*/image.png`,
            or in folders of one name, `*/images`; None: those of `splits`.
        masks: pattern of an image's mask, from the image's folder: `{stem}_mask.png`, `../masks/{stem}.png`; `mask.png`.
            Also {split}, {folder} (the name of the image's folder), {class}, {annotator}; `.*` is any suffix. Without
            {stem} a folder beside that of the images, or below `root`: `label`.
        split_file: the split files below `root`. split_names: {train: training}, other words for splits.
        stem_suffix: the end of an image's stem that is not part of its mask's.
        mask_format: index (the value is the class), color (a colour per class, `colors`), binary (0 and another
            value, or above `threshold`), channels (multi-label, a channel per class), files (multi-label, a file per
            class, found by {class} in `masks` or by folders of the classes' names).
        remap: index: {value: class}. ignore_values: more values to ignore; not of colours.
        colors, ignore_colors: color: for each class [r, g, b] or a list of such; colours to ignore.
        threshold: binary, channels, files: values above it are the class; None: masks hold two values only.
        channels: of the images; 3 makes colour of grey, 1 grey of colour.
        image_range: the values that become black and white; None: 0 to 255, and 0 to 65535 for 16 bits.
        exif: apply turns image and mask by their own EXIF orientation; ignore takes the pixels as stored (but
            those of TIFF files, which are always turned).
        palette: [r, g, b] of each class in pictures; None: the first of `colors`, or the PASCAL VOC colours.
        annotators: folders instead of `masks` (or names for {annotator}): an image has a mask of each. Its mask is
            the majority of them, and `labels=annotators` trains on their mean.
        on_error: raise stops at a file that cannot be read; skip reads every file once, when the dataset is built,
            leaves out images with errors, and stops when these are more than 1 %.
        resize: of every image and mask, of every split: [height, width], or a factor; None: as they are.
        resize_masks: area: a pixel's class is the one with the largest share of its area; nearest: the one in its middle.
        missing_masks: an image without a mask is an error, or background: nothing but that, or no class.
        max_pixels: of an image or mask; larger ones are refused by their header.
        groups: pattern whose first group names the scene or patient of an image's stem, such as '^(.*)_', or with a / of
            its path below the images' folder, '^(.*)/': ratio and kfold keep images of one group together, and statistics take them as one.
        prepare: command that brings the dataset, as it is downloaded, into this layout; named where that is not there.
        strict: raise what is wrong with the names; False: leave it in `findings`, for `segtrain check`.

    Raises ConfigError when the layout is not there, DataError when a split is empty or files have no partner.
    """

    @checked
    def __init__(
        self,
        root: str,
        split: Literal["train", "val", "test"],
        num_classes: PositiveInt,
        class_names: list[str] | None = None,
        ignore_index: Label = 255,
        background: NonNegativeInt | None = 0,
        splits: Literal["auto", "folders", "files", "ratio", "kfold"] = "auto",
        val_ratio: Fraction = 0.2,
        folds: PositiveInt = 5,
        fold: NonNegativeInt = 0,
        images: str | None = None,
        masks: str | None = None,
        split_file: str = SPLIT_FILE,
        split_names: dict | None = None,
        stem_suffix: str = "",
        mask_format: Literal["index", "color", "binary", "channels", "files"] = "index",
        remap: dict | None = None,
        ignore_values: list[int] = (),
        colors: list | None = None,
        ignore_colors: list = (),
        threshold: NonNegativeInt | None = None,
        channels: PositiveInt = 3,
        image_range: ValueRange | None = None,
        exif: Literal["apply", "ignore"] = "apply",
        palette: list | None = None,
        annotators: Several | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        resize: Resize = None,
        resize_masks: Literal["area", "nearest"] = "area",
        max_pixels: PositiveInt = MAX_PIXELS,
        groups: str | None = None,
        missing_masks: Literal["error", "background"] = "error",
        prepare: str | None = None,
        strict: bool = True,
    ):
        self.num_classes, self.ignore_index, self.background = num_classes, ignore_index, background
        self.class_names = check_classes(f"dataset at {root}", num_classes, class_names, background)
        self.channels, self.image_range, self.exif = channels, image_range, exif == "apply"
        reading = {"remap": remap, "ignore_values": list(ignore_values), "threshold": threshold}
        reading |= {"colors": colors, "ignore_colors": list(ignore_colors)}
        self.format = self._format(mask_format, **reading)
        self.format.max_pixels = self.max_pixels = max_pixels
        if num_classes == 1 and not self.format.multilabel:
            raise ConfigError(
                "with one class, every pixel would belong to it", "dataset.num_classes=1", both_ways(self.class_names)
            )
        if self.format.multilabel and background is not None and self.class_names[background] != "background":
            what = (
                f"{self.class_names[background]!r} would be the background, left out of foreground scores and sampling"
            )
            fix = "multi-label masks need no background: set dataset.background=null; if this class is one, name it background"
            raise ConfigError(what, f"dataset.background={background}", fix)
        if missing_masks == "background" and (annotators or (background is None and not self.format.multilabel)):
            what = "several annotators give an image a mask each" if annotators else "the dataset has no background"
            raise ConfigError(what, "dataset.missing_masks=background", "leave it at error")
        self.resize, self.resize_masks, self.missing_masks = resize, resize_masks, missing_masks
        self.multilabel, self.num_annotators = self.format.multilabel, len(annotators or [""])
        self.palette = self._palette(palette)
        if annotators and self.multilabel:
            raise ConfigError(
                "masks of several annotators cannot be multi-label", "dataset.annotators", "leave it null"
            )
        kinds, kind = (self.class_names, "class") if mask_format == "files" else (annotators, "annotator")
        where = (Path(root).expanduser(), split, splits, images, masks, kinds, kind, stem_suffix, split_file)
        words = {name: str(word) for name, word in (split_names or {}).items()}
        layout = Layout(*where, words, val_ratio, folds, fold, prepare, groups, missing_masks, threshold is not None)
        files, self.group_of = files_of(layout), layout.group_of
        for finding in files.told:
            log.log(logging.INFO if finding.level == "note" else logging.WARNING, finding.what)
        if strict:
            files.raise_errors()
        self.names, self.images, self.masks, self.findings = files.names, files.images, files.masks, files.findings
        if strict and on_error == "skip":
            self.names, self.images, self.masks = without_damaged(self)

    def image(self, index: int) -> np.ndarray:
        image = read_image(self.images[index], self.channels, self.image_range, self.exif, self.max_pixels)
        return resize_image(image, self.resize)

    def mask(self, index: int) -> np.ndarray:
        if self.num_annotators > 1:
            return majority(self.annotated_mask(index), self.ignore_index)
        if not any(self.masks[index]):  # a file per class and none of them, or missing_masks=background
            size = self.size(index)
            return (
                np.zeros((*size, self.num_classes), np.uint8)
                if self.multilabel
                else np.full(size, self.background, np.uint8)
            )
        return self._read_mask(self.masks[index] if isinstance(self.format, ClassFiles) else self.masks[index][0])

    def annotated_mask(self, index: int) -> np.ndarray:
        masks = [self._read_mask(file) for file in self.masks[index]]
        check_same_size(list(zip(masks, self.masks[index], strict=True)))
        return np.stack(masks, axis=2)

    def _read_mask(self, file) -> np.ndarray:
        return resize_mask(self.format.read(file), self.resize, self.resize_masks)

    def group(self, index: int) -> str:
        return self.group_of(self.names[index])

    def size(self, index: int) -> tuple[int, int]:
        return resized_size(image_size(self.images[index], self.exif), self.resize)

    def check_pair(self, index: int) -> None:
        """Raise DataError when image and mask differ in size; reads headers only."""
        image = image_size(self.images[index], self.exif)
        for file in self._mask_files(index):
            if image == (mask := image_size(file, self.exif)):
                continue
            turned = self.exif and image_size(self.images[index], exif=False) == mask
            raise DataError(
                f"image is {image[1]}×{image[0]}, its mask is {mask[1]}×{mask[0]} (width × height)"
                + (": the image's EXIF orientation was not applied to the mask" if turned else ""),
                f"{self.images[index]} and {file}",
                "dataset.exif=ignore keeps both as stored" if turned else "make both the same size",
            )

    def has_mask(self, index: int) -> bool:
        return isinstance(self.format, ClassFiles) or self.missing_masks == "background" or all(self.masks[index])

    def turned_apart(self, index: int) -> bool:
        turn = orientation(self.images[index]) if self.exif else 1
        return turn != 1 and any(orientation(file) != turn for file in self._mask_files(index))

    def image_file(self, index: int) -> str:
        return str(self.images[index])

    def mask_file(self, index: int) -> str:
        return str(next(iter(self._mask_files(index)), self.images[index]))

    def mask_key(self, index: int) -> str:
        """The masks' content, and the size of the image file: a replaced image is checked against its mask again."""
        content = " ".join(
            hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest() if file else "-"
            for file in self.masks[index]
        )
        size = "" if any(self.masks[index]) else f" {self.size(index)}"
        return f"{content} {self.images[index].stat().st_size}{size}"

    def files(self) -> list[str]:
        masks = (file for index in range(len(self.names)) for file in self._mask_files(index))
        return [str(file) for file in (*self.images, *masks)]

    def mask_rule(self) -> str:
        rule = {k: v.tobytes().hex() if isinstance(v, np.ndarray) else v for k, v in vars(self.format).items()}
        resized = "" if self.resize is None else f" {list(self.size(0))} {self.resize} {self.resize_masks}"
        names = f" {self.class_names}" if isinstance(self.format, ClassFiles) else ""  # the order of its files
        filled = f" {self.background}" if self.missing_masks == "background" else ""
        return f"{type(self.format).__name__} {rule} {self.num_annotators}{resized}{names}{filled}"

    def _mask_files(self, index: int) -> list[Path]:
        return [file for file in self.masks[index] if file is not None]

    def _format(self, name: str, **settings):
        """The mask format of a name. Raises ConfigError for settings that it does not read: they would do nothing."""
        kind, used = FORMATS[name]
        idle = [key for key, value in settings.items() if value not in (None, [], ()) and key not in used]
        if idle:
            what = f"mask_format={name} does not read {', '.join(idle)}"
            raise ConfigError(what, "dataset.mask_format", f"it reads {', '.join(used)}")
        return kind(self.class_names, self.ignore_index, self.exif, **{key: settings[key] for key in used})

    def _palette(self, palette: list | None) -> np.ndarray | None:
        """uint8 [num_classes, 3]. Raises ConfigError for another number of colours, and for what is none."""
        if palette is None:
            return self.format.palette() if isinstance(self.format, ColorMask) else None
        if len(palette) != self.num_classes:
            what = f"{len(palette)} colours for {self.num_classes} classes"
            raise ConfigError(what, "dataset.palette", "give one [r,g,b] per class")
        return np.array([rgb(color, "dataset.palette") for color in palette], dtype=np.uint8)


def without_damaged(dataset: Folder) -> tuple[list, list, list]:
    """Names, images and masks but for those that cannot be read, do not fit or hold wrong values.

    What is left out is logged with its reason. Raises DataError when more than 1 %, and more than one, are left out.
    """
    masks = EveryAnnotator(dataset) if dataset.num_annotators > 1 else dataset

    def read(index: int) -> None:
        dataset.check_pair(index)
        read_checked(masks, index)

    indices = range(len(dataset.names))
    found = list(in_threads(lambda index: tried(read, index), indices, "reading images and masks"))
    errors = {index: error for index, error in enumerate(found) if error is not None}
    for index, error in errors.items():
        log.warning(f"skipped {dataset.names[index]}: {error.what}: {error.where}")
    if len(errors) > max(1, MOST_SKIPPED * len(indices)) or 0 < len(errors) == len(indices):
        first = next(iter(errors.values()))
        what = f"{first.what} ({counted(len(errors), 'image')} of the split cannot be read, more than 1 %)"
        raise DataError(what, first.where, "`segtrain check` lists them all; dataset.on_error=skip is only for a few")
    kept = [index for index in indices if index not in errors]
    return tuple([entries[index] for index in kept] for entries in (dataset.names, dataset.images, dataset.masks))


def majority(masks: np.ndarray, ignore_index: int) -> np.ndarray:
    """uint8 [H, W]: the majority of the annotators [H, W, A]; of as many votes, that of the first annotator.

    Votes of ignore_index do not count, unless there are no others.
    """
    annotators = masks.shape[2]
    values = [value for value in np.unique(masks) if value != ignore_index]
    best, chosen = np.zeros(masks.shape[:2], np.int64), np.full(masks.shape[:2], ignore_index, np.uint8)
    # A vote weighs 2^A and a little more the earlier the annotator is named, which decides between equal numbers.
    weight = (1 << annotators) + (1 << np.arange(annotators, dtype=np.int64)[::-1])
    for value in values:
        votes = (masks == value) @ weight
        chosen[votes > best] = value
        best = np.maximum(best, votes)
    return chosen
