"""The masks of one class in one image, cut out: what scores of borders and of objects look at."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch


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

    def of_image(i: int) -> dict[str, np.ndarray]:
        counts = {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}
        for region in regions(said[i], truth[i], ignore_index, there[i].nonzero()[0], margin):
            for look in looks:
                for name, values in look.count(region).items():
                    counts[name][region.label] = values
        return counts

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        images = list(pool.map(of_image, range(len(said))))
    return {name: torch.from_numpy(np.stack([counts[name] for counts in images])) for name in shapes}
