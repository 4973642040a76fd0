"""`segtrain check`: 60 broken datasets are named with file and cause, 20 odd but healthy ones are not called wrong."""

import os
import shlex
import shutil

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from segtrain.class_counts import count_classes
from segtrain.data.folder import Folder
from segtrain.data.shapes import Shapes, ShapesMultilabel
from segtrain.dataset_check.findings import check_dataset, unused_levels
from segtrain.dataset_check.smallest_objects import SmallestObjects, least_areas
from segtrain.errors import ConfigError, DataError

SIZE = (24, 32)


def healthy(root, images=3, classes=3):
    """root/{train,val}/{images,masks}/NAME.png, every image different, every class in each."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(images):
            mask = np.zeros(SIZE, np.uint8)
            for label in range(1, classes):
                mask[2 + i : 6 + i, 8 * label : 8 * label + 5] = label
            save(root / split / "images" / f"{split}{i}.png", rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8))
            save(root / split / "masks" / f"{split}{i}.png", mask)
    return root


def save(path, values, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **kwargs)


def mask_of(path):
    return np.array(Image.open(path))


def change(path, values=None, **pixels):
    mask = mask_of(path) if values is None else values
    for place, value in pixels.items():
        mask[int(place[1:]), 0] = value
    save(path, mask)


def exif(path, orientation, mode="RGB"):
    image = Image.open(path).convert(mode)
    tags = Image.Exif()
    tags[0x0112] = orientation
    image.save(path, exif=tags)


def link(path, target):
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def cut(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def wrong_bit(path):
    """A bit among the pixels that Pillow reads as other ones."""
    whole, right = path.read_bytes(), mask_of(path)
    for bit in range(8 * (whole.index(b"IDAT") + 4), 8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            if not np.array_equal(mask_of(path), right):
                return
        except (OSError, SyntaxError, ValueError):
            pass
    raise AssertionError("Pillow sees every wrong bit")


def animated(path):
    first = Image.open(path).copy()
    first.save(path, save_all=True, append_images=[Image.fromarray(255 - np.asarray(first))])


def split_files(root, train="a0\na1\n", val="a2\n"):
    for i in range(3):
        mask = np.zeros(SIZE, np.uint8)
        mask[i : i + 3, :5], mask[10:12, 3:9] = 1, 2
        save(root / "images" / f"a{i}.png", np.random.default_rng(i).integers(0, 255, (*SIZE, 3), dtype=np.uint8))
        save(root / "masks" / f"a{i}.png", mask)
    (root / "train.txt").write_text(train)
    (root / "val.txt").write_text(val)


def every_mask(root, make):
    for path in sorted(root.glob("*/masks/*.png")):
        values = make(mask_of(path))
        path.unlink()
        save(path, values)


def replace_all(root, folder, suffix, write):
    for path in sorted(root.glob(f"*/{folder}/*.png")):
        values = mask_of(path)
        path.unlink()
        write(path.with_suffix(suffix), values)


RGB = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
COLOURS = {"mask_format": "color", "colors": RGB.tolist()}
T, V = "train/images/train1", "train/masks/train1"
FILES = {"splits": "files"}


def link_folder(path):
    shutil.move(path, path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def two_names(root):
    """more/images/a and b, and the masks of both in b."""
    shutil.copytree(root / "train/masks", root / "more/masks/b")
    (root / "more/masks/a").symlink_to("b")
    for path in (root / "train/images").iterdir():
        for folder, values in (("a", mask_of(path)), ("b", 255 - mask_of(path))):
            save(root / "more/images" / folder / path.name, values)


def two(mask):
    return np.where(mask > 0, 255, 0).astype(np.uint8)


# name: (what breaks it, the file that must be named, words of the cause, settings)
BROKEN = {
    "mask missing": (lambda r: (r / f"{V}.png").unlink(), "train1", "1 image without a mask", {}),
    "mask missing in val": (lambda r: (r / "val/masks/val0.png").unlink(), "val0", "without a mask", {}),
    "all masks missing": (lambda r: [p.unlink() for p in r.glob("train/masks/*")], "train0", "3 images without", {}),
    "image missing": (lambda r: (r / f"{T}.png").unlink(), "train1", "1 mask without an image", {}),
    "image missing, masks by a pattern": (lambda r: (r / f"{T}.png").unlink(), "masks/train1.png", "1 mask without an image", {"images": "{split}/images", "masks": "../../{split}/masks/{stem}.png"}),
    "image missing, splits by lists": (lambda r: (split_files(r), save(r / "masks/a9.png", np.eye(24, 32, dtype=np.uint8))), "masks/a9.png", "1 mask without an image", FILES),
    "stems clash": (lambda r: shutil.copy(r / f"{T}.png", r / f"{T}.bmp"), "train1.bmp", "two files with the stem", {}),
    "mask stems clash": (lambda r: shutil.copy(r / f"{V}.png", r / f"{V}.tif"), "train1.tif", "two masks with", {}),
    "mask smaller": (lambda r: save(r / f"{V}.png", np.zeros((12, 16), np.uint8)), "train1", "its mask is 16×12", {}),
    "mask turned": (lambda r: save(r / f"{V}.png", np.zeros((32, 24), np.uint8)), "train1", "mask is 24×32", {}),
    "exif of the image only": (lambda r: exif(r / f"{T}.png", 6), "train1", "EXIF orientation was not applied", {}),
    "exif upside down": (lambda r: exif(r / f"{T}.png", 3), "train1.png", "turned by EXIF orientation", {}),
    "image truncated": (lambda r: cut(r / f"{T}.png"), "train1.png", "cannot be decoded", {}),
    "mask truncated": (lambda r: cut(r / f"{V}.png", 0.6), "masks/train1.png", "cannot be decoded", {}),
    "a wrong bit in a mask": (lambda r: wrong_bit(r / f"{V}.png"), "masks/train1.png", "a checksum is wrong", {}),
    "a wrong bit in an image": (lambda r: (save(r / f"{T}.png", RGB[mask_of(r / f"{V}.png")]), wrong_bit(r / f"{T}.png")), "train1.png", "a checksum is wrong", {}),
    "mask without its end": (lambda r: (r / f"{V}.png").write_bytes((r / f"{V}.png").read_bytes()[:-12]), "masks/train1.png", "the file is cut off", {}),
    "mask of two pictures": (lambda r: animated(r / f"{V}.png"), "masks/train1.png", "several pictures in one file", {}),
    "image of 0 bytes": (lambda r: (r / f"{T}.png").write_bytes(b""), "train1.png", "empty (0 bytes)", {}),
    "mask of 0 bytes": (lambda r: (r / f"{V}.png").write_bytes(b""), "masks/train1.png", "empty (0 bytes)", {}),
    "image is text": (lambda r: (r / f"{T}.png").write_text("hello"), "train1.png", "not an image file", {}),
    "mask is text": (lambda r: (r / f"{V}.png").write_text("hello"), "masks/train1.png", "not an image file", {}),
    "header without pixels": (lambda r: cut(r / f"{T}.png", 0.05), "train1.png", "cannot be", {}),
    "value above the classes": (lambda r: change(r / f"{V}.png", r0=7), "masks/train1.png", "7 (1 pixels)", {}),
    "value of the next class": (lambda r: change(r / f"{V}.png", r0=3), "masks/train1.png", "3 (1 pixels)", {}),
    "several wrong values": (lambda r: change(r / f"{V}.png", r0=7, r1=9), "train1.png", "7 (1 pixels), 9", {}),
    "wrong value in val": (lambda r: change(r / "val/masks/val2.png", r0=9), "val2.png", "9 (1 pixels)", {}),
    "0 and 255 read as index": (lambda r: every_mask(r, two), "train0.png", "255", {"ignore_index": 254, "num_classes": 2}),
    "one class of 0 and 255": (lambda r: every_mask(r, two), "where 255 is class 0", "with one class, every pixel", {"num_classes": 1}),
    "labels from 1": (lambda r: every_mask(r, lambda m: m + np.uint8(1)), "remap={1: 0, 2: 1, 3: 2}", "labels start at 1", {}),
    "labels from 1 with some unlabelled": (lambda r: every_mask(r, lambda m: np.where(np.arange(32) < 2, 0, m + 1).astype(np.uint8)), "ignore_values=[0]", "together hold 0, 1, 2, 3", {}),
    "0 and 255, 255 ignored": (lambda r: every_mask(r, two), "train0.png", "hold 0 and 255 (", {"num_classes": 2}),
    "one 0 and 255 mask": (lambda r: save(r / f"{V}.png", two(mask_of(r / f"{V}.png"))), "train1.png", "nothing but 0 and 255, and 255 is ignored", {}),
    "rgb masks read as index": (lambda r: every_mask(r, lambda m: RGB[m]), "train0.png", "a mask with 3 channels", {}),
    "one rgb mask": (lambda r: save(r / f"{V}.png", RGB[mask_of(r / f"{V}.png")]), "train1.png", "3 channels", {}),
    "masks are jpeg": (
        lambda r: replace_all(r, "masks", ".jpg", save), "train0", "without a mask", {},
    ),
    "jpeg masks by a pattern": (
        lambda r: replace_all(r, "masks", ".jpg", save), "train0.jpg", "masks in JPEG", {"masks": "../masks/{stem}.jpg"},
    ),
    "class in val only": (lambda r: [change(p, np.where(mask_of(p) == 2, 0, mask_of(p))) for p in r.glob("train/masks/*")],
                          "class 2", "is in val but not in train", {}),
    "class absent": (lambda r: None, "class 3", "no training pixel of class 3", {"num_classes": 4}),
    "all ignored": (lambda r: save(r / f"{V}.png", np.full(SIZE, 255, np.uint8)), "train1.png", "only ignored|nothing but ignored", {}),
    "every mask ignored": (lambda r: every_mask(r, lambda m: np.full(SIZE, 255, np.uint8)), "train0.png", "nothing but ignored", {}),
    "all background": (lambda r: every_mask(r, np.zeros_like), "train0", "all masks hold one class", {}),
    "copy within a split": (lambda r: shutil.copy(r / f"{T}.png", r / "train/images/train2.png"), "train2.png", "found twice", {}),
    "leak": (lambda r: shutil.copy(r / f"{T}.png", r / "val/images/val0.png"), "val0.png", "in an earlier split too", {}),
    "leak saved anew": (lambda r: save(r / "val/images/val0.png", mask_of(r / f"{T}.png"), compress_level=1), "val0.png", "earlier split", {}),
    "an image in TGA": (lambda r: save(r / f"{T}x.tga", np.eye(24, 32, dtype=np.uint8)), "train1x.tga", "1 file left out because of the format", {}),
    "nothing but TGA": (lambda r: [replace_all(r, f, ".tga", save) for f in ("images", "masks")], "train/images", "the train split is empty", {}),
    "masks in TGA": (lambda r: replace_all(r, "masks", ".tga", save), "train0.png", "without a mask", {}),
    "tiny image": (lambda r: [save(r / f"{p}.png", np.eye(8, dtype=np.uint8)) for p in (T, V)], "train1.png", "smaller than 16", {}),
    "giant image": (lambda r: [save(r / f"{p}.png", np.eye(20, 9000, dtype=np.uint8)) for p in (T, V)], "train1.png", "larger than 8192", {}),
    "smaller than the crop": (lambda r: None, "train0.png", "smaller than the crop", {"crop": [64, 64]}),
    "NaN": (lambda r: replace_all(r, "images", ".npy", lambda p, v: np.save(p, np.where(v > 250, np.nan, v))), "train0.npy", "NaN", {}),
    "infinite": (lambda r: replace_all(r, "images", ".npy", lambda p, v: np.save(p, np.where(v > 250, np.inf, v))), "train0.npy", "NaN or infinite", {}),
    "float image": (lambda r: replace_all(r, "images", ".npy", lambda p, v: np.save(p, v / np.float32(255))), "train0.npy", "float32 values from 0", {}),
    "signed image": (lambda r: replace_all(r, "images", ".npy", lambda p, v: np.save(p, v.astype(np.int16) - 9)), "train0.npy", "int16 values from -9", {}),
    "float mask": (lambda r: replace_all(r, "masks", ".npy", lambda p, v: np.save(p, v + 0.5)), "train0.npy", "a mask of float", {}),
    "pickled mask": (lambda r: replace_all(r, "masks", ".npy", lambda p, v: np.save(p, np.array([{}], object), allow_pickle=True)), "train0.npy", "not a NumPy array", {}),
    "npy of four dimensions": (lambda r: replace_all(r, "images", ".npy", lambda p, v: np.save(p, v[None])), "train0.npy", "an array of shape", {}),
    "unknown colour": (lambda r: every_mask(r, lambda m: RGB[m] + np.uint8([0, 9, 0])), "train0.png", "nearest to (0, 0, 0), class 0", COLOURS),
    "one unknown colour": (lambda r: (every_mask(r, lambda m: RGB[m]), save(r / f"{V}.png", np.full((*SIZE, 3), [0, 0, 250], np.uint8))), "train1.png", "class 2", COLOURS),
    "grey edges": (lambda r: every_mask(r, lambda m: np.uint8([0, 128, 255])[m]), "train0.png", "pixels between 0 and 255", {"mask_format": "binary", "num_classes": 2}),
    "too few channels": (lambda r: every_mask(r, lambda m: np.stack([m] * 3, 2)), "train0.png", "3 channels, but dataset.num_classes=5", {"mask_format": "channels", "num_classes": 5, "background": None}),
    "five channels": (lambda r: replace_all(r, "images", ".tif", lambda p, v: tifffile.imwrite(p, np.dstack([v, v[..., :2]]), photometric="minisblack", planarconfig="contig")), "train0.tif", "5 channels, but dataset.channels=3", {}),
    "rgb for four channels": (lambda r: None, "train0.png", "3 channels, but dataset.channels=4", {"channels": 4}),
    "dark 12 bits": (lambda r: replace_all(r, "images", ".png", lambda p, v: save(p, v[..., 0].astype(np.uint16) * 16)), "train0.png", "16 bits and no value above 4095", {}),
    "black image": (lambda r: save(r / f"{T}.png", np.zeros((*SIZE, 3), np.uint8)), "train1.png", "one value everywhere", {}),
    "link in a circle": (lambda r: link(r / f"{V}.png", "train1.png"), "masks/train1.png", "to nowhere", {}),
    "link to nothing": (lambda r: link(r / f"{T}.png", "/nowhere/x.png"), "train1.png", "to nowhere", {}),
    "link out of the root": (lambda r: (shutil.move(r / f"{T}.png", r.parent / "x.png"), link(r / f"{T}.png", r.parent / "x.png")), "train1.png", "out of dataset.root", {}),
    "name of control characters": (lambda r: [os.rename(r / f"{p}.png", r / f"{p}\x07.png") for p in (T, V)], r"train1\x07", "cannot be printed", {}),
    "list names what is not there": (lambda r: split_files(r, train="a0\na1\nzz\n"), "train.txt", "without an image: zz", FILES),
    "list repeats": (lambda r: split_files(r, train="a0\na0\na1\n"), "train.txt", "repeats a0", FILES),
    "list leaves the root": (lambda r: split_files(r, train="a0\n../b/a1.png\n"), "train.txt", "out of the folder", FILES),
    "one image in two lists": (lambda r: split_files(r, val="a1\na2\n"), "a1.png", "in an earlier split too", FILES),
    "a class file of another size": (
        lambda r: [save(r / s / "masks" / c / f"{s}{i}.png", np.eye(24, 32 + (c == "b" and i == 1), dtype=np.uint8))
                   for s in ("train", "val") for i in range(3) for c in "ab"],
        "b/train1.png", "differ in size",
        {"mask_format": "files", "num_classes": 2, "class_names": ["a", "b"], "background": None, "masks": "../masks/{class}/{stem}.png"},
    ),
    "a pipe": (lambda r: os.mkfifo(r / "train/images/pipe.png"), "pipe.png", "left out", {}),
    "a folder in itself": (lambda r: (r / "train/images/more").symlink_to("."), "images/more", "a folder that holds it", {}),
    "a folder above": (lambda r: (r / "train/images/more").symlink_to(".."), "images/more", "a folder that holds it", {}),
    "the whole machine": (lambda r: (r / "train/images/more").symlink_to("/"), "images/more", "a folder that holds it", {}),
    "links in a circle": (lambda r: [(r / "train/images" / a).symlink_to(b) for a, b in ("ab", "ba")], "images/a", "in a circle", {}),
    "a folder that is not there": (lambda r: (r / "train/images/more").symlink_to("/nowhere"), "images/more", "to nowhere", {}),
    "a split elsewhere": (lambda r: link_folder(r / "val"), "val/images/val0.png", "out of dataset.root", {}),
    "masks elsewhere": (lambda r: (shutil.move(r / "train/masks", r.parent / "gt"), [shutil.move(p, r.parent / "gt") for p in r.glob("val/masks/*")]), "gt/train0.png", "out of dataset.root", {"masks": "../../../gt/{stem}.png"}),
    "an extra mask where a pattern looks": (lambda r: save(r / "train/masks/orphan.png", np.zeros(SIZE, np.uint8)), "orphan.png", "without an image", {"masks": "../masks/{stem}.png"}),
    "jpeg by another name": (lambda r: Image.fromarray(mask_of(r / f"{V}.png")).save(r / f"{V}.png", format="JPEG"), "masks/train1.png", "a mask in JPEG", {}),
    "no folder of a class": (
        lambda r: [save(r / s / c / f"{s}{i}.png", np.eye(*SIZE, dtype=np.uint8)) for s, cs in (("train", "ab"), ("val", "a")) for i in range(3) for c in cs],
        "val/b", "no masks of b", {"mask_format": "files", "num_classes": 2, "class_names": ["a", "b"], "background": None},
    ),
    "a class by another name than its files": (
        lambda r: [save(r / s / "masks" / c / f"{s}{i}.png", np.eye(*SIZE, dtype=np.uint8)) for s in ("train", "val") for i in range(3) for c in "ab"],
        "class_names or masks", "no training pixel of c", {"mask_format": "files", "num_classes": 2, "class_names": ["a", "c"], "background": None, "masks": "../masks/{class}/{stem}.png"},
    ),
    "no folder of a class in a split": (
        lambda r: [save(r / c / s / f"{s}{i}.png", np.eye(*SIZE, dtype=np.uint8)) for s, cs in (("train", "ab"), ("val", "a")) for i in range(3) for c in cs] and [shutil.move(r / s / "images", (r / "images").mkdir(exist_ok=True) or r / "images" / s) for s in ("train", "val")],
        "b/val", "no masks of b", {"mask_format": "files", "num_classes": 2, "class_names": ["a", "b"], "background": None},
    ),
    "black as 16 bits": (lambda r: replace_all(r, "images", ".png", lambda p, v: save(p, v[..., 0].astype(np.uint16))), "train0.png", "as 16 bits, it would be nothing but black", {}),
    "empty split": (lambda r: [p.unlink() for p in r.glob("val/*/*")], "val", "the val split is empty", {}),
}  # fmt: skip

HEALTHY = {
    "plain": (lambda r: None, {}),
    "ignored border": (lambda r: every_mask(r, lambda m: np.where(np.arange(32) < 2, 255, m).astype(np.uint8)), {}),
    "jpeg images": (lambda r: replace_all(r, "images", ".jpg", save), {}),
    "upper-case suffix": (lambda r: [p.rename(p.with_suffix(".PNG")) for p in r.glob("*/images/*")], {}),
    "grey images": (lambda r: replace_all(r, "images", ".png", lambda p, v: save(p, v[..., 0])), {}),
    "rgba images": (lambda r: replace_all(r, "images", ".png", lambda p, v: save(p, np.dstack([v, v[..., 0]]))), {}),
    "16-bit images": (lambda r: replace_all(r, "images", ".png", lambda p, v: save(p, v[..., 0].astype(np.uint16) * 257)), {}),
    "16-bit masks": (lambda r: every_mask(r, lambda m: m.astype(np.uint16)), {}),
    "tiff masks": (lambda r: replace_all(r, "masks", ".tif", lambda p, v: tifffile.imwrite(p, v)), {}),
    "npy masks": (lambda r: replace_all(r, "masks", ".npy", lambda p, v: np.save(p, v.astype(np.int64))), {}),
    "float images with a range": (lambda r: replace_all(r, "images", ".npy", lambda p, v: np.save(p, v / 255.0)), {"image_range": [0.0, 1.0]}),
    "colours": (lambda r: every_mask(r, lambda m: RGB[m]), COLOURS),
    "0 and 255": (lambda r: every_mask(r, two), {"mask_format": "binary", "num_classes": 2}),
    "0 and 255 by remap": (lambda r: every_mask(r, two), {"remap": {255: 1}, "ignore_index": 254, "num_classes": 2}),
    "a thousandth of an image": (lambda r: change(r / f"{V}.png", r0=1), {}),
    "images without foreground": (lambda r: save(r / f"{V}.png", np.zeros(SIZE, np.uint8)), {}),
    "sizes differ": (lambda r: [save(r / f"{p}.png", np.eye(40, 50, dtype=np.uint8)) for p in (T, V)], {}),
    "hidden files": (lambda r: [(r / "train/images" / n).write_text("x") for n in (".DS_Store", "._train1.png", "notes.txt")], {}),
    "exif on both": (lambda r: [exif(r / f"{p}.png", 3, mode) for p, mode in ((T, "RGB"), (V, "L"))], {}),
    "a folder of masks by two names": (two_names, {"images": "more/images", "splits": "ratio", "val_ratio": 0.4}),
    "accents spelt in two ways": (lambda r: [os.rename(r / f"{p}.png", r / f"{p}{e}.png") for p, e in ((T, "caf\u00e9"), (V, "cafe\u0301"))], {}),
    "kinds of names": (lambda r: [os.rename(r / f"{p}.png", r / f"{p} größe (1).v2.png") for p in (T, V)], {}),
    "one folder of masks for all splits": (lambda r: [shutil.move(p, (r / "labels").mkdir(exist_ok=True) or r / "labels" / p.name) for p in r.glob("*/masks/*")], {"images": "{split}/images", "masks": "../../labels/{stem}.png"}),
    "subfolders": (lambda r: [shutil.move(r / f"train/{p}/train1.png", (r / f"train/{p}/deep").mkdir() or r / f"train/{p}/deep/train1.png") for p in ("images", "masks")], {}),
}  # fmt: skip


def findings(root, crop=None, **settings):
    """(level, everything said) of each finding; what stops before the files are looked at counts as well."""
    settings = {"num_classes": 3, **settings}
    try:
        splits = {split: Folder(str(root), split, strict=False, **settings) for split in ("train", "val")}
    except ConfigError as error:
        return [("error", str(error))]
    reports = check_dataset(splits, crop)
    return [(f.level, f"{f.what} {f.files} {f.fix}") for report in reports for f in report.findings]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_datasets_are_named_with_file_and_cause(name, tmp_path):
    spoil, file, cause, settings = BROKEN[name]
    root = healthy(tmp_path / "data")
    spoil(root)
    found = findings(root, **settings)
    wanted = [
        text for level, text in found if level in ("error", "warning") and any(c in text for c in cause.split("|"))
    ]
    assert wanted, found
    assert any(file in text for text in wanted), wanted


def test_there_are_60_of_them_and_20_healthy_ones():
    assert len(BROKEN) >= 60
    assert len(HEALTHY) >= 20


@pytest.mark.parametrize("name", HEALTHY)
def test_odd_but_healthy_datasets_have_no_error(name, tmp_path):
    change_it, settings = HEALTHY[name]
    root = healthy(tmp_path / "data")
    change_it(root)
    found = findings(root, **settings)
    assert not [text for level, text in found if level == "error"], found
    data = Folder(str(root), "train", **{"num_classes": 3, **settings})
    assert data.image(0).dtype == data.mask(0).dtype == np.uint8


@pytest.mark.parametrize(("turn", "said"), [(3, False), (1, True)])
def test_a_tiff_mask_may_be_turned_as_its_image_is(turn, said, tmp_path):
    root = healthy(tmp_path / "data")
    exif(root / f"{T}.png", 3)
    Image.open(root / f"{V}.png").save(root / f"{V}.tif")
    (root / f"{V}.png").unlink()
    exif(root / f"{V}.tif", turn, "L")
    assert any("turned by EXIF" in text for _, text in findings(root)) == said


@pytest.mark.parametrize(
    "wrong",
    [
        lambda mask: mask.astype(np.float32),
        lambda mask: mask.astype(np.int64),
        lambda mask: mask.tolist(),
        lambda mask: [[0], [0, 1]],
        lambda mask: None,
        lambda mask: mask[..., None],
        lambda mask: mask[0, 0],
    ],
)
@pytest.mark.parametrize("dataset", [Shapes, ShapesMultilabel])
def test_what_an_own_dataset_gives_that_is_no_mask_is_named_by_check_and_count(dataset, wrong):
    data = dataset("train", [64, 64], train_images=3)
    plain = data.mask
    data.mask = lambda i: wrong(plain(i))
    (report,) = check_dataset({"train": data}, None)
    found = [finding for finding in report.findings if finding.level == "error"]
    assert "mask is" in found[0].what
    assert found[0].files[0].startswith("train_00000")
    for locations in (False, True):
        with pytest.raises(DataError, match="mask is"):
            count_classes(data, locations=locations)


@pytest.mark.parametrize("wrong", [lambda image: None, lambda image: image.tolist(), lambda image: image[..., :2]])
def test_what_an_own_dataset_gives_that_is_no_image_is_named(wrong):
    data = Shapes("train", [64, 64], train_images=3)
    plain = data.image
    data.image = lambda i: wrong(plain(i))
    (report,) = check_dataset({"train": data}, None)
    assert "image is" in next(finding for finding in report.findings if finding.level == "error").what


def test_generated_datasets_are_checked_too():
    reports = check_dataset({split: Shapes(split, [64, 64]) for split in ("train", "val")}, None)
    assert not [f for r in reports for f in r.findings if f.level == "error"]
    assert reports[0].pixels.sum() == 128 * 64 * 64


def test_smallest_objects_by_hand():
    mask = np.zeros((10, 10), np.uint8)
    mask[0:3, 0:3], mask[5, 5], mask[6, 6], mask[9, 0:4], mask[0, 7:9] = 1, 1, 1, 2, 2
    for background, expected in ((0, [0, 2, 2, 0]), (None, [83, 2, 2, 0])):
        objects = SmallestObjects(4, background)
        objects.add(mask, np.bincount(mask.ravel(), minlength=4))
        objects.add(np.zeros_like(mask), np.array([100, 0, 0, 0]))
        assert objects.found().tolist() == expected


@settings(max_examples=200)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 5),
    st.integers(1, 6),
)
def test_smallest_objects_are_those_of_scipy(seed, size, values, grain):
    coarse = np.random.default_rng(seed).integers(0, values, [-(-length // grain) for length in size], dtype=np.uint8)
    mask = coarse.repeat(grain, axis=0).repeat(grain, axis=1)[: size[0], : size[1]]
    sought = np.arange(values) != 1
    found = least_areas(mask, sought)
    for value in range(256):
        components, number = ndimage.label(mask == value, np.ones((3, 3)))
        areas = np.bincount(components.ravel())[1:]
        assert found[value] == (areas.min() if number and value < values and sought[value] else 1 << 62)


def test_the_smallest_objects_of_multi_label_masks():
    mask = np.zeros((8, 8, 2), np.uint8)
    mask[1:3, 1:4, 0], mask[5, 5, 0], mask[2:4, 3:7, 1], mask[0] = 1, 1, 1, 255
    objects = SmallestObjects(2, None)
    objects.add(mask, (mask == 1).sum(axis=(0, 1)))
    assert objects.found().tolist() == [1, 8]


def test_a_range_is_that_of_every_row(tmp_path):
    """One bright row of 16 bits, which is not among every eighth, is part of the range."""
    root = healthy(tmp_path / "data")
    for file in root.glob("*/images/*.png"):
        values = np.asarray(Image.open(file))[..., 0].astype(np.uint16) * 32
        values[3] = 14000
        save(file, values)
    reports = check_dataset({split: Folder(str(root), split, 3) for split in ("train", "val")}, None)
    assert unused_levels(reports) == [0, 14079]


def test_a_folder_of_masks_for_each_class_is_recognised_step_by_step(segtrain, tmp_path):
    for number in range(6):
        for folder in ("images", "dent", "scratch"):
            file = tmp_path / "data" / folder / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), np.uint8(np.eye(8) * (255 if folder != "images" else 200 + number)))
    first = segtrain("check", "data")
    assert first.code == 2, first
    settings = (
        "dataset.mask_format=files 'dataset.class_names=[dent,scratch]' dataset.num_classes=2 dataset.background=null"
    )
    assert f"if dent, scratch are classes, each with masks of its own: {settings} loss=bce_dice" in first.err
    words = [word for word in shlex.split(settings) if "num_classes" not in word]  # as the names are known
    done = segtrain("check", "data", *words)
    assert done.code == 0, done
    command = done.out.splitlines()[-1].partition("`segtrain ")[2].rstrip("`")
    assert command.endswith("dataset.num_classes=2 loss=bce_dice")
    assert segtrain(*shlex.split(command), "--cfg", "job").code == 0


def test_the_command_prints_and_writes_a_page_and_exits_with_3(segtrain, tmp_path):
    root = healthy(tmp_path / "data")
    words = ("check", "dataset=folder", f"dataset.root={root}", "dataset.num_classes=3", "--out", tmp_path / "page")
    done = segtrain(*words)
    assert done.code == 0, done
    assert "6 images: 0 errors, 0 warnings, 0 notes" in done.out
    assert done.out.endswith(f"to train: `segtrain dataset=folder dataset.root={root} dataset.num_classes=3`\n")
    (root / f"{V}.png").write_bytes(b"")
    (root / "val/images/<b>.png").write_bytes(b"")
    done = segtrain(*words)
    assert done.code == 3
    assert "to train" not in done.out
    assert "error: train: the file is empty (0 bytes)" in done.out
    (root / "test/images").mkdir(parents=True)
    assert "the test images are not checked" in segtrain(*words).out
    page = (tmp_path / "page/check.html").read_text()
    assert "&lt;b&gt;" in page
    assert "<b>.png" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_palettes_that_differ_are_a_warning(tmp_path):
    root = healthy(tmp_path)
    colours = [[0, 0, 0], [255, 0, 0], [0, 0, 255]]
    for file in sorted(root.glob("*/masks/*")):
        mask = Image.fromarray(mask_of(file))
        mask.putpalette([number for colour in colours for number in colour])
        mask.save(file)
    assert not findings(root)
    file = next(root.glob("train/masks/*"))
    mask = Image.open(file)
    mask.putpalette([number for colour in (colours[0], colours[2], colours[1]) for number in colour])
    mask.save(file)
    (level, text), *_ = [(level, text) for level, text in findings(root) if "palettes" in text]
    assert (level, text.partition(" [")[0]) == (
        "warning",
        "3 palette masks whose palettes differ: value 1 has 2 colours",
    )
    assert "'dataset.colors=[[0,0,0],[0,0,255],[255,0,0]]'" in text
