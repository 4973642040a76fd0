"""Is the confidence worth anything? From histograms of probabilities; no probability is stored."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from segtrain.metrics.counting import exact_histogram
from segtrain.metrics.derived import Table, by_class, ratio

LEVELS = 1000  # of probability, for the curves of a class
_FINE = 1024  # levels of confidence in a bin; its sum is that of their centres, and exact to half of one


def count_confidence(
    probabilities: torch.Tensor, prediction: torch.Tensor, target: torch.Tensor, ignore_index: int, bins: int
) -> torch.Tensor:
    """int64 [N, bins, 3]: valid pixels, those that are right, and the sum of confidences in 1 / (2048 bins).

    Confidence is the probability of what is said; of several labels a pixel, of each label's yes or no.

    Args:
        probabilities: float [N,C,H,W], of each class.
    """
    if prediction.ndim == 4:
        confidence = torch.where(prediction.bool(), probabilities, 1 - probabilities)
    else:
        confidence = probabilities.gather(1, prediction[:, None].long())
    confidence, valid = confidence.flatten(1), (target != ignore_index).flatten(1)
    every = _histogram(confidence, valid, bins * _FINE)
    right = _histogram(confidence, valid & (prediction == target).flatten(1), bins * _FINE)
    centres = 2 * torch.arange(bins * _FINE, device=every.device) + 1
    parts = [part.view(len(every), bins, _FINE).sum(dim=2) for part in (every, right, every * centres)]
    return torch.stack(parts, dim=2)


def count_probabilities(probabilities: torch.Tensor, target: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """int64 [C, 1000, 2]: valid pixels that are not and that are of a class, by the probability [N,C,H,W] it was given."""
    n, c = probabilities.shape[:2]
    if target.ndim == 3:
        classes = torch.arange(c, device=target.device)[:, None, None]
        truth, target = target[:, None] == classes, target[:, None].expand(n, c, -1, -1)
    else:
        truth = target == 1
    valid = target != ignore_index
    values, valid, truth = (t.flatten(2).flatten(0, 1) for t in (probabilities, valid, truth & valid))
    every, positive = (_histogram(values, mask, LEVELS) for mask in (valid, truth))
    return torch.stack([every - positive, positive], dim=2).view(n, c, LEVELS, 2).sum(dim=0)


def probabilities_of(logits: torch.Tensor, multilabel: bool) -> torch.Tensor:
    """float32 [N,C,H,W], a plane per class in memory, below 1."""
    logits = logits.float().contiguous()
    found = logits.sigmoid() if multilabel else logits.softmax(dim=1)
    return found.clamp_(max=1 - 2**-24)  # the largest number that is below 1


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
        counts: int64 [C, 1000, 2], as of count_probabilities.
    """

    counts: np.ndarray

    def at_threshold(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """tp, fp and fn, each [C, 1000]: when a class is said from the probability k / 1000 on."""
        fp, tp = np.moveaxis(self.counts[:, ::-1].cumsum(axis=1)[:, ::-1], -1, 0)
        return tp, fp, tp[:, :1] - tp

    def precision_recall(self) -> tuple[np.ndarray, np.ndarray]:
        """Both [C, 1000], NaN where undefined; by threshold."""
        tp, fp, fn = self.at_threshold()
        return ratio(tp, tp + fp), ratio(tp, tp + fn)

    def average_precision(self) -> np.ndarray:
        """[C]: the area under precision over recall, as steps; NaN for a class that truth does not have."""
        precision, recall = self.precision_recall()
        steps = recall - np.concatenate([recall[:, 1:], np.where(np.isnan(recall[:, :1]), np.nan, 0)], axis=1)
        return np.where(np.isnan(recall[:, 0]), np.nan, np.nansum(steps * np.nan_to_num(precision), axis=1))

    def reliability(self, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean probability, share of the pixels that are of the class, and pixels, each [C, bins]."""
        centres = (np.arange(LEVELS) + 0.5) / LEVELS
        bounds = np.linspace(0, LEVELS, bins + 1).round().astype(int)[:-1]
        pixels = self.counts.sum(axis=2)
        total = np.add.reduceat(pixels, bounds, axis=1)
        right = np.add.reduceat(self.counts[..., 1], bounds, axis=1)
        return ratio(np.add.reduceat(pixels * centres, bounds, axis=1), total), ratio(right, total), total

    def expected_error(self, bins: int) -> np.ndarray:
        """[C]: ece of the probability of each class, to within 0.0005; NaN for a class that truth does not have."""
        probability, share, pixels = self.reliability(bins)
        gap = np.nansum(np.abs(probability - share) * pixels, axis=1)
        return np.where(self.counts[..., 1].any(axis=1), ratio(gap, pixels.sum(axis=1)), np.nan)

    def best_thresholds(self) -> np.ndarray:
        """[C]: the probability from which saying a class gives the highest Dice; NaN for one that truth does not have.

        Where a range of them is as good, its middle.
        """
        tp, fp, fn = self.at_threshold()
        dice = np.nan_to_num(ratio(2 * tp, 2 * tp + fp + fn))
        best = dice >= dice.max(axis=1, keepdims=True)
        first = best.argmax(axis=1)
        worse = ~best & (np.arange(LEVELS) > first[:, None])
        last = np.where(worse.any(axis=1), worse.argmax(axis=1), LEVELS) - 1
        middle = np.clip((first + last) / 2 / LEVELS, 0.5 / LEVELS, 1 - 0.5 / LEVELS)
        return np.where(tp[:, 0] > 0, middle, np.nan)


def curve_scores(curves: Curves, table: Table, bins: int) -> dict[str, float]:
    """average_precision and class_ece, each as mean, foreground, class."""
    return by_class("average_precision", curves.average_precision(), table) | by_class(
        "class_ece", curves.expected_error(bins), table
    )
