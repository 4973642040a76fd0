"""Is the confidence worth anything? From histograms of probabilities; no probability is stored."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from segtrain.metrics.counting import exact_histogram
from segtrain.metrics.derived import Table, by_class, ratio

# Levels of probability for the curves of a class, uniform in its log-odds: rare classes and confident networks live
# near 0 and 1, where equal steps of probability would see nothing.
LEVELS = 8192
_MOST = 40.0  # log-odds beyond which all are one level
_BELOW_1 = 1 - 2**-24  # the largest float32 that is
_FINE = 1024  # levels of confidence in a bin; its sum is that of their centres, and exact to half of one


def log_odds(logits: torch.Tensor, multilabel: bool) -> torch.Tensor:
    """float32 [N,C,H,W]: ln p / (1 - p) of each class, a plane per class in memory, as exact near 1 as near 0."""
    logits = logits.float().contiguous()
    if multilabel:
        return logits
    highest, most = logits.max(dim=1, keepdim=True)
    below = logits - highest
    others = below.exp().scatter_(1, most, 0)
    total = others.sum(dim=1, keepdim=True)  # of all but the most probable, whose own part is 1
    return below.sub_((1 + total - others).log_()).scatter_(1, most, -total.log())


def count_confidence(
    odds: torch.Tensor, prediction: torch.Tensor, target: torch.Tensor, ignore_index: int, bins: int
) -> torch.Tensor:
    """int64 [N, bins, 3]: valid pixels, those that are right, and the sum of confidences in 1 / (2048 bins).

    Confidence is the probability of what is said; of several labels a pixel, of each label's yes or no.

    Args:
        odds: as of log_odds.
    """
    said = odds.where(prediction.bool(), -odds) if prediction.ndim == 4 else odds.gather(1, prediction[:, None].long())
    confidence = said.sigmoid().clamp_(max=_BELOW_1).flatten(1)
    valid = (target != ignore_index).flatten(1)
    every = _histogram(confidence, valid, bins * _FINE)
    right = _histogram(confidence, valid & (prediction == target).flatten(1), bins * _FINE)
    centres = 2 * torch.arange(bins * _FINE, device=every.device) + 1
    parts = [part.view(len(every), bins, _FINE).sum(dim=2) for part in (every, right, every * centres)]
    return torch.stack(parts, dim=2)


def count_probabilities(odds: torch.Tensor, target: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """int64 [C, LEVELS, 2]: valid pixels that are not and that are of a class, by the log-odds [N,C,H,W] it was given."""
    n, c = odds.shape[:2]
    place = (odds / (2 * _MOST)).add_(0.5).clamp_(0, _BELOW_1)
    if target.ndim == 3:
        classes = torch.arange(c, device=target.device)[:, None, None]
        truth, target = target[:, None] == classes, target[:, None].expand(n, c, -1, -1)
    else:
        truth = target == 1
    valid = target != ignore_index
    values, valid, truth = (t.flatten(2).flatten(0, 1) for t in (place, valid, truth & valid))
    every, positive = (_histogram(values, mask, LEVELS) for mask in (valid, truth))
    return torch.stack([every - positive, positive], dim=2).view(n, c, LEVELS, 2).sum(dim=0)


def _histogram(values: torch.Tensor, mask: torch.Tensor, levels: int) -> torch.Tensor:
    """int64 [R, levels]: the masked ones of values [R, P], from 0 to below 1, in each row."""
    return (_histogram_by_opencv if values.device.type == "cpu" else _histogram_by_torch)(values, mask, levels)


def _histogram_by_opencv(values: torch.Tensor, mask: torch.Tensor, levels: int) -> torch.Tensor:
    rows, masks = values.numpy(), mask.to(torch.uint8).numpy()

    def of_row(i: int) -> np.ndarray:
        return exact_histogram([rows[i]], [levels], [1], masks[i])

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return torch.from_numpy(np.array(list(pool.map(of_row, range(len(rows))))).astype(np.int64))


def _histogram_by_torch(values: torch.Tensor, mask: torch.Tensor, levels: int) -> torch.Tensor:
    rows = len(values)
    row = torch.arange(rows, device=values.device)[:, None]
    cell = (row * levels + (values * levels).long()).masked_fill_(~mask, rows * levels)
    return torch.bincount(cell.flatten(), minlength=rows * levels + 1)[:-1].view(rows, levels)


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
        return np.where(tp[:, 0] > 0, _probability((first + last) / 2), np.nan)


def _probability(level: np.ndarray) -> np.ndarray:
    """At the lower end of a level, which need not be whole."""
    return 1 / (1 + np.exp((0.5 - level / LEVELS) * 2 * _MOST))


def curve_scores(curves: Curves, table: Table, bins: int) -> dict[str, float]:
    """average_precision and class_ece, each as mean, foreground, class."""
    return by_class("average_precision", curves.average_precision(), table) | by_class(
        "class_ece", curves.expected_error(bins), table
    )
