"""Thresholds and presence of classes: the best on some images, and how good they are on others (cross-fitting).

What was chosen on images is too good on the same ones. Cross-fitting leaves out a fifth of them at a time, chooses on the
rest, and scores what was left out; images of a group (scene, patient) are left out together.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segtrain.metrics.curves import COARSE, Curves, probability
from segtrain.metrics.table import ratio

FOLDS = 5
AREAS = np.unique(np.round(2 ** np.arange(0, 18, 0.5)).astype(int))  # pixels
MOST_WORTH = 1e6  # by which false alarms decide alone
LEVELS = probability(COARSE)  # lower ends of the parts of `levels`


@dataclass
class Counted:
    """Pixels of each image and class that presence and thresholds are chosen from.

    Attributes:
        levels: int [N, C, parts, 2], pixels that are not and that are of the class, by its probability (parts of COARSE).
        tp, fp, fn: int [N, C], with the prediction that is to be changed.
    """

    levels: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray

    def of(self, images: np.ndarray) -> "Counted":
        return Counted(self.levels[images], self.tp[images], self.fp[images], self.fn[images])

    def at_thresholds(self, parts: np.ndarray) -> "Counted":
        """With the prediction of each class from the part of its threshold upwards, int [C]."""
        above = np.arange(self.levels.shape[2]) >= parts[:, None]
        fp, tp = np.moveaxis((self.levels * above[None, :, :, None]).sum(axis=2), -1, 0)
        return Counted(self.levels, tp, fp, self.levels[..., 1].sum(axis=2) - tp)


@dataclass
class Presence:
    """When a class counts as present in an image: so many pixels have at least this probability of it.

    Attributes:
        area: int [C]; 0: always.
        confidence: float [C].
    """

    area: np.ndarray
    confidence: np.ndarray

    def kept(self, levels: np.ndarray) -> np.ndarray:
        """bool [N, C]."""
        above = self.confidence[:, None] - 1e-12 <= LEVELS
        return (levels.sum(axis=3) * above).sum(axis=2) >= self.area

    def applied(self, counted: Counted) -> Counted:
        """With a class that is not present predicted nowhere in the image."""
        kept = self.kept(counted.levels)
        return Counted(counted.levels, counted.tp * kept, counted.fp * kept, counted.fn + counted.tp * ~kept)


def best_parts(counted: Counted) -> np.ndarray:
    """int [C]: the part of COARSE from which on a class is predicted, for the largest Dice of all images together.

    Of a class that they do not show, that of one half.
    """
    tp, fp, fn = Curves(counted.levels.sum(axis=0), COARSE).at_threshold()
    best = np.nan_to_num(ratio(2 * tp, 2 * tp + fp + fn)).argmax(axis=1)
    return np.where(tp[:, 0] > 0, best, np.searchsorted(LEVELS, 0.5))


def best_presence(counted: Counted, classes: np.ndarray, false_alarms: float | None = None) -> Presence:
    """Half the mean Dice of the images with the class and half the share of those without that stay clean, at its largest.

    So a class in one image of twenty is as much worth as the nineteen that must stay clean; with `false_alarms` clean images
    are worth more, until few enough have one.

    Args:
        classes: bool [C], those that may be left out; the background may not.
        false_alarms: largest share of the images without any of the classes in which one may be predicted; None: as many
            as are best.
    """
    worth = 1.0
    found = _best_presence(counted, classes, worth)
    while false_alarms is not None and alarmed(found.applied(counted), classes) > false_alarms and worth < MOST_WORTH:
        worth *= 1.25
        found = _best_presence(counted, classes, worth)
    return found


def alarmed(counted: Counted, classes: np.ndarray) -> float:
    """The share of the images without any of the classes in which one is predicted; 0 where every image has some."""
    empty = ~(counted.tp + counted.fn > 0)[:, classes].any(axis=1)
    return float((counted.fp > 0)[empty][:, classes].any(axis=1).mean()) if empty.any() else 0.0


def _best_presence(counted: Counted, classes: np.ndarray, worth: float) -> Presence:
    """Of a clean image, as much worth as `worth` images' mean Dice."""
    found = Presence(np.zeros(len(classes), int), np.zeros(len(classes)))
    dice = np.nan_to_num(ratio(2 * counted.tp, 2 * counted.tp + counted.fp + counted.fn))
    present, alarm = counted.tp + counted.fn > 0, counted.fp > 0
    for c in np.flatnonzero(classes):
        shown, clean = present[:, c], ~present[:, c]
        if not shown.any() or not clean.any():
            continue
        # What a prediction that is kept is worth.
        value = np.where(shown, dice[:, c] / shown.sum(), -worth * alarm[:, c] / clean.sum())
        pixels = counted.levels[:, c].sum(axis=2)[:, ::-1].cumsum(axis=1)[:, ::-1]  # [N, parts]: from each part upwards
        gains = np.stack([(value[:, None] * (pixels >= area)).sum(axis=0) for area in AREAS])
        area, part = np.unravel_index(gains.argmax(), gains.shape)
        if gains[area, part] > value.sum() + 1e-12:
            found.area[c], found.confidence[c] = AREAS[area], LEVELS[part]
    return found


def cross_fitted(
    counted: Counted,
    groups: Sequence[str],
    thresholds: bool,
    presence: np.ndarray | None,
    false_alarms: float | None = None,
) -> Counted:
    """Each image as it is with what was chosen on the other folds.

    Args:
        groups: the group of each image; every group lies in one fold.
        thresholds: choose thresholds.
        presence: bool [C], the classes whose presence is chosen; None: of none.
        false_alarms: of best_presence.
    """
    folds = folds_of(groups)
    tp, fp, fn = (np.zeros_like(counted.tp) for _ in range(3))
    for fold in np.unique(folds):
        here, others = counted.of(folds == fold), counted.of(folds != fold)
        if thresholds:
            parts = best_parts(others)
            here, others = here.at_thresholds(parts), others.at_thresholds(parts)
        if presence is not None:
            here = best_presence(others, presence, false_alarms).applied(here)
        tp[folds == fold], fp[folds == fold], fn[folds == fold] = here.tp, here.fp, here.fn
    return Counted(counted.levels, tp, fp, fn)


def folds_of(groups: Sequence[str]) -> np.ndarray:
    """int [N]: the fold of each image, by a hash of its group's name; folds have equal numbers of groups."""

    def order(name: str) -> bytes:
        return hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()

    number = {name: place % FOLDS for place, name in enumerate(sorted(set(groups), key=order))}
    return np.array([number[name] for name in groups], int)
