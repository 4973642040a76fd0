"""The page of an evaluation: scores with intervals, what is taken for what, and the images where it goes wrong."""

from pathlib import Path

import numpy as np

from segtrain.report import charts
from segtrain.report import pictures as panels
from segtrain.report.html import inline, write_page
from segtrain.report.scores import MEANS, SECTIONS, class_sections, interval_text, meaning, other_scores
from segtrain.report.text import percent

CLASS_SCORES = ("iou", "dice", "precision", "recall")
SHOWN_CLASSES = 8  # the rarest; a page of 150 classes would not be read
WHOLE_MATRIX = 25  # classes up to which all of what is taken for what is shown


def write_evaluation_page(file: Path, title: str, scores, result: dict, dataset, draw) -> None:
    """Write a self-contained HTML page.

    Args:
        scores: filled SegmentationScores of the images of `dataset`.
        result: {"scores", "per_class", "intervals"} as in result.json.
        draw: (index, label) -> uint8 [H, W, 3], the picture of an image and its errors, of one class or, for None, all.
    """
    intervals = result.get("intervals") or {}
    colours = panels.html_colours(dataset)
    numbers = result["scores"]

    def line(name: str) -> tuple[str, str, str]:
        return name, percent(numbers[name]), interval_text(intervals.get(name))

    classes = [
        {
            "name": row["name"],
            "colour": colours[row["index"]],
            "bar": 0 if row["iou"] is None or row["iou"] != row["iou"] else round(12 * row["iou"], 2),
            "intervals": {key: interval_text(intervals.get(f"{key}/{row['name']}")) for key in CLASS_SCORES},
            "support": f"{row['support']:,}",
            "images": row["images"],
        }
        | {key: percent(row[key]) for key in CLASS_SCORES}
        for row in sorted(result["per_class"], key=lambda row: row["support"])
    ]
    listed = [name for name in other_scores(numbers, result["per_class"]) if name not in MEANS]
    shown = rarest_classes(result["per_class"], dataset.background)
    drawn = score_charts(scores, numbers, shown, dataset.class_names)
    shares, many = charts.row_shares(scores.confusion()), dataset.num_classes > WHOLE_MATRIX
    write_page(
        file,
        "evaluation.html",
        title=title,
        subtitle=f"{len(scores.names)} images",
        means=[line(name) for name in MEANS if name in numbers],
        classes=classes,
        names=dataset.class_names,
        fewer=len(shown) if len(shown) == SHOWN_CLASSES < len(result["per_class"]) else None,
        confusion=None if dataset.multilabel or many else confusion_rows(shares, dataset.class_names),
        confusions=largest_confusions(shares, dataset.class_names) if many else [],
        groups=picture_groups(scores, dataset, draw),
        sections=score_sections(result, drawn),
        others=[(*line(name), meaning(name)) for name in listed],
    )


def score_sections(result: dict, drawn: dict[str, list[str]]) -> list[dict]:
    """For each of SECTIONS its heading, kinds of score, a row of (value, interval) a class, and charts."""
    numbers, intervals = result["scores"], result.get("intervals") or {}
    tables = class_sections(numbers, result["per_class"])
    sections = []
    for section, (heading, _) in SECTIONS.items():
        kinds = tables.get(section, [])
        rows = []
        for row in sorted(result["per_class"], key=lambda row: row["support"]):
            names = [f"{kind}/{row['name']}" for kind in kinds]
            cells = [(percent(numbers.get(name)), interval_text(intervals.get(name))) for name in names]
            objects = f"{row['objects']:,}" if "objects" in row and section == "found" else None
            rows.append({"name": row["name"], "objects": objects, "cells": cells})
        if kinds or section in drawn:
            columns = [kind.replace("_", " ") for kind in kinds]
            sections.append({"title": heading, "columns": columns, "rows": rows, "charts": drawn.get(section, [])})
    return sections


def rarest_classes(per_class: list[dict], background: int | None) -> list[int]:
    """The classes with the fewest truth pixels, without background and those that have none."""
    rows = sorted(per_class, key=lambda row: row["support"])
    return [row["index"] for row in rows if row["support"] and row["index"] != background][:SHOWN_CLASSES]


