"""`segtrain weights`: the weights of every scheme side by side, shares as bars, and the sweep that finds the best."""

import shlex

import numpy as np

from segtrain.class_counts import ClassCounts
from segtrain.report.text import number, share, table
from segtrain.weighting import FROM_SMALL_TO_LARGE, SCHEMES, same_as

# Of docs/loss_and_weights.md.
HIGH = 100  # pos_weight above which precision is lost
EVIDENCE = (
    "Begin with inverse_sqrt. With the default loss it is within 1 point of IoU of the best scheme on all four datasets that "
    "were measured (shapes, thin cracks, CamVid from random weights, magnetic tiles with a pretrained encoder and rare "
    "classes sampled more often; 3 seeds each), and so is log_ratio. weighting=none is within 4 points (which may be "
    "chance), median_frequency within 5, and inverse_frequency loses 2 to 15. Classes differ more than means: on CamVid, "
    "median_frequency found bicyclists, which training without weights did not, but only half of the buildings. With "
    "cross-entropy alone, log_ratio gained 6 points on CamVid, while on shapes no weighting helped: log_ratio lost 1 point "
    "and inverse_sqrt 4 (which may be chance), the others 8 and more."
)


def weights_text(counts: ClassCounts, chosen=None, words: str = "", weighted: bool = True) -> str:
    """Everything that is printed about counts and weights.

    Args:
        chosen: the config's own weighting.
        words, weighted: see `recommendation`.
    """
    parts = [weights_table(counts, chosen)]
    if counts.absent:
        parts.append(
            f"no training pixel of {', '.join(counts.absent)}: such a class cannot be learned, and weights from pixel counts are 0"
        )
    return "\n\n".join([*parts, plot(counts), recommendation(counts, words, weighted)])


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
    lines = [f"share of the pixels, from 1 down to 1e-{decades:.0f}; {width / decades:.0f} characters are one decade"]
    for i in np.argsort(-parts, kind="stable"):
        bar = "█" * max(1, round(width * (1 + np.log10(parts[i]) / decades))) if parts[i] > 0 else ""
        lines.append(f" {counts.class_names[i]:<{longest}} {bar} {share(parts[i])}")
    return "\n".join(lines)


def words_of_sweep(overrides: list[str], config_dir: str | None) -> str:
    """The settings of a command line for a sweep over the weightings and seeds."""
    own = [] if config_dir is None else ["--config-dir", config_dir]
    return shlex.join([*own, *(word for word in overrides if not word.startswith(("weighting", "seed=")))])


def recommendation(counts: ClassCounts, words: str = "", weighted: bool = True) -> str:
    """What the counts say about the weightings, and the sweep that finds the best: no scheme is best on every dataset.

    Args:
        words: the settings of the command line, for the sweep.
        weighted: whether the loss uses class weights.
    """
    there = counts.pixels > 0
    if there.sum() < (1 if counts.multilabel else 2):
        return "There is only one class, so weights change nothing."
    settings = f"{words} " if words else ""
    if not weighted:
        return (
            "The loss does not use class weights. A loss with a pixel term does: "
            f"`segtrain -m {settings}loss=ce,ce_dice seed=0,1,2`"
        )

    def sweep(schemes: list[str]) -> str:
        return f"segtrain -m {settings}weighting={','.join(schemes)} seed=0,1,2"

    if counts.multilabel:
        ratios = SCHEMES["neg_pos_ratio"]()(counts)
        ratio = ratios.max()
        text = f"Multi-label: neg_pos_ratio gives the pos_weight of each class. The largest is {number(ratio)}"
        if ratio > HIGH:
            cap = max(1.0, HIGH / ratios[ratios > 0].min())
            text += f": cap it with weighting.max_ratio={cap:.2g}, or precision is lost"
        text += "."
        return f"{text} To find out which helps: `{sweep(['none', 'inverse_sqrt', 'neg_pos_ratio'])}`"
    weights = {name: SCHEMES[name]()(counts)[there] for name in FROM_SMALL_TO_LARGE}
    parts = counts.share[there]
    rarest, name = parts.argmin(), np.array(counts.class_names)[there][parts.argmin()]
    shares = [f"{scheme} {share((w * parts)[rarest] / (w * parts).sum())}" for scheme, w in weights.items()]
    lines = [f"Share of the rarest class, {name}, in the cross-entropy: {', '.join(shares)}."]
    first = same_as(counts)
    lines += [
        f"{scheme} is the same as {other} here, up to a constant factor."
        for scheme, other in first.items()
        if scheme != other
    ]
    kept = [scheme for scheme, other in first.items() if scheme == other]
    if len(kept) == 1:
        return "\n".join([*lines, "Weights change nothing here."])
    lines.append(
        "Large weights find more of a rare class, but also predict it where it is not. A region term (loss=ce_dice), foreground "
        "oversampling and a pretrained encoder do part of their work."
    )
    lines += [EVIDENCE, "To find out which is best on your images:"]
    lines.append(f"  {sweep(kept)}")
    return "\n".join(lines)
