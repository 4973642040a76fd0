"""Which image belongs to a split, and where its masks are. Reads names only, no pixels."""

import hashlib
import unicodedata
from pathlib import Path

from segtrain.data.folder.findings import FORMATS, FileLists, Finding, check_listings, check_names
from segtrain.data.folder.images import IMAGE_SUFFIXES
from segtrain.data.folder.listing import list_folder
from segtrain.data.folder.pairing import MaskPlaces, filled
from segtrain.errors import ConfigError, counted, few


class LayoutError(ConfigError):
    """The folders of a dataset are not where they should be."""


class NoMasks(LayoutError):
    """There are images, but no folder of masks."""


def list_files(
    root: Path,
    split: str,
    splits: str,
    images: str | None,
    masks: str | None,
    kinds: list[str] | None,
    kind: str,
    stem_suffix: str = "",
    split_file: str = "{split}.txt",
    split_folder: str | None = None,
    val_ratio: float = 0.2,
    folds: int = 5,
    fold: int = 0,
) -> FileLists:
    """The files of a split. Arguments as in segtrain.data.folder.Folder.

    Args:
        kinds: names of the annotators or classes, each of which has a mask file; None: one mask an image.
        kind: `annotator` or `class`, the word in braces that `masks` has for it.

    Raises ConfigError when folder or split file are not there. What is wrong with the files is in `findings`.
    """
    if not root.is_dir():
        raise LayoutError(f"no folder {root}", "dataset.root", "set dataset.root to the folder of the dataset")
    found = FileLists()
    place = split_folder or split
    folders = _image_folders(root, place, splits, images, masks, kinds, kind)
    where = MaskPlaces(masks, kinds, kind, place, folders, root)
    candidates = _candidates(folders[0], stem_suffix, where, found)
    names = _names_of_split(
        root,
        split,
        splits,
        filled(split_file, "dataset.split_file", split=place),
        candidates,
        found,
        val_ratio,
        folds,
        fold,
    )
    for name in names:
        files = where.of(name, candidates[name], stem_suffix)
        found.names.append(name)
        found.images.append(candidates[name])
        found.masks.append(files)
    check_names(found, where, candidates, stem_suffix, splits, root)
    if not found.names and not any(f.level == "error" for f in found.findings):
        found.findings.append(
            Finding(
                "error",
                f"the {split} split is empty",
                [str(folders[0])],
                {
                    "folders": f"add images ({FORMATS}), or correct dataset.root",
                    "files": f"name images in {split_file}",
                    "ratio": f"change dataset.val_ratio={val_ratio}, or add images ({FORMATS})",
                    "kfold": f"change dataset.folds={folds}, or add images ({FORMATS})",
                }[splits],
            )
        )
    return found


def hash_share(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, so that a file stays in its split when others are added."""
    code = name.encode(errors="surrogateescape")  # a name that is no UTF-8 is a name
    return int.from_bytes(hashlib.blake2b(code, digest_size=8).digest(), "big") / 2**64


def _image_folders(
    root: Path, place: str, splits: str, images: str | None, masks: str | None, kinds, kind: str
) -> list[Path]:
    """The folder of the images, and when no pattern says where masks are, the folders of the masks; a class may have
    none."""
    mask_folders = (kinds or ["masks"]) if masks is None else []
    if images is not None:
        chosen = root / filled(images, "dataset.images", split=place)
        layouts = [[chosen, *(chosen.parent / folder for folder in mask_folders)]]
    elif splits == "folders":
        parts = ["images", *mask_folders]
        layouts = [[root / place / part for part in parts], [root / part / place for part in parts]]
    else:
        layouts = [[root / part for part in ("images", *mask_folders)]]
    for layout in layouts:
        there = [folder.is_dir() for folder in layout]
        if all(there) or (kind == "class" and there[0] and any(there[1:])):
            return layout
    halves = [[f for f in layout if not f.is_dir()] for layout in layouts if layout[0].is_dir()]
    lacking = f"there is no {', '.join(map(str, halves[0]))}; " if halves else ""
    expected = " or ".join(" with ".join(map(str, layout)) for layout in layouts)
    there = ", ".join(sorted(p.name for p in root.iterdir())[:10]) or "nothing"
    raise (NoMasks if halves else LayoutError)(
        f"no {place} {'masks' if halves else 'images'} for dataset.splits={splits}: {lacking}expected {expected}",
        f"{root} holds {there}",
        "correct dataset.root, choose dataset.splits=folders|files|ratio|kfold, or name dataset.images and dataset.masks",
    )


def _candidates(folder: Path, stem_suffix: str, where: MaskPlaces, found: FileLists) -> dict[str, Path]:
    """Images by name; masks that lie beside them are left out."""
    listing = list_folder(folder, IMAGE_SUFFIXES)
    check_listings(found, [listing, *where.listings])
    listed = listing.by_name
    if where.pattern is not None:
        masks = {
            mask
            for name, paths in listed.items()
            for path in paths
            for mask in where.of(name, path, stem_suffix)
            if mask is not None and mask != path
        }
        listed = {name: kept for name, paths in listed.items() if (kept := [p for p in paths if p not in masks])}
    images: dict[str, Path] = {}
    for name, paths in listed.items():
        if len(paths) > 1:
            found.findings.append(
                Finding("error", f"two files with the stem {name!r}", [str(p) for p in paths], "rename or remove one")
            )
        short = name.removesuffix(stem_suffix)
        if short in images:
            both = [str(images[short]), str(paths[0])]
            found.findings.append(Finding("error", f"two images with the stem {short!r}", both, "rename one"))
        images[short] = paths[0]
    for masks_of_a_kind in where.listings:
        for name, paths in masks_of_a_kind.by_name.items():
            if len(paths) > 1:
                found.findings.append(
                    Finding("error", f"two masks with the stem {name!r}", [str(p) for p in paths], "remove one")
                )
    return images


def _names_of_split(root, split, splits, split_file, images, found, val_ratio, folds, fold) -> list[str]:
    if splits == "folders":
        return sorted(images)
    if splits == "files":
        return _names_in_file(root / split_file, images, found)
    if split not in ("train", "val"):
        raise ConfigError(f"splits={splits} has no {split!r} split", "dataset.splits", "use train or val")
    if splits == "ratio":
        in_val = {name for name in images if hash_share(name) < val_ratio}
    else:
        in_val = {name for name in images if int(hash_share(name) * folds) == fold}
    return sorted(in_val if split == "val" else images.keys() - in_val)


def _names_in_file(file: Path, images: dict[str, Path], found: FileLists) -> list[str]:
    if not file.is_file():
        raise ConfigError(f"no split file {file}", "dataset.splits=files", "write one with a stem a line")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("the split file is not UTF-8 text", str(file), "save it as UTF-8") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    names: dict[str, int] = {}
    lost, outside = [], []
    for line in lines:
        path = Path(line)
        name = path.with_suffix("").as_posix() if path.suffix.lower() in IMAGE_SUFFIXES else path.as_posix()
        name = unicodedata.normalize("NFC", name)  # as in a listing
        if ".." in path.parts:
            outside.append(line)
            continue
        if name not in images:  # a path with folders of which the images' folder is one
            name = Path(name).name
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
            found.findings.append(Finding("error", what, [str(file)], "correct the file: a stem a line, each once"))
    return list(names)
