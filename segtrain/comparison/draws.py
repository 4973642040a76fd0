"""The clustered bootstrap: draws of groups of images, and scores of the counts in a draw."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000


def draw_groups(groups: np.ndarray, draws: int = DRAWS, seed: int = 0, shown: np.ndarray | None = None) -> np.ndarray:
    """float32 [draws, images]: how often each image is in a draw of as many groups, with replacement.

    Args:
        groups: the group of each image.
        shown: bool [images, K], what an image shows, such as the classes in its ground truth: of what a draw lacks it gets
            one more group, so that all means are over the same classes.
    """
    _, index = np.unique(groups, return_inverse=True)
    count = index.max() + 1
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws)
    for label in range(0 if shown is None else shown.shape[1]):
        having = np.unique(index[shown[:, label]])
        lacking = np.flatnonzero(drawn[:, having].sum(axis=1) == 0) if len(having) else []
        drawn[lacking, rng.choice(having, len(lacking)) if len(lacking) else []] += 1
    return drawn.astype(np.float32)[:, index]


def without_each(groups: np.ndarray, table: np.ndarray) -> np.ndarray:
    """float32 [groups, 4, C]: the sums of counts [images, 4, C] without the images of one group.

    Args:
        groups: the group of each image. Of more than DRAWS of them some are left out together.
    """
    index = np.unique(groups, return_inverse=True)[1] % DRAWS
    order = np.argsort(index, kind="stable")
    of_group = np.add.reduceat(table[order], np.searchsorted(index[order], np.arange(index.max() + 1)))
    return (table.sum(axis=0) - of_group).astype(np.float32)


def pooled_score(name: str, sums: np.ndarray, class_names: list[str], foreground: np.ndarray) -> np.ndarray:
    """float […]: a score of counts […, 4, C], tp, fp, fn and valid pixels of each class; NaN where undefined.

    Classes that neither the ground truth nor the prediction shows are left out of means, as in the scores of a run.

    Args:
        name: iou, dice, precision or recall, of mean, foreground or a class: iou/mean.
        foreground: bool [C].

    Raises KeyError for another name.
    """
    kind, _, part = name.partition("/")
    of_class = part in class_names and part not in ("mean", "foreground")
    if of_class:
        sums = sums[..., [class_names.index(part)]]
    tp, fp, fn = (sums[..., k, :].astype(np.float64) for k in range(3))
    if name == "accuracy":
        valid = sums[..., 3, :].astype(np.float64)
        one = [np.allclose((tp + wrong).sum(axis=-1), valid[..., 0]) for wrong in (fn, fp)]
        if all(one):  # label per pixel, in ground truth and prediction
            return _ratio(tp.sum(axis=-1), valid[..., 0])
        return _ratio((valid - fp - fn).sum(axis=-1), valid.sum(axis=-1))
    over, under = {
        "iou": (tp, tp + fp + fn),
        "dice": (2 * tp, 2 * tp + fp + fn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
    }[kind]
    values = _ratio(over, under)
    if part in ("mean", "foreground"):
        values = values if part == "mean" else values[..., foreground]
        defined = ~np.isnan(values)
        return _ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))
    if not of_class:
        raise KeyError(name)
    return values[..., 0]


@dataclass(frozen=True)
class Counted:
    """Counts of which `pooled_score` gives a score by `name`.

    Attributes:
        tables: int64 [images, 4, C], of each run or seed.
        name: under which `pooled_score` knows the score.
        classes: of the tables.
        foreground: bool [C].
    """

    tables: list[np.ndarray]
    name: str
    classes: list[str]
    foreground: np.ndarray

    def scores(self) -> np.ndarray:
        """float [tables]. Raises KeyError for a score that counts do not give."""
        sums = np.stack([table.sum(axis=0) for table in self.tables])
        return pooled_score(self.name, sums, self.classes, self.foreground)


def counts_images(name: str) -> bool:
    """Whether a score counts images, not pixels."""
    return name.startswith(("presence_recall/", "presence_precision/")) or name == "specificity"


def counted_for(
    name: str, tables: list[np.ndarray], classes: Sequence[str], foreground: np.ndarray, min_area: int | None
) -> Counted:
    """The counts for a score: presence and specificity are recall and precision of images in place of pixels.

    Args:
        min_area: predicted pixels from which on a class is found in an image; None where runs differ in it.
    """
    kind, _, part = name.partition("/")
    if min_area is None or not counts_images(name):
        return Counted(tables, name, list(classes), foreground)
    present = [table[:, 0] + table[:, 2] > 0 for table in tables]
    predicted = [table[:, 0] + table[:, 1] >= min_area for table in tables]
    if name == "specificity":
        clean = [~p[:, foreground].any(axis=1) & t[:, 3].any(axis=1) for p, t in zip(present, tables, strict=True)]
        alarm = [p[:, foreground].any(axis=1) for p in predicted]
        of_images = [_images(c[:, None], ~a[:, None]) for c, a in zip(clean, alarm, strict=True)]
        return Counted(of_images, "recall/clean", ["clean"], np.array([True]))
    of_images = [_images(there, found) for there, found in zip(present, predicted, strict=True)]
    return Counted(of_images, f"{kind.removeprefix('presence_')}/{part}", list(classes), foreground)


def _images(present: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """int64 [images, 4, C] of bool [images, C]: what is 1 for tp, fp, fn, and for every image."""
    return np.stack(
        [present & predicted, ~present & predicted, present & ~predicted, np.ones_like(present)], axis=1
    ).astype(np.int64)


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """As segtrain.metrics.table.ratio, whose package imports torch: `compare` starts without those seconds."""
    return np.divide(over, under, out=np.full(np.broadcast(over, under).shape, np.nan), where=under > 0)
