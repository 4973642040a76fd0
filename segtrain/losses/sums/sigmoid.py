"""The sums of a sigmoid against labels of each channel, and their gradient, in tiles."""

import torch
from torch.autograd.function import once_differentiable

from segtrain.losses.sums.function import SumsFunction
from segtrain.losses.sums.tiles import tiles, without_ignored, zeros
from segtrain.losses.targets import work_dtype


class SigmoidSums(SumsFunction):
    @staticmethod
    def forward(logits, target, ignore_index):
        dtype = work_dtype(logits)
        every = zeros(logits, 7)
        for images, _, z, _, spare, labels in tiles(logits, target):
            positive, negative, P, TP, Y, peak, count = (sums[images] for sums in every)
            y, valid = _sigmoid_labels(labels, ignore_index, dtype)
            p = torch.sigmoid(z, out=spare)
            plus = torch.nn.functional.softplus(z)
            rest = 1 - y
            if valid is not None:
                p, rest = p * valid, rest * valid
            positive += (y * (plus - z)).sum(dim=2)
            negative += rest.mul_(plus).sum(dim=2)
            P += p.sum(dim=2)
            TP += torch.minimum(p, y).sum(dim=2)
            Y += y.sum(dim=2)
            torch.maximum(peak, y.amax(dim=2), out=peak)
            count += y.shape[2] if valid is None else valid.sum(dim=2)
        positive, negative, P, TP, Y, peak, count = (sums.to(dtype) for sums in every)
        return positive, negative, P, TP, Y, peak > 0.01, count

    @staticmethod
    @once_differentiable
    def backward(ctx, d_positive, d_negative, d_P, d_TP, *_):
        (logits, target), (ignore_index,) = ctx.saved_tensors, ctx.settings
        dtype = work_dtype(logits)
        gradient = torch.empty_like(logits)
        for images, part, z, _, spare, labels in tiles(logits, target):
            y, valid = _sigmoid_labels(labels, ignore_index, dtype)
            p = torch.sigmoid(z, out=spare)
            d_z = torch.zeros_like(p)
            if d_TP is not None:
                d_z += torch.lt(p, y).to(dtype).add_(torch.eq(p, y), alpha=0.5).mul_(d_TP[images, :, None])
            if d_P is not None:
                d_z += d_P[images, :, None]
            if d_TP is not None or d_P is not None:
                d_z *= p * (1 - p)
            if d_positive is not None:
                d_z += d_positive[images, :, None] * y * (p - 1)
            if d_negative is not None:
                d_z += d_negative[images, :, None] * (1 - y) * p
            gradient[images].view(*z.shape[:2], -1)[..., part] = d_z if valid is None else d_z * valid
        return gradient, None, None


def _sigmoid_labels(labels: torch.Tensor, ignore_index: int, dtype: torch.dtype):
    y = labels.to(dtype)
    return without_ignored(y, y == ignore_index, dtype)
