"""Sampling: the images of an epoch, their order, and the pixels that crops are centred on; by (seed, epoch) alone.

`counts` is always the ClassCounts of the training split.
"""

from dataclasses import dataclass

import numpy as np

from segtrain.arguments import Fraction, NonNegative, checked
from segtrain.protocols import adopted, check_call


@dataclass(frozen=True)
class Samples:
    """The samples of an epoch.

    Attributes:
        indices: int [n], of the images, in order; n is their number, but one may come more than once, and others not.
        centres: int [n], the pixel of the mask that a crop is centred on, row · width + column; -1: it is anywhere.
    """

    indices: np.ndarray
    centres: np.ndarray


class Sampling:
    """The protocol of a sampling. A sampling derives from it, or is called as `sampling(counts, seed, epoch)`.

    Attributes:
        foreground_share: share of the crops that are centred on a pixel of a class; above 0 the counts must hold class
            locations.
        needs_crops: whether it is an error to set such a share when images are not cropped.
    """

    foreground_share = 0.0
    needs_crops = True

    def prepare(self, dataset, device) -> None:
        """Look at the training images once, before the first epoch; `device` is the torch.device of the training."""

    def __call__(self, counts, seed: int, epoch: int) -> Samples:
        """The samples of epoch `epoch`."""
        raise NotImplementedError

    def summary(self, counts) -> str:
        """Its effect on the classes, for the log; empty: none."""
        return ""


class _Plain(Sampling):
    """A sampling of a class that does not derive from Sampling."""

    def __init__(self, part):
        self.part = part

    def __call__(self, counts, seed: int, epoch: int) -> Samples:
        return self.part(counts, seed, epoch)


def as_sampling(part) -> Sampling:
    """`part` when it derives from Sampling, else wrapped. Raises ConfigError for what cannot be called so."""
    sampling = adopted(part, "sampling", Sampling, _Plain)
    check_call(part, (None, 0, 0), f"{type(part).__name__} is called as sampling(counts, seed, epoch)", "sampling")
    return sampling


class Uniform(Sampling):
    """Every image once an epoch, shuffled; crops anywhere."""

    def __call__(self, counts, seed: int, epoch: int) -> Samples:
        order = np.random.default_rng([seed, epoch]).permutation(counts.num_images)
        return Samples(order, np.full(len(order), -1))


class RareClasses(Sampling):
    """Images with rare classes come more often: drawn with weight max over their classes of max(1, threshold / f_c)^power.

    f_c is the share of images that hold class c. power=0.5 is the repeat factor of Gupta et al., 2019,
    https://arxiv.org/abs/1908.03195. An epoch is as long as with uniform sampling; of images whose weight is below
    average some are left out each epoch, others the next.

    Args:
        power: 0 is uniform, 1 brings every class below the threshold into about as many images.
        foreground_share: foreground oversampling, the `share` of ForegroundCrops.
        threshold: share of the images; a class that more of them hold comes no more often.
        needs_crops: whether images that are not cropped are an error with a foreground_share; False: they are not centred.
    """

    @checked
    def __init__(
        self,
        power: NonNegative = 0.5,
        foreground_share: Fraction = 0.0,
        threshold: Fraction = 1.0,
        needs_crops: bool = True,
    ):
        self.power, self.foreground_share, self.threshold = power, foreground_share, threshold
        self.needs_crops = needs_crops

    def weights(self, counts) -> np.ndarray:
        """float64 [images], with sum 1."""
        share = counts.images / max(counts.num_images, 1)
        rarity = np.where(share > 0, np.maximum(self.threshold / np.maximum(share, 1e-12), 1.0) ** self.power, 0.0)
        weights = np.where(counts.per_image > 0, rarity, 0.0).max(axis=1, initial=0.0)
        weights[weights == 0] = 1.0  # all pixels ignored
        return weights / weights.sum()

    def __call__(self, counts, seed: int, epoch: int) -> Samples:
        rng, n, weights = np.random.default_rng([seed, epoch]), counts.num_images, self.weights(counts)
        order = rng.permutation(n)
        if np.ptp(weights) > 0:
            # Systematic: an image of weight w comes n w times, rounded up or down, never by bad luck not at all.
            ticks = (np.arange(n) + rng.random()) / n
            drawn = np.searchsorted(np.cumsum(weights[order]), ticks)
            order = rng.permutation(order[np.minimum(drawn, n - 1)])
        return Samples(order, foreground_centres(counts, order, self._share(counts), rng))

    def _share(self, counts) -> float:
        return self.foreground_share if self.needs_crops or counts.locations is not None else 0.0

    def summary(self, counts) -> str:
        drawn = self.weights(counts) @ (counts.per_image > 0)
        before = counts.images / max(counts.num_images, 1)
        rows = zip(counts.class_names, before, drawn, strict=True)
        changed = [f"{n} in {100 * b:.0f} → {100 * d:.0f} %" for n, b, d in rows if _differ(b, d)]
        effects = [f"sampling: {', '.join(changed)} of the images"] if changed else []
        if self._share(counts):
            effects.append(_in_words(self.foreground_share, float(self.weights(counts) @ _has_foreground(counts))))
        if not effects and self.needs_crops:
            effects = ["sampling: each class as often as before"]
        return "; ".join(effects)


def _differ(before: float, after: float) -> bool:
    """Whether two shares are two numbers of percent; what lies between two of them may be rounded either way."""
    return round(100 * before) != round(100 * after) and abs(after - before) > 1e-9


class ForegroundCrops(Sampling):
    """Foreground oversampling: every image once an epoch, a share of the crops centred on a foreground pixel.

    The class is drawn among the foreground classes of the image, then one of its class locations, as nnU-Net does:
    Isensee et al., 2021, https://doi.org/10.1038/s41592-020-01008-z. Images without foreground are cropped anywhere.

    Args:
        share: of the crops of images with foreground, that are centred on a foreground pixel.
    """

    @checked
    def __init__(self, share: Fraction = 0.33):
        self.foreground_share = share

    def __call__(self, counts, seed: int, epoch: int) -> Samples:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(counts.num_images)
        return Samples(order, foreground_centres(counts, order, self.foreground_share, rng))

    def summary(self, counts) -> str:
        return _in_words(self.foreground_share, float(_has_foreground(counts).mean()))


def foreground_centres(counts, order: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """int [n]: for a share of the images a pixel of a class drawn among their foreground classes; -1 for the others."""
    present = counts.per_image[order] > 0
    if counts.background is not None:
        present[:, counts.background] = False
    classes = np.where(present, rng.random(present.shape), -1.0).argmax(axis=1)
    chosen = (rng.random(len(order)) < share) & present.any(axis=1)
    found = np.full(len(order), -1)
    if chosen.any():
        found[chosen] = counts.draw_locations(order[chosen], classes[chosen], rng)
    return found


def _has_foreground(counts) -> np.ndarray:
    """bool [images]."""
    return np.delete(counts.per_image, [] if counts.background is None else counts.background, axis=1).any(axis=1)


def _in_words(share: float, with_foreground: float) -> str:
    """Foreground oversampling for the log; `with_foreground` is the share of the crops whose image has some."""
    of_all = 100 * share * with_foreground
    return f"foreground oversampling for {100 * share:.0f} % of the crops of images with foreground ({of_all:.0f} % of all crops)"
