"""Augmentation with albumentations, as a function of (image, mask, seed) and nothing else."""

import os

import numpy as np

from segtrain.arguments import Fraction, Label, NonNegative, Size, checked


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

        self.size = size
        steps = []
        if scale:
            steps.append(A.RandomScale((1 / (1 + scale) - 1, scale), p=1.0))
        if rotate:
            steps.append(A.Rotate(limit=rotate, fill=0, fill_mask=ignore_index, p=0.5))
        if size is not None:
            steps.append(A.PadIfNeeded(*size, border_mode=0, fill=0, fill_mask=ignore_index, position="random"))
            steps.append(A.RandomCrop(*size))
        steps += [A.HorizontalFlip(p=horizontal_flip)] if horizontal_flip else []
        steps += [A.VerticalFlip(p=vertical_flip)] if vertical_flip else []
        steps += [A.RandomRotate90(p=rotate_90)] if rotate_90 else []
        if brightness or contrast or saturation or hue:
            steps.append(
                A.ColorJitter(
                    (1 - brightness, 1 + brightness),
                    (1 - contrast, 1 + contrast),
                    (1 - saturation, 1 + saturation),
                    (-hue / 2, hue / 2),
                    p=0.8,
                )
            )
        steps += [A.GaussNoise(std_range=(0, noise), p=0.3)] if noise else []
        steps += [A.GaussianBlur(p=blur)] if blur else []
        self._pipeline = A.Compose(steps) if steps else None

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, 3] and mask [H, W] or [H, W, C], the same draws for the same seed in any process."""
        if self._pipeline is None:
            return image, mask
        self._pipeline.set_random_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        result = self._pipeline(image=image, mask=mask)
        return result["image"], result["mask"]
