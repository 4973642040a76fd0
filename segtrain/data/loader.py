"""From datasets to batches on the way to the device.

A training sample is named by (epoch, index, how often the image came before, pixel to centre on), so order and
augmentation do not depend on the number of workers and a run can go on in the middle of an epoch. Images stay uint8;
the model normalises on the device.
"""

import logging
import signal
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from segtrain.arguments import NonNegativeInt, PositiveInt, checked
from segtrain.class_counts.count import MOST_SKIPPED, ClassCounts
from segtrain.data.dataset import SegmentationDataset
from segtrain.data.sampling import centred
from segtrain.data.views import EveryAnnotator, InMemory, read_checked
from segtrain.errors import ConfigError, DataError, SegtrainError, counted

log = logging.getLogger("segtrain")

Batch = tuple[torch.Tensor, torch.Tensor, list[int]]  # images [N,3,H,W] uint8, targets, indices into the dataset


class Loader:
    """Settings of loading: how many images a batch, how many worker processes, what is kept in memory.

    Args:
        batch_size: images a step (a micro-batch when `trainer.accumulate` > 1).
        workers: processes that read and augment; 0 does it in the main process.
        cache: `ram` decodes every image once, at the start, and keeps it as uint8.
    """

    @checked
    def __init__(
        self, batch_size: PositiveInt = 8, workers: NonNegativeInt = 2, cache: Literal["none", "ram"] = "none"
    ):
        self.batch_size, self.workers, self.cache = batch_size, workers, cache

    def train(
        self, dataset: SegmentationDataset, augment, sampling, counts: ClassCounts, seed: int, annotated: bool = False
    ) -> "TrainBatches":
        """Augmented batches, of the images that `sampling` chooses by `counts`, the class counts of `dataset`.

        With `annotated` the target is every annotator's mask, uint8 [N,A,H,W].
        """
        if augment.size is None:
            _check_equal_sizes(dataset)
            if centred(sampling):
                raise ConfigError(
                    "crops cannot be centred on foreground when whole images are taken",
                    f"sampling ({type(sampling).__name__}), augment.size=null",
                    "set a crop, for example augment.size=[256,256]",
                )
        dataset = EveryAnnotator(dataset) if annotated else dataset
        dataset = InMemory(dataset) if self.cache == "ram" else dataset
        order = EpochOrder(counts, self.batch_size, sampling, seed)
        loader = self._loader(_TrainSamples(dataset, augment, seed), batch_sampler=order)
        return TrainBatches(loader, order, Skipped(dataset))

    def evaluation(self, dataset: SegmentationDataset) -> "EvaluationBatches":
        dataset = InMemory(dataset) if self.cache == "ram" else dataset
        loader = self._loader(_WholeImages(dataset), batch_size=self.batch_size, shuffle=False)
        return EvaluationBatches(loader, dataset, Skipped(dataset))

    def _loader(self, samples, **how) -> DataLoader:
        return DataLoader(
            samples,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_ignore_interrupt,
            **how,
        )


