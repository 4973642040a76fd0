"""AdamW and SGD: weight decay on convolution and linear weights only, fused kernels where PyTorch has them."""

from typing import Annotated

import torch
from torch import nn

from segtrain.arguments import FractionBelowOne, NonNegative, Positive, Range, checked

Betas = Annotated[list[float], Range("two numbers >= 0 and < 1", lambda v: len(v) == 2 and min(v) >= 0 and max(v) < 1)]


@checked
def adamw(
    model, lr: Positive = 1e-3, weight_decay: NonNegative = 1e-2, betas: Betas = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """AdamW. Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101"""
    return torch.optim.AdamW(_groups(model, weight_decay), lr=lr, betas=tuple(betas), fused=True)


@checked
def sgd(
    model,
    lr: Positive = 1e-2,
    momentum: FractionBelowOne = 0.9,
    weight_decay: NonNegative = 1e-4,
    nesterov: bool = True,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum."""
    groups = _groups(model, weight_decay)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, fused=True)


def _groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Biases and norms (tensors of one dimension) are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
