"""The masks of one class in one image, cut out: what scores of borders and of objects look at."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Region:
    """uint8 [h, w] of 0 and 1 each. Outside the cut no pixel is said or truth.

    Attributes:
        label: index of the class.
        said, truth: its valid pixels.
        ignored: pixels that do not count.
        shape: height and width of the whole image.
    """

    label: int
    said: np.ndarray
    truth: np.ndarray
    ignored: np.ndarray
    shape: tuple[int, int]


def regions(
    prediction: np.ndarray, target: np.ndarray, ignore_index: int, labels: np.ndarray, margin: int
) -> Iterator[Region]:
    """The regions of `labels`, which truth or prediction have, each with `margin` more pixels on every side.

    Args:
        prediction, target: class indices uint8 [H, W]; or of several labels a pixel 0 and 1, [C, H, W].
    """
    import cv2

    ignored = target == ignore_index
    for label in labels.tolist():
        if target.ndim == 2:
            said, truth, out = prediction == label, target == label, ignored
        else:
            said, truth, out = prediction[label] == 1, target[label] == 1, ignored[label]
        said, truth = said & ~out, truth & ~out
        left, top, width, height = cv2.boundingRect((said | truth).view(np.uint8))
        cut = slice(max(0, top - margin), top + height + margin), slice(max(0, left - margin), left + width + margin)
        masks = (np.ascontiguousarray(mask[cut]).view(np.uint8) for mask in (said, truth, out))
        yield Region(label, *masks, target.shape[-2:])
