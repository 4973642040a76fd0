"""The files of a split: images, their masks, and what is wrong with them. Reads names only, no pixels."""

import logging
from pathlib import Path

from segtrain.data.folder.findings import FORMATS, FileLists, check_listings, check_names
from segtrain.data.folder.images import IMAGE_SUFFIXES
from segtrain.data.folder.layout import Layout
from segtrain.data.folder.listing import list_folder
from segtrain.data.folder.pairing import MaskFiles
from segtrain.data.folder.splits import names_of_split, with_splits
from segtrain.errors import ConfigError, counted

log = logging.getLogger("segtrain")

READ_BY = (("ratio", "val_ratio", 0.2), ("kfold", "folds", 5), ("kfold", "fold", 0))  # kind of split, setting, default


def list_files(layout: Layout, strict: bool) -> FileLists:
    """The files of a split. What is wrong with them is in `findings`.

    Raises ConfigError when folder or split file are not there, and with `strict` DataError for the first error.
    """
    found = FileLists()
    layout, given = with_splits(layout), layout
    _refuse_idle(layout)
    folders = layout.folders()
    if layout.splits == "ratio" != given.splits:
        what = (
            f"no split folders: {100 * layout.val_ratio:g} % of the images, by a hash of the name, are for validation"
        )
        found.add("note", what, folders, "set dataset.splits and dataset.val_ratio")
        if layout.split == "val":  # which is in every training
            log.info(what)
    if not layout.is_usual(folders):
        what = f"recognised images in {', masks in '.join(map(str, folders[:2]))}"
        found.add("note", what, folders, "if that is wrong, name dataset.images and dataset.masks")
        log.info(what)
    _check_word(layout, found)
    masks = MaskFiles(layout, folders)
    candidates = _candidates(folders[0], layout.stem_suffix, masks, found)
    for name in names_of_split(layout, candidates, found):
        found.names.append(name)
        found.images.append(candidates[name])
        found.masks.append(masks.of(name, candidates[name]))
    grouped = found.names if layout.groups and layout.split == "train" else []
    if grouped and all(layout.found_group(name) is None for name in grouped):
        what = f"the pattern {layout.groups!r} finds no group in {counted(len(found.names), 'name')}, such as {found.names[0]}"
        fix = "put the scene in brackets: '^(.*)_' takes all before the last _; null: each image is a group of its own"
        raise ConfigError(what, "dataset.groups", fix)
    check_names(found, masks, candidates)
    if not found.names and not any(f.level == "error" for f in found.findings):
        fix = {
            "folders": f"add images ({FORMATS}), or correct dataset.root",
            "files": f"name images in {layout.split_file}",
            "ratio": f"change dataset.val_ratio={layout.val_ratio}, or add images ({FORMATS})",
            "kfold": f"change dataset.folds={layout.folds}, or add images ({FORMATS})",
        }[layout.splits]
        found.add("error", f"the {layout.split} split is empty", [folders[0]], fix)
    if strict:
        found.raise_errors()
    return found


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
        what = f"taking {word} for {layout.split}"
        found.add("note", what, [layout.root], fix)
        log.info(what)
    if others := layout.split_words[1:]:
        what = f"{layout.split} is {word}; there is {', '.join(others)}, too, which is not read"
        found.add("warning", what, [layout.root], fix)
        log.warning(what)


def _candidates(folder: Path, stem_suffix: str, masks: MaskFiles, found: FileLists) -> dict[str, Path]:
    """Images by name; masks that lie beside them are left out."""
    listing = list_folder(folder, IMAGE_SUFFIXES)
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
