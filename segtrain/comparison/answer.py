"""The answer of a comparison in words."""

import numpy as np

from segtrain.comparison.statistics import Estimate, estimate, needed
from segtrain.comparison.verdict import Comparison

SUSPICIOUS = 1.7  # times the pooled spread between seeds, where the test does not tell it apart


def answer(found: Comparison) -> list[str]:
    """The answer: one sentence on the best setting and the baseline, and sentences on what it is worth."""
    best, base, common = pair_of(found, 0, found.baseline)
    chosen = f", the best on val of those scored on {found.split}" if found.split else ""
    where = f" on {found.split}" if found.split else ""
    seeds = [len(setting.repeats) for setting in found.settings]
    basis = f"{_range(seeds)} seed{'s' * (max(seeds) > 1)}"
    if found.images:
        basis += f", {found.images} images" + (f" of {found.groups} groups" if found.groups < found.images else "")
    lines = []
    if len(found.settings) == 1:
        one = found.estimates[0]
        first = (
            f"One setting: {found.by}{where} {text(found, one.value)}, 95 % interval {interval(found, one)}, {basis}."
        )
        return [first, *_limits(found)]
    if np.ptp(found.scores.means) == 0 and len(seeds) > 1:
        lines.append(
            f"All {len(seeds)} settings have the same {found.by}{where}: {text(found, found.scores.means[0])}, {basis}."
        )
    elif found.baseline == 0:
        other = estimate(found.scores, found.noise, 0, 1)
        _, following, _ = pair_of(found, 0, 1)
        first = f"{found.settings[0].label}, the baseline, is the best of {len(seeds)} settings{' on val' * bool(found.split)}"
        verdict = "" if found.against_best[1] else ", but cannot be told apart from the next"
        lines.append(f"{first}{verdict}: {text(found, other.value, True)} {found.by}{where} over {following}, 95 % interval "
                     f"{interval(found, other, True)}, {basis}.")  # fmt: skip
    else:
        difference = found.differences[0]
        gain, limits = f"{text(found, difference.value, True)} {found.by}{where}", interval(found, difference, True)
        if found.real[0]:
            lines.append(f"{best}{chosen}: {gain} over {base}{common}, 95 % interval {limits}, {basis}{_gains(found)}.")
        else:
            alone = f" That is this pair alone: among {len(seeds) - 1} differences one as large may be chance."
            unit = "images" if found.groups == found.images else "groups of images"
            freedom = int(found.noise.freedom.max())
            more = needed(difference, max(seeds), freedom, found.groups, len(seeds) - 1, unit)
            hint = alone if difference.low * difference.high > 0 else ""
            hint += f" It would take {more} to show a difference of this size." if more else ""
            lines.append(
                f"Cannot tell {best}{chosen + ',' * bool(chosen)} from {base}{common}: {gain}, 95 % interval {limits}, {basis}.{hint}"
            )
            if gains := _gains(found):
                lines.append(f"Single classes differ, though: {gains.removeprefix('; ')}.")
    named = found.baseline if found.real[0] else -1  # the first sentence is about it, at a level of its own
    alike = [s.label for i, s in enumerate(found.settings) if i not in (0, named) and not found.against_best[i]]
    if alike and found.baseline != 0 and len(seeds) > 2:
        named = "; ".join(alike[:4]) + (f" and {len(alike) - 4} more" if len(alike) > 4 else "")
        lines.append(f"The best cannot be told apart from {named}.")
    lines += _limits(found)
    if found.ranks.optimism > 0.0005 and found.unit == "%" and not found.split:
        lines.append(
            f"The best of {len(seeds)} looks at least {100 * found.ranks.optimism:.1f} points better than it is, for having "
            "been chosen on these images: report it on others (`segtrain evaluate RUN --split test`, `--split test` here)."
        )
    return lines


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
    lines, one_group = [], found.images > 0 and found.groups == 1
    of_images = found.images > 0 and not one_group
    if not found.noise.known:
        images = "other images" if of_images else "these images alone"
        lines.append(f"One training each: this speaks of {images}, not of other trainings. Repeat it with seed=0,1,2.")
    elif once := [found.settings[i].label for i in {0, found.baseline} if len(found.scores.full[i]) == 1]:
        whose = " and ".join(once)
        lines.append(f"{whose} was trained once: how far its seeds differ is taken from the other settings.")
    if found.images == 0:
        counted = all(run.counts is not None for setting in found.settings for run in setting.runs)
        why = (
            f"{found.by} is not a score of single images' counts"
            if counted
            else "The counts of single images are not there"
        )
        lines.append(f"{why}: this speaks of these images only.")
    if one_group:
        lines.append("All images are of one group (dataset.groups): this speaks of these images only.")
    for i, values in enumerate(found.scores.full):
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        if found.noise.own[i] or spread > SUSPICIOUS * np.sqrt(found.noise.variance[i]):
            worth = "are wider, and more seeds would help" if found.noise.own[i] else "may be too narrow"
            lines.append(f"The seeds of {found.settings[i].label} differ by more than those of the others (± {text(found, spread)}): "
                         f"its intervals {worth}.")  # fmt: skip
    return lines


def _gains(found: Comparison) -> str:
    better = sorted(found.class_gains.items(), key=lambda item: -abs(item[1].value))
    gained = [f"{name} ({signed_percent(e.value)})" for name, e in better if e.value > 0][:3]
    lost = [f"{name} ({signed_percent(e.value)})" for name, e in better if e.value < 0][:3]
    parts = [f"the gain is in {' and '.join(gained)}"] if gained else []
    parts += [f"the loss in {' and '.join(lost)}"] if lost else []
    return "; " + ", ".join(parts) if parts else ""


def text(found: Comparison, value: float, signed: bool = False) -> str:
    """A score, or a difference with its sign, in percent or as it is."""
    if np.isnan(value):
        return "n/a"
    scaled = f"{100 * value:{'+' * signed}.1f}" if found.unit == "%" else f"{value:{'+' * signed}.4g}"
    return scaled.replace("-", "−")


def interval(found: Comparison, one: Estimate, signed: bool = False) -> str:
    return f"{text(found, one.low, signed)} to {text(found, one.high, signed)}"


def signed_percent(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _range(numbers: list[int]) -> str:
    return str(min(numbers)) if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"
