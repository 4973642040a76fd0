"""Augmentation with albumentations, a function of (image, mask, seed, centre) and nothing else.

Crops, flips and light are what nearly every training has. They are done here, in two passes over the pixels, with
OpenCV and the arithmetic of albumentations (albucore): its own transforms take several times as long.
"""

import math
import os
import random
from collections.abc import Sequence
from typing import Literal

import numpy as np

from segtrain.arguments import Fraction, Label, NonNegative, Size, checked
from segtrain.data.dataset import known_sizes
from segtrain.errors import ConfigError
from segtrain.protocols import adopted

LARGEST_CROP = 256  # of augment.size=auto


class Augmentation:
    """The protocol of an augmentation. One derives from it, or is called as `augment(image, mask, seed=seed)`.

    Attributes:
        keeps_size: images keep their size, so a batch needs images of one size.
        crops: it crops, and centres the crop on `centre`.
        size: [height, width] of what it returns; None: of the image, or not known.
        paste: share of the samples that pixels of a rare class of another training image are pasted into.
    """

    keeps_size = False
    crops = True
    size: list[int] | None = None
    paste = 0.0

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, seed: tuple[int, ...], centre: int = -1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image and mask, uint8, the same for the same seed in any process.

        Args:
            image, mask: uint8 [H, W, channels]; [H, W] or [H, W, C].
            centre: pixel of the mask, row · width + column, that the crop is centred on; -1: it is anywhere.
        """
        raise NotImplementedError


class _Plain(Augmentation):
    """An augmentation of a class that does not derive from Augmentation, which has no centred crops."""

    crops = False

    def __init__(self, part):
        self.part = part

    def __call__(self, image, mask, seed, centre=-1):
        return self.part(image, mask, seed=seed)


def as_augment(part) -> Augmentation:
    """`part` when it derives from Augmentation, else wrapped. Raises ConfigError for what cannot be called."""
    return adopted(part, "augment", Augmentation, _Plain)


class Augment(Augmentation):
    """Zoom and rotation, a random crop or padding to `size`, then flips, light, colour and noise.

    Padding and the corners of a rotation are ignored pixels in the mask, black in the image.

    Args:
        size: [height, width] of the training crop; None keeps whole images, which must then be equal in size. `auto`
            stands for `crop_size` of the dataset in a config.
        ignore_index: mask value of the padding.
        horizontal_flip, vertical_flip, rotate_90: probability of each.
        scale: random zoom by a factor from 1/(1+scale) to 1+scale, before the crop.
        rotate: largest angle in degrees.
        brightness, contrast: largest relative change.
        saturation, hue: largest relative change of colour.
        noise: largest standard deviation of Gaussian noise, as a share of the range.
        blur: probability of a slight blur.
        paste: share of the samples that pixels of a rare class of another training image are pasted into.

    Raises ConfigError for scale and rotate_90 without a crop: whole images would differ in size.
    """

    @checked
    def __init__(
        self,
        size: Size | Literal["auto"] | None = None,
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
        paste: Fraction = 0.0,
    ):
        if size == "auto":
            raise ConfigError(
                "augment.size=auto needs a dataset to choose a crop", "size=auto", "pass size=crop_size(dataset)"
            )
        for name, value in {"scale": scale, "rotate_90": rotate_90}.items():
            if value and size is None:
                what = f"{name}={value} with whole images: they would differ in size"
                fix = f"set a crop, for example augment.size=[256,256], or augment.{name}=0"
                raise ConfigError(what, f"augment.{name}, augment.size=null", fix)
        self.keeps_size, self.crops = size is None, size is not None
        self.size, self.ignore_index, self.paste = size, ignore_index, paste
        self._flips, self._light = (horizontal_flip, vertical_flip), (brightness, contrast)
        self._colour = bool(saturation or hue)
        self._least = [math.ceil(1 + scale)] * 2  # sides of which something is left when they are zoomed out of
        self._before = self._after = None
        if not any((rotate_90, scale, rotate, saturation, hue, noise, blur)):
            return  # without albumentations, whose import takes seconds
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # at import it checks online for a newer version
        import albumentations as A

        before = [A.RandomRotate90(p=rotate_90)] if rotate_90 else []
        before += [A.RandomScale((1 / (1 + scale) - 1, scale), p=1.0)] if scale else []
        before += [A.Rotate(limit=rotate, fill=0, fill_mask=ignore_index, p=0.5)] if rotate else []
        after = []
        if self._colour:
            change = (1 - saturation, 1 + saturation), (-hue / 2, hue / 2)
            after += [A.ColorJitter((1, 1), (1, 1), *change, p=0.8)]
        after += [A.GaussNoise(std_range=(0, noise), p=0.3)] if noise else []
        after += [A.GaussianBlur(p=blur)] if blur else []
        points = A.KeypointParams("xy", remove_invisible=False)
        self._before = A.Compose(before, keypoint_params=points) if before else None
        self._after = A.Compose(after) if after else None

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, seed: tuple[int, ...], centre: int = -1
    ) -> tuple[np.ndarray, np.ndarray]:
        """As of Augmentation. A rotation may turn the centre out of the image; the crop is then at the border.

        Raises ConfigError for a change of colours of an image that has none.
        """
        if self._colour and image.shape[2] not in (1, 3):
            what = f"images with {image.shape[2]} channels have no saturation or hue"
            raise ConfigError(what, "augment", "set augment.saturation=0 augment.hue=0")
        rng = np.random.default_rng(seed)
        middle = divmod(centre, image.shape[1]) if centre >= 0 else None  # row and column
        if self._before is not None:
            image, mask = self._padded(image, mask, rng, self._least)
            points = [] if middle is None else [middle[::-1]]
            moved = _applied(self._before, rng, image=image, mask=mask, keypoints=points)
            image, mask = moved["image"], moved["mask"]
            middle = None if middle is None else moved["keypoints"][0][::-1]
        if self.size is not None:
            image, mask = self._padded(image, mask, rng, self.size)
            top, left = self._corner(mask.shape, middle, rng)
            window = slice(top, top + self.size[0]), slice(left, left + self.size[1])
            image, mask = image[window], mask[window]
        flips = [rng.random() < probability for probability in self._flips]  # horizontal, vertical
        image, mask = _flip(image, *flips), _flip(mask, *flips)
        image = self._relit(image, rng)
        if self._after is None:
            return image, mask
        done = _applied(self._after, rng, image=image, mask=mask)
        return done["image"], done["mask"]

    def _padded(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, size: Sequence[int]):
        """At least of a size, with the image anywhere in it."""
        lacks = [max(wanted - length, 0) for wanted, length in zip(size, image.shape[:2], strict=True)]
        if not any(lacks):
            return image, mask
        before = [int(rng.integers(lack + 1)) for lack in lacks]
        around = [(first, lack - first) for first, lack in zip(before, lacks, strict=True)]
        image = np.pad(image, [*around, (0, 0)])
        return image, np.pad(mask, around + [(0, 0)] * (mask.ndim - 2), constant_values=self.ignore_index)

    def _corner(
        self, shape: tuple[int, ...], middle: tuple[float, float] | None, rng: np.random.Generator
    ) -> list[int]:
        """Top and left of the crop."""
        room = [shape[axis] - self.size[axis] for axis in (0, 1)]
        if middle is None:
            return [int(rng.integers(most + 1)) for most in room]
        return [min(max(int(middle[axis]) - self.size[axis] // 2, 0), room[axis]) for axis in (0, 1)]

    def _relit(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Brighter or darker by a factor, then its contrast, about the mean of all channels; 4 of 5 times. In place."""
        if not any(self._light) or rng.random() >= 0.8:
            return image
        import albucore
        import cv2

        gain, contrast = (1 + rng.uniform(-change, change) for change in self._light)
        mean = cv2.mean(image.reshape(len(image), -1))[0]
        return albucore.multiply_add(image, gain * contrast, gain * mean * (1 - contrast), inplace=True)


