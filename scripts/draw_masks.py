"""Draw masks of outlines, run lengths, or masks of single objects, so that segtrain can train on them.

    python scripts/draw_masks.py PATH
    segtrain check PATH

Below PATH are images, with one of these:

- `annotations.json` (COCO), `annotations.xml` (CVAT for images) or `via_region_data.json` (VIA), of many images; a text file
  (YOLO) or a JSON file (LabelMe, Supervisely) per image, of the same name, beside it, or under `labels` or `ann` where the
  image is under `images` or `img`. Beside each such file goes NAME_mask.png of class numbers: 0 is the background, and the
  smaller of two objects is on top.
- A table (CSV) with a column EncodedPixels, rle or encoding, one of images, and perhaps ClassId (Kaggle): the masks go beside
  the images, also of those without a row.
- Folders NAME/images, with an image, and NAME/masks, with a mask of each object in it (nuclei of the Data Science Bowl): the
  mask goes beside the image, with 1 for all objects.
"""

import argparse
import base64
import csv
import io
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from omegaconf import OmegaConf
from PIL import Image, ImageDraw

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


@dataclass
class Drawing:
    """The outlines of an image: for each object its class and its polygons, [x, y, x, y, …] in pixels, or one of

    {"counts": […]}: run lengths, of pixels outside and inside by turns, column after column;
    {"rows": […], "box": [left, top, width, height]}: run lengths, row after row, of a part of the image;
    {"polygon": […], "holes": […]}: a polygon without others in it;
    {"bitmap": text, "origin": [left, top]}: a PNG, compressed and written in base 64;
    {"file": path}: a mask, of which all above 0 is the object.
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
        elif isinstance(content, dict) and {"size", "objects"} <= content.keys():
            yield of_supervisely(content, file)
        elif isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
            yield from of_coco(content, file)
        elif isinstance(content, dict) and any(map(is_via, content.get("_via_img_metadata", content).values())):
            yield from of_via(content.get("_via_img_metadata", content), file)
    for file in sorted(folder.rglob("*.xml")):
        yield from of_cvat(file)
    images = {file.with_suffix(""): file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES}
    names = yolo_names(folder)
    for file in sorted(folder.rglob("*.txt")):
        below = file.relative_to(folder).with_suffix("").parts
        beside = folder.joinpath(*("images" if part == "labels" else part for part in below))
        if beside in images:
            yield of_yolo(file, images[beside], names)
    for file in sorted(folder.rglob("*.csv")):
        yield from of_table(file, list(images.values()))
    for masks in sorted(folder.rglob("masks")):
        yield from of_objects(masks)


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
        objects.append((shape["label"], [flat(points)]))
    return Drawing(mask_of(file, file.stem), content["imageWidth"], content["imageHeight"], objects)


def of_supervisely(content: dict, file: Path) -> Drawing:
    objects = []
    for one in content["objects"]:
        kind, points = one["geometryType"], one.get("points", {})
        if kind == "bitmap":
            outline = {"bitmap": one["bitmap"]["data"], "origin": one["bitmap"]["origin"]}
        elif kind == "polygon":
            outline = {"polygon": flat(points["exterior"]), "holes": [flat(hole) for hole in points["interior"]]}
        elif kind == "rectangle":
            (left, top), (right, bottom) = points["exterior"]
            outline = [[left, top, right, top, right, bottom, left, bottom]]
        else:
            raise SystemExit(f"{file}: a {kind} cannot be drawn; make it a polygon or a bitmap, or remove it")
        objects.append((one["classTitle"], outline))
    return Drawing(mask_of(file, file.stem), content["size"]["width"], content["size"]["height"], objects)


def is_via(content) -> bool:
    return isinstance(content, dict) and {"filename", "regions"} <= content.keys()


def of_via(content: dict, file: Path) -> Iterator[Drawing]:
    for image in content.values():
        objects, regions = [], image["regions"]
        for region in regions.values() if isinstance(regions, dict) else regions:
            shape, names = region["shape_attributes"], [*region["region_attributes"].values()]
            if shape["name"] != "polygon":
                raise SystemExit(f"{file}: a {shape['name']} cannot be drawn; draw it as a polygon, or remove it")
            points = zip(shape["all_points_x"], shape["all_points_y"], strict=True)
            objects.append((str(names[0]) if names else "object", [flat(points)]))
        with Image.open(file.with_name(image["filename"])) as opened:
            yield Drawing(mask_of(file, image["filename"]), *opened.size, objects)


def of_cvat(file: Path) -> Iterator[Drawing]:
    for image in ElementTree.parse(file).getroot().iter("image"):
        objects = []
        for shape in image:
            if shape.tag == "polygon":
                points = [point.split(",") for point in shape.get("points").split(";")]
                objects.append((shape.get("label"), [flat((float(x), float(y)) for x, y in points)]))
            elif shape.tag == "mask":
                runs = [int(number) for number in shape.get("rle").split(",")]
                box = [int(shape.get(side)) for side in ("left", "top", "width", "height")]
                objects.append((shape.get("label"), {"rows": runs, "box": box}))
            elif shape.tag != "tag":
                raise SystemExit(f"{file}: a {shape.tag} cannot be drawn; draw it as a polygon, or remove it")
        yield Drawing(mask_of(file, image.get("name")), int(image.get("width")), int(image.get("height")), objects)


def of_objects(masks: Path) -> Iterator[Drawing]:
    """Of a folder with the mask of each object, where that beside it holds the image alone."""
    images = [file for file in masks.with_name("images").glob("*") if file.suffix.lower() in SUFFIXES]
    if len(images) == 1:
        with Image.open(images[0]) as opened:
            width, height = opened.size
        objects = [("object", {"file": file}) for file in sorted(masks.glob("*.png"))]
        yield Drawing(mask_of(images[0], images[0].name), width, height, objects)


def flat(points) -> list:
    return [number for point in points for number in point]


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
    """Beside the image, where its path starts at the file's folder; else beside the file."""
    beside = file.parent / image
    return (beside if beside.is_file() else file).with_name(f"{Path(image).stem}_mask.png")


