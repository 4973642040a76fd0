"""A pixel loss plus a region loss from one softmax."""

import torch
from torch import nn

from segtrain.arguments import NonNegative, checked
from segtrain.losses.sums.table import sigmoid_table, softmax_table


class PixelRegion(nn.Module):
    """pixel_weight * pixel + alpha * region.

    When both can be computed from tables (all losses of segtrain but Lovasz), the logits are read once for both.
    With alpha=0 the loss and its gradient are those of pixel_weight * pixel, bit for bit; `parts` still tells
    the value of the region loss.

    Args:
        pixel: CrossEntropy, Focal, BinaryCrossEntropy, or any module (logits, target) -> scalar.
        region: Dice, Jaccard, Tversky, Lovasz, …, or any module (logits, target) -> scalar.
    """

    @checked
    def __init__(self, pixel, region, alpha: NonNegative = 1.0, pixel_weight: NonNegative = 1.0):
        super().__init__()
        self.pixel, self.region, self.alpha, self.pixel_weight = pixel, region, alpha, pixel_weight
        kinds = {getattr(loss, "activation", None) for loss in (pixel, region)} - {None}
        if len(kinds) > 1:
            raise ValueError(f"PixelRegion: one loss is for softmax, the other for sigmoid: {pixel}, {region}")
        ignored = {getattr(loss, "ignore_index", None) for loss in (pixel, region)} - {None}
        if len(ignored) > 1:
            raise ValueError(f"PixelRegion: the two losses differ in ignore_index: {sorted(ignored)}")
        self.activation = kinds.pop() if kinds else None
        # Two pixel losses may want the one column of the table that is theirs with different exponents.
        two_pixel_losses = hasattr(region, "total_weight")
        self.shared = hasattr(pixel, "from_table") and hasattr(region, "from_table") and not two_pixel_losses
        self.parts: dict[str, torch.Tensor] = {}

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar, from logits [N,C,H,W] and target integer [N,H,W] or float [N,C,H,W] (soft, or multi-label)."""
        if self.shared:
            table = self._table(logits, target)
            pixel, region = self.pixel.from_table(table), self.region.from_table(table)
        else:
            pixel = self.pixel(logits, target)
            region = self.region(logits if self.alpha else logits.detach(), target)
        self.parts = {**getattr(self.pixel, "parts", {}), **getattr(self.region, "parts", {})}
        # A factor 0 would still send zeros backward; leaving the term out keeps the gradient bit for bit.
        total = self.pixel_weight * pixel
        return total + self.alpha * region if self.alpha else total

    @property
    def total_weight(self):
        """That of the pixel loss, if it has one."""
        return getattr(self.pixel, "total_weight", None)

    def _table(self, logits, target):
        if self.activation == "sigmoid":
            return sigmoid_table(logits, target, self.pixel.ignore_index)
        request = self.pixel.request.merged(self.region.request)
        return softmax_table(logits, target, self.pixel.ignore_index, request)
