"""Scores from one int64 table [images, classes, (tp, fp, fn)]; never an average of scores of batches."""

import numpy as np
import torch

from segtrain.arguments import Label, NonNegativeInt, PositiveInt, checked
from segtrain.losses.targets import check_labels


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
    """

    @checked
    def __init__(
        self,
        num_classes: PositiveInt,
        ignore_index: Label = 255,
        background: NonNegativeInt | None = 0,
        class_names: list[str] | None = None,
        multilabel: bool = False,
    ):
        self.num_classes, self.ignore_index, self.background = num_classes, ignore_index, background
        self.class_names = list(class_names or [f"class {i}" for i in range(num_classes)])
        self.multilabel = multilabel
        self.reset()

    def reset(self) -> None:
        self._tables: list[torch.Tensor] = []
        self._valid: list[torch.Tensor] = []
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
        tp = matrix.diagonal(dim1=1, dim2=2)
        table = torch.stack([tp, matrix.sum(dim=1) - tp, matrix.sum(dim=2) - tp], dim=2)
        return table, matrix.sum(dim=(1, 2))[:, None].expand(n, c)

    def _count_multilabel(self, prediction: torch.Tensor, target: torch.Tensor):
        valid, truth, found = target != self.ignore_index, target == 1, prediction.bool()
        pairs = (found & truth, found & ~truth & valid, ~found & truth)
        table = torch.stack([pair.flatten(2).sum(dim=2) for pair in pairs], dim=2)
        return table, valid.flatten(2).sum(dim=2)

    def table(self) -> np.ndarray:
        """int64 [images, C, 3]: tp, fp, fn of every image so far, in the order of `names`."""
        return torch.cat(self._tables).cpu().numpy()

    def per_class(self) -> dict[str, np.ndarray]:
        """iou, dice, precision, recall (NaN where undefined) and support (truth pixels), each [C]."""
        tp, fp, fn = self.table().sum(axis=0).T
        return {
            "iou": _ratio(tp, tp + fp + fn),
            "dice": _ratio(2 * tp, 2 * tp + fp + fn),
            "precision": _ratio(tp, tp + fp),
            "recall": _ratio(tp, tp + fn),
            "support": tp + fn,
        }

    def compute(self) -> dict[str, float]:
        """All scores by name: iou/mean, iou/foreground, iou/<class name>, dice/mean, accuracy, …"""
        classes = self.per_class()
        foreground = np.arange(self.num_classes) != (-1 if self.background is None else self.background)
        scores = {}
        for name in ("iou", "dice"):
            scores[f"{name}/mean"] = _mean(classes[name])
            scores[f"{name}/foreground"] = _mean(classes[name][foreground])
        scores["accuracy"] = self._accuracy()
        for name in ("iou", "dice", "precision", "recall"):
            scores |= {f"{name}/{c}": float(v) for c, v in zip(self.class_names, classes[name], strict=True)}
        return scores

    def score_names(self) -> list[str]:
        """What `compute` will return, known before any image."""
        means = ["iou/mean", "iou/foreground", "dice/mean", "dice/foreground", "accuracy"]
        return means + [f"{n}/{c}" for n in ("iou", "dice", "precision", "recall") for c in self.class_names]

    def _accuracy(self) -> float:
        """Share of valid pixels (multi-label: of valid values of all channels) that are right."""
        tp, fp, fn = self.table().sum(axis=(0, 1))
        valid = torch.cat(self._valid).sum(dim=0).cpu().numpy()
        if self.multilabel:
            return float(_ratio(valid.sum() - fp - fn, valid.sum()))
        return float(_ratio(tp, valid[0]))


def _ratio(over, under) -> np.ndarray:
    """over / under, NaN where under is 0."""
    over, under = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    return np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
