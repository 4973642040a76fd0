"""Scores at borders: Boundary IoU, boundary F1, and how far from the true border the errors are."""

import numpy as np

from segtrain.metrics.groups.group import Counts, Group
from segtrain.metrics.records import Score
from segtrain.metrics.regions import IGNORED, Region, pixels_by_class
from segtrain.metrics.table import Classes, Table, ratio

SECTION = "At borders"
BY_DISTANCE = "Wrong pixels by distance from the true border"


class Boundary(Group):
    """Counts along the borders of each class, and the scores of their sums.

    Boundary IoU: Cheng et al., 2021, https://arxiv.org/abs/2103.16562. Boundary F1: Csurka et al., 2013, "What is a good
    evaluation measure for semantic segmentation?". The arguments are those of SegmentationScores.
    """

    by_region = True

    def __init__(self, classes: Classes, width: float, tolerance: float, distances: list[float]):
        super().__init__(classes)
        self.width, self.tolerance, self.distances = width, tolerance, distances
        first, second = distances
        ranges = (f"within {first:g}", f"{first:g} to {second:g}", f"beyond {second:g}")
        self.ranges = {f"errors_{pixels.replace(' ', '_')}": pixels for pixels in ranges}  # errors_within_2, …

    def arrays(self) -> dict[str, Counts]:
        return {name: Counts((len(self.classes), n)) for name, n in (("band", 3), ("contour", 4), ("distance", 3))}

    def margin(self, size: tuple[int, int]) -> int:
        """Pixels around a mask that its counts depend on."""
        return int(max(_pixels(self.width, size), _pixels(self.tolerance, size), *self.distances)) + 2

    def count_region(self, region: Region) -> dict[str, np.ndarray]:
        """band: tp, fp, fn within the band; contour: predicted pixels that are right, predicted, true ones found, true;
        distance: wrong pixels (fp and fn) by distance from the border of the ground truth. A row for each class."""
        count, wrong = max(2, len(region.classes)), region.predicted != region.truth
        bands, both = self._bands(region)
        lines, right = self._contours(region, count)
        near = [self._errors_within(region, count, distance, wrong) for distance in self.distances]
        flags = ("band", "both", "line", "right", "wrong", "first", "second")
        p, t = (
            pixels_by_class(mask, dict(zip(flags, values, strict=True)), len(region.classes))
            for mask, *values in zip(
                (region.predicted, region.truth), bands, (both, both), lines, right, (wrong, wrong), *near, strict=True
            )
        )
        first, second, every = (p[flag] + t[flag] for flag in ("first", "second", "wrong"))
        return {
            "band": np.stack([p["both"], p["band"] - p["both"], t["band"] - p["both"]], axis=1),
            "contour": np.stack([p["right"], p["line"], t["right"], t["line"]], axis=1),
            "distance": np.stack([first, second - first, every - second], axis=1),
        }

    def scores(self, table: Table) -> dict[str, float]:
        """boundary_iou, boundary_f1, and the shares of all wrong pixels by distance; each as mean, foreground, class."""
        tp, fp, fn = np.moveaxis(table["band"].sum(axis=0), -1, 0)
        right, predicted, found, true = np.moveaxis(table["contour"].sum(axis=0), -1, 0)
        precision, recall = np.nan_to_num(ratio(right, predicted)), np.nan_to_num(ratio(found, true))
        f1 = np.where(predicted + true > 0, np.nan_to_num(ratio(2 * precision * recall, precision + recall)), np.nan)
        scores = self.classes.scores("boundary_iou", ratio(tp, tp + fp + fn)) | self.classes.scores("boundary_f1", f1)
        wrong = table["distance"].sum(axis=0)
        for kind, part in zip(self.ranges, wrong.T, strict=True):
            scores[f"{kind}/all"] = float(ratio(part.sum(), wrong.sum()))
            scores |= self.classes.named(kind, ratio(part, wrong.sum(axis=1)))
        return scores

    def records(self, table: Table) -> list[Score]:
        names, widths = self.classes.names, (_length(self.width), _length(self.tolerance))
        band = f"IoU of the bands inside the borders, {widths[0]} wide; equal to IoU for objects thinner than two bands"
        kinds = [
            Score("boundary_iou", band, section=SECTION),
            Score("boundary_f1", f"F1 of the contours; a contour pixel is right within {widths[1]}", section=SECTION),
        ]
        records = [record for kind in kinds for record in kind.everywhere(names)]
        for name, pixels in self.ranges.items():
            meaning = f"share of the wrong pixels that are {pixels} pixels from the true border"
            near = not pixels.startswith("beyond")  # of these shares, that far from the border is the worse one to have
            shown = {"section": SECTION, "chart": BY_DISTANCE, "label": f"{pixels} pixels"}
            kind = Score(name, meaning, higher_is_better=near, **shown)
            records += [kind.of("all", "all classes"), *kind.of_classes(names)]
        return records

    def _bands(self, region: Region) -> tuple[list[np.ndarray], np.ndarray]:
        """Where prediction and ground truth are within the band of a border, and where both are and agree."""
        depth = max(1, round(_pixels(self.width, region.shape)))
        square = np.ones((2 * depth + 1, 2 * depth + 1), np.uint8)
        # As the authors do, the image's border is a border of the mask. That of ignored pixels is none.
        bands = [_beside_another(labels, square, image_ends=True) for labels in (region.predicted, region.truth)]
        return bands, bands[0] & bands[1] & (region.predicted == region.truth)

    def _contours(self, region: Region, count: int) -> tuple[list[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Pixels beside one of another class, in prediction and ground truth, and those that the other one has, too.

        Where the image ends or is ignored, nothing is known.
        """
        import cv2

        reach = max(1.0, _pixels(self.tolerance, region.shape))
        cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
        lines = [_beside_another(labels, cross, image_ends=False) for labels in (region.predicted, region.truth)]
        predicted, truth = (
            _bits(np.where(line, labels, IGNORED), count)
            for line, labels in zip(lines, (region.predicted, region.truth), strict=True)
        )
        return lines, (_any(predicted & _within(truth, reach)), _any(truth & _within(predicted, reach)))

    def _errors_within(self, region: Region, count: int, distance: float, wrong: np.ndarray) -> list[np.ndarray]:
        """False positives and false negatives that are within `distance` of the true border.

        A false positive is as far as the nearest true pixel of its class, a false negative as the nearest of another; of
        ignored pixels nothing is known.
        """
        truth = _bits(region.truth, count)
        around = _within(truth, distance)
        return [wrong & _any(_bits(region.predicted, count) & around), wrong & _any(~truth & around)]


def _beside_another(labels: np.ndarray, neighbours: np.ndarray, image_ends: bool) -> np.ndarray:
    """bool [h, w]: labelled pixels among whose neighbours is one of another label, or with `image_ends` none."""
    import cv2

    known = labels != IGNORED
    outside = {"borderType": cv2.BORDER_CONSTANT}
    lowest = cv2.erode(labels, neighbours, borderValue=0 if image_ends else IGNORED, **outside)
    highest = cv2.dilate(np.where(known, labels, 0), neighbours, borderValue=IGNORED if image_ends else 0, **outside)
    return known & (lowest != highest)


def _bits(labels: np.ndarray, count: int) -> np.ndarray:
    """[words, h, w]: a bit for each of `count` labels, in as small or as many words as it takes; 0 where ignored."""
    words = -(-count // 64)
    kind = np.uint64 if words > 1 else np.min_scalar_type((1 << count) - 1)
    table = np.zeros((words, 256), kind)
    for label in range(count):
        table[label // 64, label] = 1 << label % 64
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


def _length(length: float) -> str:
    return f"{length:g} pixels" if length >= 1 else f"{100 * length:g} % of the diagonal"
