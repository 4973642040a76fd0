"""The Lovász extension of the Jaccard loss: softmax for one label per pixel, hinge for multi-label.

Berman et al., 2018, https://arxiv.org/abs/1705.08790. Per class: pixel errors in descending order, times the
growth of the Jaccard loss when pixels are added to the mistakes in that order.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from segtrain.arguments import FractionBelowOne, Label, checked
from segtrain.errors import ConfigError
from segtrain.losses.any_order import in_any_order
from segtrain.losses.loss import Loss, whole_batch
from segtrain.losses.sums import form
from segtrain.losses.targets import check_labels, is_hard, work_dtype
from segtrain.losses.tversky import Classes, Selected


class Lovasz(Loss):
    """Lovász-softmax, or Lovász-hinge for multi-label. Best after some epochs of cross-entropy.

    Hard labels only: the Lovász extension is defined on sets of pixels.

    Args:
        aggregate: batch sorts the pixels of the whole batch, image those of each image and takes the mean.
        classes: present (in the ground truth of the batch, or of the image), all, or a list of indices.
        tolerance: pixels with a smaller error are not sorted; changes the loss by at most this much a class.
        ignore_index: label of pixels to leave out.
        activation: softmax for one label per pixel; sigmoid for multi-label, which is the hinge form.
    """

    @checked
    def __init__(
        self,
        aggregate: Literal["batch", "image"] = "batch",
        classes: Classes = "present",
        tolerance: FractionBelowOne = 0.0,
        ignore_index: Label = 255,
        activation: Literal["softmax", "sigmoid"] = "softmax",
    ):
        super().__init__()
        self.aggregate, self.classes, self.tolerance = aggregate, classes, tolerance
        self.ignore_index, self.activation = ignore_index, activation
        self.selected = Selected(classes)

    @torch.compiler.disable
    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar, from logits [N,C,H,W] and target integer [N,H,W]; sigmoid: [N,C,H,W] of 0, 1 or ignore_index.

        Raises ValueError for soft labels. On CUDA labels other than these make the loss NaN: to name them, the host would
        have to wait.
        """
        hard, by_class = is_hard(logits, target), form(logits) == "tiles"
        soft = by_class and not hard and not _only_0_and_1(target, self.ignore_index).all()
        if hard != (self.activation == "softmax") or soft:
            raise ValueError(
                f"Lovasz(activation={self.activation}) takes hard labels only: "
                + ("integer [N,H,W]" if self.activation == "softmax" else "[N,C,H,W] of 0 and 1")
                + f", but it got {target.dtype} {list(target.shape)}; use Jaccard for soft labels"
            )
        if hard and by_class:
            check_labels(target, logits.shape[1], self.ignore_index)
        own, _ = _Lovasz.apply(logits, target, self, by_class)
        loss = whole_batch().mean(own, lambda: self.amounts(target)[0])
        self.parts = {"lovasz": loss.detach()}
        return loss

    def amounts(self, target: torch.Tensor) -> list:
        """The images; with aggregate=image, those that have a class to average over."""
        if self.aggregate == "batch":
            return [len(target)]
        only_present = target.ndim == 4 and self.classes == "present"
        return [((target == 1) if only_present else (target != self.ignore_index)).flatten(1).any(dim=1).sum()]

    def check_shared(self) -> None:
        if self.aggregate == "batch":
            raise ConfigError(
                "the Lovász loss of a batch sorts the pixels of all its images, but each process has only a part of them",
                "loss.aggregate=batch",
                "set loss.aggregate=image (loss.region.aggregate=image if Lovasz is the region loss), or train on one process",
            )


