"""Count the classes of a dataset, and compute the class weights, before a training."""

import logging

import numpy as np

from segtrain.class_counts import ClassCounts, count_classes, default_cache
from segtrain.config.build import all_refused, build, refusals
from segtrain.data.dataset import typical_size
from segtrain.data.mask_values import both_ways
from segtrain.dataset_check.samples import DARK, range_to_set
from segtrain.errors import DataError, few
from segtrain.ranks import Processes
from segtrain.report.scores import counts_table
from segtrain.runs.environment import fingerprint
from segtrain.runs.folder import RunFolder

log = logging.getLogger("segtrain")

FIRST = 3  # images that are looked at before a training


def count_and_weigh(cfg, run: RunFolder, train_set, val_set, locations: bool, processes: Processes) -> ClassCounts:
    """Count the masks of both splits, record that, and fill in cfg.class_weights; returns the counts of training.

    Args:
        locations: whether class locations are kept, for crops that are centred on them.
    """
    counts = processes.once(lambda: count(train_set, locations))
    val_counts = processes.once(lambda: count(val_set))
    check_counts(counts)
    names = [str(name) for split in (train_set, val_set) for name in split.names]
    run.write_counts(counts, fingerprint(names, counts, val_counts), typical_size(train_set))
    warn_of_samples(cfg, train_set, val_set, counts, val_counts)
    cfg.class_weights = class_weights(cfg, counts)
    run.write_class_weights(cfg.weighting._target_, counts.class_names, cfg.class_weights)
    log.info(counts_table(counts, cfg.class_weights, val_counts))
    return counts


def warn_of_samples(cfg, train_set, val_set, counts: ClassCounts, val_counts: ClassCounts) -> None:
    """Name what `segtrain check` would call a mistake and is cheap to see: images that are nearly black, or in both splits."""
    highest = max(int(train_set.image(index).max()) for index in range(min(FIRST, len(train_set.names))))
    if (wanted := range_to_set(train_set, highest)) is not None:
        log.warning(
            f"the first training images have 16 bits and no value above {wanted[1]}: {highest + 1} of 256 grey levels are used. "
            f"Set dataset.image_range=[0,{wanted[1]}], or the range that `segtrain check` finds for all images"
        )
    elif highest <= DARK:
        given = cfg.dataset.get("image_range")
        fix = f"check dataset.image_range={given}" if given else "open some of them"
        log.warning(
            f"the first training images have no value above {highest} of 255: {fix}; `segtrain check` looks at all"
        )
    known = {str(name): row for name, row in zip(train_set.names, counts.per_image.tolist(), strict=True)}
    rows = zip(val_set.names, val_counts.per_image.tolist(), strict=True)
    both = [str(name) for name, row in rows if known.get(str(name)) == row and sum(map(bool, row)) > 1]
    if len(both) > len(val_set.names) / 2:
        log.warning(
            f"{len(both)} of {len(val_set.names)} validation images have the name and the class pixels of a training image "
            f"({few(both, 3)}): if they are the same images, scores say nothing about other images; `segtrain check` compares them"
        )


def count(dataset, locations: bool = False) -> ClassCounts:
    """Counts of a split, with a progress bar; those of masks that were counted before come from the cache."""
    return count_classes(dataset, cache=default_cache(), locations=locations)


def check_counts(counts: ClassCounts) -> None:
    """Raise DataError when there is nothing to learn; warn of classes without training pixels."""
    there = len(counts.class_names) - len(counts.absent)
    if there < (1 if counts.multilabel else 2):
        only = next((n for n, p in zip(counts.class_names, counts.pixels, strict=True) if p), "none")
        raise DataError(
            f"the training masks hold {there} class{'es' * (there != 1)} ({only}) and {counts.ignored_pixels:,} ignored "
            "pixels: there is nothing to tell apart",
            "the train split",
            f"for masks of 0 and 255, {both_ways(counts.class_names)}. Otherwise check dataset.ignore_index and num_classes",
        )
    if counts.absent:
        log.warning(
            f"no training pixel of {', '.join(counts.absent)}: such a class cannot be learned, and weights computed from the masks are 0 for it"
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
        log.info(f"using class_weights from the config; {cfg.weighting._target_} is not used")
        return list(cfg.class_weights)
    if cfg.weighting._target_ == "segtrain.weighting.NoWeighting":
        return None
    weighting = build(cfg, "weighting")
    with refusals(f"weighting ({cfg.weighting._target_})"):
        with all_refused("weighting(counts)"):
            found = weighting(counts)
        try:
            weights = np.asarray(found, dtype=float)
        except (TypeError, ValueError, RuntimeError):
            weights = np.array(np.nan)
        if weights.shape != counts.pixels.shape:
            given = f"{len(weights)} weights" if weights.ndim == 1 else repr(found)[:100]
            raise ValueError(f"{given} for {len(counts.pixels)} classes: a weighting must return one number per class")
        if not np.isfinite(weights).all() or weights.min() < 0:
            raise ValueError(f"weights of {', '.join(f'{w:g}' for w in weights)}: each must be a number, 0 or more")
        return weights.tolist()
