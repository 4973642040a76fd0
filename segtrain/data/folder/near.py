"""The first files and folders near the root of a dataset, of which settings that fit it are guessed."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from segtrain.data.folder.images import IMAGE_SUFFIXES

DEPTH, FOLDERS, BESIDE, FILES = 6, 60, 8, 1000  # that are looked at: levels, folders, those in one, files of one
JUNK = ("__MACOSX", "@eaDir")  # folders that programs leave beside others
OF_TEST = re.compile(r"(?<![a-z])test(ing)?(?![a-z])", re.IGNORECASE)
OF_MASKS = re.compile(r"mask|label|annot|truth|seg|manual|class|gt|lbl|trimap", re.IGNORECASE)


def files_by_folder(root: Path) -> dict[Path, list[Path]]:
    """Folders that hold images, but those of tests, with some of them, those near the root first."""
    found: dict[Path, list[Path]] = {}
    for folder in near(root):
        images = [path for path in entries(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
        if images and not OF_TEST.search(os.path.relpath(folder, root)):
            found[folder] = images[:FILES]
        if len(found) == FOLDERS:
            break
    return found


def near(root: Path) -> Iterator[Path]:
    """The root and folders below it, those near it first."""
    level = [root]
    for _ in range(DEPTH):
        yield from level
        level = [deeper for folder in level[:FOLDERS] for deeper in folders_in(folder)[:BESIDE]]


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder that are neither hidden nor left by programs."""
    return [p for p in entries(folder) if p.is_dir() and not p.name.startswith(".") and p.name not in JUNK]


def entries(folder: Path) -> list[Path]:
    """What is in a folder, by name; nothing of one that is not there or cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
