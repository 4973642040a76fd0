"""Foreground against background, and the class within the foreground that was found."""

import numpy as np
import torch

from segtrain.metrics.groups.group import Counts, Group, ScoredBatch
from segtrain.metrics.records import Score
from segtrain.metrics.table import Classes, Table, mean, ratio


class Foreground(Group):
    """Two questions apart: is a pixel foreground, and is the class of the foreground pixels that were found right?

    For classes with a background, or multi-label, where any label makes foreground.
    """

    def __init__(self, classes: Classes):
        super().__init__(classes)
        self.defined = classes.multilabel or classes.background is not None

    def arrays(self) -> dict[str, Counts]:
        return {"foreground": Counts((3,)), "within_foreground": Counts((len(self.classes), 3))}

    def count(self, batch: ScoredBatch) -> dict[str, torch.Tensor]:
        """foreground: tp, fp, fn of all classes but the background as one; within_foreground: of each class, in the
        pixels that are foreground in ground truth and prediction."""
        if self.classes.multilabel:
            return _count_any_label(batch.prediction, batch.target, self.classes.ignore_index)
        return _count_foreground(batch.confusion, self.classes.background)

    def scores(self, table: Table) -> dict[str, float]:
        tp, fp, fn = table["foreground"].sum(axis=0)
        scores = {
            "foreground/iou": ratio(tp, tp + fp + fn),
            "foreground/dice": ratio(2 * tp, 2 * tp + fp + fn),
            "foreground/precision": ratio(tp, tp + fp),
            "foreground/recall": ratio(tp, tp + fn),
        }
        tp, fp, fn = table["within_foreground"].sum(axis=0).T
        scores["accuracy_within_foreground"] = ratio(tp.sum(), tp.sum() + fn.sum())
        values = np.where(self.classes.foreground, ratio(tp, tp + fp + fn), np.nan)
        scores["within_foreground/mean"] = mean(values)
        scores |= {f"within_foreground/{name}": values[c] for c, name in self._named()}
        return {name: float(value) for name, value in scores.items()}

    def records(self, table: Table) -> list[Score]:
        one, found = (
            "of all foreground classes merged into one",
            "of the pixels that are foreground in both prediction and ground truth",
        )
        within = Score("within_foreground", f"IoU {found}", section="Detection")
        return [
            *(Score(f"foreground/{kind.lower()}", f"{kind} {one}") for kind in ("IoU", "Dice", "Precision", "Recall")),
            Score("accuracy_within_foreground", f"accuracy {found}"),
            within.of("mean", "mean over the classes"),
            *within.of_classes([name for _, name in self._named()]),
        ]

    def _named(self) -> list[tuple[int, str]]:
        return [(c, self.classes.names[c]) for c in np.flatnonzero(self.classes.foreground)]


def _count_foreground(matrix: torch.Tensor, background: int) -> dict[str, torch.Tensor]:
    """From confusion matrices [N, C, C]."""
    b, tp = background, matrix.diagonal(dim1=1, dim2=2)
    missed, extra = matrix[:, :, b], matrix[:, b]  # [N, C]: of each class, predicted as background; and the reverse
    fp, fn = extra.sum(dim=1) - tp[:, b], missed.sum(dim=1) - tp[:, b]
    within = torch.stack([tp, matrix.sum(dim=1) - tp - extra, matrix.sum(dim=2) - tp - missed], dim=2)
    within[:, b] = 0
    both = matrix.sum(dim=(1, 2)) - tp[:, b] - fp - fn
    return {"foreground": torch.stack([both, fp, fn], dim=1), "within_foreground": within}


def _count_any_label(prediction: torch.Tensor, target: torch.Tensor, ignore_index: int) -> dict[str, torch.Tensor]:
    """From multi-label masks [N,C,H,W]. Pixels that a channel ignores do not count."""
    valid = (target != ignore_index).all(dim=1, keepdim=True)
    predicted, truth = prediction.bool() & valid, (target == 1) & valid
    any_predicted, any_truth = predicted.any(dim=1, keepdim=True), truth.any(dim=1, keepdim=True)
    both = any_predicted & any_truth
    whole = (both, any_predicted & ~any_truth, any_truth & ~any_predicted)
    within = (predicted & truth, predicted & ~truth & both, truth & ~predicted & both)
    return {
        "foreground": torch.stack([part.sum(dim=(1, 2, 3)) for part in whole], dim=1),
        "within_foreground": torch.stack([part.sum(dim=(2, 3)) for part in within], dim=2),
    }
