"""`segtrain key=value …`: the whole of a training, in the order the data goes through it."""

import logging

import numpy as np
from omegaconf import DictConfig

from segtrain.build import build, build_dataset, build_loss, build_scores
from segtrain.class_counts import ClassCounts, count_classes, default_cache
from segtrain.commands.report import counts_table, final_report
from segtrain.config import check_config, flat
from segtrain.run_folder import RunFolder

log = logging.getLogger("segtrain")


def train(cfg: DictConfig, run: RunFolder, resume: bool = False) -> float | None:
    """Train what `cfg` says into `run`; returns the monitored score of the best epoch.

    Errors of config and data come first, before torch is imported.
    """
    check_config(cfg)
    train_set, val_set = build_dataset(cfg, "train"), build_dataset(cfg, "val")
    counts = count_classes(train_set, cache=default_cache(), progress=True)
    val_counts = count_classes(val_set, cache=default_cache(), progress=True)
    cfg.class_weights = class_weights(cfg, counts)
    log.info(counts_table(counts, cfg.class_weights, val_counts))

    from segtrain.advice import advice

    seed_everything(cfg.seed, cfg.trainer.get("deterministic", False))
    trainer = build(cfg, "trainer")
    scores = build_scores(cfg, val_set)
    trainer.check_monitor(scores)
    loss = build_loss(cfg, train_set.multilabel).to(trainer.device)
    if cfg.advice:
        from_scratch = cfg.model.get("encoder_weights") is None
        for line in advice(loss, counts, train_set.background, trainer.monitor, from_scratch):
            log.warning(f"advice: {line} (advice=false silences this)")
    model = build(cfg, "model").to(trainer.device)
    optimizer = build(cfg, "optimizer", model=model)

    loader = build(cfg, "loader")
    augment, sampling = build(cfg, "augment"), build(cfg, "sampling")
    train_batches = loader.train(train_set, augment, sampling, cfg.seed)
    val_batches = loader.evaluation(val_set)
    schedule = build(cfg, "schedule", optimizer=optimizer, steps=trainer.total_steps(len(train_batches)))

    run.write_inputs(cfg, counts, train_set.names + val_set.names)
    result = trainer.fit(
        model,
        loss,
        optimizer,
        schedule,
        train_batches,
        val_batches,
        scores,
        run,
        config=flat(cfg),
        resume=resume,
    )
    run.write_result(**result)
    log.info(final_report(result, counts, run.path))
    return result["best"]["value"]


def class_weights(cfg: DictConfig, counts: ClassCounts) -> list[float] | None:
    """The weighting's weights; None for `weighting=none`. Warns of classes without pixels."""
    absent = [name for name, pixels in zip(counts.class_names, counts.pixels, strict=True) if pixels == 0]
    if absent:
        log.warning(f"no training pixel of {', '.join(absent)}: the class has weight 0 and cannot be learned")
    if cfg.weighting._target_ == "segtrain.weighting.NoWeighting":
        return None
    return np.asarray(build(cfg, "weighting")(counts), dtype=float).tolist()


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
