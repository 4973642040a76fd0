"""Which settings would fit the files of a dataset, where those that were given do not."""

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from segtrain.data.folder.findings import FileLists
from segtrain.data.folder.images import LOSSY_SUFFIXES, MASK_SUFFIXES
from segtrain.data.folder.layout import GENERAL, SPLITS, Layout, NoMasks, NotThere
from segtrain.data.folder.near import OF_MASKS, OF_TEST, entries, files_by_folder, folders_in
from segtrain.data.folder.outlines import to_draw
from segtrain.data.folder.patterns import common_end, for_classes, in_own_folders, pattern_of, setting, several_each
from segtrain.data.folder.splits import list_files, with_splits
from segtrain.errors import SegtrainError, few


def files_of(layout: Layout) -> FileLists:
    """The files of a split, by `list_files`; an error about files that are not there names settings that fit."""
    try:
        found = list_files(layout)
    except NotThere as error:
        fix = what_would_fit(with_splits(layout), isinstance(error, NoMasks))
        raise layout.error(error.what, error.where, fix, type(error)) from error
    if found.unpaired is not None and (fix := _by_names(with_splits(layout))):
        found.unpaired.fix, before = fix, found.unpaired.fix.partition("; ")
        found.unpaired.fix += "".join(before[1:])  # that images without a mask may show nothing
    return found


def what_would_fit(layout: Layout, images_there: bool) -> str:
    """What to do about a layout whose folders are not there.

    Args:
        images_there: whether the folder of the images is.
    """
    named = "name the folder of the masks (dataset.masks=NAME), or a pattern for them"
    if layout.split == "test":  # seldom there, and no part of a ratio
        return named if images_there else GENERAL
    if images_there:
        return _by_names(layout) or named
    if layout.splits != "folders":
        return "set dataset.splits=folders" if layout.fits(splits="folders") else GENERAL
    with_files = replace(layout, splits="files")
    if with_files.split_words and layout.fits(splits="files"):
        return f"set dataset.splits=files, for {layout.split_file.format(split=with_files.split_folder)}"
    if words := _words_of_splits(layout):
        return f"if {words[0]} is {layout.split}: 'dataset.split_names={{{layout.split}: {words[0]}}}'"
    if layout.fits(splits="ratio"):
        return f"dataset.splits=ratio {_of_all(layout)}"
    training = layout.root / replace(layout, split="train").split_folder
    if layout.split == "val" and layout.fits(splits="ratio", root=training):
        return f"{setting('dataset.root', str(training))} dataset.splits=ratio {_of_all(layout)}"
    if layout.images is not None and "{split}" not in layout.images and (layout.root / layout.images).is_dir():
        by_split = setting("dataset.images", f"{layout.images}/{{split}}")
        return f"if all images are in one folder, set dataset.splits=ratio; if each split has a folder, set {by_split}"
    return _deeper(layout) or _by_names(layout) or GENERAL


def _of_all(layout: Layout) -> str:
    return f"takes {layout.val_ratio:.0%} of the images for validation"


def _deeper(layout: Layout) -> str:
    """A dataset one folder deeper, or a run in place of one; empty where there is none."""
    ratio = replace(layout, splits="ratio")
    deeper = [folder for folder in folders_in(layout.root) if layout.fits(root=folder) or ratio.fits(root=folder)]
    if len(deeper) == 1:
        return f"it is one folder deeper: {setting('dataset.root', str(deeper[0]))}"
    if (layout.root / "config.yaml").is_file() and (layout.root / "checkpoints").is_dir():
        return f"this is the folder of a run: `segtrain evaluate {layout.root}`, or name the folder of a dataset"
    return ""


def _by_names(layout: Layout) -> str:
    """The settings that fit the names of files, wherever they are, or what else these say; empty where that is nothing."""
    if layout.kinds:
        return ""
    by_names = _folder_per_class(layout) or _found_by_names(layout) or _in_own_folders(layout) or _several_each(layout)
    return by_names or to_draw(layout.root)


def _in_own_folders(layout: Layout) -> str:
    """The settings for a folder of each image, with its mask; empty where there are none."""
    if layout.images is not None or (found := in_own_folders(files_by_folder(layout.root), layout.root)) is None:
        return ""
    images, masks = setting("dataset.images", found[0]), found[1]
    by_ratio = "" if "{split}" in found[0] else f" dataset.splits=ratio, which {_of_all(layout)}"
    if len(masks) == 1:
        return f"if each image has a folder with its mask: {images} {setting('dataset.masks', masks[0])}{by_ratio}"
    return f"{for_classes([Path(mask).stem for mask in masks], '{class}.*')} {images}{by_ratio}"


