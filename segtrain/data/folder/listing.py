"""The files of a folder at any depth, by name."""

import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from segtrain.data.folder.images import OTHER_SUFFIXES
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