class _Lovasz(torch.autograd.Function):
    """The loss is linear in the errors once they are sorted: forward keeps the slope of every error.

    `by_class`: one class after another, for the CPU; else all at once, without a wait for the device.
    """

    @staticmethod
    def forward(logits, target, settings, by_class):
        softmax = target.ndim == 3
        dtype = work_dtype(logits)
        scores = torch.softmax(logits, dim=1, dtype=dtype) if softmax else logits.detach().to(dtype)
        return (_by_class if by_class else _at_once)(scores, target, settings)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.softmax, ctx.by_class = inputs[1].ndim == 3, inputs[3]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx, d_loss, _):
        logits, slopes = ctx.saved_tensors
        if not ctx.softmax:
            return (slopes * d_loss).to(logits.dtype), None, None, None
        if not ctx.by_class:
            p = torch.softmax(logits, dim=1, dtype=slopes.dtype)
            d_p = slopes * d_loss
            gradient = p * (d_p - (d_p * p).sum(dim=1, keepdim=True))
            return gradient.to(logits.dtype), None, None, None
        gradient = torch.empty_like(logits)
        for n in range(len(logits)):  # an image at a time: a third of the memory
            p = torch.softmax(logits[n], dim=0, dtype=slopes.dtype)
            d_p = slopes[n] * d_loss
            gradient[n] = p.mul_(d_p.sub_((d_p * p).sum(dim=0)))
        return gradient, None, None, None


def _at_once(scores: torch.Tensor, target: torch.Tensor, settings: Lovasz) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss, and its slopes like `scores` [N,C,H,W]: one sort of a row a class, of the batch or of each image."""
    n, c, *size = scores.shape
    softmax = target.ndim == 3
    scores, labels = scores.flatten(2), target.flatten(-2).reshape(n, -1, size[0] * size[1])
    valid = labels != settings.ignore_index
    truth = (labels == (torch.arange(c, device=labels.device)[:, None] if softmax else 1)) & valid
    sound = truth.any(dim=1, keepdim=True) | ~valid if softmax else _only_0_and_1(labels, settings.ignore_index)

    def rows(pixels: torch.Tensor) -> torch.Tensor:
        """[N,C,P] to [groups, C, pixels of a group]."""
        return pixels if settings.aggregate == "image" else pixels.transpose(0, 1).reshape(1, c, -1)

    # softmax: |truth - p|; hinge: 1 - logit * sign. Ignored pixels come last, and add nothing.
    errors = torch.where(truth, 1 - scores, scores if softmax else 1 + scores).where(valid, -torch.inf)
    kept, order = rows(errors).sort(dim=2, descending=True, stable=True)
    del errors
    fg = rows(truth).gather(2, order)
    total, wrong = fg.sum(dim=2, keepdim=True, dtype=torch.int32), fg.cumsum(dim=2, dtype=torch.int32)
    union = total + torch.arange(1, kept.shape[2] + 1, device=kept.device, dtype=torch.int32) - wrong
    # The growth of 1 - (total - wrong) / union, without the difference, which would cost digits.
    growth = (total - wrong).where(union > 1, 1).to(kept.dtype).div_((union - 1).clamp_min_(1))
    growth = growth.where(~fg, 1).div_(union)
    growth = growth.where((kept >= settings.tolerance) & (softmax | (kept > 0)), 0)
    del wrong, union
    losses = (kept.clamp_min_(0) * growth).sum(dim=2)

    selected = settings.selected(total[..., 0] > 0) & rows(valid.expand(n, c, -1)).any(dim=2).any(dim=1, keepdim=True)
    share = selected.to(kept.dtype)  # of each class in the loss: of its group, and of all groups
    share = share / share.sum(dim=1, keepdim=True).clamp_min(1) / share.amax(dim=1).sum().clamp_min(1)
    with in_any_order():
        slopes = torch.zeros_like(kept).scatter_(2, order, torch.where(fg, -growth, growth) * share[..., None])
    if settings.aggregate == "batch":
        slopes = slopes.view(c, n, -1).transpose(0, 1)
    loss = (losses * share).sum().where(sound.all(), torch.nan)
    return loss, slopes.reshape(n, c, *size)


def _by_class(scores: torch.Tensor, target: torch.Tensor, settings: Lovasz) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, of one class after another, in threads; only the pixels that can add to it are sorted."""
    softmax = target.ndim == 3
    slopes = torch.zeros_like(scores, memory_format=torch.contiguous_format)
    (n, c), labels = scores.shape[:2], (target.float() if target.dtype == torch.bfloat16 else target).numpy()
    groups = [slice(0, n)] if settings.aggregate == "batch" else [slice(i, i + 1) for i in range(n)]
    chosen = [(group, found) for group in groups if (found := _chosen(labels[group], c, settings))]

    def one(group: slice, k: int, share: float) -> float:
        own = labels[group] if softmax else labels[group, k]
        valid = own != settings.ignore_index
        truth = (own == (k if softmax else 1)) & valid
        loss, at, slope = _class(scores[group, k].numpy(), truth, valid, softmax, settings.tolerance)
        row = np.zeros(truth.size, dtype=slope.dtype)
        row[at] = slope * share
        slopes[group, k] = torch.from_numpy(row.reshape(truth.shape))
        return loss * share

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        tasks = [pool.submit(one, group, k, 1 / len(found) / len(chosen)) for group, found in chosen for k in found]
        return scores.new_tensor(sum(task.result() for task in tasks)), slopes


