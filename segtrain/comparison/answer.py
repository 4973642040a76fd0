"""The answer of a comparison in words."""

import numpy as np

from segtrain.comparison.statistics import Estimate, estimate, needed
from segtrain.comparison.verdict import Comparison
from segtrain.errors import counted, few, listed

SUSPICIOUS = 1.7  # times the pooled spread between seeds, where the test does not tell it apart


def answer(found: Comparison) -> list[str]:
    """The answer: one sentence on the best setting and the baseline, and sentences on what it is worth."""
    means = found.scores.means
    if len(means) == 1:
        one = found.estimates[0]
        lines = [f"One setting: {_by(found)} {text(found, one.value)}{_within(found, one)}, {_basis(found)}."]
    elif np.ptp(means) == 0:
        which = "Both" if len(means) == 2 else f"All {len(means)}"
        lines = [f"{which} settings have the same {_by(found)}: {text(found, means[0])}, {_basis(found)}."]
    elif found.baseline == 0:
        lines = [_baseline_and_next(found)]
    else:
        lines = _best_and_baseline(found)
    lines += [*_as_good(found), *_limits(found)]
    if found.ranks.optimism > 0.0005 and found.unit == "%" and not found.split:
        where = "report it on a test split, where there is one (`segtrain evaluate RUN --split test`, then `--split test` here)"
        lines.append(
            f"The best of {len(means)} looks at least {100 * found.ranks.optimism:.1f} points better than it is, for having "
            f"been chosen on these images: {'report it on others' if _has_folds(found) else where}."
        )
    return lines


def _has_folds(found: Comparison) -> bool:
    return any(len(repeat) > 1 for setting in found.settings for repeat in setting.repeats)


def _by(found: Comparison) -> str:
    return f"{found.by} on {found.split}" if found.split else found.by


def _basis(found: Comparison) -> str:
    """How many seeds and images there are."""
    seeds = [len(setting.repeats) for setting in found.settings]
    words = f"{_range(seeds)} seed{'s' * (max(seeds) > 1)}"
    if found.images:
        of_groups = f" of {counted(found.groups, 'group')}" if found.groups < found.images else ""
        words += f", {found.images} images{of_groups}"
    return words


def _baseline_and_next(found: Comparison) -> str:
    """Where the baseline is the best: how much better than the next."""
    other = estimate(found.scores, found.noise, 0, 1)
    _, following, common = pair_of(found, 0, 1)
    settings = f"{len(found.settings)} settings{' on val' * bool(found.split)}"
    verdict = "" if found.against_best[1] else ", but cannot be told apart from the next"
    return (
        f"{found.settings[0].label}, the baseline, is the best of {settings}{verdict}: {text(found, other.value, True)} "
        f"{_by(found)} over {following}{common}{_within(found, other, True)}, {_basis(found)}."
    )


def _best_and_baseline(found: Comparison) -> list[str]:
    """How much better than the baseline the best is, and what is gained and lost with it."""
    best, base, common = pair_of(found, 0, found.baseline)
    chosen = f", the best on val of those scored on {found.split}" if found.split else ""
    difference = found.differences[0]
    gain, limits = f"{text(found, difference.value, True)} {_by(found)}", _within(found, difference, True)
    gains = _gains(found)
    if found.real[0]:
        of_classes = f"; {gains}" if gains else ""
        return [f"{best}{chosen}: {gain} over {base}{common}{limits}, {_basis(found)}{of_classes}."]
    unit, others = "images" if found.groups == found.images else "groups of images", len(found.settings) - 1
    groups = found.scores.groups
    if groups < found.groups:
        unit += f" with {part}" if (part := found.by.partition("/")[2]) else " without foreground"
    seeds = max(len(setting.repeats) for setting in found.settings)
    more = needed(difference, seeds, int(found.noise.freedom.max()), groups, others, unit)
    pair = f"{best}{chosen + ',' * bool(chosen)} from {base}{common}"
    line = f"Cannot tell {pair}: {gain}{limits}, {_basis(found)}."
    if difference.low * difference.high > 0:
        line += f" That is this pair alone: among {others} differences one as large may be chance."
    if more:
        line += f" It would take {more} to show a difference of this size."
    return [line, *([f"Single classes differ, though: {gains}."] if gains else [])]


def _as_good(found: Comparison) -> list[str]:
    """Settings that cannot be told apart from the best, where the first sentence does not say so."""
    named = found.baseline if found.real[0] else -1  # the first sentence is about it, at a level of its own
    alike = [s.label for i, s in enumerate(found.settings) if i not in (0, named) and not found.against_best[i]]
    if not alike or found.baseline == 0 or len(found.settings) < 3 or np.ptp(found.scores.means) == 0:
        return []
    more = f" and {len(alike) - 4} more" if len(alike) > 4 else ""
    return [f"The best cannot be told apart from {'; '.join(alike[:4])}{more}."]


