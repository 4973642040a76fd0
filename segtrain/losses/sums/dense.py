"""The same sums over the whole batch at once, by autograd: for CUDA, until a kernel does it in one pass.

No loop over images, no wait for the device, and nothing that adds in an order of chance: sums by label are a comparison
with every class and a matrix product. Labels that are no class raise a flag on the device.
"""

import torch

from segtrain.losses.targets import is_ignored, work_dtype


def hard_sums(logits: torch.Tensor, target: torch.Tensor, ignore_index: int, gamma: float, smoothing: bool):
    """pixel, uniform, P, TP, Y, present and valid, each [N,C], of a softmax against class indices [N,H,W]."""
    z, y = logits.flatten(2).to(work_dtype(logits)), target.flatten(1)
    classes = torch.arange(z.shape[1], device=z.device, dtype=y.dtype)
    valid = y != ignore_index
    truth = (y[:, None] == classes[:, None]) & valid[:, None]
    torch._assert_async((truth.any(dim=1) | ~valid).all(), "a label is no class and not ignore_index")
    log_p = z.log_softmax(dim=1)
    p, weight = log_p.exp(), valid.to(z.dtype)
    # where, not a product: 0 times the -inf of a class that has no probability would be NaN
    log_py, py = (torch.where(truth, each, 0).sum(dim=1) for each in (log_p, p))
    surprise = -log_py if gamma == 0 else -log_py * (1 - py).clamp_min(1e-12) ** gamma
    columns = torch.stack([surprise, py, weight], dim=2)
    # Counts stay exact and sums right to float32's digits as long as torch.backends.cuda.matmul.allow_tf32 is off.
    pixel, TP, Y = (truth.to(z.dtype) @ columns).unbind(dim=2)
    P = (p @ weight[..., None])[..., 0]
    uniform = -(log_p @ weight[..., None])[..., 0] if smoothing else torch.zeros_like(P)
    Y = Y.detach()
    return pixel, uniform, P, TP, Y, Y > 0, Y.sum(dim=1, keepdim=True).expand_as(Y)


def soft_sums(logits: torch.Tensor, target: torch.Tensor, ignore_index: int, gamma: float, smoothing: bool):
    """pixel, uniform, P, TP, Y, present and valid, each [N,C], of a softmax against soft labels [N,C,H,W]."""
    z = logits.flatten(2).to(work_dtype(logits))
    y = target.flatten(2).to(z.dtype)
    valid = ~is_ignored(y, ignore_index).any(dim=1, keepdim=True)
    y = y.where(valid, 0)
    torch._assert_async((y <= 1).all(), "a soft label is not from 0 to 1 and not ignore_index")
    log_p = z.log_softmax(dim=1)
    p = log_p.exp()
    surprise = -log_p if gamma == 0 else -log_p * (1 - p).clamp_min(1e-12) ** gamma
    uniform = -torch.where(valid, log_p, 0).sum(dim=2) if smoothing else torch.zeros_like(p[..., 0])
    p, pixel = p.where(valid, 0), (y * surprise).sum(dim=2)
    return (
        pixel,
        uniform,
        p.sum(dim=2),
        torch.minimum(p, y).sum(dim=2),
        y.sum(dim=2),
        y.amax(dim=2) > 0.01,
        valid.sum(dim=2).to(z.dtype).expand_as(pixel),
    )


def sigmoid_sums(logits: torch.Tensor, target: torch.Tensor, ignore_index: int):
    """positive, negative, P, TP, Y, present and valid, each [N,C], of a sigmoid against labels [N,C,H,W]."""
    z = logits.flatten(2).to(work_dtype(logits))
    y = target.flatten(2).to(z.dtype)
    valid = y != ignore_index
    y = y.where(valid, 0)
    torch._assert_async(((y >= 0) & (y <= 1)).all(), "a label is not from 0 to 1 and not ignore_index")
    p, plus = z.sigmoid().where(valid, 0), torch.nn.functional.softplus(z)
    positive = (y * (plus - z)).sum(dim=2)
    negative = torch.where(valid, (1 - y) * plus, 0).sum(dim=2)
    return (
        positive,
        negative,
        p.sum(dim=2),
        torch.minimum(p, y).sum(dim=2),
        y.sum(dim=2),
        y.amax(dim=2) > 0.01,
        valid.sum(dim=2).to(z.dtype),
    )
