"""Scores from the table of true positives, false positives and false negatives per image and class.

D, I and C as in Wang et al., 2023, https://arxiv.org/abs/2310.19252: D adds all images up before it divides, I
averages over the classes of an image and then over images, C over the images of a class and then over classes.
A class is active in an image when truth shows it there; only active classes have a score in I and C.
"""

from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class Table:
    """What all scores derive from.

    Attributes:
        counts: int64 [images, C, 3]: true positives, false positives, false negatives.
        valid: int64 [images, C]: pixels that count, in the channel of each class.
        class_names: C names.
        background: index of the class that foreground scores leave out, or None.
        multilabel: whether a pixel may have several classes.
        more: int64 [images, …], what other groups of scores count.
    """

    counts: np.ndarray
    valid: np.ndarray
    class_names: list[str]
    background: int | None
    multilabel: bool
    more: dict[str, np.ndarray] = field(default_factory=dict)

    def of(self, images: np.ndarray) -> "Table":
        """The rows `images`, which may repeat."""
        more = {name: array[images] for name, array in self.more.items()}
        return replace(self, counts=self.counts[images], valid=self.valid[images], more=more)

    @property
    def foreground(self) -> np.ndarray:
        """bool [C]."""
        return np.arange(len(self.class_names)) != (-1 if self.background is None else self.background)


def per_class(table: Table) -> dict[str, np.ndarray]:
    """iou, dice, precision, recall (NaN where undefined), support (truth pixels) and images with the class, each [C]."""
    tp, fp, fn = table.counts.sum(axis=0).T
    return {
        "iou": ratio(tp, tp + fp + fn),
        "dice": ratio(2 * tp, 2 * tp + fp + fn),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "support": tp + fn,
        "images": _active(table).sum(axis=0),
    }


def per_image(table: Table) -> dict[str, np.ndarray]:
    """A column a score, a row an image: accuracy, iou (mean over the image's classes), foreground pixels in truth and
    prediction, and of each class the pixels in truth and in prediction, and iou (NaN where truth does not have it)."""
    tp, fp, fn = np.moveaxis(table.counts, 2, 0)
    iou = np.where(_active(table), ratio(tp, tp + fp + fn), np.nan)
    accuracy = ratio(table.valid.sum(axis=1) - (fp + fn).sum(axis=1), table.valid.sum(axis=1))
    columns = {
        "accuracy": accuracy if table.multilabel else ratio(tp.sum(axis=1), table.valid[:, 0]),
        "iou": nanmean(iou, axis=1),
        "foreground_pixels": (tp + fn)[:, table.foreground].sum(axis=1),
        "foreground_said": (tp + fp)[:, table.foreground].sum(axis=1),
    }
    for c, name in enumerate(table.class_names):
        columns |= {f"pixels/{name}": (tp + fn)[:, c], f"said/{name}": (tp + fp)[:, c], f"iou/{name}": iou[:, c]}
    return columns


def standard(table: Table) -> dict[str, float]:
    """The D scores: means, foreground, per class; accuracy, balanced accuracy, kappa, frequency-weighted IoU."""
    classes, foreground = per_class(table), table.foreground
    scores = {}
    for name in ("iou", "dice"):
        scores[f"{name}/mean"] = mean(classes[name])
        scores[f"{name}/foreground"] = mean(classes[name][foreground])
    scores["accuracy"] = _accuracy(table)
    scores["balanced_accuracy"] = mean(classes["recall"])
    share = ratio(classes["support"], classes["support"].sum())
    scores["frequency_weighted_iou"] = float(np.nansum(share * classes["iou"])) if share.sum() > 0 else float("nan")
    if not table.multilabel:
        scores["kappa"] = _kappa(table)
    for name in ("iou", "dice", "precision", "recall"):
        scores |= {f"{name}/{c}": float(v) for c, v in zip(table.class_names, classes[name], strict=True)}
    return scores


