"""The training loop. To change the loop, change the loop."""

import contextlib
import logging
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from segtrain import panels
from segtrain.arguments import FractionBelowOne, NonNegativeInt, Positive, PositiveInt, checked
from segtrain.checkpoint import load_checkpoint, save_checkpoint
from segtrain.errors import ConfigError, NotFinite, OutOfMemory, Preempted, did_you_mean
from segtrain.evaluation import evaluate
from segtrain.logbook import Logbook, Progress
from segtrain.metrics import predict
from segtrain.models import choose_device
from segtrain.run_folder import RunFolder, per_class_rows

log = logging.getLogger("segtrain")


@dataclass
class State:
    """Where a run is: all that a checkpoint needs besides the weights."""

    epoch: int = 0
    batch: int = 0  # batches of the epoch that are done
    step: int = 0  # optimizer steps that are done
    seconds: float = 0.0  # of the epoch, before the run was stopped
    best: dict | None = None  # epoch, monitor, value
    sums: dict[str, float] = field(default_factory=dict)  # train losses of the epoch, times images


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
        accumulate: micro-batches a step; the loss of a step is their mean, weighted by images.
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
        self.precision = _precision(precision, self.device)
        self.monitor, self.patience, self.checkpoint_every = monitor, patience, checkpoint_every
        self.accumulate, self.clip_norm, self.deterministic = accumulate, clip_norm, deterministic
        self.compile, self.ema_decay, self.panel_images = compile, ema_decay, panel_images

    def total_steps(self, batches_per_epoch: int) -> int:
        """Optimizer steps of the whole run, for the schedule."""
        steps = self.epochs * -(-batches_per_epoch // self.accumulate)
        return min(steps, self.max_steps or steps)

    def check_monitor(self, scores) -> None:
        """Raise ConfigError, before any work, when `monitor` is no score."""
        names = [*scores.score_names(), "loss"] if hasattr(scores, "score_names") else [self.monitor]
        if self.monitor not in names:
            raise ConfigError(
                f"no score {self.monitor!r}{did_you_mean(self.monitor, names)}",
                "trainer.monitor",
                f"use one of {', '.join(names)}",
            )

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
        resume: bool = False,
    ) -> dict:
        """Train; leaves checkpoints, metrics.csv, TensorBoard events and pictures in `run`.

        Args:
            model, loss: modules on `self.device`.
            train, val: TrainBatches and EvaluationBatches of segtrain.data.loader.
            scores: what the validation fills, such as SegmentationScores.
            config: the settings by dotted name, for TensorBoard's HPARAMS page.
            resume: go on from last.pt.

        Returns {"best": …, "scores": …, "per_class": […]} of the best epoch.
        Raises NotFinite before a step would spoil the weights, OutOfMemory, Preempted on SIGTERM.
        """
        self.check_monitor(scores)
        fit = _Fit(self, model, loss, optimizer, schedule, train, val, scores, run)
        if resume:
            fit.load()
        try:
            with _sigterm(fit.stop):
                fit.epochs()
            fit.logbook.settings(config, fit.state.best["value"])
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                str(error).split(". ")[0],
                f"epoch {fit.state.epoch}, {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB in use at the peak",
                "lower loader.batch_size (and raise trainer.accumulate by as much), or augment.size",
            ) from error
        except KeyboardInterrupt:
            fit.save("last.pt")
            raise
        finally:
            fit.logbook.close()
        return {"best": fit.state.best, "scores": fit.best_scores, "per_class": fit.best_per_class}

    def autocast(self):
        """The context of every forward pass."""
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)


