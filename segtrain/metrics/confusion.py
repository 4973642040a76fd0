"""Predictions from logits, and confusion matrices from predictions."""

import numpy as np
import torch

from segtrain.cpu import on_all_cores
from segtrain.losses.any_order import in_any_order
from segtrain.losses.sums import form
from segtrain.losses.targets import check_labels

_TILE = 1 << 16  # pixels that are decided on at a time: they fit into the cache of a core
_LABELS = 257  # those of a byte, and one for all that is none
_COPIES = 8  # of a histogram on CUDA
_EXACT = 1 << 24  # pixels up to which float32, which OpenCV counts in, holds every whole number


def predict(logits: torch.Tensor, multilabel: bool, threshold: float | list[float] | None = None) -> torch.Tensor:
    """The prediction for logits [N,C,H,W]: class indices uint8 [N,H,W], or multi-label bool [N,C,H,W].

    Args:
        threshold: probability, or one per class, above which a class is predicted; None: 0.5. Of two classes, that of
            the second. Raises ValueError for more classes, where the most probable one is predicted.
    """
    if threshold is None:
        return logits > 0 if multilabel else _most_probable(logits)
    classes = logits.shape[1]
    cuts = torch.tensor(threshold, dtype=torch.float64, device=logits.device).logit().float()
    if multilabel:
        if cuts.ndim and len(cuts) != classes:
            raise ValueError(f"{len(cuts)} thresholds for {classes} classes: give one for all, or one per class")
        return logits > cuts.view(-1, 1, 1)
    if classes != 2 or cuts.ndim:
        raise ValueError(
            f"threshold={threshold} for {classes} classes, one per pixel, where the most probable class is predicted: leave it "
            "null; only multi-label masks take a threshold, and two classes a single number"
        )
    return (logits[:, 1] - logits[:, 0] > cuts).to(torch.uint8)


def _most_probable(logits: torch.Tensor) -> torch.Tensor:
    """uint8 [N,H,W]: the class of the largest logit, the first of equal ones."""
    planes = logits.device.type == "cpu" and logits.stride(3) == 1 and logits.dtype == torch.float32
    if planes and logits.shape[1] > 12:
        return _most_probable_of_planes(logits.detach().numpy())
    return logits.max(dim=1).indices.to(torch.uint8)