def _several_each(layout: Layout) -> str:
    """The settings for several masks of each image, of annotators or of classes; empty where there are none."""
    if (found := several_each(files_by_folder(layout.root))) is None:
        return ""
    folder, kinds, pattern = found
    where = f"{setting('dataset.images', os.path.relpath(folder, layout.root))} dataset.splits=ratio"
    masks = setting("dataset.masks", pattern.replace("{kind}", "{annotator}"))
    if not kinds:
        return f"if each image has a folder with its mask: {masks} {where}, which {_of_all(layout)}"
    annotators = f"'dataset.annotators=[{','.join(kinds)}]' {masks} {where}, which {_of_all(layout)}"
    classes = for_classes(kinds, pattern.replace("{kind}", "{class}"))
    return f"if {few(kinds)} are annotators: {annotators}; {classes} {where}"


@dataclass(frozen=True)
class _Pair:
    """A folder of images and one of masks, which may be the same, and the pattern of the masks' names; empty: equal stems."""

    images: Path
    masks: Path
    pattern: str
    stem_suffix: str
    likeness: int  # of the masks' folder to one of masks


def _found_by_names(layout: Layout) -> str:
    """The settings by which most images have masks, of all folders whose names of files fit; empty where none do."""
    found: dict[tuple, tuple] = {}  # by settings, what they are worth, and for which folders
    files = files_by_folder(layout.root)
    for pair in _pairs(layout.root, files):
        for changes in _settings(layout, pair):
            if (key := tuple(changes.items())) not in found:
                number, own_splits = _number_of_images(layout, pair, changes), changes["splits"] != "ratio"
                found[key] = (own_splits and number > 0, number, pair.likeness), pair
    most = [key for key in found if 4 * found[key][0][1] >= sum(map(len, files.values()))]  # half of images and masks
    if not most:
        return ""
    best = max(most, key=lambda key: found[key][0])
    best, chosen = dict(best), found[best][1]
    keys = [key for key in best if key != "splits" or best[key] == "ratio"]
    words = " ".join(setting(f"dataset.{key}", best[key]) for key in keys)
    images, masks = (os.path.relpath(folder, layout.root) for folder in (chosen.images, chosen.masks))
    beside, of_images = images == masks, "the root" if images == "." else images
    where = "for masks beside their images" if beside else f"if {of_images} holds images and {masks} their masks"
    return f"{where}: {words}" + (f", which {_of_all(layout)}" if best["splits"] == "ratio" else "")


def _pairs(root: Path, files: dict[Path, list[Path]]) -> Iterator[_Pair]:
    """Folders of which one may hold the masks of the other, or of itself: their names differ in one part."""
    likeness = {folder: _mask_like(os.path.relpath(folder, root), there) for folder, there in files.items()}
    for images, masks in itertools.product(files, files):
        ours, theirs = files[images], [path for path in files[masks] if path.suffix.lower() in MASK_SUFFIXES]
        if images == masks:
            ours = [path for path in ours if path.suffix.lower() in LOSSY_SUFFIXES] or ours
        elif likeness[masks] <= likeness[images] or not _in_one_part(images.parts, masks.parts):
            continue
        pattern, end = "", ""
        if images == masks or not {path.stem for path in ours} & {path.stem for path in theirs}:
            pattern = pattern_of(ours, theirs)
            if not pattern and not {*ours} & {*theirs} and (end := common_end(ours)):
                pattern = pattern_of(ours, theirs, end)
            if not pattern:
                continue
        equal = re.fullmatch(r"{stem}\.\w+", pattern) and images != masks
        yield _Pair(images, masks, "" if equal else pattern, end, likeness[masks])


