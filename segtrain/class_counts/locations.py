"""Some pixels of each class of an image, found while its mask is counted: what crops are centred on."""

import numpy as np

PLACES = 256  # of an image
VERSION = 1  # of what find_places finds: to be raised when it changes, since places are cached


def find_places(mask: np.ndarray, classes: list[int]) -> np.ndarray:
    """int64 [PLACES]: 256 · pixel + class, with pixel = row · width + column; -1 where there are fewer.

    The classes share the places evenly, but for those with fewer pixels. Of each of as many parts of a class's pixels,
    in the order of rows, one is drawn, always the same for the same mask: at even steps all could be in one column.

    Args:
        mask: class indices [H, W]; or of several labels a pixel 0 and 1, [H, W, C].
        classes: that the mask has.
    """
    pixels = {c: np.flatnonzero(mask == c if mask.ndim == 2 else mask[..., c] == 1) for c in classes}
    found, used = np.full(PLACES, -1, dtype=np.int64), 0
    for left, label in enumerate(sorted(classes, key=lambda c: len(pixels[c]))):
        number = min((PLACES - used) // (len(classes) - left), len(pixels[label]))
        parts = np.arange(number) + np.random.default_rng(label).random(number)
        chosen = pixels[label][(parts * len(pixels[label]) / max(number, 1)).astype(np.int64)]
        found[used : used + number] = 256 * chosen + label
        used += number
    return found


def draw_places(places: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int [n]: for each image one of the places of the class, at random; -1 where it has none.

    Args:
        places: int64 [n, PLACES], as of find_places.
        classes: int [n].
    """
    fits = (places >= 0) & (places % 256 == classes[:, None])
    drawn = np.where(fits, rng.random(places.shape), -1.0).argmax(axis=1)
    return np.where(fits.any(axis=1), places[np.arange(len(places)), drawn] // 256, -1)
