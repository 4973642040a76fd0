"""Findings about the files of a split, from their names alone."""

import functools
import os
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from segtrain.data.folder.images import IMAGE_SUFFIXES, IN_JPEG, LOSSY_SUFFIXES, OTHER_SUFFIXES
from segtrain.data.folder.listing import Listing, MaskFiles, list_folder
from segtrain.data.folder.patterns import class_ends, for_classes, longer_names, setting
from segtrain.errors import DataError, counted, few

FORMATS = ", ".join(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
MANY = 5  # folders that have a finding of their own each


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
    """The files of one split: of each image one mask file, or one per annotator, or one per class (None: no such file)."""

    names: list[str] = field(default_factory=list)  # of the images, unique: the path below their folder without suffix
    images: list[Path] = field(default_factory=list)
    masks: list[list[Path | None]] = field(default_factory=list)
    listed_masks: dict[str, str] = field(default_factory=dict)  # by image, what a split file names; empty: nothing
    findings: list[Finding] = field(default_factory=list)  # what is wrong with the names
    told: list[Finding] = field(default_factory=list)  # those that a training logs, too
    unpaired: Finding | None = None  # most images have no mask

    def add(self, level: str, what: str, files: list, fix: str) -> None:
        """Add a finding, with paths or texts for its files."""
        self.findings.append(Finding(level, what, [*map(str, files)], fix))

    def tell(self, level: str, what: str, files: list, fix: str) -> None:
        """Add a finding that a training logs, too."""
        self.add(level, what, files, fix)
        self.told.append(self.findings[-1])

    def raise_errors(self) -> None:
        """Raise DataError for the first error, with the number of the others."""
        errors = [f for f in self.findings if f.level == "error"]
        if errors:
            first = errors[0]
            more = f" (and {counted(len(errors) - 1, 'other error')}: `segtrain check` lists all)" if errors[1:] else ""
            raise DataError(first.what + more, few(first.files), first.fix)


def check_listings(found: FileLists, listings: list[Listing]) -> None:
    """Add files and links in the folders that are left out, though they may be images or masks."""
    unread = list(dict.fromkeys(path for listing in listings for path in listing.unread))
    lost = list(dict.fromkeys(path for listing in listings for path in listing.lost))
    if unread:
        what = f"{counted(len(unread), 'file')} left out because of the format: {few([file.name for file in unread])}"
        found.add("warning", what, unread, f"save them as one of {FORMATS}; masks as PNG")
    if lost:
        what = f"{counted(len(lost), 'link')} to nowhere, in a circle, or to a folder that holds it: "
        what += few([file.name for file in lost])
        found.add("warning", what, lost, "remove them: what they point to is not read")


def check_names(found: FileLists, masks: MaskFiles, candidates: dict[str, Path]) -> None:
    """Add what is wrong with the images and masks of a split; `candidates` are the images of all splits, by name."""
    if masks.layout.kind == "class":
        _check_class_files(found, masks)
    else:
        for number in range(len(found.masks[0]) if found.masks else 0):
            _check_one_kind(found, masks, number)
    there = [file for files in found.masks for file in files if file is not None]
    unread = () if masks.layout.lossy_masks else LOSSY_SUFFIXES
    if lossy := [file for file in there if file.suffix.lower() in unread]:
        what = f"{counted(len(lossy), 'mask')} in JPEG, which changes class values"
        found.add("error", what, lossy, IN_JPEG)
    pairs = zip(found.names, found.masks, strict=True)
    if apart := [
        files[0] for name, files in pairs if files[0] and not _is_listed(found.listed_masks.get(name), files[0])
    ]:
        what = f"the split file names other masks than those of the images' names, {few([file.name for file in apart])}"
        found.add("error", what, apart, "give each mask the name of its image, or correct the file")
    uses = Counter(file for files in found.masks for file in files if file is not None)
    if shared := [file for file, times in uses.items() if times > 1]:
        what = f"{counted(len(shared), 'mask')} of several images each: {few([file.name for file in shared])}"
        found.add("warning", what, shared, "if that is wrong, correct dataset.masks")
    _check_extra(found, masks, candidates)
    _check_paths(found, masks.layout.root)


def _is_listed(listed: str | None, mask: Path) -> bool:
    """Whether a mask is the one that a split file names, by its folder and name; also where none is named."""
    ends = (unicodedata.normalize("NFC", path.as_posix()).split("/")[-2:] for path in (Path(listed or ""), mask))
    return all(one == other for one, other in zip(*(reversed(end) for end in ends), strict=False) if listed)


def _check_class_files(found: FileLists, masks: MaskFiles) -> None:
    """Every class has a folder, and some image has a mask: a class without a file is nowhere in the image."""
    absent = {kind: f for kind, f in zip(masks.layout.kinds, masks.folders, strict=False) if not f.is_dir()}
    if absent:
        fix = "correct dataset.class_names, if it has images"
        found.add("warning", f"no masks of {few([*absent])}: there is no such folder", [*absent.values()], fix)
    if found.masks and not any(any(files) for files in found.masks):
        found.add("error", "no image has a mask of any class", [masks.expected(found.names[0], 0)], "see dataset.masks")


def _check_one_kind(found: FileLists, masks: MaskFiles, number: int) -> None:
    """Every image has the mask, or that of annotator `number`."""
    pairs = zip(found.names, found.images, found.masks, strict=True)
    missing = {name: image for name, image, files in pairs if files[number] is None}
    if not missing:
        return
    some = len(missing) < len(found.names)
    fix = _fix_for(missing, masks, number)
    if some and fix is None and masks.layout.missing_masks == "background":
        what = f"{counted(len(missing), 'image')} of {len(found.names)} without a mask: background"
        found.tell("note", what, [*missing.values()], "if their masks are lost: dataset.missing_masks=error")
        return
    only_missing = fix is None
    if fix is None:
        fix = f"add the missing masks ({masks.expected(next(iter(missing)), number)}), or remove the images"
        fix += "; if they show nothing but background: dataset.missing_masks=background" * some
    what = f"{counted(len(missing), 'image')} without a mask: {few([*missing])}"
    found.add("error", what, [*masks.folders[number : number + 1], *missing.values()], fix)
    if only_missing and 2 * len(missing) > len(found.names):
        found.unpaired = found.findings[-1]


def _fix_for(missing: dict[str, Path], masks: MaskFiles, number: int) -> str | None:
    """What to do about images without a mask, by the files where masks are; None where these say nothing."""
    if masks.pattern is not None:
        start, end = Path(masks.pattern).stem.partition("{stem}")[::2]
        alone = [name for name in missing if "/" not in masks.pattern and f"{start}{end}" and _within(start, name, end)]
        return (
            f"{few(alone)} may be masks of images that are not there: add these, or remove the masks" if alone else None
        )
    folder = masks.folders[number]
    readable, others = masks.listings[number].by_name, list_folder(folder, (*LOSSY_SUFFIXES, *OTHER_SUFFIXES)).by_name
    if odd := [path for name, paths in others.items() if name in missing or not readable for path in paths]:
        if odd[0].suffix.lower() in LOSSY_SUFFIXES:
            return f"the masks are JPEG, which changes class values: {IN_JPEG}"
        return "masks of this format are not read: save them as PNG"
    first, image = next(iter(missing.items()))
    if first.lower() in {name.lower() for name in readable}:
        return "the names differ in upper and lower case: rename the masks like their images"
    there = [path for paths in readable.values() for path in paths]
    if classes := class_ends(missing.values(), there):
        apart = Path(os.path.relpath(folder, image.parent)).as_posix()
        return for_classes(classes, f"{apart}/{{stem}}_{{class}}.*")
    if folder.is_dir() and (pattern := longer_names(masks.layout, list(missing.values()), folder)):
        more = "; if the other images show nothing but background, also dataset.missing_masks=background"
        few_masks = len(there) < len(missing)
        return f"if the masks have longer names: {setting('dataset.masks', pattern)}{more * few_masks}"
    return None


def _within(start: str, name: str, end: str) -> bool:
    stem = name.rpartition("/")[2]
    return stem.startswith(start) and stem.endswith(end)


def _check_extra(found: FileLists, masks: MaskFiles, candidates: dict[str, Path]) -> None:
    """No mask is left without an image, of any split."""
    extra: list[Path] = []
    for listing in masks.listings:
        extra += [listing.by_name[name][0] for name in sorted(listing.by_name.keys() - candidates.keys())]
    if masks.pattern is not None:
        used = {mask for name, image in candidates.items() for mask in masks.of(name, image)}
        there = {path for parent in {p.parent for p in candidates.values()} for path in masks.like(parent)}
        extra += sorted(there - used)
        if masks.layout.missing_masks == "background":  # then no image asks for them
            beside = {path for folder in {mask.parent for mask in used - {None}} for path in folder.iterdir()}
            unused = sorted(beside - used - there - {*candidates.values()})
            if unused := [path for path in unused if path.suffix.lower() in masks.layout.mask_suffixes]:
                what = f"{counted(len(unused), 'file')} beside the masks that belong to no image: "
                found.add(
                    "warning",
                    what + few([file.name for file in unused]),
                    unused,
                    "if these are masks, correct dataset.masks",
                )
    by_folder: dict[Path, list[Path]] = {}
    for file in extra:
        by_folder.setdefault(file.parent, []).append(file)
    if len(by_folder) > MANY:  # one of each image, perhaps
        by_folder = {Path(os.path.commonpath(by_folder)): extra}
    level = "error" if masks.pattern is None else "warning"  # a pattern may find masks of other images than these
    for folder, files in by_folder.items():
        names = [file.relative_to(folder).with_suffix("").as_posix() for file in files]
        what = f"{counted(len(files), 'mask')} without an image: {few(names)}"
        found.add(level, what, [folder, *files], "add the missing files, or remove their partners")


def _check_paths(found: FileLists, root: Path) -> None:
    """Links that lead nowhere or in a circle, files outside the root, and names that other programs cannot read."""
    paths = [*found.images, *(f for files in found.masks for f in files if f is not None)]
    inside, of_folder = root.resolve(), functools.cache(Path.resolve)
    links = {path: path.exists() for path in paths if path.is_symlink()}
    broken = [path for path, there in links.items() if not there]
    targets = {p: p.resolve() if p in links else of_folder(p.parent) for p in paths if links.get(p, True)}
    outside = [path for path, target in targets.items() if not target.is_relative_to(inside)]
    odd = [ascii(str(path)) for path in paths if not str(path).isprintable()]
    for level, noun, what, files, fix in (
        ("error", "link", "to nowhere, or in a circle", broken, "replace the links by files"),
        ("warning", "file", "pointing out of dataset.root", outside, "copy the files if you want to move the dataset"),
        ("warning", "name", "with characters that cannot be printed", odd, "rename the files"),
    ):
        if files:
            found.add(level, f"{counted(len(files), noun)} {what}: {few([*map(str, files)])}", files, fix)
