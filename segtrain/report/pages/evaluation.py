"""The page of an evaluation: scores with intervals, confusion matrix, charts, and the images with the largest errors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segtrain.errors import counted
from segtrain.metrics.groups.boundary import BY_DISTANCE
from segtrain.metrics.groups.objects import BY_SIZE
from segtrain.metrics.metric import Metric
from segtrain.metrics.records import Score
from segtrain.report import charts
from segtrain.report import pictures as panels
from segtrain.report.html import inline, write_page
from segtrain.report.scores import COUNTED, class_sections, interval_text, other_scores
from segtrain.report.text import percent, score_text
from segtrain.runs.result import Result

CLASS_SCORES = {"iou": "IoU %", "dice": "Dice %", "precision": "precision %", "recall": "recall %"}
SHOWN_CLASSES = 8  # the rarest; a page of 150 classes would not be read
WHOLE_MATRIX = 25  # classes up to which the whole confusion matrix is shown


def write_evaluation_page(
    file: Path, title: str, scores: Metric, result: Result, dataset, draw, training=None, notes: Sequence[str] = ()
) -> None:
    """Write a self-contained HTML page.

    Args:
        scores: of the images of `dataset`.
        result: scores, per_class and intervals.
        draw: (index, label) -> uint8 [H, W, 3], the picture of an image and its errors, of one class or, for None, all.
        notes: what the scores were made with, such as thresholds.
        training: what pages.training.training_facts returns, of the page of a run.
    """
    numbers, records = result.scores, scores.records()
    rows, intervals = sorted(result.per_class, key=lambda row: row["support"]), result.intervals or {}

    def line(score: Score) -> tuple[str, str, str, str]:
        text = score_text(numbers[score.name], score.unit)
        return score.name, text, interval_text(intervals.get(score.name)), score.meaning

    def cell(name: str) -> tuple[str, str]:
        return percent(numbers.get(name)), interval_text(intervals.get(name))

    shown = [row["index"] for row in rows if row["support"] and row["index"] != dataset.background][:SHOWN_CLASSES]
    write_page(
        file,
        "evaluation.html",
        title=title,
        notes=notes,
        subtitle=counted(len(scores.names), "image") + (f"; {training['title']}" if training else ""),
        means=[line(score) for score in records.values() if score.summary],
        columns=[*CLASS_SCORES.values(), *(text for name, text in COUNTED.items() if rows and name in rows[0])],
        classes=class_rows(rows, panels.html_colours(dataset), cell),
        names=dataset.class_names,
        fewer=len(shown) if len(shown) == SHOWN_CLASSES < len(rows) else None,
        groups=picture_groups(scores, dataset, shown, draw),
        sections=[
            {
                "title": title,
                "kinds": [(kind.replace("_", " "), score.meaning) for kind, score in kinds.items()],
                "rows": [(row["name"], [cell(f"{kind}/{row['name']}") for kind in kinds]) for row in rows],
                "charts": score_charts(kinds, numbers, [dataset.class_names[c] for c in shown]),
            }
            for title, kinds in class_sections(records).items()
        ],
        curves=curve_charts(scores, shown),
        training=training,
        others=[line(score) for score in other_scores(numbers, records) if not score.summary],
        **confusion_tables(scores.confusion(), dataset.class_names),
    )


def class_rows(rows: list[dict], colours: list[str], cell) -> list[dict]:
    """The table of classes: `cell` gives a score's value and interval by its name."""
    return [
        {
            "name": row["name"],
            "colour": colours[row["index"]],
            "bar": 0 if row["iou"] is None or row["iou"] != row["iou"] else round(12 * row["iou"], 2),
            "cells": [cell(f"{kind}/{row['name']}") for kind in CLASS_SCORES],
            "counts": [f"{row[name]:,}" for name in COUNTED if name in row],
        }
        for row in rows
    ]


def score_charts(kinds: dict[str, Score], numbers: dict[str, float], names: list[str]) -> list[str]:
    """The charts of a section, of the classes `names`."""
    drawn = []
    for title, draw in ((BY_SIZE, charts.grouped_bars), (BY_DISTANCE, charts.stacked_bars)):
        if names and (bars := {kind: score.label for kind, score in kinds.items() if score.chart == title}):
            values = np.array([[numbers[f"{kind}/{name}"] for kind in bars] for name in names], dtype=float)
            drawn.append(draw(values, list(bars.values()), names, title))
    return drawn


