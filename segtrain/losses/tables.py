"""Sums per image and class from which every loss is computed, with their gradient, in two passes over the logits.

A loss here is a function of [N,C] tables; autograd carries dL/dtable into `backward`, which adds every part up
in one more softmax. With a_c = dL/dP_c, b_c = dL/dTP_c and k = dL/dpixel_y, a pixel of class y gets
    dz_c = p_c (a_c - S + k), and at c = y also p_y b_y - k, where S = sum_c a_c p_c + b_y p_y.
No one-hot and no copy of the logits is ever made: the work is done in tiles that stay in the cache, and the
softmax is computed again in backward, which costs less than writing it out and reading it back.
"""

from dataclasses import dataclass

import torch
from torch.autograd.function import once_differentiable

from segtrain.losses.targets import check_labels, is_hard, work_dtype

_CPU_TILE = 1 << 19  # numbers a tile: 2 MB of float32. Smaller ones fit the cache, but cost thread starts
_GPU_TILE = 1 << 27


@dataclass(frozen=True)
class Request:
    """What a loss needs from the tables beyond P, TP and Y."""

    focal_gamma: float = 0.0
    smoothing: bool = False

    def merged(self, other: "Request") -> "Request":
        return Request(max(self.focal_gamma, other.focal_gamma), self.smoothing or other.smoothing)


@dataclass(frozen=True)
class Table:
    """Sums over the valid pixels of each image, all [N,C].

    Attributes:
        pixel: softmax: sum over pixels of class c of (1 - p)^gamma (-ln p). Soft labels: of each class's share.
        uniform: sum of -ln p_c over all valid pixels, for label smoothing (zeros unless requested).
        positive, negative: sigmoid: sums of y softplus(-z) and of (1 - y) softplus(z).
        P, TP, Y: sums of p, of min(p, y) and of y.
        present: bool, whether the class has a valid truth pixel (soft labels: one above 0.01).
        valid: number of valid pixels.
    """

    P: torch.Tensor
    TP: torch.Tensor
    Y: torch.Tensor
    present: torch.Tensor
    valid: torch.Tensor
    pixel: torch.Tensor | None = None
    uniform: torch.Tensor | None = None
    positive: torch.Tensor | None = None
    negative: torch.Tensor | None = None


@torch.compiler.disable
def softmax_table(logits: torch.Tensor, target: torch.Tensor, ignore_index: int, request: Request) -> Table:
    """Table of class indices [N,H,W], or of soft labels [N,C,H,W] (pixels whose values are ignore_index: ignored)."""
    if is_hard(logits, target):
        check_labels(target, logits.shape[1], ignore_index)
        pixel, uniform, P, TP, Y, valid = _Hard.apply(
            logits, target, ignore_index, request.focal_gamma, request.smoothing
        )
        return Table(P, TP, Y, Y > 0, valid, pixel=pixel, uniform=uniform)
    pixel, uniform, P, TP, Y, present, valid = _Soft.apply(
        logits, target, ignore_index, request.focal_gamma, request.smoothing
    )
    return Table(P, TP, Y, present, valid, pixel=pixel, uniform=uniform)


@torch.compiler.disable
def sigmoid_table(logits: torch.Tensor, target: torch.Tensor, ignore_index: int) -> Table:
    """Table of labels [N,C,H,W] from 0 to 1, each channel on its own; values of ignore_index are ignored."""
    if is_hard(logits, target):
        raise ValueError(f"a sigmoid loss needs a target [N,C,H,W] like the logits, it is {list(target.shape)}")
    _check_probabilities(target, ignore_index)
    positive, negative, P, TP, Y, present, valid = _Sigmoid.apply(logits, target, ignore_index)
    return Table(P, TP, Y, present, valid, positive=positive, negative=negative)


def _check_probabilities(target: torch.Tensor, ignore_index: int) -> None:
    low, high = (float(v) for v in target.aminmax())
    if low >= 0 and high <= 1:
        return
    wrong = ((target < 0) | (target > 1) | target.isnan()) & (target != ignore_index)
    if wrong.any():
        image = int(wrong.flatten(1).any(dim=1).nonzero()[0])
        raise ValueError(
            f"label {target[wrong][0].item()} is not from 0 to 1 and not ignore_index={ignore_index}: "
            f"{int(wrong.sum())} values, the first in image {image} of the batch"
        )


