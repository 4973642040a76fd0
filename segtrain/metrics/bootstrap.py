"""Bootstrap over images: how far a score could be off because other images might have been drawn."""

import numpy as np

from segtrain.metrics.table import Table

NONE = (float("nan"), float("nan"))


def intervals(scores, table: Table, repeats: int, seed: int) -> dict[str, tuple[float, float]]:
    """The 95 % percentile interval of each of `scores(table)`, over `repeats` draws of as many images, with replacement.

    Efron & Tibshirani, 1993. Images must be independent; frames of one video are not, and their interval is too narrow.
    All draws have the same classes: of one that it has none of, a draw gets one more image. Scores that are coarser for a
    draw than for all images, those of curves, are moved by the difference.

    A score has (NaN, NaN) when there is one image or none, and where it is undefined in most draws.
    """
    from tqdm import trange

    exact, present, images = scores(table), table.present, len(table.present)
    if images < 2:
        return dict.fromkeys(exact, NONE)
    needed, rng = np.concatenate([present, present | (table["fp"] > 0)], axis=1), np.random.default_rng(seed)
    bar = trange(repeats, desc="intervals", leave=False, disable=None)
    drawn = [scores(table.of(_draw(needed, rng))) for _ in bar]
    coarse, found = scores(table.of(np.arange(images))), {}
    for name, value in exact.items():
        values = np.array([draw[name] for draw in drawn])
        values = values[~np.isnan(values)]
        found[name] = tuple(np.percentile(values, [2.5, 97.5]).tolist()) if len(values) > repeats / 2 else NONE
        if (moved := value - coarse[name]) != 0:
            found[name] = tuple(np.clip(np.array(found[name]) + moved, 0, 1).tolist())
    return found


def _draw(needed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int [n]: images, in which everything of `needed`, bool [images, K], is present that is in some image."""
    drawn = rng.integers(len(needed), size=len(needed))
    missing = np.flatnonzero(needed.any(axis=0) & ~needed[drawn].any(axis=0))
    return np.append(drawn, [rng.choice(np.flatnonzero(needed[:, k])) for k in missing]).astype(int)
