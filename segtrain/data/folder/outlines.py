"""Files of objects that are no masks, but of which masks can be drawn: outlines, run lengths, a file of each object."""

import contextlib
import itertools
import re
from pathlib import Path

from segtrain.data.folder.near import OF_MASKS, entries, files_by_folder, near

OF_COCO = re.compile(r"coco|instances|annotations|via_", re.IGNORECASE)
OF_RUNS = re.compile(r"\b(encodedpixels|rle(_mask)?|encoding)\b", re.IGNORECASE)  # columns
OF_CVAT = re.compile(r"<(polygon|mask) ")
START = 100_000  # characters of a file that are read


def to_draw(root: Path) -> str:
    """What to do with files of objects below a folder; empty where there are none."""
    images = files_by_folder(root)
    stems = {path.stem for files in images.values() for path in files}
    found = ((path, _described(path, stems)) for path in itertools.chain.from_iterable(map(entries, near(root))))
    path, what = next(((path, what) for path, what in found if what), (None, ""))
    if path is None and (path := _of_single_objects(images)):
        what = "a mask of each object, not of the image"
    if path is None:
        return ""
    where = path.relative_to(root).as_posix()
    return f"{where} holds {what}: draw masks by `python scripts/draw_masks.py {root}`"


def _described(path: Path, stems: set[str]) -> str:
    """What a file has of objects, as those of COCO, YOLO, LabelMe, Supervisely, CVAT and Kaggle; empty where it has nothing."""
    suffix, of_image = path.suffix.lower(), {path.stem, Path(path.stem).stem} & stems  # a.json, a.jpg.json
    if (suffix in (".json", ".txt") and of_image) or (suffix == ".json" and OF_COCO.search(path.stem)):
        return "outlines, not a mask"
    start = ""
    if suffix in (".csv", ".xml"):
        with contextlib.suppress(OSError), path.open(errors="replace") as stream:
            start = stream.readline(1000) if suffix == ".csv" else stream.read(START)
    if suffix == ".xml" and OF_CVAT.search(start):
        return "outlines, not a mask"
    return "run lengths, not a mask" if suffix == ".csv" and OF_RUNS.search(start) else ""


def _of_single_objects(images: dict[Path, list[Path]]) -> Path | None:
    """A folder with the masks of an image's objects, beside a folder with that image alone, as all others are."""
    found = [
        masks
        for masks in images
        if OF_MASKS.search(masks.name)
        and any(len(files) == 1 and own.parent == masks.parent != own and own != masks for own, files in images.items())
    ]
    several = any(len(images[masks]) > 1 for masks in found)
    return found[0] if several and len(found) > 1 and 3 * len(found) > len(images) else None
