"""Which images belong to a split: all of a folder, those that a split file names, or a share of the groups by hash."""

import hashlib
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from segtrain.data.folder.findings import FileLists
from segtrain.data.folder.images import IMAGE_SUFFIXES
from segtrain.data.folder.layout import SPLIT_FILE, SPLITS, Layout, filled
from segtrain.errors import ConfigError, counted, few

LISTS = (".txt", ".csv", ".tsv", ".lst", ".json")  # suffixes of files that may say which images a split has


def with_splits(layout: Layout) -> Layout:
    """The layout with its way of splitting; for splits=auto the one that its folders have, of all splits the same."""
    if layout.splits != "auto":
        return layout
    if layout.split_file != SPLIT_FILE:
        return replace(layout, splits="files")
    of_split = [replace(layout, split=split) for split in SPLITS]
    for splits in ("folders", "files"):
        if any(replace(other, splits=splits).split_words for other in of_split):
            return replace(layout, splits=splits)
    words = {word for other in of_split for word in (other.named_split, *SPLITS[other.split])}
    named = any(
        path.stem.lower() in words and (path.is_dir() or path.suffix.lower() in LISTS) for path in layout.root.glob("*")
    )
    return replace(layout, splits="ratio" if layout.fits(splits="ratio") and not named else "folders")


def names_of_split(layout: Layout, images: dict[str, Path], found: FileLists) -> list[str]:
    """The names of the images of a split, out of `images` by name; what is wrong with a split file is a finding."""
    splits = layout.splits
    if splits == "folders":
        return sorted(images)
    if splits == "files":
        file = filled(layout.split_file, "dataset.split_file", split=layout.split_folder)
        return _names_in_file(layout.root / file, images, layout.stem_suffix, found)
    if layout.split not in ("train", "val"):
        raise ConfigError(f"splits={splits} has no {layout.split!r} split", "dataset.splits", "use train or val")
    if splits == "ratio":
        chosen = for_validation([layout.group_of(name) for name in images], layout.val_ratio)
        in_val = {name for name, own in zip(images, chosen, strict=True) if own}
    else:
        in_val = {name for name in images if int(hash_share(layout.group_of(name)) * layout.folds) == layout.fold}
    return sorted(in_val if layout.split == "val" else images.keys() - in_val)


def for_validation(groups: list[str], val_ratio: float) -> list[bool]:
    """Whether each image is for validation, by its group's share; of few groups at least the one of the smallest."""
    shares = [hash_share(group) for group in groups]
    least = min(shares, default=0.0)
    if val_ratio > 0 and least >= val_ratio and len(set(shares)) > 1:
        return [share == least for share in shares]
    return [share < val_ratio for share in shares]


def hash_share(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, so that a file stays in its split when others are added."""
    code = name.encode(errors="surrogateescape")  # a name that is no UTF-8 is a name
    return int.from_bytes(hashlib.blake2b(code, digest_size=8).digest(), "big") / 2**64


def _ends_of(name: str, images: dict[str, Path], stem_suffix: str) -> Iterator[str]:
    """The names of images that a path may stand for: the whole of it, or what is below a folder that they are in.

    Of images that are all in one folder, whatever that is called: its last word.
    """
    parts, flat = name.split("/"), not any("/" in known for known in images)
    for first in range(len(parts)):
        for known in ("/".join(parts[first:]), "/".join(parts[first:]).removesuffix(stem_suffix)):
            if known in images and (not first or flat or parts[first - 1] in images[known].parts):
                yield known


def _names_in_file(file: Path, images: dict[str, Path], stem_suffix: str, found: FileLists) -> list[str]:
    if not file.is_file():
        raise ConfigError(f"no split file {file}", "dataset.splits=files", "write one, with one file stem per line")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("the split file is not UTF-8 text", str(file), "save it as UTF-8") from error
    names: dict[str, int] = {}
    lost, outside = [], []
    for line in filter(None, map(str.strip, text.splitlines())):
        path = Path(line)
        name = path.with_suffix("").as_posix() if path.suffix.lower() in IMAGE_SUFFIXES else path.as_posix()
        name = unicodedata.normalize("NFC", name)  # as in a listing
        if ".." in path.parts:
            outside.append(line)
            continue
        name = next((known for known in _ends_of(name, images, stem_suffix)), name)
        if name in images:
            names[name] = names.get(name, 0) + 1
        else:
            lost.append(line)
    repeated = [name for name, times in names.items() if times > 1]
    for what, some in (
        (f"{counted(len(outside), 'line')} of {file.name} out of the folder: {few(outside)}", outside),
        (f"{counted(len(lost), 'name')} in the split file without an image: {few(lost)}", lost),
        (f"{file.name} repeats {few(repeated)}", repeated),
    ):
        if some:
            found.add("error", what, [file], "correct the file: one file stem per line, each once")
    return list(names)