def _in_one_part(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return len(one) != len(other) or sum(a != b for a, b in zip(one, other, strict=True)) == 1


def _mask_like(folder: str, files: list[Path]) -> int:
    """How much a folder looks like one of masks: by its name, and by whether they have one channel and lose nothing."""
    named = bool(OF_MASKS.search(folder))
    try:
        with Image.open(files[0]) as image:
            return 2 * named + (len(image.getbands()) == 1) + (image.format != "JPEG")
    except (OSError, Image.DecompressionBombError):
        return 2 * named


def _settings(layout: Layout, pair: _Pair) -> Iterator[dict[str, str]]:
    """Settings that may fit two folders, the shortest first."""
    root, end = layout.root, {"stem_suffix": pair.stem_suffix} if pair.stem_suffix else {}
    images, masks, apart = (Path(os.path.relpath(*ends)).as_posix() for ends in (
        (pair.images, root), (pair.masks, root), (pair.masks, pair.images)))  # fmt: skip
    sibling = pair.masks == pair.images or pair.masks.parent == pair.images.parent
    relative = f"{apart}/{pair.pattern or '{stem}.*'}".removeprefix("./")
    below = pair.images in pair.masks.parents
    named = relative if pair.pattern or below else pair.masks.name if sibling else masks
    if not pair.pattern:
        for name in (pair.masks.name, pair.masks.parent.name):
            yield {"masks": name, "splits": layout.splits, **end}
    words = [layout.split_names.get("train", "train"), *SPLITS["train"]]
    train = re.compile(rf"(?<![a-z])({'|'.join(map(re.escape, words))})(?![a-z])", re.IGNORECASE)
    if train.search(images):
        by_split = [train.sub("{split}", text) for text in (images, named)]
        yield {"images": by_split[0], "masks": by_split[1], "splits": "folders", **end}
        top = by_split[0].partition("{split}")[0] + "{split}"
        if top != by_split[0] and sibling:  # both in each town of a split
            yield {"images": top, "masks": relative, "splits": "folders", **end}
    yield {"images": images, "masks": named, "splits": "ratio", **end}
    above, above_masks = Path(images), Path(masks)
    while above.name and above.name == above_masks.name:
        above, above_masks = above.parent, above_masks.parent
    if not pair.pattern and above not in (Path(images), above_masks):  # folders of patients in both
        yield {"images": above.as_posix(), "masks": above_masks.as_posix(), "splits": "ratio", **end}
    if images != "." and sibling:  # both in the folder of each patient
        yield {"images": ".", "masks": relative, "splits": "ratio", **end}
        below = Path(images).parent.parent / "*" / Path(images).name  # or in one of the same name there
        yield {"images": below.as_posix(), "masks": relative, "splits": "ratio", **end}


def _number_of_images(layout: Layout, pair: _Pair, changes: dict[str, str]) -> int:
    """How many images of both splits have a mask with other settings; 0 where one has few, and where masks or a test
    split are mistaken.
    """
    total, mask_named = 0, bool(OF_MASKS.search(os.path.relpath(pair.images, layout.root)))
    for split in ("train", "val"):
        try:
            found = list_files(replace(layout, split=split, **changes), check=False)
        except SegtrainError:
            return 0
        masks = [files[0] for files in found.masks if files[0] is not None]
        parents = {os.path.relpath(file.parent, layout.root) for file in found.images}
        odd = not mask_named and any(map(OF_MASKS.search, parents))
        if odd or any(map(OF_TEST.search, parents)) or len({*masks}) < len(masks) or 2 * len(masks) <= len(found.names):
            return 0
        total += len(masks)
    return total


def _words_of_splits(layout: Layout) -> list[str]:
    """Names of folders that may be the split's, of the same kind as those of other splits: one beside these, or two."""
    others = [replace(layout, split=split) for split in ("train", "val", "test") if split != layout.split]
    taken = {word for other in others for word in other.split_words}
    places = {folders[0].parent for other in others for word in other.split_words for folders in other.possible(word)}
    places |= {layout.root}
    found = [path.name for place in sorted(places) for path in folders_in(place)]
    candidates = [name for name in dict.fromkeys(found) if name not in taken]
    fitting = [name for name in candidates if layout.fits(split_names={layout.split: name})]
    return fitting if len(fitting) == (1 if taken else 2) else []


def _folder_per_class(layout: Layout) -> str:
    """The settings for folders, each with the masks of a class, beside that of the images or in one; empty where it is not so."""
    of_all = replace(layout, splits="ratio", masks=None)
    images = [folders[0] for folders in of_all.possible(layout.split) if folders[0].is_dir()]
    images = images[0] if images else layout.root / (layout.images or "images")
    if layout.masks is not None or not images.is_dir():
        return ""
    stems = {path.stem for path in entries(images)}

    def holds_masks(folder: Path) -> bool:
        masks = [path for path in entries(folder) if path.stem in stems and path.suffix.lower() in MASK_SUFFIXES]
        return bool(masks) and _mask_like("", masks) == 2 and re.fullmatch(r"[\w-]+", folder.name) is not None

    for parent in (layout.root, *folders_in(layout.root)):
        classes = [folder.name for folder in folders_in(parent) if folder != images and holds_masks(folder)]
        if len(classes) > 1:
            apart = Path(os.path.relpath(parent, images)).as_posix()
            return for_classes(classes, "" if parent == layout.root else f"{apart}/{{class}}/{{stem}}.*")
    return ""
