"""The content of result.json."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import get_type_hints

import numpy as np

from segtrain.arguments import mistake
from segtrain.errors import ConfigError
from segtrain.files import are_numbers, read_json, write_json


@dataclass
class Result:
    """The outcome of a run, so far or in the end.

    Attributes:
        status: running, finished, failed, preempted or pruned (by a search); empty when there is no run.
        best: the best epoch: {"epoch" (from 1), "monitor", "value"}; None before the first validation.
        scores: of the best epoch, by name.
        per_class: of the best epoch: a row per class with index, name, iou, dice, precision, recall, support, …
        lower_is_better, unit: of the monitored score; "%" is a share from 0 to 1, shown in percent.
        lower, units: names of all scores that are better low; and by name the units other than "%".
        intervals: 95 % interval of each score, (low, high).
        thresholds: multi-label: by class the probability that maximises Dice on val.
        cross_fitted: scores with thresholds that were chosen on other images than each is scored on.
        seconds: of all sessions of the run.
        error: what ended it, when it failed.
    """

    status: str = ""
    best: dict | None = None
    scores: dict[str, float] = field(default_factory=dict)
    per_class: list[dict] = field(default_factory=list)
    lower_is_better: bool = False
    unit: str = "%"
    lower: list[str] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] | None = None
    thresholds: dict[str, float] | None = None
    cross_fitted: dict[str, float] | None = None
    seconds: float = 0.0
    error: str | None = None

    @classmethod
    def read(cls, run: Path) -> "Result":
        """That of a run's folder; without status when there is none. Raises ConfigError for a damaged file."""
        file = Path(run) / "result.json"
        return cls.of(read_json(file), file)

    @classmethod
    def of(cls, content: dict, file: Path) -> "Result":
        """From the content of `file`. Raises ConfigError when a value is of another kind than ours."""
        kinds = get_type_hints(cls)
        known = {name: value for name, value in content.items() if name in kinds}
        wrong = [f"{name} {text}" for name, value in known.items() if (text := mistake(value, kinds[name]))]
        wrong = wrong or list(cls(**known)._mistakes())
        if wrong:
            raise ConfigError(f"not a result of segtrain: {', '.join(wrong)}", str(file), "restore or remove the file")
        return cls(**known)

    def _mistakes(self):
        """What is wrong inside the mappings."""
        if (best := self.best) is not None:
            fits = {"epoch", "monitor", "value"} <= best.keys() and isinstance(best["monitor"], str)
            if not fits or type(best["epoch"]) is not int or not are_numbers([best["value"]]):
                yield "best must have epoch, monitor and value"
        for name in ("scores", "thresholds", "cross_fitted"):
            if not are_numbers((getattr(self, name) or {}).values()):
                yield f"{name} must be numbers"
        intervals = (self.intervals or {}).values()
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 and are_numbers(pair) for pair in intervals):
            yield "intervals must be pairs of numbers"
        named = all({"index", "name"} <= row.keys() and isinstance(row["name"], str) for row in self.per_class)
        if not named or not all(are_numbers({**row, "name": None}.values()) for row in self.per_class):
            yield "per_class must be rows with index, name and numbers"

    def take(self, epoch, class_names: list[str]) -> None:
        """Become that of a segtrain.training Epoch, the best so far."""
        self.best = {"epoch": epoch.number, "monitor": epoch.monitor.name, "value": epoch.value}
        self.lower_is_better, self.unit = not epoch.monitor.higher_is_better, epoch.monitor.unit
        self.scores = epoch.scores
        self.describe(epoch.records)
        self.per_class = per_class_rows(epoch.best.per_class, class_names)

    def describe(self, records: dict) -> None:
        """Take from the Score records of all scores which are better low, and their units."""
        known = {name: records[name] for name in self.scores if name in records}
        self.lower = [name for name, record in known.items() if not record.higher_is_better]
        self.units = {name: record.unit for name, record in known.items() if record.unit != "%"}

    def write(self, run: Path) -> None:
        """Leave out what is not known. Raises DiskError."""
        content = {name: value for name, value in asdict(self).items() if value is not None}
        write_json(Path(run) / "result.json", content)


def per_class_rows(columns: dict[str, np.ndarray], class_names: list[str]) -> list[dict]:
    """Rows of `per_class` from columns with a value per class; none without columns."""
    if not columns:
        return []
    return [
        {"index": i, "name": name, **{key: column[i].item() for key, column in columns.items()}}
        for i, name in enumerate(class_names)
    ]
