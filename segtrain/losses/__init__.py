"""Losses for one label per pixel (softmax) and for multi-label (sigmoid). Each is `loss(logits, target) -> scalar`."""

from segtrain.losses.binary_cross_entropy import BinaryCrossEntropy
from segtrain.losses.compound import PixelRegion
from segtrain.losses.cross_entropy import CrossEntropy
from segtrain.losses.distillation import Distillation
from segtrain.losses.focal import Focal
from segtrain.losses.generalized_dice import GeneralizedDice
from segtrain.losses.loss import Loss, as_loss
from segtrain.losses.lovasz import Lovasz
from segtrain.losses.phased import Phased
from segtrain.losses.tversky import Dice, Jaccard, RegionLoss, Tversky

__all__ = [
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Dice",
    "Distillation",
    "Focal",
    "GeneralizedDice",
    "Jaccard",
    "Loss",
    "Lovasz",
    "Phased",
    "PixelRegion",
    "RegionLoss",
    "Tversky",
    "as_loss",
]
