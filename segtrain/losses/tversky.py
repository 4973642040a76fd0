"""Region losses: Jaccard, Dice and Tversky, and the ways to average them.

Per image i and class c over valid pixels: P = sum p, Y = sum y, TP = sum min(p, y), FP = P - TP, FN = Y - TP.
T = (TP + s) / (TP + a FP + b FN + s); loss l = 1 - T, or -ln T; then l^gamma. min(p, y) = (p + y - |p - y|) / 2
puts the minimum at p = y for soft labels too (Wang et al., 2023, https://arxiv.org/abs/2302.05666).
"""

from typing import Annotated, Literal

import torch
from torch import nn

from segtrain.arguments import Label, NonNegative, Positive, Range, Weights, checked
from segtrain.errors import did_you_mean
from segtrain.losses.cross_entropy import weights_like, weights_tensor
from segtrain.losses.sums.table import Request, Table, sigmoid_table, softmax_table

Aggregate = Literal["batch", "image", "class", "agnostic"]
Classes = (
    Literal["present", "all"]
    | Annotated[list[int], Range("present | all | a list of class indices", lambda v: len(v) > 0 and min(v) >= 0)]
)


class Tversky(nn.Module):
    """Tversky loss: `fp_weight` is the price of a false positive pixel, `fn_weight` of a missed one.

    Salehi et al., 2017, https://arxiv.org/abs/1706.05721; aggregates as in https://arxiv.org/abs/2310.19252.

    Args:
        fp_weight, fn_weight: a and b of T. 1 and 1 is Jaccard, 1/2 and 1/2 Dice.
        aggregate: batch: mean over classes of the loss of sums over the batch; image: mean over images of the
            mean over the image's classes; class: mean over classes of the mean over images that have it;
            agnostic: one loss of the sums over images and classes. A mapping such as {batch: 0.5, image: 0.5}
            adds several up.
        classes: present (in the truth of the batch, or of the image), all, or a list of indices.
        log: -ln T in place of 1 - T.
        gamma: exponent of the loss of each class.
        smooth: s. An absent class that is not predicted either has loss 0.
        class_weights: weights of the classes in the means, or None.
        ignore_index: label of pixels to leave out.
        activation: softmax for one label a pixel, sigmoid for several.
    """

    @checked
    def __init__(
        self,
        fp_weight: NonNegative = 0.3,
        fn_weight: NonNegative = 0.7,
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
        self.fp_weight, self.fn_weight = fp_weight, fn_weight
        self.aggregates = _aggregates(aggregate)
        self.classes, self.log, self.gamma, self.smooth = classes, log, gamma, smooth
        self.ignore_index, self.activation, self.request = ignore_index, activation, Request()
        self.register_buffer("class_weights", weights_tensor(class_weights), persistent=False)
        self.parts: dict[str, torch.Tensor] = {}

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar, from logits [N,C,H,W] and target integer [N,H,W] or float [N,C,H,W] (soft, or multi-label)."""
        return self.from_table(region_table(logits, target, self.ignore_index, self.activation))

    def from_table(self, table: Table) -> torch.Tensor:
        loss = sum(share * self._aggregated(table, how) for how, share in self.aggregates.items())
        self.parts = {type(self).__name__.lower(): loss.detach()}
        return loss

    def _aggregated(self, table: Table, how: str) -> torch.Tensor:
        weights = weights_like(self.class_weights, table.Y)
        if how == "batch":
            selected = selected_classes(self.classes, table.present.any(dim=0, keepdim=True))
            losses = self._losses(table.P.sum(0), table.TP.sum(0), table.Y.sum(0))
            return weighted_mean(losses, weights * selected[0], dim=0)
        if how == "agnostic":
            chosen = selected_classes(self.classes, table.present.any(dim=0, keepdim=True)).to(table.P)
            P, TP, Y = ((t * chosen).sum() for t in (table.P, table.TP, table.Y))
            return self._losses(P, TP, Y) * chosen.any()
        selected = selected_classes(self.classes, table.present).to(table.P)
        losses = self._losses(table.P, table.TP, table.Y)
        if how == "image":
            per_image = weighted_mean(losses, weights * selected, dim=1)
            return weighted_mean(per_image, ((weights * selected).sum(dim=1) > 0).to(losses), dim=0)
        per_class = weighted_mean(losses, selected, dim=0)
        return weighted_mean(per_class, weights * selected.any(dim=0), dim=0)

    def _losses(self, P: torch.Tensor, TP: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
        rest = self.fp_weight * (P - TP) + self.fn_weight * (Y - TP)
        # 1 - T is written as rest / (...): no digits are lost when T is close to 1.
        whole = TP + rest + self.smooth
        loss = torch.log(whole / (TP + self.smooth)) if self.log else rest / whole
        # x^gamma has no slope at 0 for gamma < 1
        return loss if self.gamma == 1 else loss.clamp_min(1e-12) ** self.gamma


class Jaccard(Tversky):
    """1 - intersection over union. Arguments as in Tversky."""

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
        super().__init__(1.0, 1.0, aggregate, classes, log, gamma, smooth, class_weights, ignore_index, activation)


class Dice(Tversky):
    """1 - 2 TP / (P + Y). Arguments as in Tversky; `smooth` stands beside TP, half of what it is beside 2 TP."""

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
        super().__init__(0.5, 0.5, aggregate, classes, log, gamma, smooth, class_weights, ignore_index, activation)


class GeneralizedDice(nn.Module):
    """1 - (2 sum w_c TP_c + s) / (sum w_c (P_c + Y_c) + s), w = 1 / Y_c^2 over the classes in the batch.

    Sudre et al., 2017, https://arxiv.org/abs/1707.03237. Absent classes have no weight, not a huge one.
    """

    @checked
    def __init__(
        self,
        smooth: Positive = 1e-3,
        ignore_index: Label = 255,
        activation: Literal["softmax", "sigmoid"] = "softmax",
    ):
        super().__init__()
        self.smooth, self.ignore_index, self.activation, self.request = (
            smooth,
            ignore_index,
            activation,
            Request(),
        )
        self.parts: dict[str, torch.Tensor] = {}

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar, from logits [N,C,H,W] and target integer [N,H,W] or float [N,C,H,W] (soft, or multi-label)."""
        return self.from_table(region_table(logits, target, self.ignore_index, self.activation))

    def from_table(self, table: Table) -> torch.Tensor:
        P, TP, Y = (t.sum(dim=0) for t in (table.P, table.TP, table.Y))
        weights = torch.where(table.present.any(dim=0), 1 / Y.clamp_min(1e-12) ** 2, 0.0)
        union = (weights * (P + Y)).sum() + self.smooth
        loss = ((weights * (P + Y - 2 * TP)).sum()) / union
        self.parts = {"generalizeddice": loss.detach()}
        return loss


def region_table(logits: torch.Tensor, target: torch.Tensor, ignore_index: int, activation: str) -> Table:
    if activation == "sigmoid":
        return sigmoid_table(logits, target, ignore_index)
    return softmax_table(logits, target, ignore_index, Request())


def selected_classes(classes, present: torch.Tensor) -> torch.Tensor:
    """bool [..., C]: the classes to average over, from whether each is present."""
    if classes == "present":
        return present
    if classes == "all":
        return torch.ones_like(present)
    if max(classes) >= present.shape[-1]:
        raise ValueError(f"classes={list(classes)}, but there are {present.shape[-1]} classes, counted from 0")
    selected = torch.zeros_like(present)
    selected[..., list(classes)] = True
    return selected


def weighted_mean(values: torch.Tensor, weights: torch.Tensor, dim: int) -> torch.Tensor:
    """sum(w v) / sum(w); 0, connected to the graph, where the weights are all 0."""
    total = weights.sum(dim=dim)
    return (weights * values).sum(dim=dim) / torch.where(total > 0, total, 1.0)


def _aggregates(aggregate) -> dict[str, float]:
    if isinstance(aggregate, str):
        return {aggregate: 1.0}
    known = ("batch", "image", "class", "agnostic")
    for name, share in aggregate.items():
        if name not in known:
            raise ValueError(f"aggregate: {name!r} is none of {' | '.join(known)}{did_you_mean(name, known)}")
        if not isinstance(share, int | float) or share < 0:
            raise ValueError(f"aggregate: the share of {name} is {share!r}, must be a number >= 0")
    if not any(aggregate.values()):
        raise ValueError(f"aggregate={aggregate}: at least one share must be above 0")
    return {name: float(share) for name, share in aggregate.items()}
