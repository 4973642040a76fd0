"""A pixel loss plus a region loss from one softmax."""

import torch

from segtrain.arguments import NonNegative, checked
from segtrain.losses.loss import Loss, as_loss, one_of, scaled, total
from segtrain.losses.sums import Sums


class PixelRegion(Loss):
    """pixel_weight * pixel + alpha * region.

    When both are functions of the sums (all losses of segtrain but Lovasz), the logits are read once for both.
    With alpha=0 the loss and its gradient are those of pixel_weight * pixel, bit for bit; `parts` still has the value
    of the region loss.

    Args:
        pixel: CrossEntropy, Focal, BinaryCrossEntropy, or any module (logits, target) -> scalar.
        region: Dice, Jaccard, Tversky, Lovasz, …, or any module (logits, target) -> scalar.

    Raises ValueError when one loss is for softmax and the other for sigmoid, they differ in ignore_index, one changes by
    epoch, or both weights are 0.
    """

    @checked
    def __init__(self, pixel, region, alpha: NonNegative = 1.0, pixel_weight: NonNegative = 1.0):
        super().__init__()
        self.pixel, self.region, self.alpha, self.pixel_weight = as_loss(pixel), as_loss(region), alpha, pixel_weight
        both = (self.pixel, self.region)
        if alpha == pixel_weight == 0:
            raise ValueError("PixelRegion: alpha and pixel_weight are 0, so the loss is always 0")
        if any(len(loss.starts) > 1 for loss in both):
            raise ValueError(
                "PixelRegion cannot hold a loss that changes by epoch; let Phased change between PixelRegion losses"
            )
        self.activation = one_of({loss.activation for loss in both}, "PixelRegion", "activation")
        self.ignore_index = one_of({loss.ignore_index for loss in both}, "PixelRegion", "ignore_index")
        needs = [loss.needs for loss in both]
        # Two pixel losses may want the one pixel sum with different exponents.
        shared = None not in needs and not all(n.pixel for n in needs)
        self.needs = needs[0].merged(needs[1]) if shared else None

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return total(self.terms(logits, target))

    def from_sums(self, sums: Sums) -> torch.Tensor:
        return total(self._weighted(self.pixel.from_sums(sums), self.region.from_sums(sums)))

    def terms(self, logits: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
        """The weighted pixel term, and the weighted region term unless alpha is 0."""
        if self.needs is not None:
            sums = self._batch_sums(logits, target)
            return self._weighted(self.pixel.from_sums(sums), self.region.from_sums(sums))
        return self._weighted(
            self.pixel(logits, target), self.region(logits if self.alpha else logits.detach(), target)
        )

    def _weighted(self, pixel: torch.Tensor, region: torch.Tensor) -> list[torch.Tensor]:
        self.parts = {**self.pixel.parts, **self.region.parts}
        # A factor 0 would still send zeros backward; leaving the term out keeps the gradient bit for bit.
        return [scaled(pixel, self.pixel_weight), *([scaled(region, self.alpha)] if self.alpha else [])]

    def amounts(self, target: torch.Tensor) -> list:
        return [loss.amount(target) for loss in ([self.pixel, self.region] if self.alpha else [self.pixel])]

    def piece(self, logits: torch.Tensor, target: torch.Tensor):
        if self.needs is not None:
            return super().piece(logits, target)
        return self.pixel.piece(logits, target), self.region.piece(logits, target)

    def of_pieces(self, pieces: list) -> torch.Tensor:
        if self.needs is not None:
            return super().of_pieces(pieces)
        pixel, region = zip(*pieces, strict=True)
        return total(self._weighted(self.pixel.of_pieces(pixel), self.region.of_pieces(region)))