def _tiles(logits: torch.Tensor, target: torch.Tensor):
    """(image, slice of its pixels, logits [C,T], target [T] or [C,T]) over the batch."""
    c, pixels = logits.shape[1], logits.shape[2] * logits.shape[3]
    step = max(1, (_CPU_TILE if logits.device.type == "cpu" else _GPU_TILE) // c)
    dtype = work_dtype(logits)
    for n in range(len(logits)):
        # flat once an image: logits that were cropped from padded ones are copied here
        z, y = logits[n].flatten(1), target[n].flatten(target.ndim - 3)
        for start in range(0, pixels, step):
            part = slice(start, start + step)
            yield n, part, z[:, part].to(dtype), y[..., part]


def _zeros(logits: torch.Tensor, count: int) -> list[torch.Tensor]:
    """`count` tables [N,C] in float64: a float32 sum of millions of pixels would lose digits."""
    return [logits.new_zeros(logits.shape[:2], dtype=torch.float64) for _ in range(count)]


def _add_by_label(row: torch.Tensor, label: torch.Tensor, value: torch.Tensor) -> None:
    """row[label] += value. index_put is deterministic on CUDA, where scatter_add is not."""
    if row.device.type == "cpu":
        row += torch.bincount(label, weights=value, minlength=len(row))
    else:
        row.index_put_((label,), value.to(row.dtype), accumulate=True)


class _Hard(torch.autograd.Function):
    @staticmethod
    def forward(logits, target, ignore_index, gamma, smoothing):
        dtype = work_dtype(logits)
        pixel, uniform, P, TP, Y = _zeros(logits, 5)
        for n, _, z, labels in _tiles(logits, target):
            y, valid = _hard_labels(labels, ignore_index, dtype)
            p = torch.softmax(z, dim=0)
            py = p.gather(0, y[None])[0]
            log_py = _log_of(py, z, y)
            if smoothing:
                uniform[n] += _pixel_sum(z.logsumexp(dim=0) - z, valid)
            if valid is not None:
                py, log_py = py * valid, log_py * valid
            P[n] += _pixel_sum(p, valid)
            _add_by_label(TP[n], y, py)
            _add_by_label(pixel[n], y, -log_py if gamma == 0 else -log_py * (1 - py) ** gamma)
            Y[n] += torch.bincount(y, weights=valid, minlength=len(Y[n]))
        tables = [t.to(dtype) for t in (pixel, uniform, P, TP, Y)]
        return *tables, Y.sum(dim=1, keepdim=True).expand_as(Y).to(dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        logits, target, ctx.ignore_index, ctx.gamma, ctx.smoothing = inputs
        ctx.save_for_backward(logits, target)
        ctx.mark_non_differentiable(output[4], output[5])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_pixel, d_uniform, d_P, d_TP, *_):
        logits, target = ctx.saved_tensors
        dtype = work_dtype(logits)
        gradient = torch.empty_like(logits)
        for n, part, z, labels in _tiles(logits, target):
            y, valid = _hard_labels(labels, ctx.ignore_index, dtype)
            p = torch.softmax(z, dim=0)
            py = p.gather(0, y[None])[0]
            slope = _pixel_slope(py, z, y, ctx.gamma)
            if valid is not None:
                p, py, slope = p.mul_(valid), py * valid, slope * valid
            per_pixel = torch.zeros_like(py)  # the factor of p_c that is the same for every c
            at_label = torch.zeros_like(py)
            if d_pixel is not None:
                k = slope * d_pixel[n][y]
                per_pixel += k
                at_label -= k
            if d_TP is not None:
                b = py * d_TP[n][y]
                at_label += b
                per_pixel -= b
            if ctx.smoothing and d_uniform is not None:
                per_pixel += d_uniform[n].sum()
            d_z = gradient[n].view(len(z), -1)[:, part]
            if d_P is not None:
                per_pixel -= d_P[n] @ p
                torch.mul(p, per_pixel + d_P[n][:, None], out=d_z)
            else:
                torch.mul(p, per_pixel, out=d_z)
            d_z.scatter_add_(0, y[None], at_label[None].to(d_z.dtype))
            if ctx.smoothing and d_uniform is not None:
                d_z -= d_uniform[n][:, None] if valid is None else d_uniform[n][:, None] * valid
        return gradient, None, None, None, None


def _hard_labels(labels: torch.Tensor, ignore_index: int, dtype: torch.dtype):
    """Labels as int64, ignored ones set to 0; and 1 for valid, 0 for ignored pixels (None: all are valid)."""
    y = labels.long()
    ignored = y == ignore_index
    if not ignored.any():
        return y, None
    return y.masked_fill(ignored, 0), (~ignored).to(dtype)  # not in place: y may be a view of the target


def _log_of(py: torch.Tensor, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """ln p_y; from the logits where p_y is too small for its logarithm."""
    log_py = py.log()
    tiny = (py < 1e-30).nonzero()[:, 0]
    if len(tiny):
        log_py[tiny] = z[y[tiny], tiny] - z[:, tiny].logsumexp(dim=0)
    return log_py


def _pixel_slope(py: torch.Tensor, z: torch.Tensor, y: torch.Tensor, gamma: float) -> torch.Tensor:
    """-d/d(ln p) of (1 - p)^gamma (-ln p): 1 for cross-entropy."""
    if gamma == 0:
        return torch.ones_like(py)
    rest = 1 - py
    return rest**gamma - gamma * py * _log_of(py, z, y) * rest.clamp_min(1e-12) ** (gamma - 1)


def _pixel_sum(values: torch.Tensor, valid) -> torch.Tensor:
    """[C,T] to [C], over the valid pixels."""
    return values.sum(dim=1) if valid is None else values @ valid


class _Soft(torch.autograd.Function):
    @staticmethod
    def forward(logits, target, ignore_index, gamma, smoothing):
        dtype = work_dtype(logits)
        pixel, uniform, P, TP, Y, peak, count = _zeros(logits, 7)
        for n, _, z, labels in _tiles(logits, target):
            y, valid = _soft_labels(labels, ignore_index, dtype)
            log_p = torch.log_softmax(z, dim=0)
            if smoothing:
                uniform[n] -= _pixel_sum(log_p, valid)
            p = log_p.exp()
            pixel[n] -= (y * log_p if gamma == 0 else y * log_p * (1 - p) ** gamma).sum(dim=1)
            P[n] += _pixel_sum(p, valid)
            TP[n] += torch.minimum(p, y).sum(dim=1)
            Y[n] += y.sum(dim=1)
            peak[n] = torch.maximum(peak[n], y.amax(dim=1))
            count[n] += y.shape[1] if valid is None else valid.sum()
        return *(t.to(dtype) for t in (pixel, uniform, P, TP, Y)), peak > 0.01, count.to(dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        logits, target, ctx.ignore_index, ctx.gamma, ctx.smoothing = inputs
        ctx.save_for_backward(logits, target)
        ctx.mark_non_differentiable(*output[4:])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_pixel, d_uniform, d_P, d_TP, *_):
        logits, target = ctx.saved_tensors
        dtype = work_dtype(logits)
        gradient = torch.empty_like(logits)
        for n, part, z, labels in _tiles(logits, target):
            y, valid = _soft_labels(labels, ctx.ignore_index, dtype)
            log_p = torch.log_softmax(z, dim=0)
            p = log_p.exp()
            slope = torch.zeros_like(p)  # dL/d(ln p_c): dz = slope - p sum(slope)
            if d_pixel is not None:
                if ctx.gamma == 0:
                    slope -= d_pixel[n][:, None] * y
                else:
                    rest = (1 - p).clamp_min(1e-12)
                    slope -= (
                        d_pixel[n][:, None] * y * (rest**ctx.gamma - ctx.gamma * p * log_p * rest ** (ctx.gamma - 1))
                    )
            if d_TP is not None:
                below = torch.lt(p, y).to(dtype).add_(torch.eq(p, y), alpha=0.5)
                slope += below.mul_(p).mul_(d_TP[n][:, None])
            if d_P is not None:
                slope += p * d_P[n][:, None]
            if ctx.smoothing and d_uniform is not None:
                slope -= d_uniform[n][:, None]
            slope -= p.mul_(slope.sum(dim=0))
            gradient[n].view(len(z), -1)[:, part] = slope if valid is None else slope * valid
        return gradient, None, None, None, None


def _soft_labels(labels: torch.Tensor, ignore_index: int, dtype: torch.dtype):
    """Labels [C,T], ignored pixels 0; and 1 for valid, 0 for ignored pixels [T] (None: all are valid)."""
    y = labels.to(dtype)
    ignored = (y == ignore_index).any(dim=0)
    return (y.masked_fill(ignored, 0), (~ignored).to(dtype)) if ignored.any() else (y, None)


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(logits, target, ignore_index):
        dtype = work_dtype(logits)
        positive, negative, P, TP, Y, peak, count = _zeros(logits, 7)
        for n, _, z, labels in _tiles(logits, target):
            y, valid = _sigmoid_labels(labels, ignore_index, dtype)
            p = torch.sigmoid(z)
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
    def setup_context(ctx, inputs, output):
        logits, target, ctx.ignore_index = inputs
        ctx.save_for_backward(logits, target)
        ctx.mark_non_differentiable(*output[4:])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_positive, d_negative, d_P, d_TP, *_):
        logits, target = ctx.saved_tensors
        dtype = work_dtype(logits)
        gradient = torch.empty_like(logits)
        for n, part, z, labels in _tiles(logits, target):
            y, valid = _sigmoid_labels(labels, ctx.ignore_index, dtype)
            p = torch.sigmoid(z)
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
    """Labels [C,T], ignored ones 0; and 1 for valid, 0 for ignored values [C,T] (None: all are valid)."""
    y = labels.to(dtype)
    ignored = y == ignore_index
    return (y.masked_fill(ignored, 0), (~ignored).to(dtype)) if ignored.any() else (y, None)
