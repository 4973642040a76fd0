"""Is the confidence worth anything? From histograms of probabilities; no probability is stored."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from segtrain.metrics.derived import Table, by_class, ratio

# Levels of probability for the curves of a class, uniform in its log-odds: rare classes and confident networks live
# near 0 and 1, where equal steps of probability would see nothing.
LEVELS = 8192
_MOST = 40.0  # log-odds beyond which all are one level
_FINE = 1024  # levels of confidence in a bin; its sum is that of their centres, and exact to half of one


def log_odds(logits: torch.Tensor, multilabel: bool) -> torch.Tensor:
    """float32 [N,C,H,W]: ln p / (1 - p) of each class, a plane per class in memory, as exact near 1 as near 0."""
    logits = logits.float().contiguous()
    if multilabel:
        return logits
    below = logits - logits.amax(dim=1, keepdim=True)
    parts, most = below.exp(), below == 0
    others = parts.masked_fill(most, 0).sum(dim=1, keepdim=True)  # of all but the most probable, each of which is 1
    count = most.sum(dim=1, keepdim=True)
    odds = below.sub_((others + count - parts).log_())
    return torch.where(most, -(others + (count - 1)).log(), odds)


def count_confidence(
    odds: torch.Tensor, prediction: torch.Tensor, target: torch.Tensor, ignore_index: int, bins: int
) -> torch.Tensor:
    """int64 [N, bins, 3]: valid pixels, those that are right, and the sum of confidences in 1 / (2048 bins).

    Confidence is the probability of what is said; of several labels a pixel, of each label's yes or no.

    Args:
        odds: as of log_odds.
    """
    said = odds.where(prediction.bool(), -odds) if prediction.ndim == 4 else odds.gather(1, prediction[:, None].long())
    levels = _levels(said.sigmoid(), bins * _FINE).flatten(1)[:, None]
    valid, right = (mask.flatten(1)[:, None] for mask in (target != ignore_index, prediction == target))
    wrong, right = _histogram(levels, right, valid, bins * _FINE)[:, 0].unbind(dim=2)
    every, centres = wrong + right, 2 * torch.arange(bins * _FINE, device=right.device) + 1
    parts = [part.view(len(every), bins, _FINE).sum(dim=2) for part in (every, right, every * centres)]
    return torch.stack(parts, dim=2)


def count_probabilities(odds: torch.Tensor, target: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """int64 [C, LEVELS, 2]: valid pixels that are not and that are of a class, by the log-odds [N,C,H,W] it was given."""
    levels = _levels((odds / (2 * _MOST)).add_(0.5), LEVELS).flatten(2)
    target = target[:, None] if target.ndim == 3 else target
    one = 1 if target.shape[1] == odds.shape[1] else torch.arange(odds.shape[1], device=target.device)[:, None, None]
    truth, valid = (target == one).flatten(2), (target != ignore_index).flatten(2)
    return _histogram(levels, truth, valid, LEVELS).sum(dim=0)


def _levels(shares: torch.Tensor, levels: int) -> torch.Tensor:
    """int32: which of `levels` equal parts of 0 to 1 a share is in; `shares` is used up."""
    return shares.mul_(levels).clamp_(0, levels - 1).to(torch.int32)


def _histogram(levels: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor, count: int) -> torch.Tensor:
    """int64 [N, K, count, 2]: the valid ones of levels [N, K, P], those that are not and that are true; uses up levels.

    Args:
        truth, valid: bool [N, K, P] or [N, 1, P].
    """
    n, k = levels.shape[:2]
    cells = levels.mul_(2).add_(truth).masked_fill_(~valid, 2 * count)
    count_planes = _one_by_one if levels.device.type == "cpu" else _all_at_once
    found = count_planes(cells.flatten(0, 1), 2 * count + 1)
    return found.view(n, k, 2 * count + 1)[..., :-1].reshape(n, k, count, 2)


def _one_by_one(planes: torch.Tensor, bins: int) -> torch.Tensor:
    """int64 [R, bins] of int32 [R, P]. One histogram of all planes would not stay in the cache of a CPU."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return torch.stack(list(pool.map(lambda plane: torch.bincount(plane, minlength=bins), planes)))


