"""`segtrain key=value …`: the whole of a training, in the order the data goes through it."""

import logging
import os
import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from segtrain.class_counts import ClassCounts
from segtrain.commands.counting import count_and_weigh
from segtrain.commands.scoring import groups_of, intervals_of
from segtrain.config.build import (
    build,
    build_augment,
    build_dataset,
    build_inference,
    build_labels,
    build_loss,
    build_model,
    build_sampling,
    build_scores,
)
from segtrain.config.choices import choices_of, defaults_of, settings_of
from segtrain.config.schema import as_text
from segtrain.data.dataset import group_of, typical_size
from segtrain.data.loader import images_of_epoch, needs_locations
from segtrain.errors import ConfigError
from segtrain.models import set_prior_bias
from segtrain.optimizers import add_parameters, check_encoder
from segtrain.ranks import ALONE, Processes
from segtrain.report.advice import advice, padding_advice, tips_for_rare_classes
from segtrain.report.logger import Logger
from segtrain.report.pages.evaluation import write_evaluation_page
from segtrain.report.pages.training import training_facts
from segtrain.report.pictures import example, images_with_rare_classes
from segtrain.report.scores import final_report, thresholds_line
from segtrain.runs import checkpoints
from segtrain.runs.environment import FREE, changes
from segtrain.runs.folder import RunFolder
from segtrain.runs.sweep import command_of, given_in
from segtrain.signals import leave_if_stopped
from segtrain.training import Epoch, Parts, Trainer, predict_one
from segtrain.training.device import gpu_of_its_own, precision_advice
from segtrain.training.memory import check_memory

log = logging.getLogger("segtrain")


def job(cfg, run: RunFolder, processes: Processes = ALONE) -> float | None:
    """A training in a new folder; returns the monitored score of the best epoch.

    A job that Slurm has queued again goes on from its last checkpoint.
    """
    with gpu_of_its_own(cfg.trainer.device):
        checkpoint = run.load_last()
        if checkpoint is None:
            run.begin(cfg, processes.size, options=choices_of(run.path))
        else:
            settings = run.settings()
            cfg.class_weights = settings["class_weights"]
            run.add_start(changes(settings, cfg, [*FREE]), cfg.trainer.device, processes.size)
        return train(cfg, run, checkpoint, processes=processes)


class Prepared(NamedTuple):
    """What a training is made of, before its first step."""

    trainer: Trainer
    parts: Parts
    counts: ClassCounts  # of the training masks
    faster: str  # what may help when the network waits for images
    tips: str  # what to try when classes are hardly found


