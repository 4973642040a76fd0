"""The training loop. To change the loop, change the loop."""

import contextlib
import logging
import math
import signal
import time
from dataclasses import dataclass, field

import torch

from segtrain.arguments import FractionBelowOne, NonNegativeInt, Positive, PositiveInt, checked
from segtrain.errors import ConfigError, NotFinite, OutOfMemory, Preempted, did_you_mean
from segtrain.inference import Inference, Predictor
from segtrain.labels import Hard
from segtrain.metrics.records import LOSS
from segtrain.report.charts import confusion_matrix
from segtrain.report.logger import Logbook, Progress
from segtrain.report.pictures import images_with_rare_classes, write_png
from segtrain.runs.checkpoint import load_checkpoint, save_checkpoint
from segtrain.runs.folder import RunFolder, per_class_rows
from segtrain.training.device import autocast, choose_device, choose_precision
from segtrain.training.ema import moving_average
from segtrain.training.evaluation import draw_examples, evaluate
from segtrain.training.signals import stopped_by_signals

log = logging.getLogger("segtrain")


@dataclass
class State:
    """Where a run is: what last.pt keeps besides weights, optimizer and random numbers."""

    epoch: int = 0
    batch: int = 0  # of the epoch, that are done
    step: int = 0  # of the optimizer, that are done
    images: int = 0  # of the epoch, that are done
    seconds: float = 0.0  # of the epoch, before the run was stopped
    sums: dict = field(default_factory=dict)  # train losses of the epoch, times images; on the device
    best: dict | None = None  # epoch, monitor, value
    scores: dict[str, float] = field(default_factory=dict)  # of the best epoch
    per_class: list[dict] = field(default_factory=list)  # of the best epoch

    def next_epoch(self) -> None:
        self.epoch, self.batch, self.images, self.seconds, self.sums = self.epoch + 1, 0, 0, 0.0, {}


