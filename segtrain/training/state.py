"""Dataclasses for the parts, the state and the epoch results of a training."""

import copy
import logging
from dataclasses import dataclass, field
from typing import get_type_hints

import numpy as np
import torch
from torch import nn

from segtrain.arguments import NonNegative, NonNegativeInt, mistake
from segtrain.errors import NotFinite, counted
from segtrain.files import are_numbers
from segtrain.inference import Inference
from segtrain.labels import Hard, Labels
from segtrain.losses import Loss
from segtrain.metrics import Metric, Score
from segtrain.training.profile import Profile

log = logging.getLogger("segtrain")


@dataclass
class Parts:
    """The parts of a training; modules are on the trainer's device.

    Attributes:
        model: uint8 images [N,B,H,W] -> logits [N,C,H,W].
        loss: of the validation; the training loss is `labels.training_loss(loss)`.
        optimizer, schedule: of torch, or of the same methods; the schedule is stepped once a step.
        train, val: TrainBatches and EvaluationBatches of segtrain.data.loader.
        scores: the metric, such as SegmentationScores.
        labels: the training targets.
        inference: windows, flips and scales of the validation.
        shown: indices of the validation images whose predictions each Epoch has.
    """

    model: nn.Module
    loss: Loss
    optimizer: torch.optim.Optimizer
    schedule: object
    train: object
    val: object
    scores: Metric
    labels: Labels = field(default_factory=Hard)
    inference: Inference = field(default_factory=Inference)
    shown: list[int] = field(default_factory=list)


@dataclass
class State:
    """Progress of a training: what a checkpoint holds besides weights, optimizer and random numbers."""

    epoch: NonNegativeInt = 0  # epochs that are done
    batch: NonNegativeInt = 0  # batches of the current epoch that are done
    step: NonNegativeInt = 0  # optimizer steps that are done
    images: NonNegativeInt = 0  # images of the current epoch that are done
    counted: NonNegativeInt = 0  # those of them whose loss is in `sums`: all, but for skipped steps
    seconds: NonNegative = 0.0  # of the current epoch
    waited: NonNegative = 0.0  # of them for batches
    lr: NonNegative = 0.0  # of the last step
    skipped: NonNegativeInt = 0  # steps left out since a loss or gradient was not finite
    sums: dict = field(default_factory=dict)  # train losses of the current epoch, times images; on the device
    best: dict | None = None  # epoch (from 1), monitor, value

    @classmethod
    def of(cls, content: dict, batches: int) -> "State":
        """That of a checkpoint, in epochs of so many batches. Raises ValueError for content of another form."""
        found = cls(**content)
        kinds = get_type_hints(cls, include_extras=True)
        wrong = [name for name, value in vars(found).items() if mistake(value, kinds[name])]
        if isinstance(best := found.best, dict) and not (
            {"epoch", "monitor", "value"} <= best.keys() and are_numbers([best["epoch"], best["value"]])
        ):
            wrong.append("best")
        if isinstance(found.sums, dict) and not are_numbers(found.sums.values()):
            wrong.append("sums")
        if wrong:
            raise ValueError(f"state has {', '.join(wrong)} in another form than a training writes")
        if found.batch > batches:
            raise ValueError(f"it was written after {found.batch} batches of {batches}")
        return found

    def is_best(self, value: float | None, higher_is_better: bool) -> bool:
        """Whether `value` of the monitored score beats the best so far; None, where it is undefined, beats another None."""
        best = self.best and self.best["value"]
        if value is None or best is None:
            return best is None
        return value > best if higher_is_better else value < best

    def skip_step(self, most: int) -> None:
        """Count a step that was left out. Raises NotFinite after more than `most`."""
        self.skipped += 1
        log.warning(f"step {self.step} skipped: its loss or gradient is not finite ({self.skipped} so far)")
        if self.skipped > most:
            what = f"{self.skipped} steps had a loss or gradient that is not finite"
            fix = "lower optimizer.lr, set trainer.clip_norm=1, or raise trainer.max_skipped"
            raise NotFinite(what, f"step {self.step}", fix)

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether the monitored score has not improved for so many epochs; None: never."""
        if patience is None or self.best is None:
            return False
        waited = self.epoch - self.best["epoch"]
        if waited >= patience:
            log.info(f"{self.best['monitor']} has not improved for {counted(waited, 'epoch')}: stopping early")
        return waited >= patience

    def next_epoch(self) -> None:
        self.epoch, self.batch, self.images, self.counted = self.epoch + 1, 0, 0, 0
        self.seconds, self.waited, self.sums = 0.0, 0.0, {}


@dataclass
class Best:
    """What is kept of the best epoch so far.

    Attributes:
        weights: state dict of the network that was validated, not a copy: it changes with the next epoch.
        counts: arrays of which every score is a function, as of SegmentationScores.state.
        per_class: columns by name, one value per class.
        loss: what segtrain.losses.state gives of the loss; likewise no copy.
    """

    weights: dict[str, torch.Tensor]
    counts: dict[str, np.ndarray]
    per_class: dict[str, np.ndarray]
    loss: dict = field(default_factory=dict)

    def keep(self) -> None:
        """Copy the weights, before the training goes on."""
        self.weights = {name: tensor.detach().clone() for name, tensor in self.weights.items()}
        self.loss = copy.deepcopy(self.loss)


@dataclass(frozen=True)
class Epoch:
    """The results of an epoch.

    Attributes:
        number: from 1. step: optimizer steps so far. lr: learning rate of the last step.
        losses: `loss`, the mean training loss over the images, and its terms by name.
        scores: of the validation, with its `loss`.
        records: of the scores.
        monitor: record of the score that chooses the best epoch, and value: that score, None when undefined.
        best: when this epoch is the best so far.
        predictions: of the images of Parts.shown: classes uint8 [H,W], or multi-label bool [C,H,W].
        seconds: of training. images_per_second: in training. data_wait: share of the time spent waiting for batches.
        validation_seconds: of the validation.
        profile: in the epoch in which what was asked for has been seen.
    """

    number: int
    step: int
    lr: float
    losses: dict[str, float]
    scores: dict[str, float]
    records: dict[str, Score]
    monitor: Score
    value: float | None
    best: Best | None
    predictions: dict[int, np.ndarray]
    seconds: float
    images_per_second: float
    data_wait: float
    validation_seconds: float
    profile: Profile | None = None

    def row(self) -> dict[str, float]:
        """A row of metrics.csv."""
        terms = {f"train/loss/{name}": value for name, value in self.losses.items() if name != "loss"}
        return {
            "epoch": self.number,
            "step": self.step,
            "lr": self.lr,
            "train/loss": self.losses["loss"],
            **terms,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "data_wait": self.data_wait,
            "validation_seconds": self.validation_seconds,
            **{f"val/{name}": score for name, score in self.scores.items()},
        }
