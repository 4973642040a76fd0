"""A dataset in folders: images, and masks of any usual kind."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from segtrain.arguments import Fraction, Label, NonNegativeInt, PositiveInt, Range, checked
from segtrain.data.dataset import check_classes
from segtrain.data.folder.images import image_size, orientation, read_image
from segtrain.data.folder.layout import LayoutError, list_files
from segtrain.data.folder.masks import BinaryMask, ChannelMask, ClassFiles, ColorMask, IndexMask, check_same_size, rgb
from segtrain.data.value_counts import value_counts
from segtrain.errors import ConfigError, DataError

Several = Annotated[list[str], Range("2 to 30 different names", lambda v: 1 < len(set(v)) == len(v) <= 30)]
ValueRange = Annotated[list[float], Range("[low, high], low < high", lambda v: len(v) == 2 and v[0] < v[1])]


class Folder:
    """Images and masks in folders below `root`, at any depth; a mask has its image's stem, or is found by a pattern.

    Args:
        splits: how train and val are told apart.
            folders: `root/train/images`, `root/train/masks`, `root/val/…` (or `root/images/train`, `root/masks/train`).
            files: `root/images`, `root/masks`, and `root/train.txt`, `root/val.txt` with a stem a line.
            ratio: `root/images`, `root/masks`; the share `val_ratio` of the stems with the smallest hash is val, so
                a file stays in its split when others are added.
            kfold: as ratio; of `folds` parts, by hash, part number `fold` (from 0) is val.
        images: the folder of the images below `root`, `{split}` filled in; None: as `splits` says.
        masks: where an image's mask is, seen from the image's folder: `{stem}_mask.png`, `../masks/{stem}.png`.
            Also {split}, {folder} (the name of the image's folder), {class}, {annotator}; `.*` is any suffix.
        split_file: where the split files are below `root`. split_names: {train: training}, other words for splits.
        stem_suffix: the end of an image's stem that is not part of its mask's.
        mask_format: index (the value is the class), color (a colour per class, `colors`), binary (0 and another
            value, or above `threshold`), channels (several labels a pixel, a channel per class), files (several
            labels a pixel, a file per class, found by {class} in `masks` or by folders of the classes' names).
        remap: index: {value: class}. ignore_values: index, binary: more values to ignore.
        colors, ignore_colors: color: for each class [r, g, b] or a list of such; colours to ignore.
        threshold: binary, channels, files: values above it are the class; None: masks hold two values only.
        channels: of the images; 3 makes colour of grey, 1 grey of colour.
        image_range: the values that become black and white; None: 0 to 255, and 0 to 65535 for 16 bits.
        exif: apply turns image and mask as their own EXIF orientation says; ignore takes the pixels as stored (but
            those of TIFF files, which are always turned).
        palette: [r, g, b] of each class in pictures; None: the first of `colors`, or the PASCAL VOC colours.
        annotators: folders that stand in for `masks` (or names for {annotator}): an image has a mask of each. Its
            mask is what most of them chose, and `labels=annotators` trains on their mean.
        on_error: what to do with a file that cannot be read: raise stops; skip leaves the image out, and stops
            when these are more than one in a hundred.
        prepare: command that brings the dataset, as it is downloaded, into this layout; told where that is not there.
        strict: raise what is wrong with the names; False: leave it in `findings`, as `segtrain check` asks.

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
        splits: Literal["folders", "files", "ratio", "kfold"] = "folders",
        val_ratio: Fraction = 0.2,
        folds: PositiveInt = 5,
        fold: NonNegativeInt = 0,
        images: str | None = None,
        masks: str | None = None,
        split_file: str = "{split}.txt",
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
        prepare: str | None = None,
        strict: bool = True,
    ):
        self.root, self.split = Path(root).expanduser(), split
        self.num_classes, self.ignore_index, self.background = num_classes, ignore_index, background
        self.class_names = check_classes(f"dataset at {root}", num_classes, class_names, background)
        self.channels, self.image_range, self.exif, self.on_error = channels, image_range, exif == "apply", on_error
        self.format = self._format(mask_format, remap, ignore_values, colors, ignore_colors, threshold)
        self.multilabel = self.format.multilabel
        self.palette = self._palette(palette)
        if self.multilabel and ignore_index < 2:
            raise ConfigError(
                f"ignore_index={ignore_index}: several labels a pixel are 0 and 1", "dataset.ignore_index", "use 255"
            )
        self.num_annotators = len(annotators or [""])
        if annotators and self.multilabel:
            raise ConfigError("annotators are for one label a pixel", "dataset.annotators", "leave it null")
        if fold >= folds:
            raise ConfigError(f"fold={fold} of folds={folds}", "dataset.fold", "count the folds from 0")
        try:
            files = list_files(
                self.root,
                split,
                splits=splits,
                images=images,
                masks=masks,
                kinds=self.class_names if mask_format == "files" else annotators,
                kind="class" if mask_format == "files" else "annotator",
                stem_suffix=stem_suffix,
                split_file=split_file,
                split_folder=(split_names or {}).get(split),
                val_ratio=val_ratio,
                folds=folds,
                fold=fold,
            )
        except LayoutError as error:
            if prepare is None:
                raise
            fix = f"if this is the download, run `{prepare}` and set dataset.root=PREPARED; otherwise {error.fix}"
            raise ConfigError(error.what, error.where, fix) from None
        if strict:
            files.raise_errors()
        self.names, self.images, self.masks, self.findings = files.names, files.images, files.masks, files.findings

    def image(self, index: int) -> np.ndarray:
        return read_image(self.images[index], self.channels, self.image_range, self.exif)

    def mask(self, index: int) -> np.ndarray:
        if self.num_annotators > 1:
            return majority(self.annotated_mask(index), self.ignore_index)
        if not any(self.masks[index]):  # a file per class, and none of them
            return np.zeros((*self.size(index), self.num_classes), dtype=np.uint8)
        return self.format.read(self._place(index))

    def annotated_mask(self, index: int) -> np.ndarray:
        """uint8 [H, W, A]: the mask of each annotator."""
        masks = [self.format.read(file) for file in self.masks[index]]
        check_same_size(list(zip(masks, self.masks[index], strict=True)))
        return np.stack(masks, axis=2)

    def mask_histogram(self, index: int) -> np.ndarray:
        if self.num_annotators == 1 and isinstance(self.format, IndexMask):
            return self.format.histogram(self._place(index), self.num_classes)
        return value_counts(self.mask(index), 2 if self.multilabel else self.num_classes)

    def check_pair(self, index: int) -> None:
        """Raise DataError when image and mask differ in size; reads headers only."""
        image = image_size(self.images[index], self.exif)
        for file in self.masks[index]:
            if file is None or image == (mask := image_size(file, self.exif)):
                continue
            turned = self.exif and image_size(self.images[index], exif=False) == mask
            raise DataError(
                f"image is {image[1]}×{image[0]}, its mask is {mask[1]}×{mask[0]} (width × height)"
                + (": the image's EXIF orientation was not applied to the mask" if turned else ""),
                f"{self.images[index]} and {file}",
                "dataset.exif=ignore takes both as they are stored" if turned else "make both the same size",
            )

    def turned_apart(self, index: int) -> bool:
        """Whether the EXIF orientation turns the image, but not its mask in the same way."""
        turn = orientation(self.images[index]) if self.exif else 1
        return turn != 1 and any(orientation(file) != turn for file in self.masks[index] if file is not None)

    def mask_file(self, index: int) -> str:
        return str(next((file for file in self.masks[index] if file is not None), self.images[index]))

    def mask_key(self, index: int) -> str:
        """The masks' content, and the size of the image file: a replaced image is checked against its mask again."""
        content = " ".join(
            hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest() if file else "-"
            for file in self.masks[index]
        )
        return f"{content} {self.images[index].stat().st_size}"

    def files(self) -> list[str]:
        """Every file that counts and checks depend on."""
        masks = (file for files in self.masks for file in files if file is not None)
        return [str(file) for file in (*self.images, *masks)]

    def mask_rule(self) -> str:
        """How files become classes: counts made by another rule are not these."""
        rule = {k: v.tobytes().hex() if isinstance(v, np.ndarray) else v for k, v in vars(self.format).items()}
        return f"{type(self.format).__name__} {rule} {self.num_annotators}"

    def size(self, index: int) -> tuple[int, int]:
        return image_size(self.images[index], self.exif)

    def _place(self, index: int):
        files = self.masks[index]
        return files if isinstance(self.format, ClassFiles) else files[0]

    def _palette(self, palette: list | None) -> np.ndarray | None:
        """uint8 [num_classes, 3]. Raises ConfigError for another number of colours, and for what is none."""
        if palette is None:
            return self.format.palette() if isinstance(self.format, ColorMask) else None
        if len(palette) != self.num_classes:
            raise ConfigError(
                f"{len(palette)} colours for {self.num_classes} classes",
                "dataset.palette",
                "give one [r,g,b] per class",
            )
        return np.array([rgb(color, "dataset.palette") for color in palette], dtype=np.uint8)

    def _format(self, name, remap, ignore_values, colors, ignore_colors, threshold):
        """The mask format. Raises ConfigError for arguments it has no use for: they would do nothing."""
        used = {
            "index": ("remap", "ignore_values"),
            "color": ("colors", "ignore_colors"),
            "binary": ("threshold", "ignore_values"),
            "channels": ("threshold",),
            "files": ("threshold",),
        }[name]
        given = {
            "remap": remap,
            "ignore_values": ignore_values,
            "colors": colors,
            "ignore_colors": ignore_colors,
            "threshold": threshold,
        }
        idle = [key for key, value in given.items() if value not in (None, [], ()) and key not in used]
        if idle:
            raise ConfigError(
                f"mask_format={name} does not read {', '.join(idle)}", "dataset.mask_format", f"it reads {used}"
            )
        if name == "index":
            for value, label in (remap or {}).items():
                known = range(self.num_classes) if type(label) is int else ()
                if type(value) is not int or value < 0 or (label not in known and label != self.ignore_index):
                    raise ConfigError(
                        f"{value!r}: {label!r} does not say which class a mask value is",
                        "dataset.remap",
                        f"give {{VALUE: CLASS}}, whole numbers, classes from 0 to {self.num_classes - 1} or "
                        f"ignore_index={self.ignore_index}, for example {{255: 1}}",
                    )
            return IndexMask(self.ignore_index, remap, list(ignore_values), self.exif)
        if name == "color":
            if colors is None or len(colors) != self.num_classes:
                raise ConfigError(
                    f"{len(colors or [])} colours for {self.num_classes} classes",
                    "dataset.colors",
                    "give one [r,g,b] per class, or a list of such",
                )
            return ColorMask(colors, ignore_colors, self.ignore_index, self.class_names, self.exif)
        if name == "binary":
            if self.num_classes != 2:
                raise ConfigError(
                    f"a binary mask has 2 classes, num_classes={self.num_classes}",
                    "dataset.mask_format=binary",
                    "set dataset.num_classes=2: background and the class",
                )
            return BinaryMask(self.ignore_index, threshold, list(ignore_values), self.exif)
        return (ChannelMask if name == "channels" else ClassFiles)(self.num_classes, threshold, self.exif)


def majority(masks: np.ndarray, ignore_index: int) -> np.ndarray:
    """uint8 [H, W]: the value most annotators [H, W, A] chose; of as many votes, that of the first annotator.

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
