"""The page of a comparison: the answer first, then a sortable table, classes, curves and commands."""

from pathlib import Path

import numpy as np

from segtrain.comparison.answer import answer, interval, signed_percent, text
from segtrain.comparison.images import image_scores
from segtrain.comparison.settings import setting_text, short
from segtrain.comparison.verdict import Comparison
from segtrain.errors import ConfigError, counted
from segtrain.files import read_rows
from segtrain.report import charts
from segtrain.report.comparison import chance_text, rank_text, rarest
from segtrain.report.html import inline, write_page
from segtrain.report.text import percent

SCATTERED = 500  # images
MOST_NAMED = 9  # settings: matplotlib has ten colours


def write_comparison_page(
    file: Path, found: Comparison, pictures: list[tuple[str, np.ndarray]], notes: str = ""
) -> None:
    """Write a self-contained HTML page. Raises DiskError.

    Args:
        pictures: captions and uint8 [H, W, 3], of images under the baseline and the best.
        notes: of a search, what it tried before.
    """
    keys = list(found.settings[0].varied)
    base, shown = None, []
    if found.class_means.size:  # the classes that differ most come first
        base = found.class_means[found.baseline]
        shown = np.argsort(-np.nan_to_num(np.abs(found.class_means - base)).max(axis=0), kind="stable").tolist()
    write_page(
        file,
        "comparison.html",
        title=f"{counted(len(found.settings), 'setting')} by {found.by}",
        answer=answer(found),
        by=found.by,
        keys=[short(key, keys) for key in keys],
        rows=[_row(found, i, keys) for i in range(len(found.settings))],
        classes=[found.classes[c] for c in shown],
        heat=[
            [_cell(means[c], base[c], i == found.baseline) for c in shown] for i, means in enumerate(found.class_means)
        ],
        notes=notes,
        independent=0 < found.images == found.groups,
        scatter=scatter(found),
        pictures=[{"data": inline(picture, 1100), "caption": caption} for caption, picture in pictures],
        charts=[chart for chart in (over_number(found), trade(found), learning_curves(found)) if chart],
    )


def _row(found: Comparison, index: int, keys: list[str]) -> dict:
    setting, difference = found.settings[index], found.differences[index]
    return {
        "label": setting.label,
        "settings": [setting.text_of(key) for key in keys],
        "score": text(found, found.estimates[index].value),
        "interval": interval(found, found.estimates[index]),
        "difference": "" if difference is None else text(found, difference.value, True),
        "difference_interval": "baseline" if difference is None else interval(found, difference, True),
        "real": "" if difference is None else ("real" if found.real[index] else "not shown"),
        "best": chance_text(found.ranks.best[index]),
        "rank": rank_text(found.ranks.low[index], found.ranks.high[index]),
        "seeds": ", ".join(text(found, value) for value in found.scores.full[index]),
        "command": setting.command,
        "runs": [str(run.path) for run in setting.runs],
    }


def _cell(value: float, base: float, is_base: bool) -> dict:
    """A cell of the heat map: text and colour, green for better and red for worse than the baseline."""
    if np.isnan(value):
        return {"text": "n/a", "colour": "transparent"}
    change = 0.0 if is_base or np.isnan(base) else value - base
    strength = min(abs(change) / 0.15, 1.0) * 0.75
    colour = f"rgba({'46,160,67' if change > 0 else '214,69,65'},{strength:.2f})"
    return {"text": percent(value) + ("" if is_base else f" ({signed_percent(change)})"), "colour": colour}


def over_number(found: Comparison) -> str:
    """The score over the first setting that is a number, such as alpha, with a line for each combination of the others."""
    keys, lines = list(found.settings[0].varied), {}
    values = {key: [setting.varied[key] for setting in found.settings] for key in keys}
    numeric = (key for key in keys if {*map(type, values[key])} <= {int, float} and len(set(values[key])) > 1)
    if (key := next(numeric, None)) is None:
        return ""
    for setting, one in zip(found.settings, found.estimates, strict=True):
        others = [k for k in keys if k != key and setting.has(k)]
        label = " ".join(f"{short(k, keys)}={setting_text(setting.varied[k])}" for k in others)
        lines.setdefault(label, []).append((setting.varied[key], one.value, one.low, one.high))
    return charts.lines_with_intervals(
        {name: sorted(points) for name, points in lines.items()}, short(key, keys), found.by, found.unit
    )


def scatter(found: Comparison) -> dict | None:
    """The score of each image under each setting, to draw any two against each other; None when nothing was counted."""
    if (scored := image_scores(found)) is None or len(found.settings) < 2:
        return None
    names, values = scored
    chosen = np.unique(np.linspace(0, len(names) - 1, min(len(names), SCATTERED)).astype(int))
    return {
        "settings": [setting.label for setting in found.settings],
        "names": names[chosen].tolist(),
        "values": np.round(values[:, chosen], 3).tolist(),
        "x": found.baseline,
        "y": next(i for i in range(len(found.settings)) if i != found.baseline),
    }


def trade(found: Comparison) -> str:
    """What is won on rare classes against what is lost in accuracy: a point a setting; the best and the baseline are named."""
    rare = rarest(found)
    scores = [[run.result.scores.get("accuracy") for run in setting.runs] for setting in found.settings]
    if not rare or not found.class_means.size or any(value is None for values in scores for value in values):
        return ""
    points = {
        setting.label: (float(np.mean(values)), float(np.nanmean(means[rare])))
        for setting, values, means in zip(found.settings, scores, found.class_means, strict=True)
    }
    named = {found.settings[i].label for i in {found.baseline, *range(MOST_NAMED)} if i < len(found.settings)}
    others = [point for label, point in points.items() if label not in named]
    points = {label: point for label, point in points.items() if label in named}
    names = ", ".join(found.classes[c] for c in rare)
    return charts.points(points, others, "accuracy", f"mean IoU of {names}")


def learning_curves(found: Comparison) -> str:
    """The monitored score by epoch, mean over the seeds of a setting."""
    lines = {}
    for setting in found.settings[:MOST_NAMED]:
        curves = [curve for run in setting.runs if (curve := _curve(run.path / "metrics.csv", f"val/{found.by}"))]
        if curves:
            length = min(map(len, curves))
            lines[setting.label] = np.mean([curve[:length] for curve in curves], axis=0)
    title = "Learning curves, mean over the seeds"
    return charts.curves_by_epoch(lines, found.by, title, found.unit) if lines else ""


def _curve(file: Path, column: str) -> list[float]:
    try:
        return [float(row[column] or "nan") for row in read_rows(file)]
    except (KeyError, ValueError, TypeError, ConfigError):
        return []  # of a run of other scores
