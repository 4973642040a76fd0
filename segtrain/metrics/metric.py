"""The protocol of a metric: what it must have, and a default for what it may have."""

import numpy as np
import torch

from segtrain.errors import ConfigError
from segtrain.metrics.records import Score
from segtrain.protocols import adopted, check_call


class Metric:
    """A metric: counts batches, then gives scores. `reset`, `update` and `compute` are required; the rest is optional.

    A class of your own derives from this one, or has the required methods alone (see `as_metric`). A config passes
    class_names= and multilabel= to its constructor.

    Attributes:
        needs_logits: whether `update` is given `logits=`, [N,C,H,W], too.
        class_names: of the classes.
        names: of the images that were counted.
        joins: whether `join` adds up what several processes counted; else each of them counts all images.
    """

    needs_logits: bool = False
    joins: bool = False
    class_names: list[str] | tuple[str, ...] = ()
    names: list[str] | tuple[str, ...] = ()

    def reset(self) -> None:
        """Forget all images."""
        raise NotImplementedError

    def update(self, prediction: torch.Tensor, target: torch.Tensor, names: list[str] | None = None) -> None:
        """Add a batch: class indices [N,H,W], or multi-label [N,C,H,W]; the names of its images."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """All scores by name; NaN where undefined, as before the first image."""
        raise NotImplementedError

    def records(self) -> dict[str, Score]:
        """A record for each score of `compute`. Default: numbers of which more is better."""
        return {name: Score(name, "", unit="") for name in self.compute()}

    def score_names(self) -> list[str]:
        """The names `compute` gives, known before the first image."""
        return list(self.records())

    def per_class(self) -> dict[str, np.ndarray]:
        """Columns [C] for the table of classes: iou, dice, precision, recall, support, images; or {}."""
        return {}

    def per_image(self) -> dict[str, np.ndarray]:
        """Columns [images] of per_image.csv, in the order of `names`."""
        return {}

    def table(self) -> np.ndarray | None:
        """int64 [images, C, 3]: true positives, false positives, false negatives."""
        return None

    def false_alarms(self) -> tuple[np.ndarray, np.ndarray] | None:
        """bool [images] each: without foreground in the ground truth; with foreground in the prediction."""
        return None

    def confusion(self) -> np.ndarray | None:
        """int64 [C, C]: pixels by ground truth (row) and prediction (column); None for multi-label."""
        return None

    def curves(self):
        """Counts by threshold, segtrain.metrics.curves.Curves; None without logits."""
        return None

    def best_thresholds(self) -> dict[str, float]:
        """The threshold of each class that maximises Dice on these images."""
        return {}

    def best_presence(self, false_alarms: float | None = None) -> dict[str, list]:
        """By "area" and "confidence", a number for each class (segtrain.inference.Inference)."""
        return {}

    def cross_fitted(
        self,
        groups: list[str] | None = None,
        thresholds: bool = True,
        presence: bool = False,
        false_alarms: float | None = None,
    ) -> dict[str, float]:
        """Scores of each image with thresholds and presence that were chosen on others; {} when nothing is chosen."""
        return {}

    def intervals(
        self, repeats: int = 1000, seed: int = 0, groups: list[str] | None = None
    ) -> dict[str, tuple[float, float]]:
        """95 % interval of each score, where the images of a group (a scene, a patient) are no independent ones."""
        return {}

    def state(self) -> dict[str, np.ndarray]:
        """All counts, for per_image.npz, with the images' `names`; {} writes none."""
        return {}

    def restore(self, **state: np.ndarray) -> None:
        """Replace all counts by those of `state`."""

    def join(self, states: list[dict[str, np.ndarray]], order: np.ndarray) -> None:
        """Replace all counts by those of several states; their images, one state after the other, are taken in `order`."""


class _OwnMetric(Metric):
    """A metric of a class that has the required methods alone."""

    def __init__(self, part):
        self.part = part

    def reset(self) -> None:
        self.part.reset()
        self.names = []

    def update(self, prediction, target, names=None) -> None:
        self.part.update(prediction, target, names)
        first = len(self.names)
        self.names += names or [f"image {first + i}" for i in range(len(prediction))]

    def compute(self) -> dict[str, float]:
        return self.part.compute()


def as_metric(part, class_names: list[str]) -> Metric:
    """`part` as a Metric, reset.

    Raises ConfigError when a required method is missing, ValueError when one fails before the first image.
    """
    metric = adopted(part, "metric", Metric, _OwnMetric)
    metric.class_names = metric.class_names or list(class_names)
    metric.reset()
    name = type(part).__name__
    check_call(part.update, (None, None, []), f"{name}.update is called as update(prediction, target, names)", "metric")
    try:
        known = metric.score_names()
    except Exception as error:
        raise ValueError(
            f"{name}.compute() fails before the first image ({error!r}); return NaN for its scores there"
        ) from error
    if not known:
        raise ValueError(f"{name}.compute() returns no score before the first image: return all names there, with NaN")
    return metric


def numbers(scores: dict) -> dict[str, float]:
    """Scores as plain numbers, of whatever kind a metric gives. Raises ConfigError for what is no number."""
    found = {}
    for name, value in scores.items():
        try:
            found[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            what = f"the score {name} is {type(value).__name__}, not a number"
            raise ConfigError(what, "metric", "let compute() return a number for each name") from error
    return found
