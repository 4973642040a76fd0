"""`segtrain key=value …`: the whole of a training, in the order the data goes through it."""

import logging
import os
import random
from collections.abc import Callable

import numpy as np
import torch

from segtrain.class_counts import ClassCounts, count_classes, default_cache
from segtrain.config.build import (
    build,
    build_augment,
    build_dataset,
    build_inference,
    build_labels,
    build_loss,
    build_model,
    build_scores,
    refusals,
)
from segtrain.config.compose import compose, without_hydra
from segtrain.config.saved import settings_of
from segtrain.config.schema import as_text, flat
from segtrain.data.loader import needs_locations
from segtrain.data.mask_values import both_ways
from segtrain.data.sampling import as_sampling
from segtrain.errors import ConfigError, DataError
from segtrain.models import set_prior_bias
from segtrain.ranks import ALONE, Processes
from segtrain.report.advice import advice, padding_advice
from segtrain.report.logger import Logger
from segtrain.report.pages.evaluation import write_evaluation_page
from segtrain.report.pages.training import Training
from segtrain.report.pictures import example, images_with_rare_classes
from segtrain.report.scores import counts_table, final_report
from segtrain.runs import checkpoints
from segtrain.runs.environment import FREE, changes, environment, fingerprint
from segtrain.runs.folder import RunFolder
from segtrain.runs.sweep import command_of
from segtrain.signals import leave_if_stopped
from segtrain.training import Epoch, Parts, predict_one
from segtrain.training.device import gpu_of_its_own, precision_advice
from segtrain.training.memory import check_memory

log = logging.getLogger("segtrain")


def job(cfg, run: RunFolder, processes: Processes = ALONE) -> float | None:
    """A training in a new folder; returns the monitored score of the best epoch.

    A job that Slurm has queued again goes on from its last checkpoint.
    """
    checkpoint = run.load_last()
    if checkpoint is None:
        run.write_environment(environment(flat(cfg), processes.size))
        run.write_config(as_text(cfg, weights_known=False))
    else:
        settings = run.settings()
        cfg.class_weights = settings["class_weights"]
        run.add_start(changes(settings, cfg, [*FREE]), processes.size)
    with gpu_of_its_own(cfg.trainer.device):
        return train(cfg, run, checkpoint, processes=processes)


