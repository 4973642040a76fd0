"""Where the masks of an image are: in folders of the same names, or where a pattern says."""

import glob
import os
from pathlib import Path

from segtrain.data.folder.images import MASK_SUFFIXES
from segtrain.data.folder.listing import list_folder
from segtrain.errors import ConfigError


class MaskPlaces:
    """Where the masks of an image are: beside it by a pattern, or in folders of the same stems."""

    def __init__(
        self, pattern: str | None, kinds: list[str] | None, kind: str, split: str, folders: list[Path], root: Path
    ):
        self.pattern, self.kinds, self.kind, self.split, self.folders = pattern, kinds, kind, split, folders[1:]
        self.root = root
        if pattern is not None and "{stem}" not in pattern:
            raise ConfigError(
                f"the pattern {pattern!r} has no {{stem}}", "dataset.masks", "for example {stem}_mask.png"
            )
        if pattern is not None and kinds and f"{{{kind}}}" not in pattern:
            raise ConfigError(
                f"the pattern {pattern!r} has no {{{kind}}}", "dataset.masks", f"for example {{stem}}_{{{kind}}}.png"
            )
        self.listings = [list_folder(folder, MASK_SUFFIXES) for folder in self.folders] if pattern is None else []

    def of(self, name: str, image: Path, stem_suffix: str) -> list[Path | None]:
        """The mask of each kind; None where there is no such file."""
        if self.pattern is None:
            return [(listing.by_name.get(name) or [None])[0] for listing in self.listings]
        stem = image.stem.removesuffix(stem_suffix)
        return [self._by_pattern(image.parent, stem, kind) for kind in self.kinds or [""]]

    def expected(self, name: str, number: int) -> str:
        """Where the mask of a name was looked for."""
        return str(self.folders[number] / f"{name}.png") if self.pattern is None else self.pattern

    def like(self, folder: Path, splits: str) -> list[Path]:
        """Files elsewhere that the pattern may mean for images of `folder`, but not those of other splits' folders."""
        place, _, name = self.pattern.rpartition("/")
        if "{stem}" in place or not place:
            return []
        found = []
        for kind in self.kinds or [""]:
            words = {"split": self.split, "folder": folder.name, self.kind: kind}
            parent = Path(os.path.normpath(folder / filled(place, "dataset.masks", **words)))
            if splits == "folders" and not self._of_this_split(parent):
                continue
            stem, any_suffix = name.removesuffix(".*"), ".*" if name.endswith(".*") else ""
            escaped = {word: glob.escape(text) for word, text in words.items()}
            pattern = filled(glob.escape(stem), "dataset.masks", stem="*", **escaped) + any_suffix
            found += parent.glob(pattern) if parent != folder else []
        return [path for path in found if path.suffix.lower() in MASK_SUFFIXES]

    def _of_this_split(self, folder: Path) -> bool:
        """Whether a folder's name says so; else it may hold the masks of other splits too."""
        below = folder.relative_to(self.root).parts if folder.is_relative_to(self.root) else ()
        return set(Path(self.split).parts) <= set(below)

    def _by_pattern(self, folder: Path, stem: str, kind: str) -> Path | None:
        words = {"stem": stem, "split": self.split, "folder": folder.name, self.kind: kind}
        text = filled(self.pattern, "dataset.masks", **words)
        path = Path(os.path.normpath(folder / text))
        if path.suffix != ".*":
            return path if os.path.lexists(path) else None
        return next((p for s in MASK_SUFFIXES if os.path.lexists(p := path.with_suffix(s))), None)


def filled(pattern: str, key: str, **words: str) -> str:
    """A pattern with its words in braces filled in. Raises ConfigError."""
    try:
        return pattern.format(**words)
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(f"{{{word}}}" for word in words)
        raise ConfigError(
            f"the pattern {pattern!r} cannot be filled in: {error}", key, f"it may hold {known}"
        ) from error
