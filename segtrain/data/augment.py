"""Augmentation with albumentations, as a function of (image, mask, seed) and nothing else."""

import os
import random

import numpy as np

from segtrain.arguments import Fraction, Label, NonNegative, Size, checked
from segtrain.errors import ConfigError


class Augment:
    """Random crop or padding to `size`, then flips, rotation, scale, colour and noise as asked for.

    Padding and the corners of a rotation are ignored pixels in the mask, black in the image.

    Args:
        size: [height, width] of the training crop; None keeps whole images, which must then be equal in size.
        ignore_index: mask value of the padding.
        horizontal_flip, vertical_flip, rotate_90: probability of each.
        scale: random zoom by a factor from 1/(1+scale) to 1+scale, before the crop.
        rotate: largest angle in degrees.
        brightness, contrast: largest relative change.
        saturation, hue: largest relative change of colour.
        noise: largest standard deviation of Gaussian noise, as a share of the range.
        blur: probability of a slight blur.
    """

    @checked
    def __init__(
        self,
        size: Size | None = None,
        ignore_index: Label = 255,
        horizontal_flip: Fraction = 0.0,
        vertical_flip: Fraction = 0.0,
        rotate_90: Fraction = 0.0,
        scale: NonNegative = 0.0,
        rotate: NonNegative = 0.0,
        brightness: Fraction = 0.0,
        contrast: Fraction = 0.0,
        saturation: Fraction = 0.0,
        hue: Fraction = 0.0,
        noise: Fraction = 0.0,
        blur: Fraction = 0.0,
    ):
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # at import it asks the network for a newer version
        import albumentations as A

        self.size, self.ignore_index = size, ignore_index
        before = [A.RandomScale((1 / (1 + scale) - 1, scale), p=1.0)] if scale else []
        before += [A.Rotate(limit=rotate, fill=0, fill_mask=ignore_index, p=0.5)] if rotate else []
        flips = [A.HorizontalFlip(p=horizontal_flip)] if horizontal_flip else []
        flips += [A.VerticalFlip(p=vertical_flip)] if vertical_flip else []
        flips += [A.RandomRotate90(p=rotate_90)] if rotate_90 else []
        noises = [A.GaussNoise(std_range=(0, noise), p=0.3)] if noise else []
        noises += [A.GaussianBlur(p=blur)] if blur else []
        light, light_of_bands = [], []
        if brightness or contrast or saturation or hue:
            ranges = [(1 - change, 1 + change) for change in (brightness, contrast, saturation)]
            light = [A.ColorJitter(*ranges, (-hue / 2, hue / 2), p=0.8)]  # of grey and of colour
            light_of_bands = [A.RandomBrightnessContrast(brightness, contrast, brightness_by_max=False, p=0.8)]
        self._colour = bool(saturation or hue)
        self._before = _composed(before)
        self._after, self._after_bands = _composed(flips + light + noises), _composed(flips + light_of_bands + noises)

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, seed: tuple[int, ...], centre: int = -1, annotated: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, channels] and mask [H, W] or [H, W, C], the same draws for the same seed in any process.

        With `centre` the crop is centred on a random pixel of that class, where it has one, or as near as it fits.
        `annotated` says that the channels of the mask are annotators, not classes.

        Raises ConfigError for a change of colours of an image that has none.
        """
        if self._colour and image.shape[2] not in (1, 3):
            raise ConfigError(
                f"images of {image.shape[2]} channels have no saturation or hue",
                "augment",
                "set augment.saturation=0 augment.hue=0",
            )
        rng = np.random.default_rng(seed)
        image, mask = _applied(self._before, image, mask, rng)
        if self.size is not None:
            image, mask = self._padded(image, mask, rng)
            top, left = self._corner(mask, centre, annotated, rng)
            window = slice(top, top + self.size[0]), slice(left, left + self.size[1])
            image, mask = image[window], mask[window]
        return _applied(self._after if image.shape[2] in (1, 3) else self._after_bands, image, mask, rng)

    def _padded(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator):
        """At least as large as the crop, with the image anywhere in it."""
        lacks = np.maximum(np.array(self.size) - image.shape[:2], 0)
        if not lacks.any():
            return image, mask
        before = [int(rng.integers(lack + 1)) for lack in lacks]
        around = [(first, int(lack) - first) for first, lack in zip(before, lacks, strict=True)]
        image = np.pad(image, [*around, (0, 0)])
        return image, np.pad(mask, around + [(0, 0)] * (mask.ndim - 2), constant_values=self.ignore_index)

    def _corner(self, mask: np.ndarray, centre: int, annotated: bool, rng: np.random.Generator) -> tuple[int, int]:
        """Top and left of the crop."""
        room = np.array(mask.shape[:2]) - self.size
        if centre >= 0:
            if annotated:
                there = (mask == centre).any(axis=2)
            else:
                there = mask == centre if mask.ndim == 2 else mask[..., centre] == 1
            places = np.flatnonzero(there)
            if len(places):
                pixel = np.unravel_index(places[rng.integers(len(places))], mask.shape[:2])
                top, left = np.clip(np.array(pixel) - np.array(self.size) // 2, 0, room)
                return int(top), int(left)
        return int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))


def _composed(steps: list):
    import albumentations as A

    return A.Compose(steps) if steps else None


def _applied(pipeline, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator):
    if pipeline is None:
        return image, mask
    # One stream for all steps: set_random_seed gives each step the same numbers, so that two flips always go together.
    pipeline.set_random_state(rng, random.Random(int(rng.integers(2**63))))
    result = pipeline(image=np.ascontiguousarray(image), mask=np.ascontiguousarray(mask))
    return result["image"], result["mask"]
