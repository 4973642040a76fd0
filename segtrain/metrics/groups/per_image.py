"""Scores per image and per class: means over images, and the worst images.

I and C as in Wang et al., 2023, https://arxiv.org/abs/2310.19252: I averages over the classes of an image and then over
images, C over the images of a class and then over classes. Only classes that the ground truth of the image shows count.
"""

import numpy as np

from segtrain.metrics.groups.group import Group
from segtrain.metrics.records import Score
from segtrain.metrics.table import Classes, Table, mean, nanmean, ratio

KINDS = {"iou": "IoU", "dice": "Dice", "accuracy": "recall"}
OVER = {
    "image": "mean over images of the mean over each image's classes",
    "class": "mean over classes of the mean over each class's images",
}


class PerImage(Group):
    """The I and C scores, and of each the mean of the worst `worst` percent, and over 10, 20 … 100 %.

    Named iou_image/mean, iou_image/foreground, iou_image/worst_5, iou_image/worst, iou_class/… and so on.
    """

    def __init__(self, classes: Classes, worst: list[int]):
        super().__init__(classes)
        self.worst = worst

    def scores(self, table: Table) -> dict[str, float]:
        (tp, fp, fn), present, foreground = table.counts, table.present, self.classes.foreground
        scores, values = {}, (ratio(tp, tp + fp + fn), ratio(2 * tp, 2 * tp + fp + fn), ratio(tp, tp + fn))
        for name, value in zip(KINDS, values, strict=True):
            value = np.where(present, value, np.nan)
            image = nanmean(value, axis=1)
            scores[f"{name}_image/mean"] = mean(image)
            scores[f"{name}_image/foreground"] = mean(nanmean(value[:, foreground], axis=1))
            scores[f"{name}_class/mean"] = mean(nanmean(value, axis=0))
            scores[f"{name}_class/foreground"] = mean(nanmean(value[:, foreground], axis=0))
            for kind, columns in (("image", image[:, None]), ("class", value)):
                found = _worst(columns, [*self.worst, *range(10, 101, 10)])
                scores |= {f"{name}_{kind}/worst_{q}": v for q, v in zip(self.worst, found, strict=False)}
                scores[f"{name}_{kind}/worst"] = mean(np.array(found[len(self.worst) :]))
        return scores

    def records(self, table: Table) -> list[Score]:
        records, images = [], self._images(table)
        for name, words in KINDS.items():
            kinds = {over: Score(f"{name}_{over}", f"{words}: {text}") for over, text in OVER.items()}
            for kind in kinds.values():
                records += [kind.of("mean"), kind.of("foreground", "without the background")]
            for over, kind in kinds.items():
                worst = [(q, f"worst {q} % of the images{_how_many(q, images[over])}") for q in self.worst]
                records += [kind.of(f"worst_{q}", text) for q, text in worst]
                records.append(kind.of("worst", "mean of the worst 10, 20, … 100 % of the images"))
        return records

    def of_one_image(self, table: Table) -> list[str]:
        images = self._images(table)
        alone = [(over, q) for over in OVER for q in self.worst if _kept(q, images[over]).max(initial=0) == 1]
        return [f"{name}_{over}/worst_{q}" for name in KINDS for over, q in alone]

    def _images(self, table: Table) -> dict[str, np.ndarray]:
        """Images with a score: in all, and of each class that has any."""
        present = table.present
        each = present.sum(axis=0)
        return {"image": np.array([present.any(axis=1).sum()]), "class": each[each > 0]}


def _kept(percent: int, images: np.ndarray) -> np.ndarray:
    """The number of images that the worst `percent` of `images` are: at least one."""
    return np.maximum(1, percent * images // 100)


def _how_many(percent: int, images: np.ndarray) -> str:
    """How many images `_kept` keeps, for a record."""
    if not images.any():
        return ", at least one"
    low, high = _kept(percent, images).min(), _kept(percent, images).max()
    each = "of each class" if len(images) > 1 else f"of {images[0]}"
    return f": {low if low == high else f'{low} to {high}'} {each}{', so no interval' if high == 1 else ''}"


def _worst(columns: np.ndarray, percents: list[int]) -> list[float]:
    """For each of `percents` the mean over columns [images, K] of the mean of the lowest percent of the values that are
    defined, at least one."""
    defined = (~np.isnan(columns)).sum(axis=0)
    sums = np.cumsum(np.nan_to_num(np.sort(columns, axis=0)), axis=0)[:, defined > 0]
    defined, found = defined[defined > 0], []
    for percent in percents:
        kept = _kept(percent, defined)
        found.append(mean(sums[kept - 1, np.arange(len(kept))] / kept))
    return found
