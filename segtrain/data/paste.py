"""Pasting: the pixels of a rare class of one training image are laid over another, so that it is seen more often.

ClassMix of Olsson et al., 2021, https://arxiv.org/abs/2007.07936, with masks instead of predictions, and the copy-paste
of Ghiasi et al., 2021, https://arxiv.org/abs/2012.07177, where images and not objects are cut out.
"""

from typing import NamedTuple

import numpy as np


class Donor(NamedTuple):
    """The image that pixels are taken from."""

    index: int  # into the training images
    label: int  # the class whose pixels are taken
    centre: int  # pixel of the mask that the crop is centred on, row · width + column; -1: it is anywhere
    seed: tuple[int, ...]  # of its own augmentation


class Paste:
    """Draws the donor of a sample; a function of the sample's seed alone.

    A class c is drawn with a probability in proportion to 1/√n_c, n_c its pixels, among the foreground classes; then one
    of the images that hold it, each as often.

    Args:
        probability: of a sample to be pasted into.
        counts: ClassCounts of the training split; with class locations when the images are cropped.
    """

    def __init__(self, probability: float, counts):
        self.probability, self.counts = probability, counts
        there = counts.pixels > 0
        if counts.background is not None:
            there[counts.background] = False
        weights = np.where(there, 1 / np.sqrt(np.maximum(counts.pixels, 1)), 0.0)
        self.share = weights / weights.sum() if there.any() else None

    def donor(self, seed: tuple[int, ...]) -> Donor | None:
        """None: nothing is pasted into this sample."""
        # Another stream than the augmentation's.
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
        if self.share is None or rng.random() >= self.probability:
            return None
        label = int(rng.choice(len(self.share), p=self.share))
        index = int(rng.choice(np.flatnonzero(self.counts.per_image[:, label])))
        centre = -1
        if self.counts.locations is not None:
            centre = int(self.counts.draw_locations(np.array([index]), np.array([label]), rng)[0])
        return Donor(index, label, centre, tuple(rng.integers(2**32, size=2).tolist()))


def pasted(
    image: np.ndarray, mask: np.ndarray, donor_image: np.ndarray, donor_mask: np.ndarray, label: int
) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask with the donor's pixels of class `label` over them; multi-label with all their labels.

    Args:
        image, donor_image: uint8 [H, W, channels].
        mask, donor_mask: uint8 [H, W]; multi-label [H, W, C] of 0 and 1.
    """
    taken = donor_mask == label if donor_mask.ndim == 2 else donor_mask[..., label] == 1
    mask = np.where(taken if mask.ndim == 2 else taken[..., None], donor_mask, mask)
    return np.where(taken[..., None], donor_image, image), mask
