"""Losses for one label a pixel (softmax) and for several (sigmoid). Each is `loss(logits, target) -> scalar`."""

from segtrain.losses.binary_cross_entropy import BinaryCrossEntropy
from segtrain.losses.compound import PixelRegion
from segtrain.losses.cross_entropy import CrossEntropy, Focal
from segtrain.losses.lovasz import Lovasz
from segtrain.losses.phased import Phased
from segtrain.losses.tversky import Dice, GeneralizedDice, Jaccard, Tversky

__all__ = [
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Dice",
    "Focal",
    "GeneralizedDice",
    "Jaccard",
    "Lovasz",
    "Phased",
    "PixelRegion",
    "Tversky",
]
