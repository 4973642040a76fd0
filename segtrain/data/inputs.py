"""The image files a user names on the command line: files, folders and patterns, each with a name for what is made of it."""

import glob
from collections import Counter
from pathlib import Path

from segtrain.data.folder.images import IMAGE_SUFFIXES, OTHER_SUFFIXES
from segtrain.errors import ConfigError


def find_images(words: list[str], leave_out: Path | None = None) -> dict[str, Path]:
    """Files by name: below a folder the path from there, else the file's own name, without suffix where that is clear.

    Args:
        words: files, folders (with all folders below them, but no hidden ones), and patterns such as 'scans/*.tif'.
        leave_out: a folder below which a folder's images are not taken.

    Raises ConfigError for a word that stands for no image, and for two files of one name.
    """
    found: list[tuple[Path, Path]] = []  # name with its suffix, file
    for word in words:
        path = Path(word)
        if path.is_dir():
            files = [(file.relative_to(path), file) for file in sorted(path.rglob("*")) if _is_image(file)]
            files = [(name, file) for name, file in files if not any(part.startswith(".") for part in name.parts)]
            if leave_out is not None:
                files = [(name, file) for name, file in files if leave_out not in file.resolve().parents]
        elif path.is_file():
            files = [(Path(path.name), path)]
        else:
            files = [
                (Path(Path(m).name), Path(m)) for m in sorted(glob.glob(word, recursive=True)) if _is_image(Path(m))
            ]
        if not files:
            what = "no image in this folder" if path.is_dir() else "no such file, folder or pattern"
            raise ConfigError(what, word, f"images end in {', '.join(IMAGE_SUFFIXES)}")
        found += files
    if unread := [file for _, file in found if file.suffix.lower() in OTHER_SUFFIXES]:
        raise ConfigError("a format that is not read", str(unread[0]), "convert it to PNG or TIFF")
    stems = Counter(name.with_suffix("") for name, _ in found)
    names = [str(name.with_suffix("") if stems[name.with_suffix("")] == 1 else name) for name, _ in found]
    if (name := Counter(names).most_common(1)[0])[1] > 1:
        same = [str(file) for own, (_, file) in zip(names, found, strict=True) if own == name[0]]
        fix = "predict them with one call each, to folders of their own"
        raise ConfigError(f"{len(same)} images of the name {name[0]}", ", ".join(same[:3]), fix)
    return dict(zip(names, (file for _, file in found), strict=True))


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
