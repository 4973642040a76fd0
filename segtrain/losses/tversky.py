"""Region losses: Tversky, Jaccard and Dice, and the ways to average them.

Per image i and class c over valid pixels: P = sum p, Y = sum y, TP = sum min(p, y), FP = P - TP, FN = Y - TP.
T = (TP + s) / (TP + a FP + b FN + s); loss l = 1 - T, or -ln T; then l^gamma. min(p, y) = (p + y - |p - y|) / 2
puts the minimum at p = y for soft labels too (Wang et al., 2023, https://arxiv.org/abs/2302.05666).
"""

from typing import Annotated, Literal, get_args

import torch
from torch import nn

from segtrain.arguments import Label, NonNegative, Positive, Range, Weights, checked
from segtrain.errors import did_you_mean
from segtrain.losses.loss import Loss, checked_weights, scaled, total, weighted, weighted_mean, weights_tensor
from segtrain.losses.sums import Needs, Sums, has_kernels

Aggregate = Literal["batch", "image", "class", "agnostic"]
Classes = (
    Literal["present", "all"]
    | Annotated[list[int], Range("present | all | a list of class indices", lambda v: len(v) > 0 and min(v) >= 0)]
)


class Selected(nn.Module):
    """bool [..., C], the classes to average over, from whether each is present."""

    def __init__(self, classes: Classes):
        super().__init__()
        self.classes = classes
        # a buffer: a list would be copied to the device in each step
        index = None if isinstance(classes, str) else torch.tensor(classes)
        self.register_buffer("index", index, persistent=False)

    def forward(self, present: torch.Tensor) -> torch.Tensor:
        if self.classes == "present":
            return present
        if self.classes == "all":
            return torch.ones_like(present)
        if max(self.classes) >= present.shape[-1]:
            raise ValueError(f"classes={list(self.classes)}, but there are {present.shape[-1]} classes, counted from 0")
        return torch.zeros_like(present).index_fill_(-1, self.index.to(present.device), True)


class RegionLoss(Loss):
    """A loss of T, with constants a and b.

    Args:
        aggregate: batch: mean over classes of the loss of sums over the batch; image: mean over images of the
            mean over the image's classes; class: mean over classes of the mean over images that have it;
            agnostic: one loss of the sums over images and classes. A mapping such as {batch: 0.5, image: 0.5}
            adds several up.
        classes: present (in the ground truth of the batch, or of the image), all, or a list of indices.
        log: -ln T in place of 1 - T.
        gamma: exponent of the loss of each class.
        smooth: s. A class that is absent and not predicted has loss 0.
        class_weights: weights of the classes in the means, or None.
        ignore_index: label of pixels to leave out.
        activation: softmax for one label per pixel, sigmoid for multi-label.
    """

    needs = Needs()
    fp_weight = fn_weight = 1.0

    @checked
    def __init__(
        self,
        aggregate: Aggregate | dict = "batch",
        classes: Classes = "present",
        log: bool = False,
        gamma: Positive = 1.0,
        smooth: Positive = 1e-3,
        class_weights: Weights | None = None,
        ignore_index: Label = 255,
        activation: Literal["softmax", "sigmoid"] = "softmax",
    ):
        super().__init__()
        self.aggregates = _aggregates(aggregate)
        if class_weights is not None and [*self.aggregates] == ["agnostic"]:
            raise ValueError("aggregate=agnostic adds up all classes, so class_weights would have no effect")
        self.classes, self.log, self.gamma, self.smooth = classes, log, gamma, smooth
        self.ignore_index, self.activation = ignore_index, activation
        self.register_buffer("class_weights", weights_tensor(class_weights), persistent=False)
        self.selected = Selected(classes)

    def from_sums(self, sums: Sums) -> torch.Tensor:
        loss = total([scaled(self._aggregated(sums, how), share) for how, share in self.aggregates.items()])
        self.parts = {type(self).__name__.lower(): loss.detach()}
        return loss

    def _aggregated(self, sums: Sums, how: str) -> torch.Tensor:
        if how in ("batch", "agnostic"):
            present = self.selected(sums.present.any(dim=0))
            if how == "batch" and has_kernels(sums.P):
                from segtrain.losses.sums.means import region_mean

                return region_mean(sums, present, checked_weights(self.class_weights, len(present)), self)
            present = present.to(sums.P)
            P, TP, Y = (t.sum(dim=0) for t in (sums.P, sums.TP, sums.Y))
            if how == "batch":
                return weighted_mean(self._losses(P, TP, Y), weighted(present, self.class_weights), dim=0)
            return self._losses(*((present * t).sum() for t in (P, TP, Y))) * present.any()
        selected = self.selected(sums.present)
        if self.classes != "present":
            selected = selected & (sums.valid > 0)  # an image that is all ignored shows nothing
        selected = selected.to(sums.P)
        losses = self._losses(sums.P, sums.TP, sums.Y)
        if how == "image":
            weights = weighted(selected, self.class_weights)
            return weighted_mean(weighted_mean(losses, weights, dim=1), (weights.sum(dim=1) > 0).to(losses), dim=0)
        per_class = weighted_mean(losses, selected, dim=0)
        return weighted_mean(per_class, weighted(selected.amax(dim=0), self.class_weights), dim=0)

    def _losses(self, P: torch.Tensor, TP: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
        if self.fp_weight == self.fn_weight:
            rest = scaled((P - TP) + (Y - TP), self.fp_weight)
        else:
            rest = scaled(P - TP, self.fp_weight) + scaled(Y - TP, self.fn_weight)
        # 1 - T is written as rest / (...): no digits are lost when T is close to 1.
        whole = TP + rest + self.smooth
        loss = torch.log(whole / (TP + self.smooth)) if self.log else rest / whole
        # x^gamma has no slope at 0 for gamma < 1
        return loss if self.gamma == 1 else loss.clamp_min(1e-12) ** self.gamma


class Tversky(RegionLoss):
    """Tversky loss: `fp_weight` is the weight of false positives, `fn_weight` of false negatives.

    Salehi et al., 2017, https://arxiv.org/abs/1706.05721; aggregates as in https://arxiv.org/abs/2310.19252.

    Args:
        fp_weight, fn_weight: a and b of T. 1 and 1 is Jaccard, 1/2 and 1/2 Dice.
        same: the arguments of RegionLoss.
    """

    @checked
    def __init__(self, fp_weight: NonNegative = 0.3, fn_weight: NonNegative = 0.7, **same):
        super().__init__(**same)
        if fp_weight == fn_weight == 0:
            raise ValueError("fp_weight and fn_weight are 0, so the loss is always 0")
        self.fp_weight, self.fn_weight = fp_weight, fn_weight


class Jaccard(RegionLoss):
    """1 - intersection over union. Arguments as in RegionLoss."""


class Dice(RegionLoss):
    """1 - 2 TP / (P + Y); `smooth` stands beside TP, half of what it is beside 2 TP. Arguments as in RegionLoss."""

    fp_weight = fn_weight = 0.5


def _aggregates(aggregate) -> dict[str, float]:
    if isinstance(aggregate, str):
        return {aggregate: 1.0}
    known = get_args(Aggregate)
    for name, share in aggregate.items():
        if name not in known:
            raise ValueError(f"aggregate: {name!r} is not one of {' | '.join(known)}{did_you_mean(name, known)}")
        if not isinstance(share, int | float) or share < 0:
            raise ValueError(f"aggregate: the share of {name} is {share!r}, must be a number >= 0")
    if not any(aggregate.values()):
        raise ValueError(f"aggregate={aggregate}: at least one share must be above 0")
    return {name: float(share) for name, share in aggregate.items()}
