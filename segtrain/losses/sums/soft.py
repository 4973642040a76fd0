"""The sums of a softmax against soft labels, and their gradient, in tiles."""

import torch
from torch.autograd.function import once_differentiable

from segtrain.losses.sums.function import SumsFunction
from segtrain.losses.sums.tiles import pixel_sum, tiles, without_ignored, zeros
from segtrain.losses.targets import is_ignored, work_dtype


class SoftSums(SumsFunction):
    @staticmethod
    def forward(logits, target, ignore_index, gamma, smoothing):
        dtype = work_dtype(logits)
        every = zeros(logits, 7)
        for images, _, z, room, spare, labels in tiles(logits, target):
            pixel, uniform, P, TP, Y, peak, count = (sums[images] for sums in every)
            y, valid = _soft_labels(labels, ignore_index, dtype)
            log_p = torch.log_softmax(z, dim=1, out=spare)
            if smoothing:
                uniform -= pixel_sum(log_p, valid)
            p = torch.exp(log_p, out=room)
            P += pixel_sum(p, valid)
            surprise = log_p.mul_(y)
            pixel -= (surprise if gamma == 0 else surprise.mul_((1 - p) ** gamma)).sum(dim=2)
            TP += torch.minimum(p, y, out=spare).sum(dim=2)
            Y += y.sum(dim=2)
            torch.maximum(peak, y.amax(dim=2), out=peak)
            count += y.shape[2] if valid is None else valid.sum(dim=2)
        pixel, uniform, P, TP, Y, peak, count = (sums.to(dtype) for sums in every)
        return pixel, uniform, P, TP, Y, peak > 0.01, count

    @staticmethod
    @once_differentiable
    def backward(ctx, d_pixel, d_uniform, d_P, d_TP, *_):
        (logits, target), (ignore_index, gamma, smoothing) = ctx.saved_tensors, ctx.settings
        dtype = work_dtype(logits)
        gradient = torch.empty_like(logits)
        for images, part, z, room, spare, labels in tiles(logits, target):
            y, valid = _soft_labels(labels, ignore_index, dtype)
            log_p = torch.log_softmax(z, dim=1, out=spare)
            p = torch.exp(log_p, out=room)
            slope = torch.zeros_like(p)  # dL/d(ln p_c): dz = slope - p sum(slope)
            if d_pixel is not None:
                if gamma == 0:
                    slope -= d_pixel[images, :, None] * y
                else:
                    rest = (1 - p).clamp_min(1e-12)
                    slope -= d_pixel[images, :, None] * y * (rest**gamma - gamma * p * log_p * rest ** (gamma - 1))
            if d_TP is not None:
                below = torch.lt(p, y).to(dtype).add_(torch.eq(p, y), alpha=0.5)
                slope += below.mul_(p).mul_(d_TP[images, :, None])
            if d_P is not None:
                slope += p * d_P[images, :, None]
            if smoothing and d_uniform is not None:
                slope -= d_uniform[images, :, None]
            slope -= p.mul_(slope.sum(dim=1, keepdim=True))
            gradient[images].view(*z.shape[:2], -1)[..., part] = slope if valid is None else slope * valid
        return gradient, None, None, None, None


def _soft_labels(labels: torch.Tensor, ignore_index: int, dtype: torch.dtype):
    y = labels.to(dtype)
    return without_ignored(y, is_ignored(y, ignore_index).any(dim=1, keepdim=True), dtype)
