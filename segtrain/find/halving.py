"""Successive halving: many settings for a third of the epochs, a third of them for all, the best with several seeds.

Jamieson and Talwalkar, 2016, https://arxiv.org/abs/1502.07943. A third, for after fewer epochs the order is another one:
settings with large class weights are ahead at first, and behind in the end (docs/sweeps.md). The settings that are left
are trained anew with other seeds, so that what they are judged by is not what they were chosen for.
"""

import math
from dataclasses import dataclass

FACTOR = 3  # a third goes on, for three times as many epochs
FINALISTS = 3  # the config as it is, and the two best others
FINAL = 0.6  # share of the time for the finalists
FEWEST = 4  # epochs of the first stage


@dataclass(frozen=True)
class Plan:
    """What a search will do.

    Attributes:
        candidates: how many settings are tried.
        rungs: epochs of each stage, those of the stages before included.
        epochs: of the finalists.
        seeds: trainings of each finalist.
    """

    candidates: int
    rungs: list[int]
    epochs: int
    seeds: int


def plan(seconds: float, per_epoch: float, around: float, epochs: int, candidates: int) -> Plan | None:
    """A plan that fits into the time; None when not even the smallest does.

    Args:
        seconds: that are left.
        per_epoch: seconds of an epoch, with its validation.
        around: seconds that a training takes besides its epochs.
        epochs: of a training, as the user would train; fewer when the time does not suffice.
        candidates: how many settings there are to try.
    """
    for seeds in (3, 2):
        afforded = int((FINAL * seconds / (seeds * FINALISTS) - around) / per_epoch)
        if afforded >= epochs / 2:
            break
    if (epochs := min(epochs, afforded)) < 2:
        return None
    rungs = sorted({min(epochs, max(FEWEST, round(epochs / FACTOR))), epochs})
    steps = [rung - before for before, rung in zip([0, *rungs], rungs, strict=False)]  # epochs that each stage adds
    one = sum((around + step * per_epoch) / FACTOR**i for i, step in enumerate(steps))  # of a candidate, on average
    tried = min(candidates, int((1 - FINAL) * seconds / one))
    return Plan(tried, rungs, epochs, seeds) if tried >= 2 else None


def survivors(ranked: list[int], last: bool) -> list[int]:
    """The best third of what is ranked, best first, but no fewer than the finalists.

    Of the last stage the finalists: 0, the config as it is, and the best others.
    """
    if last:
        return [0, *(number for number in ranked if number != 0)][:FINALISTS]
    return ranked[: max(FINALISTS, math.ceil(len(ranked) / FACTOR))]