def _all_at_once(planes: torch.Tensor, bins: int) -> torch.Tensor:
    """The same, for CUDA."""
    row = torch.arange(len(planes), device=planes.device)[:, None] * bins
    return torch.bincount((planes + row).flatten(), minlength=len(planes) * bins).view(-1, bins)


def expected_error(table: Table) -> dict[str, float]:
    """ece: mean distance of confidence and accuracy, by bins of confidence. Guo et al., 2017,
    https://arxiv.org/abs/1706.04599. And confidence, the mean one."""
    pixels, right, confidence = table.more["confidence"].sum(axis=0).T
    confidence, total = confidence / (2 * _FINE * len(pixels)), pixels.sum()
    gap = np.abs(right - confidence).sum()
    return {"ece": float(ratio(gap, total)), "confidence": float(ratio(confidence.sum(), total))}


@dataclass(frozen=True)
class Curves:
    """What becomes of each class when the probability from which it is said is moved.

    Args:
        counts: int64 [C, LEVELS, 2], as of count_probabilities.
    """

    counts: np.ndarray

    def at_threshold(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """tp, fp and fn, each [C, LEVELS]: when a class is said from a level on."""
        fp, tp = np.moveaxis(self.counts[:, ::-1].cumsum(axis=1)[:, ::-1], -1, 0)
        return tp, fp, tp[:, :1] - tp

    def precision_recall(self) -> tuple[np.ndarray, np.ndarray]:
        """Both [C, LEVELS], NaN where undefined; by threshold."""
        tp, fp, fn = self.at_threshold()
        return ratio(tp, tp + fp), ratio(tp, tp + fn)

    def average_precision(self) -> np.ndarray:
        """[C]: the area under precision over recall, as steps; NaN for a class that truth does not have."""
        precision, recall = self.precision_recall()
        steps = recall - np.concatenate([recall[:, 1:], np.zeros_like(recall[:, :1])], axis=1)
        return np.where(np.isnan(recall[:, 0]), np.nan, np.nansum(steps * np.nan_to_num(precision), axis=1))

    def reliability(self, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean probability, share of the pixels that are of the class, and pixels, each [C, bins]."""
        centres = _probability(np.arange(LEVELS) + 0.5)
        which = np.minimum((centres * bins).astype(int), bins - 1)
        pixels, right = self.counts.sum(axis=2), self.counts[..., 1]

        def binned(rows: np.ndarray) -> np.ndarray:
            return np.array([np.bincount(which, weights=row, minlength=bins) for row in rows])

        total = binned(pixels)
        return ratio(binned(pixels * centres), total), ratio(binned(right), total), total

    def expected_error(self, bins: int) -> np.ndarray:
        """[C]: ece of the probability of each class, to within 0.003; NaN for a class that truth does not have."""
        probability, share, pixels = self.reliability(bins)
        gap = np.nansum(np.abs(probability - share) * pixels, axis=1)
        return np.where(self.counts[..., 1].any(axis=1), ratio(gap, pixels.sum(axis=1)), np.nan)

    def best_thresholds(self) -> np.ndarray:
        """[C]: the probability from which saying a class gives the highest Dice; NaN for one that truth does not have.

        Where a range of them is as good, the middle of their log-odds.
        """
        tp, fp, fn = self.at_threshold()
        dice = np.nan_to_num(ratio(2 * tp, 2 * tp + fp + fn))
        best = dice >= dice.max(axis=1, keepdims=True)
        first = best.argmax(axis=1)
        worse = ~best & (np.arange(LEVELS) > first[:, None])
        last = np.where(worse.any(axis=1), worse.argmax(axis=1), LEVELS) - 1
        middle = np.clip(_probability((first + last) / 2), 1e-15, 1 - 1e-15)  # 0 and 1 are no thresholds
        return np.where(tp[:, 0] > 0, middle, np.nan)


def _probability(level: np.ndarray) -> np.ndarray:
    """At the lower end of a level, which need not be whole."""
    return 1 / (1 + np.exp((0.5 - level / LEVELS) * 2 * _MOST))


def curve_scores(curves: Curves, table: Table, bins: int) -> dict[str, float]:
    """average_precision and class_ece, each as mean, foreground, class."""
    return by_class("average_precision", curves.average_precision(), table) | by_class(
        "class_ece", curves.expected_error(bins), table
    )
