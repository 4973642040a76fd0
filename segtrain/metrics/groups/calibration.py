"""Calibration: does confidence match accuracy? And the best thresholds."""

import numpy as np
import torch

from segtrain.metrics.curves import COARSE, LEVELS, Curves, class_odds, count_probabilities, count_rows
from segtrain.metrics.groups.group import Counts, Group, ScoredBatch
from segtrain.metrics.records import Score
from segtrain.metrics.table import Classes, Table, ratio

_FINE = 1024  # levels of confidence in a bin; its sum is that of their centres, and exact to half of one


class Thresholds(Group):
    """Pixels of each class by predicted probability, from which thresholds and presence are chosen; no scores."""

    needs_logits = True

    def arrays(self) -> dict[str, Counts]:
        levels = Counts((len(self.classes), len(COARSE), 2), dtype=torch.int32)  # large, and of one image
        return {"probabilities": Counts((len(self.classes), LEVELS, 2), summed=True), "levels": levels}

    def count(self, batch: ScoredBatch) -> dict[str, torch.Tensor]:
        if batch.logits is None:
            return {}
        odds = class_odds(batch.logits, batch.target == self.classes.ignore_index, self.classes.multilabel)
        return dict(zip(("probabilities", "levels"), count_probabilities(odds, batch.target), strict=True))


class Calibration(Thresholds):
    """Calibration errors of all pixels and of each class, mean confidence, average precision."""

    def __init__(self, classes: Classes, bins: int):
        super().__init__(classes)
        self.bins = bins

    def arrays(self) -> dict[str, Counts]:
        return super().arrays() | {"confidence": Counts((self.bins, 3))}

    def count(self, batch: ScoredBatch) -> dict[str, torch.Tensor]:
        if batch.logits is None:
            raise ValueError("the group calibration needs the logits: update(prediction, target, logits=logits)")
        ignored = batch.target == self.classes.ignore_index
        odds = class_odds(batch.logits, ignored, self.classes.multilabel)
        total, levels = count_probabilities(odds, batch.target)
        confidence = _count_confidence(odds, batch.prediction, batch.target, ignored, self.bins)
        return {"probabilities": total, "levels": levels, "confidence": confidence}

    def scores(self, table: Table) -> dict[str, float]:
        pixels, right, confidence = table["confidence"].sum(axis=0).T
        confidence, total = confidence / (2 * _FINE * len(pixels)), pixels.sum()
        gap = np.abs(right - confidence).sum()
        scores = {"ece": float(ratio(gap, total)), "confidence": float(ratio(confidence.sum(), total))}
        if table.drawn is None:
            curves = Curves(table["probabilities"], bins=self.bins)
        else:
            curves = Curves(table.drawn_sum("levels"), COARSE, self.bins)
        return (
            scores
            | self.classes.scores("average_precision", curves.average_precision())
            | self.classes.scores("class_ece", curves.expected_error())
        )

    def records(self, table: Table) -> list[Score]:
        # Guo et al., 2017, https://arxiv.org/abs/1706.04599
        error = f"mean gap between confidence and accuracy in {self.bins} bins of confidence"
        of_class = f"mean gap between the class's probability and its frequency in {self.bins} bins of probability"
        kinds = [
            Score("average_precision", "area under the precision-recall curve", section="Calibration"),
            Score("class_ece", of_class, higher_is_better=False, section="Calibration"),
        ]
        return [
            Score("ece", f"expected calibration error: {error}", higher_is_better=False),
            Score("confidence", "mean probability of the prediction"),
            *(record for kind in kinds for record in kind.everywhere(self.classes.names)),
        ]


def _count_confidence(
    odds: torch.Tensor, prediction: torch.Tensor, target: torch.Tensor, ignored: torch.Tensor, bins: int
) -> torch.Tensor:
    """int64 [N, bins, 3]: valid pixels, those that are right, and the sum of confidences in 1 / (2048 bins).

    Confidence is the probability of the prediction; multi-label, of each label's yes or no.

    Args:
        odds: as of class_odds.
    """
    n, levels = len(odds), bins * _FINE
    predicted = (
        odds.where(prediction.bool(), 1 / odds) if prediction.ndim == 4 else odds.gather(1, prediction[:, None].long())
    )
    confidence = 1 / (1 + 1 / predicted.flatten(1))  # not odds / (1 + odds), which infinity would make NaN
    cells = (confidence * levels).clamp_(0, levels - 1).to(torch.int32)
    cells.mul_(2).add_(prediction.flatten(1) == target.flatten(1))
    cells.masked_fill_(ignored.flatten(1), 2 * levels)
    wrong, right = count_rows(cells, 2 * levels + 1)[:, :-1].view(n, levels, 2).unbind(dim=2)
    every, centres = wrong + right, 2 * torch.arange(levels, device=right.device) + 1
    parts = [part.view(n, bins, _FINE).sum(dim=2) for part in (every, right, every * centres)]
    return torch.stack(parts, dim=2)
