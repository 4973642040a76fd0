"""Which training images an epoch sees, in what order, and what their crops are centred on: a function of (seed, epoch)."""

from dataclasses import dataclass

import numpy as np

from segtrain.arguments import Fraction, NonNegative, checked
from segtrain.class_counts import ClassCounts
from segtrain.class_counts.locations import draw_places


@dataclass(frozen=True)
class Epoch:
    """What an epoch sees.

    Attributes:
        indices: int [n], of the images, in order; an image may come more than once.
        centres: int [n], the pixel of the mask that a crop is centred on, row · width + column; -1: it is anywhere.
    """

    indices: np.ndarray
    centres: np.ndarray

    @property
    def repeats(self) -> np.ndarray:
        """int [n]: how often the image came before in this epoch, so that each time is augmented in its own way."""
        order = np.argsort(self.indices, kind="stable")
        ordered = self.indices[order]
        first = np.searchsorted(ordered, ordered)
        found = np.empty(len(order), dtype=int)
        found[order] = np.arange(len(order)) - first
        return found


class Uniform:
    """Every image once an epoch, shuffled; crops anywhere.

    Attributes:
        centred: share of the crops that are centred on a pixel of a class; above 0 the counts must have places.
    """

    centred = 0.0

    def __call__(self, counts: ClassCounts, seed: int, epoch: int) -> Epoch:
        """What epoch `epoch` sees of the images of `counts`."""
        order = np.random.default_rng([seed, epoch]).permutation(counts.num_images)
        return Epoch(order, np.full(len(order), -1))

    def summary(self, counts: ClassCounts) -> str:
        """What this does to the classes, for the log; empty when nothing."""
        return ""


class RareClasses(Uniform):
    """Images with rare classes come more often: drawn with weight max over their classes of (1 / f_c)^power.

    f_c is the share of images that hold class c. power=0.5 is the repeat factor of Gupta et al., 2019,
    https://arxiv.org/abs/1908.03195, without its threshold. An epoch is as long as with uniform sampling; of images
    whose weight is below average some are left out each epoch, others the next.

    Args:
        power: 0 is uniform, 1 brings every class into about as many images.
        centred: share of the crops of images with foreground that are centred on it, as ForegroundCrops does.
    """

    @checked
    def __init__(self, power: NonNegative = 0.5, centred: Fraction = 0.0):
        self.power, self.centred = power, centred

    def weights(self, counts: ClassCounts) -> np.ndarray:
        """float64 [images], with sum 1."""
        share = counts.images / max(counts.num_images, 1)
        rarity = np.where(share > 0, np.maximum(share, 1e-12) ** -self.power, 0.0)
        weights = np.where(counts.per_image > 0, rarity, 0.0).max(axis=1, initial=0.0)
        weights[weights == 0] = 1.0  # all pixels ignored
        return weights / weights.sum()

    def __call__(self, counts: ClassCounts, seed: int, epoch: int) -> Epoch:
        rng = np.random.default_rng([seed, epoch])
        # Systematic: an image of weight w comes n w times, rounded up or down, never by bad luck not at all.
        ticks = (np.arange(counts.num_images) + rng.random()) / counts.num_images
        shuffled = rng.permutation(counts.num_images)
        places = np.searchsorted(np.cumsum(self.weights(counts)[shuffled]), ticks)
        order = rng.permutation(shuffled[np.minimum(places, counts.num_images - 1)])
        return Epoch(order, centres(counts, order, self.centred, rng))

    def summary(self, counts: ClassCounts) -> str:
        drawn = self.weights(counts) @ (counts.per_image > 0)
        before = counts.images / max(counts.num_images, 1)
        rows = zip(counts.class_names, before, drawn, strict=True)
        changed = [f"{n} in {100 * b:.0f} → {100 * d:.0f} %" for n, b, d in rows if round(100 * b) != round(100 * d)]
        with_foreground = float(self.weights(counts) @ has_foreground(counts))
        return (
            f"sampling shows {', '.join(changed) or 'each class as often as before'} of the images"
            + (f"; {centred_share(self.centred, with_foreground)}" if self.centred else "")
            + "; class weights are of the images as they are"
        )


class ForegroundCrops(Uniform):
    """Every image once an epoch; of those with foreground, a share of the crops is centred on a pixel of it.

    The class is drawn among the foreground classes of the image, then one of its pixels, as nnU-Net does: Isensee et
    al., 2021, https://doi.org/10.1038/s41592-020-01008-z. The pixels are those that the count kept, 256 of an image,
    shared by its classes. Images without foreground are cropped anywhere.

    Args:
        share: of the crops of images with foreground, that are centred.
    """

    @checked
    def __init__(self, share: Fraction = 0.33):
        self.share = self.centred = share

    def __call__(self, counts: ClassCounts, seed: int, epoch: int) -> Epoch:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(counts.num_images)
        return Epoch(order, centres(counts, order, self.share, rng))

    def summary(self, counts: ClassCounts) -> str:
        share = centred_share(self.share, float(has_foreground(counts).mean()))
        return f"{share}; class weights are of whole images"


def has_foreground(counts: ClassCounts) -> np.ndarray:
    """bool [images]."""
    return np.delete(counts.per_image, [] if counts.background is None else counts.background, axis=1).any(axis=1)


def centred_share(share: float, with_foreground: float) -> str:
    """In words; `with_foreground` is the share of the crops whose image has some."""
    return (
        f"{100 * share:.0f} % of the crops of images with foreground are centred on it: "
        f"{100 * share * with_foreground:.0f} % of all"
    )


def centred(sampling) -> float:
    """The share of the crops that a sampling centres on a pixel of a class; a user's own need not say."""
    return getattr(sampling, "centred", 0.0)


def centres(counts: ClassCounts, order: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """int [n]: for a share of the images a pixel of a class drawn among their foreground classes; -1 for the others."""
    present = counts.per_image[order] > 0
    if counts.background is not None:
        present[:, counts.background] = False
    classes = np.where(present, rng.random(present.shape), -1.0).argmax(axis=1)
    chosen = (rng.random(len(order)) < share) & present.any(axis=1)
    found = np.full(len(order), -1)
    if chosen.any():
        if counts.places is None:
            raise ValueError("crops centred on foreground need count_classes(dataset, places=True)")
        found[chosen] = draw_places(counts.places[order[chosen]], classes[chosen], rng)
    return found
