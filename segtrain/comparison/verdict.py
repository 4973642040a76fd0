"""The comparison of settings that scored the same images."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from segtrain.comparison.baseline import choose_baseline
from segtrain.comparison.draws import DRAWS, counted_for, counts_images
from segtrain.comparison.resampled import ResampledCounts, foreground_of
from segtrain.comparison.settings import Setting, counts_of
from segtrain.comparison.statistics import (
    LEVEL,
    Estimate,
    Ranks,
    Scores,
    SeedNoise,
    apart_from_best,
    estimate,
    holm,
    ranks,
    seed_noise,
)
from segtrain.errors import ConfigError, did_you_mean

OF_LOSS = ("loss", "labels", "weighting", "class_weights")  # groups of settings that change what the loss is


@dataclass
class Comparison:
    """Settings that scored the same images, best first.

    Attributes:
        by: the score.
        split: whose images were scored, where the order of the settings is that on val; None: val, and in its own order.
        baseline: index of the setting that others are compared with.
        scores, noise, ranks: see segtrain.comparison.statistics.
        estimates, differences: of each setting; to the baseline, None for itself.
        corrected: p of each difference, corrected for their number; NaN for the baseline.
        against_best: whether each setting is told apart from the best, corrected likewise.
        images, groups, classes: what was scored; no images when only the runs' own scores are known.
        seen_once: classes that the ground truth of a single image, or group of images, shows.
        pixels: of each class in the ground truth.
        class_means: IoU of each setting and class, mean over seeds.
        class_gains: by class the difference of best and baseline in IoU, where it is real.
    """

    by: str
    split: str | None
    lower_is_better: bool
    unit: str
    settings: list[Setting]
    baseline: int
    scores: Scores
    noise: SeedNoise
    ranks: Ranks
    estimates: list[Estimate]
    differences: list[Estimate | None]
    corrected: np.ndarray
    against_best: np.ndarray
    images: int
    groups: int
    seen_once: list[str]
    classes: tuple[str, ...]
    pixels: np.ndarray
    class_means: np.ndarray
    class_gains: dict[str, Estimate]

    @property
    def real(self) -> np.ndarray:
        """bool [settings]: whether a setting differs from the baseline."""
        return np.nan_to_num(self.corrected, nan=1.0) < LEVEL


def compare(
    settings: list[Setting], by: str | None = None, baseline: str | None = None, split: str | None = None
) -> Comparison:
    """Compare settings of the same classes and images.

    Args:
        by: a score's name; None: the one that all runs monitored, or else iou/mean.
        baseline: `loss.alpha=0,weighting=none`, a run's folder, or None: see `choose_baseline`.
        split: that was scored instead of val, on which the best is chosen then.

    Raises ConfigError for a score that not all have, and a baseline that none or several settings are.
    """
    by = by or common_monitor(settings)
    check_comparable(settings[0].varied, by, "--by loss", "compare them by a score: --by iou/mean")
    lower, unit = direction_and_unit(by, settings)
    settings = sorted(settings, key=lambda setting: ordering_score(setting, by, split) * (1 if lower else -1))
    counted = ResampledCounts.of(settings, "iou/mean" if counts_images(by) else by)
    scored = ResampledCounts.of(settings, by) if counts_images(by) else counted
    resampled = scored is not None and scored.knows(scored.name)
    scores = scored.scores(scored.name) if resampled else fixed_scores(settings, by)
    noise, chosen = seed_noise(scores), choose_baseline(settings, baseline)
    estimates = [estimate(scores, noise, i) for i in range(len(settings))]
    if unit == "%":  # shares, none of which is below 0 or above 1
        estimates = [replace(one, low=np.maximum(one.low, 0.0), high=np.minimum(one.high, 1.0)) for one in estimates]
    differences = [estimate(scores, noise, i, chosen) if i != chosen else None for i in range(len(settings))]
    corrected = np.full(len(settings), np.nan)
    corrected[np.arange(len(settings)) != chosen] = holm(np.array([d.p for d in differences if d is not None]))
    means, gains = (np.zeros((len(settings), 0)), {}) if counted is None else counted.by_class(chosen)
    return Comparison(
        by=by,
        split=split if split != "val" else None,
        lower_is_better=lower,
        unit=unit,
        settings=settings,
        baseline=chosen,
        scores=scores,
        noise=noise,
        ranks=ranks(scores, noise, lower),
        estimates=estimates,
        differences=differences,
        corrected=corrected,
        against_best=apart_from_best(scores, noise),
        images=len(scored.groups) if resampled else 0,
        groups=len(np.unique(scored.groups)) if resampled else 1,
        seen_once=[name for name, n in counted.groups_with.items() if n == 1] if resampled else [],
        classes=settings[0].runs[0].classes,
        pixels=counted.pixels if counted is not None else np.zeros(0),
        class_means=means,
        class_gains=gains,
    )


def check_comparable(keys: Iterable[str], by: str, where: str, fix: str) -> None:
    """Raise ConfigError where settings that differ in these keys have a loss of their own, and that is to be compared."""
    if by == "loss" and (own := [key for key in keys if key.split(".")[0] in OF_LOSS]):
        what = f"the settings differ in {', '.join(own)}, which changes the loss: their losses cannot be compared"
        raise ConfigError(what, where, fix)


def fixed_scores(settings: list[Setting], name: str) -> Scores:
    """Of a score of which only the value on all images is known."""
    full = [own_scores(setting, name) for setting in settings]
    return Scores(full, [np.repeat(values[:, None], DRAWS, axis=1) for values in full], 1)


def ordering_score(setting: Setting, by: str, split: str | None) -> float:
    """The score on val, the mean over the seeds, by which a setting is put in order.

    Where the images were counted it is of all folds together, as the scores that are shown.
    """
    tables = [counts_of(repeat) for repeat in setting.repeats]
    known = all(by in run.on_val for run in setting.runs) and not any(table is None for table in tables)
    if known and split in (None, "val"):
        counts = [counts for *_, counts in tables]
        with contextlib.suppress(KeyError):  # another score
            classes, foreground = setting.runs[0].classes, foreground_of(setting)
            pooled = counted_for(by, counts, classes, foreground, setting.min_area).scores().mean()
            if not np.isnan(pooled):
                return pooled
    return own_scores(setting, by, chosen_on_val=True).mean()


def own_scores(setting: Setting, name: str, chosen_on_val: bool = False) -> np.ndarray:
    """A score of each seed, as its runs wrote it; the mean over its folds.

    Args:
        chosen_on_val: that on val, whatever split is compared.
    """
    scores = [[run.on_val if chosen_on_val else run.result.scores for run in repeat] for repeat in setting.repeats]
    values = [[known.get(name) for known in repeat] for repeat in scores]
    if any(None in repeat for repeat in values):
        where = " on val" * chosen_on_val
        what = f"not all runs have the score {name}{where}{did_you_mean(name, setting.runs[0].result.scores)}"
        if all(name in known for repeat in scores for known in repeat):
            what = f"{name} is not defined for all runs{where}, as for a class in neither ground truth nor prediction"
        raise ConfigError(what, "--by", "name another; `segtrain help scores` lists them")
    return np.array([np.mean(repeat) for repeat in values])


def common_monitor(settings: list[Setting]) -> str:
    """The score that all runs monitored; else one that all have."""
    runs = [run for setting in settings for run in setting.runs]
    monitors = {run.result.best["monitor"] for run in runs if run.result.best}
    undefined = [name for name in monitors if all(run.result.scores.get(name) is None for run in runs)]
    if len(monitors) == 1 and not undefined:
        return monitors.pop()
    common = [name for name in runs[0].result.scores if all(run.result.scores.get(name) is not None for run in runs)]
    if not common:
        raise ConfigError("the runs have no score in common", "compare", "compare runs of the same metric")
    return "iou/mean" if "iou/mean" in common else common[0]


def direction_and_unit(by: str, settings: list[Setting]) -> tuple[bool, str]:
    """Whether a score is better low, and its unit: as monitored, when it is what all runs monitored."""
    results = [run.result for setting in settings for run in setting.runs]
    monitored = [result for result in results if result.best]
    if monitored and all(result.best["monitor"] == by for result in monitored):
        return monitored[0].lower_is_better, monitored[0].unit
    lower = by == "loss" or any(by in result.lower for result in results)
    return lower, results[0].units.get(by, "" if by == "loss" else "%")
