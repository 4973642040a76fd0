"""What a network is taught: the masks as they are, softened, averaged over annotators, or a teacher's answers.

Each kind has `target`, which turns the loader's integer target into what the loss gets, and is called with the loss.
Validation always uses the masks as they are.
"""

import torch
import torch.nn.functional as F
from torch import nn

from segtrain.arguments import Fraction, FractionBelowOne, Label, OddInt, Positive, PositiveInt, checked
from segtrain.losses.targets import IGNORED


class Hard(nn.Module):
    """The masks as they are."""

    annotated = False  # True: training reads every annotator's mask, [N,A,H,W]

    def __init__(self):
        super().__init__()

    def target(self, target: torch.Tensor) -> torch.Tensor:
        """What the loss gets for the loader's integer target [N,H,W]; multi-label [N,C,H,W]."""
        return target

    def forward(self, loss, logits: torch.Tensor, target: torch.Tensor, images: torch.Tensor):
        """The scalar to minimise, and its terms for the log: {name: detached scalar}."""
        return loss(logits, target), getattr(loss, "parts", {})


class Smooth(Hard):
    """y becomes (1 - epsilon) y + epsilon / C; for several labels a pixel + epsilon / 2.

    Szegedy et al., 2016, https://arxiv.org/abs/1512.00567. Unlike loss.label_smoothing it reaches the region loss too.
    """

    @checked
    def __init__(self, num_classes: PositiveInt, ignore_index: Label = 255, epsilon: FractionBelowOne = 0.1):
        super().__init__()
        self.num_classes, self.ignore_index, self.epsilon = num_classes, ignore_index, epsilon

    def target(self, target: torch.Tensor) -> torch.Tensor:
        soft, ignored = soft_labels(target, self.num_classes, self.ignore_index)
        return smoothed(soft, self.epsilon, multilabel=target.ndim == 4).masked_fill_(
            ignored, mark(target, self.ignore_index)
        )


