"""A dataset that is drawn: its command line and its files, for make_boats.py, make_cells.py, make_cracks.py and make_steel.py."""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np


def parsed(about: str, train: int, val: int, size: int | None = None) -> argparse.Namespace:
    """The folder and the numbers of images; with `size`, the height and width of an image, too."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=train, help="images")
    parser.add_argument("--val", type=int, default=val, help="images")
    if size is not None:
        parser.add_argument("--size", type=int, default=size, help="height and width in pixels")
    return parser.parse_args()


def write(
    arguments: argparse.Namespace,
    draw: Callable[[int], tuple[np.ndarray, np.ndarray]],
    suffix: str,
    write_image: Callable[[Path, np.ndarray], object] = lambda file, image: cv2.imwrite(str(file), image[:, :, ::-1]),
) -> None:
    """Images and masks of both splits; `draw` gives those of a seed."""
    for number, (split, images) in enumerate({"train": arguments.train, "val": arguments.val}.items()):
        folders = [arguments.folder / split / part for part in ("images", "masks")]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        for index in range(images):
            image, mask = draw(100_000 * number + index)
            name = f"{split}_{index:03d}"
            write_image(folders[0] / f"{name}{suffix}", image)
            cv2.imwrite(str(folders[1] / f"{name}.png"), mask)
