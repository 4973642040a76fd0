"""How the names of masks follow from those of their images."""

import itertools
import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from segtrain.data.folder.images import IMAGE_SUFFIXES, MASK_SUFFIXES
from segtrain.data.folder.layout import SPLITS
from segtrain.data.folder.near import OF_MASKS
from segtrain.errors import few

OF_IMAGES = re.compile(r"image|img|photo|picture|rgb|original|input", re.IGNORECASE)


def longer_names(layout, images: list[Path], folder: Path) -> str:
    """The pattern of masks in a folder that end otherwise than their images, from the images' folder; empty if not so."""
    pattern = pattern_of(images, [path for path in folder.iterdir() if path.is_file()])
    words = os.path.relpath(folder, images[0].parent).split(os.sep)
    if layout.splits == "folders":
        words = ["{split}" if word == layout.split_folder else word for word in words]
    return "/".join([*words, pattern]) if pattern else ""


def pattern_of(images: Iterable[Path], masks: Iterable[Path], stem_suffix: str = "") -> str:
    """The pattern of the masks' names, by those of the images, such as {stem}_mask.png; empty where it is that of less than
    a third of both.

    Args:
        images: files beside which the masks may lie, too.
        stem_suffix: the end of the images' stems that is none of the masks'.
    """
    names = {(_stem(path), path.suffix) for path in images if path.suffix.lower() in IMAGE_SUFFIXES}
    stems, ways = Counter(stem.removesuffix(stem_suffix) for stem, _ in names), Counter()
    masks = [mask for mask in masks if mask.suffix.lower() in MASK_SUFFIXES]
    for mask in masks:
        word = _stem(mask)
        ways.update(("", word[end:], mask.suffix) for end in range(1, len(word)) if word[:end] in stems)
        ways.update((word[:start], "", mask.suffix) for start in range(1, len(word)) if word[start:] in stems)
        others = stems[word] - ((word, mask.suffix) in names)
        ways[("", "", mask.suffix)] += others > 0  # photo.jpg and photo.png
    (start, end, suffix), count = ways.most_common(1)[0] if ways else (("", "", ""), 0)
    suffixes = {other for *same, other in ways if same == [start, end]}
    if (start or end) and len(suffixes) > 1:
        suffix, count = ".*", sum(ways[start, end, other] for other in suffixes)
    fits = count and 3 * count >= min(len(stems), len(masks)) and not {"{", "}"} & {*start, *end}
    return f"{start}{{stem}}{end}{suffix}" if fits else ""


def class_ends(images: Iterable[Path], masks: Iterable[Path]) -> list[str]:
    """What the masks of an image end with where it has several, one for each class, such as car of a_car.png; sorted."""
    stems, ends = {_stem(path) for path in images}, Counter()
    for word in (_stem(mask) for mask in masks if mask.suffix.lower() in MASK_SUFFIXES):
        ends.update(word[end + 1 :] for end, letter in enumerate(word) if letter == "_" and word[:end] in stems)
    found = sorted(
        end for end, count in ends.items() if 3 * count >= len(stems) and re.fullmatch(r"[A-Za-z][\w-]*", end)
    )
    return found if len(found) > 1 else []


def several_each(files: dict[Path, list[Path]]) -> tuple[Path, list[str], str] | None:
    """The folder of images that have several masks each, the words in which the masks' names differ, and their pattern.

    The pattern is from that folder, with {kind} for the word. No words: each has one mask, in a folder of its own.

    Args:
        files: images and masks by their folder.
    """
    for folder, images in files.items():
        stems = {path.stem for path in images}
        stems = {stem for stem in stems if not _continued(stem, stems)}
        ways, own = Counter(), {masks for masks in files if masks.name in stems}  # folders of the masks of an image
        for path in itertools.chain(*files.values()):
            if path.parent in own:
                ways[f"{os.path.relpath(path.parent.parent, folder)}/{{stem}}/{path.name}"] += 1
            elif stem := _continued(path.stem, stems):
                name = path.name.replace(stem, "{stem}", 1)
                ways[name if path.parent == folder else f"{os.path.relpath(path.parent, folder)}/{name}"] += 1
        common = [re.split(r"([^\W_]+)", way) for way, count in sorted(ways.items()) if 2 * count > len(own or stems)]
        if len(stems) < 2 or len({*map(len, common)}) != 1:
            continue
        if own and len(common) == 1:
            return folder, [], "".join(common[0])
        columns = [*zip(*common, strict=True)]
        if len(apart := {column for column in columns if len({*column}) > 1}) == 1:
            (words,) = apart
            return folder, [*words], "".join("{kind}" if column == words else column[0] for column in columns)
    return None


def in_own_folders(files: dict[Path, list[Path]], root: Path) -> tuple[str, list[str]] | None:
    """dataset.images, with a * for what differs, and the masks' names, where folders hold an image and masks of the same names.

    Args:
        files: images and masks by their folder.
    """
    names = Counter(path.name for paths in files.values() for path in paths)
    common = [name for name, count in names.items() if 2 * count > len(files) > 1]
    masks = [name for name in common if OF_MASKS.search(name) and Path(name).suffix.lower() in MASK_SUFFIXES]
    if masks:
        masks = [min(masks, key=len)]  # label.png, not label_viz.png
        images = [name for name in common if not OF_MASKS.search(name)]
    else:  # of classes
        images = [name for name in common if OF_IMAGES.fullmatch(Path(name).stem)]
        masks = sorted(name for name in common if name not in images and Path(name).suffix.lower() in MASK_SUFFIXES)
    if not masks or len(images) != 1:
        return None
    folders = [folder.relative_to(root).parts for folder in files if folder / images[0] in files[folder]]
    columns = [*zip(*(parts for parts in folders if len(parts) == len(folders[0])), strict=True)]
    words = [column[0] if len({*column}) == 1 else "*" for column in columns]
    if columns and {word.lower() for word in columns[0]} <= {word for every in SPLITS.values() for word in every}:
        words[0] = "{split}"
    return "/".join([*words, images[0]]), masks


def _continued(word: str, stems: set[str]) -> str:
    """The stem that a word goes on from, after a sign; empty where there is none."""
    ends = (end for end in range(len(word) - 1, 0, -1) if not word[end].isalnum())
    return next((word[:end] for end in ends if word[:end] in stems), "")


def for_classes(classes: list[str], pattern: str = "") -> str:
    """The settings for a mask file per class."""
    named = f"'dataset.class_names=[{','.join(classes)}]' dataset.num_classes={len(classes)} dataset.background=null"
    where = f"{setting('dataset.masks', pattern)} " if pattern else ""
    return f"if {few(classes)} are classes, each with masks of its own: dataset.mask_format=files {named} {where}loss=bce_dice"


def _stem(path: Path) -> str:
    """Its letters with accents as one character each, however the file system spells them."""
    return unicodedata.normalize("NFC", path.stem)


def common_end(images: Iterable[Path]) -> str:
    """What all stems end with, from a _ or - on, such as the _0000 of nnU-Net; empty where there is nothing."""
    columns = zip(*(path.stem[::-1] for path in images), strict=False)
    same = itertools.takewhile(lambda letters: len({*letters}) == 1, columns)
    found = re.search(r"[_-].*", "".join(letters[0] for letters in same)[::-1])
    return found[0] if found else ""


def setting(key: str, value: str) -> str:
    """key=value as it is typed in a shell."""
    return f"{key}={value}" if re.fullmatch(r"[\w./-]+", value) else shlex.quote(f'{key}="{value}"')
