"""Training targets: hard labels, smoothed labels, the mean of several annotators, a teacher's output.

Validation always uses the masks as they are.
"""

import torch
import torch.nn.functional as F
from torch import nn

from segtrain.arguments import Fraction, FractionBelowOne, Label, OddInt, Positive, PositiveInt, TrainedRun, checked
from segtrain.losses import Distillation, Loss
from segtrain.losses.targets import IGNORED


class Labels(nn.Module):
    """The protocol of training targets: what the loss gets in place of the masks.

    Attributes:
        annotated: whether training reads the mask of every annotator, [N,A,H,W].
        class_names: the classes of a teacher, which must be the dataset's, or None.
    """

    annotated = False
    class_names: list[str] | None = None

    def __init__(self):  # no arguments: nn.Module would take any, and a typo in the config be no mistake
        super().__init__()

    def target(self, target: torch.Tensor, images: torch.Tensor):
        """The target of the loss, from the loader's integer target [N,H,W], multi-label [N,C,H,W]."""
        return target

    def training_loss(self, loss: Loss) -> Loss:
        """The loss that takes these targets."""
        return loss


class Hard(Labels):
    """The masks as they are."""


class Smooth(Labels):
    """y becomes (1 - epsilon) y + epsilon / C; multi-label: + epsilon / 2.

    Szegedy et al., 2016, https://arxiv.org/abs/1512.00567. Unlike loss.label_smoothing it reaches the region loss too.
    """

    @checked
    def __init__(self, num_classes: PositiveInt, ignore_index: Label = 255, epsilon: FractionBelowOne = 0.1):
        super().__init__()
        self.num_classes, self.ignore_index, self.epsilon = num_classes, ignore_index, epsilon

    def target(self, target: torch.Tensor, images: torch.Tensor | None = None) -> torch.Tensor:
        ignored = target == self.ignore_index
        if target.ndim == 4:  # multi-label targets keep ignore_index, in the channel it stands in
            return self.smoothed(target.float(), target).masked_fill_(ignored, self.ignore_index)
        soft = one_hot(target, self.num_classes)
        known = soft.any(dim=1, keepdim=True) | ignored[:, None]
        soft.masked_fill_(~known, torch.nan)  # no class: refused by the loss
        return self.smoothed(soft, target).masked_fill_(ignored[:, None], IGNORED)

    def smoothed(self, soft: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(1 - epsilon) y + epsilon / C; of independent classes each is one of two, so + epsilon / 2."""
        return (1 - self.epsilon) * soft + self.epsilon / (2 if target.ndim == 4 else self.num_classes)


class BoundarySmooth(Smooth):
    """Smooth, but only where a k × k window around the pixel shows another class: where masks are least certain.

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

    def smoothed(self, soft: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        border = self.border(target)
        return torch.where(border if target.ndim == 4 else border[:, None], super().smoothed(soft, target), soft)

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


class Annotators(Labels):
    """Several masks of one image, averaged: the share of annotators that chose a class is its label.

    Needs `dataset.annotators`. Pixels that some annotators ignore are the mean of the others.
    """

    annotated = True

    @checked
    def __init__(self, num_classes: PositiveInt, ignore_index: Label = 255):
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def target(self, target: torch.Tensor, images: torch.Tensor | None = None) -> torch.Tensor:
        n, _, h, w = target.shape
        soft = torch.zeros(n, self.num_classes, h, w, device=target.device)
        votes = torch.zeros(n, 1, h, w, device=target.device)
        for each in target.unbind(1):
            valid, vote = (each != self.ignore_index)[:, None], one_hot(each, self.num_classes)
            soft += vote.masked_fill_(~valid, 0)
            votes += valid
        soft /= votes.clamp_min(1)
        soft.masked_fill_(soft.sum(dim=1, keepdim=True) < 1 - 1e-3, torch.nan)  # no class: refused by the loss
        return soft.masked_fill_(votes == 0, IGNORED)


class Teacher(Labels):
    """Distillation: masks and the logits of a trained network, for segtrain.losses.Distillation.

    Args:
        teacher: a trained network with the same classes, or segtrain.runs.trained.Trained; frozen, in eval mode.
        ignore_index, temperature, label_share: as in Distillation.
    """

    @checked
    def __init__(
        self,
        teacher: TrainedRun,
        ignore_index: Label = 255,
        temperature: Positive = 1.0,
        label_share: Fraction = 0.5,
    ):
        super().__init__()
        network = teacher if isinstance(teacher, nn.Module) else teacher.network
        self.teacher = network.eval().requires_grad_(False)
        self.class_names = None if isinstance(teacher, nn.Module) else teacher.classes.class_names
        self.settings = {"temperature": temperature, "label_share": label_share, "ignore_index": ignore_index}

    @torch.no_grad()
    def target(self, target: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return target, self.teacher(images).float()

    def training_loss(self, loss: Loss) -> Loss:
        return Distillation(loss, **self.settings)


def one_hot(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """float [N,C,H,W] of integers [N,H,W]; zeros for a label that is no class, at which an index would stop CUDA."""
    classes = torch.arange(num_classes, device=labels.device, dtype=labels.dtype)
    return (labels[:, None] == classes[:, None, None]).float()
