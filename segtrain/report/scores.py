"""Tables of class counts and of scores, as text."""

import math
import shlex
from pathlib import Path

from segtrain.class_counts import ClassCounts
from segtrain.metrics.records import LOSS, Score
from segtrain.report.text import number, percent, score_text, share, table
from segtrain.runs.result import Result

HARDLY = 0.1  # IoU below which a class is hardly found

# Counts of each class in a table of scores.
COUNTED = {"support": "ground-truth pixels", "images": "images", "objects": "objects"}


def counts_table(counts: ClassCounts, weights: list[float] | None, val_counts: ClassCounts | None = None) -> str:
    """Pixels, share, images and weight of each class, and the share of images without foreground."""
    columns, rows = counts_rows(counts, weights)
    if val_counts is not None:
        columns.append("val pixels")
        for row, pixels in zip(rows, val_counts.pixels, strict=True):
            row.append(f"{pixels:,}")
    empty = 100 * counts.num_empty / max(counts.num_images, 1)
    title = f"{counts.num_images} training images, {empty:.0f} % of them without foreground"
    if counts.ignored_pixels:
        title += f", {counts.ignored_pixels:,} pixels ignored"
    return table(columns, rows, title)


def counts_rows(counts: ClassCounts, weights: list[float] | None) -> tuple[list[str], list[list[str]]]:
    """Columns, and a row a class; weights None: all 1."""
    weights = weights or [1] * len(counts.class_names)
    cells = zip(counts.class_names, counts.pixels, counts.share, counts.images, weights, strict=True)
    rows = [[name, f"{n:,}", share(part), str(images), number(weight)] for name, n, part, images, weight in cells]
    return ["class", "pixels", "share", "images", "weight"], rows


def scores_table(per_class: list[dict], counts_share: dict[str, float] | None = None, intervals=None) -> str:
    """IoU (with its interval), Dice, precision and recall in percent, the rarest class of training first, where it is known."""
    if not per_class:
        return ""
    kept = [name for name in COUNTED if name in per_class[0]]
    columns = ["class", "IoU %", "95 %", "Dice %", "precision %", "recall %", *(COUNTED[name] for name in kept)]
    rows = []
    for row in sorted(per_class, key=lambda row: (counts_share or {}).get(row["name"], row.get("support", 0))):
        interval = interval_text((intervals or {}).get(f"iou/{row['name']}"))
        iou, *scores = [percent(row.get(kind)) for kind in ("iou", "dice", "precision", "recall")]
        rows.append([row["name"], iou, interval, *scores, *(f"{row[name]:,}" for name in kept)])
        rows[-1] += [share(counts_share[row["name"]])] if counts_share else []
    return table(columns + (["share in train"] if counts_share else []), rows)


def means_line(scores: dict[str, float], records: dict[str, Score], intervals=None, monitor: str | None = None) -> str:
    """The monitored score and the first means, each with its interval."""
    records = {**records, LOSS.name: LOSS}
    first = [name for name, score in records.items() if score.summary][:4]
    names = dict.fromkeys(first if monitor is None else [monitor, *first])
    parts = [f"{n} {score_text(scores[n], records[n].unit)} {interval_text((intervals or {}).get(n))}" for n in names]
    return "  ".join(part.rstrip() for part in parts)


def cross_fitted_line(result: Result) -> str:
    """The means of scores whose thresholds or presence were chosen on other images."""
    found = result.cross_fitted or {}
    means = [
        n for n in ("iou/foreground", "dice/foreground", "presence_recall/foreground", "specificity") if n in found
    ]
    scores = ", ".join(f"{name} {score_text(found[name], '%')}" for name in means)
    return f"chosen on other images (cross-fitted): {scores}"


def thresholds_line(result: Result) -> str:
    """The thresholds that maximised Dice, and what scores they give on images they were not chosen on."""
    best = ", ".join(f"{name} {value:.3g}" for name, value in result.thresholds.items())
    return f"best thresholds on these images: {best}" + f"; {cross_fitted_line(result)}" * bool(result.cross_fitted)