def pair_of(found: Comparison, one: int, other: int) -> tuple[str, str, str]:
    """Of two settings what they differ in, and what they have in common, beginning with a comma where it is anything."""
    first, second = found.settings[one], found.settings[other]
    apart = [key for key in first.named if first.varied[key] != second.varied[key]]
    shared = first.label_of([key for key in first.named if key not in apart])
    if not apart or not shared:
        return first.label, second.label, ""
    return first.label_of(apart), second.label_of(apart), f", both with {shared}"


def _limits(found: Comparison) -> list[str]:
    """What the answer does not speak of."""
    lines, one_group, single = [], found.images > 0 and found.groups == 1, found.scores.groups < 2
    of_images = found.images > 0 and not single
    if not found.noise.known:
        images = "other images" if of_images else "these images alone"
        one = "seed" if _has_folds(found) else "training"
        lines.append(f"One {one} each: this holds for {images}, not for other trainings. Repeat it with seed=0,1,2.")
    elif once := [found.settings[i].label for i in {0, found.baseline} if len(found.scores.full[i]) == 1]:
        whose = f"{' and '.join(once)} {'were each' if len(once) > 1 else 'was'}"
        lines.append(f"{whose} trained once: the spread of its seeds is estimated from the other settings.")
    if found.images == 0:
        why = "There are no counts of single images"
        if all(run.counts is not None for setting in found.settings for run in setting.runs):
            why = f"{found.by} cannot be computed for draws of images" + ", and is the mean of the folds" * _has_folds(
                found
            )
        lines.append(f"{why}: this holds for these images only.")
    if one_group:
        lines.append("All images belong to one group (dataset.groups): this holds for these images only.")
    elif single and found.images > 0:
        lines.append(f"A single {_unit(found)} decides {found.by}: this holds for these images only.")
    elif found.seen_once:
        names = f"{few(found.seen_once)} {'are each' if len(found.seen_once) > 1 else 'is'} in a single {_unit(found)}"
        lines.append(f"{names}: the intervals say nothing about others.")
    for i, values in enumerate(found.scores.full):
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        if found.noise.own[i] or spread > SUSPICIOUS * np.sqrt(found.noise.variance[i]):
            worth = "are wider, and more seeds would help" if found.noise.own[i] else "may be too narrow"
            lines.append(f"The seeds of {found.settings[i].label} differ by more than those of the others (± {text(found, spread)}): "
                         f"its intervals {worth}.")  # fmt: skip
    return lines


def _unit(found: Comparison) -> str:
    """What is drawn."""
    return "image" if found.groups == found.images else "group of images"


def _gains(found: Comparison) -> str:
    """The classes in which the best differs from the baseline, and others that seem to gain half as much or more; empty where
    none differ."""
    if not found.class_gains:
        return ""
    real = {name: gain.value for name, gain in found.class_gains.items()}
    change = dict(zip(found.classes, found.class_means[0] - found.class_means[found.baseline], strict=True))
    gained = [name for name in sorted(real, key=real.get, reverse=True) if real[name] > 0][:3]
    lost = [name for name in sorted(real, key=real.get) if real[name] < 0][:3]
    unsure = [name for name in change if name not in real and gained and 2 * change[name] >= real[gained[-1]]]
    parts = {"the gain is in": gained, "perhaps also in": unsure, "the loss in": lost}
    return ", ".join(
        f"{words} {listed([f'{name} ({signed_percent(change[name])})' for name in names])}"
        for words, names in parts.items()
        if names
    )


def text(found: Comparison, value: float, signed: bool = False) -> str:
    """A score, or a difference with its sign, in percent or as it is."""
    if np.isnan(value):
        return "n/a"
    if found.unit != "%":
        return f"{value:{'+' * signed}.4g}".replace("-", "−")
    digits = 2 if 0.005 <= abs(100 * value) < 0.1 else 1  # of a calibration error, which may be as small
    return f"{100 * value:{'+' * signed}z.{digits}f}".replace("-", "−")


def _within(found: Comparison, one: Estimate, signed: bool = False) -> str:
    """The interval, after a comma; empty where chance is unknown, which other sentences tell."""
    return "" if np.isnan(one.low) else f", 95 % interval {interval(found, one, signed)}"


def interval(found: Comparison, one: Estimate, signed: bool = False) -> str:
    if np.isnan(one.low):
        return "n/a"
    return f"{text(found, one.low, signed)} to {text(found, one.high, signed)}"


def signed_percent(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _range(numbers: list[int]) -> str:
    return str(min(numbers)) if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"
