"""Regions: the labels of an image, of all classes at once, as scores of borders and objects count them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from segtrain.cpu import on_all_cores
from segtrain.metrics.confusion import exact_histogram
from segtrain.metrics.groups.group import Group, ScoredBatch

IGNORED = 255


@dataclass(frozen=True)
class Region:
    """Labels uint8 [h, w] of an image, or of the part of it where a class is.

    Attributes:
        predicted, truth: index into `classes`; multi-label: 0 where the class is, 1 where not; IGNORED in both.
        classes: int [K].
        shape: height and width of the whole image.
    """

    predicted: np.ndarray
    truth: np.ndarray
    classes: np.ndarray
    shape: tuple[int, int]


def regions(
    prediction: np.ndarray, target: np.ndarray, ignore_index: int, seen: np.ndarray, margin: int
) -> Iterator[Region]:
    """One for all classes of an image; multi-label: one for each class in ground truth or prediction.

    Args:
        prediction, target: class indices uint8 [H, W]; multi-label: 0 and 1, [C, H, W].
        seen: bool [C], the classes in ground truth or prediction.
        margin: pixels around a class that its counts depend on.
    """
    import cv2

    classes = np.flatnonzero(seen)
    if not len(classes):
        return
    if target.ndim == 2:
        index = np.full(256, IGNORED, np.uint8)
        index[classes] = np.arange(len(classes))
        predicted, ignored = cv2.LUT(prediction, index), target == ignore_index
        index[ignore_index] = IGNORED
        predicted[ignored] = IGNORED
        yield Region(predicted, cv2.LUT(target, index), classes, target.shape)
        return
    index = np.full(256, 1, np.uint8)
    index[1] = 0
    index[ignore_index] = IGNORED
    for label in classes:
        predicted, truth = 1 - prediction[label], cv2.LUT(target[label], index)
        predicted[truth == IGNORED] = IGNORED
        left, top, width, height = cv2.boundingRect(((predicted == 0) | (truth == 0)).view(np.uint8))
        cut = slice(max(0, top - margin), top + height + margin), slice(max(0, left - margin), left + width + margin)
        parts = (np.ascontiguousarray(part[cut]) for part in (predicted, truth))
        yield Region(*parts, np.array([label]), target.shape[1:])


def pixels_by_class(labels: np.ndarray, flags: dict[str, np.ndarray], classes: int) -> dict[str, np.ndarray]:
    """int64 [classes] for each of at most 8 flags, bool [h, w]: the pixels of a label that have it."""
    code = np.zeros(labels.shape, np.uint8)
    for bit, flag in enumerate(flags.values()):
        code |= flag.view(np.uint8) << bit
    codes = np.arange(1 << len(flags))
    table = exact_histogram([labels.ravel(), code.ravel()], [classes, len(codes)]).astype(np.int64)
    return {flag: table[:, codes >> bit & 1 == 1].sum(axis=1) for bit, flag in enumerate(flags)}


def count_regions(groups: list[Group], batch: ScoredBatch) -> dict[str, torch.Tensor]:
    """The arrays, int64 [N, …], of the groups that count by region; on the CPU."""
    groups = [group for group in groups if group.by_region]
    if not groups:
        return {}
    predicted, truth = (labels.to(torch.uint8).cpu().numpy() for labels in (batch.prediction, batch.target))
    seen = sum(batch.counts[name] for name in ("tp", "fp", "fn")).cpu().numpy() > 0
    margin = max(group.margin(truth.shape[-2:]) for group in groups)
    shapes = {name: array.shape for group in groups for name, array in group.arrays().items()}
    counts = {name: np.zeros((len(truth), *shape), np.int64) for name, shape in shapes.items()}

    def count(images: range) -> None:
        for i in images:
            for region in regions(predicted[i], truth[i], batch.classes.ignore_index, seen[i], margin):
                for group in groups:
                    for name, values in group.count_region(region).items():
                        counts[name][i, region.classes] = values

    on_all_cores(count, len(truth))
    return {name: torch.from_numpy(values) for name, values in counts.items()}
