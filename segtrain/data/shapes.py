"""Generated datasets: rare classes, empty images, multi-label classes.

No files: an image is a function of (seed, split, index).
"""

from typing import Literal

import numpy as np

from segtrain.arguments import Label, NonNegativeInt, PositiveInt, Size, checked
from segtrain.data.dataset import SegmentationDataset

NAMES = ["disc", "square", "cross"]
_COLOURS = np.array([[165, 105, 85], [85, 155, 90], [85, 105, 175]], dtype=np.float32)
_SPLIT_NUMBER = {"train": 0, "val": 1, "test": 2}


class _Generated(SegmentationDataset):
    """Shared by both datasets: random streams, a noisy picture, and shapes drawn as [H, W] bool arrays."""

    @checked
    def __init__(
        self,
        split: Literal["train", "val", "test"],
        size: Size,
        train_images: PositiveInt = 128,
        val_images: PositiveInt = 64,
        seed: NonNegativeInt = 0,
        ignore_index: Label = 255,
    ):
        self.split, self.seed, self.ignore_index = split, seed, ignore_index
        self.height, self.width = size
        self.names = [f"{split}_{i:05d}" for i in range(train_images if split == "train" else val_images)]

    def _stream(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, _SPLIT_NUMBER[self.split], index])

    def image(self, index: int) -> np.ndarray:
        rng = self._stream(index)
        return self._picture(rng, self._objects(rng))

    def mask_key(self, index: int) -> str:
        return f"{type(self).__name__} {self.seed} {self.split} {index} {self.height}x{self.width} v2"

    def size(self, index: int) -> tuple[int, int]:
        return self.height, self.width

    def _objects(self, rng: np.random.Generator) -> list[tuple[int, np.ndarray]]:
        """Shape number and area of each object; none in one image of four."""
        if rng.random() < 0.25:
            return []
        unit = min(self.height, self.width) / 64
        discs = [(self._place(rng, 6 * unit), rng.uniform(4, 6) * unit) for _ in range(rng.integers(1, 3))]
        objects = [(0, self._area(0, place, radius)) for place, radius in discs]
        for shape in (1, 2):
            if rng.random() < 0.6:
                place = self._place(rng, 4 * unit)
                if self.multilabel and rng.random() < 0.5:  # half of them lie on a disc and overlap it
                    place = discs[0][0] + rng.uniform(-3, 3, 2) * unit
                objects.append((shape, self._area(shape, place, rng.uniform(2.6, 3.6) * unit)))
        return objects

    def _place(self, rng, margin: float) -> np.ndarray:
        return rng.uniform(margin, np.array([self.height, self.width]) - margin)

    def _area(self, shape: int, place: np.ndarray, size: float) -> np.ndarray:
        """bool [H, W]: a disc of radius `size`, or a square or cross of half that side."""
        y, x = abs(np.arange(self.height)[:, None] - place[0]), abs(np.arange(self.width)[None, :] - place[1])
        if shape == 0:
            return y**2 + x**2 <= size**2
        square = np.maximum(y, x) <= size
        return square if shape == 1 else square & (np.minimum(y, x) <= size / 3)

    def _picture(self, rng, objects) -> np.ndarray:
        """Objects on a background of soft blotches, under noise."""
        cells = rng.normal(110, 10, (self.height // 12 + 2, self.width // 12 + 2, 3)).astype(np.float32)
        picture = cells.repeat(12, 0).repeat(12, 1)[: self.height, : self.width]
        for shape, area in objects:
            picture[area] = 0.3 * picture[area] + 0.7 * (_COLOURS[shape] + rng.normal(0, 8))
        picture += rng.normal(0, 8, picture.shape).astype(np.float32)
        return picture.clip(0, 255).astype(np.uint8)


class Shapes(_Generated):
    """Background (97 % of the pixels), discs, squares and rare small crosses (0.2 %); 1 image of 4 is empty.

    Raises ValueError for an argument out of range.
    """

    multilabel = False

    @checked
    def __init__(self, split: str, size: Size, num_classes: Literal[4] = 4, background: Literal[0] | None = 0, **same):
        super().__init__(split, size, **same)
        self.num_classes, self.background, self.class_names = num_classes, background, ["background", *NAMES]

    def mask(self, index: int) -> np.ndarray:
        mask = np.zeros((self.height, self.width), dtype=np.uint8)
        for shape, area in self._objects(self._stream(index)):
            mask[area] = shape + 1
        return mask


class ShapesMultilabel(_Generated):
    """The same shapes as multi-label classes that overlap: a pixel of a cross on a disc is both. No background class.

    Raises ValueError for an argument out of range.
    """

    multilabel = True

    @checked
    def __init__(self, split: str, size: Size, num_classes: Literal[3] = 3, background: None = None, **same):
        super().__init__(split, size, **same)
        self.num_classes, self.background, self.class_names = num_classes, background, list(NAMES)

    def mask(self, index: int) -> np.ndarray:
        mask = np.zeros((self.height, self.width, 3), dtype=np.uint8)
        for shape, area in self._objects(self._stream(index)):
            mask[area, shape] = 1
        return mask