def pixels(outline: list | dict, width: int, height: int) -> np.ndarray:
    """bool [H, W] of one object."""
    inside = np.zeros((height, width), bool)
    if "file" in outline:
        with Image.open(outline["file"]) as image:
            return np.asarray(image.convert("L")) > 0
    if "polygon" in outline:
        for hole in outline["holes"]:
            inside |= pixels([hole], width, height)
        return pixels([outline["polygon"]], width, height) & ~inside
    if "bitmap" in outline:
        with Image.open(io.BytesIO(zlib.decompress(base64.b64decode(outline["bitmap"])))) as image:
            drawn = np.asarray(image.convert("RGBA"))[..., 3 if "A" in image.getbands() else 0] > 0
        left, top = outline["origin"]
        inside[top : top + len(drawn), left : left + drawn.shape[1]] = drawn[: height - top, : width - left]
        return inside
    if "rows" in outline:
        left, top, across, down = outline["box"]
        runs = outline["rows"]
        inside[top : top + down, left : left + across] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(
            down, across
        )
        return inside
    if "counts" in outline:
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
        raise SystemExit("nothing to draw masks of: see `--help`")
    if there := [str(drawing.mask) for drawing in found if drawing.mask.exists()]:
        raise SystemExit(f"{there[0]} is there already: delete or move it, and other masks that were drawn before")
    times = Counter(drawing.mask for drawing in found)
    if twice := [str(mask) for mask in times if times[mask] > 1]:
        raise SystemExit(f"{twice[0]} would be the mask of two images: give them different names")
    classes = {name for drawing in found for name, _ in drawing.objects}
    classes = sorted(classes, key=lambda name: (int(name), "") if name.isdigit() else (-1, name))
    for drawing in found:
        draw(drawing, classes)
    print(f"{len(found)} masks of the classes background, {', '.join(classes)}:")
    print(f"  dataset.num_classes={len(classes) + 1} 'dataset.class_names=[background,{','.join(classes)}]'")
