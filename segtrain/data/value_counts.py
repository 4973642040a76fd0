"""Histograms of mask values."""

import numpy as np

_MANY = 1 << 24  # pixels that OpenCV counts: it does so in float32
_FEW = 6  # up to so many classes, a pass each takes less time than a histogram


def value_counts(mask: np.ndarray, classes: int = 256) -> np.ndarray:
    """int64 [256]: pixels of each value of a uint8 mask, of any shape.

    Args:
        classes: most masks hold no values but those below, and 255. Counts are right for others, too.
    """
    flat = mask.ravel()
    if flat.size >= _MANY:
        parts = (flat[i : i + _MANY - 1] for i in range(0, flat.size, _MANY - 1))
        return sum(value_counts(part, classes) for part in parts)
    import cv2

    counts, left, others = np.zeros(256, dtype=np.int64), flat.size, np.empty_like(flat)
    for value in (*range(classes), 255) if classes <= _FEW else ():
        if left == 0:
            return counts
        counts[value] = flat.size - cv2.countNonZero(np.bitwise_xor(flat, np.uint8(value), others))
        left -= int(counts[value])
    if left == 0:
        return counts
    return cv2.calcHist([flat[None]], [0], None, [256], [0, 256]).ravel().astype(np.int64)
