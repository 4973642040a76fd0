"""Which settings would fit the files of a dataset, where those that were given do not."""

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from PIL import Image

from segtrain.data.folder.images import IMAGE_SUFFIXES, MASK_SUFFIXES
from segtrain.errors import few

GENERAL = (
    "correct dataset.root, choose dataset.splits=folders|files|ratio|kfold, name dataset.images and dataset.masks, or the "
    "names of the splits: 'dataset.split_names={train: training, val: dev}'"
)


def what_would_fit(layout, images_there: bool) -> str:
    """What to do about a layout whose folders are not there.

    Args:
        layout: a segtrain.data.folder.layout.Layout.
        images_there: whether the folder of the images is.
    """
    if images_there:
        return _masks_elsewhere(layout) or "name the folder of the masks (dataset.masks=NAME), or a pattern for them"
    if layout.splits != "folders":
        return "set dataset.splits=folders" if layout.fits(splits="folders") else GENERAL
    if layout.split == "test":  # seldom there, and no part of a ratio
        return GENERAL
    of_all = f"takes {layout.val_ratio:.0%} of the images for validation"
    with_files = replace(layout, splits="files")
    if with_files.split_words and layout.fits(splits="files"):
        return f"set dataset.splits=files, for {layout.split_file.format(split=with_files.split_folder)}"
    if words := _words_of_splits(layout):
        return f"if {words[0]} is {layout.split}: 'dataset.split_names={{{layout.split}: {words[0]}}}'"
    if layout.fits(splits="ratio"):
        return f"dataset.splits=ratio {of_all}"
    training = layout.root / replace(layout, split="train").split_folder
    if layout.split == "val" and layout.fits(splits="ratio", root=training):
        return f"{setting('dataset.root', str(training))} dataset.splits=ratio {of_all}"
    if pattern := _pattern_of_masks(layout.root / layout.split_folder):
        return f"for masks beside their images: 'dataset.images=\"{{split}}\"' {setting('dataset.masks', pattern)}"
    if pattern := _pattern_of_masks(layout.root):
        beside = f"dataset.images=. {setting('dataset.masks', pattern)}"
        return f"for masks beside their images: {beside} dataset.splits=ratio, which {of_all}"
    if layout.images is not None and "{split}" not in layout.images and (layout.root / layout.images).is_dir():
        by_split = setting("dataset.images", f"{layout.images}/{{split}}")
        return f"if all images are in one folder, set dataset.splits=ratio; if each split has a folder, set {by_split}"
    return _folder_per_class(layout) or _where_it_is(layout) or GENERAL


def _where_it_is(layout) -> str:
    """A folder of another name in that of the split, or a dataset one folder deeper; empty where there is none."""
    for deeper in _folders(layout.root):
        if layout.fits(root=deeper) or layout.fits(root=deeper, splits="ratio"):
            return f"it is one folder deeper: {setting('dataset.root', str(deeper))}"
    if (layout.root / "config.yaml").is_file() and (layout.root / "checkpoints").is_dir():
        return f"this is the folder of a run: `segtrain evaluate {layout.root}`, or name the folder of a dataset"
    word, names = layout.split_folder, [folder.name for folder in _folders(layout.root / layout.split_folder)]
    for masks in names:
        for images in names:
            chosen = {"images": f"{{split}}/{images}", "masks": masks}
            if images != masks and _of_grey(layout.root / word / masks) and layout.fits(**chosen):
                return (
                    f"if {images} holds the images and {masks} the masks: 'dataset.images=\"{{split}}/{images}\"' "
                    f"{setting('dataset.masks', masks)}"
                )
    return ""


def _of_grey(folder: Path) -> bool:
    """Whether the first image of a folder has one channel, as masks have."""
    first = next((path for path in sorted(folder.iterdir()) if path.suffix.lower() in MASK_SUFFIXES), None)
    if first is None:
        return False
    try:
        with Image.open(first) as image:
            return len(image.getbands()) == 1
    except (OSError, Image.DecompressionBombError):
        return False


