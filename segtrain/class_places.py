"""Some pixels of each class of an image, found while its mask is counted: what crops are centred on."""

import numpy as np

PLACES = 256  # of an image


def find_places(mask: np.ndarray, classes: list[int]) -> np.ndarray:
    """int64 [PLACES]: 256 · pixel + class, with pixel = row · width + column; -1 where there are fewer.

    Each class has its share, and these are spread evenly over its pixels in the order of rows.

    Args:
        mask: class indices [H, W]; or of several labels a pixel 0 and 1, [H, W, C].
        classes: that the mask has.
    """
    found = np.full(PLACES, -1, dtype=np.int64)
    share = PLACES // max(len(classes), 1)
    for place, label in enumerate(classes):
        pixels = np.flatnonzero(mask == label if mask.ndim == 2 else mask[..., label] == 1)
        number = min(share, len(pixels))
        chosen = pixels[(2 * np.arange(number) + 1) * len(pixels) // (2 * max(number, 1))]
        found[place * share : place * share + number] = 256 * chosen + label
    return found


def draw_places(places: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int [n]: for each image one of the pixels of the class, at random.

    Args:
        places: int64 [n, PLACES], as of find_places.
        classes: int [n], a class that the image has.
    """
    fits = (places >= 0) & (places % 256 == classes[:, None])
    drawn = np.where(fits, rng.random(places.shape), -1.0).argmax(axis=1)
    return places[np.arange(len(places)), drawn] // 256
