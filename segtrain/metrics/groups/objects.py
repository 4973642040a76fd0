"""Are objects found, small ones too? An object is a connected component of a class in truth."""

import numpy as np

from segtrain.metrics.regions import Region
from segtrain.metrics.table import Table, by_class, ratio

SIZES = ("small", "medium", "large")


class Objects:
    """Counts of one class in one image, and the scores of their sums.

    Args:
        sizes: pixels from which an object is medium, and large; COCO's are 32² and 96².
        overlap: share of an object's pixels that must be said to be of its class for it to be found.
    """

    def __init__(self, sizes: list[int], overlap: float):
        self.sizes, self.overlap = sizes, overlap

    def shapes(self, num_classes: int) -> dict[str, tuple[int, ...]]:
        """What is counted of an image."""
        return {"objects": (num_classes, 3, 2)}

    def margin(self, _size: tuple[int, int]) -> int:
        """Pixels around a mask that its counts depend on."""
        return 0

    def count(self, region: Region) -> dict[str, np.ndarray]:
        """objects: int64 [classes, 3, 2], found and all of them, small, medium and large. Neighbours are 8."""
        import cv2

        classes = len(region.classes)
        ids, ends = np.zeros(region.truth.shape, np.int32), [0]  # of objects: of the first class, then of the second, …
        for place in range(classes):
            mask = (region.truth == place).view(np.uint8)
            found, objects = cv2.connectedComponents(mask, connectivity=8)
            cv2.add(objects, ends[-1], dst=ids, mask=mask)
            ends.append(ends[-1] + found - 1)
        areas = np.bincount(ids.ravel(), minlength=ends[-1] + 1)[1:]
        hits = np.bincount(ids[region.said == region.truth], minlength=ends[-1] + 1)[1:]
        kind = np.repeat(np.arange(classes), np.diff(ends)) * 3 + np.searchsorted(self.sizes, areas, side="right")
        kinds = [np.bincount(k, minlength=3 * classes) for k in (kind[hits >= self.overlap * areas], kind)]
        return {"objects": np.stack(kinds, axis=1).reshape(classes, 3, 2)}

    def scores(self, table: Table) -> dict[str, float]:
        """object_recall, and object_recall_small, _medium and _large; each as mean, foreground, class."""
        found, every = np.moveaxis(table.more["objects"].sum(axis=0), -1, 0)
        scores = by_class("object_recall", ratio(found.sum(axis=1), every.sum(axis=1)), table)
        for name, values in zip(SIZES, ratio(found, every).T, strict=True):
            scores |= by_class(f"object_recall_{name}", values, table)
        return scores
