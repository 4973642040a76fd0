"""Binary cross-entropy, for multi-label."""

import torch

from segtrain.arguments import Label, Weights, checked
from segtrain.losses.loss import Loss, weighted, weights_tensor
from segtrain.losses.sums import Needs, Sums


class BinaryCrossEntropy(Loss):
    """Mean over valid pixels and classes of w_c (v_c y softplus(-z) + (1 - y) softplus(z)); 0 when all are ignored.

    Equals torch.nn.functional.binary_cross_entropy_with_logits with weight and pos_weight as [C,1,1].

    Args:
        class_weights: w, the weight of each class, or None for 1.
        pos_weight: v, the weight of pixels that have the class against those that have not, or None for 1.
        ignore_index: target value to leave out, in the channel it stands in.
    """

    activation = "sigmoid"
    needs = Needs(pixel=True)

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

    def from_sums(self, sums: Sums) -> torch.Tensor:
        each = weighted(weighted(sums.positive, self.pos_weight) + sums.negative, self.class_weights)
        loss = each.sum() / sums.valid.sum().clamp_min(1)
        self.parts = {"bce": loss.detach()}
        return loss

    def amounts(self, target: torch.Tensor) -> list[torch.Tensor]:
        """The number of values that are not ignored."""
        return [(target != self.ignore_index).sum()]
