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
        positive, negative, P, TP, Y, peak, count = zeros(logits, 7)
        for n, _, z, spare, labels in tiles(logits, target):
            y, valid = _sigmoid_labels(labels, ignore_index, dtype)
            p = torch.sigmoid(z, out=spare)
            plus = torch.nn.functional.softplus(z)
            rest = 1 - y
            if valid is not None:
                p, rest = p * valid, rest * valid
            positive[n] += (y * (plus - z)).sum(dim=1)
            negative[n] += rest.mul_(plus).sum(dim=1)
            P[n] += p.sum(dim=1)
            TP[n] += torch.minimum(p, y).sum(dim=1)
            Y[n] += y.sum(dim=1)
            peak[n] = torch.maximum(peak[n], y.amax(dim=1))
            count[n] += y.shape[1] if valid is None else valid.sum(dim=1)
        return *(t.to(dtype) for t in (positive, negative, P, TP, Y)), peak > 0.01, count.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_positive, d_negative, d_P, d_TP, *_):
        (logits, target), (ignore_index,) = ctx.saved_tensors, ctx.settings
        dtype = work_dtype(logits)
        gradient = torch.empty_like(logits)
        for n, part, z, spare, labels in tiles(logits, target):
            y, valid = _sigmoid_labels(labels, ignore_index, dtype)
            p = torch.sigmoid(z, out=spare)
            d_z = torch.zeros_like(p)
            if d_TP is not None:
                d_z += torch.lt(p, y).to(dtype).add_(torch.eq(p, y), alpha=0.5).mul_(d_TP[n][:, None])
            if d_P is not None:
                d_z += d_P[n][:, None]
            if d_TP is not None or d_P is not None:
                d_z *= p * (1 - p)
            if d_positive is not None:
                d_z += d_positive[n][:, None] * y * (p - 1)
            if d_negative is not None:
                d_z += d_negative[n][:, None] * (1 - y) * p
            gradient[n].view(len(z), -1)[:, part] = d_z if valid is None else d_z * valid
        return gradient, None, None


def _sigmoid_labels(labels: torch.Tensor, ignore_index: int, dtype: torch.dtype):
    y = labels.to(dtype)
    return without_ignored(y, y == ignore_index, dtype)
