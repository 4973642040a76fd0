"""Class weights from class counts: `InverseFrequency()(counts)` is a float64 array [C].

n_c: pixels of class c, m_c: pixels of the images that contain it, N: the sum of n_c, C: classes that have pixels.
A class without pixels has weight 0 and is left out of C and of the median.
"""

from typing import Annotated, Literal

import numpy as np

from segtrain.arguments import FractionBelowOne, NonNegative, Positive, Range, Weights, checked, mistake
from segtrain.class_counts import ClassCounts


class NoWeighting:
    """1 for every class."""

    def __call__(self, counts: ClassCounts) -> np.ndarray:
        return np.ones(len(counts.pixels))


class Scheme:
    """Base class of the weightings that follow from counts; a scheme has `weights`.

    Args:
        normalize: mean scales the weights of the classes that have pixels to mean 1, max to maximum 1.
        max_ratio: caps the largest weight at this multiple of the smallest.
    """

    @checked
    def __init__(
        self,
        normalize: Literal["none", "mean", "max"] = "none",
        max_ratio: Annotated[float, Range("a number >= 1", lambda v: v >= 1)] | None = None,
    ):
        self.normalize, self.max_ratio = normalize, max_ratio

    def __call__(self, counts: ClassCounts) -> np.ndarray:
        """float64 [C]: the weights, capped, then scaled; 0 for classes without pixels."""
        there = counts.pixels > 0
        weights = np.where(there, self.weights(counts), 0.0)
        positive = weights[weights > 0]
        if len(positive) == 0:
            return weights
        if self.max_ratio is not None:
            weights = np.minimum(weights, positive.min() * self.max_ratio)
        if self.normalize == "mean":
            weights = weights / weights[there].mean()
        elif self.normalize == "max":
            weights = weights / weights.max()
        return weights


class InverseFrequency(Scheme):
    """N / (C n_c): every class has the same total weight. Equals scikit-learn's "balanced"."""

    def weights(self, counts: ClassCounts) -> np.ndarray:
        return _balanced(counts)


class InverseSqrt(Scheme):
    """sqrt(N / (C n_c)): halfway, in orders of magnitude, between no weights and inverse frequency."""

    def weights(self, counts: ClassCounts) -> np.ndarray:
        return np.sqrt(_balanced(counts))


class LogRatio(Scheme):
    """max(floor, ln(mu N / n_c)): grows by a constant for each order of magnitude, so rare classes never explode."""

    @checked
    def __init__(self, mu: Positive = 1.0, floor: NonNegative = 1.0, **same):
        super().__init__(**same)
        self.mu, self.floor = mu, floor

    def weights(self, counts: ClassCounts) -> np.ndarray:
        return np.maximum(self.floor, np.log(self.mu * _total(counts) / np.maximum(counts.pixels, 1)))


class MedianFrequency(Scheme):
    """median(f) / f_c with f_c = n_c / m_c, the frequency within the images that contain the class.

    Eigen and Fergus, 2015, https://arxiv.org/abs/1411.4734
    """

    def weights(self, counts: ClassCounts) -> np.ndarray:
        there = counts.pixels > 0
        frequency = counts.pixels[there] / counts.pixels_of_images[there]
        weights = np.zeros(len(counts.pixels))
        weights[there] = np.median(frequency) / frequency if there.any() else 0
        return weights


class Enet(Scheme):
    """1 / ln(k + n_c / N). Paszke et al., 2016, https://arxiv.org/abs/1606.02147"""

    @checked
    def __init__(self, k: Annotated[float, Range("a number > 1", lambda v: v > 1)] = 1.02, **same):
        super().__init__(**same)
        self.k = k

    def weights(self, counts: ClassCounts) -> np.ndarray:
        return 1 / np.log(self.k + counts.pixels / max(_total(counts), 1))


class EffectiveNumber(Scheme):
    """(1 - beta) / (1 - beta^n_c), scaled to the sum C. Cui et al., 2019, https://arxiv.org/abs/1901.05555"""

    @checked
    def __init__(self, beta: FractionBelowOne = 0.9999999, **same):
        super().__init__(**same)
        self.beta = beta

    def weights(self, counts: ClassCounts) -> np.ndarray:
        there = counts.pixels > 0
        weights = np.zeros(len(counts.pixels))
        # expm1 and log1p: 1 - beta^n in float64 loses every digit for a beta this close to 1
        log_beta = np.log1p(self.beta - 1) if self.beta > 0 else -np.inf
        weights[there] = (1 - self.beta) / -np.expm1(counts.pixels[there] * log_beta)
        return weights * there.sum() / max(weights.sum(), 1e-300)


class NegPosRatio(Scheme):
    """(N_c - n_c) / n_c, N_c the valid pixels of the channel: the `pos_weight` of a multi-label class."""

    def weights(self, counts: ClassCounts) -> np.ndarray:
        return (counts.valid_pixels - counts.pixels) / np.maximum(counts.pixels, 1)


class Manual(Scheme):
    """The weights as given, 0 for classes without pixels: a list in the order of the classes, or a mapping by class name."""

    @checked
    def __init__(self, weights: Weights | dict, **same):
        super().__init__(**same)
        if isinstance(weights, dict) and (wrong := mistake([*weights.values()], Weights)):
            raise ValueError(f"Manual: the weights {wrong}")
        self.given = weights

    def weights(self, counts: ClassCounts) -> np.ndarray:
        weights = self.given
        if isinstance(weights, dict):
            if set(weights) != set(counts.class_names):
                raise ValueError(f"Manual: weights for {sorted(weights)}, but the classes are {counts.class_names}")
            weights = [weights[name] for name in counts.class_names]
        if len(weights) != len(counts.pixels):
            names = ", ".join(counts.class_names)
            raise ValueError(
                f"Manual: {len(weights)} weights for {len(counts.pixels)} classes; give one per class: {names}"
            )
        return np.asarray(weights, dtype=np.float64)


SCHEMES = {
    "none": NoWeighting,
    "inverse_frequency": InverseFrequency,
    "inverse_sqrt": InverseSqrt,
    "log_ratio": LogRatio,
    "median_frequency": MedianFrequency,
    "enet": Enet,
    "effective_number": EffectiveNumber,
    "neg_pos_ratio": NegPosRatio,
}
FROM_SMALL_TO_LARGE = ("none", "inverse_sqrt", "log_ratio", "median_frequency", "inverse_frequency")


def same_as(counts: ClassCounts) -> dict[str, str]:
    """For each scheme, the first FROM_SMALL_TO_LARGE with the same weights on these counts, within 5 % and up to a factor.

    A weighted mean takes no notice of a factor.
    """
    there = counts.pixels > 0
    weights = {name: np.asarray(SCHEMES[name]()(counts))[there] for name in FROM_SMALL_TO_LARGE}

    def alike(one: np.ndarray, other: np.ndarray) -> bool:
        ratio = one / other
        return ratio.max() < 1.05 * ratio.min()

    return {name: next(first for first, w in weights.items() if alike(own, w)) for name, own in weights.items()}


def _total(counts: ClassCounts) -> int:
    return int(counts.pixels.sum())


def _balanced(counts: ClassCounts) -> np.ndarray:
    return _total(counts) / (max((counts.pixels > 0).sum(), 1) * np.maximum(counts.pixels, 1))
