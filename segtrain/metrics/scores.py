"""Scores from int64 counts per image and class; never an average of scores of batches."""

from typing import Annotated, Literal

import numpy as np
import torch

from segtrain.arguments import Fraction, Label, NonNegativeInt, Positive, PositiveInt, Range, checked
from segtrain.metrics.bootstrap import bootstrap
from segtrain.metrics.confusion import confusion_per_image
from segtrain.metrics.groups.boundary import Boundary
from segtrain.metrics.groups.calibration import (
    COARSE,
    LEVELS,
    Curves,
    class_odds,
    count_confidence,
    count_probabilities,
    curve_scores,
    expected_error,
)
from segtrain.metrics.groups.foreground import count_any_label, count_foreground, foreground
from segtrain.metrics.groups.objects import Objects
from segtrain.metrics.regions import count_regions
from segtrain.metrics.table import Table, fine_grained, per_class, presence, standard

Rising = Range("two numbers above 0, the second larger", lambda v: len(v) == 2 and 0 < v[0] < v[1])


class SegmentationScores:
    """Counts true positives, false positives and false negatives per image and class, and derives the scores.

    A class with no pixel in truth and prediction has no score: NaN, and it is left out of means.
    Foreground scores leave out the background's score; its pixels still count as false positives and negatives.

    Args:
        num_classes: number of classes C.
        ignore_index: target value of pixels that do not count.
        background: index of the class to leave out of `iou/foreground` and `dice/foreground`, or None.
        class_names: C names, for the names of scores.
        multilabel: whether a pixel may have several classes.
        groups: scores besides the standard ones: fine_grained (per image, per class, the worst), presence (is a class
            said to be in the images it is in), foreground (against background, and the class within it), objects
            (found, by size), boundary (scores at borders, errors by distance from them), calibration (is the
            confidence worth anything).
        worst: percentages of the worst images, for fine_grained.
        min_area: predicted pixels that say a class is in an image, for presence.
        object_sizes: pixels from which an object is medium, and large.
        object_overlap: share of an object's pixels that must be found for it to be found.
        boundary_width: of the band in which Boundary IoU compares; pixels, or below 1 a share of the diagonal.
        boundary_tolerance: how far a contour may be off, for boundary F1; as boundary_width.
        error_distances: pixels from the true border that divide errors into three kinds.
        confidence_bins: for the calibration error.
    """

    @checked
    def __init__(
        self,
        num_classes: PositiveInt,
        ignore_index: Label = 255,
        background: NonNegativeInt | None = 0,
        class_names: list[str] | None = None,
        multilabel: bool = False,
        groups: list[Literal["fine_grained", "presence", "foreground", "objects", "boundary", "calibration"]] = (),
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
        self.class_names = list(class_names or [f"class {i}" for i in range(num_classes)])
        if len(self.class_names) != num_classes or len(set(self.class_names)) < num_classes:
            raise ValueError(f"class_names={self.class_names} must be {num_classes} different names")
        if num_classes > 256 and not multilabel:
            raise ValueError(f"{num_classes} classes of which a pixel has one: predictions are bytes, for at most 256")
        if background is not None and background >= num_classes:
            raise ValueError(f"background={background} is no class of 0 to {num_classes - 1}")
        self.multilabel, self.groups, self.worst, self.min_area = multilabel, list(groups), list(worst), min_area
        self.bins = confidence_bins
        looks = {
            "boundary": Boundary(boundary_width, boundary_tolerance, list(error_distances)),
            "objects": Objects(list(object_sizes), object_overlap),
        }
        self._looks = [looks[name] for name in looks if name in groups]
        self.reset()

    def reset(self) -> None:
        c = self.num_classes
        kinds = {"levels": torch.int32}  # large, and of one image
        self._rows = {
            name: [torch.zeros(0, *shape, dtype=kinds.get(name, torch.int64))] for name, shape in self._shapes().items()
        }
        self._confusion = torch.zeros(c, c, dtype=torch.int64)
        self._probabilities = torch.zeros(c, LEVELS if self.needs_logits else 0, 2, dtype=torch.int64)
        self.names: list[str] = []

    @property
    def needs_logits(self) -> bool:
        """Whether `update` wants the logits, too."""
        return self.multilabel or "calibration" in self.groups

    def update(
        self,
        prediction: torch.Tensor,
        target: torch.Tensor,
        names: list[str] | None = None,
        logits: torch.Tensor | None = None,
    ) -> None:
        """Add a batch. Counts stay on the device; objects and borders are looked at by the CPU.

        Args:
            prediction: class indices [N,H,W]; multi-label: bool [N,C,H,W].
            target: integer of the same shape, or ignore_index.
            names: one per image.
            logits: [N,C,H,W], for calibration and the best thresholds.

        Raises ValueError for shapes that differ and, on the CPU, for values that are no class.
        """
        if prediction.shape != target.shape:
            raise ValueError(f"prediction {list(prediction.shape)} and target {list(target.shape)} differ in shape")
        if names is not None and len(names) != len(prediction):
            raise ValueError(f"{len(names)} names for {len(prediction)} images")
        if "calibration" in self.groups and logits is None:
            raise ValueError("the group calibration needs the logits: update(prediction, target, logits=logits)")
        rows = self._count(prediction, target)
        if self._looks:
            there = rows["table"].any(dim=2).cpu().numpy()
            rows |= count_regions(self._looks, prediction, target, self.ignore_index, there)
        if logits is not None and self.needs_logits:
            rows |= self._count_probabilities(prediction, target, logits)
        for name, values in rows.items():
            self._rows[name].append(values)
        first = len(self.names)
        self.names += names or [f"image {first + i}" for i in range(len(prediction))]

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """What is counted of each image."""
        c, groups = self.num_classes, self.groups
        shapes = {"table": (c, 3), "valid": (c,)}
        if self._counts_foreground:
            shapes |= {"foreground": (3,), "within_foreground": (c, 3)}
        for look in self._looks:
            shapes |= look.shapes(c)
        if "calibration" in groups:
            shapes |= {"confidence": (self.bins, 3), "levels": (c, len(COARSE), 2)}
        return shapes

    @property
    def _counts_foreground(self) -> bool:
        return "foreground" in self.groups and (self.multilabel or self.background is not None)

    def _count(self, prediction: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """What a histogram of truth and prediction tells."""
        n, c = len(prediction), self.num_classes
        if self.multilabel:
            flat = [values.flatten(0, 1) for values in (prediction.to(torch.uint8), target)]
            matrix = confusion_per_image(*flat, 2, self.ignore_index).view(n, c, 2, 2)
            tp, fp, fn = matrix[..., 1, 1], matrix[..., 0, 1], matrix[..., 1, 0]
            valid = matrix.sum(dim=(2, 3))
        else:
            matrix = confusion_per_image(prediction, target, c, self.ignore_index)
            self._confusion = self._confusion.to(matrix.device) + matrix.sum(dim=0)
            tp = matrix.diagonal(dim1=1, dim2=2)
            fp, fn = matrix.sum(dim=1) - tp, matrix.sum(dim=2) - tp
            valid = matrix.sum(dim=(1, 2))[:, None].expand(n, c)
        rows = {"table": torch.stack([tp, fp, fn], dim=2), "valid": valid}
        if self._counts_foreground and self.multilabel:
            rows |= count_any_label(prediction, target, self.ignore_index)
        elif self._counts_foreground:
            rows |= count_foreground(matrix, self.background)
        return rows

    def _count_probabilities(self, prediction, target, logits) -> dict[str, torch.Tensor]:
        odds = class_odds(logits, target == self.ignore_index, self.multilabel)
        total, levels = count_probabilities(odds, target)
        self._probabilities = self._probabilities.to(total.device) + total
        if "calibration" not in self.groups:
            return {}
        return {
            "confidence": count_confidence(odds, prediction, target, self.ignore_index, self.bins),
            "levels": levels,
        }

    def state(self) -> dict[str, np.ndarray]:
        """All counts, as per_image.npz holds them."""
        arrays = self._joined() | {"names": np.array(self.names), "classes": np.array(self.class_names)}
        arrays["confusion"] = self.confusion()
        if self.needs_logits:
            arrays["probabilities"] = self._probabilities.cpu().numpy()
        return arrays

    def restore(self, names, confusion, classes=None, probabilities=None, **rows) -> None:
        """Take over what `state` was."""
        self.reset()
        self.names, self._confusion = [str(name) for name in names], torch.from_numpy(confusion)
        if probabilities is not None:
            self._probabilities = torch.from_numpy(probabilities)
        self._rows |= {name: [torch.from_numpy(array)] for name, array in rows.items()}

    def table(self) -> np.ndarray:
        """int64 [images, C, 3]: tp, fp, fn of every image so far, in the order of `names`."""
        return self.derived().counts

    def confusion(self) -> np.ndarray:
        """int64 [C, C]: valid pixels by truth (row) and prediction (column). For one label a pixel."""
        return self._confusion.cpu().numpy()

    def derived(self) -> Table:
        """The counts of every image, in the order of `names`."""
        return self._table_of(self._joined())

    def _joined(self) -> dict[str, np.ndarray]:
        return {name: torch.cat([part.cpu() for part in parts]).numpy() for name, parts in self._rows.items()}

    def _table_of(self, rows: dict[str, np.ndarray]) -> Table:
        more = {name: array for name, array in rows.items() if name not in ("table", "valid", "levels")}
        return Table(rows["table"], rows["valid"], self.class_names, self.background, self.multilabel, more)

    def curves(self) -> Curves | None:
        """What becomes of each class when the probability from which it is said is moved; None without logits."""
        return self._all_curves() if self._probabilities.any() else None

    def _all_curves(self) -> Curves:
        return Curves(self._probabilities.cpu().numpy())

    def best_thresholds(self) -> dict[str, float]:
        """The probability from which to say each class for the highest Dice; for classes that truth has."""
        curves = self.curves()
        values = [] if curves is None else curves.best_thresholds().tolist()
        return {name: value for name, value in zip(self.class_names, values, strict=False) if value == value}

    def per_class(self) -> dict[str, np.ndarray]:
        """iou, dice, precision, recall (NaN where undefined), support (truth pixels), images, and objects where they are
        looked for, each [C]."""
        table = self.derived()
        objects = {"objects": table.more["objects"][..., 1].sum(axis=(0, 2))} if "objects" in table.more else {}
        return per_class(table) | objects

    def compute(self) -> dict[str, float]:
        """All scores by name: iou/mean, iou/foreground, iou/<class name>, dice/mean, accuracy, …"""
        return self._every(self.derived(), self._all_curves())

    def _every(self, table: Table, curves: Curves) -> dict[str, float]:
        found = self.scores(table)
        if "calibration" in self.groups:
            found |= curve_scores(curves, table, self.bins)
        return found

    def scores(self, table: Table) -> dict[str, float]:
        """The scores of a table, such as a part of the images; those of curves are of all images only."""
        found = standard(table)
        if "fine_grained" in self.groups:
            found |= fine_grained(table, self.worst)
        if "presence" in self.groups:
            found |= presence(table, self.min_area)
        if "foreground" in self.groups:
            found |= foreground(table)
        for look in self._looks:
            found |= look.scores(table)
        if "calibration" in self.groups:
            found |= expected_error(table)
        return found

    def intervals(self, repeats: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % bootstrap interval over images of every score; NaN for those of a class that one image alone has.

        Those of curves come from coarser levels, kept of each image: moved by what these change of the score itself.
        """
        rows, images = self._joined(), len(self.names)
        table, levels = self._table_of(rows), rows.get("levels")
        flat = None if levels is None else levels.reshape(images, levels[0].size if images else 0).astype(np.float32)

        def scores(drawn: np.ndarray) -> dict[str, float]:
            found = self.scores(table.of(drawn))
            if flat is None:
                return found
            total = (np.bincount(drawn, minlength=images).astype(np.float32) @ flat).astype(np.float64)
            return found | curve_scores(Curves(total.reshape(self.num_classes, -1, 2), COARSE), table, self.bins)

        if not images:
            return dict.fromkeys(self.score_names(), (float("nan"), float("nan")))
        truth = table.counts[..., [0, 2]].any(axis=2)
        needed = np.concatenate([truth, table.counts.any(axis=2)], axis=1)
        found = bootstrap(images, scores, repeats, seed, needed=needed)
        exact, coarse = self.compute(), scores(np.arange(images))
        for name in curve_scores(self._all_curves(), table, self.bins) if levels is not None else ():
            moved = exact[name] - coarse[name]
            found[name] = tuple(np.clip(np.array(found[name]) + moved, 0, 1).tolist())
        alone = {c for c, number in zip(self.class_names, truth.sum(axis=0), strict=True) if number == 1}
        for name in found:
            if name.partition("/")[2] in alone:
                found[name] = (float("nan"), float("nan"))
        return found

    def score_names(self) -> list[str]:
        """What `compute` will return, known before any image."""
        rows = {name: np.zeros((0, *shape), np.int64) for name, shape in self._shapes().items()}
        curves = Curves(np.zeros((self.num_classes, len(COARSE), 2), np.int64), COARSE)
        return list(self._every(self._table_of(rows), curves))

    @staticmethod
    def lower_is_better(name: str) -> bool:
        """Whether a score is an error. Of shares of errors, that far from the border is the worse one to have."""
        return name.startswith(("ece", "class_ece", "errors_beyond_"))
