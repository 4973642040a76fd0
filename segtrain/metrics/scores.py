"""Scores from one int64 table [images, classes, (tp, fp, fn)]; never an average of scores of batches."""

from typing import Annotated, Literal

import numpy as np
import torch

from segtrain.arguments import Label, NonNegativeInt, PositiveInt, Range, checked
from segtrain.losses.targets import check_labels
from segtrain.metrics.derived import Table, fine_grained, per_class, presence, standard
from segtrain.metrics.intervals import bootstrap


def predict(logits: torch.Tensor, multilabel: bool, threshold: float = 0.0) -> torch.Tensor:
    """The decision for logits [N,C,H,W]: class indices [N,H,W], or bool [N,C,H,W], logit > threshold, multi-label."""
    return logits > threshold if multilabel else logits.max(dim=1).indices


class SegmentationScores:
    """Counts true positives, false positives and false negatives per image and class, and derives the scores.

    A class with no pixel in truth and prediction has no score: NaN, and it is left out of means.
    Foreground scores leave out the background's score; its pixels still count as false positives and negatives.

    Args:
        num_classes: number of classes C.
        ignore_index: target value of pixels that do not count.
        background: index of the class to leave out of `iou/foreground` and `dice/foreground`, or None.
        class_names: C names, for the names of scores.
        multilabel: whether a pixel may have several classes.
        groups: scores besides the standard ones: fine_grained (per image, per class, the worst), presence (is a class
            said to be in the images it is in).
        worst: percentages of the worst images, for fine_grained.
        min_area: predicted pixels that say a class is in an image, for presence.
    """

    @checked
    def __init__(
        self,
        num_classes: PositiveInt,
        ignore_index: Label = 255,
        background: NonNegativeInt | None = 0,
        class_names: list[str] | None = None,
        multilabel: bool = False,
        groups: list[Literal["fine_grained", "presence"]] = (),
        worst: list[Annotated[int, Range("a whole number from 1 to 100", lambda v: 1 <= v <= 100)]] = (1, 5, 20),
        min_area: PositiveInt = 1,
    ):
        self.num_classes, self.ignore_index, self.background = num_classes, ignore_index, background
        self.class_names = list(class_names or [f"class {i}" for i in range(num_classes)])
        self.multilabel, self.groups, self.worst, self.min_area = multilabel, list(groups), list(worst), min_area
        self.reset()

    def reset(self) -> None:
        self._tables: list[torch.Tensor] = []
        self._valid: list[torch.Tensor] = []
        self._confusion = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)
        self.names: list[str] = []

    def update(self, prediction: torch.Tensor, target: torch.Tensor, names: list[str] | None = None) -> None:
        """Add a batch; stays on the device, nothing is copied to the host.

        Args:
            prediction: class indices [N,H,W]; multi-label: bool [N,C,H,W].
            target: integer of the same shape, or ignore_index.
            names: one per image.

        Raises ValueError for shapes that differ and, on the CPU, for values that are no class.
        """
        if prediction.shape != target.shape:
            raise ValueError(f"prediction {list(prediction.shape)} and target {list(target.shape)} differ in shape")
        if prediction.device.type == "cpu" and not self.multilabel:  # on CUDA this would wait for the device
            check_labels(prediction, self.num_classes, self.ignore_index, "prediction")
            check_labels(target, self.num_classes, self.ignore_index)
        count = self._count_multilabel if self.multilabel else self._count
        table, valid = count(prediction, target)
        self._tables.append(table)
        self._valid.append(valid)
        first = len(self.names)
        self.names += names or [f"image {first + i}" for i in range(len(prediction))]

    def _count(self, prediction: torch.Tensor, target: torch.Tensor):
        """One histogram of (image, truth or ignored, prediction)."""
        n, c = len(prediction), self.num_classes
        truth = target.flatten(1).long()
        truth = truth.masked_fill(truth == self.ignore_index, c)
        image = torch.arange(n, device=truth.device)[:, None]
        cell = (image * (c + 1) + truth) * c + prediction.flatten(1)
        matrix = torch.bincount(cell.flatten(), minlength=n * (c + 1) * c).view(n, c + 1, c)[:, :c]
        self._confusion = self._confusion.to(matrix.device) + matrix.sum(dim=0)
        tp = matrix.diagonal(dim1=1, dim2=2)
        table = torch.stack([tp, matrix.sum(dim=1) - tp, matrix.sum(dim=2) - tp], dim=2)
        return table, matrix.sum(dim=(1, 2))[:, None].expand(n, c)

    def _count_multilabel(self, prediction: torch.Tensor, target: torch.Tensor):
        valid, truth, found = target != self.ignore_index, target == 1, prediction.bool()
        pairs = (found & truth, found & ~truth & valid, ~found & truth)
        table = torch.stack([pair.flatten(2).sum(dim=2) for pair in pairs], dim=2)
        return table, valid.flatten(2).sum(dim=2)

    def restore(self, names, table, valid, confusion, **_) -> None:
        """Take over what `names`, `table`, `derived().valid` and `confusion` were, as per_image.npz holds them."""
        self.names, self._confusion = [str(name) for name in names], torch.from_numpy(confusion)
        self._tables, self._valid = [torch.from_numpy(table)], [torch.from_numpy(valid)]

    def table(self) -> np.ndarray:
        """int64 [images, C, 3]: tp, fp, fn of every image so far, in the order of `names`."""
        return torch.cat(self._tables).cpu().numpy()

    def confusion(self) -> np.ndarray:
        """int64 [C, C]: valid pixels by truth (row) and prediction (column). For one label a pixel."""
        return self._confusion.cpu().numpy()

    def derived(self) -> Table:
        """The table with what is needed to derive scores from it."""
        valid = torch.cat(self._valid).cpu().numpy() if self._valid else np.zeros((0, self.num_classes), np.int64)
        return Table(self.table(), valid, self.class_names, self.background, self.multilabel)

    def per_class(self) -> dict[str, np.ndarray]:
        """iou, dice, precision, recall (NaN where undefined), support (truth pixels) and images, each [C]."""
        return per_class(self.derived())

    def compute(self) -> dict[str, float]:
        """All scores by name: iou/mean, iou/foreground, iou/<class name>, dice/mean, accuracy, …"""
        return self.scores(self.derived())

    def scores(self, table: Table) -> dict[str, float]:
        """The scores of a table, such as a part of the images."""
        found = standard(table)
        if "fine_grained" in self.groups:
            found |= fine_grained(table, self.worst)
        if "presence" in self.groups:
            found |= presence(table, self.min_area)
        return found

    def intervals(self, repeats: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % bootstrap interval over images of every score."""
        return bootstrap(self.derived(), self.scores, repeats, seed)

    def score_names(self) -> list[str]:
        """What `compute` will return, known before any image."""
        nothing = np.zeros((1, self.num_classes, 3), np.int64)
        return list(self.scores(Table(nothing, nothing[..., 0], self.class_names, self.background, self.multilabel)))
