"""Pixel losses for one label a pixel: cross-entropy and focal loss."""

import torch
from torch import nn

from segtrain.arguments import FractionBelowOne, Label, NonNegative, Weights, checked
from segtrain.losses.sums.table import Request, Table, softmax_table
from segtrain.losses.targets import is_ignored


class CrossEntropy(nn.Module):
    """sum w_y (-ln p_y) / sum w_y over the valid pixels; 0 when all are ignored or of weight 0.

    Equals torch.nn.functional.cross_entropy (label smoothing too) where that is finite; deterministic on CUDA.
    Soft labels: sum_c w_c y_c (-ln p_c) / sum_c w_c y_c.

    Args:
        class_weights: C weights, or None for 1 each.
        ignore_index: label of pixels to leave out.
        label_smoothing: share of each label that is spread evenly over the classes.
    """

    activation = "softmax"

    @checked
    def __init__(
        self,
        class_weights: Weights | None = None,
        ignore_index: Label = 255,
        label_smoothing: FractionBelowOne = 0.0,
    ):
        super().__init__()
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing
        self.request = Request(smoothing=label_smoothing > 0)
        self.register_buffer("class_weights", weights_tensor(class_weights), persistent=False)
        self.parts: dict[str, torch.Tensor] = {}

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar, from logits [N,C,H,W] and target integer [N,H,W] or soft [N,C,H,W]."""
        return self.from_table(softmax_table(logits, target, self.ignore_index, self.request))

    def total_weight(self, target: torch.Tensor) -> torch.Tensor:
        """What the sum of weighted losses is divided by: for the loss of several batches as one."""
        return total_label_weight(target, self.class_weights, self.ignore_index)

    def from_table(self, table: Table) -> torch.Tensor:
        weights = weights_like(self.class_weights, table.Y)
        total = (weights * table.Y).sum()
        loss = _over(weights * table.pixel, total)
        if self.label_smoothing:
            uniform = _over(weights * table.uniform, total) / table.Y.shape[1]
            loss = (1 - self.label_smoothing) * loss + self.label_smoothing * uniform
        self.parts = {"ce": loss.detach()}
        return loss


class Focal(nn.Module):
    """sum w_y (1 - p_y)^gamma (-ln p_y) / sum w_y: easy pixels count less. gamma=0 is CrossEntropy exactly.

    Lin et al., 2017, https://arxiv.org/abs/1708.02002, in its softmax form.
    """

    activation = "softmax"

    @checked
    def __init__(self, gamma: NonNegative = 2.0, class_weights: Weights | None = None, ignore_index: Label = 255):
        super().__init__()
        self.ignore_index, self.request = ignore_index, Request(focal_gamma=gamma)
        self.register_buffer("class_weights", weights_tensor(class_weights), persistent=False)
        self.parts: dict[str, torch.Tensor] = {}

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar, from logits [N,C,H,W] and target integer [N,H,W] or soft [N,C,H,W]."""
        return self.from_table(softmax_table(logits, target, self.ignore_index, self.request))

    def total_weight(self, target: torch.Tensor) -> torch.Tensor:
        """What the sum of weighted losses is divided by: for the loss of several batches as one."""
        return total_label_weight(target, self.class_weights, self.ignore_index)

    def from_table(self, table: Table) -> torch.Tensor:
        weights = weights_like(self.class_weights, table.Y)
        loss = _over(weights * table.pixel, (weights * table.Y).sum())
        self.parts = {"focal": loss.detach()}
        return loss


def total_label_weight(target: torch.Tensor, class_weights: torch.Tensor | None, ignore_index: int) -> torch.Tensor:
    """Sum of the weights of the labels [N,H,W]; of soft labels [N,C,H,W], each class's share counts."""
    valid = target != ignore_index if target.ndim == 3 else ~is_ignored(target, ignore_index)
    if class_weights is None:
        return valid.sum() if target.ndim == 3 else (target * valid).sum()
    if target.ndim == 3:
        return class_weights[target.long().where(valid, 0)][valid].sum()
    return ((target * valid).sum(dim=(0, 2, 3)) * class_weights).sum()


def weights_tensor(weights) -> torch.Tensor | None:
    return None if weights is None else torch.as_tensor(weights, dtype=torch.float64)


def weights_like(weights: torch.Tensor | None, table: torch.Tensor) -> torch.Tensor:
    """Weights [C] in the table's dtype, 1 for None. Raises ValueError when there is not one per class."""
    if weights is None:
        return table.new_ones(table.shape[1])
    if len(weights) != table.shape[1]:
        raise ValueError(f"{len(weights)} class weights for {table.shape[1]} classes")
    return weights.to(table)


def _over(terms: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """sum(terms) / total; 0, still connected to the graph, when the total is 0."""
    return terms.sum() / torch.where(total > 0, total, 1.0)
