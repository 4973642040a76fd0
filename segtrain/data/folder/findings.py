"""What is wrong with the files of a split, by their names alone."""

from dataclasses import dataclass, field
from pathlib import Path

from segtrain.data.folder.images import IMAGE_SUFFIXES, LOSSY_SUFFIXES, OTHER_SUFFIXES
from segtrain.data.folder.listing import Listing
from segtrain.data.folder.pairing import MaskPlaces
from segtrain.errors import DataError, counted, few

FORMATS = ", ".join(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)


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
            raise DataError(first.what + more, few(first.files), first.fix)


def check_names(
    found: FileLists,
    where: MaskPlaces,
    candidates: dict[str, Path],
    stem_suffix: str,
    splits: str,
    root: Path,
) -> None:
    """Add what is wrong with the images and masks of a split to its findings.

    Args:
        candidates: images of all splits, by name.
        stem_suffix, splits, root: as in segtrain.data.folder.Folder.
    """
    _check_masks(found, where)
    _check_extra(found, where, candidates, stem_suffix, splits)
    _check_places(found, root)


def _check_masks(found: FileLists, where: MaskPlaces) -> None:
    """Every image has a mask."""
    if where.kind == "class" and where.kinds is not None:  # a class without a file is nowhere in the image
        absent = {kind: str(f) for kind, f in zip(where.kinds, where.folders, strict=False) if not f.is_dir()}
        if absent:
            what = f"no masks of {few([*absent])}: no such folder"
            fix = "correct dataset.class_names, if it has images"
            found.findings.append(Finding("warning", what, [*absent.values()], fix))
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
    for listing in where.listings:
        extra += [listing.by_name[name][0] for name in sorted(listing.by_name.keys() - candidates.keys())]
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
                f"{counted(len(files), 'mask')} without an image: {few([file.stem for file in files])}",
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
            f"{counted(len(names), 'image')} without a mask: {few(names)}",
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
    parents: dict[Path, Path] = {}
    for path in [*found.images, *(f for files in found.masks for f in files if f is not None)]:
        text = str(path)
        if not text.isprintable() or any("\udc80" <= letter <= "\udcff" for letter in text):
            odd.append(ascii(text))
        if path.parent not in parents:
            parents[path.parent] = path.parent.resolve()
        target = parents[path.parent]
        if path.is_symlink():
            try:
                target = path.resolve(strict=True)
            except (OSError, RuntimeError):
                broken.append(text)
                continue
        if not target.is_relative_to(inside):
            outside.append(text)
    for level, noun, what, files, fix in (
        ("error", "link", "to nowhere, or in a circle", broken, "replace the links by files"),
        ("warning", "file", "out of dataset.root", outside, "copy the files, if the dataset is to be moved"),
        ("warning", "name", "with characters that cannot be printed", odd, "rename the files"),
    ):
        if files:
            found.findings.append(Finding(level, f"{counted(len(files), noun)} {what}: {few(files)}", files, fix))


def check_listings(found: FileLists, listings: list[Listing]) -> None:
    """Add what folders hold that is left out, though it looks like images or masks."""
    unread = list(dict.fromkeys(path for listing in listings for path in listing.unread))
    lost = list(dict.fromkeys(path for listing in listings for path in listing.lost))
    if unread:
        what = f"{counted(len(unread), 'file')} left out for the format: {few([file.name for file in unread])}"
        found.findings.append(
            Finding("warning", what, [*map(str, unread)], f"save them as one of {FORMATS}; masks as PNG")
        )
    if lost:
        what = f"{counted(len(lost), 'link')} to nowhere, in a circle, or to a folder that holds it: "
        what += few([file.name for file in lost])
        found.findings.append(Finding("warning", what, [*map(str, lost)], "remove them: what they lead to is not read"))
