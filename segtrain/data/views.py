"""Other views of a dataset: decoded once and kept in memory, or with the masks of every annotator."""

import math

import numpy as np

from segtrain.data.dataset import SegmentationDataset, check_sample, check_values
from segtrain.data.shared_memory import on_this_machine, shared_among
from segtrain.data.threads import in_threads
from segtrain.ranks import ALONE, Processes


class View:
    """A dataset with some of its methods replaced; all others are those of the dataset."""

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
    """A dataset whose images and masks are decoded once, by all cores; workers that are forked share the memory.

    So do processes on one machine that train together: each decodes its part of the images. All of them call this.
    """

    def __init__(self, dataset: SegmentationDataset, processes: Processes = ALONE):
        super().__init__(dataset)
        here = on_this_machine(processes)
        indices = range(len(dataset.names))[here.index(processes.rank.number) :: len(here)]
        read = in_threads(lambda i: read_checked(dataset, i), indices, "reading images into memory")
        if len(here) == 1:
            self._samples = list(read)
        else:
            parts = shared_among(read, here, processes)
            self._samples = [parts[index % len(here)][index // len(here)] for index in range(len(dataset.names))]

    def image(self, index: int) -> np.ndarray:
        return self._samples[index][0]

    def mask(self, index: int) -> np.ndarray:
        return self._samples[index][1]


def decoded_size(dataset: SegmentationDataset, limit: int) -> float:
    """Bytes of all decoded images and masks, or those at which `limit` was passed; infinite where a size is not known."""
    found, channels = 0, dataset.channels + (dataset.mask_channels or 1)
    for index in range(len(dataset.names)):
        size = dataset.size(index)
        if size is None:
            return math.inf
        found += size[0] * size[1] * channels
        if found > limit:
            break
    return found


def read_checked(dataset: SegmentationDataset, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask. Raises DataError when they cannot be read, differ in size or hold wrong values."""
    image, mask = dataset.image(index), dataset.mask(index)
    if not isinstance(dataset, InMemory):  # which checked them when it read them
        check_sample(image, mask, dataset, index)
        check_values(mask, dataset, index)
    return image, mask
