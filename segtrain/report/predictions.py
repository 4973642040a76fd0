"""What is written for a predicted image: mask, overlay, probabilities, a row of numbers."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from segtrain.data.mask_values import value_counts
from segtrain.files import whole, write_arrays
from segtrain.report.pictures import as_rgb, class_colours, colour_mask, write_png

OVERLAY_SIDE = 2000  # pixels; larger overlays are shrunk


def write_mask(folder: Path, name: str, mask: np.ndarray, classes) -> None:
    """masks/NAME.png, whose values are the classes and whose palette has their colours; multi-label masks/CLASS/NAME.png
    of 0 and 255. Raises DiskError.

    Args:
        mask: classes uint8 [H, W], or multi-label bool [C, H, W].
    """
    if mask.ndim == 2:
        picture = Image.fromarray(mask, mode="P")
        picture.putpalette(class_colours(classes).reshape(-1).tolist())
        write_png(picture, *mask_files(folder, name, classes))
        return
    for file, plane in zip(mask_files(folder, name, classes), mask, strict=True):
        write_png(plane.astype(np.uint8) * 255, file)


def mask_files(folder: Path, name: str, classes) -> list[Path]:
    """Of an image: one, or multi-label one of each class."""
    if not classes.multilabel:
        return [folder / "masks" / f"{name}.png"]
    return [folder / "masks" / class_folder(classes, c) / f"{name}.png" for c in range(classes.num_classes)]


def files_of(folder: Path, name: str, classes, overlays: bool, probabilities: bool) -> list[Path]:
    """All that is written of an image."""
    overlay, probability = folder / "overlays" / f"{name}.jpg", folder / "probabilities" / f"{name}.npz"
    return [*mask_files(folder, name, classes), *[overlay] * overlays, *[probability] * probabilities]


def class_folder(classes, label: int) -> str:
    """Name of the folder of a class's masks; with its index where names would be the same."""
    names = [re.sub(r"[^\w-]", "_", name).lower() for name in classes.class_names]
    plain = re.sub(r"[^\w-]", "_", classes.class_names[label])
    unlike = plain and names.count(plain.lower()) == 1 and not re.match(r"\d+_", plain)
    return plain if unlike else f"{label}_{plain}"


def shrunk(image) -> np.ndarray:
    """Of an image, or its rows, what `write_overlay` shows: every n-th row and column."""
    step = _step(image.shape)
    rows = range(0, image.shape[0], step)
    # A view would keep all that was read.
    return np.concatenate([image[top : top + 1][:, ::step].copy() for top in rows])


def _step(size: tuple[int, ...]) -> int:
    return max(1, -(-max(size[:2]) // OVERLAY_SIDE))


def write_overlay(folder: Path, name: str, image: np.ndarray, mask: np.ndarray, classes) -> None:
    """overlays/NAME.jpg: the image, with the predicted foreground in its colours at 50 % opacity. Raises DiskError.

    Args:
        image: as `shrunk` gives it. mask: of the image's own size.
    """
    step = _step(mask.shape[-2:])
    image, mask = as_rgb(image), mask[..., ::step, ::step]
    covered = mask.any(axis=0) if mask.ndim == 3 else mask != (-1 if classes.background is None else classes.background)
    colours = colour_mask(mask.astype(np.uint8), classes)
    mixed = np.where(covered[..., None], (image >> 1) + (colours >> 1), image)
    with whole(folder / "overlays" / f"{name}.jpg") as stream:  # of a photo a PNG takes thirty times as long
        Image.fromarray(mixed).save(stream, "JPEG", quality=90, subsampling=0)


def write_probabilities(folder: Path, name: str, probabilities: np.ndarray) -> None:
    """probabilities/NAME.npz with float16 [C, H, W]. Raises DiskError."""
    write_arrays(folder / "probabilities" / f"{name}.npz", {"probabilities": probabilities})


def row_of(name: str, file: Path, mask: np.ndarray, confidence: np.ndarray, classes) -> dict:
    """Of predictions.csv: pixels of each class, whether there are any, and its highest probability."""
    count = mask.reshape(len(mask), -1).sum(axis=1) if mask.ndim == 3 else value_counts(mask)
    status = file.stat()
    row = {"name": name, "image": str(file.absolute()), "bytes": status.st_size, "modified": status.st_mtime_ns}
    row |= {"height": mask.shape[-2], "width": mask.shape[-1]}
    for label, class_name in enumerate(classes.class_names):
        row[f"pixels/{class_name}"] = int(count[label])
        row[f"present/{class_name}"] = int(count[label] > 0)
        row[f"confidence/{class_name}"] = round(float(confidence[label]), 4)
    return row
