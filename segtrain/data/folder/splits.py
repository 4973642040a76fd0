"""The files of a split: images, their masks, and what is wrong with them. Reads names only, no pixels.

A split is all images of a folder, those that a split file names, a share of the groups by hash, or a fold of them.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from segtrain.data.folder.findings import FORMATS, FileLists, check_listings, check_names
from segtrain.data.folder.images import IMAGE_SUFFIXES, MASK_SUFFIXES
from segtrain.data.folder.layout import SPLIT_FILE, SPLITS, VOC_SPLIT_FILE, Layout, filled
from segtrain.data.folder.listing import Listing, MaskFiles, list_folder
from segtrain.data.folder.patterns import longer_names
from segtrain.errors import ConfigError, counted, few

READ_BY = (("ratio", "val_ratio", 0.2), ("kfold", "folds", 5), ("kfold", "fold", 0))  # kind of split, setting, default
LISTS = (".txt", ".csv", ".tsv", ".lst", ".json")  # suffixes of files that may say which images a split has


def list_files(layout: Layout, check: bool = True) -> FileLists:
    """The files of a split. What is wrong with them is in `findings`.

    Args:
        check: whether images without masks, and masks without images, are looked for.

    Raises ConfigError when folder or split file are not there.
    """
    found = FileLists()
    layout, given = with_splits(layout), layout
    _refuse_idle(layout)
    folders = layout.folders()
    if layout.splits == "ratio" != given.splits:
        what = f"no split folders: {100 * layout.val_ratio:g} % of the images, chosen by a hash of the name, are for validation"
        add = found.tell if layout.split == "val" else found.add  # which is in every training
        add("note", what, folders, "others are chosen by dataset.splits and dataset.val_ratio")
    if layout.split_file != given.split_file:
        what = f"using {layout.split_file.format(split=layout.split)}"
        found.tell("note", what, [layout.root], "if that is wrong, set dataset.splits")
    listing, masks = _wanted(layout, folders[0]), MaskFiles(layout, folders)
    longer = _longer_names(masks, listing)
    if longer or not layout.is_usual(folders):
        masks_at = [folder / longer.rpartition("/")[2] for folder in folders[1:]]
        what = f"using images in {', masks in '.join(map(str, [folders[0], *masks_at]))}"
        found.tell("note", what, folders, "if that is wrong, name dataset.images and dataset.masks")
    _check_word(layout, found)
    if others := layout.other_folders(folders):
        read = " and ".join(folder.name for folder in folders)
        what = f"{few([other.name for other in others])} beside {read} may hold images or masks, but is not read"
        found.tell("warning", what, others, "if that is wrong, name dataset.images and dataset.masks")
    if longer:
        layout = _with_pattern(layout, longer)
        masks = MaskFiles(layout, folders)
    candidates = _candidates(listing, layout.stem_suffix, masks, found)
    for name in names_of_split(layout, candidates, found):
        found.names.append(name)
        found.images.append(candidates[name])
        found.masks.append(masks.of(name, candidates[name]))
    grouped = found.names if layout.groups and layout.split == "train" else []
    if grouped and all(layout.found_group(name) is None for name in grouped):
        what = f"the pattern {layout.groups!r} finds no group in {counted(len(found.names), 'name')}, such as {found.names[0]}"
        fix = "put the scene in brackets: '^(.*)_' takes all before the last _; null: each image is a group of its own"
        raise ConfigError(what, "dataset.groups", fix)
    _note_folders(layout, found)
    if check:
        check_names(found, masks, candidates)
    if not found.names and not any(f.level == "error" for f in found.findings):
        found.add("error", f"the {layout.split} split is empty", [folders[0]], _fix_for_empty(layout, len(candidates)))
    return found


def _wanted(layout: Layout, folder: Path) -> Listing:
    """The files that may be images. Raises ConfigError where a * in dataset.images fits none."""
    listing = list_folder(folder, IMAGE_SUFFIXES)
    fitting = {
        name: kept
        for name, paths in listing.by_name.items()
        if (kept := [path for path in paths if layout.is_image(path.relative_to(folder))])
    }
    if listing.by_name and not fitting:
        what = f"no image below {folder} is {'/'.join(layout.wanted)}"
        raise ConfigError(what, "dataset.images", f"correct it: there is {next(iter(listing.by_name))}")
    listing.by_name = fitting
    return listing


def _fix_for_empty(layout: Layout, images: int) -> str:
    """What to do about a split without images, of a dataset with so many."""
    if layout.splits == "ratio" and images == 1:
        return "a training needs two images at least, one of them for validation"
    return {
        "folders": f"add images ({FORMATS}), or correct dataset.root",
        "files": f"name images in {layout.split_file}",
        "ratio": f"change dataset.val_ratio={layout.val_ratio}, or add images ({FORMATS})",
        "kfold": f"lower dataset.folds={layout.folds} to at most the number of images, or of groups (dataset.groups)",
    }[layout.splits]


def _note_folders(layout: Layout, found: FileLists) -> None:
    """Report images in folders of several, which a split by ratio or folds tears apart unless they are groups."""
    inside = Counter(name.rpartition("/")[0] for name in found.names)
    torn = layout.groups is None and layout.splits in ("ratio", "kfold") and layout.split == "train"
    if torn and len(inside) > 1 and max(inside.values()) > 1:
        what = f"the images are in folders, such as {max(inside)}, and those of one folder may be in train and in val"
        fix = "if a folder is a patient or a scene, keep it together: 'dataset.groups=\"^(.*)/\"'"
        found.tell("warning", what, [], fix)


def _refuse_idle(layout: Layout) -> None:
    """Raise ConfigError for settings of another kind of split: they would do nothing."""
    values = {"val_ratio": layout.val_ratio, "folds": layout.folds, "fold": layout.fold}
    for kind, name, default in READ_BY:
        if kind != layout.splits and values[name] != default:
            what = f"dataset.{name}={values[name]} has no effect with dataset.splits={layout.splits}"
            raise ConfigError(what, str(layout.root), f"leave it out, or set dataset.splits={kind}")


def _check_word(layout: Layout, found: FileLists) -> None:
    """Report the word that names the split, and another one with files of its own."""
    word, fix = layout.split_folder, f"if that is wrong: 'dataset.split_names={{{layout.split}: NAME}}'"
    if word != layout.named_split:
        what = f"using {word} as {layout.split}"
        found.tell("note", what, [layout.root], fix)
    if others := layout.split_words[1:]:
        what = f"{layout.split} is {word}; {', '.join(others)} is there, too, but not read"
        found.tell("warning", what, [layout.root], fix)


def _longer_names(masks: MaskFiles, listing: Listing) -> str:
    """The pattern of masks that end otherwise than their images, where it fits all of both; empty where there is none."""
    layout, images = masks.layout, {name: paths[0] for name, paths in listing.by_name.items()}
    if layout.kinds or layout.stem_suffix or not images or not masks.listings:
        return ""
    others = masks.listings[0].by_name
    if images.keys() & others.keys() or not (pattern := longer_names(layout, [*images.values()], masks.folders[0])):
        return ""
    by_pattern = MaskFiles(_with_pattern(layout, pattern), masks.folders)
    found = [by_pattern.of(name, image)[0] for name, image in images.items()]
    return pattern if {*found} == {path for paths in others.values() for path in paths} else ""


def _with_pattern(layout: Layout, pattern: str) -> Layout:
    """The layout with a pattern for masks, and with the word that names the split as it was found without."""
    words = {**layout.split_names, layout.split: layout.split_folder}
    return replace(layout, masks=pattern, split_names=words)


def _candidates(listing: Listing, stem_suffix: str, masks: MaskFiles, found: FileLists) -> dict[str, Path]:
    """Images by name; masks that lie beside them are left out."""
    check_listings(found, [listing, *masks.listings])
    listed = listing.by_name
    if masks.pattern is not None:
        used = {
            mask for name, paths in listed.items() for path in paths for mask in masks.of(name, path) if mask != path
        }
        listed = {name: kept for name, paths in listed.items() if (kept := [p for p in paths if p not in used])}
    images: dict[str, Path] = {}
    for name, paths in listed.items():
        if len(paths) > 1:
            found.add("error", f"two files with the stem {name!r}", paths, "rename or remove one")
        short = name.removesuffix(stem_suffix)
        if short in images:
            found.add("error", f"two images with the stem {short!r}", [images[short], paths[0]], "rename one")
        images[short] = paths[0]
    for name, paths in (item for masks_of_a_kind in masks.listings for item in masks_of_a_kind.by_name.items()):
        if len(paths) > 1:
            found.add("error", f"two masks with the stem {name!r}", paths, "remove one")
    return images


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
    if all((layout.root / VOC_SPLIT_FILE.format(split=split)).is_file() for split in ("train", "val")):
        return replace(layout, splits="files", split_file=VOC_SPLIT_FILE)
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
        folds = equal_folds([layout.group_of(name) for name in images], layout.folds)
        in_val = {name for name, fold in zip(images, folds, strict=True) if fold == layout.fold}
    return sorted(in_val if layout.split == "val" else images.keys() - in_val)


def for_validation(groups: list[str], val_ratio: float) -> list[bool]:
    """Whether each image is for validation, by its group's share; of few groups at least the one of the smallest."""
    shares = [hash_share(group) for group in groups]
    least = min(shares, default=0.0)
    if val_ratio > 0 and least >= val_ratio and len(set(shares)) > 1:
        return [share == least for share in shares]
    return [share < val_ratio for share in shares]


