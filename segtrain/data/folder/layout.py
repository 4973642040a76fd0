"""The layout of a dataset in folders: its settings, and where the folders of images and masks are."""

import fnmatch
import functools
import itertools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from segtrain.data.folder.images import IMAGE_SUFFIXES, LOSSY_SUFFIXES, MASK_SUFFIXES
from segtrain.errors import ConfigError

# Folders of images and of masks. The first are ours; the others are those of datasets as they are downloaded.
IMAGES = ("images", "image", "img", "imgs", "JPEGImages", "Images")
MASKS = ("masks", "1st_manual", "manual1", "manual")  # of vessels, whose mask/ holds the field of view
MASKS += ("mask", "labels", "label", "annotations", "SegmentationClass", "gt", "ground_truth", "Masks", "Labels", "GT")
SPLIT_FILE, VOC_SPLIT_FILE = "{split}.txt", "ImageSets/Segmentation/{split}.txt"
GENERAL = (
    "correct dataset.root, choose dataset.splits=folders|files|ratio|kfold, name dataset.images and dataset.masks, or the "
    "names of the splits: 'dataset.split_names={train: training, val: dev}'"
)
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


class NotThere(ConfigError):
    """The folders of a split are not there."""


class NoMasks(NotThere):
    """There are images, but no folder of masks."""


