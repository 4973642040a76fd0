"""Binary cross-entropy, for several labels a pixel."""

import torch
from torch import nn

from segtrain.arguments import Label, Weights, checked
from segtrain.losses.cross_entropy import weights_like, weights_tensor
from segtrain.losses.sums.table import Table, sigmoid_table


class BinaryCrossEntropy(nn.Module):
    """Mean over valid pixels and classes of w_c (v_c y softplus(-z) + (1 - y) softplus(z)); 0 when all are ignored.

    Equals torch.nn.functional.binary_cross_entropy_with_logits with weight and pos_weight as [C,1,1].

    Args:
        class_weights: w, the weight of each class, or None for 1.
        pos_weight: v, the weight of pixels that have the class against those that have not, or None for 1.
        ignore_index: target value to leave out, in the channel it stands in.
    """

    activation = "sigmoid"
    request = None

    @checked
    def __init__(
        self,
        class_weights: Weights | None = None,
        pos_weight: Weights | None = None,
        ignore_index: Label = 255,
    ):
        super().__init__()
        self.ignore_index = ignore_index
        self.register_buffer("class_weights", weights_tensor(class_weights), persistent=False)
        self.register_buffer("pos_weight", weights_tensor(pos_weight), persistent=False)
        self.parts: dict[str, torch.Tensor] = {}

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar, from logits and target [N,C,H,W], target 0 to 1 or ignore_index."""
        return self.from_table(sigmoid_table(logits, target, self.ignore_index))

    def total_weight(self, target: torch.Tensor) -> torch.Tensor:
        """What the sum of losses is divided by: for the loss of several batches as one."""
        return (target != self.ignore_index).sum()

    def from_table(self, table: Table) -> torch.Tensor:
        weights = weights_like(self.class_weights, table.Y)
        positive = weights_like(self.pos_weight, table.Y)
        loss = (weights * (positive * table.positive + table.negative)).sum() / table.valid.sum().clamp_min(1)
        self.parts = {"bce": loss.detach()}
        return loss
