"""The masks of an image: in folders of the same names, or by a pattern."""

import glob
import os
from pathlib import Path

from segtrain.data.folder.images import MASK_SUFFIXES
from segtrain.data.folder.layout import Layout, filled
from segtrain.data.folder.listing import list_folder


class MaskFiles:
    """The mask files of an image: beside it by a pattern, or in folders of the same stems."""

    def __init__(self, layout: Layout, folders: list[Path]):
        self.layout, self.pattern, self.folders = layout, layout.pattern, folders[1:]
        self.listings = [list_folder(folder, MASK_SUFFIXES) for folder in self.folders] if self.pattern is None else []

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
        return [path for path in found if path.suffix.lower() in MASK_SUFFIXES]

    def _words(self, folder: Path, kind: str) -> dict[str, str]:
        return {"split": self.layout.split_folder, "folder": folder.name, self.layout.kind: kind}

    def _of_this_split(self, folder: Path) -> bool:
        """Whether a folder's name names the split; else it may hold the masks of other splits too."""
        root = self.layout.root
        below = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
        return set(Path(self.layout.split_folder).parts) <= set(below)

    def _by_pattern(self, folder: Path, stem: str, kind: str) -> Path | None:
        text = filled(self.pattern, "dataset.masks", stem=stem, **self._words(folder, kind))
        path = Path(os.path.normpath(folder / text))
        if path.suffix != ".*":
            return path if os.path.lexists(path) else None
        return next((p for s in MASK_SUFFIXES if os.path.lexists(p := path.with_suffix(s))), None)
