"""Cross-entropy, for one label per pixel."""

import torch

from segtrain.arguments import FractionBelowOne, Label, Weights, checked
from segtrain.losses.loss import Loss, checked_weights, over, weighted, weights_tensor
from segtrain.losses.sums import Needs, Sums, has_kernels
from segtrain.losses.targets import is_ignored


class CrossEntropy(Loss):
    """sum w_y (-ln p_y) / sum w_y over the valid pixels; 0 when all are ignored or of weight 0.

    Equals torch.nn.functional.cross_entropy (label smoothing too) where that is finite; deterministic on CUDA.
    Soft labels: sum_c w_c y_c (-ln p_c) / sum_c w_c y_c.

    Args:
        class_weights: C weights, or None for 1 each.
        ignore_index: label of pixels to leave out.
        label_smoothing: share of each label that is spread evenly over the classes.
    """

    activation = "softmax"
    name = "ce"

    @checked
    def __init__(
        self,
        class_weights: Weights | None = None,
        ignore_index: Label = 255,
        label_smoothing: FractionBelowOne = 0.0,
    ):
        super().__init__()
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing
        self.needs = Needs(pixel=True, smoothing=label_smoothing > 0)
        self.register_buffer("class_weights", weights_tensor(class_weights), persistent=False)

    def from_sums(self, sums: Sums) -> torch.Tensor:
        loss = self._mean(sums.pixel, sums.Y)
        if self.label_smoothing:
            uniform = self._mean(sums.uniform, sums.Y) / sums.Y.shape[1]
            there = weighted(sums.Y, self.class_weights).sum() > 0  # else this is not 0 over 0: all classes are in it
            uniform = uniform.where(there, 0)
            loss = (1 - self.label_smoothing) * loss + self.label_smoothing * uniform
        self.parts = {self.name: loss.detach()}
        return loss

    def _mean(self, values: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
        if has_kernels(values):
            from segtrain.losses.sums.means import class_mean

            return class_mean(values, amounts, checked_weights(self.class_weights, values.shape[1]))
        return over(weighted(values, self.class_weights).sum(), weighted(amounts, self.class_weights).sum())

    def amounts(self, target: torch.Tensor) -> list[torch.Tensor]:
        """The sum of the weights of the labels [N,H,W]; of soft labels [N,C,H,W], each class's share counts."""
        hard = target.ndim == 3
        valid = target != self.ignore_index if hard else ~is_ignored(target, self.ignore_index)
        if self.class_weights is None:
            return [valid.sum() if hard else (target * valid).sum()]
        if hard:
            labels = target.long().where(valid, 0).clamp(0, len(self.class_weights) - 1)  # on CUDA none is looked at
            return [(self.class_weights[labels] * valid).sum()]
        return [((target * valid).sum(dim=(0, 2, 3)) * self.class_weights).sum()]
