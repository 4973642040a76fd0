"""Generalized Dice loss."""

from typing import Literal

import torch

from segtrain.arguments import Label, Positive, checked
from segtrain.losses.loss import Loss
from segtrain.losses.sums import Needs, Sums


class GeneralizedDice(Loss):
    """1 - (2 sum w_c TP_c + s) / (sum w_c (P_c + Y_c) + s), w = (Y_r / Y_c)^2 over the classes in the batch.

    Sudre et al., 2017, https://arxiv.org/abs/1707.03237; Y_r, the pixels of the rarest class, are the same factor of all
    weights, so that s stands beside pixels: beside 1 / Y it would be nearly all there is in large images. Absent classes
    have no weight, not a huge one.

    Args:
        smooth: s.
        ignore_index: label of pixels to leave out.
        activation: softmax for one label per pixel, sigmoid for multi-label.
    """

    needs = Needs()

    @checked
    def __init__(
        self,
        smooth: Positive = 1e-3,
        ignore_index: Label = 255,
        activation: Literal["softmax", "sigmoid"] = "softmax",
    ):
        super().__init__()
        self.smooth, self.ignore_index, self.activation = smooth, ignore_index, activation

    def from_sums(self, sums: Sums) -> torch.Tensor:
        P, TP, Y = (t.sum(dim=0) for t in (sums.P, sums.TP, sums.Y))
        present = sums.present.any(dim=0)
        rarest = Y.where(present, torch.inf).amin()
        weights = torch.where(present, (rarest / Y.clamp_min(1e-12)) ** 2, 0.0)
        union = (weights * (P + Y)).sum() + self.smooth
        loss = ((weights * (P + Y - 2 * TP)).sum()) / union
        self.parts = {"generalizeddice": loss.detach()}
        return loss
