"""From datasets to batches on the way to the device.

A training sample is named by (epoch, index), so order and augmentation do not depend on the number of workers
and a run can go on in the middle of an epoch. Images stay uint8; the model normalises on the device.
"""

import signal
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from segtrain.arguments import NonNegativeInt, PositiveInt, checked
from segtrain.data.dataset import SegmentationDataset, check_sample, check_values
from segtrain.errors import ConfigError, SegtrainError

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
        self, dataset: SegmentationDataset, augment, sampling, seed: int, annotated: bool = False
    ) -> "TrainBatches":
        """Augmented batches. With `annotated` the target is every annotator's mask, uint8 [N,A,H,W]."""
        if augment.size is None:
            _check_equal_sizes(dataset)
        dataset = EveryAnnotator(dataset) if annotated else dataset
        dataset = InMemory(dataset) if self.cache == "ram" else dataset
        order = EpochOrder(len(dataset.names), self.batch_size, sampling, seed)
        loader = self._loader(_TrainSamples(dataset, augment, seed), batch_sampler=order)
        return TrainBatches(loader, order)

    def evaluation(self, dataset: SegmentationDataset) -> "EvaluationBatches":
        dataset = InMemory(dataset) if self.cache == "ram" else dataset
        loader = self._loader(_WholeImages(dataset), batch_size=self.batch_size, shuffle=False)
        return EvaluationBatches(loader, dataset)

    def _loader(self, samples, **how) -> DataLoader:
        return DataLoader(
            samples,
            num_workers=self.workers,
            collate_fn=_by_size,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_ignore_interrupt,
            **how,
        )


class EpochOrder:
    """Batch sampler: lists of (epoch, index), in the order `sampling` gives for the epoch.

    A last batch of one image joins the batch before it: batch norm cannot learn from one.
    """

    def __init__(self, length: int, batch_size: int, sampling, seed: int):
        self.length, self.batch_size, self.sampling, self.seed = length, batch_size, sampling, seed
        self.epoch, self.first_batch = 0, 0

    def __len__(self) -> int:
        alone = self.length % self.batch_size == 1 and self.length > self.batch_size > 1
        return -(-self.length // self.batch_size) - alone

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self.sampling(self.length, self.seed, self.epoch).tolist()
        for batch in range(self.first_batch, len(self)):
            end = None if batch == len(self) - 1 else (batch + 1) * self.batch_size
            yield [(self.epoch, i) for i in order[batch * self.batch_size : end]]


class TrainBatches:
    """`for images, targets, indices in batches.epoch(3)`; `len` is the number of batches in an epoch."""

    def __init__(self, loader: DataLoader, order: EpochOrder):
        self._loader, self._order = loader, order

    def __len__(self) -> int:
        return len(self._order)

    @property
    def num_images(self) -> int:
        """Images an epoch."""
        return self._order.length

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        self._order.epoch, self._order.first_batch = epoch, first_batch
        for groups in self._loader:
            if isinstance(groups, SegtrainError):
                raise groups
            yield from groups


class EvaluationBatches:
    """Whole images in the order of the dataset, in batches of one size each."""

    def __init__(self, loader: DataLoader, dataset: SegmentationDataset):
        self._loader, self.dataset = loader, dataset

    def num_images(self, batches: int | None) -> int:
        """Images in the first `batches` batches; None: in all."""
        every = len(self.dataset.names)
        return every if batches is None else min(every, batches * self._loader.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for groups in self._loader:
            if isinstance(groups, SegtrainError):
                raise groups
            yield from groups


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
    """A dataset whose images and masks are decoded once; workers that are forked share the memory."""

    def __init__(self, dataset: SegmentationDataset):
        from tqdm import tqdm

        super().__init__(dataset)
        indices = tqdm(
            range(len(dataset.names)),
            desc="reading images into memory",
            unit="image",
            leave=False,
            disable=None,
        )
        self._samples = [(dataset.image(i), dataset.mask(i)) for i in indices]

    def image(self, index: int) -> np.ndarray:
        return self._samples[index][0]

    def mask(self, index: int) -> np.ndarray:
        return self._samples[index][1]


class _TrainSamples:
    def __init__(self, dataset: SegmentationDataset, augment, seed: int):
        self._dataset, self._augment, self._seed = dataset, augment, seed

    def __getitem__(self, key: tuple[int, int]):
        epoch, index = key
        read = _read(self._dataset, index)
        if isinstance(read, SegtrainError):
            return read
        image, mask = self._augment(*read, seed=(self._seed, epoch, index))
        return _to_tensors(image, mask, index)


class _WholeImages:
    def __init__(self, dataset: SegmentationDataset):
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset.names)

    def __getitem__(self, index: int):
        read = _read(self._dataset, index)
        return read if isinstance(read, SegtrainError) else _to_tensors(*read, index)


def _read(dataset: SegmentationDataset, index: int):
    """Image and mask, checked; or the error as a value, since torch rewrites one that is raised in a worker."""
    try:
        image, mask = dataset.image(index), dataset.mask(index)
        check_sample(image, mask, dataset, index)
        check_values(np.bincount(mask.ravel(), minlength=256), dataset, index)
        return image, mask
    except SegtrainError as error:
        return error


def _to_tensors(image: np.ndarray, mask: np.ndarray, index: int):
    image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    mask = mask.transpose(2, 0, 1) if mask.ndim == 3 else mask
    return image, torch.from_numpy(np.ascontiguousarray(mask)), index


def _ignore_interrupt(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the main process decides when the workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _by_size(samples: list) -> list[Batch] | SegtrainError:
    """Samples to batches of equal size: one batch, but for whole images of different sizes."""
    for sample in samples:
        if isinstance(sample, SegtrainError):
            return sample
    groups: dict[torch.Size, list] = {}
    for sample in samples:
        groups.setdefault(sample[0].shape, []).append(sample)
    return [
        (torch.stack([s[0] for s in g]), torch.stack([s[1] for s in g]), [s[2] for s in g]) for g in groups.values()
    ]


def _check_equal_sizes(dataset: SegmentationDataset) -> None:
    if not hasattr(dataset, "size"):
        return
    first = dataset.size(0)
    for index in range(1, len(dataset.names)):
        if dataset.size(index) != first:
            raise ConfigError(
                f"training images differ in size: {dataset.names[0]} is {first}, {dataset.names[index]} is "
                f"{dataset.size(index)} (height, width)",
                "augment.size=null, which keeps whole images",
                "set a crop, for example augment.size=[256,256]",
            )
