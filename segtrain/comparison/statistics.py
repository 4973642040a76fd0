"""Is one setting better than another, or would other images and other seeds say otherwise?

All runs score the same images, so differences are paired; images of a scene or patient are drawn together (cluster
bootstrap; Cameron, Gelbach & Miller, 2008, https://doi.org/10.1162/rest.90.3.414). Where few groups hold most of the pixels,
draws show too little of what other images would change, and leaving one group out at a time shows more (the cluster jackknife;
MacKinnon, Nielsen & Webb, 2023, https://doi.org/10.1002/jae.2969): the larger variance counts. Trainings of a setting differ by
seed, and the variance of that is pooled over all settings but those whose seeds differ by clearly more. The margins, each
with the t value of its degrees of freedom, are added as squares (MOVER; Zou & Donner, 2008, https://doi.org/10.1002/sim.3095): with two or three seeds
Satterthwaite's common degrees of freedom call too much real. p-values of several settings against one baseline are
corrected by Holm's method.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05
MOST_NEEDED = 100  # times as many seeds or images as there are
UNLIKE = 0.05  # level at which the seeds of a setting differ by more than those of the others


@dataclass(frozen=True)
class Scores:
    """Scores of the settings, on all images and on draws of them.

    Attributes:
        full: for each setting, float [seeds].
        draws: for each setting, float [seeds, draws]; every setting and seed has the same draws.
        groups: of images that were drawn.
        left_out: for each setting, float [seeds, groups], with one group left out; None where nothing was drawn.
    """

    full: list[np.ndarray]
    draws: list[np.ndarray]
    groups: int
    left_out: list[np.ndarray] | None = None

    @functools.cached_property
    def means(self) -> np.ndarray:
        return np.array([values.mean() for values in self.full])

    @functools.cached_property
    def mean_draws(self) -> np.ndarray:
        """float [settings, draws]: around the score of all images, with the spread that draws of so few groups lack."""
        means = np.stack([values.mean(axis=0) for values in self.draws])
        return self.means[:, None] + (means - means.mean(axis=1, keepdims=True)) * np.sqrt(self.correction)

    def variance(self, value: Callable[[list[np.ndarray]], np.ndarray]) -> np.ndarray:
        """Of a value, over other images: that of the draws or that of groups left out, whichever is larger.

        Args:
            value: float […, D] of the scores of each setting, float [seeds, D].
        """
        of_draws = value(self.draws).var(axis=-1) * self.correction
        if self.left_out is None:
            return of_draws
        without = value(self.left_out)
        return np.maximum(of_draws, without.var(axis=-1) * without.shape[-1] / self.correction)

    @property
    def correction(self) -> float:
        """Of a bootstrap variance: it is that of a mean of n values with n, not n - 1, in the denominator."""
        return self.groups / max(self.groups - 1, 1)


@dataclass(frozen=True)
class SeedNoise:
    """Variance of the score between trainings that differ by their seed alone.

    Attributes:
        variance: float [settings], on these images; 0 when no setting has two seeds.
        of_images: float [settings], the part of it that other images would change; draws of images have it, too.
        freedom: int [settings], degrees of freedom; 0 when no setting has two seeds.
        own: bool [settings], of one whose seeds differ by more than those of the others; the rest has the pooled variance.
    """

    variance: np.ndarray
    of_images: np.ndarray
    freedom: np.ndarray
    own: np.ndarray

    @property
    def known(self) -> bool:
        return bool(self.freedom.any())


@dataclass(frozen=True)
class Estimate:
    """A score or a difference of two.

    Attributes:
        value, low, high: with its 95 % interval.
        p: of no difference, two-sided, not corrected.
        images, seeds: parts of its variance; that of other images for the same trainings, and that of other trainings.
    """

    value: float
    low: float
    high: float
    p: float
    images: float
    seeds: float


def seed_noise(scores: Scores) -> SeedNoise:
    freedom = np.array([len(full) - 1 for full in scores.full])
    squares = np.array([((full - full.mean()) ** 2).sum() for full in scores.full])
    settings = range(len(scores.full))
    of_images = np.array([scores.variance(lambda s, i=i: s[i] - s[i].mean(axis=0)).sum() for i in settings])
    own = unlike(squares, freedom)

    def per_degree(sums: np.ndarray) -> np.ndarray:
        pooled = sums[~own].sum() / max(freedom[~own].sum(), 1)
        return np.where(own, sums / np.maximum(freedom, 1), pooled)

    return SeedNoise(per_degree(squares), per_degree(of_images), np.where(own, freedom, freedom[~own].sum()), own)


def chance_is_unknown(scores: Scores, noise: SeedNoise) -> bool:
    """Whether neither images nor seeds differ. Seeds that score the same are those of a coarse score, such as presence."""
    return scores.groups < 2 and not noise.variance.max() > 1e-15


def unlike(squares: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """bool [settings]: those whose seeds differ by more than the others'.

    One after another, the largest variance is compared with that of the rest, by the F test at a level shared by the rest.

    Args:
        squares: float [settings], sum of the squared deviations from the setting's mean.
        freedom: int [settings], seeds beyond the first.
    """
    from scipy.stats import f

    found = np.zeros(len(squares), bool)
    rest = np.flatnonzero(freedom)
    while len(rest) > 2:
        largest = rest[(squares[rest] / freedom[rest]).argmax()]
        others = rest[rest != largest]
        pooled = squares[others].sum() / freedom[others].sum()
        own = squares[largest] / freedom[largest]
        ratio = own / pooled if pooled > 0 else np.inf if own > 0 else 1.0
        if f.sf(ratio, freedom[largest], freedom[others].sum()) * len(rest) >= UNLIKE:
            break
        found[largest], rest = True, others
    return found


def estimate(scores: Scores, noise: SeedNoise, one: int, other: int | None = None) -> Estimate:
    """The score of setting `one`; with `other`, how much larger it is than that of `other`."""
    from scipy.optimize import brentq
    from scipy.stats import t

    value, members = scores.means[one], [one]
    if other is not None:
        value, members = value - scores.means[other], [one, other]

    def of(scores: list[np.ndarray]) -> np.ndarray:
        return scores[one].mean(axis=0) - (0.0 if other is None else scores[other].mean(axis=0))

    shares = np.array([1 / len(scores.full[member]) for member in members])
    # seeds and images interact: what seeds differ by on these images is in both variances, and counts once
    images = max(float(scores.variance(of)) - (noise.of_images[members] * shares).sum(), 0.0)
    of_seeds, pooled = noise.variance[members] * shares, ~noise.own[members]
    parts = [(images, max(scores.groups - 1, 1))]
    parts += [(of_seeds[pooled].sum(), noise.freedom[members][pooled].max(initial=1))]
    parts += [(v, freedom) for v, freedom in zip(of_seeds[~pooled], noise.freedom[members][~pooled], strict=True)]
    parts, seeds = [(variance, freedom) for variance, freedom in parts if variance > 0], float(of_seeds.sum())

    def margin(level: float) -> float:
        with np.errstate(over="ignore"):  # of one degree of freedom: without end
            return float(np.sqrt(sum(variance * t.isf(level / 2, freedom) ** 2 for variance, freedom in parts)))

    if chance_is_unknown(scores, noise):
        return Estimate(value, np.nan, np.nan, 1.0, images, seeds)
    if not parts:
        return Estimate(value, value, value, float(value == 0), images, seeds)
    p = 1.0
    if abs(value) > margin(1 - 1e-9):
        p = brentq(lambda level: margin(level) - abs(value), 1e-300, 1 - 1e-9) if abs(value) < margin(1e-300) else 0.0
    return Estimate(value, value - margin(LEVEL), value + margin(LEVEL), p, images, seeds)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values corrected for their number. Holm, 1979, https://www.jstor.org/stable/4615733"""
    order = np.argsort(p)
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(raised, 1.0)[np.argsort(order)]


