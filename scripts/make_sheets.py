"""Paste magnetic tiles into large sheets, most of which hold a few defects: small objects in large images.

    python scripts/prepare_magnetic_tile.py RAW PREPARED
    python scripts/make_sheets.py PREPARED SHEETS --train 24 --val 12 --size 2048
    segtrain dataset=magnetic_tile dataset.root=SHEETS

A sheet is rows of tiles, each row as high as its lowest tile. Of the val sheets few tiles have a defect, of those to learn from more.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image


def tiles_of(folder: Path) -> tuple[list[tuple], list[tuple]]:
    """(image, mask) uint8 [H,W] of the tiles without and with a defect."""
    perfect, defective = [], []
    for file in sorted((folder / "images").iterdir()):
        image = np.asarray(Image.open(file).convert("L"))
        mask = np.asarray(Image.open(folder / "masks" / f"{file.stem}.png"))
        (defective if mask.any() else perfect).append((image, mask))
    return perfect, defective


def sheet(perfect: list, defective: list, size: int, share: float, rng: np.random.Generator) -> tuple:
    """Image and mask uint8 [size, size]."""
    image, mask = (np.zeros((size, size), np.uint8) for _ in range(2))
    top = 0
    while top < size:
        row, width = [], 0
        while width < size:
            kind = defective if rng.random() < share else perfect
            row.append(kind[rng.integers(len(kind))])
            width += row[-1][0].shape[1]
        height = min(size - top, min(len(tile) for tile, _ in row))
        left = 0
        for tile, labels in row:
            columns = min(tile.shape[1], size - left)
            image[top : top + height, left : left + columns] = tile[:height, :columns]
            mask[top : top + height, left : left + columns] = labels[:height, :columns]
            left += columns
        top += height
    return image, mask


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("sheets", type=Path)
    parser.add_argument("--train", type=int, default=24, help="sheets")
    parser.add_argument("--val", type=int, default=12, help="sheets")
    parser.add_argument("--size", type=int, default=2048, help="height and width in pixels")
    parser.add_argument(
        "--defects", type=float, nargs=2, default=[0.2, 0.03], help="share of the tiles of train and of val"
    )
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    for split, share in zip(("train", "val"), arguments.defects, strict=True):
        tiles = tiles_of(arguments.prepared / split)
        for part in ("images", "masks"):
            (arguments.sheets / split / part).mkdir(parents=True, exist_ok=True)
        for number in range(getattr(arguments, split)):
            for part, pixels in zip(("images", "masks"), sheet(*tiles, arguments.size, share, rng), strict=True):
                Image.fromarray(pixels).save(arguments.sheets / split / part / f"sheet_{number:03d}.png")