def _most_probable_of_planes(logits: np.ndarray) -> torch.Tensor:
    """The same, for a plane per class in memory, over which a maximum would jump: plane by plane, a few rows at a time."""
    n, classes, height, width = logits.shape
    found = np.zeros((n, height, width), np.uint8)
    rows = max(1, _TILE // max(width, 1))
    tiles = [(i, first) for i in range(n) for first in range(0, height, rows)]

    def decide(chosen: range) -> None:
        for i, first in (tiles[k] for k in chosen):
            planes, predicted = logits[i, :, first : first + rows], found[i, first : first + rows]
            best, higher, label = planes[0].copy(), np.empty(predicted.shape, bool), np.empty_like(predicted)
            for c in range(1, classes):
                np.greater(planes[c], best, out=higher)
                np.multiply(higher.view(np.uint8), np.uint8(c), out=label)
                np.maximum(predicted, label, out=predicted)  # a later class is a larger number
                np.maximum(best, planes[c], out=best)

    on_all_cores(decide, len(tiles))
    return torch.from_numpy(found)


def confusion_per_image(
    prediction: torch.Tensor, target: torch.Tensor, num_classes: int, ignore_index: int
) -> torch.Tensor:
    """int64 [N, C, C]: valid pixels of each image by ground truth (row) and prediction (column).

    Args:
        prediction: integers [N,...].
        target: integers of the same shape, or ignore_index.

    Raises ValueError, on the CPU, for values that are no class; on CUDA, where the check would wait for the device, they
    are not counted.
    """
    count = _count_by_opencv if form(prediction) == "tiles" else _count_by_torch
    return count(prediction.flatten(1), target.flatten(1), num_classes, ignore_index)


def valid_per_image(matrix: torch.Tensor, target: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """int64 [N]: pixels that are not ignored, of which `matrix` [N,C,C] on CUDA lacks those that are no class."""
    return matrix.sum(dim=(1, 2)) if form(target) == "tiles" else (target.flatten(1) != ignore_index).sum(dim=1)


def _count_by_torch(prediction: torch.Tensor, target: torch.Tensor, num_classes: int, ignore_index: int):
    n, pixels = target.shape
    predicted, truth = _bytes(prediction), _bytes(target)
    columns = 2 if prediction.dtype == torch.bool else _LABELS
    cells = torch.add(predicted, truth.long(), alpha=columns)
    if pixels % _COPIES:
        cells = torch.nn.functional.pad(cells, (0, -pixels % _COPIES), value=ignore_index * columns)
    # Neighbours are mostly of one cell, whose count they would wait for in turn: each adds to its own copy. bincount, which
    # has none, waits for the device twice.
    counts = torch.zeros(n, _LABELS * columns, _COPIES, dtype=torch.int32, device=cells.device)
    one = torch.ones(1, 1, 1, dtype=torch.int32, device=cells.device)
    cells = cells.view(n, -1, _COPIES)
    with in_any_order():
        counts.scatter_add_(1, cells, one.expand_as(cells))
    matrix = counts.sum(dim=2).view(n, _LABELS, columns)
    if ignore_index < num_classes:
        matrix[:, ignore_index] = 0
    return matrix[:, :num_classes, :num_classes]


def _bytes(labels: torch.Tensor) -> torch.Tensor:
    """Labels of which every number that is no byte is the largest of _LABELS."""
    narrow = labels.dtype in (torch.uint8, torch.bool)
    return labels if narrow else labels.where((labels >= 0) & (labels < _LABELS), _LABELS - 1)


def _count_by_opencv(prediction: torch.Tensor, target: torch.Tensor, num_classes: int, ignore_index: int):
    if prediction.dtype != torch.uint8:
        _check_prediction(prediction, num_classes)
    if target.dtype != torch.uint8:
        check_labels(target, num_classes, ignore_index)
    predicted, truth = (labels.to(torch.uint8).numpy() for labels in (prediction, target))
    counts = np.empty((len(predicted), num_classes, num_classes), np.int64)
    ignored = 0
    for i in range(len(predicted)):
        matrix = exact_histogram([truth[i], predicted[i]], [256, num_classes])
        ignored += int(matrix[ignore_index].sum(dtype=np.float64))
        matrix[ignore_index] = 0
        counts[i] = matrix[:num_classes]
    if counts.sum() + ignored < predicted.size:  # labels that are no class
        check_labels(target, num_classes, ignore_index)
        _check_prediction(prediction, num_classes)
    return torch.from_numpy(counts)


def _check_prediction(prediction: torch.Tensor, num_classes: int) -> None:
    wrong = (prediction < 0) | (prediction >= num_classes)
    if wrong.any():
        values = ", ".join(map(str, sorted(prediction[wrong].unique().tolist())[:5]))
        raise ValueError(f"prediction {values} is not a class from 0 to {num_classes - 1}: {int(wrong.sum())} pixels")


def exact_histogram(values: list[np.ndarray], bins: list[int]) -> np.ndarray:
    """The histogram of pixels by one or several values, each [P]: whole numbers from 0 to below the number of `bins`.

    OpenCV's is many times as fast as NumPy's, but counts in float32.
    """
    import cv2

    channels, ranges = list(range(len(bins))), [bound for end in bins for bound in (0, end)]

    def count(parts: list[np.ndarray]) -> np.ndarray:
        return cv2.calcHist([part.reshape(1, -1) for part in parts], channels, None, bins, ranges)

    exact, total = len(values[0]) < _EXACT, None
    for start in range(0, max(1, len(values[0])), _EXACT - 4):
        parts = [v[start : start + _EXACT - 4] for v in values]
        # Pixels of four quarters take turns: neighbours are mostly of one value, and each would wait for the one before.
        quarter = len(parts[0]) // 4
        turns = [cv2.merge(list(part[: 4 * quarter].reshape(4, quarter))) for part in parts] if quarter else None
        rest = [part[4 * quarter :] for part in parts]
        for pixels in (turns, rest if len(rest[0]) or not quarter else None):
            if pixels is not None:
                found = count(pixels) if exact else count(pixels).astype(np.int64)
                total = found if total is None else total + found
    return total.reshape(bins)
