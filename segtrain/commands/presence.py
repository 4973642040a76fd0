"""The presence of each class that is best on val, for `segtrain evaluate` and `segtrain predict`."""

import math

from segtrain.commands.scoring import evaluate_split, groups_of
from segtrain.config.build import build
from segtrain.errors import ConfigError, counted
from segtrain.inference.presence import check_classes
from segtrain.metrics.tuning import NEVER
from segtrain.report.text import percent
from segtrain.runs.trained import Trained


def choose_presence(trained: Trained, thresholds: bool) -> dict[str, float]:
    """Set the presence of each class that is best on val; returns the scores with presence chosen on other images.

    Args:
        thresholds: whether the thresholds, too, were chosen on val.
    """
    cfg = trained.config
    if "groups" not in cfg.metric:
        raise ConfigError("presence is chosen by segtrain's own metric", "inference.presence", "take metric=detection")
    classes = trained.classes
    if classes.background is None and not classes.multilabel:
        what, fix = "no class is the background, which absent classes become", "leave out inference.presence"
        raise ConfigError(what, "inference.presence", fix)
    asked, groups = build(cfg, "inference").presence, list(cfg.metric.groups)
    limit = {"false_alarms": asked["false_alarms"]} if isinstance(asked, dict) else {}
    cfg.inference.presence, cfg.metric.groups = None, ["thresholds"]
    scores, _, dataset, _ = evaluate_split(trained, "val")
    if limit and not any(scores.false_alarms()[0]):
        what = "no val image is without foreground, so that false alarms cannot be counted"
        raise ConfigError(what, "inference.presence", "take inference.presence=best")
    found = scores.best_presence(**limit)
    cfg.inference.presence, cfg.metric.groups = found, groups
    check_classes(found, dataset)
    rows = zip(scores.class_names, found["area"], found["confidence"], strict=True)
    needed = [f"{name} {_smallest(area, confidence)}" for name, area, confidence in rows if area]
    print(f"least evidence for a class in an image, chosen on val: {', '.join(needed) or 'any pixel'}")
    fitted = scores.cross_fitted(groups_of(dataset, scores.names), thresholds, presence=True, **limit)
    if (clean := fitted.get("specificity", math.nan)) == clean:
        most = f"at most {percent(limit['false_alarms'])} % of them were asked for; " if limit else ""
        print(
            f"val images without foreground: {most}with presence chosen on others {percent(1 - clean)} % have a false alarm"
        )
    return fitted


def _smallest(area: int, confidence: float) -> str:
    """Of a class, the pixels that make it present, as words."""
    if area == NEVER:
        return "never"
    return f"{counted(area, 'pixel')} with a probability of {100 * confidence:.{3 if confidence < 0.999 else 7}g} %"
