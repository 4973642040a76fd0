"""A dataset seen in another way: decoded once and kept in memory, or with the masks of every annotator."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from segtrain.cpu import cores
from segtrain.data.dataset import SegmentationDataset, check_mask, check_sample, check_values
from segtrain.data.value_counts import value_counts
from segtrain.errors import DataError


class View:
    """A dataset that answers some questions in another way."""

    def __init__(self, dataset: SegmentationDataset):
        self._dataset = dataset

    def __getattr__(self, name):
        if name.startswith("_"):  # not there yet, while a worker process unpickles this
            raise AttributeError(name)
        return getattr(self._dataset, name)


class EveryAnnotator(View):
    """A dataset whose mask is [H, W, A], the masks of all annotators."""

    def __init__(self, dataset: SegmentationDataset):
        super().__init__(dataset)
        self.mask_channels = dataset.num_annotators

    def mask(self, index: int) -> np.ndarray:
        return self._dataset.annotated_mask(index)


class InMemory(View):
    """A dataset whose images and masks are decoded once, by all cores; workers that are forked share the memory."""

    def __init__(self, dataset: SegmentationDataset):
        from tqdm import tqdm

        super().__init__(dataset)
        indices = range(len(dataset.names))
        with ThreadPoolExecutor(cores()) as pool:
            samples = pool.map(self._decoded, indices)
            bar = tqdm(samples, desc="reading images into memory", total=len(indices), leave=False, disable=None)
            self._samples = list(bar)

    def _decoded(self, index: int):
        try:
            return read_checked(self._dataset, index)
        except DataError as error:
            return error

    def image(self, index: int) -> np.ndarray:
        return self._sample(index)[0]

    def mask(self, index: int) -> np.ndarray:
        return self._sample(index)[1]

    def _sample(self, index: int):
        if isinstance(self._samples[index], DataError):
            raise self._samples[index]
        return self._samples[index]


def read_mask(dataset: SegmentationDataset, index: int) -> np.ndarray:
    """A mask, whose form is checked."""
    mask = dataset.mask(index)
    check_mask(mask, dataset, index)
    return mask


def read_checked(dataset: SegmentationDataset, index: int):
    """Image and mask, checked. Samples carry errors as values, since torch rewrites one that is raised in a worker."""
    image, mask = dataset.image(index), dataset.mask(index)
    if not isinstance(dataset, InMemory):  # which checked them when it read them
        check_sample(image, mask, dataset, index)
        check_values(value_counts(mask, 2 if dataset.multilabel else dataset.num_classes), dataset, index)
    return image, mask
