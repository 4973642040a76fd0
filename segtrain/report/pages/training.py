"""What explains a run on its page: how it was trained, from which counts and weights, and how it learned."""

from dataclasses import dataclass

from segtrain.class_counts import ClassCounts
from segtrain.metrics.records import Score
from segtrain.report import charts
from segtrain.report.scores import counts_rows
from segtrain.report.text import score_text
from segtrain.runs.environment import FREE, differing

HIDDEN = ("class_weights", "dataset.class_names", "dataset.palette")  # in the table of classes
LONGEST = 80  # characters of a setting


@dataclass(frozen=True)
class Training:
    """The facts of a training.

    Attributes:
        settings: of the run by dotted key, and for each config group the option that was chosen.
        defaults: of segtrain, by dotted key.
        counts, weights: of the training images; weights None: all 1.
        rows: of metrics.csv.
        best: the best epoch; monitor its score's record.
        command: as it was typed.
    """

    settings: dict[str, object]
    defaults: dict[str, object]
    counts: ClassCounts
    weights: list[float] | None
    rows: list[dict]
    best: dict
    monitor: Score
    command: str

    def title(self) -> str:
        """Loss, weighting, dataset, model and epochs."""
        groups = ("loss", "weighting", "dataset", "model")
        parts = [f"{group}={self.settings[group]}" for group in groups if group in self.settings]
        return " ".join([*parts, str(self.settings.get("model.encoder", ""))]).strip() + f", {len(self.rows)} epochs"

    def changed(self) -> list[tuple[str, str, str]]:
        """Key, value and default of each setting that is not the default."""
        found = differing(self.defaults, {k: v for k, v in self.settings.items() if "." in k or k in self.defaults})
        shown = [key for key in found if not key.endswith(HIDDEN) and key not in FREE]
        return [(key, _short(self.settings.get(key)), _short(self.defaults.get(key))) for key in shown]

    def content(self) -> dict:
        """For the template."""
        columns, rows = counts_rows(self.counts, self.weights)
        name, unit = self.monitor.name, self.monitor.unit
        losses = {kind: [row.get(f"{kind}/loss") for row in self.rows] for kind in ("train", "val")}
        monitored = {name: [row.get(f"val/{name}") for row in self.rows]}
        best = self.best["epoch"]
        score = score_text(self.best["value"], unit)
        return {
            "command": self.command,
            "changed": self.changed(),
            "columns": columns,
            "rows": rows,
            "charts": [
                charts.curves_by_epoch(losses, "loss", "Loss", "", best),
                charts.curves_by_epoch(monitored, name, f"{name}, best {score} in epoch {best}", unit, best),
            ],
        }


def _short(value) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
