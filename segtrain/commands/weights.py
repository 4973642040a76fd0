"""`segtrain weights key=value …`: count the training masks and print every weighting side by side."""

import numpy as np
from hydra._internal.utils import get_args_parser

from segtrain import weighting
from segtrain.class_counts import ClassCounts, count_classes, default_cache
from segtrain.config.build import build, build_dataset
from segtrain.config.compose import compose, without_hydra
from segtrain.config.schema import check_config
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


def main(words: list[str]) -> int:
    arguments = get_args_parser().parse_args(words)
    cfg = without_hydra(compose(arguments.overrides, arguments.config_dir, arguments.config_name))
    check_config(cfg)
    counts = count_classes(build_dataset(cfg, "train"), cache=default_cache(), progress=True)
    print(weights_table(counts, schemes(cfg)))
    if counts.absent:
        print(
            f"\nno training pixel of {', '.join(counts.absent)}: it cannot be learned, and what is computed from pixels is 0"
        )
    print(f"\n{plot(counts)}\n\n{recommendation(counts)}")
    if summary := build(cfg, "sampling").summary(counts):
        print(f"\n{summary}")
    return 0


def schemes(cfg) -> dict:
    """Every scheme as it is by default, and the config's own weighting as the config has it."""
    chosen = build(cfg, "weighting")
    own = next((name for name, scheme in SCHEMES.items() if type(chosen) is scheme), type(chosen).__name__.lower())
    return {name: scheme() for name, scheme in SCHEMES.items()} | {own: chosen}


def weights_table(counts: ClassCounts, schemes: dict | None = None) -> str:
    """Counts and, per class, the weight of each scheme; the last row is the largest over the smallest weight."""
    names, rows = weights_rows(counts, schemes)
    numbers = [
        [f"{pixels:,}", share(part), str(images)]
        for pixels, part, images in zip(counts.pixels, counts.share, counts.images, strict=True)
    ]
    rows = [[row[0], *more, *row[1:]] for row, more in zip(rows, [*numbers, ["", "", ""]], strict=True)]
    title = f"{counts.num_images} training images, {counts.num_empty} without foreground"
    return table(["class", "pixels", "share", "images", *names], rows, title)


def weights_rows(counts: ClassCounts, schemes: dict | None = None) -> tuple[list[str], list[list[str]]]:
    """Names of the schemes, and a row of texts per class and for the largest over the smallest weight.

    Args:
        schemes: weightings by name; None: all as they are by default.
    """
    schemes = schemes or {name: scheme() for name, scheme in SCHEMES.items()}
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
        return "there is one class only: weights change nothing"
    empty = counts.num_empty / max(counts.num_images, 1)
    if counts.multilabel:
        ratio = SCHEMES["neg_pos_ratio"]()(counts).max()
        return (
            f"Several labels a pixel: neg_pos_ratio is the pos_weight of each class. The largest is {number(ratio)}"
            + (": cap it, weighting.max_ratio=10, or precision is lost." if ratio > 100 else ".")
        )
    orders = np.log10(parts.max() / parts.min())
    facts = f"The rarest of {len(parts)} classes has 1/{10**orders:,.0f} of the pixels of the most frequent"
    facts += f", and {100 * empty:.0f} % of the images have no foreground" if counts.num_empty else ""
    ratios = {name: number(spread(SCHEMES[name]()(counts))) for name in ("inverse_frequency", "median_frequency")}
    logs = number(spread(SCHEMES["log_ratio"]()(counts)))
    if orders < 1:
        return f"{facts}: within a factor of ten, weighting=none may do; a region term (loss=ce_dice) costs nothing."
    if orders > 2.5 or empty >= 0.2:
        return (
            f"{facts}. Try weighting=log_ratio first: its largest weight is {logs} times the smallest, where "
            f"inverse_frequency would make it {ratios['inverse_frequency']} and a few wrong pixels of the rare class "
            f"the whole gradient; where a class is then still never found, median_frequency ({ratios['median_frequency']})"
            + (
                ", which looks only at the images that hold the class. "
                "sampling=foreground_crops or rare_classes shows the rare classes more often."
                if empty >= 0.2
                else "."
            )
        )
    return (
        f"{facts}. Try weighting=median_frequency first (largest over smallest {ratios['median_frequency']}): it asks how "
        f"frequent a class is where it occurs; and log_ratio ({logs}) if rare classes are then found where they are not."
    )