def score_charts(scores, numbers: dict[str, float], shown: list[int], names: list[str]) -> dict[str, list[str]]:
    """Pictures for each of SECTIONS, of the classes `shown`."""

    def values(kinds: list[str]) -> np.ndarray:
        rows = [[numbers[f"{kind}/{names[c]}"] for kind in kinds] for c in shown]
        return np.array(rows, dtype=float)

    drawn: dict[str, list[str]] = {}
    chosen = [names[c] for c in shown]
    sizes = [n.removesuffix("/mean") for n in numbers if n.startswith("object_recall_") and n.endswith("/mean")]
    if shown and sizes:
        labels = [size.removeprefix("object_recall_") for size in sizes]
        title = "Objects found, by size"
        drawn["found"] = [charts.grouped_bars(values(sizes), labels, chosen, title)]
    slips = [n.removesuffix("/all") for n in numbers if n.startswith("errors_") and n.endswith("/all")]
    if shown and slips:
        labels = [slip.removeprefix("errors_").replace("_", " ") + " pixels" for slip in slips]
        title, shades = "Wrong pixels by distance from the true border", ["#9ecae1", "#4292c6", "#d64541"]
        drawn["borders"] = [charts.stacked_bars(values(slips), labels, chosen, shades, title)]
    curves = scores.curves() if hasattr(scores, "curves") else None
    if shown and curves is not None:
        drawn["confidence"] = [
            charts.precision_recall(curves, shown, names),
            charts.reliability(curves, scores.bins, shown, names),
        ]
    return drawn


def largest_confusions(shares: np.ndarray, names: list[str], count: int = 30) -> list[tuple[str, str, str]]:
    """Truth, what it is said to be, and the percentage of its pixels, the largest first."""
    wrong = shares * (1 - np.eye(len(shares)))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(names[t], names[s], percent(wrong[t, s])) for t, s in pairs if wrong[t, s] > 0]


def confusion_rows(shares: np.ndarray, names: list[str]) -> list[dict]:
    """Rows of cells, in percent of the row, darker where there is more."""
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
    return rows


def picture_groups(scores, dataset, draw) -> list[dict]:
    """For the rarest classes the images with the lowest IoU and one in the middle; false alarms in empty images."""
    from segtrain.metrics.table import false_alarms

    tp, fp, fn = np.moveaxis(scores.table(), 2, 0)
    iou = tp / np.maximum(tp + fp + fn, 1)
    position = {str(name): index for index, name in enumerate(dataset.names)}

    def picture(row: int, caption: str, label: int | None = None) -> dict:
        drawn = draw(position[str(scores.names[row])], label)
        return {"data": inline(drawn, 1100), "caption": f"{scores.names[row]}: {caption}"}

    groups = []
    foreground = [c for c in range(dataset.num_classes) if c != dataset.background]
    for c in sorted(foreground, key=lambda c: (tp + fn)[:, c].sum())[:SHOWN_CLASSES]:
        rows = [i for i in np.argsort(iou[:, c], kind="stable").tolist() if (tp + fn)[i, c] > 0]
        if not rows:
            continue
        chosen = dict.fromkeys([*rows[:2], rows[len(rows) // 2]])
        words = {rows[len(rows) // 2]: "in the middle", **dict.fromkeys(rows[:2], "among the worst")}
        pictures = [
            picture(i, f"{words[i]}, IoU {percent(iou[i, c])} %, {(tp + fn)[i, c]:,} pixels", c) for i in chosen
        ]
        note = f"{len(rows)} images have it; found not at all in {int((tp[rows, c] == 0).sum())} of them."
        groups.append({"title": dataset.class_names[c], "note": note, "pictures": pictures})
    empty, alarms = false_alarms(scores.derived(), scores.min_area)
    if empty.any():
        said = fp[:, foreground].sum(axis=1) * (empty & alarms)
        pictures = [
            picture(i, f"{said[i]:,} pixels said to be foreground")
            for i in np.argsort(-said, kind="stable")[:3].tolist()
            if said[i]
        ]
        note = f"{(empty & alarms).sum()} of {empty.sum()} images without foreground are said to have some."
        groups.append({"title": "False alarms", "note": note, "pictures": pictures})
    return groups
