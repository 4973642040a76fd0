"""Foreground against background, and the class within the foreground that was found: two questions apart."""

import numpy as np
import torch

from segtrain.metrics.table import Table, mean, ratio


def count_foreground(matrix: torch.Tensor, background: int) -> dict[str, torch.Tensor]:
    """From confusion matrices [N, C, C]: foreground [N, 3], tp, fp and fn of all classes but the background as one, and
    within_foreground [N, C, 3], of each class in the pixels that truth and prediction have as foreground."""
    b, tp = background, matrix.diagonal(dim1=1, dim2=2)
    missed, made_up = matrix[:, :, b], matrix[:, b]  # [N, C]: of each class, said to be background; and the reverse
    fp, fn = made_up.sum(dim=1) - tp[:, b], missed.sum(dim=1) - tp[:, b]
    within = torch.stack([tp, matrix.sum(dim=1) - tp - made_up, matrix.sum(dim=2) - tp - missed], dim=2)
    within[:, b] = 0
    both = matrix.sum(dim=(1, 2)) - tp[:, b] - fp - fn
    return {"foreground": torch.stack([both, fp, fn], dim=1), "within_foreground": within}


def count_any_label(prediction: torch.Tensor, target: torch.Tensor, ignore_index: int) -> dict[str, torch.Tensor]:
    """The same of several labels a pixel [N,C,H,W], of which any makes foreground. Pixels that a channel ignores do not
    count."""
    valid = (target != ignore_index).all(dim=1, keepdim=True)
    said, truth = prediction.bool() & valid, (target == 1) & valid
    any_said, any_truth = said.any(dim=1, keepdim=True), truth.any(dim=1, keepdim=True)
    both = any_said & any_truth
    whole = (both, any_said & ~any_truth, any_truth & ~any_said)
    within = (said & truth, said & ~truth & both, truth & ~said & both)
    return {
        "foreground": torch.stack([part.sum(dim=(1, 2, 3)) for part in whole], dim=1),
        "within_foreground": torch.stack([part.sum(dim=(2, 3)) for part in within], dim=2),
    }


def foreground(table: Table) -> dict[str, float]:
    """Two questions apart: is a pixel foreground, and of which class are the pixels rightly said to be foreground?

    foreground/iou, /dice, /precision, /recall; accuracy_within_foreground, and within_foreground, the IoU there, as
    mean and class. Empty when there is no background.
    """
    if "foreground" not in table.more:
        return {}
    tp, fp, fn = table.more["foreground"].sum(axis=0)
    scores = {
        "foreground/iou": ratio(tp, tp + fp + fn),
        "foreground/dice": ratio(2 * tp, 2 * tp + fp + fn),
        "foreground/precision": ratio(tp, tp + fp),
        "foreground/recall": ratio(tp, tp + fn),
    }
    right, more, less = table.more["within_foreground"].sum(axis=0).T
    scores["accuracy_within_foreground"] = ratio(right.sum(), right.sum() + less.sum())
    values = np.where(table.foreground, ratio(right, right + more + less), np.nan)
    named = {c: v for c, v, there in zip(table.class_names, values, table.foreground, strict=True) if there}
    scores |= {"within_foreground/mean": mean(values)} | {f"within_foreground/{c}": v for c, v in named.items()}
    return {name: float(value) for name, value in scores.items()}
