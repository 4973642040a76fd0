"""Bootstrap over images: how far a score could be off because other images might have been drawn."""

import numpy as np

from segtrain.metrics.table import Table

NONE = (float("nan"), float("nan"))


def bootstrap(
    images: int,
    scores,
    repeats: int = 1000,
    seed: int = 0,
    needed: np.ndarray | None = None,
) -> dict[str, tuple[float, float]]:
    """{score: (low, high)}, the 95 % percentile interval over `repeats` draws of as many images, with replacement.

    Efron & Tibshirani, 1993. Images must be independent; frames of one video are not, and their interval is too narrow.

    Args:
        scores: indices of images, which may repeat -> {name: value}.
        needed: bool [images, K], what every draw must have, such as a class, so that all means are over the same
            classes: of what a draw has none of, it gets one more image.

    A score is (NaN, NaN) when there is one image or none, and where it is undefined in most draws.
    """
    from tqdm import trange

    rng, draws = np.random.default_rng(seed), repeats if images > 1 else 0
    bar = trange(draws, desc="intervals", leave=False, disable=None)
    drawn = [scores(_draw(images, needed, rng)) for _ in bar]
    found = {}
    for name in scores(np.arange(images)):
        values = np.array([draw[name] for draw in drawn])
        values = values[~np.isnan(values)]
        found[name] = tuple(np.percentile(values, [2.5, 97.5]).tolist()) if len(values) > repeats / 2 else NONE
    return found


def _draw(images: int, needed: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    drawn = rng.integers(images, size=images)
    if needed is None:
        return drawn
    missing = np.flatnonzero(needed.any(axis=0) & ~needed[drawn].any(axis=0))
    return np.append(drawn, [rng.choice(np.flatnonzero(needed[:, k])) for k in missing]).astype(int)


def intervals(scores, table: Table, repeats: int, seed: int) -> dict[str, tuple[float, float]]:
    """Intervals of `scores(table)`, over draws of its images in which no class is missing.

    Scores that are coarser for a draw than for all images, those of curves, are moved by the difference.
    """
    present, images = table.present, len(table.present)
    if not images:
        return dict.fromkeys(scores(table), NONE)
    needed = np.concatenate([present, present | (table["fp"] > 0)], axis=1)
    found = bootstrap(images, lambda drawn: scores(table.of(drawn)), repeats, seed, needed=needed)
    exact, coarse = scores(table), scores(table.of(np.arange(images)))
    for name, value in exact.items():
        if (moved := value - coarse[name]) != 0:
            found[name] = tuple(np.clip(np.array(found[name]) + moved, 0, 1).tolist())
    return found