def curve_charts(scores: Metric, shown: list[int]) -> list[str]:
    """Precision over recall, and reliability, of the classes `shown`."""
    if not shown or (curves := scores.curves()) is None:
        return []
    return [draw(curves, shown, scores.class_names) for draw in (charts.precision_recall, charts.reliability)]


def confusion_tables(matrix: np.ndarray | None, names: list[str]) -> dict[str, list]:
    """confusion: rows of cells in percent of the row; confusions: of many classes the largest, as (ground truth,
    prediction, percentage)."""
    if matrix is None:
        return {"confusion": [], "confusions": []}
    shares = charts.row_shares(matrix)
    if len(names) > WHOLE_MATRIX:
        wrong = shares * (1 - np.eye(len(shares)))
        order = np.argsort(-wrong, axis=None, kind="stable")[:30]
        pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return {
            "confusion": [],
            "confusions": [(names[t], names[p], percent(wrong[t, p])) for t, p in pairs if wrong[t, p]],
        }
    rows = []
    for name, row in zip(names, shares, strict=True):
        cells = [
            {
                "text": f"{100 * v:.0f}" if v >= 0.005 else "",
                "colour": "#{:02x}{:02x}{:02x}".format(*(int(255 - v * (255 - c)) for c in (34, 84, 140))),
                "ink": "#fff" if v > 0.5 else "#1d2530",
            }
            for v in row
        ]
        rows.append({"name": name, "cells": cells})
    return {"confusion": rows, "confusions": []}


def picture_groups(scores: Metric, dataset, classes: list[int], draw) -> list[dict]:
    """For each of `classes` the images with the lowest IoU and the median one; then false alarms."""
    table = scores.table()
    if table is None:
        return []
    tp, fp, fn = np.moveaxis(table, 2, 0)
    iou, pixels = tp / np.maximum(tp + fp + fn, 1), tp + fn
    position = {str(name): index for index, name in enumerate(dataset.names)}

    def picture(image: int, caption: str, label: int | None = None) -> dict:
        drawn = draw(position[str(scores.names[image])], label)
        return {"data": inline(drawn, 1100), "caption": f"{scores.names[image]}: {caption}"}

    groups = []
    foreground = [c for c in range(dataset.num_classes) if c != dataset.background]
    for c in classes:
        images = [i for i in np.argsort(iou[:, c], kind="stable").tolist() if pixels[i, c] > 0]
        words = dict.fromkeys(images[:2], "among the worst")
        words.setdefault(images[len(images) // 2], "median")
        pictures = [
            picture(i, f"{text}, IoU {percent(iou[i, c])} %, {counted(int(pixels[i, c]), 'pixel')}", c)
            for i, text in words.items()
        ]
        groups.append({"title": dataset.class_names[c], "note": found_note(tp[images, c]), "pictures": pictures})
    return groups + false_alarm_group(scores, fp[:, foreground].sum(axis=1), picture)


def found_note(tp: np.ndarray) -> str:
    """In how many images that show a class it is found, from its true positives in each."""
    missed = int((tp == 0).sum())
    return f"In {counted(len(tp), 'image')}; " + (f"no pixel found in {missed}." if missed else "found in each.")


def false_alarm_group(scores: Metric, pixels: np.ndarray, picture) -> list[dict]:
    """The images without foreground in which most `pixels` of foreground are predicted."""
    if (alarms := scores.false_alarms()) is None or not alarms[0].any():
        return []
    empty, wrong = alarms[0], alarms[0] & alarms[1]
    worst = [i for i in np.argsort(-pixels * wrong, kind="stable")[:3].tolist() if wrong[i] and pixels[i]]
    note = f"Foreground is predicted in {wrong.sum() or 'none'} of {counted(int(empty.sum()), 'image')} without foreground."
    pictures = [picture(i, counted(int(pixels[i]), "false-positive foreground pixel")) for i in worst]
    return [{"title": "False alarms", "note": note, "pictures": pictures}]
