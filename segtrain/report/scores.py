"""The tables of counts, weights and scores that commands print."""

import math
from pathlib import Path

from segtrain.class_counts import ClassCounts
from segtrain.report.text import number, percent, share, table

NEVER_FOUND = (
    "Try weights for rare classes (weighting=log_ratio or median_frequency, for several labels a pixel neg_pos_ratio), "
    "a region term (loss=ce_dice, bce_dice), or more epochs; `segtrain weights` shows what each weighting gives."
)


def counts_table(counts: ClassCounts, weights: list[float] | None, val_counts: ClassCounts | None = None) -> str:
    """Pixels, share, images and weight of each class, and what of the images has no foreground."""
    columns = ["class", "pixels", "share", "images", "weight"]
    rows = [
        [
            name,
            f"{counts.pixels[i]:,}",
            share(counts.share[i]),
            str(counts.images[i]),
            number(weights[i] if weights else 1),
        ]
        for i, name in enumerate(counts.class_names)
    ]
    if val_counts is not None:
        columns.append("val pixels")
        for row, pixels in zip(rows, val_counts.pixels, strict=True):
            row.append(f"{pixels:,}")
    empty = 100 * counts.num_empty / max(counts.num_images, 1)
    title = f"{counts.num_images} training images, {empty:.0f} % of them without foreground"
    if counts.ignored_pixels:
        title += f", {counts.ignored_pixels:,} pixels ignored"
    return table(columns, rows, title)


def scores_table(per_class: list[dict], counts_share: dict[str, float] | None = None, intervals=None) -> str:
    """IoU (with its interval), Dice, precision and recall in percent, the rarest class first."""
    rows = sorted(per_class, key=lambda row: row["support"])
    columns = ["class", "IoU %", "95 %", "Dice %", "precision %", "recall %", "truth pixels", "images"]
    columns += ["share in train"] if counts_share else []
    return table(
        columns,
        [
            [
                row["name"],
                percent(row["iou"]),
                interval_text((intervals or {}).get(f"iou/{row['name']}")),
                *(percent(row[key]) for key in ("dice", "precision", "recall")),
                f"{row['support']:,}",
                str(row.get("images", "")),
            ]
            + ([share(counts_share[row["name"]])] if counts_share else [])
            for row in rows
        ],
    )


MEANS = ("iou/mean", "iou/foreground", "dice/mean", "accuracy", "balanced_accuracy", "kappa")  # one looks at first


def means_line(scores: dict[str, float], intervals=None, monitor: str = "iou/mean") -> str:
    """The monitored score and the first of MEANS, each with its interval."""
    names = [n for n in dict.fromkeys([monitor, *MEANS[:4]]) if scores.get(n) is not None and n != "loss"]
    parts = [f"loss {scores['loss']:.4f}"] if monitor == "loss" else []
    parts += [f"{n} {percent(scores[n])} % {interval_text((intervals or {}).get(n))}".rstrip() for n in names]
    return "  ".join(parts)


# Scores of each class beyond those of scores_table: a title, and how their names begin.
SECTIONS = {
    "found": ("Found or not", ("presence_", "within_foreground", "object_recall")),
    "borders": ("At borders, and wrong pixels by distance from the true border", ("boundary_", "errors_")),
    "confidence": ("Confidence", ("average_precision", "class_ece")),
}


def class_sections(scores: dict[str, float], per_class: list[dict]) -> dict[str, list[str]]:
    """The kinds of score, `kind/<class>`, for each of SECTIONS that there are scores of."""
    names = {row["name"] for row in per_class}
    sections = {}
    for section, (_, starts) in SECTIONS.items():
        parts = [score.rpartition("/") for score in scores if score.startswith(starts)]
        if kinds := list(dict.fromkeys(kind for kind, _, name in parts if name in names)):
            sections[section] = kinds
    return sections


def section_table(section: str, kinds: list[str], scores: dict[str, float], per_class: list[dict]) -> str:
    """A row a class, in percent, the rarest first; with the number of objects where they were looked for."""
    count = section == "found" and "objects" in per_class[0]
    rows = [
        [row["name"], *([f"{row['objects']:,}"] if count else [])]
        + [percent(scores.get(f"{kind}/{row['name']}")) for kind in kinds]
        for row in sorted(per_class, key=lambda row: row["support"])
    ]
    columns = ["class", *(["objects"] if count else []), *(kind.replace("_", " ") for kind in kinds)]
    return table(columns, rows, f"{SECTIONS[section][0]} (%)")


