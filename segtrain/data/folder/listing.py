"""The files of a folder at any depth, by name, and the masks of an image."""

import glob
import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from segtrain.data.folder.images import OTHER_SUFFIXES
from segtrain.data.folder.layout import Layout, filled
from segtrain.errors import DataError

MARK = "predict.json"  # in a folder with predictions: what made them
WRITTEN = ("masks", "overlays", "probabilities", "legend.png")  # beside it


@dataclass
class Listing:
    """What a folder holds: files by their path below it without suffix, and what is left out.

    Letters with accents are one character in a name, however the file system spells them.
    """

    by_name: dict[str, list[Path]] = field(default_factory=dict)
    unread: list[Path] = field(default_factory=list)  # of formats that are not read; pipes with the name of a file
    lost: list[Path] = field(default_factory=list)  # links that lead nowhere, in a circle, or to a folder they are in


def list_folder(folder: Path, suffixes: tuple[str, ...]) -> Listing:
    """Files with one of the suffixes; hidden ones and predictions are left out. Links are followed, but not back up.

    Raises DataError for a folder that cannot be read.
    """
    listing = Listing()

    def walk(parent: str, above: list[str]) -> None:
        """`above`: the folders that led here, with links resolved."""
        real = os.path.realpath(parent)
        try:
            with os.scandir(parent) as entries:
                there = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
            made = WRITTEN if any(entry.name == MARK for entry in there) else ()
            there = [entry for entry in there if entry.name not in made]
        except OSError as error:
            raise DataError(
                f"the folder cannot be read: {error.strerror}", parent, "correct its permissions"
            ) from error
        for entry in there:
            path, link = Path(entry.path), entry.is_symlink()
            suffix = path.suffix.lower()
            if os.path.isdir(path) if link else entry.is_dir():
                target = os.path.realpath(path)
                if link and (target in above or Path(real).is_relative_to(target)):
                    listing.lost.append(path)
                else:
                    walk(entry.path, [*above, real])
            elif suffix in suffixes and (link or entry.is_file()):  # a lost link is reported with its image
                name = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
                listing.by_name.setdefault(name, []).append(path)
            elif link and not os.path.exists(path):
                listing.lost.append(path)
            elif suffix in OTHER_SUFFIXES or suffix in suffixes:
                listing.unread.append(path)

    if folder.is_dir():
        walk(str(folder), [])
    return listing


class MaskFiles:
    """The masks of an image: by a pattern from its folder, or in folders of the same names."""

    def __init__(self, layout: Layout, folders: list[Path]):
        self.layout, self.pattern, self.folders = layout, layout.pattern, folders[1:]
        folders = self.folders if self.pattern is None else []
        self.listings = [list_folder(folder, layout.mask_suffixes) for folder in folders]

    def of(self, name: str, image: Path) -> list[Path | None]:
        """The mask of each kind; None where there is no such file."""
        if self.pattern is None:
            return [(listing.by_name.get(name) or [None])[0] for listing in self.listings]
        stem = image.stem.removesuffix(self.layout.stem_suffix)
        return [self._by_pattern(image.parent, stem, kind) for kind in self.layout.kinds or [""]]

    def expected(self, name: str, number: int) -> str:
        """Where the mask of a name should be."""
        return str(self.folders[number] / f"{name}.png") if self.pattern is None else self.pattern

    def like(self, folder: Path) -> list[Path]:
        """Files elsewhere that the pattern may mean for images of `folder`, but not those of other splits' folders."""
        parents, _, name = self.pattern.rpartition("/")
        if "{stem}" in parents or not parents:
            return []
        found = []
        for kind in self.layout.kinds or [""]:
            words = self._words(folder, kind)
            parent = Path(os.path.normpath(folder / filled(parents, "dataset.masks", **words)))
            if parent == folder or (self.layout.splits == "folders" and not self._of_this_split(parent)):
                continue
            stem, any_suffix = name.removesuffix(".*"), ".*" if name.endswith(".*") else ""
            escaped = {word: glob.escape(text) for word, text in words.items()}
            found += parent.glob(filled(glob.escape(stem), "dataset.masks", stem="*", **escaped) + any_suffix)
        return [path for path in found if path.suffix.lower() in self.layout.mask_suffixes]

    def _words(self, folder: Path, kind: str) -> dict[str, str]:
        return {"split": self.layout.split_folder, "folder": folder.name, self.layout.kind: kind}

    def _of_this_split(self, folder: Path) -> bool:
        """Whether a folder's name names the split; else it may hold the masks of other splits too."""
        root = self.layout.root
        below = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
        return set(Path(self.layout.split_folder).parts) <= set(below)

    def _by_pattern(self, folder: Path, stem: str, kind: str) -> Path | None:
        text = filled(self.pattern, "dataset.masks", stem=stem, **self._words(folder, kind))
        for spelled in dict.fromkeys([text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))]):
            path = Path(os.path.normpath(folder / spelled))
            suffixes = self.layout.mask_suffixes if path.suffix == ".*" else (path.suffix,)
            if there := next((p for s in suffixes if os.path.lexists(p := path.with_suffix(s))), None):
                return there
        return None