def apart_from_best(scores: Scores, noise: SeedNoise, best: int = 0) -> np.ndarray:
    """bool [settings]: those told apart from the best, at a level shared by all pairs: the scores chose which one is the best."""
    pairs = len(scores.full) * (len(scores.full) - 1) / 2
    others = [i for i in range(len(scores.full)) if i != best]
    found = np.zeros(len(scores.full), bool)
    found[others] = [estimate(scores, noise, best, i).p * pairs < LEVEL for i in others]
    return found


def classes_apart(p: np.ndarray, settings: int) -> np.ndarray:
    """bool [classes]: those in which the best differs from the baseline, by the p-value of each.

    Corrected for the classes by Holm's method, and for the settings besides the baseline, of which the scores chose the best.
    """
    return holm(p) * (settings - 1) < LEVEL


@dataclass(frozen=True)
class Ranks:
    """How the order of the settings would turn out with other images and seeds.

    Attributes:
        best: float [settings], the chance of being the best; NaN where nothing is known of chance.
        low, high: int [settings], 95 % interval of the rank, from 1.
        optimism: how much better the best looks than it is, for having been chosen among so many.
    """

    best: np.ndarray
    low: np.ndarray
    high: np.ndarray
    optimism: float


def ranks(scores: Scores, noise: SeedNoise, lower_is_better: bool = False, seed: int = 0) -> Ranks:
    if chance_is_unknown(scores, noise):
        count = len(scores.full)
        return Ranks(np.full(count, np.nan), np.full(count, 1), np.full(count, count), 0.0)
    sign = -1.0 if lower_is_better else 1.0
    means, draws, rng = sign * scores.means, sign * scores.mean_draws, np.random.default_rng(seed)
    own = np.maximum(noise.variance - noise.of_images, 0.0)  # the draws have the rest
    spread = np.sqrt([variance / len(values) for variance, values in zip(own, scores.full, strict=True)])
    of_seeds = rng.normal(size=draws.shape) * spread[:, None]
    # variances are estimates: t instead of normal draws, one factor for all that is pooled
    freedom = np.maximum(noise.freedom, 1)[:, None]
    factors = np.sqrt(freedom / rng.chisquare(freedom, size=draws.shape))
    factors[~noise.own] = factors[~noise.own][:1]
    groups = max(scores.groups - 1, 1)
    of_images = (draws - means[:, None]) * np.sqrt(groups / rng.chisquare(groups, size=draws.shape[1]))
    placed = means[:, None] + of_images + of_seeds * factors
    placed += 1e-12 * rng.normal(size=draws.shape)  # equal ones share their places
    places = (-placed).argsort(axis=0).argsort(axis=0) + 1
    low, high = np.percentile(places, [2.5, 97.5], axis=1, method="nearest")
    draws = draws + of_seeds
    first = draws.argmax(axis=0)
    chosen = draws[first, np.arange(draws.shape[1])]
    best = (places == 1).mean(axis=1)
    return Ranks(best, low.astype(int), high.astype(int), float((chosen - means[first]).mean()))