MEANINGS = {
    "balanced_accuracy": "mean recall of the classes",
    "frequency_weighted_iou": "IoU of each class by its share of the pixels",
    "kappa": "agreement above that of chance",
    "_image/": "mean over images of the mean over the classes of each",
    "_class/": "mean over classes of the mean over the images of each",
    "presence_recall": "of the images with a class, those in which it is said",
    "presence_precision": "of the images in which a class is said, those that have it",
    "specificity": "of the images without foreground, those left without; the rest are false alarms",
    "within_foreground": "where foreground was rightly found: is its class right?",
    "foreground/": "all classes but the background as one",
    "boundary_iou": "IoU of the bands along the borders",
    "boundary_f1": "contours that are where they should be",
    "errors_": "of the wrong pixels, by distance from the true border; of thin objects none is far",
    "object_recall": "objects of which enough is found (object_overlap, by default half)",
    "class_ece": "how far the probability of a class is from how often it is right; 0 is best",
    "ece": "how far confidence is from accuracy; 0 is best",
    "confidence": "mean probability of what is said",
    "average_precision": "area under precision over recall",
}


def meaning(name: str) -> str:
    """What a score is, in a few words."""
    worst = name.rpartition("/")[2]
    tail = f", the worst {worst[6:]} %" if worst.startswith("worst_") else ", over the worst 10 to 100 %"
    text = next((text for part, text in MEANINGS.items() if part in name), "")
    without = ", without the background" if worst == "foreground" else ""
    return text + (tail if worst.startswith("worst") else without)


def other_scores(scores: dict[str, float], per_class: list[dict]) -> list[str]:
    """Names of the scores that no table of classes and no line of means shows."""
    names = {row["name"] for row in per_class}
    shown = ("iou/", "dice/", "precision/", "recall/")
    own = [n for n in scores if not n.startswith(shown) and n not in ("accuracy", "loss")]
    own = ["dice/foreground"] * ("dice/foreground" in scores) + own
    own = [n for n in own if n.rpartition("/")[2] not in names or n.startswith("foreground/")]
    # without a background the two means are one, but for the order they were added up in
    one = math.isclose(scores.get("iou/foreground", 0), scores.get("iou/mean", 1))
    return [n for n in own if not (one and n.endswith("/foreground"))]


def score_lines(scores: dict[str, float], per_class: list[dict], intervals=None) -> list[str]:
    """A line, in percent, for each of other_scores: kappa, per image, presence, …"""
    names = other_scores(scores, per_class)
    width = max(map(len, names), default=0)
    return [f"{n:<{width}}  {percent(scores[n]):>6}  {interval_text((intervals or {}).get(n))}".rstrip() for n in names]


def interval_text(interval) -> str:
    """[12.3, 45.6] in percent; empty when there is none."""
    if interval is None or any(v is None or v != v for v in interval):
        return ""
    return f"[{percent(interval[0])}, {percent(interval[1])}]"


def more_tables(result: dict) -> list[str]:
    """Tables of the classes for each of SECTIONS, and all other scores: what a metric preset adds to scores_table."""
    scores, per_class = result["scores"], result["per_class"]
    tables = [
        section_table(section, kinds, scores, per_class) for section, kinds in class_sections(scores, per_class).items()
    ]
    return [*tables, "\n".join(["Other scores (%)", *score_lines(scores, per_class, result.get("intervals"))])]


def not_defined(per_class: list[dict]) -> list[str]:
    """A line on classes without a score, when there are any."""
    names = [row["name"] for row in per_class if row["iou"] is None or row["iou"] != row["iou"]]
    return (
        [f"n/a: {', '.join(names)} occurs neither in truth nor in prediction; left out of the means"] if names else []
    )


def final_report(result: dict, counts: ClassCounts, folder: Path) -> str:
    """What a training ends with."""
    best = result["best"]
    shares = dict(zip(counts.class_names, counts.share, strict=True))
    missed = [row["name"] for row in result["per_class"] if row["support"] and not row["recall"]]
    means = means_line(result["scores"], result.get("intervals"), best["monitor"])
    lines = [
        f"best epoch {best['epoch'] + 1} by {best['monitor']}:  {means}",
        "",
        scores_table(result["per_class"], shares, result.get("intervals")),
    ]
    if class_sections(result["scores"], result["per_class"]):  # of the standard scores the page and result.json tell
        lines += ["", "\n\n".join(more_tables(result)), ""]
    if thresholds := result.get("thresholds"):
        best = ", ".join(f"{name} {value:.3g}" for name, value in thresholds.items())
        lines.append(f"best thresholds on these images: {best}")
        lines.append(f"`segtrain evaluate {folder}` says labels by them")
    lines += not_defined(result["per_class"])
    if missed:
        lines.append(f"never found: {', '.join(missed)}. {NEVER_FOUND}")
    lines += ["", f"run folder: {folder}"]
    if (folder / "page.html").is_file():
        lines.append(f"scores and the images where it goes wrong: {folder / 'page.html'}")
    lines.append(f"TensorBoard: tensorboard --logdir {folder.parent}")
    return "\n".join(lines)
