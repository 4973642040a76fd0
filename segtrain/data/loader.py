"""From datasets to batches on the way to the device.

A training sample is named by (epoch, index, how often the image came before, pixel to centre on), so order and
augmentation do not depend on the number of workers and a run can go on in the middle of an epoch. Images stay uint8;
the model normalises on the device.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Literal

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from segtrain.arguments import NonNegativeInt, PositiveInt, checked
from segtrain.cpu import cores, free_memory, jobs
from segtrain.data.augment import Augmentation, as_augment
from segtrain.data.dataset import SegmentationDataset, as_dataset
from segtrain.data.paste import Paste
from segtrain.data.samples import CROP, Batch, TrainSamples, WholeImages
from segtrain.data.sampling import Samples, Sampling, as_sampling
from segtrain.data.views import EveryAnnotator, InMemory, decoded_size
from segtrain.errors import ConfigError, OutOfMemory, SegtrainError
from segtrain.ranks import ALONE, Processes
from segtrain.signals import STOPS, leave_if_stopped

SMALL = 500_000_000  # bytes of decoded images and masks that are kept without being asked for, where memory is short
KEPT = 0.1  # share of the free memory that may be kept, of each split


class Loader:
    """Settings of loading: images per batch, worker processes, what is kept in memory.

    Args:
        batch_size: images per step (a micro-batch when `trainer.accumulate` > 1), over all processes (torchrun) together.
        workers: processes that read and augment; 0 does it in the main process. auto: one fewer than the
            cores of this rank.
        cache: `ram` decodes every image once, at the start, and keeps it as uint8; `auto` does so if the images that a
            training reads repeatedly take at most 500 MB, or a tenth of the free memory, per split.
            Workers, and processes that train together on a machine, share them.
        min_images: about the least number of images per epoch: each image of a smaller dataset is drawn several times.
        pinned: batches are put where a GPU copies them from while it computes.
    """

    @checked
    def __init__(
        self,
        batch_size: PositiveInt = 4,
        workers: NonNegativeInt | Literal["auto"] = "auto",
        cache: Literal["auto", "none", "ram"] = "auto",
        min_images: PositiveInt = 128,
        pinned: bool = False,
    ):
        self.batch_size, self.cache, self.min_images, self.pinned = batch_size, cache, min_images, pinned
        self.in_memory = False  # the training images, once they are read
        self.most_workers = cores() // _processes() - 1
        self.workers = max(0, self.most_workers) if workers == "auto" else workers

    def advice(self) -> str:
        """What may help when the network waits for images."""
        ways = ["loader.cache=ram (images are decoded once)"] if not self.in_memory else []
        ways += [f"loader.workers={self.most_workers}"] if self.workers < self.most_workers else []
        return ", ".join([*ways, "smaller images (dataset.resize, or crops cut beforehand)", "JPEG instead of PNG"])

    def train(
        self, dataset, augment, sampling, counts, seed: int, annotated: bool = False, processes: Processes = ALONE
    ) -> "TrainBatches":
        """Augmented batches of the images that `sampling` draws.

        Args:
            dataset, augment, sampling: parts of segtrain, or a user's own.
            counts: the ClassCounts of `dataset`; with class locations when `needs_locations` says so.
            annotated: the target is every annotator's mask, uint8 [N,A,H,W].
            processes: that have a part of each batch each.

        Raises ConfigError for images of different sizes without a crop, for foreground oversampling without one, and
        for pasting with several annotators.
        """
        dataset, augment, sampling = as_dataset(dataset), as_augment(augment), as_sampling(sampling)
        if augment.keeps_size:
            _check_equal_sizes(dataset)
        if sampling.foreground_share and sampling.needs_crops and not augment.crops:
            raise ConfigError(
                "foreground oversampling needs crops: with whole images, there is no crop to centre", "sampling", CROP
            )
        if annotated and augment.paste:
            raise ConfigError(
                "pasting does not work with the masks of several annotators", "augment.paste", "set augment.paste=0"
            )
        dataset = self._kept(EveryAnnotator(dataset) if annotated else dataset, True, processes)
        self.in_memory = isinstance(dataset, InMemory)
        order = EpochOrder(counts, self.batch_size, sampling, seed, self.min_images)
        paste = Paste(augment.paste, counts) if augment.paste else None
        samples = TrainSamples(dataset, augment, seed, paste, processes.rank)
        return TrainBatches(self._loader(samples, len(order), batch_sampler=order), order, dataset.names)

    def evaluation(self, dataset, processes: Processes = ALONE, repeated: bool = False) -> "EvaluationBatches":
        """Whole images, each at its own size; of several processes each has some of the batches.

        Args:
            repeated: they are read more than once, as in the validations of a training.
        """
        dataset, rank = self._kept(as_dataset(dataset), repeated, processes), processes.rank
        starts = range(0, len(dataset.names), self.batch_size)[rank.number :: rank.size]
        batches = [list(range(len(dataset.names))[start : start + self.batch_size]) for start in starts]
        loader = self._loader(WholeImages(dataset), len(batches), batch_sampler=batches)
        return EvaluationBatches(loader, dataset, self.batch_size)

    def _kept(self, dataset, repeated: bool, processes: Processes):
        """The dataset, in memory where `cache` says so: with several processes, in that of all or of none."""
        if self.cache == "auto" and repeated:
            shared = self.workers == 0 or multiprocessing.get_start_method() == "fork"  # else each worker has a copy
            copies = jobs() * (_processes() if processes is ALONE else 1)
            limit = min(processes.gathered(max(SMALL, int(KEPT * (free_memory() or 0) / copies))))
            kept = shared and decoded_size(dataset, limit) <= limit
        else:
            kept = self.cache == "ram"
        return InMemory(dataset, processes) if kept else dataset

    def _loader(self, samples, batches: int, **how) -> DataLoader:
        workers = min(self.workers, batches)
        if workers:
            # Each worker has a core. Set here: after a fork OpenCV waits for ever for its threads.
            cv2.setNumThreads(1)
        return DataLoader(
            samples,
            num_workers=workers,
            collate_fn=_as_it_is,
            persistent_workers=workers > 0,
            pin_memory=self.pinned,
            # Its own generator: a draw from the global one, which dropout draws from, would not be repeated by a resume.
            generator=torch.Generator(),
            worker_init_fn=_leave_process_group,
            **how,
        )


def _processes() -> int:
    """How many train together on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # which torchrun sets


