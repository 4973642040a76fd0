"""Focal loss, for one label per pixel."""

from segtrain.arguments import Label, NonNegative, Weights, checked
from segtrain.losses.cross_entropy import CrossEntropy
from segtrain.losses.sums import Needs


class Focal(CrossEntropy):
    """sum w_y (1 - p_y)^gamma (-ln p_y) / sum w_y: easy pixels count less. gamma=0 is CrossEntropy exactly.

    Lin et al., 2017, https://arxiv.org/abs/1708.02002, in its softmax form.

    Args:
        gamma: the exponent; 0 to 5 are usual.
        class_weights, ignore_index: as in CrossEntropy.
    """

    name = "focal"

    @checked
    def __init__(self, gamma: NonNegative = 2.0, class_weights: Weights | None = None, ignore_index: Label = 255):
        super().__init__(class_weights, ignore_index)
        self.needs = Needs(pixel=True, focal_gamma=gamma)
