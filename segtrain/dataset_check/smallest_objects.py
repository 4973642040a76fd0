"""The smallest object of each class over many masks: connected components of runs of equal values, by SciPy."""

import threading

import numpy as np

_NEVER = 1 << 62
_LOCK = threading.Lock()


class SmallestObjects:
    """The size in pixels of the smallest 8-connected component of each class over many masks; not of the background."""

    def __init__(self, num_classes: int, background: int | None):
        self._least = np.full(num_classes, _NEVER)
        self._least[[] if background is None else background] = 0

    def add(self, mask: np.ndarray, pixels: np.ndarray) -> None:
        """A mask [H, W] of indices, or multi-label [H, W, C], with `pixels` of each class. From any thread."""
        sought = (pixels > 0) & (self._least > 1)  # it cannot be less
        if not sought.any():
            return
        found = np.full(256, _NEVER)
        if mask.ndim == 2:
            found = least_areas(mask, sought)
        else:
            for label in np.flatnonzero(sought).tolist():
                found[label] = least_areas(mask[..., label], np.array([False, True]))[1]
        with _LOCK:
            np.minimum(self._least, found[: len(pixels)], out=self._least)

    def found(self) -> np.ndarray:
        """int64 [C]: pixels of the smallest object of a class; 0 where there is none."""
        return np.where(self._least == _NEVER, 0, self._least)


def least_areas(mask: np.ndarray, sought: np.ndarray) -> np.ndarray:
    """int64 [256]: pixels of the smallest 8-connected component of each value; 2^62 where there is none.

    The components are those of the runs of equal values in the rows, of all values at once: OpenCV's, one map per value,
    take six times as long for masks of 11 classes.

    Args:
        mask: uint8 [H, W].
        sought: bool [n], whether to look for values below n.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, last, value = _runs(mask, sought)
    upper, lower = _neighbours(first, last, value, mask.shape[1])
    touching = coo_array((np.ones(len(upper), dtype=bool), (upper, lower)), shape=(len(value), len(value)))
    number, component = connected_components(touching, directed=False)
    areas = np.bincount(component, weights=last - first + 1, minlength=number).astype(np.int64)
    least = np.full(256, _NEVER)
    np.minimum.at(least, value, areas[component])
    return least


def _runs(mask: np.ndarray, sought: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and last pixel (row · width + column) and value of each run, in order."""
    flat = mask.ravel()
    ends = np.ones(flat.size, dtype=bool)
    np.not_equal(flat[1:], flat[:-1], out=ends[:-1])
    ends[mask.shape[1] - 1 :: mask.shape[1]] = True
    last = np.flatnonzero(ends)
    first = np.concatenate([[0], last[:-1] + 1])
    value = flat[last]
    chosen = np.isin(value, np.flatnonzero(sought).astype(np.uint8), kind="table")
    return first[chosen], last[chosen], value[chosen]


def _neighbours(first: np.ndarray, last: np.ndarray, value: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of runs of one value that touch, the upper and the one in the row below."""
    below = first // width * width + width  # where the next row begins
    start = np.searchsorted(last, np.maximum(first + width - 1, below))
    stop = np.searchsorted(first, np.minimum(last + width + 1, below + width - 1), side="right")
    number = stop - start
    upper = np.repeat(np.arange(len(first)), number)
    lower = np.arange(len(upper)) + np.repeat(start - (np.cumsum(number) - number), number)
    same = value[upper] == value[lower]
    return upper[same], lower[same]
