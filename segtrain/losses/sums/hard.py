"""The sums of a softmax against class indices, and their gradient, in tiles; the formula is in sums/__init__.py."""

import torch
from torch.autograd.function import once_differentiable

from segtrain.losses.sums.dense import focal_slope
from segtrain.losses.sums.function import SumsFunction
from segtrain.losses.sums.tiles import add_by_label, by_label, pixel_sum, tiles, without_ignored, zeros
from segtrain.losses.targets import work_dtype


class HardSums(SumsFunction):
    @staticmethod
    def forward(logits, target, ignore_index, gamma, smoothing):
        dtype = work_dtype(logits)
        every = zeros(logits, 5)
        at_truth = logits.new_empty((len(logits), target[0].numel()), dtype=dtype)  # p of the label, for backward
        for images, part, z, _, spare, labels in tiles(logits, target):
            pixel, uniform, P, TP, Y = (sums[images] for sums in every)
            y, valid = _hard_labels(labels, ignore_index, dtype)
            p = torch.softmax(z, dim=1, out=spare)
            py = torch.gather(p, 1, y[:, None], out=at_truth[images, None, part])[:, 0]
            log_py = _log_of(py, z, y)
            if smoothing:
                uniform += pixel_sum(z.logsumexp(dim=1, keepdim=True) - z, _of_all(valid))
            if valid is not None:
                py, log_py = py * valid, log_py * valid
            P += pixel_sum(p, _of_all(valid))
            surprise = -log_py if gamma == 0 else -log_py * (1 - py) ** gamma
            add_by_label((TP, pixel, Y), y, (py, surprise, valid))
        pixel, uniform, P, TP, Y = (sums.to(dtype) for sums in every)
        return pixel, uniform, P, TP, Y, Y > 0, Y.sum(dim=1, keepdim=True).expand_as(Y), at_truth

    @staticmethod
    @once_differentiable
    def backward(ctx, d_pixel, d_uniform, d_P, d_TP, *_):
        (logits, target, at_truth), (ignore_index, gamma, smoothing) = ctx.saved_tensors, ctx.settings
        dtype = work_dtype(logits)
        gradient = torch.empty_like(logits)
        for images, part, z, room, spare, labels in tiles(logits, target):
            y, valid = _hard_labels(labels, ignore_index, dtype)
            p = torch.softmax(z, dim=1, out=spare)
            py = at_truth[images, part]
            at_label = torch.zeros_like(py)
            if d_pixel is not None:
                k = by_label(d_pixel[images], y)
                at_label -= k if gamma == 0 else k.mul_(focal_slope(py, _log_of(py, z, y), gamma))
            if d_TP is not None:
                at_label.addcmul_(py, by_label(d_TP[images], y))
            if valid is not None:
                p, at_label = p.mul_(_of_all(valid)), at_label.mul_(valid)
            per_pixel = -at_label[:, None]  # the factor of p_c that is the same for every c
            if smoothing and d_uniform is not None:
                per_pixel += d_uniform[images].sum(dim=1)[:, None, None]
            d_z = gradient[images].view(*z.shape[:2], -1)[..., part]
            if d_P is not None:
                per_pixel -= d_P[images, None] @ p
                p *= torch.add(per_pixel, d_P[images, :, None], out=room)
            else:
                p *= per_pixel
            p.scatter_add_(1, y[:, None], at_label[:, None])
            if smoothing and d_uniform is not None:
                p -= d_uniform[images, :, None] if valid is None else d_uniform[images, :, None] * _of_all(valid)
            d_z.copy_(p)
        return gradient, None, None, None, None


def _hard_labels(labels: torch.Tensor, ignore_index: int | None, dtype: torch.dtype):
    y = labels.long()
    return (y, None) if ignore_index is None else without_ignored(y, y == ignore_index, dtype)


def _of_all(valid: torch.Tensor | None) -> torch.Tensor | None:
    """Valid pixels [n,T] as those of every class, [n,1,T]."""
    return None if valid is None else valid[:, None]


def _log_of(py: torch.Tensor, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """ln p_y; from the logits where p_y is too small for its logarithm."""
    log_py = py.log()
    if py.min() < 1e-30:
        image, pixel = (py < 1e-30).nonzero(as_tuple=True)
        log_py[image, pixel] = z[image, y[image, pixel], pixel] - z[image, :, pixel].logsumexp(dim=1)
    return log_py