def train(
    cfg,
    run: RunFolder,
    checkpoint: dict | None = None,
    datasets: tuple | None = None,
    after_epoch: Callable[[Epoch], None] = lambda epoch: None,
    processes: Processes = ALONE,
) -> float | None:
    """Train by a checked config into `run`, from a checkpoint or from the start; returns the best epoch's monitored score.

    What is cheap to check comes first: the files of the dataset, device, score and encoder by name.

    Args:
        datasets: those of training and validation, of a call from Python; None: what the config names.
        after_epoch: called when an epoch is recorded; may raise what ends the training.
        processes: those that train the network together, of which the first one records it.
    """
    train_set, val_set = datasets or (build_dataset(cfg, "train"), build_dataset(cfg, "val"))

    seed_everything(cfg.seed, cfg.trainer.deterministic)
    trainer = build(cfg, "trainer", device=processes.device(cfg.trainer.device))
    scores = build_scores(cfg, val_set)
    trainer.check_monitor(scores)
    model = build_model(cfg, from_checkpoint=checkpoint is not None).to(trainer.device)
    optimizer, inference = build(cfg, "optimizer", model=model), build_inference(cfg, val_set, training=True)
    labels = build_labels(cfg, train_set)
    loss = build_loss(cfg, train_set, labels)  # answers mistakes before the masks are counted
    processes.check(labels.training_loss(loss), cfg.loader.batch_size)
    loader, augment = build(cfg, "loader"), build_augment(cfg, train_set)
    sampling = as_sampling(build(cfg, "sampling"))

    counts = processes.once(lambda: count_training_images(train_set, augment, sampling))
    val_counts = processes.once(lambda: count_classes(val_set, cache=default_cache(), progress=True))
    check_counts(counts)
    size = train_set.image(0).shape[:2]
    run.write_counts(counts, fingerprint(train_set.names + val_set.names, counts, val_counts), size)
    cfg.class_weights = class_weights(cfg, counts)
    run.write_class_weights(cfg.weighting._target_, counts.class_names, cfg.class_weights)
    log.info(counts_table(counts, cfg.class_weights, val_counts))
    loss = build_loss(cfg, train_set, labels).to(trainer.device)
    if trainer.prior_bias and checkpoint is None:
        set_prior_bias(model, counts)
    more = padding_advice(augment.size, size)
    more += precision_advice(cfg.trainer.precision, trainer.device, augment.size or size)
    give_advice(cfg, loss, counts, trainer.monitored(scores), more)

    sampling.prepare(train_set, trainer.device)
    if summary := sampling.summary(counts):
        log.info(summary)
    rank = processes.rank
    train_batches = loader.train(train_set, augment, sampling, counts, cfg.seed, annotated=labels.annotated, rank=rank)
    val_batches = loader.evaluation(val_set, processes.validating(scores).rank, repeated=True)
    images = min(loader.batch_size // rank.size, train_batches.num_images)
    check_memory(model, trainer.device, trainer.autocast(), images, train_set.channels, augment.size or size)
    schedule = build(cfg, "schedule", optimizer=optimizer, steps=trainer.total_steps(len(train_batches)))

    shown = images_with_rare_classes(val_set, trainer.panel_images)
    parts = Parts(model, loss, optimizer, schedule, train_batches, val_batches, scores, labels, inference, shown)

    if not processes.first:  # it trains with the others, and records nothing
        for _ in trainer.fit(parts, checkpoint, processes=processes):
            continue
        return None

    if checkpoint is None:
        run.write_config(as_text(cfg))
        checkpoints.check_space(run.path, model, trainer.keep)
    run.keep = trainer.keep
    groups = {name: val_set.group(index) for index, name in enumerate(val_set.names)}
    epochs = trainer.total_epochs(len(train_batches))
    with Logger(run.path, val_set, scores, epochs, first_step(checkpoint), loader.advice()) as logger:
        logger.settings(settings_of(run.path))
        for epoch in trainer.fit(parts, checkpoint, run.save_last, processes):
            run.record(epoch, val_set.class_names, groups)
            logger.show(epoch, run.result.best["value"])
            after_epoch(epoch)

    describe_best(run, parts, trainer, counts)
    run.finish()
    log.info(final_report(run.result, counts, run.path, scores.records()))
    return run.result.best["value"]


def count_training_images(train_set, augment, sampling) -> ClassCounts:
    """With class locations, where crops are centred on them."""
    locations = needs_locations(augment, sampling)
    return count_classes(train_set, cache=default_cache(), progress=True, locations=locations)


def first_step(checkpoint: dict | None) -> int | None:
    """The first step whose TensorBoard events are dropped when a run is resumed; None for a new run.

    Of an epoch that is not validated yet, the events of the checkpoint's own step are dropped, too.
    """
    return checkpoint["state"]["step"] + (checkpoint["state"]["batch"] == 0) if checkpoint else None


def describe_best(run: RunFolder, parts: Parts, trainer, train_counts: ClassCounts) -> None:
    """Add intervals and thresholds of the best epoch to the run's result, and write its page."""
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
    run.result.intervals = scores.intervals()
    if val_set.multilabel:
        run.result.thresholds = scores.best_thresholds()
        run.result.cross_fitted = scores.cross_fitted(counts["groups"].tolist())
    parts.model.load_state_dict(checkpoints.read_weights(run.checkpoints, "best"))
    predictor = trainer.predictor(parts.model, val_set, parts.inference)

    def draw(index: int, label: int | None):
        leave_if_stopped()  # what is missing of the page is made by `resume`
        return example(val_set, index, [predict_one(predictor, val_set.image(index))], True, label)

    best, settings = run.result.best, settings_of(run.path)
    defaults, command = flat(without_hydra(compose([]))), command_of(run.path)
    weights, monitor = settings["class_weights"], trainer.monitored(scores)
    facts = Training(settings, defaults, train_counts, weights, run.rows, best, monitor, command)
    title = f"{run.path.name}, best epoch {best['epoch']}"
    write_evaluation_page(run.path / "page.html", title, scores, run.result, val_set, draw, facts)


def check_counts(counts: ClassCounts) -> None:
    """Raise DataError when there is nothing to learn; warn of classes without training pixels."""
    there = len(counts.class_names) - len(counts.absent)
    if there < (1 if counts.multilabel else 2):
        only = next((n for n, p in zip(counts.class_names, counts.pixels, strict=True) if p), "none")
        raise DataError(
            f"the training masks hold {there} class{'es' * (there != 1)} ({only}) and {counts.ignored_pixels:,} ignored "
            "pixels: there is nothing to tell apart",
            "the train split",
            f"of masks of 0 and 255, {both_ways(counts.class_names)}. Otherwise look at dataset.ignore_index and num_classes",
        )
    if counts.absent:
        log.warning(
            f"no training pixel of {', '.join(counts.absent)}: it cannot be learned, and any weighting gives it 0"
        )


def class_weights(cfg, counts: ClassCounts) -> list[float] | None:
    """The weighting's weights, None for `weighting=none`; or those the config holds already, as a saved one does."""
    if cfg.class_weights is not None:
        if len(cfg.class_weights) != len(counts.class_names):
            raise DataError(
                f"{len(cfg.class_weights)} class weights for {len(counts.class_names)} classes",
                "class_weights in the config",
                "leave class_weights=null, or give one per class",
            )
        log.info(f"using class_weights from the config; {cfg.weighting._target_} skipped")
        return list(cfg.class_weights)
    if cfg.weighting._target_ == "segtrain.weighting.NoWeighting":
        return None
    weighting = build(cfg, "weighting")
    with refusals(f"weighting ({cfg.weighting._target_})"):
        return np.asarray(weighting(counts), dtype=float).tolist()


def give_advice(cfg, loss, counts: ClassCounts, monitor, more: list[str]) -> None:
    """Log what is known to go wrong with the loss, and more."""
    from_scratch = cfg.model.get("encoder_weights") is None
    found = [*advice(loss, counts, cfg.dataset.background, monitor, from_scratch), *more] if cfg.advice else []
    for line in found:
        log.warning(f"advice: {line} (advice=false silences this)")


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seed weight initialisation and dropout. Order and augmentation have seeds of their own, from `seed` too."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic)
