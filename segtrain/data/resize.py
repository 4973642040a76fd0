"""Resize images and masks of every split, so that a network sees large images whole."""

from typing import TYPE_CHECKING, Annotated

import numpy as np

from segtrain.arguments import Positive, Range

if TYPE_CHECKING:
    import torch

Resize = Annotated[
    list[int] | Positive | None,
    Range(
        "null, [height, width], or a factor > 0 and <= 16",
        lambda v: v is None or (len(v) == 2 and min(v) >= 1 if isinstance(v, list | tuple) else v <= 16),
    ),
]


def resized_size(size: tuple[int, int], resize) -> tuple[int, int]:
    """Height and width after resizing: `resize` is a Resize."""
    if resize is None:
        return size
    if isinstance(resize, int | float):
        return max(1, round(size[0] * resize)), max(1, round(size[1] * resize))
    return int(resize[0]), int(resize[1])


def resize_image(image: np.ndarray, resize) -> np.ndarray:
    """uint8 [H, W, channels], bilinear with antialiasing: smaller images hold no pattern that the large one has not."""
    import torch

    size = resized_size(image.shape[:2], resize)
    if size == image.shape[:2]:
        return image
    pixels = torch.from_numpy(np.require(image, requirements="CW")).permute(2, 0, 1)[None]
    return np.ascontiguousarray(resized(pixels, size)[0].permute(1, 2, 0).numpy())


def resized(images: "torch.Tensor", size: tuple[int, int]) -> "torch.Tensor":
    """As `resize_image`, uint8 [N, channels, H, W] on any device: torch has no kernel for it on CUDA, so the CPU does it."""
    import torch

    smaller = torch.nn.functional.interpolate(images.cpu(), size, mode="bilinear", antialias=True)
    return smaller.to(images.device)


def resize_mask(mask: np.ndarray, resize, method: str) -> np.ndarray:
    """uint8 [H, W], or multi-label [H, W, C].

    Args:
        method: `nearest`, or `area`: the class with the largest share of a pixel's area, of equal shares the rarer one; of
            several labels each that has half of it. An ignored pixel is one whose largest share is ignored.
    """
    import cv2

    size = resized_size(mask.shape[:2], resize)
    if size == mask.shape[:2]:
        return mask
    if method == "nearest":
        rows = ((np.arange(size[0]) + 0.5) * mask.shape[0] / size[0]).astype(int)
        columns = ((np.arange(size[1]) + 0.5) * mask.shape[1] / size[1]).astype(int)
        return np.ascontiguousarray(mask[rows[:, None], columns])

    def chosen(plane: np.ndarray) -> np.ndarray:
        """Of the values of a plane, the one with the largest share."""
        values, counts = np.unique(plane, return_counts=True)
        best, found = np.zeros(size, np.float32), np.zeros(size, np.uint8)
        for value in values[np.argsort(-counts, kind="stable")]:
            share = cv2.resize((plane == value).astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
            larger = share >= best - 1e-6  # shares are sums of fractions
            found[larger], best = value, np.maximum(best, share)
        return found

    return chosen(mask) if mask.ndim == 2 else np.stack([chosen(plane) for plane in np.moveaxis(mask, 2, 0)], axis=2)
