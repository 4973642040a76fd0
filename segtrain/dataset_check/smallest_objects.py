"""The smallest object of each class over many masks, by OpenCV's connected components."""

import threading

import numpy as np

_NEVER = 1 << 62
_LOCK = threading.Lock()


class SmallestObjects:
    """The size in pixels of the smallest 8-connected component of each class over many masks; not of the background."""

    def __init__(self, num_classes: int, background: int | None):
        self._least = np.full(num_classes, _NEVER)
        self._least[[] if background is None else background] = 0

    def add(self, mask: np.ndarray, pixels: np.ndarray) -> None:
        """A mask [H, W] of indices, or multi-label [H, W, C], with `pixels` of each class. From any thread."""
        for label in np.flatnonzero((pixels > 0) & (self._least > 1)).tolist():  # it cannot be less than 1
            least = least_area(mask == label if mask.ndim == 2 else mask[..., label] == 1)
            with _LOCK:
                self._least[label] = min(self._least[label], least)

    def found(self) -> np.ndarray:
        """int64 [C]; 0 where there is none."""
        return np.where(self._least == _NEVER, 0, self._least)


def least_area(there: np.ndarray) -> int:
    """Pixels of the smallest 8-connected component of bool [H, W], in which something is true."""
    import cv2

    binary = there.view(np.uint8)
    left, top, width, height = cv2.boundingRect(binary)  # a class often takes a small part of the image
    part = np.ascontiguousarray(binary[top : top + height, left : left + width])
    return int(cv2.connectedComponentsWithStats(part, connectivity=8)[2][1:, cv2.CC_STAT_AREA].min())
