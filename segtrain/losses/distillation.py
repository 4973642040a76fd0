"""Distillation: a loss on labels and on the output of a teacher network."""

import torch
import torch.nn.functional as F

from segtrain.arguments import Fraction, Label, Positive, checked
from segtrain.losses.compound import PixelRegion
from segtrain.losses.loss import Loss, as_loss, total, whole_batch
from segtrain.losses.targets import IGNORED


class Distillation(Loss):
    """s · pixel(labels) + (1 - s) · T² · KL(teacher || student at temperature T) + alpha · region(teacher).

    Wang et al., 2023, https://arxiv.org/abs/2303.16296, after Hinton et al., 2015, https://arxiv.org/abs/1503.02531.
    The pixel term, the region term and alpha are those of `loss` (PixelRegion). A loss without a region term gives
    s · loss(labels) + (1 - s) · T² · KL. For one label per pixel; the target is (labels [N,H,W], logits of the teacher).

    Args:
        loss: the loss without a teacher.
        temperature: T; softens both outputs, so that the teacher's second choices count.
        label_share: s, the share of the labels against the teacher.
        ignore_index: label of pixels to leave out.
    """

    activation = "softmax"

    @checked
    def __init__(self, loss, temperature: Positive = 1.0, label_share: Fraction = 0.5, ignore_index: Label = 255):
        super().__init__()
        self.loss, self.temperature, self.label_share = as_loss(loss), temperature, label_share
        self.ignore_index, self.starts = ignore_index, self.loss.starts

    def start_epoch(self, epoch: int) -> str | None:
        return self.loss.start_epoch(epoch)

    def forward(self, logits: torch.Tensor, target: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return total(self.terms(logits, target))

    def terms(self, logits: torch.Tensor, target: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
        """The weighted terms of labels, divergence and, unless alpha is 0, region."""
        labels, teacher = target
        if teacher.shape != logits.shape or labels.ndim != 3:
            raise ValueError(
                f"the teacher's logits are {list(teacher.shape)}, the network's {list(logits.shape)}, the labels "
                f"{list(labels.shape)}: labels=teacher needs the same classes and one label per pixel"
            )
        valid = labels != self.ignore_index
        divergence = self._divergence(logits, teacher, valid)
        pixel, region, weight, alpha = self._split()
        terms = [weight * self.label_share * pixel(logits, labels), weight * (1 - self.label_share) * divergence]
        self.parts = {**pixel.parts, "kl": divergence.detach()}
        if alpha:
            soft = teacher.softmax(dim=1).masked_fill(~valid[:, None], IGNORED)
            terms.append(alpha * region(logits, soft))
            self.parts |= region.parts
        return terms

    def amounts(self, target: tuple[torch.Tensor, torch.Tensor]) -> list:
        labels, _ = target
        pixel, _, _, alpha = self._split()
        return [pixel.amount(labels), (labels != self.ignore_index).sum(), *([len(labels)] if alpha else [])]

    def _split(self) -> tuple[Loss, Loss | None, float, float]:
        """Pixel loss, region loss, and their factors, in this epoch."""
        loss = self.loss.current
        if isinstance(loss, PixelRegion):
            return loss.pixel, loss.region, loss.pixel_weight, loss.alpha
        return loss, None, 1.0, 0.0

    def _divergence(self, logits: torch.Tensor, teacher: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """T² · KL, the mean over valid pixels; 0 when all are ignored."""
        student = (logits.float() / self.temperature).log_softmax(dim=1)
        each = F.kl_div(student, (teacher / self.temperature).log_softmax(dim=1), reduction="none", log_target=True)
        mean = (each.sum(dim=1) * valid).sum() / valid.sum().clamp_min(1)
        return self.temperature**2 * whole_batch().mean(mean, valid.sum)
