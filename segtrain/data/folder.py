"""A dataset in folders: images and index masks with the same stem."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from segtrain.arguments import Fraction, Label, NonNegativeInt, PositiveInt, Range, checked
from segtrain.data.dataset import SPLITS, check_classes
from segtrain.data.image_files import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    image_size,
    mask_histogram,
    read_image,
    read_mask,
)
from segtrain.errors import ConfigError, DataError


class Folder:
    """Images and index masks (one channel, the value is the class) that share their stems.

    With `annotators`, a list of folder names that stand in for `masks`, an image has a mask of each annotator:
    its mask is the class most of them chose (of as many votes, that of the annotator named first), and
    `labels=annotators` trains on their mean.

    Splits, `splits`:
        folders: `root/train/images`, `root/train/masks`, `root/val/…` (or `root/images/train`, `root/masks/train`).
        files: `root/images`, `root/masks`, and `root/train.txt`, `root/val.txt` with a stem a line.
        ratio: `root/images`, `root/masks`; the share `val_ratio` of the stems with the smallest hash is val, so
            a file stays in its split when others are added.

    Raises ConfigError when the layout is not there, DataError when a split is empty or files have no partner.
    """

    multilabel = False

    @checked
    def __init__(
        self,
        root: str,
        split: Literal["train", "val", "test"],
        num_classes: PositiveInt,
        class_names: list[str] | None = None,
        ignore_index: Label = 255,
        background: NonNegativeInt | None = 0,
        splits: Literal["folders", "files", "ratio"] = "folders",
        val_ratio: Fraction = 0.2,
        annotators: Annotated[list[str], Range("two or more folder names", lambda v: len(set(v)) > 1)] | None = None,
    ):
        self.root = Path(root).expanduser()
        self.split, self.splits, self.val_ratio = split, splits, val_ratio
        self.num_classes, self.ignore_index, self.background = num_classes, ignore_index, background
        self.class_names = check_classes(f"dataset at {root}", num_classes, class_names, background)
        self.mask_folders = annotators or ["masks"]
        self.num_annotators = len(self.mask_folders)
        self.images, *self.annotations = self._find()
        self.names = [path.stem for path in self.images]

    @property
    def masks(self) -> list[Path]:
        """The mask files; with annotators, those of the first."""
        return self.annotations[0]

    def image(self, index: int) -> np.ndarray:
        return read_image(self.images[index])

    def mask(self, index: int) -> np.ndarray:
        if self.num_annotators == 1:
            return read_mask(self.masks[index])
        return majority(self.annotated_mask(index), self.ignore_index)

    def annotated_mask(self, index: int) -> np.ndarray:
        """uint8 [H, W, A]: the mask of each annotator."""
        masks = [read_mask(files[index]) for files in self.annotations]
        return np.stack(masks, axis=2)

    def mask_histogram(self, index: int) -> np.ndarray:
        if self.num_annotators == 1:
            return mask_histogram(self.masks[index])
        return np.bincount(self.mask(index).ravel(), minlength=256)

    def check_pair(self, index: int) -> None:
        """Raise DataError for an image of more than 8 bits or a size that is not its mask's; reads headers only."""
        image = image_size(self.images[index], depth=True)
        for files in self.annotations:
            mask = image_size(files[index])
            if image != mask:
                raise DataError(
                    f"image is {image[1]}×{image[0]}, its mask is {mask[1]}×{mask[0]} (width × height)",
                    f"{self.images[index]} and {files[index]}",
                    "make both the same size",
                )

    def mask_file(self, index: int) -> str:
        return str(self.masks[index])

    def mask_key(self, index: int) -> str:
        """The masks' content, and the size of the image file: a replaced image is checked against its mask again."""
        content = " ".join(
            hashlib.blake2b(files[index].read_bytes(), digest_size=16).hexdigest() for files in self.annotations
        )
        return f"{content} {self.images[index].stat().st_size}"

    def size(self, index: int) -> tuple[int, int]:
        return image_size(self.images[index])

    def _find(self) -> list[list[Path]]:
        """The image files, and for each annotator the mask files."""
        if not self.root.is_dir():
            raise ConfigError(f"no folder {self.root}", "dataset.root", "set dataset.root to the folder of the dataset")
        image_folder, *mask_folders = self._folders()
        images = _by_stem(image_folder, IMAGE_SUFFIXES)
        stems = self._stems(images)
        found = [[images.get(stem) for stem in stems]]
        for folder in mask_folders:
            masks = _by_stem(folder, MASK_SUFFIXES)
            _check_pairs(stems, images, masks, image_folder, folder, whole=self.splits != "files")
            found.append([masks[stem] for stem in stems])
        return found

    def _folders(self) -> list[Path]:
        """The folder of the images, and those of the masks."""
        parts = ["images", *self.mask_folders]
        layouts = [[self.root / part for part in parts]]
        if self.splits == "folders":
            layouts = [
                [self.root / self.split / part for part in parts],
                [self.root / part / self.split for part in parts],
            ]
        for layout in layouts:
            if all(folder.is_dir() for folder in layout):
                return layout
        expected = " or ".join(" with ".join(map(str, layout)) for layout in layouts)
        there = ", ".join(sorted(p.name for p in self.root.iterdir())[:10]) or "nothing"
        raise ConfigError(
            f"no {self.split} images for dataset.splits={self.splits}: expected {expected}",
            f"{self.root} holds {there}",
            "correct dataset.root, or choose dataset.splits=folders|files|ratio",
        )

    def _stems(self, images: dict[str, Path]) -> list[str]:
        if self.splits == "folders":
            stems = sorted(images)
        elif self.splits == "files":
            file = self.root / f"{self.split}.txt"
            if not file.is_file():
                raise ConfigError(f"no split file {file}", "dataset.splits=files", "write one with a stem a line")
            lines = [Path(line.strip()).name for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            stems = [_without_image_suffix(line) for line in lines]
        else:
            if self.split not in SPLITS[:2]:
                raise ConfigError(f"a ratio split has no {self.split!r}", "dataset.splits=ratio", "use train or val")
            in_val = {stem for stem in images if _hash_share(stem) < self.val_ratio}
            stems = sorted(in_val if self.split == "val" else images.keys() - in_val)
        repeated = sorted({stem for stem in stems if stems.count(stem) > 1}) if self.splits == "files" else []
        if repeated:
            raise DataError(
                f"{self.split}.txt repeats {', '.join(repeated[:5])}", str(self.root), "name each image once"
            )
        if not stems:
            raise DataError(f"the {self.split} split is empty", str(self.root), "add images, or correct dataset.root")
        return stems


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


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes:
            continue
        if path.stem in found:
            raise DataError(
                f"two files with the stem {path.stem!r}",
                f"{found[path.stem]} and {path}",
                "rename or remove one",
            )
        found[path.stem] = path
    return found


def _check_pairs(stems, images, masks, image_folder: Path, mask_folder: Path, whole: bool) -> None:
    """Every stem has an image and a mask; with `whole`, no mask is left without an image."""
    lost = [
        ("images without a mask", [s for s in stems if s in images and s not in masks], mask_folder),
        ("names in the split file without an image", [s for s in stems if s not in images], image_folder),
        ("masks without an image", [s for s in masks if whole and s not in images], image_folder),
    ]
    for what, missing, folder in lost:
        if missing:
            jpegs = [s for s in missing if (mask_folder / f"{s}.jpg").exists()] if folder == mask_folder else []
            raise DataError(
                f"{len(missing)} {what}: {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}",
                str(folder),
                "masks must not be JPEG, which changes class values: save them as PNG"
                if jpegs
                else "add the missing files, or remove their partners",
            )


def _without_image_suffix(name: str) -> str:
    return Path(name).stem if Path(name).suffix.lower() in IMAGE_SUFFIXES else name


def _hash_share(stem: str) -> float:
    """A number in [0, 1) that depends on the stem alone."""
    return int.from_bytes(hashlib.blake2b(stem.encode(), digest_size=8).digest(), "big") / 2**64
