"""The image files a user names on the command line, files, folders and patterns: how they are found, and read ahead."""

import glob
import logging
import os
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segtrain.cpu import cores, give_memory_back
from segtrain.data.folder.images import IMAGE_SUFFIXES, MAX_PIXELS, OTHER_SUFFIXES, image_size, read_image
from segtrain.data.folder.listing import MARK, WRITTEN
from segtrain.data.folder.rows import PictureRows, TiffRows, open_rows
from segtrain.data.threads import tried
from segtrain.errors import ConfigError, DataError, counted, few

log = logging.getLogger("segtrain")

LARGE = 2048 * 2048  # pixels; of a larger image no more than some rows are in memory
KEPT = 1 << 27  # bytes freed: to page in the memory of each window anew takes a third of the time
THREADS = min(cores(), 8)  # that decode
Image = np.ndarray | TiffRows | PictureRows  # uint8 [H, W, channels], or what gives its rows


@dataclass(frozen=True)
class ImageReader:
    """Reads image files with the values that a dataset gives: uint8 [H, W, channels].

    Attributes: as the arguments of `segtrain.data.folder.images.read_image`.
    """

    channels: int = 3
    value_range: tuple[float, float] | None = None
    exif: bool = True
    max_pixels: int = MAX_PIXELS

    def read(self, file: Path) -> Image:
        """An image; of a large one its rows. Raises DataError."""
        settings = (self.channels, self.value_range, self.exif, self.max_pixels)
        if not _is_large(file):
            return read_image(file, *settings)
        give_memory_back(KEPT)  # all of it kept, what the windows free grows by half a gigabyte
        return open_rows(file, *settings)

    def ahead(self, files: dict[str, Path]) -> Iterator[tuple[str, Image | DataError]]:
        """Images by name, or why one cannot be read, in order; the next are decoded by threads meanwhile.

        Large ones are not: of those no more than one is in memory.
        """
        waiting: deque[tuple[str, Future]] = deque()
        with ThreadPoolExecutor(THREADS) as reader:
            for name, file in files.items():
                large = _is_large(file)
                if not large:
                    waiting.append((name, reader.submit(tried, self.read, file)))
                while len(waiting) > (0 if large else THREADS):
                    before, image = waiting.popleft()
                    yield before, image.result()
                if large:
                    yield name, tried(self.read, file)
            for name, image in waiting:
                yield name, image.result()


def _is_large(file: Path) -> bool:
    """By the file's header; False for one that cannot be read."""
    try:
        height, width = image_size(file)
    except DataError:
        return False
    return height * width > LARGE


def find_images(words: list[str]) -> dict[str, Path]:
    """Files by name: below a folder the path from there, else the file's own name, without suffix where that is clear.

    Args:
        words: files, folders (with all folders below them, but no hidden ones and no predictions), and patterns of both,
            such as 'scans/*.tif'.

    Raises ConfigError for a word that stands for no image, and for two files of one name. Pictures of formats that are
    not read are named in a warning.
    """
    found: list[tuple[Path, Path]] = []  # name with its suffix, file
    others: list[str] = []  # beside them, of formats that are not read
    for word in words:
        path = Path(word)
        if path.is_dir():
            files = _below(path, path)
        elif path.is_file():
            files = [(Path(path.name), path)]
            if path.suffix.lower() in OTHER_SUFFIXES:
                raise ConfigError("a format that is not read", word, "convert it to PNG or TIFF")
        else:
            matches = [Path(match) for match in sorted(glob.glob(word, recursive=True))]
            folders = [match for match in matches if match.is_dir() and "**" not in word]  # of ** every file is a match
            files = [(Path(match.name), match) for match in matches if match.is_file()]
            files += [named for folder in folders for named in _below(folder, folder.parent)]
        others += [str(file) for _, file in files if file.suffix.lower() in OTHER_SUFFIXES]
        images = files if path.is_file() else [(n, file) for n, file in files if file.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            what = "no image in it" if files or path.is_dir() else "no such file, folder or pattern"
            raise ConfigError(what, word, f"images end in {', '.join(IMAGE_SUFFIXES)}")
        known = {file.resolve() for _, file in found}
        found += [(name, file) for name, file in images if file.resolve() not in known]
    if others:
        log.warning(f"{counted(len(others), 'file')} left out, because their formats are not read: {few(others, 3)}")
    stems = Counter(name.with_suffix("") for name, _ in found)
    names = [str(name.with_suffix("") if stems[name.with_suffix("")] == 1 else name) for name, _ in found]
    if (name := Counter(names).most_common(1)[0])[1] > 1:
        same = [str(file) for own, (_, file) in zip(names, found, strict=True) if own == name[0]]
        fix = "predict them with separate calls, each with its own --out"
        raise ConfigError(f"{len(same)} images have the name {name[0]}", ", ".join(same[:3]), fix)
    return dict(zip(names, (file for _, file in found), strict=True))


def without_masks(files: dict[str, Path], pattern: str) -> dict[str, Path]:
    """`files` without those that are masks of others beside them, by a pattern of a dataset such as {stem}_mask.png."""
    start, end = Path(pattern).stem.split("{stem}") if pattern.count("{stem}") == 1 and "/" not in pattern else ("", "")
    stems = {(file.parent, start + file.stem + end) for file in files.values()} if start + end else set()
    images = {name: file for name, file in files.items() if (file.parent, file.stem) not in stems}
    if len(images) < len(files):
        log.info(f"{counted(len(files) - len(images), 'file')} left out, masks by the run's dataset.masks={pattern}")
    return images


def _below(folder: Path, base: Path) -> list[tuple[Path, Path]]:
    """The files below a folder by their path from `base`, without hidden ones and predictions."""
    files, seen = [], set()

    def refused(error: OSError) -> None:
        log.warning(f"left out, because it cannot be read: {error.filename} ({error.strerror})")

    for parent, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:  # a link back up
            folders.clear()
            continue
        seen.add(real)
        files += [Path(parent, name) for name in names]
    made = {mark.parent / kind for mark in files if mark.name == MARK for kind in WRITTEN}
    named = [(file.relative_to(base), file) for file in sorted(files) if file.is_file()]
    shown = [(name, file) for name, file in named if not any(part.startswith(".") for part in name.parts)]
    return [(name, file) for name, file in shown if not made & {file, *file.parents}]