@dataclass(frozen=True)
class Layout:
    """Where the files of a split are; fields without a comment are arguments of segtrain.data.folder.Folder."""

    root: Path
    split: str
    splits: str
    images: str | None
    masks: str | None
    kinds: list[str] | None  # annotators or classes, each of which has a mask file; None: one mask per image
    kind: str  # `annotator` or `class`, the word in braces that `masks` has for it
    stem_suffix: str
    split_file: str
    split_names: dict  # words for splits in paths, in place of those of SPLITS
    val_ratio: float
    folds: int
    fold: int
    prepare: str | None
    groups: str | None
    missing_masks: str
    lossy_masks: bool  # masks are compared with a threshold, so that JPEG does them no harm

    def __post_init__(self):
        self.group_of("")  # a mistake in the pattern is answered at once
        if unknown := [word for word in self.split_names if word not in SPLITS]:
            what, fix = f"split_names has no {unknown[0]!r}", f"the splits are {', '.join(SPLITS)}: {{val: dev}}"
            raise ConfigError(what, "dataset.split_names", fix)
        if self.fold >= self.folds:
            raise ConfigError(f"fold={self.fold} of folds={self.folds}", "dataset.fold", "count the folds from 0")
        if self.pattern is None:
            return
        words = ["stem"] * (not self.one_per_folder) + [self.kind] * bool(self.kinds)
        for word in words:
            if f"{{{word}}}" not in self.pattern:
                example = "{stem}_mask.png" if word == "stem" else f"{{stem}}_{{{word}}}.png"
                what = f"the pattern {self.pattern!r} has no {{{word}}}"
                raise ConfigError(what, "dataset.masks", f"for example {example}")

    @property
    def named_split(self) -> str:
        """The name of the split in paths, by the settings."""
        return self.split_names.get(self.split, self.split)

    @functools.cached_property
    def split_words(self) -> list[str]:
        """The names of the split for which there are files; several when there are two such folders."""
        usual = SPLITS[self.split] if self.split not in self.split_names else []
        words = [self.named_split, *usual, *(word.capitalize() for word in usual)]
        return [word for word in dict.fromkeys(words) if self._holds(word)]

    @property
    def split_folder(self) -> str:
        """The word for the split in paths: the first with which its files are there."""
        return self.split_words[0] if self.split_words else self.named_split

    def _holds(self, word: str) -> bool:
        """Whether the files of the split are there under a word for it."""
        if self.splits == "files":
            return (self.root / filled(self.split_file, "dataset.split_file", split=word)).is_file()
        return self.splits == "folders" and any(map(self._is_there, self.possible(word)))

    @property
    def mask_suffixes(self) -> tuple[str, ...]:
        """Of the formats that masks are read from."""
        return MASK_SUFFIXES + LOSSY_SUFFIXES * self.lossy_masks

    @property
    def mask_folder(self) -> str | None:
        """`masks`, where it names a folder, beside that of the images or below the root; {split} may be in it."""
        named = self.masks is not None and not self.kinds and "{stem}" not in self.masks
        return self.masks if named and Path(self.masks).suffix.lower() not in (*IMAGE_SUFFIXES, ".*") else None

    @property
    def pattern(self) -> str | None:
        """`masks`, where it is a pattern for the mask of an image."""
        return self.masks if self.mask_folder is None else None

    @property
    def one_per_folder(self) -> bool:
        """Whether `images` says with a * that each folder has an image of its own, whose mask needs no name of its own."""
        return "*" in (self.images or "")

    @functools.cached_property
    def wanted(self) -> list[str]:
        """The parts of `images` from the first with a * on; none without."""
        parts = filled(self.images or "", "dataset.images", split=self.split_folder).split("/")
        return parts[len(_fixed(parts)) :]

    def is_image(self, path: Path) -> bool:
        """Whether a path below the folder of the images, or a folder in it, is what is wanted; a suffix may be left out."""
        ways = (path.parts, path.with_suffix("").parts)
        return len(path.parts) >= len(self.wanted) and any(all(map(fnmatch.fnmatchcase, w, self.wanted)) for w in ways)

    def group_of(self, name: str) -> str:
        """What the pattern `groups` finds in a name; the name itself when it finds nothing."""
        return (self.groups and self.found_group(name)) or name

    def found_group(self, name: str) -> str | None:
        """What the pattern finds in the stem, or where it has a / in the path; may be empty. None when it does not fit."""
        try:
            of_path = "/" in re.sub(r"\[.*?\]", "", self.groups)  # not one in brackets, as in [^/]
            found = re.search(self.groups, name if of_path else PurePosixPath(name).name)
            return found and (found.group(1) or "")
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
            raise self.error(
                f"no folder {self.root}",
                "dataset.root",
                "set dataset.root to the dataset's folder; a relative path starts at the current folder",
            )
        layouts = self.possible(self.split_folder)
        if len(self._there) == 1:
            return self._there[0]
        if self._there:
            return next((folders for folders in self._there if any(map(holds_masks, folders[1:]))), self._there[0])
        layouts = layouts[:2] if self.splits == "folders" else layouts[:1]
        halves = [[f for f in layout if not f.is_dir()] for layout in layouts if layout[0].is_dir()]
        lacking = f"there is no {', '.join(map(str, halves[0]))}; " if halves else ""
        expected = " or ".join(" with ".join(map(str, layout)) for layout in layouts)
        there = ", ".join(sorted(p.name for p in self.root.iterdir())[:10]) or "nothing"
        raise self.error(
            f"no {self.split_folder} {'masks' if halves else 'images'} for dataset.splits={self.splits}: {lacking}"
            f"expected {expected}",
            f"{self.root} holds {there}",
            GENERAL,
            NoMasks if halves else NotThere,
        )

    def other_folders(self, folders: list[Path]) -> list[Path]:
        """Folders of usual names, beside those that are read, with files that may be images or masks, too."""
        if self.kinds or self.masks is not None:
            return []
        others = [other for layout in self._there for other in layout if not any(map(other.samefile, folders))]
        return [other for other in dict.fromkeys(others) if holds_masks(other)]

    @functools.cached_property
    def _there(self) -> list[list[Path]]:
        is_dir = functools.cache(Path.is_dir)  # there are many pairs of few names
        return [folders for folders in self.possible(self.split_folder) if self._is_there(folders, is_dir)]

    def _is_there(self, folders: list[Path], is_dir: Callable[[Path], bool] = Path.is_dir) -> bool:
        there = [is_dir(folder) for folder in folders]
        return all(there) or (self.kind == "class" and there[0] and any(there[1:]))

    def fits(self, **changes) -> bool:
        """Whether there would be images and masks with other settings."""
        other = replace(self, **changes)
        return any(map(other._is_there, other.possible(other.split_folder)))

    def error(self, what: str, where: str, fix: str, kind: type = ConfigError) -> ConfigError:
        """An error of a kind; of a download that a script prepares, the fix begins with that."""
        if self.prepare is not None:
            fix = f"if this is the download, run `{self.prepare}` and set dataset.root=PREPARED; otherwise {fix}"
        return kind(what, where, fix)

    def possible(self, split: str) -> list[list[Path]]:
        """Where the folders of images and masks may be, with `split` for the split in paths."""
        root = self.root
        if self.mask_folder is not None:
            return self._beside(split)
        folders = (self.kinds or [MASKS[0]]) if self.pattern is None else []
        if self.images is not None:
            chosen = self._set(self.images, "dataset.images", split)
            return [[chosen, *(chosen.parent / folder for folder in folders)]]
        if folders != [MASKS[0]]:
            return [layout for name in IMAGES for layout in self._named(split, name, *folders)]
        camvid = [[root / split, root / f"{split}annot"]] if self.splits == "folders" else []
        return [layout for names in itertools.product(IMAGES, MASKS) for layout in self._named(split, *names)] + camvid

    def _set(self, pattern: str, key: str, split: str) -> Path:
        """The folder that a setting names; with splits=folders the split's below it, unless {split} stands in it."""
        folder = self.root.joinpath(*_fixed(filled(pattern, key, split=split).split("/")))
        return folder / split if self.splits == "folders" and "{split}" not in pattern else folder

    def _beside(self, split: str) -> list[list[Path]]:
        """Where images and the folder that `masks` names may be; first where there are images."""
        beside = filled(self.mask_folder, "dataset.masks", split=split)
        below = self._set(self.mask_folder, "dataset.masks", split)
        if self.images is None:
            images = [folder for name in IMAGES for (folder,) in self._named(split, name)]
        else:
            images = [self._set(self.images, "dataset.images", split)]
        images = sorted(images, key=lambda folder: not folder.is_dir())
        return [[folder, masks] for folder in images for masks in (folder.parent / beside, below)]

    def _named(self, split: str, *names: str) -> list[list[Path]]:
        """Where folders of these names may be."""
        if self.splits == "folders":
            return [[self.root / split / name for name in names], [self.root / name / split for name in names]]
        return [[self.root / name for name in names]]

    def is_usual(self, folders: list[Path]) -> bool:
        """Whether `folders` are where this documentation puts them, or the settings name them."""
        masks = [] if self.pattern is not None else self.kinds or [MASKS[0]]
        return bool(self.images) or folders in self._named(self.split_folder, IMAGES[0], *masks)


def _fixed(parts: list[str]) -> list[str]:
    """Those before the first with a *."""
    return list(itertools.takewhile(lambda part: "*" not in part, parts))


def holds_masks(folder: Path) -> bool:
    """Whether there is a file below it that may be a mask."""
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        if any(Path(file).suffix.lower() in MASK_SUFFIXES for file in files):
            return True
        if (real := os.path.realpath(parent)) in seen:  # a link back up
            folders.clear()
        seen.add(real)
    return False


def filled(pattern: str, key: str, **words: str) -> str:
    """A pattern with its words in braces filled in. Raises ConfigError."""
    try:
        return pattern.format(**words)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        known = ", ".join(f"{{{word}}}" for word in words)
        raise ConfigError(
            f"the pattern {pattern!r} cannot be filled in: {error}", key, f"it may hold {known}"
        ) from error
