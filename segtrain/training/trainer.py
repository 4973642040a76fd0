"""The training loop."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Literal

import torch

from segtrain.arguments import FractionBelowOne, NonNegativeInt, Positive, PositiveInt, checked
from segtrain.data.loader import killed_workers_explained
from segtrain.errors import ConfigError, NotFinite, did_you_mean, out_of_memory_explained
from segtrain.inference import Inference, Predictor
from segtrain.losses.state import own_state
from segtrain.metrics.metric import Metric, numbers
from segtrain.metrics.records import LOSS, Score, all_records
from segtrain.ranks import ALONE, Processes
from segtrain.signals import leave_if_stopped, received
from segtrain.training.device import autocast, choose_device, choose_precision
from segtrain.training.evaluation import evaluate, predict_one
from segtrain.training.memory import memory_advice
from segtrain.training.profile import Profile
from segtrain.training.progress import Progress
from segtrain.training.state import Best, Epoch, Parts, State
from segtrain.training.step import Step

log = logging.getLogger("segtrain")

SAVED_ANEW = 60  # seconds of training at the end of an epoch that a crash in its validation may lose


class Trainer:
    """Fits a network: forward, loss, backward, step, and after each epoch a validation.

    Args:
        epochs: passes over the training images.
        max_steps: stop after this many optimizer steps; None: when the epochs are done.
        val_batches: batches per validation; None: all.
        device: auto (CUDA when there is one), cpu, cuda, cuda:N.
        precision: auto is bfloat16 on CUDA and float32 on the CPU. Losses are always computed in float32.
        monitor: the score that chooses the best epoch: any name in metrics.csv after val/, or loss.
        patience: stop when `monitor` has not improved for this many epochs; None: never.
        checkpoint_every: steps between checkpoints, besides the one after each validation and often one before it.
        checkpoint_minutes: at most this many minutes between checkpoints.
        keep: number of earlier epochs whose checkpoints are kept, as epoch_NNN.pt.
        accumulate: micro-batches per step. Each term of the loss is weighted by its own amounts: pixel losses are those
            of the whole batch, region losses the mean over the micro-batches.
        clip_norm: largest norm of the gradient.
        nonfinite: when a loss or gradient is not finite, `stop` before the step, or `skip` the step (on CUDA the host
            then waits for the device in each step).
        max_skipped: number of steps that may be skipped before the training stops.
        deterministic: the same numbers on every run, also on CUDA, where it costs time.
        compile: torch.compile the network, for training batches of loader.batch_size; others, and the validation, run
            without.
        sync_batchnorm: with several processes (torchrun), batch norms use the images of all of them; on CUDA only.
        ema_decay: validate and keep an exponential moving average of the weights, with this decay per step; None: the
            weights themselves. Epochs before the last, whose learning rate is high, score far better with it.
        freeze_encoder: first epochs in which the encoder, including its batch statistics, does not change.
        prior_bias: the last layer's bias starts at the logarithms of the classes' shares of the pixels (multi-label: of
            their odds), so that the first epochs are not spent on the background (Lin et al., 2017, §4.1,
            https://arxiv.org/abs/1708.02002). The commands do it; with a trainer of your own call segtrain.models.set_prior_bias.
        panel_images: validation images drawn after each epoch.
        profile: number of batches to trace, and then of batches in which each part is timed; 0: none.
    """

    @checked
    def __init__(
        self,
        epochs: PositiveInt = 12,
        max_steps: PositiveInt | None = None,
        val_batches: PositiveInt | None = None,
        device: str = "auto",
        precision: str = "auto",
        monitor: str = "iou/mean",
        patience: PositiveInt | None = None,
        checkpoint_every: PositiveInt | None = None,
        checkpoint_minutes: Positive | None = None,
        keep: NonNegativeInt = 0,
        accumulate: PositiveInt = 1,
        clip_norm: Positive | None = None,
        nonfinite: Literal["stop", "skip"] = "stop",
        max_skipped: PositiveInt = 20,
        deterministic: bool = False,
        compile: bool = False,
        sync_batchnorm: bool = True,
        ema_decay: FractionBelowOne | None = 0.95,
        freeze_encoder: NonNegativeInt = 0,
        prior_bias: bool = True,
        panel_images: NonNegativeInt = 4,
        profile: NonNegativeInt = 0,
    ):
        self.epochs, self.max_steps, self.val_batches = epochs, max_steps, val_batches
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.monitor, self.patience = monitor, patience
        self.checkpoint_every, self.checkpoint_minutes, self.keep = checkpoint_every, checkpoint_minutes, keep
        self.nonfinite, self.max_skipped = nonfinite, max_skipped
        self.accumulate, self.clip_norm, self.deterministic = accumulate, clip_norm, deterministic
        self.compile, self.ema_decay, self.panel_images = compile, ema_decay, panel_images
        self.freeze_encoder, self.prior_bias, self.profile = freeze_encoder, prior_bias, profile
        self.sync_batchnorm = sync_batchnorm

    def total_steps(self, batches_per_epoch: int) -> int:
        """Optimizer steps of the whole training, for the schedule."""
        steps = self.epochs * -(-batches_per_epoch // self.accumulate)
        return min(steps, self.max_steps or steps)

    def total_epochs(self, batches_per_epoch: int) -> int:
        """Epochs of the whole training, of which `max_steps` may cut the last one short."""
        return -(-self.total_steps(batches_per_epoch) // -(-batches_per_epoch // self.accumulate))

    def check_monitor(self, scores: Metric) -> None:
        """Raise ConfigError, before any work, when `monitor` is no score."""
        names = [*scores.score_names(), LOSS.name]
        if self.monitor not in names:
            what = f"no score {self.monitor!r}{did_you_mean(self.monitor, names)}"
            raise ConfigError(what, "trainer.monitor", f"use one of {', '.join(names)}; another metric may have more")

    def monitored(self, scores: Metric) -> Score:
        """The record of the score that chooses the best epoch."""
        return all_records(scores)[self.monitor]

    def autocast(self):
        """The context of every forward pass."""
        return autocast(self.device, self.precision)

    def predictor(self, network: torch.nn.Module, dataset, inference: Inference, regions=None) -> Predictor:
        """The predictions of a network for the classes of a dataset, on the device and in the precision of training."""
        return Predictor(
            network, self.device, self.autocast, dataset.multilabel, inference, dataset.background, regions
        )

    def fit(
        self,
        parts: Parts,
        resume_from: dict | None = None,
        checkpoint: Callable[[dict], None] = lambda content: None,
        processes: Processes = ALONE,
    ) -> Iterator[Epoch]:
        """Train, and give each epoch when its validation is done. `break` ends the training.

        Args:
            resume_from: the content of a checkpoint.
            checkpoint: called with what a training is resumed from: every `checkpoint_every` steps, after each epoch,
                before its validation if the last is a minute old, and before a stop signal ends the training; by the
                first process.
            processes: those that train the network together.

        Raises NotFinite before a step would spoil the weights, OutOfMemory, ConfigError for a checkpoint that does not
        fit, and after a stop signal (segtrain.signals) Preempted or KeyboardInterrupt.
        """
        self.check_monitor(parts.scores)
        self._setup(parts, resume_from, checkpoint, processes)
        with (
            killed_workers_explained(),
            out_of_memory_explained(lambda: memory_advice(self.device, self.state.epoch)),
            self._not_finite_described(),
            self.profiled,
        ):
            while not self._finished():
                losses = self._train_epoch()
                if not self.saved or time.monotonic() - self.saved_at > SAVED_ANEW:
                    self._save()  # before any best.pt, which is no checkpoint to go on from
                yield self._validate(losses)
                self.state.next_epoch()
                self._save()
                self.processes.agree_to_stop()
                leave_if_stopped()

    def _setup(
        self, parts: Parts, resume_from: dict | None, checkpoint: Callable[[dict], None], processes: Processes = ALONE
    ) -> None:
        self.processes, self.parts, self.checkpoint, self.saved_at = processes, parts, checkpoint, time.monotonic()
        self.saved = resume_from is not None
        self.profiled = Profile(self.profile, self.device)
        self.step = Step(
            parts,
            device=self.device,
            precision=self.precision,
            clip_norm=self.clip_norm,
            ema_decay=self.ema_decay,
            compiled=self.compile,
            skip=self.nonfinite == "skip",
            part=self.profiled.part,
            processes=processes,
            sync_batchnorm=self.sync_batchnorm,
        )
        self.steps = self.total_steps(len(parts.train))
        self.state = State(lr=parts.optimizer.param_groups[0]["lr"])
        if resume_from is not None:
            try:
                self.step.load_state_dict(resume_from)
                self.state = State.of(resume_from["state"], len(parts.train))
            except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                what = f"the checkpoint does not fit the training: {' '.join(str(error).split())[:300]}"
                fix = "resume it with the settings and version it was written with"
                raise ConfigError(what, "checkpoints/last.pt", fix) from error
            log.info(f"resuming after {self.state.epoch} epochs and {self.state.step} steps")
        self.profiled.check(self.steps * self.accumulate, (self.steps - self.state.step) * self.accumulate)

    def _finished(self) -> bool:
        """Whether no epoch is left; one that was begun, though the steps are done, is still to be validated."""
        out_of_steps = self.state.step >= self.steps and self.state.batch == 0
        return self.state.epoch >= self.epochs or out_of_steps or self.state.out_of_patience(self.patience)

    def _train_epoch(self) -> dict[str, float]:
        """Train until the epoch or the steps end; returns the mean loss over the images, and its terms."""
        state, train, group = self.state, self.parts.train, []
        started = time.perf_counter() - state.seconds
        title = f"epoch {state.epoch + 1}/{self.total_epochs(len(train))}"
        progress = Progress(title, train.num_images, state.images, self.processes.first)
        if name := self.step.loss.start_epoch(state.epoch):
            log.info(f"epoch {state.epoch + 1}: the loss is {name} from here on")
        self.step.train(frozen_encoder=state.epoch < self.freeze_encoder)
        torch.backends.cudnn.benchmark = not self.deterministic and self.step.is_tried_quickly  # crops are of one size
        left = [] if state.step >= self.steps else train.epoch(state.epoch, state.batch)
        for batch in self.profiled.each(left, state):
            group.append(batch)
            if len(group) < self.accumulate and state.batch + len(group) < len(train):
                continue
            state.lr = self.parts.optimizer.param_groups[0]["lr"]
            terms, count = self.step(group, state.step), sum(len(indices) for *_, indices in group)
            for name, value in terms.items():
                state.sums[name] = value.double().mul_(count).add_(state.sums.get(name, 0))
            state.step, state.batch, state.images = state.step + 1, state.batch + len(group), state.images + count
            state.counted += count if terms else 0
            state.seconds, group = time.perf_counter() - started, []
            progress.advance(count, float(terms["loss"]) if terms and progress.due() else None)
            if not terms:
                state.skip_step(self.max_skipped)
            self.processes.agree_to_stop()
            if received() or self._checkpoint_due():
                self._save()
            leave_if_stopped()
            if state.step >= self.steps:
                break
        progress.close()
        self.step.finite.check()
        return {name: float(total) / state.counted for name, total in state.sums.items()} or {"loss": math.nan}

    def _checkpoint_due(self) -> bool:
        minutes = (time.monotonic() - self.saved_at) / 60
        by_steps = self.checkpoint_every is not None and self.state.step % self.checkpoint_every == 0
        return by_steps or (self.checkpoint_minutes is not None and minutes >= self.checkpoint_minutes)

    def _validate(self, losses: dict[str, float]) -> Epoch:
        """Score the validation images."""
        state, parts, started = self.state, self.parts, time.perf_counter()
        self.processes.same_buffers(self.step.model, self.step.validated)
        torch.backends.cudnn.benchmark = False  # images may differ in size, each of which would be timed
        limit, part, dataset = parts.val.num_images(self.val_batches), self.profiled.part, parts.val.dataset
        progress = Progress("validation", limit, bar=self.processes.first)
        predictor = self.predictor(self.step.validated, dataset, parts.inference)
        sharing = self.processes.validating(parts.scores)
        loss = evaluate(
            predictor, parts.val, parts.scores, parts.loss, dataset.names, limit, progress.advance, part, sharing
        )
        progress.close()
        scores = {**numbers(parts.scores.compute()), LOSS.name: loss}
        best, records = None, all_records(parts.scores)
        value, monitor = (None if math.isnan(scores[self.monitor]) else scores[self.monitor]), records[self.monitor]
        if state.is_best(value, monitor.higher_is_better):
            state.best = {"epoch": state.epoch + 1, "monitor": self.monitor, "value": value}
            kept = parts.scores.state(), parts.scores.per_class(), own_state(parts.loss)
            best = Best(self.step.validated.state_dict(), *kept)
        return Epoch(
            number=state.epoch + 1,
            step=state.step,
            lr=state.lr,
            losses=losses,
            scores=scores,
            records=records,
            monitor=monitor,
            value=value,
            best=best,
            predictions={i: predict_one(predictor, dataset.image(i)) for i in parts.shown if self.processes.first},
            seconds=state.seconds,
            images_per_second=state.images / state.seconds,
            data_wait=state.waited / state.seconds,
            validation_seconds=time.perf_counter() - started,
            profile=self.profiled if self.profiled.finished() else None,
        )

    def _save(self) -> None:
        """A checkpoint; weights that are not finite are not written."""
        if not self.processes.first:
            return
        state = vars(self.state) | {"sums": {name: float(v) for name, v in self.state.sums.items()}}
        self.checkpoint({**self.step.state_dict(), "state": state})
        self.saved_at, self.saved = time.monotonic(), True

    @contextlib.contextmanager
    def _not_finite_described(self):
        try:
            yield
        except NotFinite as error:
            error.seen = error.seen or {"step": self.state.step, "what": error.what, "where": error.where}
            raise
