"""The learning-rate range test: steps at a rising learning rate, until the loss explodes.

Smith, 2017, https://arxiv.org/abs/1506.01186.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from segtrain.data.loader import killed_workers_explained
from segtrain.errors import ConfigError, NotFinite
from segtrain.training.state import Parts
from segtrain.training.step import Step

LOWEST, HIGHEST = 1e-6, 1.0
FEWEST = 30  # steps
LONGEST = 90  # seconds
TIMED = 6  # of the first, to know how many there can be
EXPLODED = 3.0  # times the smallest loss, in means of five steps


@dataclass
class RangeTest:
    """The result: a loss for each learning rate.

    Attributes:
        rates, losses: of each step.
    """

    rates: np.ndarray
    losses: np.ndarray

    @cached_property
    def smooth(self) -> np.ndarray:
        """The losses with a Gaussian over a quarter of a decade: that of a mean of those before would lag behind."""
        from scipy.ndimage import gaussian_filter1d

        decades = np.log10(self.rates[-1] / self.rates[0])
        return gaussian_filter1d(self.losses, len(self.rates) / decades / 4, mode="nearest")

    @property
    def suggested(self) -> float:
        """The rate at which the loss falls fastest, with one digit."""
        fastest = self.rates[np.gradient(self.smooth, np.log10(self.rates)).argmin()]
        return float(f"{fastest:.0e}")


def range_test(trainer, parts: Parts, base_rate: float, steps: int = 100) -> RangeTest:
    """Train `parts` at rates from 1e-6 to 1, of equal ratios; the network is spoilt afterwards.

    Args:
        trainer: device, precision, clipping and accumulation are its.
        base_rate: the optimizer's learning rate; groups of parameters keep their ratios to it.
        steps: fewer, but not fewer than 30, where they would take longer than 90 seconds.

    Raises ConfigError when the first losses are not finite.
    """
    parts.schedule = LambdaLR(parts.optimizer, lambda step: LOWEST / base_rate)
    step = Step(
        parts,
        device=trainer.device,
        precision=trainer.precision,
        clip_norm=trainer.clip_norm,
        ema_decay=None,
        compiled=trainer.compile,
    )
    step.guarded = False  # the loss is read in each step, so it is told at once when it is not finite
    step.train(frozen_encoder=False)
    rates, losses, smallest, started = [], [], math.inf, time.monotonic()
    groups = _groups(parts.train, trainer.accumulate)
    with killed_workers_explained(), tqdm(groups, "steps", steps, leave=False, disable=None) as bar:
        for number, group in enumerate(bar):
            if number == TIMED // 2:  # the first are slower
                started = time.monotonic()
            if number == TIMED:
                each = (time.monotonic() - started) / (TIMED - TIMED // 2)
                bar.total = steps = max(FEWEST, min(steps, int(LONGEST / each)))
                parts.schedule.lr_lambdas = [_rising(base_rate, number, steps)] * len(parts.optimizer.param_groups)
            rate = parts.optimizer.param_groups[0]["lr"]
            try:
                loss = float(step(group, number)["loss"])
            except NotFinite as error:
                if len(losses) < 2:
                    raise ConfigError("the loss is not finite at the lowest rates", error.where, error.fix) from error
                break
            if number < TIMED:  # all at the lowest rate
                continue
            rates.append(rate)
            losses.append(loss)
            recent = float(np.mean(losses[-5:]))
            smallest = min(smallest, recent) if len(losses) >= 5 else smallest
            if number + 1 >= steps or recent > EXPLODED * smallest:
                break
    return RangeTest(np.array(rates), np.array(losses))


def _rising(base_rate: float, first: int, steps: int):
    ratio = (HIGHEST / LOWEST) ** (1 / max(steps - first - 1, 1))
    return lambda step: LOWEST / base_rate * ratio ** max(step - first, 0)


def _groups(batches, accumulate: int) -> Iterator[list]:
    """Micro-batches of a step, epoch after epoch."""
    epoch, group = 0, []
    while True:
        for batch in batches.epoch(epoch):
            group.append(batch)
            if len(group) == accumulate:
                yield group
                group = []
        epoch += 1
