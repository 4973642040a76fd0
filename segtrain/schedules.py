"""Learning rate over the steps of a run: a linear warm-up, then constant, cosine or polynomial decay.

Each returns a factor of the optimizer's learning rate, stepped once per optimizer step.
"""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from segtrain.arguments import Fraction, FractionBelowOne, NonNegativeInt, Positive, checked
from segtrain.errors import ConfigError


@checked
def constant(optimizer, steps, warmup: NonNegativeInt = 0) -> LambdaLR:
    """1 after `warmup` steps."""
    return _schedule(optimizer, steps, warmup, lambda step: 1.0)


@checked
def cosine(optimizer, steps, warmup: NonNegativeInt = 0, final: Fraction = 0.0) -> LambdaLR:
    """Half a cosine from 1 to `final` over `steps`. Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983"""
    return _schedule(
        optimizer,
        steps,
        warmup,
        lambda step: final + (1 - final) * (1 + math.cos(math.pi * _progress(step, warmup, steps))) / 2,
    )


@checked
def poly(optimizer, steps, warmup: NonNegativeInt = 0, power: Positive = 0.9) -> LambdaLR:
    """(1 - step / steps)^power, as in DeepLab, https://arxiv.org/abs/1606.00915"""
    return _schedule(optimizer, steps, warmup, lambda step: (1 - _progress(step, warmup, steps)) ** power)


@checked
def one_cycle(
    optimizer, steps, warmup: FractionBelowOne = 0.3, start: Fraction = 0.04, final: Fraction = 0.0
) -> LambdaLR:
    """Half a cosine from `start` to 1 over the share `warmup` of the steps, then half a cosine to `final`.

    Smith and Topin, 2018, https://arxiv.org/abs/1708.07120, in the form of PyTorch's OneCycleLR.
    """

    def factor(step: int) -> float:
        up = max(1, round(warmup * steps))
        low, share = (start, step / up) if step < up else (final, 1 - _progress(step, up, steps))
        return low + (1 - low) * (1 - math.cos(math.pi * share)) / 2

    return LambdaLR(optimizer, factor)


def _progress(step: int, warmup: int, steps: int) -> float:
    """0 when the warm-up ends, 1 at the end of the run."""
    return min(max(step - warmup, 0) / max(steps - warmup, 1), 1.0)


def _schedule(optimizer: Optimizer, steps: int, warmup: int, factor: Callable[[int], float]) -> LambdaLR:
    if warmup and warmup >= steps:
        what = f"a training of {steps} steps with a warm-up of {warmup} steps would not reach its learning rate"
        raise ConfigError(what, "schedule.warmup", "shorten it, or train longer")
    return LambdaLR(optimizer, lambda step: (step + 1) / (warmup + 1) if step < warmup else factor(step))