def _chosen(labels: np.ndarray, num_classes: int, settings: Lovasz) -> list[int]:
    """The classes of a group's labels to average over; none when all of its pixels are ignored."""
    valid = labels != settings.ignore_index
    if not valid.any():
        return []
    if labels.ndim == 3:
        present = np.bincount(labels[valid], minlength=num_classes) > 0
    else:
        present = ((labels == 1) & valid).any(axis=(0, 2, 3))
    return settings.selected(torch.from_numpy(present)).nonzero()[:, 0].tolist()


def _class(scores, truth, valid, softmax: bool, tolerance: float) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss of one class over the pixels of a group; the pixels that add to it, and d loss / d scores there."""
    scores, members = scores.ravel(), np.flatnonzero(truth)
    # softmax: |truth - p|; hinge: 1 - logit * sign
    missed, false = 1 - scores[members], scores if softmax else 1 + scores
    # Below the smallest foreground error, background adds nothing: all of the foreground is wrong already.
    lowest = missed.min() if len(members) else 0
    others = ~(false < max(lowest, tolerance)) & valid.ravel()  # NaN is kept, and makes the loss NaN
    others[members] = False
    kept = ~(missed < tolerance)
    if not softmax:
        others &= ~(false <= 0)
        kept &= ~(missed <= 0)
    others, total = np.flatnonzero(others), len(members)
    members = members[kept]
    errors = np.concatenate([missed[kept], false[others]])
    order = _descending(errors)
    foreground = order < len(members)
    growth = _jaccard_growth(foreground, total, errors.dtype)
    at = np.concatenate([members, others])[order]
    return float(errors[order] @ growth), at, np.where(foreground, -growth, growth)


def _jaccard_growth(foreground: np.ndarray, total: int, dtype) -> np.ndarray:
    """By how much the Jaccard loss grows with each further wrong pixel, in descending order of their errors."""
    wrong = foreground.cumsum(dtype=np.int32)
    union = np.arange(total + 1, total + 1 + len(wrong), dtype=np.int32) - wrong
    # The growth of 1 - (total - wrong) / union, without the difference, which would cost digits.
    growth = (total - wrong).astype(dtype)
    if total == 0:  # of a class without foreground the first wrong pixel is all of the loss
        growth[:1] = 1
    growth /= np.maximum(union - 1, 1)
    return np.where(foreground, growth.dtype.type(1), growth) / union.astype(dtype)


def _descending(errors: np.ndarray) -> np.ndarray:
    """Indices that sort errors >= 0 from large to small."""
    if errors.dtype != np.float32:
        return np.argsort(-errors, kind="stable")
    # Floats >= 0 sort like their bits. Bits and index in one 64-bit number: NumPy sorts these with SIMD, ten
    # times as fast as an argsort.
    keys = errors.view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(len(keys), dtype=np.uint64)
    keys.sort()
    return (keys[::-1] & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _only_0_and_1(target: torch.Tensor, ignore_index: int) -> torch.Tensor:
    return (target == 0) | (target == 1) | (target == ignore_index)