def class_sections(records: dict[str, Score]) -> dict[str, dict[str, Score]]:
    """The kinds of score of each section, a table of classes beyond scores_table: {section: {kind: its record}}."""
    sections: dict[str, dict[str, Score]] = {}
    for score in records.values():
        if score.class_name is not None and score.section:
            sections.setdefault(score.section, {}).setdefault(score.kind, score)
    return sections


def other_scores(scores: dict[str, float], records: dict[str, Score]) -> list[Score]:
    """The scores that no table of classes shows, without the first means."""
    first = [score.name for score in records.values() if score.summary][:4]
    # without a background the two means are one, but for the order they were added up in
    one = math.isclose(scores.get("iou/foreground", 0), scores.get("iou/mean", 1))
    own = [score for score in records.values() if score.class_name is None and score.name not in first]
    return [score for score in own if not (one and score.part == "foreground")]


def interval_text(interval) -> str:
    """[12.3, 45.6] in percent; empty when there is none."""
    if interval is None or any(v is None or v != v for v in interval):
        return ""
    return f"[{percent(interval[0])}, {percent(interval[1])}]"


def more_tables(result: Result, records: dict[str, Score]) -> list[str]:
    """A table of the classes for each section, and a line for each of other_scores."""
    scores, intervals, tables = result.scores, result.intervals or {}, []
    per_class = sorted(result.per_class, key=lambda row: row["support"])
    for section, kinds in class_sections(records).items():
        rows = [[row["name"], *(percent(scores.get(f"{k}/{row['name']}")) for k in kinds)] for row in per_class]
        tables.append(table(["class", *(kind.replace("_", " ") for kind in kinds)], rows, f"{section} (%)"))
    others = [(score.name, score_text(scores[score.name], score.unit)) for score in other_scores(scores, records)]
    lines = [[name, text, interval_text(intervals.get(name))] for name, text in others]
    return [*tables, table(["score", "value", "95 %"], lines, "Other scores")] if lines else tables


def not_defined(per_class: list[dict]) -> list[str]:
    """A line on classes without a score, when there are any."""
    names = ", ".join(row["name"] for row in per_class if row["iou"] is None or row["iou"] != row["iou"])
    return [f"n/a: {names} (absent from ground truth and prediction; left out of the means)"] if names else []


def hardly_found(per_class: list[dict], tips: str) -> list[str]:
    """Lines on classes that are never or hardly found, with what to try; none when there are no such classes."""
    there = [row for row in per_class if row["support"]]
    found = {
        "never found": [row["name"] for row in there if not row["recall"]],
        f"IoU below {100 * HARDLY:.0f} %": [row["name"] for row in there if row["recall"] and row["iou"] < HARDLY],
    }
    lines = [f"{words}: {', '.join(names)}" for words, names in found.items() if names]
    return [*lines, tips] if lines else []


def final_report(result: Result, counts: ClassCounts, folder: Path, records: dict[str, Score], tips: str) -> str:
    """The last lines of a training: scores of the best epoch, what to try (`tips`), and where everything is."""
    best, intervals = result.best, result.intervals
    shares = dict(zip(counts.class_names, counts.share, strict=True))
    means = means_line(result.scores, records, intervals, best["monitor"])
    lines = [f"best epoch {best['epoch']} by {best['monitor']}:  {means}", ""]
    lines.append(scores_table(result.per_class, shares, intervals))
    if class_sections(records):  # the standard scores are on the page and in result.json
        lines += ["", "\n\n".join(more_tables(result, records)), ""]
    if result.thresholds:
        lines += [thresholds_line(result), f"`segtrain evaluate {shlex.quote(str(folder))}` applies these thresholds"]
    lines += not_defined(result.per_class)
    lines += hardly_found(result.per_class, tips)
    lines += ["", f"run folder: {folder}"]
    if (folder / "page.html").is_file():
        lines.append(f"scores, and the images with the largest errors: {folder / 'page.html'}")
    logs = folder if folder.parent == Path() else folder.parent
    lines.append(f"TensorBoard: tensorboard --logdir {shlex.quote(str(logs))}")
    return "\n".join(lines)