def needed(found: Estimate, seeds: int, freedom: int, groups: int, differences: int = 1, unit: str = "images") -> str:
    """How many seeds or images would show a difference of this size in four of five cases; empty where these do.

    Args:
        seeds, freedom: of each setting, and the degrees of freedom of the variance between them.
        groups: images that were drawn together, which are called `unit`.
        differences: that are tested together, and share the level.
    """
    from scipy.stats import norm, t

    def shown(times_seeds: float, times_groups: float) -> bool:
        of_images, of_seeds = found.images / times_groups, found.seeds / times_seeds
        known = freedom * (seeds * times_seeds - 1) / max(seeds - 1, 1)
        margins = of_images * t.isf(LEVEL / 2 / differences, max(groups * times_groups - 1, 1)) ** 2
        margins += of_seeds * t.isf(LEVEL / 2 / differences, max(known, 1)) ** 2 if of_seeds else 0
        return abs(found.value) >= np.sqrt(margins) + norm.isf(0.2) * np.sqrt(of_images + of_seeds)

    if shown(1, 1):
        return ""
    for number in range(seeds + 1, seeds * MOST_NEEDED + 1) if found.seeds else ():
        if shown(number / seeds, 1):
            return f"about {number} seeds of each"
    for number in np.unique(np.geomspace(groups + 1, groups * MOST_NEEDED, 2000).astype(int)):
        if shown(number / groups, number / groups):
            times = f" ({number / groups:.3g} times as many) and as many times more seeds" if found.seeds else ""
            return f"about {number:,} {unit}{times}"
    sources = [name for name, variance in ((unit, found.images), ("seeds", found.seeds)) if variance]
    return f"more than {MOST_NEEDED} times as many {' and '.join(sources)}"
