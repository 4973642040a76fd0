"""The same sums over the whole batch at once, in plain PyTorch: for CUDA without Triton, and the oracle of its kernels.

No loop over images, no wait for the device, and nothing that adds in an order of chance. A label that is no class, which
the host would have to wait for to name, makes Y NaN, and with it the loss.
"""

import torch
from torch.autograd.function import once_differentiable

from segtrain.losses.sums.function import SumsFunction
from segtrain.losses.targets import is_ignored, work_dtype


def hard_sums(logits: torch.Tensor, target: torch.Tensor, ignore_index: int, gamma: float, smoothing: bool):
    """pixel, uniform, P, TP, Y, present and valid, each [N,C], of a softmax against class indices [N,H,W]."""
    log_p = logits.flatten(2).log_softmax(dim=1, dtype=work_dtype(logits))
    return _HardSums.apply(log_p, target, ignore_index, gamma, smoothing)


class _HardSums(SumsFunction):
    """The sums of log p [N,C,P], with a gradient that keeps no product of that size, as autograd would."""

    @staticmethod
    def forward(log_p, target, ignore_index, gamma, smoothing):
        y = target.flatten(1)
        classes = torch.arange(log_p.shape[1], device=y.device, dtype=y.dtype)
        valid, truth = (y != ignore_index)[:, None], y[:, None] == classes[:, None]
        if ignore_index < log_p.shape[1]:
            truth &= valid
        p = log_p.exp()
        surprise = log_p if gamma == 0 else log_p * (1 - p) ** gamma
        # where, not a product: 0 times the -inf of a class that has no probability would be NaN
        pixel = -torch.where(truth, surprise, 0).sum(dim=2)
        TP, P = (p * truth).sum(dim=2), (p * valid).sum(dim=2)
        uniform = -torch.where(valid, log_p, 0).sum(dim=2) if smoothing else None
        Y, count = truth.sum(dim=2, dtype=p.dtype), valid.sum(dim=2, dtype=p.dtype)
        Y.masked_fill_(Y.sum(dim=1, keepdim=True) != count, torch.nan)
        return pixel, uniform, P, TP, Y, Y > 0, count.expand_as(Y), truth, valid

    @staticmethod
    @once_differentiable
    def backward(ctx, d_pixel, d_uniform, d_P, d_TP, *_):
        (log_p, _, truth, valid), (_, gamma, smoothing) = ctx.saved_tensors, ctx.settings
        p = log_p.exp()
        others = torch.zeros_like(p) if d_P is None else p * d_P[..., None]  # dL/d(ln p_c) where c is not the label
        if smoothing and d_uniform is not None:
            others -= d_uniform[..., None]
        at_label = others if d_TP is None else torch.addcmul(others, p, d_TP[..., None])
        if d_pixel is not None:
            k = d_pixel[..., None] if gamma == 0 else d_pixel[..., None] * focal_slope(p, log_p, gamma)
            at_label = at_label - k
        return torch.where(truth, at_label, others) * valid, None, None, None, None


def focal_slope(p: torch.Tensor, log_p: torch.Tensor, gamma: float) -> torch.Tensor:
    """-d/d(ln p) of (1 - p)^gamma (-ln p), gamma > 0: it is 1 for cross-entropy."""
    rest = 1 - p
    return rest**gamma - gamma * p * log_p * rest.clamp_min(1e-12) ** (gamma - 1)


def soft_sums(logits: torch.Tensor, target: torch.Tensor, ignore_index: int, gamma: float, smoothing: bool):
    """pixel, uniform, P, TP, Y, present and valid, each [N,C], of a softmax against soft labels [N,C,H,W]."""
    z = logits.flatten(2).to(work_dtype(logits))
    y = target.flatten(2).to(z.dtype)
    valid = ~is_ignored(y, ignore_index).any(dim=1, keepdim=True)
    y = y.where(valid, 0)
    y = y.where(y <= 1, torch.nan)  # no share of a class
    log_p = z.log_softmax(dim=1)
    p = log_p.exp()
    surprise = -log_p if gamma == 0 else -log_p * (1 - p).clamp_min(1e-12) ** gamma
    uniform = -torch.where(valid, log_p, 0).sum(dim=2) if smoothing else None
    return (y * surprise).sum(dim=2), uniform, *_region_sums(p, y, valid)


def sigmoid_sums(logits: torch.Tensor, target: torch.Tensor, ignore_index: int):
    """positive, negative, P, TP, Y, present and valid, each [N,C], of a sigmoid against labels [N,C,H,W]."""
    z = logits.flatten(2).to(work_dtype(logits))
    y = target.flatten(2).to(z.dtype)
    valid = y != ignore_index
    y = y.where(valid, 0)
    y = y.where((y >= 0) & (y <= 1), torch.nan)  # no label
    p, plus = z.sigmoid(), torch.nn.functional.softplus(z)
    positive = (y * (plus - z)).sum(dim=2)
    negative = torch.where(valid, (1 - y) * plus, 0).sum(dim=2)
    return positive, negative, *_region_sums(p, y, valid)


def _region_sums(p: torch.Tensor, y: torch.Tensor, valid: torch.Tensor):
    """P, TP, Y, present and valid of probabilities and labels [N,C,P]; the labels are 0 where not valid."""
    p, Y = p.where(valid, 0), y.sum(dim=2)
    count = valid.sum(dim=2).to(y.dtype).expand_as(Y)
    return p.sum(dim=2), torch.minimum(p, y).sum(dim=2), Y, y.amax(dim=2) > 0.01, count
