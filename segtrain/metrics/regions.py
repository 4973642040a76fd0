"""The labels of an image as scores of borders and of objects look at them: all classes at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from segtrain.cpu import on_all_cores
from segtrain.metrics.confusion import exact_histogram

IGNORED = 255


@dataclass(frozen=True)
class Region:
    """Labels uint8 [h, w] of an image, or of the part of it where a class is.

    Attributes:
        said, truth: place in `classes`; of several labels a pixel 1 where the class is not; IGNORED in both.
        classes: what places 0 to K - 1 stand for.
        shape: height and width of the whole image.
    """

    said: np.ndarray
    truth: np.ndarray
    classes: np.ndarray
    shape: tuple[int, int]


def regions(
    prediction: np.ndarray, target: np.ndarray, ignore_index: int, there: np.ndarray, margin: int
) -> Iterator[Region]:
    """One for all classes of an image; of several labels a pixel one for each class that truth or prediction have.

    Args:
        prediction, target: class indices uint8 [H, W]; or of several labels a pixel 0 and 1, [C, H, W].
        there: bool [C], the classes that truth or prediction have.
        margin: pixels around a class that its counts depend on.
    """
    import cv2

    classes = np.flatnonzero(there)
    if not len(classes):
        return
    if target.ndim == 2:
        place = np.full(256, IGNORED, np.uint8)
        place[classes] = np.arange(len(classes))
        said, ignored = cv2.LUT(prediction, place), target == ignore_index
        place[ignore_index] = IGNORED
        said[ignored] = IGNORED
        yield Region(said, cv2.LUT(target, place), classes, target.shape)
        return
    place = np.full(256, 1, np.uint8)
    place[1] = 0
    place[ignore_index] = IGNORED
    for label in classes:
        said, truth = 1 - prediction[label], cv2.LUT(target[label], place)
        said[truth == IGNORED] = IGNORED
        left, top, width, height = cv2.boundingRect(((said == 0) | (truth == 0)).view(np.uint8))
        cut = slice(max(0, top - margin), top + height + margin), slice(max(0, left - margin), left + width + margin)
        yield Region(*(np.ascontiguousarray(part[cut]) for part in (said, truth)), np.array([label]), target.shape[1:])


def pixels_by_class(labels: np.ndarray, flags: dict[str, np.ndarray], classes: int) -> dict[str, np.ndarray]:
    """int64 [classes] for each of at most 8 flags, bool [h, w]: the pixels of a label that have it."""
    code = np.zeros(labels.shape, np.uint8)
    for place, flag in enumerate(flags.values()):
        code |= flag.view(np.uint8) << place
    codes = np.arange(1 << len(flags))
    table = exact_histogram([labels.ravel(), code.ravel()], [classes, len(codes)]).astype(np.int64)
    return {flag: table[:, codes >> place & 1 == 1].sum(axis=1) for place, flag in enumerate(flags)}


def count_regions(
    looks: list,
    prediction: torch.Tensor,
    target: torch.Tensor,
    ignore_index: int,
    there: np.ndarray,
) -> dict[str, torch.Tensor]:
    """int64 [N, *shape] for each of the shapes of `looks`, counted in the regions of every image; on the CPU.

    Args:
        looks: with shapes(num_classes), margin(size) and count(region), such as Boundary and Objects.
        there: bool [N, C], the classes that truth or prediction of an image have.
    """
    said, truth = (labels.to(torch.uint8).cpu().numpy() for labels in (prediction, target))
    shapes = {name: shape for look in looks for name, shape in look.shapes(there.shape[1]).items()}
    margin = max(look.margin(truth.shape[-2:]) for look in looks)

    counts = {name: np.zeros((len(said), *shape), np.int64) for name, shape in shapes.items()}

    def count(images: range) -> None:
        for i in images:
            for region in regions(said[i], truth[i], ignore_index, there[i], margin):
                for look in looks:
                    for name, values in look.count(region).items():
                        counts[name][i, region.classes] = values

    on_all_cores(count, len(said))
    return {name: torch.from_numpy(values) for name, values in counts.items()}
