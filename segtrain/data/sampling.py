"""Which training images an epoch sees, and in what order: a function of (seed, epoch)."""

import numpy as np


class Uniform:
    """Every image once an epoch, shuffled."""

    def __call__(self, length: int, seed: int, epoch: int) -> np.ndarray:
        """Indices of epoch `epoch` into a dataset of `length` images."""
        return np.random.default_rng([seed, epoch]).permutation(length)
