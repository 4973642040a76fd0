"""Counts of the compared runs over other images: bootstrap draws, and without each group of images."""

import numpy as np

from segtrain.comparison.draws import Counted, counted_for, draw_groups, pooled_score, without_each
from segtrain.comparison.settings import Setting, counts_of
from segtrain.comparison.statistics import Estimate, Scores, classes_apart, estimate, seed_noise


class ResampledCounts:
    """Counts of each setting and seed, over all images, over bootstrap draws of them, and without each group.

    Args:
        counted: of each setting, with a table for each seed.
        groups: of the images.
    """

    def __init__(self, counted: list[Counted], groups: np.ndarray):
        self.groups, self.name = groups, counted[0].name
        self.classes, self.foreground = counted[0].classes, counted[0].foreground
        tables = [one.tables for one in counted]
        present = tables[0][0][:, 0] + tables[0][0][:, 2] > 0
        absent = ~present.any(axis=0)  # such a class counts where a setting predicts it
        wrong = [table[:, 1, absent] > 0 for repeats in tables for table in repeats]
        weights = draw_groups(groups, shown=np.concatenate([present, *wrong], axis=1))
        shown = (len(np.unique(groups[there])) for there in present.T)
        self.groups_with = dict(zip(self.classes, shown, strict=True))
        self.sums = [[table.sum(axis=0) for table in repeats] for repeats in tables]
        self.draws = [[np.tensordot(weights, table.astype(np.float32), 1) for table in repeats] for repeats in tables]
        self.left_out = [[without_each(groups, table) for table in repeats] for repeats in tables]
        self.pixels = self.sums[0][0][0] + self.sums[0][0][2]

    @classmethod
    def of(cls, settings: list[Setting], by: str) -> "ResampledCounts | None":
        """Counts for a score; None when a run has none."""
        tables = [[counts_of(repeat) for repeat in setting.repeats] for setting in settings]
        if any(table is None for repeats in tables for table in repeats):
            return None
        classes, foreground = settings[0].runs[0].classes, foreground_of(settings[0])
        areas = {setting.min_area for setting in settings}
        least = areas.pop() if len(areas) == 1 else None
        counted = [counted_for(by, [t[2] for t in repeats], classes, foreground, least) for repeats in tables]
        groups = min((table[1] for repeats in tables for table in repeats), key=lambda groups: len(np.unique(groups)))
        return cls(counted, groups)

    def knows(self, name: str) -> bool:
        try:
            self._score(name, self.sums[0][0])
        except KeyError:
            return False
        return True

    def scores(self, name: str) -> Scores:
        """A draw in which the score is not defined says nothing: the score of all images stands for it.

        What the score of a class would be on others is known from the groups that show it: no others count.
        """
        full = [np.array([self._score(name, sums) for sums in repeats]) for repeats in self.sums]
        draws = [np.stack([self._score(name, sums) for sums in repeats]) for repeats in self.draws]
        left_out = [
            np.stack([self._without(name, *sums) for sums in zip(*repeats, strict=True)])
            for repeats in zip(self.left_out, self.sums, strict=True)
        ]
        draws, left_out = (
            [np.where(np.isnan(d), f[:, None], d) for d, f in zip(scores, full, strict=True)]
            for scores in (draws, left_out)
        )
        groups = self.groups_with.get(name.partition("/")[2]) or len(np.unique(self.groups))
        return Scores(full, draws, groups, left_out)

    def _without(self, name: str, left: np.ndarray, full: np.ndarray) -> np.ndarray:
        """float [groups]: a score with each group left out; a class that it alone shows stays as it is."""
        part = name.partition("/")[2]
        columns = [self.classes.index(part)] if part in self.classes else slice(None)
        absent = full[0, columns] + full[2, columns] == 0

        def shown(sums: np.ndarray) -> np.ndarray:
            tp, fp, fn = (sums[..., k, columns] for k in range(3))
            return tp + fn + fp * absent

        gone = (shown(left) == 0) & (shown(full) > 0)
        if name != "accuracy" and gone.any():
            left = np.where(gone[:, None], full, left)
        return self._score(name, left)

    def by_class(self, baseline: int) -> tuple[np.ndarray, dict[str, Estimate]]:
        """IoU [settings, C], and of the classes in which the first setting differs from the baseline, by how much."""
        means, known = [], {}
        for name in self.classes:  # one after another: the draws of all would take more memory than all else
            found = self.scores(f"iou/{name}")
            means.append(found.means)
            gain = estimate(found, seed_noise(found), 0, baseline)
            known |= {name: gain} if np.isfinite(gain.value) and self.groups_with[name] > 1 else {}
        means = np.stack(means, axis=1)
        if baseline == 0:
            return means, {}
        apart = classes_apart(np.array([gain.p for gain in known.values()]), len(means))
        return means, {name: gain for (name, gain), real in zip(known.items(), apart, strict=True) if real}

    def _score(self, name: str, sums: np.ndarray) -> np.ndarray:
        return pooled_score(name, sums, self.classes, self.foreground)


def foreground_of(setting: Setting) -> np.ndarray:
    run = setting.runs[0]
    background = run.settings.get("dataset.background")
    return np.arange(len(run.classes)) != (background if isinstance(background, int) else -1)
