"""Class locations: some pixels of each class of an image, found while its mask is counted; crops are centred on them."""

import numpy as np

LOCATIONS = 256  # of an image
VERSION = 1  # of what find_locations finds: to be raised when it changes, since locations are cached


def find_locations(mask: np.ndarray, classes: list[int]) -> np.ndarray:
    """int64 [LOCATIONS]: 256 · pixel + class, with pixel = row · width + column; -1 where there are fewer.

    The classes share the locations evenly, but for those with fewer pixels. Of each of as many parts of a class's
    pixels, in the order of rows, one is drawn, always the same for the same mask: at even steps all could be in one
    column.

    Args:
        mask: class indices [H, W]; multi-label 0 and 1, [H, W, C].
        classes: that the mask has.
    """
    pixels = {c: np.flatnonzero(mask == c if mask.ndim == 2 else mask[..., c] == 1) for c in classes}
    found, used = np.full(LOCATIONS, -1, dtype=np.int64), 0
    for left, label in enumerate(sorted(classes, key=lambda c: len(pixels[c]))):
        number = min((LOCATIONS - used) // (len(classes) - left), len(pixels[label]))
        parts = np.arange(number) + np.random.default_rng(label).random(number)
        chosen = pixels[label][(parts * len(pixels[label]) / max(number, 1)).astype(np.int64)]
        found[used : used + number] = 256 * chosen + label
        used += number
    return found


def draw_locations(locations: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int [n]: for each image the pixel of one location of the class, at random; -1 where it has none.

    Args:
        locations: int64 [n, LOCATIONS], as of find_locations.
        classes: int [n].
    """
    fits = (locations >= 0) & (locations % 256 == classes[:, None])
    drawn = np.where(fits, rng.random(locations.shape), -1.0).argmax(axis=1)
    return np.where(fits.any(axis=1), locations[np.arange(len(locations)), drawn] // 256, -1)