def prepare(cfg, run: RunFolder, checkpoint: dict | None, datasets: tuple, processes: Processes) -> Prepared:
    """All that comes before the first step.

    What is cheap to check comes first: the files of the dataset, device, score and encoder by name.
    """
    train_set, val_set = datasets
    seed_everything(cfg.seed, cfg.trainer.deterministic)
    trainer = build(cfg, "trainer", device=processes.device(cfg.trainer.device))
    scores = build_scores(cfg, val_set)
    trainer.check_monitor(scores)
    model = build_model(cfg, from_checkpoint=checkpoint is not None).to(trainer.device)
    if trainer.freeze_encoder:
        check_encoder(model, "trainer.freeze_encoder", 0)
    optimizer, inference = build(cfg, "optimizer", model=model), build_inference(cfg, val_set, training=True)
    labels = build_labels(cfg, train_set)
    loss = build_loss(cfg, train_set, labels)  # answers mistakes before the masks are counted
    processes.check(labels.training_loss(loss), cfg.loader.batch_size)
    loader = build(cfg, "loader", pinned=trainer.device.type == "cuda")
    augment, sampling, size = build_augment(cfg, train_set), build_sampling(cfg), typical_size(train_set)
    epoch = images_of_epoch(len(train_set.names), loader.min_images)
    images = min(loader.batch_size // processes.size, epoch)
    check_memory(model, trainer.device, trainer.autocast(), images, train_set.channels, augment.size or size)

    counts = count_and_weigh(cfg, run, train_set, val_set, needs_locations(augment, sampling), processes)
    loss = build_loss(cfg, train_set, labels).to(trainer.device)
    add_parameters(optimizer, loss)
    if trainer.prior_bias and checkpoint is None:
        set_prior_bias(model, counts)
    give_advice(cfg, loss, counts, trainer.monitored(scores), size, augment.size, trainer.device)

    sampling.prepare(train_set, trainer.device)
    if summary := sampling.summary(counts):
        log.info(f"{summary}{'; class weights follow the original frequencies' * bool(cfg.class_weights)}")
    train_batches = loader.train(train_set, augment, sampling, counts, cfg.seed, labels.annotated, processes)
    val_batches = loader.evaluation(val_set, processes.validating(scores), repeated=True)
    schedule = build(cfg, "schedule", optimizer=optimizer, steps=trainer.total_steps(len(train_batches)))
    shown = images_with_rare_classes(val_set, trainer.panel_images)
    parts = Parts(model, loss, optimizer, schedule, train_batches, val_batches, scores, labels, inference, shown)
    tips = tips_for_rare_classes(loss, sampling, augment.crops, val_set.multilabel)
    return Prepared(trainer, parts, counts, loader.advice(), tips)


def train(
    cfg,
    run: RunFolder,
    checkpoint: dict | None = None,
    datasets: tuple | None = None,
    after_epoch: Callable[[Epoch], None] = lambda epoch: None,
    processes: Processes = ALONE,
) -> float | None:
    """Train by a checked config into `run`, from a checkpoint or from the start; returns the best epoch's monitored score.

    Args:
        datasets: those of training and validation, of a call from Python; None: what the config names.
        after_epoch: called when an epoch is recorded; may raise what ends the training.
        processes: those that train the network together, of which the first one records it.
    """
    datasets = datasets or (build_dataset(cfg, "train"), build_dataset(cfg, "val"))
    prepared = prepare(cfg, run, checkpoint, datasets, processes)
    trainer, parts = prepared.trainer, prepared.parts

    if not processes.first:  # it trains with the others, and records nothing
        for _ in trainer.fit(parts, checkpoint, processes=processes):
            continue
        return None

    if checkpoint is None:
        run.write_config(as_text(cfg))
        checkpoints.check_space(run.path, parts.model, trainer.keep)
    run.keep = trainer.keep
    val_set, scores = datasets[1], parts.scores
    groups = {name: group_of(val_set, index) for index, name in enumerate(val_set.names)}
    epochs = trainer.total_epochs(len(parts.train))
    with Logger(run.path, val_set, scores, epochs, first_step(checkpoint), prepared.faster) as logger:
        logger.settings(settings_of(run.path) | run.changed, given_in(command_of(run.path)))
        for epoch in trainer.fit(parts, checkpoint, run.save_last, processes):
            run.record(epoch, val_set.class_names, groups)
            logger.show(epoch, run.result.best["value"])
            after_epoch(epoch)

    if run.result.best["value"] is None:
        what = f"{trainer.monitor} is not defined on the validation images: the last epoch was kept as the best"
        log.warning(f"{what}; set trainer.monitor to another score")
    describe_best(run, prepared)
    run.finish()
    log.info(final_report(run.result, prepared.counts, run.path, scores.records(), prepared.tips))
    return run.result.best["value"]


def describe_best(run: RunFolder, prepared: Prepared) -> None:
    """Add intervals and thresholds of the best epoch to the run's result, and write its page."""
    trainer, parts = prepared.trainer, prepared.parts
    scores, val_set = parts.scores, parts.val.dataset
    if not (counts := run.best_counts()):
        return  # a metric of the user's that keeps none
    try:
        if not set(counts["names"].tolist()) <= set(val_set.names):
            raise ValueError("other images")
        scores.restore(**{name: array for name, array in counts.items() if name != "groups"})
    except (KeyError, TypeError, ValueError) as error:
        what, file = f"not the counts of the best epoch: {error}", run.path / "per_image.npz"
        raise ConfigError(what, str(file), "restore the file") from error
    groups = groups_of(val_set, scores.names)
    run.result.intervals = intervals_of(scores, groups)
    if val_set.multilabel:
        run.result.thresholds = scores.best_thresholds()
    if val_set.multilabel and parts.inference.presence is None:
        run.result.cross_fitted = scores.cross_fitted(groups)
    parts.model.load_state_dict(checkpoints.read_weights(run.checkpoints, "best"))
    predictor = trainer.predictor(parts.model, val_set, parts.inference)

    def draw(index: int, label: int | None):
        leave_if_stopped()  # what is missing of the page is made by `resume`
        return example(val_set, index, [predict_one(predictor, val_set.image(index))], True, label)

    best, settings = run.result.best, settings_of(run.path) | run.changed
    defaults, command = defaults_of(choices_of(run.path), settings), command_of(run.path)
    weights, monitor = settings["class_weights"], trainer.monitored(scores)
    facts = training_facts(settings, defaults, prepared.counts, weights, run.rows, best, monitor, command)
    title = f"{run.path.name}, best epoch {best['epoch']}"
    notes = [thresholds_line(run.result)] if run.result.thresholds else []
    write_evaluation_page(run.path / "page.html", title, scores, run.result, val_set, draw, facts, notes)


def first_step(checkpoint: dict | None) -> int | None:
    """The first step whose TensorBoard events are dropped when a run is resumed; None for a new run.

    Of an epoch that is not validated yet, the events of the checkpoint's own step are dropped, too.
    """
    return checkpoint["state"]["step"] + (checkpoint["state"]["batch"] == 0) if checkpoint else None


def give_advice(cfg, loss, counts: ClassCounts, monitor, size, crop, device: torch.device) -> None:
    """Log what is known to go wrong with the loss, with crops of this size of such images, and with the precision."""
    if not cfg.advice:
        return
    from_scratch = cfg.model.get("encoder_weights") is None
    found = advice(loss, counts, cfg.dataset.background, monitor, from_scratch)
    found += padding_advice(crop, size) if cfg.augment.get("size") != "auto" else []
    found += [*precision_advice(cfg.trainer.precision, device, crop or size)]
    for line in found:
        log.warning(f"advice: {line} (advice=false silences this)")


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seed weight initialisation and dropout. Order and augmentation have seeds of their own, from `seed` too."""
    # Read once in a process, in which a deterministic training may follow another one.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic)
