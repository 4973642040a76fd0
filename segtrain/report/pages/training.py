"""What explains a run on its page: how it was trained, from which counts and weights, and how it learned."""

from segtrain.class_counts import ClassCounts
from segtrain.metrics.records import Score
from segtrain.report import charts
from segtrain.report.scores import counts_rows
from segtrain.report.text import score_text
from segtrain.runs.environment import FREE, differing

HIDDEN = ("class_weights", "dataset.class_names", "dataset.palette")  # in the table of classes
LONGEST = 80  # characters of a setting


def training_facts(
    settings: dict[str, object],
    defaults: dict[str, object],
    counts: ClassCounts,
    weights: list[float] | None,
    rows: list[dict],
    best: dict,
    monitor: Score,
    command: str,
) -> dict:
    """What the page of a run shows of its training.

    Args:
        settings: of the run by dotted key, and for each config group the option that was chosen.
        defaults: those of the options that were chosen, by dotted key, and for each config group the usual option.
        counts, weights: of the training images; weights None: all 1.
        rows: of metrics.csv.
        best: the best epoch; monitor its score's record.
        command: as it was typed.

    Returns for the template: title, command, changed (key, value and default of each setting that is not the default),
    columns and rows of the table of classes, charts.
    """
    chosen = [f"{group}={settings[group]}" for group in ("loss", "weighting", "dataset", "model") if group in settings]
    title = " ".join([*chosen, str(settings.get("model.encoder", ""))]).strip() + f", {len(rows)} epochs"
    changed = differing(defaults, {k: v for k, v in settings.items() if "." in k or k in defaults})
    changed = [key for key in changed if key not in (*HIDDEN, *FREE) and not key.endswith("_target_")]
    columns, counted = counts_rows(counts, weights)
    name, unit, epoch = monitor.name, monitor.unit, best["epoch"]
    losses = {kind: [row.get(f"{kind}/loss") for row in rows] for kind in ("train", "val")}
    monitored = {name: [row.get(f"val/{name}") for row in rows]}
    best_score = f"{name}, best {score_text(best['value'], unit)} in epoch {epoch}"
    return {
        "title": title,
        "command": command,
        "changed": [(key, _short(settings.get(key)), _short(defaults.get(key))) for key in changed],
        "columns": columns,
        "rows": counted,
        "charts": [
            charts.curves_by_epoch(losses, "loss", "Loss", "", epoch),
            charts.curves_by_epoch(monitored, name, best_score, unit, epoch),
        ],
    }


def _short(value) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
