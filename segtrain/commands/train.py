"""`segtrain key=value …`: the whole of a training, in the order the data goes through it."""

import logging

import numpy as np
from omegaconf import DictConfig

from segtrain.class_counts import ClassCounts, count_classes, default_cache
from segtrain.config.build import (
    build,
    build_dataset,
    build_inference,
    build_labels,
    build_loss,
    build_scores,
    refusals,
)
from segtrain.config.schema import check_config, flat
from segtrain.data.sampling import as_sampling
from segtrain.errors import DataError
from segtrain.report.pages.evaluation import write_evaluation_page
from segtrain.report.scores import counts_table, final_report
from segtrain.runs.folder import RunFolder

log = logging.getLogger("segtrain")


def train(cfg: DictConfig, run: RunFolder, resume: bool = False) -> float | None:
    """Train what `cfg` says into `run`; returns the monitored score of the best epoch.

    What is cheap to check comes first: the config, the files of the dataset, device, score and encoder by name.
    """
    check_config(cfg)
    train_set, val_set = build_dataset(cfg, "train"), build_dataset(cfg, "val")

    seed_everything(cfg.seed, cfg.trainer.deterministic)
    trainer = build(cfg, "trainer")
    scores = build_scores(cfg, val_set)
    trainer.check_monitor(scores)
    model = build(cfg, "model").to(trainer.device)
    optimizer, inference = build(cfg, "optimizer", model=model), build_inference(cfg, val_set)
    labels = build_labels(cfg, train_set)
    loader, augment, sampling = build(cfg, "loader"), build(cfg, "augment"), as_sampling(build(cfg, "sampling"))

    counts = count_classes(train_set, cache=default_cache(), progress=True, locations=sampling.foreground_share > 0)
    val_counts = count_classes(val_set, cache=default_cache(), progress=True)
    check_counts(counts)
    cfg.class_weights = class_weights(cfg, counts)
    log.info(counts_table(counts, cfg.class_weights, val_counts))
    loss = build_loss(cfg, train_set, labels)
    give_advice(cfg, loss, counts)

    if summary := sampling.summary(counts):
        log.info(summary)
    train_batches = loader.train(train_set, augment, sampling, counts, cfg.seed, annotated=labels.annotated)
    val_batches = loader.evaluation(val_set)
    schedule = build(cfg, "schedule", optimizer=optimizer, steps=trainer.total_steps(len(train_batches)))

    run.write_inputs(cfg, counts, train_set.names + val_set.names)
    result = trainer.fit(
        model,
        loss.to(trainer.device),
        optimizer,
        schedule,
        train_batches,
        val_batches,
        scores,
        run,
        config=flat(cfg),
        labels=labels.to(trainer.device),
        inference=inference,
        resume=resume,
    )
    if hasattr(scores, "restore"):
        describe_best(run, result, scores, model, val_set, trainer, inference)
    run.write_result(**result, lower_is_better=trainer.lower_is_better())
    log.info(final_report(result, counts, run.path))
    return result["best"]["value"]


def describe_best(run: RunFolder, result: dict, scores, model, val_set, trainer, inference) -> None:
    """Of the best epoch: intervals and best thresholds into `result`, and the page of its images into the run's folder."""
    from segtrain.inference import Predictor
    from segtrain.runs.checkpoint import load_checkpoint
    from segtrain.training.evaluation import draw

    scores.restore(**run.read_per_image("per_image.npz"))
    result["intervals"] = scores.intervals()
    if val_set.multilabel:
        result["thresholds"] = scores.best_thresholds()
    model.load_state_dict(load_checkpoint(run.checkpoints / "best.pt", trainer.device)["model"])
    predictor = Predictor(model, trainer.device, trainer.autocast, val_set.multilabel, inference)
    title = f"{run.path.name}, best epoch {result['best']['epoch'] + 1}"
    write_evaluation_page(
        run.path / "page.html",
        title,
        scores,
        result,
        val_set,
        lambda i, label: draw(predictor, val_set, i, True, label),
    )


def check_counts(counts: ClassCounts) -> None:
    """Raise DataError when there is nothing to learn; warn of classes without training pixels."""
    there = len(counts.class_names) - len(counts.absent)
    if there < (1 if counts.multilabel else 2):
        only = next((n for n, p in zip(counts.class_names, counts.pixels, strict=True) if p), "none")
        raise DataError(
            f"the training masks hold {there} class{'es' * (there != 1)} ({only}) and {counts.ignored_pixels:,} ignored "
            "pixels: there is nothing to tell apart",
            "the train split",
            "masks of 0 and 255: dataset.mask_format=binary; otherwise look at dataset.ignore_index and num_classes",
        )
    if counts.absent:
        log.warning(
            f"no training pixel of {', '.join(counts.absent)}: it cannot be learned, and any weighting gives it 0"
        )


def class_weights(cfg: DictConfig, counts: ClassCounts) -> list[float] | None:
    """The weighting's weights, None for `weighting=none`; or those the config holds already, as a saved one does."""
    if cfg.class_weights is not None:
        if len(cfg.class_weights) != len(counts.class_names):
            raise DataError(
                f"{len(cfg.class_weights)} class weights for {len(counts.class_names)} classes",
                "class_weights in the config",
                "leave class_weights=null, or give one per class",
            )
        log.info(f"class weights as the config holds them; {cfg.weighting._target_} is not computed")
        return list(cfg.class_weights)
    if cfg.weighting._target_ == "segtrain.weighting.NoWeighting":
        return None
    weighting = build(cfg, "weighting")
    with refusals(f"weighting ({cfg.weighting._target_})"):
        return np.asarray(weighting(counts), dtype=float).tolist()


def give_advice(cfg: DictConfig, loss, counts: ClassCounts) -> None:
    if not cfg.advice:
        return
    from segtrain.report.advice import advice

    from_scratch = cfg.model.get("encoder_weights") is None
    for line in advice(loss, counts, cfg.dataset.background, cfg.trainer.monitor, from_scratch):
        log.warning(f"advice: {line} (advice=false silences this)")


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seed weight initialisation and dropout. Order and augmentation have seeds of their own, from `seed` too."""
    import os
    import random

    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