class EpochOrder:
    """Batch sampler: lists of (epoch, index, repeat, pixel to centre on), in the order `sampling` gives.

    A last batch of one image joins the batch before it: batch norm cannot learn from one.
    """

    def __init__(self, counts: ClassCounts, batch_size: int, sampling, seed: int):
        self.counts, self.batch_size, self.sampling, self.seed = counts, batch_size, sampling, seed
        self.length = counts.num_images
        self.epoch, self.first_batch = 0, 0

    def __len__(self) -> int:
        alone = self.length % self.batch_size == 1 and self.length > self.batch_size > 1
        return -(-self.length // self.batch_size) - alone

    def __iter__(self) -> Iterator[list[tuple[int, int, int, int]]]:
        chosen = self.sampling(self.counts, self.seed, self.epoch)
        columns = (chosen.indices.tolist(), chosen.repeats.tolist(), chosen.centres.tolist())
        samples = [(self.epoch, *sample) for sample in zip(*columns, strict=True)]
        for batch in range(self.first_batch, len(self)):
            end = None if batch == len(self) - 1 else (batch + 1) * self.batch_size
            yield samples[batch * self.batch_size : end]


class TrainBatches:
    """`for images, targets, indices in batches.epoch(3)`; `len` is the number of batches in an epoch."""

    def __init__(self, loader: DataLoader, order: EpochOrder, skipped: "Skipped"):
        self._loader, self._order, self._skipped = loader, order, skipped

    def __len__(self) -> int:
        return len(self._order)

    @property
    def num_images(self) -> int:
        """Images an epoch."""
        return self._order.length

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        self._order.epoch, self._order.first_batch = epoch, first_batch
        for batches, errors in self._loader:
            self._skipped.add(errors)
            yield from batches


class EvaluationBatches:
    """Whole images in the order of the dataset, in batches of one size each."""

    def __init__(self, loader: DataLoader, dataset: SegmentationDataset, skipped: "Skipped"):
        self._loader, self.dataset, self._skipped = loader, dataset, skipped

    def num_images(self, batches: int | None) -> int:
        """Images in the first `batches` batches; None: in all."""
        every = len(self.dataset.names)
        return every if batches is None else min(every, batches * self._loader.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for batches, errors in self._loader:
            self._skipped.add(errors)
            yield from batches


class Skipped:
    """The images that could not be read, each told once: raised, or left out while they are few."""

    def __init__(self, dataset: SegmentationDataset):
        self._skip = getattr(dataset, "on_error", "raise") == "skip"
        self._most = MOST_SKIPPED * len(dataset.names)
        self._places: set[str] = set()

    def add(self, errors: list[SegtrainError]) -> None:
        """Raise the first error; with `dataset.on_error=skip`, when it is one too many."""
        for error in errors:
            if not self._skip or not isinstance(error, DataError):
                raise error
            if error.where in self._places:
                continue
            self._places.add(error.where)
            if len(self._places) > self._most:
                raise DataError(
                    f"{error.what} ({counted(len(self._places), 'image')} of the split cannot be read, more than 1 %)",
                    error.where,
                    "`segtrain check` lists them all; dataset.on_error=skip is for a few",
                )
            log.warning(f"skipped: {error.what}: {error.where}")


class _TrainSamples:
    def __init__(self, dataset: SegmentationDataset, augment, seed: int):
        self._dataset, self._augment, self._seed = dataset, augment, seed

    def __getitems__(self, keys: list[tuple[int, int, int, int]]):
        return _batched((self._sample(key) for key in keys), len(keys))

    def _sample(self, key: tuple[int, int, int, int]):
        epoch, index, repeat, centre = key
        errors = []
        # A batch keeps its size: an image that cannot be read is replaced by the next that can.
        for shift in range(len(self._dataset.names)):
            place = (index + shift) % len(self._dataset.names)
            try:
                image, mask = read_checked(self._dataset, place)
                seed = (self._seed, epoch, index, *([repeat] if repeat else []))
                how = {"centre": centre} if centre >= 0 and shift == 0 else {}  # a user's own may know of none
                image, mask = self._augment(image, mask, seed=seed, **how)
                _check_augmented(image, mask, self._augment)
                return (image, mask, place), errors
            except SegtrainError as error:
                errors.append(error)
                if getattr(self._dataset, "on_error", "raise") == "raise":
                    break
        return None, errors


class _WholeImages:
    def __init__(self, dataset: SegmentationDataset):
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset.names)

    def __getitems__(self, indices: list[int]):
        return _batched((self._sample(index) for index in indices), len(indices))

    def _sample(self, index: int):
        try:
            return (*read_checked(self._dataset, index), index), []
        except SegtrainError as error:
            return None, [error]


def _check_augmented(image: np.ndarray, mask: np.ndarray, augment) -> None:
    if image.dtype != np.uint8 or mask.dtype != np.uint8:
        raise ConfigError(
            f"the augmentation gives an image of {image.dtype} and a mask of {mask.dtype}",
            type(augment).__name__,
            "both must be uint8: the model normalises",
        )


def _ignore_interrupt(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the main process decides when the workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _batched(samples: Iterator, most: int) -> tuple[list[Batch], list[SegtrainError]]:
    """At most `most` samples to batches of equal size (one, but for whole images of different sizes), and their errors.

    Each is copied to its place in the batch as it comes, while it is in the cache.
    """
    groups: dict[tuple, tuple[np.ndarray, np.ndarray, list[int]]] = {}
    every = []
    for sample, errors in samples:
        every += errors
        if sample is None:
            continue
        image, mask, index = sample
        shapes = image.shape, mask.shape
        if shapes not in groups:
            groups[shapes] = (*(np.empty((most, *shape), np.uint8) for shape in shapes), [])
        images, masks, indices = groups[shapes]
        images[len(indices)], masks[len(indices)] = image, mask
        indices.append(index)
    return [(_tensor(i[: len(k)]), _tensor(m[: len(k)]), k) for i, m, k in groups.values()], every


def _tensor(arrays: np.ndarray) -> torch.Tensor:
    """[N,H,W], or [N,C,H,W] as a view of [N,H,W,C]: that is channels_last, the order a network on images works in."""
    tensor = torch.from_numpy(arrays)
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def _as_it_is(batches):
    return batches


def _check_equal_sizes(dataset: SegmentationDataset) -> None:
    if not hasattr(dataset, "size"):
        return
    sizes: dict[tuple[int, int], str] = {}
    for index, name in enumerate(dataset.names):
        try:
            sizes.setdefault(tuple(dataset.size(index)), name)
        except DataError:
            continue  # told when it is read
        if len(sizes) > 1:
            (first, one), (second, other) = sizes.items()
            raise ConfigError(
                f"training images differ in size: {one} is {first}, {other} is {second} (height, width)",
                "augment.size=null, which keeps whole images",
                "set a crop, for example augment.size=[256,256]",
            )