def crop_size(dataset, zooms: bool = False) -> list[int] | None:
    """[height, width] of the training crop that `augment.size=auto` stands for; None: whole images.

    Images of one size of at most 256×256 stay whole. Otherwise crops of at most 256 a side, of small images as large as
    most of them are: more steps, and of different places, in the time of a step on a whole image.

    Args:
        zooms: whether samples change in size, so that there must be a crop: of small images, of their own size.
    """
    sizes = known_sizes(dataset)
    if len(set(sizes)) == 1 and max(sizes[0]) <= LARGEST_CROP:
        return list(sizes[0]) if zooms else None
    height, width = np.median(sizes, axis=0)
    return [min(LARGEST_CROP, 32 * math.ceil(length / 32)) for length in (height, width)]  # encoders halve five times


def _flip(array: np.ndarray, horizontal: bool, vertical: bool) -> np.ndarray:
    """A copy, flipped or not."""
    import cv2

    if not (horizontal or vertical):
        return array.copy()
    if array.ndim == 3 and array.shape[2] > 4:  # as many as OpenCV takes in every version
        return np.flip(array, (0,) * vertical + (1,) * horizontal).copy()
    return cv2.flip(array, -1 if horizontal and vertical else int(horizontal)).reshape(array.shape)


def _applied(pipeline, rng: np.random.Generator, **what) -> dict:
    # One stream for all steps: set_random_seed gives each step the same numbers, so that two flips always go together.
    pipeline.set_random_state(rng, random.Random(int(rng.integers(2**63))))
    return pipeline(**what)
