"""Sums per image and class from which every loss is computed, with their gradient, in two passes over the logits.

A loss here is a function of [N,C] tables; autograd carries dL/dtable into `backward`, which adds every part up
in one more softmax. With a_c = dL/dP_c, b_c = dL/dTP_c and k = dL/dpixel_y, a pixel of class y gets
    dz_c = p_c (a_c - S + k), and at c = y also p_y b_y - k, where S = sum_c a_c p_c + b_y p_y.
No one-hot and no copy of the logits is ever made: the work is done in tiles that stay in the cache, and the
softmax is computed again in backward, which costs less than writing it out and reading it back.
"""

from dataclasses import dataclass

import torch

from segtrain.losses.sums.hard import HardTable
from segtrain.losses.sums.sigmoid import SigmoidTable
from segtrain.losses.sums.soft import SoftTable
from segtrain.losses.targets import check_labels, is_hard


@dataclass(frozen=True)
class Request:
    """What a loss needs from the tables beyond P, TP and Y."""

    focal_gamma: float = 0.0
    smoothing: bool = False

    def merged(self, other: "Request") -> "Request":
        return Request(max(self.focal_gamma, other.focal_gamma), self.smoothing or other.smoothing)


@dataclass(frozen=True)
class Table:
    """Sums over the valid pixels of each image, all [N,C].

    Attributes:
        pixel: softmax: sum over pixels of class c of (1 - p)^gamma (-ln p). Soft labels: of each class's share.
        uniform: sum of -ln p_c over all valid pixels, for label smoothing (zeros unless requested).
        positive, negative: sigmoid: sums of y softplus(-z) and of (1 - y) softplus(z).
        P, TP, Y: sums of p, of min(p, y) and of y.
        present: bool, whether the class has a valid truth pixel (soft labels: one above 0.01).
        valid: number of valid pixels.
    """

    P: torch.Tensor
    TP: torch.Tensor
    Y: torch.Tensor
    present: torch.Tensor
    valid: torch.Tensor
    pixel: torch.Tensor | None = None
    uniform: torch.Tensor | None = None
    positive: torch.Tensor | None = None
    negative: torch.Tensor | None = None


@torch.compiler.disable
def softmax_table(logits: torch.Tensor, target: torch.Tensor, ignore_index: int, request: Request) -> Table:
    """Table of class indices [N,H,W], or of soft labels [N,C,H,W].

    Soft: pixels with a negative value are ignored, and with ignore_index, unless that is 0 or 1.
    """
    if is_hard(logits, target):
        ignored = ignore_index if check_labels(target, logits.shape[1], ignore_index) else None
        pixel, uniform, P, TP, Y, valid, _ = HardTable.apply(
            logits, target, ignored, request.focal_gamma, request.smoothing
        )
        return Table(P, TP, Y, Y > 0, valid, pixel=pixel, uniform=uniform)
    _check_shares(target, ignore_index)
    pixel, uniform, P, TP, Y, present, valid = SoftTable.apply(
        logits, target, ignore_index, request.focal_gamma, request.smoothing
    )
    return Table(P, TP, Y, present, valid, pixel=pixel, uniform=uniform)


@torch.compiler.disable
def sigmoid_table(logits: torch.Tensor, target: torch.Tensor, ignore_index: int) -> Table:
    """Table of labels [N,C,H,W] from 0 to 1, each channel on its own; values of ignore_index are ignored."""
    if is_hard(logits, target):
        raise ValueError(f"a sigmoid loss needs a target [N,C,H,W] like the logits, it is {list(target.shape)}")
    _check_probabilities(target, ignore_index)
    positive, negative, P, TP, Y, present, valid = SigmoidTable.apply(logits, target, ignore_index)
    return Table(P, TP, Y, present, valid, positive=positive, negative=negative)


def _check_shares(target: torch.Tensor, ignore_index: int) -> None:
    """Raise ValueError for soft labels above 1 that are not ignore_index, and for NaN."""
    if target.amax() <= 1:
        return
    wrong = ~(target <= 1) & (target != ignore_index)
    if wrong.any():
        image = int(wrong.flatten(1).any(dim=1).nonzero()[0])
        raise ValueError(
            f"soft label {target[wrong][0].item()} is not from 0 to 1 and not ignore_index={ignore_index}: "
            f"{int(wrong.sum())} values, the first in image {image} of the batch"
        )


def _check_probabilities(target: torch.Tensor, ignore_index: int) -> None:
    low, high = (float(v) for v in target.aminmax())
    if low >= 0 and high <= 1:
        return
    wrong = ((target < 0) | (target > 1) | target.isnan()) & (target != ignore_index)
    if wrong.any():
        image = int(wrong.flatten(1).any(dim=1).nonzero()[0])
        raise ValueError(
            f"label {target[wrong][0].item()} is not from 0 to 1 and not ignore_index={ignore_index}: "
            f"{int(wrong.sum())} values, the first in image {image} of the batch"
        )
