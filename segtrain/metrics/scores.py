"""Segmentation scores from int64 counts per image and class; never an average of scores of batches."""

from typing import Annotated, Literal

import numpy as np
import torch

from segtrain.arguments import Fraction, Label, NonNegativeInt, Positive, PositiveInt, Range, checked
from segtrain.metrics import tuning
from segtrain.metrics.bootstrap import NONE, intervals
from segtrain.metrics.curves import Curves
from segtrain.metrics.groups.boundary import Boundary
from segtrain.metrics.groups.calibration import Calibration, Thresholds
from segtrain.metrics.groups.foreground import Foreground
from segtrain.metrics.groups.group import ScoredBatch
from segtrain.metrics.groups.objects import Objects
from segtrain.metrics.groups.per_image import PerImage
from segtrain.metrics.groups.presence import Presence, false_alarms
from segtrain.metrics.groups.standard import Standard
from segtrain.metrics.metric import Metric
from segtrain.metrics.records import Score
from segtrain.metrics.regions import count_regions
from segtrain.metrics.table import Classes, Table, mean

Rising = Range("two numbers above 0, the second larger", lambda v: len(v) == 2 and 0 < v[0] < v[1])


class SegmentationScores(Metric):
    """Scores from true positives, false positives and false negatives per image and class, and from more counts.

    A class with no pixel in ground truth and prediction has no score: NaN, and it is left out of means.
    Foreground scores leave out the background's score; its pixels still count as false positives and negatives.

    Args:
        num_classes: number of classes C.
        ignore_index: target value of pixels that do not count.
        background: index of the class to leave out of `iou/foreground` and `dice/foreground`, or None.
        class_names: C names, for the names of scores.
        multilabel: whether a pixel may have several classes.
        groups: scores besides the standard ones: fine_grained (per image, per class, the worst), presence (image-level
            detection: is a class predicted where it is present), foreground (against background, and the class within
            it), objects (found, by size), boundary (scores at borders, errors by distance from them), calibration (does
            confidence match accuracy); thresholds: probabilities are counted, from which thresholds and presence are
            chosen (of multi-label always).
        worst: percentages of the worst images, for fine_grained.
        min_area: predicted pixels from which a class counts as predicted in an image, for presence.
        object_sizes: pixels from which an object is medium, and large; by default COCO's.
        object_overlap: share of an object's pixels that must be predicted as its class for it to be found.
        boundary_width: of the band in which Boundary IoU compares; pixels, or below 1 a share of the diagonal.
        boundary_tolerance: how far a contour may be off, for boundary F1; as boundary_width.
        error_distances: pixels from the true border that divide errors into three kinds.
        confidence_bins: for the calibration error.
    """

    joins = True

    @checked
    def __init__(
        self,
        num_classes: PositiveInt,
        ignore_index: Label = 255,
        background: NonNegativeInt | None = 0,
        class_names: list[str] | None = None,
        multilabel: bool = False,
        groups: list[
            Literal["fine_grained", "presence", "foreground", "objects", "boundary", "calibration", "thresholds"]
        ] = (),
        worst: list[Annotated[int, Range("a whole number from 1 to 100", lambda v: 1 <= v <= 100)]] = (1, 5, 20),
        min_area: PositiveInt = 1,
        object_sizes: Annotated[list[int], Rising] = (32**2, 96**2),
        object_overlap: Fraction = 0.5,
        boundary_width: Positive = 0.02,
        boundary_tolerance: Positive = 0.0075,
        error_distances: Annotated[list[float], Rising] = (2, 8),
        confidence_bins: Annotated[int, Range("a whole number from 1 to 60", lambda v: 1 <= v <= 60)] = 15,
    ):
        self.num_classes, self.ignore_index, self.background = num_classes, ignore_index, background
        self.class_names, self.multilabel = list(class_names or [f"class {i}" for i in range(num_classes)]), multilabel
        if len(self.class_names) != num_classes or len(set(self.class_names)) < num_classes:
            raise ValueError(f"class_names={self.class_names} must be {num_classes} different names")
        if num_classes > 256 and not multilabel:
            raise ValueError(
                f"{num_classes} classes with one class per pixel: predictions are stored as bytes, which hold at most 256"
            )
        if background is not None and background >= num_classes:
            raise ValueError(f"background={background} is not a class from 0 to {num_classes - 1}")
        self.classes = classes = Classes(self.class_names, ignore_index, background, multilabel)
        self.min_area, self.bins = min_area, confidence_bins
        every = {
            "fine_grained": PerImage(classes, list(worst)),
            "presence": Presence(classes, min_area),
            "foreground": Foreground(classes),
            "boundary": Boundary(classes, boundary_width, boundary_tolerance, list(error_distances)),
            "objects": Objects(classes, list(object_sizes), object_overlap),
            "calibration": Calibration(classes, confidence_bins),
            "thresholds": Thresholds(classes),
        }
        wanted = {*groups, *(["thresholds"] if multilabel else [])}
        wanted -= {"thresholds"} if "calibration" in wanted else set()  # which counts the same
        self.groups = [Standard(classes), *(group for name, group in every.items() if name in wanted and group.defined)]
        self.needs_logits = any(group.needs_logits for group in self.groups)
        self._arrays = {name: array for group in self.groups for name, array in group.arrays().items()}
        self.reset()

    def reset(self) -> None:
        self.names: list[str] = []
        self._parts = {
            name: [torch.zeros(array.shape if array.summed else (0, *array.shape), dtype=array.dtype)]
            for name, array in self._arrays.items()
        }

    def update(
        self,
        prediction: torch.Tensor,
        target: torch.Tensor,
        names: list[str] | None = None,
        logits: torch.Tensor | None = None,
    ) -> None:
        """Add a batch. Counts stay on the device; objects and borders are counted on the CPU.

        Args:
            prediction: class indices [N,H,W]; multi-label: bool [N,C,H,W].
            target: integer of the same shape, or ignore_index.
            names: one per image.
            logits: [N,C,H,W], for calibration and the best thresholds.

        Raises ValueError for shapes that differ and, on the CPU, for values that are no class (on CUDA: `compute` does).
        """
        if prediction.shape != target.shape:
            raise ValueError(f"prediction {list(prediction.shape)} and target {list(target.shape)} differ in shape")
        if names is not None and len(names) != len(prediction):
            raise ValueError(f"{len(names)} names for {len(prediction)} images")
        batch, counts = ScoredBatch(prediction, target, self.classes, logits), {}
        for group in self.groups:
            counts |= group.count(batch)
        for name, values in (counts | count_regions(self.groups, batch)).items():
            if self._arrays[name].summed:
                self._parts[name] = [self._parts[name][0].to(values.device) + values]
            else:
                self._parts[name].append(values)
        first = len(self.names)
        self.names += names or [f"image {first + i}" for i in range(len(prediction))]

    def counts(self) -> Table:
        """The counts of every image, in the order of `names`."""
        return Table({name: self._joined(name) for name in self._parts})

    def _joined(self, name: str) -> np.ndarray:
        parts = self._parts[name]
        self._parts[name] = [torch.cat([part.cpu() for part in parts]) if len(parts) > 1 else parts[0].cpu()]
        return self._parts[name][0].numpy()

    def state(self) -> dict[str, np.ndarray]:
        """All counts, as per_image.npz holds them: tp, fp, fn, valid int64 [images, C], names, classes and more."""
        arrays = {name: self._joined(name) for name in self._parts}
        return arrays | {"names": np.array(self.names), "classes": np.array(self.class_names)}

    def restore(self, names: np.ndarray, **state: np.ndarray) -> None:
        """Raises ValueError for arrays of other names or shapes."""
        for name, array in self._arrays.items():
            shape = tuple(array.shape) if array.summed else (len(names), *array.shape)
            if name not in state or state[name].shape != shape:
                raise ValueError(f"no counts of {name} {list(shape)}")
        self.names = [str(name) for name in names]
        self._parts = {name: [torch.from_numpy(state[name])] for name in self._arrays}

    def join(self, states: list[dict[str, np.ndarray]], order: np.ndarray) -> None:
        columns = {name: [state[name] for state in states] for name in ("names", *self._arrays)}
        summed = {name for name, array in self._arrays.items() if array.summed}
        self.restore(**{n: sum(c) if n in summed else np.concatenate(c)[order] for n, c in columns.items()})

    def table(self) -> np.ndarray:
        return np.stack(self.counts().counts, axis=2)

    def confusion(self) -> np.ndarray | None:
        return self._joined("confusion") if "confusion" in self._parts else None

    def false_alarms(self) -> tuple[np.ndarray, np.ndarray]:
        return false_alarms(self.counts(), self.classes, self.min_area)

    def curves(self) -> Curves | None:
        counts = self._joined("probabilities") if "probabilities" in self._parts else np.zeros(0)
        return Curves(counts, bins=self.bins) if counts.any() else None

    def best_thresholds(self) -> dict[str, float]:
        curves = self.curves()
        values = [] if curves is None else curves.best_thresholds().tolist()
        return {name: value for name, value in zip(self.class_names, values, strict=False) if value == value}

    def best_presence(self, false_alarms: float | None = None) -> dict[str, list]:
        """The smallest area and confidence of each class, best on these images (segtrain.metrics.tuning).

        {} when no probabilities were counted.

        Args:
            false_alarms: the largest share of the images without foreground that may have one.
        """
        if (counted := self._counted()) is None:
            return {}
        found = tuning.best_presence(counted, self._may_be_absent(), self._limit(false_alarms))
        return {"area": found.area.tolist(), "confidence": found.confidence.tolist()}

    def cross_fitted(
        self,
        groups: list[str] | None = None,
        thresholds: bool = True,
        presence: bool = False,
        false_alarms: float | None = None,
    ) -> dict[str, float]:
        """Scores of each image with thresholds (multi-label) and presence of classes that were chosen on others.

        IoU and Dice of the foreground and its classes, and the detection scores; {} when no probabilities were counted,
        and for a single group.

        Args:
            groups: the scene or patient of each image, in the order of `names`.
            false_alarms: with presence, of how many images without foreground at most.
        """
        groups = groups or self.names
        if (counted := self._counted()) is None or len(set(groups)) < 2:
            return {}
        chosen = self._may_be_absent() if presence else None
        limit = self._limit(false_alarms)
        found = tuning.cross_fitted(counted, groups, thresholds and self.multilabel, chosen, limit)
        table = Table({"tp": found.tp, "fp": found.fp, "fn": found.fn, "valid": self._joined("valid")})
        columns, foreground = self.groups[0].per_class(table), self.classes.foreground
        scores = {f"{kind}/foreground": mean(columns[kind][foreground]) for kind in ("iou", "dice")}
        for kind in ("iou", "dice", "precision", "recall"):
            scores |= {f"{kind}/{self.class_names[c]}": float(columns[kind][c]) for c in np.flatnonzero(foreground)}
        return scores | Presence(self.classes, self.min_area).scores(table)

    def _may_be_absent(self) -> np.ndarray:
        """bool [C]: all but the class that takes the place of an absent one; of several labels each may be."""
        return self.classes.foreground | self.multilabel

    def _limit(self, false_alarms: float | None) -> tuning.Limit | None:
        if false_alarms is None:
            return None
        return tuning.Limit(false_alarms, self.false_alarms()[0], self.classes.foreground, self.min_area)

    def _counted(self) -> tuning.TuningCounts | None:
        levels = self._joined("levels") if "levels" in self._parts else np.zeros(0)
        table = self.counts()
        return tuning.TuningCounts(levels, *table.counts) if len(levels) == len(table["tp"]) > 0 else None

    def per_class(self) -> dict[str, np.ndarray]:
        table, columns = self.counts(), {}
        for group in self.groups:
            columns |= group.per_class(table)
        return columns

    def per_image(self) -> dict[str, np.ndarray]:
        return self.groups[0].per_image(self.counts())

    def compute(self) -> dict[str, float]:
        """All scores by name: iou/mean, iou/foreground, iou/<class name>, dice/mean, accuracy, …

        Raises ValueError for values on CUDA that are no class; on the CPU `update` has refused them.
        """
        table = self.counts()
        counted = table["valid"][:, 0] if self.multilabel else (table["tp"] + table["fn"]).sum(axis=1)
        wrong = (table["valid"] < 0).any(axis=1) | (counted != table["valid"][:, 0])
        if wrong.any():
            raise ValueError(
                f"labels or predictions that are not a class from 0 to {1 if self.multilabel else self.num_classes - 1} and not "
                f"ignore_index={self.ignore_index} in {wrong.sum()} images, the first is {self.names[wrong.argmax()]}"
            )
        return self._scores(table)

    def _scores(self, table: Table) -> dict[str, float]:
        found = {}
        for group in self.groups:
            found |= group.scores(table)
        return found

    def records(self) -> dict[str, Score]:
        table = self.counts()
        found: dict[str, Score] = {}
        for score in (score for group in self.groups for score in group.records(table)):
            found.setdefault(score.name, score)  # of two classes iou/foreground is the class's, too
        return found

    def intervals(
        self, repeats: int = 1000, seed: int = 0, groups: list[str] | None = None
    ) -> dict[str, tuple[float, float]]:
        """95 % bootstrap interval of every score, over images or groups of them; (NaN, NaN) where one alone decides it."""
        table = self.counts()
        found, of_image = intervals(self._scores, table, repeats, seed, groups), np.asarray(groups or self.names)
        shown = {name: len(set(of_image[there])) for name, there in zip(self.class_names, table.present.T, strict=True)}
        alone = [name for name, score in self.records().items() if shown.get(score.class_name) == 1]
        alone += [name for group in self.groups for name in group.of_one_image(table)]
        return found | dict.fromkeys(alone, NONE)
