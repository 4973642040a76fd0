"""Bootstrap over images: how far a score could be off because other images might have been drawn."""

import numpy as np

from segtrain.metrics.table import Table

NONE = (float("nan"), float("nan"))


def intervals(
    scores, table: Table, repeats: int, seed: int, groups: list[str] | None = None
) -> dict[str, tuple[float, float]]:
    """The 95 % percentile interval of each of `scores(table)`, over `repeats` draws of as many images, with replacement.

    Efron & Tibshirani, 1993. Images of a group, such as the frames of a video, are drawn together, for they resemble each
    other. All draws have the same classes: of one that it has none of, a draw gets one more group. Scores that are coarser
    for a draw than for all images, those of curves, are moved by the difference.

    Args:
        groups: of each image; None: each is alone.

    A score has (NaN, NaN) when there is one group or none, where it is undefined in most draws, and where all draws have
    the same: a score between 0 and 1 that no draw changes is decided by the one image that is in every draw.
    """
    from tqdm import trange

    exact, present, images = scores(table), table.present, len(table.present)
    index = np.arange(images) if groups is None else np.unique(groups, return_inverse=True)[1]
    members = [np.flatnonzero(index == group) for group in range(index.max(initial=-1) + 1)]
    if len(members) < 2:
        return dict.fromkeys(exact, NONE)
    needed, rng = np.concatenate([present, present | (table["fp"] > 0)], axis=1), np.random.default_rng(seed)
    bar = trange(repeats, desc="intervals", leave=False, disable=None)
    drawn = [scores(table.of(_draw(needed, index, members, rng))) for _ in bar]
    coarse, found = scores(table.of(np.arange(images))), {}
    for name, value in exact.items():
        values = np.array([draw[name] for draw in drawn])
        values = values[~np.isnan(values)]
        known = len(values) > repeats / 2 and (np.ptp(values) > 0 or value in (0, 1))
        found[name] = tuple(np.percentile(values, [2.5, 97.5]).tolist()) if known else NONE
        if (moved := value - coarse[name]) != 0:
            found[name] = tuple(np.clip(np.array(found[name]) + moved, 0, 1).tolist())
    return found


def _draw(needed: np.ndarray, index: np.ndarray, members: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """int [n]: images of drawn groups, in which everything of `needed`, bool [images, K], is present that is in some image."""
    drawn = np.concatenate([members[group] for group in rng.integers(len(members), size=len(members))])
    missing = np.flatnonzero(needed.any(axis=0) & ~needed[drawn].any(axis=0))
    more = [members[index[rng.choice(np.flatnonzero(needed[:, k]))]] for k in missing]
    return np.concatenate([drawn, *more])
