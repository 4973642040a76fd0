"""Scores of a trained run on a split, with its predictor: thresholds, presence and regions are those of val."""

import logging
import math
from dataclasses import replace

import cv2
import numpy as np
import torch

from segtrain.config.build import build, build_dataset, build_inference, build_loss, build_scores
from segtrain.data.dataset import group_of, typical_size
from segtrain.data.resize import resized, resized_size
from segtrain.errors import ConfigError, counted
from segtrain.inference import Predictor, window_starts
from segtrain.inference.presence import check_classes, is_chosen
from segtrain.inference.regions import Foreground, Regions, spans, threshold_for
from segtrain.losses.state import load_own_state
from segtrain.metrics.metric import numbers
from segtrain.metrics.records import LOSS, all_records
from segtrain.metrics.tuning import NEVER
from segtrain.report.pictures import example
from segtrain.report.text import percent
from segtrain.runs.result import Result, per_class_rows
from segtrain.runs.trained import Trained, load
from segtrain.training import evaluate, predict_one
from segtrain.training.progress import Progress

log = logging.getLogger("segtrain")

SIZES_ALIKE = 1.5  # factor between the sides of evaluated and trained images; a larger one gives a warning


def evaluate_split(trained: Trained, split: str):
    """The filled scores, the Result of them, the dataset, and (index, label) -> picture with errors."""
    cfg = trained.config
    dataset = build_dataset(cfg, split)
    trainer, scores = build(cfg, "trainer"), build_scores(cfg, dataset)
    loss = build_loss(cfg, dataset)
    try:
        load_own_state(loss, trained.loss_state)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        what = f"the checkpoint does not fit the loss: {' '.join(str(error).split())[:300]}"
        raise ConfigError(
            what, str(trained.run), "leave loss.* as the run had it, or restore the checkpoint"
        ) from error
    loss.to(trainer.device)
    loss.start_epoch(max(trained.epoch - 1, 0))  # of phases, the one that the checkpoint was validated with
    warn_of_other_sizes(trained, dataset, cfg.inference.resize)
    predictor = predictor_of(trained, dataset)
    batches = build(cfg, "loader", pinned=trainer.device.type == "cuda").evaluation(dataset)
    limit = batches.num_images(trainer.val_batches)
    progress = Progress(split, limit)
    mean_loss = evaluate(predictor, batches, scores, loss, dataset.names, limit, progress.advance)
    progress.close()
    result = Result(scores={**numbers(scores.compute()), LOSS.name: mean_loss})
    result.describe(all_records(scores))
    result.per_class = per_class_rows(scores.per_class(), dataset.class_names)

    def draw(index: int, label: int | None):
        return example(dataset, index, [predict_one(predictor, dataset.image(index))], True, label)

    return scores, result, dataset, draw


def warn_of_other_sizes(trained: Trained, dataset, resize) -> None:
    """Say when the images are much larger or smaller than those of the training: the network knows other sizes of objects."""
    if trained.image_size is None:
        return
    here, there = resized_size(typical_size(dataset), resize), trained.image_size
    times = math.sqrt(here[0] * here[1] / (there[0] * there[1]))
    if not 1 / SIZES_ALIKE < times < SIZES_ALIKE:
        log.warning(
            f"the images are {here[0]}×{here[1]} (height × width), those of the training {there[0]}×{there[1]}: if they show the "
            f"same scenes, objects are {times:.2g} times as large as in training; inference.resize=[{there[0]},{there[1]}] resizes them"
        )


def at_original_size(cfg) -> None:
    """Resize images for the network alone: its logits are brought back to the size of the images and masks in the files."""
    resize = cfg.dataset.get("resize")
    if resize is None:
        return
    then = cfg.inference.resize  # of the resized images
    if then is None:
        then = resize
    elif isinstance(then, int | float):
        then = then * resize if isinstance(resize, int | float) else [round(then * side) for side in resize]
    cfg.inference.resize, cfg.dataset.resize = then, None


def groups_of(dataset, names: list[str]) -> list[str]:
    """The scene or patient of each image; of names that are not the dataset's, each is alone."""
    groups = {name: group_of(dataset, index) for index, name in enumerate(dataset.names)}
    return [groups.get(name, name) for name in names]


def intervals_of(scores, groups: list[str], repeats: int = 1000) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each score. A metric of one's own need not know of groups where each image is alone."""
    if len(set(groups)) == len(groups):
        return scores.intervals(repeats)
    return scores.intervals(repeats, groups=groups)


def choose_thresholds(trained: Trained) -> list[float] | None:
    """Set and return the thresholds that maximised Dice on val, of a multi-label run; None when the config sets some."""
    found, names = trained.result.thresholds, [row["name"] for row in trained.result.per_class]
    if not found or trained.config.inference.threshold is not None:
        return None
    trained.config.inference.threshold = chosen = [found.get(name, 0.5) for name in names]
    values = ", ".join(f"{value:.3g}" for value in chosen)
    log.info(
        f"using the thresholds that maximised Dice on val in the best epoch: {values} (inference.threshold=0.5 sets one half)"
    )
    return chosen


