"""Other views of a dataset: decoded once and kept in memory, or with the masks of every annotator."""

import math
import mmap
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from segtrain.data.dataset import SegmentationDataset, check_sample, check_values
from segtrain.data.threads import in_threads
from segtrain.errors import ConfigError
from segtrain.ranks import ALONE, Processes

ALIGNED = 64  # bytes, as of NumPy's own arrays


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


def on_this_machine(processes: Processes) -> list[int]:
    """The numbers of the processes that share this one's memory. Every process calls this."""
    if sys.platform != "linux":
        return [processes.rank.number]
    # By the start of the system, since names of machines may be equal, and by what process numbers are counted in.
    machine = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    return [number for number, other in enumerate(processes.gathered(machine)) if other == machine]


def shared_among(
    samples: Iterable[tuple[np.ndarray, ...]], numbers: list[int], processes: Processes
) -> list[list[tuple[np.ndarray, ...]]]:
    """The samples of each of the processes `numbers`, in shared memory: a change of one is seen by nobody else.

    Every process calls this, with its own samples. Raises ConfigError where a process cannot reach another one's memory.
    """
    memory = os.memfd_create("segtrain")  # stays open: it has no name, and goes with the last process that maps it
    layout = []
    with open(memory, "wb", closefd=False) as stream:
        for sample in samples:
            layout.append([])
            for array in sample:
                stream.write(bytes(-stream.tell() % ALIGNED))
                layout[-1].append((stream.tell(), array.shape, array.dtype.str))
                stream.write(np.ascontiguousarray(array))
    everyone = processes.gathered((os.getpid(), memory, layout))
    return [_mapped(*everyone[number]) for number in numbers]


def _mapped(process: int, memory: int, layout: list) -> list[tuple[np.ndarray, ...]]:
    if not layout:
        return []
    try:
        with open(f"/proc/{process}/fd/{memory}", "rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        what = f"the memory of another process on this machine cannot be read: {error.strerror}"
        raise ConfigError(what, "loader.cache", "set loader.cache=none") from error
    return [
        tuple(np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape) for offset, shape, dtype in sample)
        for sample in layout
    ]


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