def fine_grained(table: Table, worst: list[int]) -> dict[str, float]:
    """The I and C scores, and of each the mean of the worst `worst` percent, and over 10, 20 … 100 %.

    Named iou_image/mean, iou_image/foreground, iou_image/worst_5, iou_image/worst, iou_class/… and so on.
    """
    tp, fp, fn = np.moveaxis(table.counts, 2, 0)
    active = _active(table)
    values = {"iou": ratio(tp, tp + fp + fn), "dice": ratio(2 * tp, 2 * tp + fp + fn), "accuracy": ratio(tp, tp + fn)}
    scores = {}
    for name, value in values.items():
        value = np.where(active, value, np.nan)
        image = nanmean(value, axis=1)
        scores[f"{name}_image/mean"] = mean(image)
        scores[f"{name}_image/foreground"] = mean(nanmean(value[:, table.foreground], axis=1))
        scores[f"{name}_class/mean"] = mean(nanmean(value, axis=0))
        scores[f"{name}_class/foreground"] = mean(nanmean(value[:, table.foreground], axis=0))
        for kind, columns in (("image", image[:, None]), ("class", value)):
            found = _worst(columns, [*worst, *range(10, 101, 10)])
            scores |= {f"{name}_{kind}/worst_{q}": v for q, v in zip(worst, found, strict=False)}
            scores[f"{name}_{kind}/worst"] = mean(np.array(found[len(worst) :]))
    return scores


def presence(table: Table, min_area: int) -> dict[str, float]:
    """Is a class said to be in the images it is in, and only there? At least `min_area` predicted pixels say so.

    presence_recall and presence_precision as mean, foreground, class; `specificity`: of the images without foreground,
    the share in which none is predicted (1 - specificity is the rate of false alarms).
    """
    truth, said = _active(table), table.counts[..., :2].sum(axis=2) >= min_area
    hits = (truth & said).sum(axis=0)
    recall, precision = ratio(hits, truth.sum(axis=0)), ratio(hits, said.sum(axis=0))
    scores = by_class("presence_recall", recall, table) | by_class("presence_precision", precision, table)
    empty, alarms = false_alarms(table, min_area)
    return scores | {"specificity": float(ratio((empty & ~alarms).sum(), empty.sum()))}


def false_alarms(table: Table, min_area: int) -> tuple[np.ndarray, np.ndarray]:
    """bool [images] each: has valid pixels and no foreground; is said to have at least `min_area` of a foreground class."""
    empty = ~_active(table)[:, table.foreground].any(axis=1) & table.valid.any(axis=1)
    said = table.counts[..., :2].sum(axis=2) >= min_area
    return empty, said[:, table.foreground].any(axis=1)


def by_class(name: str, values: np.ndarray, table: Table) -> dict[str, float]:
    """{name/mean, name/foreground (without background), name/<class>}."""
    scores = {f"{name}/mean": mean(values), f"{name}/foreground": mean(values[table.foreground])}
    return scores | {f"{name}/{c}": float(v) for c, v in zip(table.class_names, values, strict=True)}


def ratio(over, under) -> np.ndarray:
    """over / under, NaN where under is 0."""
    over, under = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    return np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)


def mean(values: np.ndarray) -> float:
    """Of those that are defined; NaN when none is. Sorted first: the order of images must not change the last bit."""
    defined = np.sort(values[~np.isnan(values)])
    return float(defined.mean()) if len(defined) else float("nan")


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """As numpy.nanmean, without a warning where all are NaN, and whatever the order."""
    values = np.sort(values, axis=axis)
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=axis), defined.sum(axis=axis))


def _active(table: Table) -> np.ndarray:
    """bool [images, C]: whether truth shows the class in the image."""
    return table.counts[..., 0] + table.counts[..., 2] > 0


def _worst(columns: np.ndarray, percents: list[int]) -> list[float]:
    """For each of `percents` the mean over columns [images, K] of the mean of the lowest percent of the values that are
    defined, at least one."""
    defined = (~np.isnan(columns)).sum(axis=0)
    sums = np.cumsum(np.nan_to_num(np.sort(columns, axis=0)), axis=0)[:, defined > 0]
    defined, found = defined[defined > 0], []
    for percent in percents:
        kept = np.maximum(1, percent * defined // 100)
        found.append(mean(sums[kept - 1, np.arange(len(kept))] / kept))
    return found


def _accuracy(table: Table) -> float:
    """Share of valid pixels (multi-label: of valid values of all channels) that are right."""
    tp, fp, fn = table.counts.sum(axis=(0, 1))
    valid = table.valid.sum(axis=0)
    if table.multilabel:
        return float(ratio(valid.sum() - fp - fn, valid.sum()))
    return float(ratio(tp, valid[0]))


def _kappa(table: Table) -> float:
    """Cohen's kappa of truth and prediction: agreement above that of chance, over the most there could be."""
    tp, fp, fn = (v.astype(np.float64) for v in table.counts.sum(axis=0).T)
    total = (tp + fn).sum()
    agreed, chance = ratio(tp.sum(), total), ratio(((tp + fn) * (tp + fp)).sum(), total**2)
    return float(ratio(agreed - chance, 1 - chance))