class _Fit:
    """One call of Trainer.fit: its objects, and the state that a checkpoint keeps."""

    def __init__(self, settings: Trainer, model, loss, optimizer, schedule, train, val, scores, run: RunFolder):
        self.settings, self.run, self.device = settings, run, settings.device
        self.model = model.to(memory_format=torch.channels_last)
        self.forward = torch.compile(self.model) if settings.compile else self.model
        self.loss, self.optimizer, self.schedule = loss, optimizer, schedule
        self.train, self.val, self.scores = train, val, scores
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == torch.float16)
        self.average = _moving_average(model, settings.ema_decay)
        self.state = State()
        self.best_scores: dict = {}
        self.best_per_class: list = []
        self.stopping = False
        self.logbook = Logbook(run.path)
        self._bad = torch.zeros((), device=self.device)  # becomes 1 at the first loss that is not finite
        self._shown = (
            panels.images_with_rare_classes(val.dataset, settings.panel_images) if settings.panel_images else []
        )

    @property
    def steps(self) -> int:
        return self.settings.total_steps(len(self.train))

    def stop(self) -> None:
        """Ask the loop to end after the step it is in."""
        self.stopping = True

    def epochs(self) -> None:
        while self.state.epoch < self.settings.epochs and self.state.step < self.steps:
            row = self.one_epoch()
            row |= self.validate()
            self.logbook.epoch(row)
            log.info(_epoch_line(row, self.settings))
            self.state = State(epoch=self.state.epoch + 1, step=self.state.step, best=self.state.best)
            self.save("last.pt")
            since_best = self.state.epoch - 1 - self.state.best["epoch"]
            if self.settings.patience is not None and since_best >= self.settings.patience:
                log.info(f"{self.settings.monitor} has not improved for {since_best} epochs: stopping early")
                return

    def one_epoch(self) -> dict[str, float]:
        """Train until the epoch or the run ends; returns its row of metrics.csv."""
        self.model.train()
        started = time.perf_counter() - self.state.seconds
        sums = {name: torch.tensor(v, device=self.device, dtype=torch.float64) for name, v in self.state.sums.items()}
        images = int(self.state.sums.get("images", 0))
        progress = Progress(f"epoch {self.state.epoch + 1}/{self.settings.epochs}", self.train.num_images)
        progress.advance(images)
        group: list = []
        for batch in self.train.epoch(self.state.epoch, self.state.batch):
            group.append(batch)
            self.state.batch += 1
            if len(group) < self.settings.accumulate and self.state.batch < len(self.train):
                continue
            terms = self.one_step(group)
            count = sum(len(b[0]) for b in group)
            images += count
            for name, value in terms.items():
                sums[name] = sums.get(name, 0) + value * count
            progress.advance(count, float(terms["loss"]) if progress.due() else None)
            group = []
            self._after_step(sums, images, time.perf_counter() - started)
            if self.state.step >= self.steps:
                break
        progress.close()
        self._check_finite()
        seconds = time.perf_counter() - started
        means = {
            ("train/loss" if k == "loss" else f"train/loss/{k}"): float(v) / images
            for k, v in sums.items()
            if k != "images"
        }
        return {
            "epoch": self.state.epoch,
            "step": self.state.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            **means,
            "seconds": seconds,
            "images_per_second": images / seconds,
        }

    def one_step(self, group: list) -> dict[str, torch.Tensor]:
        """One optimizer step over the micro-batches of `group`; returns the detached loss and its terms."""
        total = sum(len(images) for images, _, _ in group)
        terms: dict[str, torch.Tensor] = {}
        for images, target, _ in group:
            share = len(images) / total
            images = images.to(self.device, non_blocking=True)
            target = target.to(self.device, non_blocking=True)
            with self.settings.autocast():
                logits = self.forward(images)
            loss = self.loss(logits, target)
            self.scaler.scale(loss * share if share < 1 else loss).backward()
            for name, value in {"loss": loss.detach(), **getattr(self.loss, "parts", {})}.items():
                terms[name] = terms.get(name, 0) + value * share
        self._update(terms["loss"])
        return terms

    def _update(self, loss: torch.Tensor) -> None:
        bad = ~torch.isfinite(loss)
        if self.settings.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
            bad |= ~torch.isfinite(norm) if not self.scaler.is_enabled() else False
        self._bad = torch.maximum(self._bad, bad.float())
        # On CUDA, asking for the flag in each step would let the device wait for the host. Fused optimizers
        # skip a step whose flag is set, so asking now and then is enough to keep the weights unspoilt.
        guarded = getattr(self.optimizer, "_step_supports_amp_scaling", False) and self.device.type == "cuda"
        if not guarded or self.state.step % 20 == 0:
            self._check_finite()
        if guarded and not self.scaler.is_enabled():
            self.optimizer.found_inf, self.optimizer.grad_scale = self._bad, None
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.state.step += 1
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _check_finite(self) -> None:
        if self._bad:
            self.save("last.pt")
            raise NotFinite(
                "the loss is not finite; the weights are those before that step",
                f"epoch {self.state.epoch + 1}, about step {self.state.step}",
                "lower optimizer.lr, set trainer.clip_norm=1, use trainer.precision=float32, or cap the class "
                "weights (weighting.max_ratio)",
            )

    def _after_step(self, sums: dict, images: int, seconds: float) -> None:
        every = self.settings.checkpoint_every
        if self.stopping or (every and self.state.step % every == 0):
            self.state.sums = {k: float(v) for k, v in sums.items()} | {"images": images}
            self.state.seconds = seconds
            self.save("last.pt")
        if self.stopping:
            raise Preempted("stopped by SIGTERM", str(self.run.path), f"`segtrain resume {self.run.path}` goes on")

    def validate(self) -> dict[str, float]:
        """Score the validation images; keeps the checkpoint when it is the best so far."""
        model = self.average.module if self.average is not None else self.forward
        progress = Progress("validation", len(self.val))
        loss = evaluate(
            model,
            self.val,
            self.scores,
            self.device,
            self.settings.autocast,
            self.loss,
            self.val.dataset.names,
            self.settings.val_batches,
            progress.advance,
        )
        progress.close()
        scores = self.scores.compute()
        value = loss if self.settings.monitor == "loss" else scores[self.settings.monitor]
        best = self.state.best
        lower_is_better = self.settings.monitor == "loss"
        if (
            best is None
            or (best["value"] is None and not math.isnan(value))
            or (not math.isnan(value) and (value < best["value"] if lower_is_better else value > best["value"]))
        ):
            self.state.best = {
                "epoch": self.state.epoch,
                "monitor": self.settings.monitor,
                "value": None if math.isnan(value) else value,
            }
            self.best_scores, self.best_per_class = {**scores, "loss": loss}, per_class_rows(self.scores)
            self.run.write_per_image("per_image.npz", self.scores)
            self.save("best.pt")
        if self._shown:
            picture = self.draw(model)
            self.logbook.picture("image | truth | prediction", picture, self.state.step)
            if self.state.best["epoch"] == self.state.epoch:
                _write_png(picture, self.run.plots / "examples.png")
        return {"val/loss": loss} | {f"val/{name}": value for name, value in scores.items()}

    @torch.no_grad()
    def draw(self, model) -> np.ndarray:
        """Rows of image | truth | prediction."""
        model.eval()
        dataset, rows = self.val.dataset, []
        for index in self._shown:
            image, mask = dataset.image(index), dataset.mask(index)
            with self.settings.autocast():
                logits = model(torch.from_numpy(image.transpose(2, 0, 1).copy())[None].to(self.device))
            found = predict(logits, dataset.multilabel)[0].cpu().numpy()
            truth = mask.transpose(2, 0, 1) if dataset.multilabel else mask
            colours = [panels.colour_mask(m, dataset.num_classes, dataset.background) for m in (truth, found)]
            rows.append(panels.side_by_side([image, *colours]))
        return panels.stacked(rows)

    def save(self, name: str) -> None:
        """Write a checkpoint: last.pt can be resumed from, best.pt is the model alone."""
        model = self.average.module if self.average is not None and name == "best.pt" else self.model
        content = {"model": model.state_dict(), "epoch": self.state.epoch, "step": self.state.step}
        if name == "last.pt":
            content |= {
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "average": self.average.state_dict() if self.average is not None else None,
                "state": vars(self.state),
                "best_scores": self.best_scores,
                "best_per_class": self.best_per_class,
                "rng": torch.get_rng_state(),
                "rng_cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            }
        save_checkpoint(content, self.run.checkpoints / name)

    def load(self) -> None:
        """Go on from last.pt."""
        content = load_checkpoint(self.run.checkpoints / "last.pt", self.device)
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.schedule.load_state_dict(content["schedule"])
        self.scaler.load_state_dict(content["scaler"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        self.state = State(**content["state"])
        self.best_scores, self.best_per_class = content["best_scores"], content["best_per_class"]
        torch.set_rng_state(content["rng"].cpu())
        if content["rng_cuda"]:
            torch.cuda.set_rng_state_all([s.cpu() for s in content["rng_cuda"]])
        self.logbook.close()
        self.logbook = Logbook(self.run.path, self.state.epoch, self.state.step)
        log.info(f"going on at epoch {self.state.epoch + 1}, step {self.state.step}")


def _precision(name: str, device: torch.device) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if name not in known:
        raise ValueError(
            f"Trainer: precision={name!r} must be one of auto | {' | '.join(known)}{did_you_mean(name, known)}"
        )
    return known[name]


def _moving_average(model, decay: float | None):
    if decay is None:
        return None
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _epoch_line(row: dict[str, float], settings: Trainer) -> str:
    shown = f"val/{settings.monitor}"
    return (
        f"epoch {row['epoch'] + 1:>3}/{settings.epochs}  train loss {row['train/loss']:.4f}  val loss {row['val/loss']:.4f}"
        f"  {settings.monitor} {row[shown]:.4f}  {row['images_per_second']:.1f} images/s"
    )


def _write_png(picture: np.ndarray, file) -> None:
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file)


@contextlib.contextmanager
def _sigterm(stop: Callable[[], None]):
    """Call `stop` on SIGTERM, which schedulers send some seconds before they kill."""
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: stop())
    except ValueError:  # not in the main thread, as under some launchers: their own handling stays
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
