"""Means over classes of sums [N,C] by a Triton kernel each, with their gradient.

In PyTorch each is dozens of kernels of a few numbers, which take longer than to read the logits. Arithmetic is in float64.
"""

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from segtrain.losses.sums import Sums
from segtrain.losses.sums.triton import OPTIONS


@triton.jit
def _total(sums, n_stride, c_stride, N, c, C, CP: tl.constexpr):
    """float64 [CP]: the sum over images, 16 at a time."""
    total = tl.zeros([CP], tl.float64)
    for first in range(0, N, 16):
        n = first + tl.arange(0, 16)
        there = (n < N)[:, None] & (c < C)[None, :]
        part = tl.load(sums + n[:, None] * n_stride + c[None, :] * c_stride, mask=there, other=0.0)
        total += tl.sum(part.to(tl.float64), 0)
    return total


@triton.jit
def _weights(weights, c, C, GIVEN: tl.constexpr, CP: tl.constexpr):
    if GIVEN:
        return tl.load(weights + c, mask=c < C, other=0.0).to(tl.float64)
    else:
        return tl.where(c < C, 1.0, 0.0).to(tl.float64)


@triton.jit
def class_mean_kernel(
    values, amounts, weights, mean, slope, N, C, vn, vc, an, ac, WEIGHTED: tl.constexpr, CP: tl.constexpr
):
    c = tl.arange(0, CP)
    w = _weights(weights, c, C, WEIGHTED, CP)
    amount = tl.sum(w * _total(amounts, an, ac, N, c, C, CP), 0)
    amount = tl.where(amount < 1e-30, 1e-30, amount)  # NaN stays
    tl.store(mean, (tl.sum(w * _total(values, vn, vc, N, c, C, CP), 0) / amount).to(tl.float32))
    tl.store(slope + c, (w / amount).to(tl.float32), mask=c < C)


class _Mean(torch.autograd.Function):
    """`forward` returns the mean, and its slopes by the sums."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.images = len(inputs[0])
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)


class _ClassMean(_Mean):
    @staticmethod
    def forward(values, amounts, weights):
        n, classes = values.shape
        mean, slope = values.new_empty(()), values.new_empty(classes)
        with torch.cuda.device_of(values):
            class_mean_kernel[(1,)](
                values, amounts, values if weights is None else weights, mean, slope,
                n, classes, *values.stride(), *amounts.stride(),
                WEIGHTED=weights is not None, CP=triton.next_power_of_2(classes), **OPTIONS,
            )  # fmt: skip
        return mean, slope

    @staticmethod
    @once_differentiable
    def backward(ctx, d_mean, _):
        (slope,) = ctx.saved_tensors
        return (d_mean * slope).expand(ctx.images, -1), None, None


def class_mean(values: torch.Tensor, amounts: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """sum w v / sum w a over images and classes; 0 where the amounts are 0. The amounts have no gradient."""
    return _ClassMean.apply(values, amounts, weights)[0]


@triton.jit
def region_mean_kernel(
    P, TP, Y, selected, weights, mean, slopes, N, C, pn, pc, tn, tc, yn, yc, fp, fn, smooth,
    WEIGHTED: tl.constexpr, LOG: tl.constexpr, GAMMA: tl.constexpr, CP: tl.constexpr,
):  # fmt: skip
    c = tl.arange(0, CP)
    w = _weights(weights, c, C, WEIGHTED, CP) * tl.load(selected + c, mask=c < C, other=0).to(tl.float64)
    p, t, y = _total(P, pn, pc, N, c, C, CP), _total(TP, tn, tc, N, c, C, CP), _total(Y, yn, yc, N, c, C, CP)
    found = t + smooth
    rest = fp * (p - t) + fn * (y - t)
    whole = found + rest
    loss = rest / whole
    by_P, by_TP = fp * (1 - loss) / whole, -((fp + fn) * (1 - loss) + loss) / whole
    if LOG:
        loss = tl.log(whole / found)
        by_P, by_TP = fp / whole, (1 - fp - fn) / whole - 1 / found
    if GAMMA != 1:
        power = tl.exp((GAMMA - 1) * tl.log(tl.where(loss < 1e-12, 1e-12, loss)))
        chain = tl.where(loss < 1e-12, 0.0, GAMMA * power)
        loss = tl.where(loss < 1e-12, 1e-12, loss) * power
        by_P, by_TP = by_P * chain, by_TP * chain
    amount = tl.sum(w, 0)
    amount = tl.where(amount < 1e-30, 1e-30, amount)
    tl.store(mean, (tl.sum(w * loss, 0) / amount).to(tl.float32))
    tl.store(slopes + c, (w / amount * by_P).to(tl.float32), mask=c < C)
    tl.store(slopes + C + c, (w / amount * by_TP).to(tl.float32), mask=c < C)


class _RegionMean(_Mean):
    @staticmethod
    def forward(P, TP, Y, selected, weights, numbers, log, gamma):
        n, classes = P.shape
        mean, slopes = P.new_empty(()), P.new_empty(2, classes)
        with torch.cuda.device_of(P):
            region_mean_kernel[(1,)](
                P, TP, Y, selected, P if weights is None else weights, mean, slopes,
                n, classes, *P.stride(), *TP.stride(), *Y.stride(), *numbers,
                WEIGHTED=weights is not None, LOG=log, GAMMA=gamma, CP=triton.next_power_of_2(classes), **OPTIONS,
            )  # fmt: skip
        return mean, slopes

    @staticmethod
    @once_differentiable
    def backward(ctx, d_mean, _):
        (slopes,) = ctx.saved_tensors
        by_P, by_TP = (slope.expand(ctx.images, -1) for slope in (d_mean * slopes).unbind(0))
        return by_P, by_TP, *[None] * 6


def region_mean(sums: Sums, selected: torch.Tensor, weights: torch.Tensor | None, loss) -> torch.Tensor:
    """The weighted mean over the selected classes, bool [C], of the losses of sums over images.

    Args:
        loss: a losses.tversky.RegionLoss, for its numbers.

    Y has no gradient.
    """
    numbers = (float(loss.fp_weight), float(loss.fn_weight), float(loss.smooth))
    parts = (sums.P, sums.TP, sums.Y, selected, weights, numbers, loss.log, float(loss.gamma))
    return _RegionMean.apply(*parts)[0]
