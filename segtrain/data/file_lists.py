"""Which image belongs to a split, and where its masks are. Reads names only, no pixels."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from segtrain.data.image_files import IMAGE_SUFFIXES, LOSSY_SUFFIXES, OTHER_SUFFIXES
from segtrain.data.mask_places import MaskPlaces, files_by_name, filled
from segtrain.errors import ConfigError, DataError
from segtrain.tables import counted


class LayoutError(ConfigError):
    """The folders of a dataset are not where they should be."""


_FORMATS = ", ".join(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)


@dataclass
class Finding:
    """Something about files that a user should know.

    Attributes:
        level: error (training stops), warning (training may not do what is wanted), or note.
        what: the fact, in one sentence.
        files: where, all of them.
        fix: what to do about it.
    """

    level: str
    what: str
    files: list[str]
    fix: str


@dataclass
class FileLists:
    """The files of one split.

    Attributes:
        names: of the images, unique: the path below the image folder without suffix.
        images: their files.
        masks: for each image a list: of one mask file, or one per annotator, or one per class (None: no such file).
        findings: what is wrong with the names.
    """

    names: list[str] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    masks: list[list[Path | None]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def raise_errors(self) -> None:
        """Raise DataError for the first error; tells how many kinds there are."""
        errors = [f for f in self.findings if f.level == "error"]
        if errors:
            first = errors[0]
            more = f" (and {len(errors) - 1} more kinds of error: `segtrain check` lists all)" if errors[1:] else ""
            raise DataError(first.what + more, _few(first.files), first.fix)


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
    folders = _image_folders(root, place, splits, images, masks, kinds)
    where = MaskPlaces(masks, kinds, kind, place, folders)
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
    _check_masks(found, where)
    _check_extra(found, where, candidates, stem_suffix, splits)
    _check_places(found, root)
    if not found.names and not found.findings:
        found.findings.append(
            Finding(
                "error",
                f"the {split} split is empty",
                [str(folders[0])],
                f"add images ({_FORMATS}), or correct dataset.root",
            )
        )
    _check_formats(found, folders)
    return found


def hash_share(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, so that a file stays in its split when others are added."""
    code = name.encode(errors="surrogateescape")  # a name that is no UTF-8 is a name
    return int.from_bytes(hashlib.blake2b(code, digest_size=8).digest(), "big") / 2**64


def _image_folders(root: Path, place: str, splits: str, images: str | None, masks: str | None, kinds) -> list[Path]:
    """The folder of the images, and when no pattern says where masks are, the folders of the masks."""
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
        if all(folder.is_dir() for folder in layout):
            return layout
    expected = " or ".join(" with ".join(map(str, layout)) for layout in layouts)
    there = ", ".join(sorted(p.name for p in root.iterdir())[:10]) or "nothing"
    raise LayoutError(
        f"no {place} images for dataset.splits={splits}: expected {expected}",
        f"{root} holds {there}",
        "correct dataset.root, choose dataset.splits=folders|files|ratio|kfold, or name dataset.images and dataset.masks",
    )


def _candidates(folder: Path, stem_suffix: str, where: MaskPlaces, found: FileLists) -> dict[str, Path]:
    """Images by name; masks that lie beside them are left out."""
    listed = files_by_name(folder, IMAGE_SUFFIXES)
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
    for listed_masks in where.listed:
        for name, paths in listed_masks.items():
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
        (f"{counted(len(outside), 'line')} of {file.name} out of the folder: {_few(outside)}", outside),
        (f"{counted(len(lost), 'name')} in the split file without an image: {_few(lost)}", lost),
        (f"{file.name} repeats {_few(repeated)}", repeated),
    ):
        if some:
            found.findings.append(Finding("error", what, [str(file)], "correct the file: a stem a line, each once"))
    return list(names)


def _check_masks(found: FileLists, where: MaskPlaces) -> None:
    """Every image has a mask."""
    if where.kind == "class" and where.kinds is not None:  # a class without a file is nowhere in the image
        if found.masks and not any(any(files) for files in found.masks):
            expected = where.expected(found.names[0], 0)
            found.findings.append(Finding("error", "no image has a mask of any class", [expected], "see dataset.masks"))
    else:
        for number in range(len(found.masks[0]) if found.masks else 0):
            _check_one_kind(found, where, number)
    lossy = [str(f) for files in found.masks for f in files if f is not None and f.suffix.lower() in LOSSY_SUFFIXES]
    if lossy:
        found.findings.append(
            Finding(
                "error", f"{counted(len(lossy), 'mask')} in JPEG, which changes class values", lossy, "save them as PNG"
            )
        )


