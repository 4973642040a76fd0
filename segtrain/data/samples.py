"""Samples to batches: what a process that loads images does for a list of indices."""

from collections.abc import Iterable

import numpy as np
import torch

from segtrain.data.augment import Augment, Augmentation
from segtrain.data.dataset import SegmentationDataset
from segtrain.data.paste import Paste, pasted
from segtrain.data.views import read_checked
from segtrain.errors import ConfigError, SegtrainError
from segtrain.ranks import ALONE, Rank

# images [N,channels,H,W] uint8, targets, and indices into the dataset; of a training batch those of all processes
Batch = tuple[torch.Tensor, torch.Tensor, list[int]]
CROP = "set a crop, for example augment.size=[256,256]"


class TrainSamples:
    """Augmented samples by (epoch, index, repeat, pixel to centre on): a batch, or an error, for a list of them.

    Of several processes each has its part of the batch; one for which there is none the first image, not to be counted.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        augment: Augmentation,
        seed: int,
        paste: Paste | None = None,
        rank: Rank = ALONE.rank,
    ):
        self._dataset, self._augment, self._seed, self._paste, self._rank = dataset, augment, seed, paste, rank

    def __getitems__(self, keys: list[tuple[int, int, int, int]]) -> list[Batch] | SegtrainError:
        own = self._rank.part(keys) or keys[:1]
        found = _batched(map(self._sample, own), len(own))
        if isinstance(found, SegtrainError):
            return found
        if len(found) > 1:
            sizes = [f"{self._dataset.names[i[0]]} is {list(images.shape[2:])}" for images, _, i in found[:2]]
            what = f"images of one training batch differ in size: {', '.join(sizes)} (height, width)"
            return ConfigError(what, "augment", CROP)
        return [(*batch[:2], [index for _, index, *_ in keys]) for batch in found]

    def _sample(self, key: tuple[int, int, int, int]):
        epoch, index, repeat, centre = key
        seed = (self._seed, epoch, index, *([repeat] if repeat else []))
        image, mask = self._augmented(index, seed, centre)
        if self._paste is not None and (donor := self._paste.donor(seed)) is not None:
            image, mask = pasted(image, mask, *self._augmented(donor.index, donor.seed, donor.centre), donor.label)
        return image, mask, index

    def _augmented(self, index: int, seed: tuple[int, ...], centre: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = read_checked(self._dataset, index)
        if not isinstance(self._augment, Augment):  # which leaves them as they are; they may be those of a cache
            image, mask = image.copy(), mask.copy()
        image, mask = self._augment(image, mask, seed=seed, centre=centre)
        if image.dtype != np.uint8 or mask.dtype != np.uint8:
            what = f"the augmentation returns an image of {image.dtype} and a mask of {mask.dtype}"
            raise ConfigError(what, "augment", "both must be uint8, because the model normalises")
        if image.shape[:2] != mask.shape[:2]:
            what = f"the augmentation returns an image of {[*image.shape[:2]]} and a mask of {[*mask.shape[:2]]} pixels"
            raise ConfigError(what, "augment", "change both alike")
        return image, mask


class WholeImages:
    """Samples as they are by index: batches of one size each, or an error, for a list of indices."""

    def __init__(self, dataset: SegmentationDataset):
        self._dataset = dataset

    def __getitems__(self, indices: list[int]) -> list[Batch] | SegtrainError:
        return _batched(((*read_checked(self._dataset, index), index) for index in indices), len(indices))


def _batched(samples: Iterable, most: int) -> list[Batch] | SegtrainError:
    """At most `most` samples to batches of equal size; or the error that reading them raised.

    An error is a value here, since torch rewrites one that is raised in a worker. Each sample is copied to its place in
    the batch as it comes, while it is in the cache.
    """
    groups: dict[tuple, tuple[np.ndarray, np.ndarray, list[int]]] = {}
    try:
        for image, mask, index in samples:
            shapes = image.shape, mask.shape
            if shapes not in groups:
                groups[shapes] = (*(np.empty((most, *shape), np.uint8) for shape in shapes), [])
            images, masks, indices = groups[shapes]
            images[len(indices)], masks[len(indices)] = image, mask
            indices.append(index)
    except SegtrainError as error:
        return error
    return [(_tensor(i[: len(k)]), _tensor(m[: len(k)]), k) for i, m, k in groups.values()]


def _tensor(arrays: np.ndarray) -> torch.Tensor:
    """[N,H,W], or [N,C,H,W] as a view of [N,H,W,C]: that is channels_last, the order a network on images works in."""
    tensor = torch.from_numpy(arrays)
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor
