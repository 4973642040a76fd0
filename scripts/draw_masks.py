"""Draw masks of the outlines in COCO, YOLO or LabelMe files or the run lengths of Kaggle, so that segtrain can train on them.

    python scripts/draw_masks.py PATH
    segtrain check PATH

Below PATH are images with `annotations.json` (COCO), or with a text file (YOLO) or a JSON file (LabelMe) per image, of the
same name: beside it, or under `labels` where the image is under `images`. Beside each such file goes NAME_mask.png of class
numbers: 0 is the background, and the smaller of two objects is on top. Or there is a table (CSV) with a column EncodedPixels,
rle or encoding, one of images, and perhaps ClassId: then the masks go beside the images, also of those without a row.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from PIL import Image, ImageDraw

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


@dataclass
class Drawing:
    """The outlines of an image: for each object its class and its polygons, [x, y, x, y, …] in pixels, or its run lengths.

    Run lengths are {"counts": […]}, of pixels outside and inside by turns, column after column.
    """

    mask: Path
    width: int
    height: int
    objects: list[tuple[str, list | dict]]


def drawings(folder: Path) -> Iterator[Drawing]:
    for file in sorted(folder.rglob("*.json")):
        content = json.loads(file.read_text())
        if isinstance(content, dict) and "shapes" in content:
            yield of_labelme(content, file)
        elif isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
            yield from of_coco(content, file)
    images = {file.with_suffix(""): file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES}
    names = yolo_names(folder)
    for file in sorted(folder.rglob("*.txt")):
        below = file.relative_to(folder).with_suffix("").parts
        beside = folder.joinpath(*("images" if part == "labels" else part for part in below))
        if beside in images:
            yield of_yolo(file, images[beside], names)
    for file in sorted(folder.rglob("*.csv")):
        yield from of_table(file, list(images.values()))


def of_coco(content: dict, file: Path) -> Iterator[Drawing]:
    names = {category["id"]: category["name"] for category in content["categories"]}
    objects = {image["id"]: [] for image in content["images"]}
    for one in content["annotations"]:
        if not one.get("segmentation"):
            raise SystemExit(f"{file}: annotation {one.get('id')} has no outline, of which a mask could be drawn")
        objects[one["image_id"]].append((names[one["category_id"]], one["segmentation"]))
    for image in content["images"]:
        yield Drawing(mask_of(file, image["file_name"]), image["width"], image["height"], objects[image["id"]])


def of_labelme(content: dict, file: Path) -> Drawing:
    objects = []
    for shape in content["shapes"]:
        points, kind = shape["points"], shape.get("shape_type", "polygon")
        if kind == "rectangle":
            (left, top), (right, bottom) = points
            points = [[left, top], [right, top], [right, bottom], [left, bottom]]
        elif kind != "polygon":
            raise SystemExit(f"{file}: a {kind} cannot be drawn; draw it as a polygon, or remove it")
        objects.append((shape["label"], [[number for point in points for number in point]]))
    return Drawing(mask_of(file, file.stem), content["imageWidth"], content["imageHeight"], objects)


def yolo_names(folder: Path) -> dict[str, str]:
    """The classes by number, as data.yaml names them."""
    for file in sorted(folder.glob("*.y*ml")):
        content = OmegaConf.to_container(OmegaConf.load(file))
        names = content.get("names") if isinstance(content, dict) else None
        if names:
            return {
                str(key): str(name) for key, name in (names.items() if isinstance(names, dict) else enumerate(names))
            }
    return {}


def of_yolo(file: Path, image: Path, names: dict[str, str]) -> Drawing:
    with Image.open(image) as opened:
        width, height = opened.size
    objects = []
    for line in filter(str.strip, file.read_text().splitlines()):
        name, *numbers = line.split()
        if len(numbers) < 6:
            raise SystemExit(f"{file}: {line!r} is a box, not an outline: a mask cannot be drawn of it")
        xy = np.array(numbers, float) * np.resize([width, height], len(numbers))
        objects.append((names.get(name, name), [xy.tolist()]))
    return Drawing(mask_of(file, file.stem), width, height, objects)


def of_table(file: Path, images: list[Path]) -> Iterator[Drawing]:
    """Of rows with an image, perhaps its class (also as image_class), and start and length of each run, counted from 1."""
    csv.field_size_limit(sys.maxsize)
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = list(rows[0]) if rows else []
    runs = next((name for name in columns if name.lower() in ("encodedpixels", "rle_mask", "rle", "encoding")), None)
    if runs is None:
        return
    kind = next((name for name in columns if name.lower() in ("classid", "class", "label")), None)
    (image, *_) = (name for name in columns if name not in (runs, kind))
    by_name = {name: path for path in images for name in (path.name, path.stem)}
    objects: dict[Path, list] = {}
    for row in rows:
        name, label = row[image], row[kind] if kind else "object"
        if name not in by_name and not kind:
            name, _, label = name.rpartition("_")
        if name in by_name:
            found = objects.setdefault(by_name[name], [])
            numbers = [int(number) for number in row[runs].split() if number.isdigit()]  # of none: nothing, nan or -1
            found += [(label, numbers)] if numbers else []
    folders = {path.parent for path in objects}
    for path in (path for path in images if path.parent in folders):
        with Image.open(path) as opened:
            width, height = opened.size
        counted = [(label, {"counts": counts(numbers, width * height)}) for label, numbers in objects.get(path, [])]
        yield Drawing(mask_of(path, path.name), width, height, counted)


def counts(numbers: list[int], total: int) -> list[int]:
    """Pixels outside and inside by turns, of starts (from 1) and lengths by turns."""
    found, end = [], 0
    for start, length in sorted(zip(numbers[::2], numbers[1::2], strict=True)):
        found += [start - 1 - end, length]
        end = start - 1 + length
    return [*found, total - end]


def unpacked(text: str) -> list[int]:
    """COCO's run lengths out of a text: digits of base 32 from the lowest on, each number less the last but one."""
    found, number, digits = [], 0, 0
    for letter in text:
        code = ord(letter) - 48
        number |= (code & 31) << 5 * digits
        digits += 1
        if not code & 32:
            number -= (1 << 5 * digits) if code & 16 else 0
            found.append(number + (found[-2] if len(found) > 2 else 0))
            number = digits = 0
    return found