def _masks_elsewhere(layout) -> str:
    """A folder beside the images' that has one for the split, too."""
    word = layout.split_folder
    found = [path.name for path in _folders(layout.root) if (path / word).is_dir()]
    found += [path.name for path in _folders(layout.root / word)]
    images = {part for folders in layout.possible(word) for part in folders[0].parts}
    others = [name for name in found if name not in images]
    return f"if {others[0]} holds the masks, set {setting('dataset.masks', others[0])}" if others else ""


def _words_of_splits(layout) -> list[str]:
    """Names of folders that may be the split's: beside those of other splits, and of the same kind."""
    others = [replace(layout, split=split) for split in ("train", "val", "test") if split != layout.split]
    taken = {word for other in others for word in other.split_words}
    places = {folders[0].parent for other in others for word in other.split_words for folders in other.possible(word)}
    places |= {layout.root}
    found = [path.name for place in sorted(places) for path in _folders(place)]
    candidates = [name for name in dict.fromkeys(found) if name not in taken]
    return [name for name in candidates if layout.fits(split_names={layout.split: name})]


def longer_names(layout, images: list[Path], folder: Path) -> str:
    """The pattern of masks in a folder that end otherwise than their images, from the images' folder; empty if not so."""
    pattern = _pattern(images, [path for path in folder.iterdir() if path.is_file()])
    words = os.path.relpath(folder, images[0].parent).split(os.sep)
    if layout.splits == "folders":
        words = ["{split}" if word == layout.split_folder else word for word in words]
    return "/".join([*words, pattern]) if pattern else ""


def _pattern_of_masks(folder: Path) -> str:
    """The pattern of masks that lie beside their images, such as {stem}_mask.png; empty where there are none."""
    files = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    return _pattern(files, files)


def _pattern(images: list[Path], masks: list[Path]) -> str:
    """The pattern of the masks' names, by those of the images; empty where less than a third have one."""
    names = {(path.stem, path.suffix) for path in images if path.suffix.lower() in IMAGE_SUFFIXES}
    stems, ends = Counter(stem for stem, _ in names), Counter()
    for mask in masks:
        if mask.suffix.lower() not in MASK_SUFFIXES:
            continue
        ends.update((mask.stem[end:], mask.suffix) for end in range(1, len(mask.stem)) if mask.stem[:end] in stems)
        others = stems[mask.stem] - ((mask.stem, mask.suffix) in names)
        ends[("", mask.suffix)] += others > 0  # photo.jpg and photo.png
    (end, suffix), count = ends.most_common(1)[0] if ends else (("", ""), 0)
    suffixes = {other for same, other in ends if same == end}
    if end and len(suffixes) > 1:
        suffix, count = ".*", sum(ends[end, other] for other in suffixes)
    fits = count and 3 * count >= len(stems) and not {"{", "}"} & {*end}
    return f"{{stem}}{end}{suffix}" if fits else ""


def _folder_per_class(layout) -> str:
    """The settings for folders beside that of the images, each with the masks of a class; empty where it is not so."""
    of_all = replace(layout, splits="ratio")
    images = next((folders[0] for folders in of_all.possible(layout.split) if folders[0].is_dir()), None)
    if images is None or layout.masks is not None:
        return ""
    stems = {path.stem for path in images.iterdir()}

    def holds_masks(folder: Path) -> bool:
        fits = any(path.stem in stems and path.suffix.lower() in MASK_SUFFIXES for path in folder.iterdir())
        return fits and _of_grey(folder) and re.fullmatch(r"[\w-]+", folder.name) is not None

    classes = [folder.name for folder in _folders(layout.root) if folder != images and holds_masks(folder)]
    if len(classes) < 2:
        return ""
    named = f"'dataset.class_names=[{','.join(classes)}]' dataset.num_classes={len(classes)}"
    return f"if {few(classes)} each hold the masks of one class: dataset.mask_format=files {named} dataset.background=null loss=bce_dice"


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")) if folder.is_dir() else []


def setting(key: str, value: str) -> str:
    """key=value as it is typed in a shell."""
    return f"{key}={value}" if re.fullmatch(r"[\w./-]+", value) else f"'{key}=\"{value}\"'"
