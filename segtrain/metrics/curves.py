"""Histograms of probabilities, and the curves of each class by threshold; no probability is stored."""

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch

from segtrain.cpu import on_all_cores
from segtrain.losses.any_order import in_any_order
from segtrain.losses.sums import form
from segtrain.metrics.table import ratio

# Levels of odds p / (1 - p), for the curves of a class: 128 in each doubling, from 2^-48 to 2^48. Rare classes and
# confident networks live near 0 and 1, where equal steps of probability would see nothing.
LEVELS = 12288
_STEPS, _DOUBLINGS = 128, 48
_SHIFT = 16  # a float32 holds its exponent, then 23 bits: all but the first 7 of them are dropped
_FIRST = (127 - _DOUBLINGS) * _STEPS  # code of level 0
_INFINITE = 255 * _STEPS  # code of infinity; beyond are those of NaN
_CODES = 256 * _STEPS


def class_odds(logits: torch.Tensor, ignored: torch.Tensor, multilabel: bool) -> torch.Tensor:
    """float32 [N,C,H,W]: p / (1 - p) of each class, as exact near 1 as near 0; NaN where `ignored`.

    Args:
        ignored: bool [N,H,W]; multi-label [N,C,H,W].
    """
    logits = logits.float()
    if multilabel:
        return logits.exp().masked_fill_(ignored, torch.nan)
    top, which = logits.max(dim=1, keepdim=True)
    with in_any_order():
        parts = (logits - top.masked_fill_(ignored[:, None], torch.nan)).exp_().scatter_(1, which, 0)
        others = parts.sum(dim=1, keepdim=True)  # of all but the most probable, which is 1
        of_most_probable = (1 / others).masked_fill_(
            ignored[:, None], torch.nan
        )  # of a single class there are no others
        return parts.div_((1 + others) - parts).scatter_(1, which, of_most_probable)


