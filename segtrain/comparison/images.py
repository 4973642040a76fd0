"""The score of each image under each setting, to see where two settings differ."""

import numpy as np

from segtrain.comparison.resampled import foreground_of
from segtrain.comparison.settings import counts_of
from segtrain.comparison.verdict import Comparison


def image_scores(found: Comparison, first: bool = False) -> tuple[np.ndarray, np.ndarray] | None:
    """Names, and float64 [settings, images]: mean IoU of the foreground classes in the image, mean over the seeds, or of
    the first seed alone.

    An image without foreground scores 1 when nothing is predicted in it, else 0. None when nothing was counted.
    """
    if not found.images:
        return None
    values = [
        [_of(counts_of(repeat)[2], foreground_of(setting)) for repeat in setting.repeats[: 1 if first else None]]
        for setting in found.settings
    ]
    return counts_of(found.settings[0].repeats[0])[0], np.array([np.mean(repeats, axis=0) for repeats in values])


def most_different(values: np.ndarray, one: int, other: int, count: int) -> list[int]:
    """Images in which setting `other` is better than `one` by most, then those in which it is worse by most."""
    gain = values[other] - values[one]
    order = np.argsort(-gain, kind="stable").tolist()
    better = [i for i in order[: (count + 1) // 2] if gain[i] > 0]
    worse = [i for i in order[::-1][: count // 2] if gain[i] < 0]
    return better + worse


def _of(counts: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """float64 [images] from int64 [images, 4, C]."""
    tp, fp, fn = np.moveaxis(counts[:, :3][:, :, foreground], 1, 0)
    present = tp + fn > 0
    iou = tp / np.maximum(tp + fp + fn, 1)
    clean = (fp.sum(axis=1) == 0).astype(float)
    return np.where(present.any(axis=1), (iou * present).sum(axis=1) / np.maximum(present.sum(axis=1), 1), clean)