def needs_locations(augment: Augmentation, sampling: Sampling) -> bool:
    """Whether the counts of the training images must hold class locations, to centre crops on."""
    return augment.crops and (sampling.foreground_share > 0 or augment.paste > 0)


def images_of_epoch(images: int, min_images: int) -> int:
    """The length of an epoch: the images of a dataset, of few as many times as come nearest to `min_images`."""
    return images * max(1, round(min_images / images))


class EpochOrder:
    """Batch sampler: lists of (epoch, index, repeat, pixel to centre on), in the order `sampling` gives.

    An epoch is one pass over the images; for fewer than `min_images` as many as come nearest to them. A last batch of
    one image joins the batch before it: batch norm cannot learn from one.
    """

    def __init__(self, counts, batch_size: int, sampling: Sampling, seed: int, min_images: int = 1):
        self.counts, self.batch_size, self.sampling, self.seed = counts, batch_size, sampling, seed
        self.length = images_of_epoch(counts.num_images, min_images)
        self.passes = self.length // counts.num_images
        self.epoch, self.first_batch = 0, 0

    def __len__(self) -> int:
        alone = self.length % self.batch_size == 1 and self.length > self.batch_size > 1
        return -(-self.length // self.batch_size) - alone

    def _samples(self, number: int) -> Samples:
        """Those of a pass. Raises ConfigError for what no sampling may give."""
        found = self.sampling(self.counts, self.seed, number)
        what = ""
        if not isinstance(found, Samples):
            what = f"the sampling returns {type(found).__name__}, not segtrain.data.sampling.Samples"
        elif (np.asarray(found.indices) < 0).any() or (np.asarray(found.indices) >= self.counts.num_images).any():
            what = f"the sampling returns indices outside of the {self.counts.num_images} images"
        if what:
            raise ConfigError(what, "sampling", "correct what its __call__(counts, seed, epoch) returns")
        return found

    def __iter__(self) -> Iterator[list[tuple[int, int, int, int]]]:
        numbers = range(self.epoch * self.passes, (self.epoch + 1) * self.passes)
        passes = [self._samples(number) for number in numbers]
        indices = np.concatenate([one.indices for one in passes]).tolist()
        centres = np.concatenate([one.centres for one in passes]).tolist()
        if len(indices) != self.length:
            what = f"the sampling returns {len(indices)} samples for {self.length} images"
            raise ConfigError(
                what, "sampling", "return as many as the dataset has images; an image may be drawn several times"
            )
        before, samples = Counter(), []  # each time that an image comes it is augmented in its own way
        for index, centre in zip(indices, centres, strict=True):
            samples.append((self.epoch, index, before[index], centre))
            before[index] += 1
        for batch in range(self.first_batch, len(self)):
            end = None if batch == len(self) - 1 else (batch + 1) * self.batch_size
            yield samples[batch * self.batch_size : end]


class TrainBatches:
    """`for images, targets, indices in batches.epoch(3)`; `len` is the number of batches in an epoch.

    Attributes:
        names: of all images, by index.
        num_images: of an epoch.
        batch_size: images of a batch; the last of an epoch may have another number.
    """

    def __init__(self, loader: DataLoader, order: EpochOrder, names: list[str]):
        self._loader, self._order, self.names = loader, order, names
        self.num_images, self.batch_size = order.length, order.batch_size

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        self._order.epoch, self._order.first_batch = epoch, first_batch
        yield from _raised(self._loader)


class EvaluationBatches:
    """Whole images in the order of the dataset, in batches of one size each."""

    def __init__(self, loader: DataLoader, dataset: SegmentationDataset, batch_size: int):
        self._loader, self.dataset, self._batch_size = loader, dataset, batch_size

    def num_images(self, batches: int | None) -> int:
        """Images in the first `batches` batches; None: in all."""
        every = len(self.dataset.names)
        return every if batches is None else min(every, batches * self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return _raised(self._loader)


def _raised(loader: DataLoader) -> Iterator[Batch]:
    """The batches of a loader. Raises the errors among them."""
    for batches in loader:
        if isinstance(batches, SegtrainError):
            raise batches
        yield from batches


@contextlib.contextmanager
def killed_workers_explained():
    """Within this, a worker process that was killed ends a training that was told to stop, or raises OutOfMemory."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        time.sleep(1)  # the signal that killed the worker may still be on its way to this process
        leave_if_stopped()
        raise OutOfMemory(
            f"a process that loads images was killed: {str(error).splitlines()[0]}",
            "loader.workers",
            "usually memory ran out: lower loader.workers or loader.batch_size, or set loader.cache=none; with "
            "loader.workers=0, its own error is shown",
        ) from error


def _as_it_is(batches):
    return batches


def _leave_process_group(_worker: int) -> None:
    """Signals to a whole process group, as of a terminal or a scheduler, are for the main process, which ends the workers."""
    os.setpgid(0, 0)
    for number in (*STOPS[:1], *STOPS[2:]):  # but SIGTERM, with which the main process ends a worker that hangs
        signal.signal(number, signal.SIG_IGN)


def _check_equal_sizes(dataset: SegmentationDataset) -> None:
    """Raise ConfigError when whole images cannot be one batch, as far as sizes are known without decoding."""
    sizes: dict[tuple[int, int] | None, str] = {}
    for index, name in enumerate(dataset.names):
        sizes.setdefault(dataset.size(index), name)
        if len(sizes) > 1:
            (first, one), (second, other) = sizes.items()
            what = f"training images differ in size: {one} is {first}, {other} is {second} (height, width)"
            raise ConfigError(what, "augment.size=null, which keeps whole images", CROP)
