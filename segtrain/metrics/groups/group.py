"""The shape of a group of scores, and the batch it counts."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from segtrain.metrics.confusion import confusion_per_image, valid_per_image
from segtrain.metrics.records import Score
from segtrain.metrics.table import Classes, Table


class Counts(NamedTuple):
    """An array that is counted: its shape for each image, or for the sum over all images."""

    shape: tuple[int, ...]
    summed: bool = False
    dtype: torch.dtype = torch.int64


@dataclass(frozen=True)
class ScoredBatch:
    """Prediction and target, [N,H,W] or multi-label [N,C,H,W], and what several groups count of them."""

    prediction: torch.Tensor
    target: torch.Tensor
    classes: Classes
    logits: torch.Tensor | None = None

    @cached_property
    def confusion(self) -> torch.Tensor:
        """int64 [N, C, C], or multi-label [N, C, 2, 2]: valid pixels by ground truth and prediction."""
        c, ignored = len(self.classes), self.classes.ignore_index
        if not self.classes.multilabel:
            return confusion_per_image(self.prediction, self.target, c, ignored)
        return confusion_per_image(*self._planes, 2, ignored).view(-1, c, 2, 2)

    @property
    def _planes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of multi-label, prediction and target of each class as an image of its own."""
        narrow = self.prediction if self.prediction.dtype == torch.bool else self.prediction.to(torch.uint8)
        return narrow.flatten(0, 1), self.target.flatten(0, 1)

    @cached_property
    def counts(self) -> dict[str, torch.Tensor]:
        """tp, fp, fn and valid pixels: int64 [N, C] each. On CUDA the valid pixels of an image some of whose labels or
        predictions are no class are not the sum of the others, or negative (see SegmentationScores.compute)."""
        matrix, ignored = self.confusion, self.classes.ignore_index
        if self.classes.multilabel:
            tp, fp, fn = matrix[..., 1, 1], matrix[..., 0, 1], matrix[..., 1, 0]
            counted = matrix.sum(dim=(2, 3))
            valid = valid_per_image(matrix.flatten(0, 1), self._planes[1], ignored).view_as(counted)
            valid = valid.where(valid == counted, -1)
        else:
            tp = matrix.diagonal(dim1=1, dim2=2)
            fp, fn = matrix.sum(dim=1) - tp, matrix.sum(dim=2) - tp
            valid = valid_per_image(matrix, self.target, ignored)[:, None].expand_as(tp)
        # contiguous: a view would keep the whole matrix in memory
        return {"tp": tp.contiguous(), "fp": fp.contiguous(), "fn": fn.contiguous(), "valid": valid}


class Group:
    """A group of scores: what it counts of a batch, and the scores of the counts.

    A new one derives from this class and gets its line in segtrain.metrics.scores.

    Attributes:
        needs_logits: whether it counts the logits.
        defined: whether it has scores for its classes.
        by_region: whether it counts, with `margin` and `count_region`, on the CPU (see segtrain.metrics.regions).
    """

    needs_logits = False
    defined = True
    by_region = False

    def __init__(self, classes: Classes):
        self.classes = classes

    def arrays(self) -> dict[str, Counts]:
        """What is counted, by name."""
        return {}

    def count(self, batch: ScoredBatch) -> dict[str, torch.Tensor]:
        """The arrays of a batch: [N, …] each, or summed over its images."""
        return {}

    def scores(self, table: Table) -> dict[str, float]:
        """The scores of the images of a table, by name."""
        return {}

    def records(self, table: Table) -> list[Score]:
        """A record for each name of `scores`, in that order."""
        return []

    def per_class(self, table: Table) -> dict[str, np.ndarray]:
        """Columns [C] for the table of classes."""
        return {}

    def of_one_image(self, table: Table) -> list[str]:
        """Names of scores that a single image decides, so that they have no interval."""
        return []