def equal_folds(groups: list[str], folds: int) -> list[int]:
    """The fold of each image: groups stay whole, the largest first, each in the fold that has the fewest images so far."""
    sizes, filled_up, fold_of = Counter(groups), [0] * folds, {}
    for group in sorted(sizes, key=lambda group: (-sizes[group], hash_share(group))):
        fold_of[group] = fold = filled_up.index(min(filled_up))
        filled_up[fold] += sizes[group]
    return [fold_of[group] for group in groups]


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


def _columns(line: str) -> tuple[str, str]:
    """The image in a line of a split file, and the mask where a second column names a file, too."""
    first, *others = re.split(r"[\s,;]+", line)
    mask = next((word for word in others if Path(word).suffix.lower() in MASK_SUFFIXES), "")
    return (first, mask) if mask and Path(first).suffix.lower() in IMAGE_SUFFIXES else (line, "")


def _name_of(text: str, images: dict[str, Path], stem_suffix: str) -> str:
    """The image that a path in a split file stands for; what it would be called where there is none."""
    path = Path(text)
    name = path.with_suffix("").as_posix() if path.suffix.lower() in IMAGE_SUFFIXES else path.as_posix()
    name = unicodedata.normalize("NFC", name)  # as in a listing
    return next((known for known in _ends_of(name, images, stem_suffix)), name)


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
        image, mask = _columns(line)
        if ".." in re.split(r"[/\\]", image):
            outside.append(line)
            continue
        spelled = [_name_of(way, images, stem_suffix) for way in (image, image.replace("\\", "/"))]  # as on Windows
        name = next((known for known in spelled if known in images), spelled[0])
        if name in images:
            names[name] = names.get(name, 0) + 1
            found.listed_masks[name] = mask
        else:
            lost.append(line)
    repeated = [name for name, times in names.items() if times > 1]
    for what, some in (
        (f"{counted(len(outside), 'line')} of {file.name} pointing out of the folder: {few(outside)}", outside),
        (f"{counted(len(lost), 'name')} in the split file without an image: {few(lost)}", lost),
        (f"{file.name} repeats {few(repeated)}", repeated),
    ):
        if some:
            found.add("error", what, [file], "correct the file: one file stem per line, each once")
    return list(names)
