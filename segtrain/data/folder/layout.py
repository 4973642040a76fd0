"""The layout of a dataset in folders: its settings, and where the folders of images and masks are."""

import functools
import re
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path, PurePosixPath

from segtrain.data.folder.images import IMAGE_SUFFIXES
from segtrain.errors import ConfigError

# Folders of images and of masks. The first are ours; the others are those of datasets as they are downloaded.
IMAGES = ("images", "image", "img", "imgs", "JPEGImages", "Images")
MASKS = ("masks", "mask", "labels", "label", "SegmentationClass", "Masks", "Labels")
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


class NoMasks(ConfigError):
    """There are images, but no folder of masks."""


@dataclass(frozen=True)
class Layout:
    """Where the files of a split are; fields that are not named here are arguments of segtrain.data.folder.Folder.

    Attributes:
        kinds: names of the annotators or classes, each of which has a mask file; None: one mask per image.
        kind: `annotator` or `class`, the word in braces that `masks` has for it.
        split_names: words for splits in paths, where they are not those of SPLITS.
    """

    root: Path
    split: str
    splits: str
    images: str | None
    masks: str | None
    kinds: list[str] | None
    kind: str
    stem_suffix: str
    split_file: str
    split_names: dict
    val_ratio: float
    folds: int
    fold: int
    prepare: str | None
    groups: str | None

    def __post_init__(self):
        self.group_of("")  # a mistake in the pattern is answered at once
        if self.fold >= self.folds:
            raise ConfigError(f"fold={self.fold} of folds={self.folds}", "dataset.fold", "count the folds from 0")
        if self.pattern is None:
            return
        for word in ("stem", *([self.kind] if self.kinds else [])):
            if f"{{{word}}}" not in self.pattern:
                example = "{stem}_mask.png" if word == "stem" else f"{{stem}}_{{{word}}}.png"
                what = f"the pattern {self.pattern!r} has no {{{word}}}"
                raise ConfigError(what, "dataset.masks", f"for example {example}")

    @functools.cached_property
    def split_folder(self) -> str:
        """The word for the split in paths: the first of SPLITS for which there is a folder or a split file."""
        named = self.split_names.get(self.split)
        for word in [named] if named else SPLITS[self.split]:
            places = [self.root, *(self.root / images for images in IMAGES)]
            if (self.root / f"{word}.txt").is_file() or any((place / word).is_dir() for place in places):
                return word
        return named or self.split

    @property
    def mask_folder(self) -> str | None:
        """`masks`, where it names a folder, beside that of the images or below the root; {split} may be in it."""
        named = self.masks is not None and not self.kinds and "{stem}" not in self.masks
        return self.masks if named and Path(self.masks).suffix.lower() not in (*IMAGE_SUFFIXES, ".*") else None

    @property
    def pattern(self) -> str | None:
        """`masks`, where it is a pattern for the mask of an image."""
        return self.masks if self.mask_folder is None else None

    def group_of(self, name: str) -> str:
        """What the pattern `groups` finds in the stem of a name; the name itself when it finds nothing."""
        if self.groups is None:
            return name
        try:
            found = re.search(self.groups, PurePosixPath(name).name)
            return found.group(1) if found else name
        except (re.error, IndexError) as error:
            what = f"the pattern {self.groups!r} finds no group: {error}"
            raise ConfigError(
                what, "dataset.groups", "put the scene in brackets: '^(.*)_' takes all before the last _"
            ) from error

    def folders(self) -> list[Path]:
        """The folder of the images, and without a pattern for masks the folders of the masks; a class may have none.

        Raises ConfigError when they are not there.
        """
        if not self.root.is_dir():
            raise self._error(f"no folder {self.root}", "dataset.root", "set dataset.root to the folder of the dataset")
        layouts = self._possible()
        if there := next(filter(self._is_there, layouts), None):
            return there
        layouts = layouts[:2] if self.splits == "folders" else layouts[:1]
        halves = [[f for f in layout if not f.is_dir()] for layout in layouts if layout[0].is_dir()]
        lacking = f"there is no {', '.join(map(str, halves[0]))}; " if halves else ""
        fix = self._alternative() or (
            "correct dataset.root, choose dataset.splits=folders|files|ratio|kfold, or name dataset.images and "
            "dataset.masks"
        )
        expected = " or ".join(" with ".join(map(str, layout)) for layout in layouts)
        there = ", ".join(sorted(p.name for p in self.root.iterdir())[:10]) or "nothing"
        raise self._error(
            f"no {self.split_folder} {'masks' if halves else 'images'} for dataset.splits={self.splits}: {lacking}"
            f"expected {expected}",
            f"{self.root} holds {there}",
            fix,
            NoMasks if halves else ConfigError,
        )

    def _is_there(self, folders: list[Path]) -> bool:
        there = [folder.is_dir() for folder in folders]
        return all(there) or (self.kind == "class" and there[0] and any(there[1:]))

    def _alternative(self) -> str:
        """Settings with which there are images and masks, and what they mean; empty when none are seen."""

        def fits(**changes) -> bool:
            return any(map(self._is_there, replace(self, **changes)._possible()))

        of_all, whole = f"takes {self.val_ratio:.0%} of the images for validation", self.root / SPLITS["train"][0]
        if self.splits == "folders" and fits(splits="ratio"):
            file = self.root / filled(self.split_file, "dataset.split_file", split=self.split_folder)
            return f"set dataset.splits=files, for {file}" if file.is_file() else f"dataset.splits=ratio {of_all}"
        if self.splits != "folders" and fits(splits="folders"):
            return "set dataset.splits=folders"
        if (self.split, self.splits) == ("val", "folders") and fits(splits="ratio", root=whole):
            return f"dataset.root={whole} dataset.splits=ratio {of_all}"
        if any(file.suffix.lower() in IMAGE_SUFFIXES for file in self.root.iterdir()):
            example = "dataset.images=. 'dataset.masks=\"{stem}_mask.png\"'"
            return f"for images beside their masks, for example {example}; dataset.splits=ratio {of_all}"
        return ""

    def _error(self, what: str, where: str, fix: str, kind: type = ConfigError) -> ConfigError:
        if self.prepare is not None:
            fix = f"if this is the download, run `{self.prepare}` and set dataset.root=PREPARED; otherwise {fix}"
        return kind(what, where, fix)

    def _possible(self) -> list[list[Path]]:
        root, split = self.root, self.split_folder
        if self.mask_folder is not None:
            return self._beside(filled(self.mask_folder, "dataset.masks", split=split))
        folders = (self.kinds or [MASKS[0]]) if self.pattern is None else []
        if self.images is not None:
            chosen = self._chosen_images()
            return [[chosen, *(chosen.parent / folder for folder in folders)]]
        if folders != [MASKS[0]]:
            return self._named(IMAGES[0], *folders)
        camvid = [[root / split, root / f"{split}annot"]] if self.splits == "folders" else []
        return [layout for names in product(IMAGES, MASKS) for layout in self._named(*names)] + camvid

    def _chosen_images(self) -> Path:
        """What dataset.images names; with splits=folders the split's folder below it. Raises ConfigError for training
        images that would be those of val, too."""
        folder = self.root / filled(self.images, "dataset.images", split=self.split_folder)
        if self.splits != "folders" or "{split}" in self.images:
            return folder
        if (folder / self.split_folder).is_dir():
            return folder / self.split_folder
        if self.split == "train" and folder.is_dir():
            what = f"dataset.images={self.images} names the same images for every split"
            fix = "write {split} for the split's name (dataset.images='{split}/images'), or set dataset.splits=ratio"
            raise self._error(what, str(folder), fix)
        return folder

    def _beside(self, masks: str) -> list[list[Path]]:
        """Where images and the folder `masks` may be; first where there are images."""
        root, split = self.root, self.split_folder
        if self.images is None:
            images = [folder for name in IMAGES for (folder,) in self._named(name)]
        else:
            images = [self._chosen_images()]
        images = sorted(images, key=lambda folder: not folder.is_dir())
        of_split = root / masks / (split if self.splits == "folders" and "{split}" not in self.mask_folder else "")
        return [[folder, chosen] for folder in images for chosen in (folder.parent / masks, of_split)]

    def _named(self, *names: str) -> list[list[Path]]:
        """Where folders of these names may be."""
        if self.splits == "folders":
            split = self.split_folder
            return [[self.root / split / name for name in names], [self.root / name / split for name in names]]
        return [[self.root / name for name in names]]

    def is_usual(self, folders: list[Path]) -> bool:
        """Whether `folders` are where this documentation puts them, or the settings name them."""
        if self.split_folder not in (self.split, self.split_names.get(self.split)):
            return False
        return bool(self.images or self.pattern or self.kinds) or folders in self._named(IMAGES[0], MASKS[0])


def filled(pattern: str, key: str, **words: str) -> str:
    """A pattern with its words in braces filled in. Raises ConfigError."""
    try:
        return pattern.format(**words)
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(f"{{{word}}}" for word in words)
        raise ConfigError(
            f"the pattern {pattern!r} cannot be filled in: {error}", key, f"it may hold {known}"
        ) from error