def mask_of(file: Path, image: str) -> Path:
    return file.with_name(f"{Path(image).stem}_mask.png")


def pixels(outline: list | dict, width: int, height: int) -> np.ndarray:
    """bool [H, W] of one object."""
    if isinstance(outline, dict):  # run lengths, column after column
        runs = unpacked(outline["counts"]) if isinstance(outline["counts"], str) else outline["counts"]
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    found = Image.new("1", (width, height))
    for polygon in outline:
        ImageDraw.Draw(found).polygon(polygon, fill=1)
    return np.asarray(found)


def draw(drawing: Drawing, classes: list[str]) -> None:
    mask = np.zeros((drawing.height, drawing.width), np.uint8)
    drawn = [(pixels(outline, drawing.width, drawing.height), name) for name, outline in drawing.objects]
    for inside, name in sorted(drawn, key=lambda one: -one[0].sum()):
        mask[inside] = 1 + classes.index(name)
    Image.fromarray(mask).save(drawing.mask)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    found = list(drawings(parser.parse_args().path))
    if not found:
        raise SystemExit("no COCO, YOLO, LabelMe or CSV files with their images: see `--help`")
    if there := [str(drawing.mask) for drawing in found if drawing.mask.exists()]:
        raise SystemExit(f"{there[0]} is there already: delete or move it, and other masks that were drawn before")
    classes = {name for drawing in found for name, _ in drawing.objects}
    classes = sorted(classes, key=lambda name: (int(name), "") if name.isdigit() else (-1, name))
    for drawing in found:
        draw(drawing, classes)
    print(f"{len(found)} masks of the classes background, {', '.join(classes)}:")
    print(f"  dataset.num_classes={len(classes) + 1} 'dataset.class_names=[background,{','.join(classes)}]'")