class Trainer:
    """Fits a model: forward, loss, backward, step, and after each epoch a validation.

    Args:
        epochs: passes over the training images.
        max_steps: stop after so many optimizer steps; None: when the epochs are done.
        val_batches: batches of a validation; None: all.
        device: auto (CUDA when there is one), cpu, cuda, cuda:N.
        precision: auto is bfloat16 on CUDA and float32 on the CPU. Losses are always computed in float32.
        monitor: the score that says which epoch is best: any name in metrics.csv after val/, or loss.
        patience: stop when `monitor` has not improved for so many epochs; None: never.
        checkpoint_every: steps between writes of last.pt, which is also written after each epoch.
        accumulate: micro-batches a step. Pixel losses are those of the whole batch; region losses the mean of the
            micro-batches'.
        clip_norm: largest norm of the gradient.
        deterministic: the same numbers on every run, also on CUDA, where it costs time.
        compile: torch.compile the model.
        ema_decay: validate and keep an exponential moving average of the weights, with this decay a step.
        panel_images: validation images drawn after each epoch.
    """

    @checked
    def __init__(
        self,
        epochs: PositiveInt = 14,
        max_steps: PositiveInt | None = None,
        val_batches: PositiveInt | None = None,
        device: str = "auto",
        precision: str = "auto",
        monitor: str = "iou/mean",
        patience: PositiveInt | None = None,
        checkpoint_every: PositiveInt | None = None,
        accumulate: PositiveInt = 1,
        clip_norm: Positive | None = None,
        deterministic: bool = False,
        compile: bool = False,
        ema_decay: FractionBelowOne | None = None,
        panel_images: NonNegativeInt = 4,
    ):
        self.epochs, self.max_steps, self.val_batches = epochs, max_steps, val_batches
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.monitor, self.patience, self.checkpoint_every = monitor, patience, checkpoint_every
        self.accumulate, self.clip_norm, self.deterministic = accumulate, clip_norm, deterministic
        self.compile, self.ema_decay, self.panel_images = compile, ema_decay, panel_images

    def total_steps(self, batches_per_epoch: int) -> int:
        """Optimizer steps of the whole run, for the schedule."""
        steps = self.epochs * -(-batches_per_epoch // self.accumulate)
        return min(steps, self.max_steps or steps)

    def check_monitor(self, scores) -> None:
        """Raise ConfigError, before any work, when `monitor` is no score."""
        names = [*scores.score_names(), LOSS.name]
        if self.monitor not in names:
            raise ConfigError(
                f"no score {self.monitor!r}{did_you_mean(self.monitor, names)}",
                "trainer.monitor",
                f"use one of {', '.join(names)}; metric=all has more",
            )

    def autocast(self):
        """The context of every forward pass."""
        return autocast(self.device, self.precision)

    def fit(
        self,
        model,
        loss,
        optimizer,
        schedule,
        train,
        val,
        scores,
        run: RunFolder,
        config: dict,
        labels=None,
        inference: Inference | None = None,
        resume: bool = False,
    ) -> dict:
        """Train; leaves checkpoints, metrics.csv, TensorBoard events and pictures in `run`.

        Args:
            model, loss: modules on `self.device`.
            train, val: TrainBatches and EvaluationBatches of segtrain.data.loader.
            scores: what the validation fills, such as SegmentationScores.
            config: the settings by dotted name, for TensorBoard's HPARAMS page.
            labels: what the loss is taught with, of segtrain.labels; None: the masks as they are.
            inference: how the network is asked in the validation; None: of whole images as they are.
            resume: go on from last.pt.

        Returns {"best": …, "scores": …, "per_class": […]} of the best epoch.
        Raises NotFinite before a step would spoil the weights, OutOfMemory, Preempted on SIGTERM.
        """
        self.check_monitor(scores)
        self.setup(model, loss, optimizer, schedule, train, val, scores, run, labels, inference)
        if resume:
            self.load()
        self.logbook = Logbook(run.path, self.state.epoch, self.state.step)
        try:
            with stopped_by_signals(self.stop):
                while self.state.epoch < self.epochs and self.state.step < self.steps and not self.out_of_patience():
                    row = self.train_epoch() | self.validate()
                    self.logbook.epoch(row, self.monitor, self.epochs)
                    self.state.next_epoch()
                    self.save("last.pt")
                    self.leave_if_stopped()
            self.logbook.settings(config, self.state.best["value"])
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                str(error).split(". ")[0],
                f"epoch {self.state.epoch + 1}, {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at the peak",
                "lower loader.batch_size (and raise trainer.accumulate by as much), or augment.size",
            ) from error
        except KeyboardInterrupt:
            self.save("last.pt")
            raise
        finally:
            self.logbook.close()
        return {"best": self.state.best, "scores": self.state.scores, "per_class": self.state.per_class}

    def setup(
        self, model, loss, optimizer, schedule, train, val, scores, run: RunFolder, labels=None, inference=None
    ) -> None:
        """Take what a fit works on."""
        self.model = model.to(memory_format=torch.channels_last)
        self.forward = torch.compile(self.model) if self.compile else self.model
        self.average = moving_average(self.model, self.ema_decay)
        self.loss, self.labels, self.optimizer, self.schedule = loss, labels or Hard(), optimizer, schedule
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        self.train, self.val, self.scores, self.run = train, val, scores, run
        self.inference = inference or Inference()
        self.steps, self.lr = self.total_steps(len(train)), optimizer.param_groups[0]["lr"]
        self.state, self.stopping = State(), 0
        self.bad = torch.zeros((), device=self.device)  # becomes 1 at the first loss that is not finite
        self.shown = images_with_rare_classes(val.dataset, self.panel_images) if self.panel_images else []

    def train_epoch(self) -> dict[str, float]:
        """Train until the epoch or the run ends; returns the train part of the epoch's row in metrics.csv."""
        state, group = self.state, []
        started = time.perf_counter() - state.seconds
        progress = Progress(f"epoch {state.epoch + 1}/{self.epochs}", self.train.num_images, state.images)
        if hasattr(self.loss, "start_epoch") and (name := self.loss.start_epoch(state.epoch)):
            log.info(f"epoch {state.epoch + 1}: the loss is {name} from here on")
        self.model.train()
        for batch in self.train.epoch(state.epoch, state.batch):
            group.append(batch)
            if len(group) < self.accumulate and state.batch + len(group) < len(self.train):
                continue
            terms = self.step(group)
            count = sum(len(images) for images, _, _ in group)
            for name, value in terms.items():
                state.sums[name] = state.sums.get(name, 0) + value.double() * count
            state.batch, state.images = state.batch + len(group), state.images + count
            state.seconds = time.perf_counter() - started
            progress.advance(count, float(terms["loss"]) if progress.due() else None)
            group = []
            if self.checkpoint_every and state.step % self.checkpoint_every == 0:
                self.save("last.pt")
            self.leave_if_stopped()
            if state.step >= self.steps:
                break
        progress.close()
        self.check_finite()
        state.seconds = time.perf_counter() - started
        means = {name: float(total) / state.images for name, total in state.sums.items()}
        return {
            "epoch": state.epoch,
            "step": state.step,
            "lr": self.lr,
            "train/loss": means.pop("loss"),
            **{f"train/loss/{name}": mean for name, mean in means.items()},
            "seconds": state.seconds,
            "images_per_second": state.images / state.seconds,
        }

    def step(self, group: list) -> dict[str, torch.Tensor]:
        """One optimizer step over the micro-batches of `group`; returns the detached loss and its terms."""
        terms: dict[str, torch.Tensor] = {}
        group = [[part.to(self.device, non_blocking=True) for part in batch[:2]] for batch in group]
        group = [(images, self.labels.target(target)) for images, target in group]
        for (images, target), share in zip(group, self.shares(group), strict=True):
            with self.autocast(), _batch_norm_explained():
                logits = self.forward(images)
            loss, parts = self.labels(self.loss, logits, target, images)
            self.scaler.scale(loss * share).backward()
            terms["loss"] = terms.get("loss", 0) + loss.detach() * share
            for name, value in parts.items():
                terms[name] = terms.get(name, 0) + value * share
        self.update(terms["loss"])
        return terms

    def shares(self, group: list) -> list:
        """The part each micro-batch has in a step's loss.

        A pixel loss is a ratio of sums, so the loss of the whole batch weighs each micro-batch by its own
        denominator (`total_weight` of the loss); other losses by images.
        """
        if len(group) == 1:
            return [1.0]
        weigh = getattr(self.loss, "total_weight", None) or len
        weights = [weigh(target) for _, target in group]
        total = sum(weights)
        return [weight / total for weight in weights] if total > 0 else [1 / len(group)] * len(group)

    def update(self, loss: torch.Tensor) -> None:
        """Step, unless the loss or the gradient is not finite."""
        bad = ~torch.isfinite(loss)
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
            if not self.scaler.is_enabled():  # which skips such steps itself, and lowers its scale
                bad |= ~torch.isfinite(norm)
        self.bad = torch.maximum(self.bad, bad.float())
        # On CUDA, asking for the flag in each step would let the device wait for the host. Fused optimizers
        # skip a step whose flag is set, so asking now and then is enough to keep the weights unspoilt.
        guarded = self.device.type == "cuda" and getattr(self.optimizer, "_step_supports_amp_scaling", False)
        if not guarded or self.scaler.is_enabled() or self.state.step % 20 == 0:
            self.check_finite()
        elif guarded:
            self.optimizer.found_inf, self.optimizer.grad_scale = self.bad, None
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.lr = self.optimizer.param_groups[0]["lr"]
        self.schedule.step()
        self.state.step += 1
        if self.average is not None:
            self.average.update_parameters(self.model)

    def check_finite(self) -> None:
        if self.bad:
            self.save("last.pt")
            raise NotFinite(
                "the loss is not finite; the weights are those before that step",
                f"epoch {self.state.epoch + 1}, about step {self.state.step}",
                "lower optimizer.lr, set trainer.clip_norm=1, use trainer.precision=float32, or cap the class "
                "weights (weighting.max_ratio)",
            )

    def validate(self) -> dict[str, float]:
        """Score the validation images; returns their part of the row. Keeps the model when it is the best so far."""
        state, model = self.state, self.average.module if self.average is not None else self.forward
        progress = Progress("validation", self.val.num_images(self.val_batches))
        names = self.val.dataset.names
        predictor = Predictor(model, self.device, self.autocast, self.val.dataset.multilabel, self.inference)
        loss = evaluate(predictor, self.val, self.scores, self.loss, names, self.val_batches, progress.advance)
        progress.close()
        scores = {**self.scores.compute(), LOSS.name: loss}
        value = None if math.isnan(scores[self.monitor]) else scores[self.monitor]
        if self.is_best(value):
            state.best = {"epoch": state.epoch, "monitor": self.monitor, "value": value}
            state.scores, state.per_class = scores, per_class_rows(self.scores)
            self.run.write_per_image("per_image.npz", self.scores)
            self.save("best.pt")
            if (matrix := self.scores.confusion()) is not None:
                picture = confusion_matrix(matrix, self.scores.class_names)
                self.logbook.picture("confusion matrix", picture, state.step)
        if self.shown:
            picture = draw_examples(predictor, self.val.dataset, self.shown)
            self.logbook.picture("image | truth | prediction", picture, state.step)
            if state.best["epoch"] == state.epoch:
                write_png(picture, self.run.plots / "examples.png")
        return {f"val/{name}": score for name, score in scores.items()}

    def is_best(self, value: float | None) -> bool:
        """Whether `value` beats the best so far."""
        if self.state.best is None or self.state.best["value"] is None:
            return self.state.best is None or value is not None
        if value is None:
            return False
        best = self.state.best["value"]
        return value < best if self.lower_is_better() else value > best

    def lower_is_better(self) -> bool:
        """Whether `monitor` is a loss or an error, by its record."""
        return not {**self.scores.records(), LOSS.name: LOSS}[self.monitor].higher_is_better

    def out_of_patience(self) -> bool:
        if self.patience is None or self.state.best is None:
            return False
        waited = self.state.epoch - 1 - self.state.best["epoch"]
        if waited >= self.patience:
            log.info(f"{self.monitor} has not improved for {waited} epochs: stopping early")
        return waited >= self.patience

    def stop(self, number: int, _frame=None) -> None:
        """Signal handler: end after the step the loop is in; a second Ctrl-C ends at once."""
        if number == signal.SIGINT and self.stopping:
            raise KeyboardInterrupt
        self.stopping = number
        hint = ", Ctrl-C again stops at once" if number == signal.SIGINT else ""
        log.info(f"stopping after this step, or after the validation{hint}")

    def leave_if_stopped(self) -> None:
        if self.stopping:
            self.save("last.pt")
        if self.stopping == signal.SIGINT:
            raise KeyboardInterrupt
        if self.stopping:
            raise Preempted("stopped by SIGTERM", str(self.run.path), f"`segtrain resume {self.run.path}` goes on")

    def save(self, name: str) -> None:
        """Write a checkpoint: last.pt can be resumed from, best.pt is the model alone."""
        if name == "best.pt":
            model = self.average.module if self.average is not None else self.model
            content = {"model": model.state_dict(), "epoch": self.state.epoch, "step": self.state.step}
        else:
            content = {
                **{part: getattr(self, part).state_dict() for part in self.resumed_parts()},
                "state": vars(self.state) | {"sums": {name: float(v) for name, v in self.state.sums.items()}},
                "random": torch.get_rng_state(),
                "random_cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            }
        save_checkpoint(content, self.run.checkpoints / name)

    def load(self) -> None:
        """Go on from last.pt."""
        content = load_checkpoint(self.run.checkpoints / "last.pt", self.device)
        for part in self.resumed_parts():
            getattr(self, part).load_state_dict(content[part])
        self.state = State(**content["state"])
        torch.set_rng_state(content["random"].cpu())
        if content["random_cuda"]:
            torch.cuda.set_rng_state_all([state.cpu() for state in content["random_cuda"]])
        log.info(f"going on at epoch {self.state.epoch + 1}, step {self.state.step}")

    def resumed_parts(self) -> list[str]:
        return ["model", "optimizer", "schedule", "scaler"] + (["average"] if self.average is not None else [])


@contextlib.contextmanager
def _batch_norm_explained():
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            "batch norm cannot learn from a single value per channel",
            "a batch of one image, or a crop no larger than the network's stride",
            "raise loader.batch_size or augment.size",
        ) from error
