"""Scores at borders: Boundary IoU, boundary F1, and how far from the true border the errors are."""

import numpy as np

from segtrain.metrics.derived import Table, by_class, ratio
from segtrain.metrics.regions import Region

_LARGE = 16  # pixels from which a distance transform is faster than the dilation by a disc


class Boundary:
    """Counts of one class in one image, and the scores of their sums.

    Lengths below 1 are shares of the image's diagonal, others pixels.

    Args:
        width: of the band inside the border in which Boundary IoU compares masks. Cheng et al., 2021,
            https://arxiv.org/abs/2103.16562: 0.02.
        tolerance: how far a contour pixel may be off to be right, for boundary F1. Csurka et al., 2013, "What is a
            good evaluation measure for semantic segmentation?": 0.0075.
        distances: two distances in pixels that divide errors into slips of the border, errors near it, and others.
    """

    def __init__(self, width: float, tolerance: float, distances: list[float]):
        self.width, self.tolerance, self.distances = width, tolerance, distances
        first, second = distances
        self.error_names = (f"errors_within_{first:g}", f"errors_{first:g}_to_{second:g}", f"errors_beyond_{second:g}")

    def shapes(self, num_classes: int) -> dict[str, tuple[int, ...]]:
        """What is counted of an image."""
        return {"band": (num_classes, 3), "contour": (num_classes, 4), "distance": (num_classes, 3)}

    def margin(self, shape: tuple[int, int]) -> int:
        """Pixels around a mask that its counts depend on."""
        return int(max(_pixels(self.width, shape), _pixels(self.tolerance, shape), *self.distances)) + 2

    def count(self, region: Region) -> dict[str, list[int]]:
        """band: tp, fp, fn within the band; contour: said ones that are right, said, true ones found, true;
        distance: wrong pixels (fp and fn) by distance from the border of truth."""
        return {"band": self._band(region), "contour": self._contour(region), "distance": self._distance(region)}

    def scores(self, table: Table) -> dict[str, float]:
        """boundary_iou, boundary_f1, and the shares of all wrong pixels by distance; each as mean, foreground, class."""
        tp, fp, fn = np.moveaxis(table.more["band"].sum(axis=0), -1, 0)
        right, said, found, true = np.moveaxis(table.more["contour"].sum(axis=0), -1, 0)
        precision, recall = np.nan_to_num(ratio(right, said)), np.nan_to_num(ratio(found, true))
        f1 = np.where(said + true > 0, np.nan_to_num(ratio(2 * precision * recall, precision + recall)), np.nan)
        scores = by_class("boundary_iou", ratio(tp, tp + fp + fn), table) | by_class("boundary_f1", f1, table)
        wrong = table.more["distance"].sum(axis=0)
        for name, part in zip(self.error_names, wrong.T, strict=True):
            scores[f"{name}/all"] = float(ratio(part.sum(), wrong.sum()))
            shares = ratio(part, wrong.sum(axis=1))
            scores |= {f"{name}/{c}": float(v) for c, v in zip(table.class_names, shares, strict=True)}
        return scores

    def _band(self, region: Region) -> list[int]:
        import cv2

        depth = max(1, round(_pixels(self.width, region.shape)))
        square = np.ones((3, 3), np.uint8)

        def band(mask: np.ndarray) -> np.ndarray:
            # As the authors do, the image's border is a border of the mask. That of ignored pixels is none.
            core = cv2.erode(
                mask | region.ignored, square, iterations=depth, borderType=cv2.BORDER_CONSTANT, borderValue=0
            )
            return mask & ~core

        said, truth = band(region.said), band(region.truth)
        both = np.count_nonzero(said & truth)
        return [both, np.count_nonzero(said) - both, np.count_nonzero(truth) - both]

    def _contour(self, region: Region) -> list[int]:
        import cv2

        reach = max(1.0, _pixels(self.tolerance, region.shape))
        cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))

        def contour(mask: np.ndarray) -> np.ndarray:
            """Pixels beside one that is not of the mask; where the image ends or is ignored, nothing is known."""
            return mask & ~cv2.erode(mask | region.ignored, cross)

        said, truth = contour(region.said), contour(region.truth)
        right, found = said & _within(truth, reach), truth & _within(said, reach)
        return [np.count_nonzero(line) for line in (right, said, found, truth)]

    def _distance(self, region: Region) -> list[int]:
        """A pixel too much is as far as the nearest true pixel, a missed one as the nearest that is of no or another class;
        of ignored pixels nothing is known."""
        said, truth = region.said, region.truth
        counts = np.zeros(3, np.int64)
        for wrong, border in ((said & ~truth, truth), (truth & ~said, 1 - (truth | region.ignored))):
            first, second = (np.count_nonzero(wrong & _within(border, d)) for d in self.distances)
            counts += [first, second - first, np.count_nonzero(wrong) - second]
        return counts.tolist()


def _within(mask: np.ndarray, distance: float) -> np.ndarray:
    """uint8 [h, w]: pixels at most `distance` from one of the mask."""
    import cv2

    if not mask.any():
        return mask
    if distance > _LARGE:
        return (cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= distance).view(np.uint8)
    steps = np.arange(-int(distance), int(distance) + 1)
    return cv2.dilate(mask, (np.hypot(steps, steps[:, None]) <= distance).astype(np.uint8))


def _pixels(length: float, shape: tuple[int, int]) -> float:
    return length if length >= 1 else length * float(np.hypot(*shape))
