"""`segtrain weights`: the weights of every scheme side by side, shares as bars, and which scheme to try first."""

import numpy as np

from segtrain import weighting
from segtrain.class_counts import ClassCounts
from segtrain.report.text import number, share, table

SCHEMES = {
    "none": weighting.NoWeighting,
    "inverse_frequency": weighting.InverseFrequency,
    "inverse_sqrt": weighting.InverseSqrt,
    "log_ratio": weighting.LogRatio,
    "median_frequency": weighting.MedianFrequency,
    "enet": weighting.Enet,
    "effective_number": weighting.EffectiveNumber,
    "neg_pos_ratio": weighting.NegPosRatio,
}


def weights_text(counts: ClassCounts, chosen=None) -> str:
    """Everything that is printed about counts and weights; `chosen` is the config's own weighting."""
    parts = [weights_table(counts, chosen)]
    if counts.absent:
        parts.append(
            f"no training pixel of {', '.join(counts.absent)}: it cannot be learned, and weights from pixel counts are 0"
        )
    return "\n\n".join([*parts, plot(counts), recommendation(counts)])


def weights_table(counts: ClassCounts, chosen=None) -> str:
    """Counts and, per class, the weight of each scheme; the last row is the largest over the smallest weight."""
    names, rows = weights_rows(counts, chosen)
    columns = zip(counts.pixels, counts.share, counts.images, strict=True)
    numbers = [[f"{pixels:,}", share(part), str(images)] for pixels, part, images in columns]
    rows = [[row[0], *more, *row[1:]] for row, more in zip(rows, [*numbers, ["", "", ""]], strict=True)]
    title = f"{counts.num_images} training images, {counts.num_empty} without foreground"
    return table(["class", "pixels", "share", "images", *names], rows, title)


def weights_rows(counts: ClassCounts, chosen=None) -> tuple[list[str], list[list[str]]]:
    """Names of the schemes, and a row of texts per class and for the largest over the smallest weight.

    Args:
        chosen: a weighting that stands in for the scheme of its class, or is added; the others are as by default.
    """
    schemes = {name: scheme() for name, scheme in SCHEMES.items()}
    if chosen is not None:
        kinds = {scheme: name for name, scheme in SCHEMES.items()}
        schemes[kinds.get(type(chosen), type(chosen).__name__.lower())] = chosen
    weights = {name: np.asarray(scheme(counts), dtype=float) for name, scheme in schemes.items()}
    rows = [[name, *(number(w[i]) for w in weights.values())] for i, name in enumerate(counts.class_names)]
    return list(weights), [*rows, ["max/min", *(number(spread(w)) for w in weights.values())]]


def spread(weights: np.ndarray) -> float:
    """Largest over smallest weight, of the classes that have one."""
    return weights[weights > 0].max() / weights[weights > 0].min() if np.any(weights > 0) else 1.0


def plot(counts: ClassCounts, width: int = 50) -> str:
    """Share of each class as a bar on a logarithmic scale, the most frequent first."""
    parts = counts.share
    there = np.flatnonzero(parts > 0)
    decades = max(1.0, np.ceil(-np.log10(parts[there].min()))) if len(there) else 1.0
    longest = max(len(name) for name in counts.class_names)
    lines = [f"share of the pixels, from 1 down to 1e-{decades:.0f}, a decade is {width / decades:.0f} characters"]
    for i in np.argsort(-parts, kind="stable"):
        bar = "█" * max(1, round(width * (1 + np.log10(parts[i]) / decades))) if parts[i] > 0 else ""
        lines.append(f" {counts.class_names[i]:<{longest}} {bar} {share(parts[i])}")
    return "\n".join(lines)


def recommendation(counts: ClassCounts) -> str:
    """Which scheme to try first, and why."""
    parts = counts.share[counts.share > 0]
    if len(parts) < (1 if counts.multilabel else 2):
        return "There is one class only: weights change nothing."
    if counts.multilabel:
        ratio = SCHEMES["neg_pos_ratio"]()(counts).max()
        return f"Multi-label: neg_pos_ratio is the pos_weight of each class. The largest is {number(ratio)}" + (
            ": cap it, weighting.max_ratio=10, or precision is lost." if ratio > 100 else "."
        )
    orders, empty = np.log10(parts.max() / parts.min()), counts.num_empty / max(counts.num_images, 1)
    inverse, median, log = (
        number(spread(SCHEMES[name]()(counts))) for name in ("inverse_frequency", "median_frequency", "log_ratio")
    )
    facts = f"The rarest of {len(parts)} classes has 1/{10**orders:,.0f} of the pixels of the most frequent"
    facts += f", and {100 * empty:.0f} % of the images have no foreground" if counts.num_empty else ""
    if orders < 1:
        return f"{facts}: within a factor of ten, weighting=none may do; a region term (loss=ce_dice) costs nothing."
    if orders <= 2.5 and empty < 0.2:
        return (
            f"{facts}. Try weighting=median_frequency first (largest over smallest {median}): it weighs a class by its "
            f"frequency in the images that contain it. Try log_ratio ({log}) if it predicts rare classes where there "
            "are none."
        )
    rare = (
        ", which counts only the images that contain the class. sampling=foreground_crops or rare_classes shows the "
        "rare classes more often."
    )
    return (
        f"{facts}. Try weighting=log_ratio first: its largest weight is {log} times the smallest; with "
        f"inverse_frequency it would be {inverse}, and a few wrong pixels of the rare class would dominate the "
        f"gradient. If a class is then still never found, try median_frequency ({median}){rare if empty >= 0.2 else '.'}"
    )
