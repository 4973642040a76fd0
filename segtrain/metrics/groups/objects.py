"""Object recall: are objects found, small ones too? An object is a connected component of a class in the ground truth."""

import numpy as np

from segtrain.metrics.groups.group import Counts, Group
from segtrain.metrics.records import Score
from segtrain.metrics.regions import Region
from segtrain.metrics.table import Classes, Table, ratio

BY_SIZE = "Objects found, by size"
SIZES = ("small", "medium", "large")


class Objects(Group):
    """Objects of each class and size, and how many of them are found. The arguments are those of SegmentationScores."""

    by_region = True

    def __init__(self, classes: Classes, sizes: list[int], overlap: float):
        super().__init__(classes)
        self.sizes, self.overlap = sizes, overlap

    def arrays(self) -> dict[str, Counts]:
        return {"objects": Counts((len(self.classes), 3, 2))}

    def margin(self, _size: tuple[int, int]) -> int:
        """Pixels around a mask that its counts depend on."""
        return 0

    def count_region(self, region: Region) -> dict[str, np.ndarray]:
        """objects: int64 [classes, 3, 2], found and all of them, small, medium and large. Neighbours are 8."""
        import cv2

        classes = len(region.classes)
        ids, ends = np.zeros(region.truth.shape, np.int32), [0]  # of objects: of the first class, then of the second, …
        for index in range(classes):
            mask = (region.truth == index).view(np.uint8)
            found, objects = cv2.connectedComponents(mask, connectivity=8)
            cv2.add(objects, ends[-1], dst=ids, mask=mask)
            ends.append(ends[-1] + found - 1)
        areas = np.bincount(ids.ravel(), minlength=ends[-1] + 1)[1:]
        hits = np.bincount(ids[region.predicted == region.truth], minlength=ends[-1] + 1)[1:]
        kind = np.repeat(np.arange(classes), np.diff(ends)) * 3 + np.searchsorted(self.sizes, areas, side="right")
        kinds = [np.bincount(k, minlength=3 * classes) for k in (kind[hits >= self.overlap * areas], kind)]
        return {"objects": np.stack(kinds, axis=1).reshape(classes, 3, 2)}

    def scores(self, table: Table) -> dict[str, float]:
        """object_recall, and object_recall_small, _medium and _large; each as mean, foreground, class."""
        found, every = np.moveaxis(table["objects"].sum(axis=0), -1, 0)
        scores = self.classes.scores("object_recall", ratio(found.sum(axis=1), every.sum(axis=1)))
        for name, values in zip(SIZES, ratio(found, every).T, strict=True):
            scores |= self.classes.scores(f"object_recall_{name}", values)
        return scores

    def records(self, table: Table) -> list[Score]:
        found = f"of which at least {100 * self.overlap:g} % of the pixels are found"
        kinds = [Score("object_recall", f"share of the objects {found}", section="Detection")]
        medium, large = self.sizes
        bounds = [f"fewer than {medium}", f"{medium} to fewer than {large}", f"{large} or more"]
        for size, pixels in zip(SIZES, bounds, strict=True):
            meaning = f"share of the objects with {pixels} pixels {found}"
            kinds.append(Score(f"object_recall_{size}", meaning, section="Detection", chart=BY_SIZE, label=size))
        return [record for kind in kinds for record in kind.everywhere(self.classes.names)]

    def per_class(self, table: Table) -> dict[str, np.ndarray]:
        """objects: in the ground truth."""
        return {"objects": table["objects"][..., 1].sum(axis=(0, 2))}