def choose_presence(trained: Trained, thresholds: bool) -> dict[str, float]:
    """Set the presence of each class that is best on val, where the config asks for that.

    Returns the scores with presence chosen on other images; none where it is not chosen.

    Args:
        thresholds: whether the thresholds, too, were chosen on val.
    """
    cfg = trained.config
    if not is_chosen(cfg.inference.presence):
        return {}
    if "groups" not in cfg.metric:
        fix = "give values, such as {area: 20, confidence: 0.8}; `segtrain evaluate` also takes metric=detection"
        raise ConfigError("only segtrain's own metric can choose presence", "inference.presence", fix)
    classes = trained.classes
    if classes.background is None and not classes.multilabel:
        what = "a class that is absent from an image becomes background, and this dataset has none (dataset.background=null)"
        fix = "leave out inference.presence"
        raise ConfigError(what, "inference.presence", fix)
    asked, without = build(cfg, "inference").presence, cfg.copy()
    limit = {"false_alarms": asked["false_alarms"]} if isinstance(asked, dict) else {}
    without.inference.presence, without.metric.groups = None, ["thresholds"]
    scores, _, dataset, _ = evaluate_split(replace(trained, config=without), "val")
    if limit and not any(scores.false_alarms()[0]):
        what = "every val image has foreground, so false alarms cannot be counted"
        raise ConfigError(what, "inference.presence", "use inference.presence=best")
    found = scores.best_presence(**limit)
    cfg.inference.presence = found
    check_classes(found, dataset)
    rows = zip(scores.class_names, found["area"], found["confidence"], strict=True)
    needed = [f"{name} {_smallest(area, confidence)}" for name, area, confidence in rows if area]
    print(f"least evidence for a class to be present in an image, chosen on val: {', '.join(needed) or 'any pixel'}")
    fitted = scores.cross_fitted(groups_of(dataset, scores.names), thresholds, presence=True, **limit)
    if (clean := fitted.get("specificity", math.nan)) == clean:
        most = f"at most {percent(limit['false_alarms'])} % with a false alarm were requested; " if limit else ""
        print(
            f"val images without foreground: {most}with presence chosen on other images, {percent(1 - clean)} % have a false alarm"
        )
    return fitted


def _smallest(area: int, confidence: float) -> str:
    """Of a class, the pixels that make it present, as words."""
    if area == NEVER:
        return "never"
    return f"{counted(area, 'pixel')} with a probability of {100 * confidence:.{3 if confidence < 0.999 else 7}g} %"


def predictor_of(trained: Trained, dataset) -> Predictor:
    """Of a run's network and inference settings, on the device its config names, for the classes of a dataset."""
    trainer, inference = build(trained.config, "trainer"), build_inference(trained.config, dataset)
    regions = regions_of(trained, trainer, inference, dataset)
    return trainer.predictor(trained.network.to(trainer.device), dataset, inference, regions)


def regions_of(trained: Trained, trainer, inference, classes) -> Regions | None:
    """The windows to look at, by the run that inference.regions names; its threshold is chosen on val.

    Args:
        classes: of the fine network.
    """
    if inference.regions is None:
        return None
    coarse = load(inference.regions, trust=trained.trusted)
    foreground = Foreground.of_run(coarse, trainer.device, trained.config.dataset.get("resize") or inference.resize)
    found = Regions(foreground, trainer.autocast, classes.num_classes, classes.background)
    val = build_dataset(trained.config, "val")
    # The windows are those of the resized image, as in prediction; a dataset with a size of its own has resized it.
    resize = inference.resize if trained.config.dataset.get("resize") is None else None
    values, pixels = [], []
    for index in range(len(val.names)):
        image, mask = torch.tensor(val.image(index)).permute(2, 0, 1)[None].to(trainer.device), val.mask(index)
        others = (val.background,) if val.multilabel else (val.background, val.ignore_index)
        foreground = [c for c in range(val.num_classes) if c not in others]
        there = (mask[..., foreground] == 1).any(axis=2) if val.multilabel else np.isin(mask, foreground)
        size = resized_size(there.shape, resize)
        if resize is not None:
            image = resized(image, size)
            there = cv2.resize(there.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
        window = tuple(map(min, inference.window, size))
        starts = [window_starts(*side, inference.overlap) for side in zip(size, window, strict=True)]
        values.append(found.highest(image, *starts, window)[0].cpu().numpy().ravel())
        rows, columns = (spans(*side) for side in zip(starts, window, size, strict=True))
        pixels.append([there[top:bottom, left:right].sum() for top, bottom in rows for left, right in columns])
    values, pixels = np.concatenate(values), np.concatenate(pixels)
    found.threshold = threshold_for(values, pixels, inference.region_recall)
    kept = values >= found.threshold
    recall = pixels[kept].sum() / max(pixels.sum(), 1)
    print(
        f"regions: only windows where the coarse network's probability of foreground reaches {100 * found.threshold:.3g} % "
        f"are predicted: {100 * kept.mean():.1f} % of the windows of val, with {100 * recall:.2f} % of its foreground"
    )
    return found
