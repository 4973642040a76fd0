"""Thresholds and presence of classes: the best on some images, and how good they are on others (cross-fitting).

What was chosen on images is too good on the same ones. Cross-fitting leaves out a fifth of them at a time, chooses on the
rest, and scores what was left out; images of a group (scene, patient) are left out together.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from segtrain.metrics.curves import COARSE, Curves, probability
from segtrain.metrics.table import ratio

FOLDS = 5
ROUNDS = 3
NEVER = np.iinfo(np.int32).max  # pixels: more than any image has
AREAS = np.unique([0, *np.round(2 ** np.arange(0, 18, 0.5)).astype(int), NEVER])  # pixels; 0: always
LEVELS = probability(COARSE).astype(np.float32)  # lower ends of the parts of `levels`, as the predictor computes
# Those that float32 tells from what is just below: nearer to 1 a probability may be rounded up, over the level.
CONFIDENCES = np.flatnonzero(LEVELS < 1 - 2**-14)


@dataclass
class TuningCounts:
    """Pixels of each image and class that presence and thresholds are chosen from.

    Attributes:
        levels: int [N, C, parts, 2], pixels that are not and that are of the class, by its probability (parts of COARSE).
        tp, fp, fn: int [N, C], with the prediction that is to be changed.
    """

    levels: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray

    def of(self, images: np.ndarray) -> "TuningCounts":
        return TuningCounts(self.levels[images], self.tp[images], self.fp[images], self.fn[images])

    def at_thresholds(self, parts: np.ndarray) -> "TuningCounts":
        """With the prediction of each class from the part of its threshold upwards, int [C]."""
        above = np.arange(self.levels.shape[2]) >= parts[:, None]
        fp, tp = np.moveaxis((self.levels * above[None, :, :, None]).sum(axis=2), -1, 0)
        return TuningCounts(self.levels, tp, fp, self.levels[..., 1].sum(axis=2) - tp)


@dataclass
class PresenceRule:
    """When a class counts as present in an image: so many pixels have at least this probability of it.

    Attributes:
        area: int [C]; 0: always.
        confidence: float [C].
    """

    area: np.ndarray
    confidence: np.ndarray

    def kept(self, levels: np.ndarray) -> np.ndarray:
        """bool [N, C]."""
        above = self.confidence[:, None] <= LEVELS
        return (levels.sum(axis=3) * above).sum(axis=2) >= self.area

    def applied(self, counted: TuningCounts) -> TuningCounts:
        """With a class that is not present predicted nowhere in the image."""
        kept = self.kept(counted.levels)
        return TuningCounts(counted.levels, counted.tp * kept, counted.fp * kept, counted.fn + counted.tp * ~kept)


def best_parts(counted: TuningCounts) -> np.ndarray:
    """int [C]: the part of COARSE from which on a class is predicted, for the largest Dice of all images together.

    Of a class that they do not show, that of one half.
    """
    tp, fp, fn = Curves(counted.levels.sum(axis=0), COARSE).at_threshold()
    best = np.nan_to_num(ratio(2 * tp, 2 * tp + fp + fn)).argmax(axis=1)
    return np.where(tp[:, 0] > 0, best, np.searchsorted(LEVELS, 0.5))


@dataclass
class Limit:
    """At most so many false alarms.

    Attributes:
        share: of the clean images those that may have one.
        clean: bool [N], images without foreground.
        foreground: bool [C], the classes whose prediction is an alarm.
        min_area: pixels of a class that count as a prediction.
    """

    share: float
    clean: np.ndarray
    foreground: np.ndarray
    min_area: int = 1

    def of(self, images: np.ndarray) -> "Limit":
        return replace(self, clean=self.clean[images])

    @property
    def allowed(self) -> int:
        """Images that may have a false alarm."""
        return int(self.share * self.clean.sum() + 1e-9)

    def alarms(self, counted: TuningCounts) -> np.ndarray:
        """bool [N, C]: a class is predicted in a clean image."""
        return (counted.tp + counted.fp >= self.min_area) & self.foreground & self.clean[:, None]


class _Options:
    """Dice and false alarms of a class for each smallest area and confidence.

    Attributes:
        pixels: int [N, confidences], of at least that probability.
        found, alarms: [areas, confidences], the mean Dice of the images with the class, and the share of the others in which
            it is predicted.
    """

    def __init__(self, counted: TuningCounts, label: int):
        tp, fp, fn = (values[:, label] for values in (counted.tp, counted.fp, counted.fn))
        shown = tp + fn > 0
        self.shown, self.elsewhere = bool(shown.any()), bool((~shown).any())
        parts = counted.levels[:, label].sum(axis=2)
        self.pixels = parts[:, ::-1].cumsum(axis=1)[:, ::-1][:, CONFIDENCES]
        dice = np.nan_to_num(ratio(2 * tp, 2 * tp + fp + fn))
        self.found = self.sums(np.where(shown, dice, 0) / max(shown.sum(), 1))
        self.alarms = self.sums((~shown & (fp > 0)) / max((~shown).sum(), 1))

    def sums(self, values: np.ndarray) -> np.ndarray:
        """[areas, confidences]: of [N] over the images in which the class counts as present."""
        return np.stack([(values[:, None] * (self.pixels >= area)).sum(axis=0) for area in AREAS])

    def best(self, worth: float, allowed: np.ndarray | bool = True) -> tuple[int, float]:
        """Area and confidence; a class is left as it is where nothing is better.

        Args:
            worth: of all clean images, in images' mean Dice.
            allowed: bool [areas, confidences], what may be chosen.
        """
        value = np.where(allowed, self.found - worth * self.alarms, -np.inf)
        value[1:] -= 1e-12
        area, part = np.unravel_index(value.argmax(), value.shape)
        return int(AREAS[area]), float(LEVELS[CONFIDENCES[part]]) if area else 0.0


def best_presence(counted: TuningCounts, classes: np.ndarray, limit: Limit | None = None) -> PresenceRule:
    """Half the mean Dice of the images with the class and half the share of those without that stay clean, at its largest.

    So a class in one image of twenty is as much worth as the nineteen that must stay clean. With a limit clean images are
    worth more, until few enough of them have an alarm; then each class in turn takes the best that the limit leaves it.

    Args:
        classes: bool [C], those that may be left out; the background may not.
    """
    found = PresenceRule(np.zeros(len(classes), int), np.zeros(len(classes)))
    options = {label: _Options(counted, label) for label in np.flatnonzero(classes)}
    options = {label: own for label, own in options.items() if own.elsewhere and (own.shown or limit is not None)}

    def choose(label: int, *how) -> None:
        found.area[label], found.confidence[label] = options[label].best(*how)

    for label in options:
        choose(label, 1.0)
    if limit is None:
        return found
    worth = 1.0
    while limit.alarms(found.applied(counted)).any(axis=1).sum() > limit.allowed and worth < 1e9:
        worth *= 1.25
        for label in options:
            choose(label, worth)
    for label in [*options] * ROUNDS:
        others = limit.alarms(found.applied(counted))
        others[:, label] = False
        own = limit.alarms(counted)[:, label] & ~others.any(axis=1)
        left = limit.allowed - others.any(axis=1).sum()
        choose(label, 1.0, options[label].sums(own) <= left)
    return found


def cross_fitted(
    counted: TuningCounts,
    groups: Sequence[str],
    thresholds: bool,
    presence: np.ndarray | None,
    limit: Limit | None = None,
) -> TuningCounts:
    """Each image as it is with what was chosen on the other folds.

    Args:
        groups: the group of each image; every group lies in one fold.
        thresholds: choose thresholds.
        presence: bool [C], the classes whose presence is chosen; None: of none.
        limit: of best_presence.
    """
    folds = folds_of(groups)
    tp, fp, fn = (np.zeros_like(counted.tp) for _ in range(3))
    for fold in np.unique(folds):
        here, others = counted.of(folds == fold), counted.of(folds != fold)
        if thresholds:
            parts = best_parts(others)
            here, others = here.at_thresholds(parts), others.at_thresholds(parts)
        if presence is not None:
            own = limit and limit.of(folds != fold)
            here = best_presence(others, presence, own).applied(here)
        tp[folds == fold], fp[folds == fold], fn[folds == fold] = here.tp, here.fp, here.fn
    return TuningCounts(counted.levels, tp, fp, fn)


def folds_of(groups: Sequence[str]) -> np.ndarray:
    """int [N]: the fold of each image, by a hash of its group's name; folds have equal numbers of groups."""

    def order(name: str) -> bytes:
        return hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()

    number = {name: place % FOLDS for place, name in enumerate(sorted(set(groups), key=order))}
    return np.array([number[name] for name in groups], int)