def _check_extra(
    found: FileLists, where: MaskPlaces, candidates: dict[str, Path], stem_suffix: str, splits: str
) -> None:
    """No mask is left without an image, of any split."""
    extra: list[Path] = []
    for listed in where.listed:
        extra += [listed[name][0] for name in sorted(listed.keys() - candidates.keys())]
    if where.pattern is not None:
        used = {mask for name, image in candidates.items() for mask in where.of(name, image, stem_suffix)}
        there = {path for parent in {p.parent for p in candidates.values()} for path in where.like(parent, splits)}
        extra += sorted(there - used)
    for folder in dict.fromkeys(file.parent for file in extra):
        files = [file for file in extra if file.parent == folder]
        found.findings.append(
            Finding(
                # what a pattern finds may be there for other images than these
                "error" if where.pattern is None else "warning",
                f"{counted(len(files), 'mask')} without an image: {_few([file.stem for file in files])}",
                [str(folder), *map(str, files)],
                "add the missing files, or remove their partners",
            )
        )


def _check_one_kind(found: FileLists, where: MaskPlaces, number: int) -> None:
    """Every image has the mask, or that of annotator `number`."""
    pairs = zip(found.names, found.images, found.masks, strict=True)
    missing = [(name, image) for name, image, files in pairs if files[number] is None]
    if not missing:
        return
    names = [name for name, _ in missing]
    folder = where.folders[number] if where.folders else found.images[0].parent
    lossy = where.folders and any((folder / f"{names[0]}{s}").exists() for s in LOSSY_SUFFIXES)
    unread = where.folders and any((folder / f"{names[0]}{s}").exists() for s in OTHER_SUFFIXES)
    found.findings.append(
        Finding(
            "error",
            f"{counted(len(names), 'image')} without a mask: {_few(names)}",
            [str(folder), *(str(image) for _, image in missing)],
            "masks must not be JPEG, which changes class values: save them as PNG"
            if lossy
            else "masks of this format are not read: save them as PNG"
            if unread
            else f"add the missing masks ({where.expected(names[0], number)}), or remove the images",
        )
    )


def _check_places(found: FileLists, root: Path) -> None:
    """Links that lead nowhere or in a circle, files outside the root, and names that other programs cannot read."""
    inside = root.resolve()
    broken, outside, odd = [], [], []
    for path in [*found.images, *(f for files in found.masks for f in files if f is not None)]:
        text = str(path)
        if not text.isprintable() or any("\udc80" <= letter <= "\udcff" for letter in text):
            odd.append(ascii(text))
        if path.is_symlink() or path.parent.is_symlink():
            try:
                target = path.resolve(strict=True)
            except (OSError, RuntimeError):
                broken.append(text)
                continue
            if not target.is_relative_to(inside):
                outside.append(text)
    for level, noun, what, files, fix in (
        ("error", "link", "to nowhere, or in a circle", broken, "replace the links by files"),
        ("warning", "link", "out of dataset.root", outside, "copy the files, if the dataset is to be moved"),
        ("warning", "name", "with characters that cannot be printed", odd, "rename the files"),
    ):
        if files:
            found.findings.append(Finding(level, f"{counted(len(files), noun)} {what}: {_few(files)}", files, fix))


def _check_formats(found: FileLists, folders: list[Path]) -> None:
    """Files that look like images or masks, but are left out."""
    listed = [files_by_name(folder, OTHER_SUFFIXES) for folder in dict.fromkeys(folders)]
    others = [str(path) for files in listed for paths in files.values() for path in paths]
    if others:
        what = f"{counted(len(others), 'file')} left out for the format: {_few([Path(o).name for o in others])}"
        found.findings.append(Finding("warning", what, others, f"save them as one of {_FORMATS}; masks as PNG"))


def _few(texts: list[str], count: int = 5) -> str:
    return ", ".join(texts[:count]) + (" …" if len(texts) > count else "")
