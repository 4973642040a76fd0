"""The sums of a softmax against class indices, and their gradient, in tiles; the formula is in sums/__init__.py."""

import torch
from torch.autograd.function import once_differentiable

from segtrain.losses.sums.dense import focal_slope
from segtrain.losses.sums.function import SumsFunction
from segtrain.losses.sums.tiles import add_by_label, pixel_sum, tiles, without_ignored, zeros
from segtrain.losses.targets import work_dtype


class HardSums(SumsFunction):
    @staticmethod
    def forward(logits, target, ignore_index, gamma, smoothing):
        dtype = work_dtype(logits)
        pixel, uniform, P, TP, Y = zeros(logits, 5)
        at_truth = logits.new_empty((len(logits), target[0].numel()), dtype=dtype)  # p of the label, for backward
        for n, part, z, spare, labels in tiles(logits, target):
            y, valid = _hard_labels(labels, ignore_index, dtype)
            p = torch.softmax(z, dim=0, out=spare)
            py = torch.gather(p, 0, y[None], out=at_truth[n, None, part])[0]
            log_py = _log_of(py, z, y)
            if smoothing:
                uniform[n] += pixel_sum(z.logsumexp(dim=0) - z, valid)
            if valid is not None:
                py, log_py = py * valid, log_py * valid
            P[n] += pixel_sum(p, valid)
            surprise = -log_py if gamma == 0 else -log_py * (1 - py) ** gamma
            add_by_label((TP[n], pixel[n], Y[n]), y, (py, surprise, valid))
        sums = [t.to(dtype) for t in (pixel, uniform, P, TP, Y)]
        return *sums, Y > 0, Y.sum(dim=1, keepdim=True).expand_as(Y).to(dtype), at_truth

    @staticmethod
    @once_differentiable
    def backward(ctx, d_pixel, d_uniform, d_P, d_TP, *_):
        (logits, target, at_truth), (ignore_index, gamma, smoothing) = ctx.saved_tensors, ctx.settings
        dtype = work_dtype(logits)
        gradient = torch.empty_like(logits)
        for n, part, z, spare, labels in tiles(logits, target):
            y, valid = _hard_labels(labels, ignore_index, dtype)
            p = torch.softmax(z, dim=0, out=spare)
            py = at_truth[n, part]
            at_label = torch.zeros_like(py)
            if d_pixel is not None:
                k = d_pixel[n].index_select(0, y)  # thrice as fast as d_pixel[n][y]
                at_label -= k if gamma == 0 else k.mul_(focal_slope(py, _log_of(py, z, y), gamma))
            if d_TP is not None:
                at_label.addcmul_(py, d_TP[n].index_select(0, y))
            if valid is not None:
                p, at_label = p.mul_(valid), at_label.mul_(valid)
            per_pixel = -at_label  # the factor of p_c that is the same for every c
            if smoothing and d_uniform is not None:
                per_pixel += d_uniform[n].sum()
            d_z = gradient[n].view(len(z), -1)[:, part]
            if d_P is not None:
                per_pixel -= d_P[n] @ p
                p *= torch.add(per_pixel, d_P[n][:, None], out=z)
            else:
                p *= per_pixel
            p.scatter_add_(0, y[None], at_label[None])
            if smoothing and d_uniform is not None:
                p -= d_uniform[n][:, None] if valid is None else d_uniform[n][:, None] * valid
            d_z.copy_(p)
        return gradient, None, None, None, None


def _hard_labels(labels: torch.Tensor, ignore_index: int | None, dtype: torch.dtype):
    y = labels.long()
    return (y, None) if ignore_index is None else without_ignored(y, y == ignore_index, dtype)


def _log_of(py: torch.Tensor, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """ln p_y; from the logits where p_y is too small for its logarithm."""
    log_py = py.log()
    if py.min() < 1e-30:
        tiny = (py < 1e-30).nonzero()[:, 0]
        log_py[tiny] = z[y[tiny], tiny] - z[:, tiny].logsumexp(dim=0)
    return log_py