class BoundarySmooth(Smooth):
    """Smooth, but only where a k × k window around the pixel shows another class: there the masks are unsure.

    Wang et al., 2023, https://arxiv.org/abs/2303.16296. The pixels are those that a k × k erosion takes from their class.

    Args:
        k: side of the window, odd; 3 is a border of one pixel on each side.
    """

    @checked
    def __init__(
        self, num_classes: PositiveInt, ignore_index: Label = 255, k: OddInt = 3, epsilon: FractionBelowOne = 0.5
    ):
        super().__init__(num_classes, ignore_index, epsilon)
        self.k = k

    def target(self, target: torch.Tensor) -> torch.Tensor:
        soft, ignored = soft_labels(target, self.num_classes, self.ignore_index)
        border = self.border(target)
        border = border if target.ndim == 4 else border[:, None]
        soft = torch.where(border, smoothed(soft, self.epsilon, multilabel=target.ndim == 4), soft)
        return soft.masked_fill_(ignored, mark(target, self.ignore_index))

    def border(self, target: torch.Tensor) -> torch.Tensor:
        """bool like `target`: whether the window shows two values. Ignored neighbours are no border."""
        planes = target.flatten(0, -3)[:, None].float()
        ignored = planes == self.ignore_index
        highest = self._largest(planes.masked_fill(ignored, -torch.inf))
        lowest = -self._largest((-planes).masked_fill(ignored, -torch.inf))
        return (highest > lowest).view_as(target)

    def _largest(self, planes: torch.Tensor) -> torch.Tensor:
        # k × k as k × 1 and 1 × k: the same maximum for fewer comparisons
        tall = F.max_pool2d(planes, (self.k, 1), stride=1, padding=(self.k // 2, 0))
        return F.max_pool2d(tall, (1, self.k), stride=1, padding=(0, self.k // 2))


class Annotators(Hard):
    """Several masks of one image, averaged: the share of annotators that chose a class is its label.

    Needs `dataset.annotators`. Pixels that some annotators ignore are the mean of the others.
    """

    annotated = True

    @checked
    def __init__(self, num_classes: PositiveInt, ignore_index: Label = 255):
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def target(self, target: torch.Tensor) -> torch.Tensor:
        n, _, h, w = target.shape
        soft = torch.zeros(n, self.num_classes, h, w, device=target.device)
        votes = torch.zeros(n, 1, h, w, device=target.device)
        for each in target.unbind(1):
            valid = (each != self.ignore_index)[:, None]
            soft.scatter_add_(1, each.long()[:, None].where(valid, 0), valid.float())
            votes += valid
        return (soft / votes.clamp_min(1)).masked_fill_(votes == 0, IGNORED)


class Teacher(Hard):
    """Distillation: s · pixel(labels) + (1 - s) · T² · KL(teacher || student at temperature T) + alpha · region(teacher).

    Wang et al., 2023, https://arxiv.org/abs/2303.16296, after Hinton et al., 2015, https://arxiv.org/abs/1503.02531.
    The pixel term, the region term and alpha are those of the loss (PixelRegion). A loss without a region term gives
    s · loss(labels) + (1 - s) · T² · KL. For one label a pixel.

    Args:
        teacher: a trained network with the same classes; it is frozen, in eval mode.
        temperature: T; softens both answers, so that the teacher's second choices count.
        label_share: s, the share of the labels against the teacher.
    """

    @checked
    def __init__(
        self,
        teacher: nn.Module,
        ignore_index: Label = 255,
        temperature: Positive = 1.0,
        label_share: Fraction = 0.5,
    ):
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.ignore_index, self.temperature, self.label_share = ignore_index, temperature, label_share

    def forward(self, loss, logits: torch.Tensor, target: torch.Tensor, images: torch.Tensor):
        loss = getattr(loss, "current", loss)  # of phases, the one that is on
        half = logits.dtype != torch.float32  # the precision the network itself was run in
        with torch.no_grad(), torch.autocast(images.device.type, logits.dtype, enabled=half):
            answer = self.teacher(images).float()
        if answer.shape != logits.shape or target.ndim != 3:
            raise ValueError(
                f"the teacher answers {list(answer.shape)}, the network {list(logits.shape)}, the target is "
                f"{list(target.shape)}: labels=teacher needs the same classes and one label a pixel"
            )
        valid = target != self.ignore_index
        divergence = self.divergence(logits, answer, valid)
        labels = getattr(loss, "pixel", loss)
        pixel = self.label_share * labels(logits, target) + (1 - self.label_share) * divergence
        parts = {**getattr(labels, "parts", {}), "kl": divergence.detach()}
        if labels is loss:
            return pixel, parts
        total = loss.pixel_weight * pixel
        if loss.alpha:
            soft = answer.softmax(dim=1).masked_fill(~valid[:, None], IGNORED)
            total = total + loss.alpha * loss.region(logits, soft)
            parts |= getattr(loss.region, "parts", {})
        return total, parts

    def divergence(self, logits: torch.Tensor, answer: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """T² · KL, the mean over valid pixels; 0 when all are ignored."""
        ours = (logits.float() / self.temperature).log_softmax(dim=1)
        theirs = (answer / self.temperature).log_softmax(dim=1)
        each = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
        return self.temperature**2 * (each * valid).sum() / valid.sum().clamp_min(1)


def mark(target: torch.Tensor, ignore_index: int) -> float:
    """What ignored pixels become: several labels a pixel keep ignore_index, in the channel it stands in."""
    return ignore_index if target.ndim == 4 else IGNORED


def soft_labels(target: torch.Tensor, num_classes: int, ignore_index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """float [N,C,H,W] of 0 and 1, ignored pixels anything; and bool, broadcastable, where they are."""
    if target.ndim == 4:
        return target.float(), target == ignore_index
    ignored = (target == ignore_index)[:, None]
    labels = target.long()[:, None].masked_fill(ignored, 0)
    shape = (len(target), num_classes, *target.shape[1:])
    return torch.zeros(shape, device=target.device).scatter_(1, labels, 1.0), ignored


def smoothed(soft: torch.Tensor, epsilon: float, multilabel: bool) -> torch.Tensor:
    """(1 - epsilon) y + epsilon / C; of independent classes each is one of two, so + epsilon / 2."""
    return (1 - epsilon) * soft + epsilon / (2 if multilabel else soft.shape[1])
