"""Scores at borders: Boundary IoU, boundary F1, and how far from the true border the errors are."""

import numpy as np

from segtrain.metrics.regions import IGNORED, Region, pixels_by_class
from segtrain.metrics.table import Table, by_class, ratio


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

    def count(self, region: Region) -> dict[str, np.ndarray]:
        """band: tp, fp, fn within the band; contour: said ones that are right, said, true ones found, true;
        distance: wrong pixels (fp and fn) by distance from the border of truth. A row for each class."""
        places, wrong = max(2, len(region.classes)), region.said != region.truth
        (said_band, true_band), both = self._bands(region)
        (said_line, true_line), right, found = self._contours(region, places)
        made_up, missed = zip(*(self._errors_within(region, places, d, wrong) for d in self.distances), strict=True)
        said = {"band": said_band, "both": both, "line": said_line, "right": right, "wrong": wrong}
        truth = {"band": true_band, "line": true_line, "right": found, "wrong": wrong}
        said |= {"first": made_up[0], "second": made_up[1]}
        truth |= {"first": missed[0], "second": missed[1]}
        p, t = (
            pixels_by_class(labels, flags, len(region.classes))
            for labels, flags in ((region.said, said), (region.truth, truth))
        )
        first, second, every = (p[flag] + t[flag] for flag in ("first", "second", "wrong"))
        return {
            "band": np.stack([p["both"], p["band"] - p["both"], t["band"] - p["both"]], axis=1),
            "contour": np.stack([p["right"], p["line"], t["right"], t["line"]], axis=1),
            "distance": np.stack([first, second - first, every - second], axis=1),
        }

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

    def _bands(self, region: Region) -> tuple[list[np.ndarray], np.ndarray]:
        """Where said and truth are within the band of a border, and where both are and agree."""
        depth = max(1, round(_pixels(self.width, region.shape)))
        square = np.ones((2 * depth + 1, 2 * depth + 1), np.uint8)
        # As the authors do, the image's border is a border of the mask. That of ignored pixels is none.
        bands = [_beside_another(labels, square, image_ends=True) for labels in (region.said, region.truth)]
        return bands, bands[0] & bands[1] & (region.said == region.truth)

    def _contours(self, region: Region, places: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Pixels beside one of another class, in said and in truth, and those of them that the other one has, too.

        Where the image ends or is ignored, nothing is known.
        """
        import cv2

        reach = max(1.0, _pixels(self.tolerance, region.shape))
        cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
        lines = [_beside_another(labels, cross, image_ends=False) for labels in (region.said, region.truth)]
        said, truth = (
            _bits(np.where(line, labels, IGNORED), places)
            for line, labels in zip(lines, (region.said, region.truth), strict=True)
        )
        return lines, _any(said & _within(truth, reach)), _any(truth & _within(said, reach))

    def _errors_within(self, region: Region, places: int, distance: float, wrong: np.ndarray):
        """Those of said, and those of truth, of the wrong pixels that are within `distance` of the true border.

        A pixel too much is as far as the nearest true pixel of its class, a missed one as the nearest of another; of
        ignored pixels nothing is known.
        """
        truth = _bits(region.truth, places)
        around = _within(truth, distance)
        return [wrong & _any(_bits(region.said, places) & around), wrong & _any(~truth & around)]


def _beside_another(labels: np.ndarray, neighbours: np.ndarray, image_ends: bool) -> np.ndarray:
    """bool [h, w]: labelled pixels among whose neighbours is one of another label, or with `image_ends` none."""
    import cv2

    known = labels != IGNORED
    outside = {"borderType": cv2.BORDER_CONSTANT}
    lowest = cv2.erode(labels, neighbours, borderValue=0 if image_ends else IGNORED, **outside)
    highest = cv2.dilate(np.where(known, labels, 0), neighbours, borderValue=IGNORED if image_ends else 0, **outside)
    return known & (lowest != highest)


def _bits(labels: np.ndarray, places: int) -> np.ndarray:
    """[words, h, w]: a bit for each label, in as small or as many words as it takes; 0 where ignored."""
    words = -(-places // 64)
    kind = np.uint64 if words > 1 else np.min_scalar_type((1 << places) - 1)
    table = np.zeros((words, 256), kind)
    for place in range(places):
        table[place // 64, place] = 1 << place % 64
    return np.stack([row.take(labels) for row in table])


def _any(words: np.ndarray) -> np.ndarray:
    return words.any(axis=0) if len(words) > 1 else words[0] != 0


def _within(bits: np.ndarray, distance: float) -> np.ndarray:
    """The bits of all pixels at most `distance` away: of every label at once, and exactly."""
    width, reach = bits.shape[-1], int(distance)
    heights = [int(np.sqrt(distance**2 - dx**2)) for dx in range(min(reach, width - 1) + 1)]
    # A disc is columns; the column of height h is that of h - 1 and the pixels h above and below.
    column, found = bits.copy(), np.zeros_like(bits)
    for height in range(reach + 1):
        if height:
            column[:, height:] |= bits[:, :-height]
            column[:, :-height] |= bits[:, height:]
        for dx in (dx for dx, h in enumerate(heights) if h == height):
            found[..., dx:] |= column[..., : width - dx]
            found[..., : width - dx] |= column[..., dx:]
    return found


def _pixels(length: float, shape: tuple[int, int]) -> float:
    return length if length >= 1 else length * float(np.hypot(*shape))