def count_probabilities(odds: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Valid pixels that are not and that are of a class, by the odds it was given.

    Returns int64 [C, LEVELS, 2], of all images, and int32 [N, C, parts, 2], of each image in the parts of COARSE.
    """
    n, c = odds.shape[:2]
    # The bits of a positive float32 rise with it, so that the first of them are a level, with no logarithm.
    codes = (odds.view(torch.int32) >> _SHIFT).to(torch.int16).flatten(2).contiguous().bitwise_and_(_CODES - 1)
    classes = torch.ones(1, device=odds.device) if target.ndim == 4 else torch.arange(c, device=odds.device)
    truth = target.flatten(2) if target.ndim == 4 else target.flatten(1)[:, None]
    total = torch.zeros(c, LEVELS, 2, dtype=torch.int64, device=odds.device)
    parts = torch.zeros(n, c, len(COARSE), 2, dtype=torch.int32, device=odds.device)
    count = _count_planes if form(odds) == "tiles" else _count_at_once
    for i in range(n):
        count(codes[i], truth[i], classes.to(target.dtype), total, parts[i])
    return total, parts


def _count_planes(codes: torch.Tensor, truth: torch.Tensor, classes: torch.Tensor, total, parts) -> None:
    """Of one image add to `total` and write `parts`; codes [C, P], truth [1 or C, P]."""
    codes, truth, classes = codes.numpy(), truth.numpy(), classes.numpy()

    def count(planes: range) -> None:
        # One histogram of all planes would not stay in the cache of a CPU.
        for k in planes:
            right = codes[k][truth[k % len(truth)] == classes[k % len(classes)]]
            every, right = (
                _levels(torch.bincount(torch.from_numpy(plane), minlength=_CODES)) for plane in (codes[k], right)
            )
            counts = torch.stack([every - right, right], dim=1)
            total[k] += counts
            parts[k] = torch.from_numpy(np.add.reduceat(counts.numpy(), COARSE))

    on_all_cores(count, len(codes))


def _count_at_once(codes: torch.Tensor, truth: torch.Tensor, classes: torch.Tensor, total, parts) -> None:
    """The same, for CUDA, with one histogram of all planes."""
    cells = codes.int().add_((truth == classes[:, None]).int(), alpha=_CODES)
    counts = _levels(count_rows(cells, 2 * _CODES).view(-1, 2, _CODES)).transpose(1, 2)
    total += counts
    with in_any_order():
        parts.index_add_(1, _part_of_level(counts.device), counts.int())


@cache
def _part_of_level(device: torch.device) -> torch.Tensor:
    """int64 [LEVELS]: the part of COARSE that a level is in. Kept, since a copy to the device is waited for."""
    return torch.from_numpy(np.searchsorted(COARSE, np.arange(LEVELS), side="right") - 1).to(device)


def _levels(counts: torch.Tensor) -> torch.Tensor:
    """[…, LEVELS] of counts by code […, _CODES]; those of NaN are left out."""
    levels = counts[..., _FIRST : _FIRST + LEVELS].clone()
    levels[..., 0] += counts[..., :_FIRST].sum(dim=-1)
    levels[..., -1] += counts[..., _FIRST + LEVELS : _INFINITE + 1].sum(dim=-1)
    return levels


def count_rows(cells: torch.Tensor, bins: int) -> torch.Tensor:
    """int64 [R, bins] of int32 [R, P]."""
    if form(cells) == "tiles":
        row = torch.arange(len(cells), device=cells.device)[:, None] * bins
        return torch.bincount((cells + row).flatten(), minlength=len(cells) * bins).view(-1, bins)
    counts = torch.zeros(len(cells), bins, dtype=torch.int64, device=cells.device)  # bincount waits for the device
    with in_any_order():
        return counts.scatter_add_(1, cells.long(), counts.new_ones(1, 1).expand_as(cells))


@dataclass(frozen=True)
class Curves:
    """Counts of each class by threshold: precision over recall, reliability, the best threshold.

    Args:
        counts: [C, L, 2], as of count_probabilities summed over images.
        starts: int [L], the first level of each of L parts of the LEVELS, whose counts are added up.
        bins: for the calibration error.
    """

    counts: np.ndarray
    starts: np.ndarray = field(default_factory=lambda: np.arange(LEVELS))
    bins: int = 15

    def at_threshold(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """tp, fp and fn, each [C, L]: with the threshold at each level."""
        fp, tp = np.moveaxis(self.counts[:, ::-1].cumsum(axis=1)[:, ::-1], -1, 0)
        return tp, fp, tp[:, :1] - tp

    def precision_recall(self) -> tuple[np.ndarray, np.ndarray]:
        """Both [C, L], NaN where undefined; by threshold."""
        tp, fp, fn = self.at_threshold()
        return ratio(tp, tp + fp), ratio(tp, tp + fn)

    def average_precision(self) -> np.ndarray:
        """[C]: the area under precision over recall, as steps; NaN for a class absent from the ground truth.

        In a part of several levels the pixels of the class are taken to be evenly mixed with the others.
        """
        tp, fp, _ = self.at_threshold()
        # as much of the last part as the mean of its pixels is behind
        within = 0.5 if len(self.starts) < LEVELS else 0.0
        fp, tp_before = fp - within * self.counts[..., 0], tp - within * self.counts[..., 1]
        precision = np.nan_to_num(ratio(tp_before, tp_before + fp))
        return ratio((self.counts[..., 1] * precision).sum(axis=1), tp[:, 0])

    def reliability(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean probability, share of the pixels that are of the class, and pixels, each [C, bins]."""
        centres = probability((self.starts + np.append(self.starts[1:], LEVELS)) / 2)
        which = np.minimum((centres * self.bins).astype(int), self.bins - 1)
        pixels, right = self.counts.sum(axis=2), self.counts[..., 1]

        def binned(rows: np.ndarray) -> np.ndarray:
            return np.array([np.bincount(which, weights=row, minlength=self.bins) for row in rows])

        total = binned(pixels)
        return ratio(binned(pixels * centres), total), ratio(binned(right), total), total

    def expected_error(self) -> np.ndarray:
        """[C]: ece of the probability of each class, to within 0.003; NaN for a class absent from the ground truth."""
        probability, share, pixels = self.reliability()
        gap = np.nansum(np.abs(probability - share) * pixels, axis=1)
        return np.where(self.counts[..., 1].any(axis=1), ratio(gap, pixels.sum(axis=1)), np.nan)

    def best_thresholds(self) -> np.ndarray:
        """[C]: the threshold that maximises Dice; NaN for a class absent from the ground truth.

        Where a range of them is as good, the middle of it. Of curves of all LEVELS.
        """
        tp, fp, fn = self.at_threshold()
        dice = np.nan_to_num(ratio(2 * tp, 2 * tp + fp + fn))
        best = dice >= dice.max(axis=1, keepdims=True)
        first = best.argmax(axis=1)
        worse = ~best & (np.arange(LEVELS) > first[:, None])
        last = np.where(worse.any(axis=1), worse.argmax(axis=1), LEVELS) - 1
        # 0 and 1 are no thresholds; the first level has all that is less, too.
        middle = np.where(last == 0, 1e-300, np.clip(probability((first + last) / 2), 1e-15, 1 - 1e-15))
        return np.where(tp[:, 0] > 0, middle, np.nan)


def probability(level: np.ndarray) -> np.ndarray:
    """The probability at the lower end of a level, which may be a fraction."""
    doublings, rest = np.divmod(level, _STEPS)
    return 1 / (1 + np.ldexp(1 / (1 + rest / _STEPS), _DOUBLINGS - doublings.astype(int)))


def _coarse_starts() -> np.ndarray:
    """Levels at steps of log-odds: of 1/4 up to 12, where most are, of 1/2 to 24, of 1 to 33; and 0."""
    steps = np.concatenate([np.arange(-33, -24), np.arange(-24, -12, 0.5), np.arange(-12, 12, 0.25)])
    steps = np.concatenate([steps, -steps[steps < -12][::-1], [12]])
    return np.unique(np.searchsorted(probability(np.arange(LEVELS)), [0, *(1 / (1 + np.exp(-np.sort(steps))))]))


# Coarser histogram bins for single images, which the intervals are drawn from.
COARSE = _coarse_starts()
