"""Image-level detection: is a class predicted where it is present, and nowhere else?"""

import numpy as np

from segtrain.metrics.groups.group import Group
from segtrain.metrics.records import Score
from segtrain.metrics.table import Classes, Table, ratio

MEANINGS = {
    "presence_recall": "share of the images with the class in which it is predicted",
    "presence_precision": "share of the images in which the class is predicted that hold it",
}


class Presence(Group):
    """Presence recall and precision of each class, and specificity; at least `min_area` predicted pixels count as found."""

    def __init__(self, classes: Classes, min_area: int):
        super().__init__(classes)
        self.min_area = min_area

    def scores(self, table: Table) -> dict[str, float]:
        present, predicted = table.present, _predicted(table, self.min_area)
        hits = (present & predicted).sum(axis=0)
        recall, precision = ratio(hits, present.sum(axis=0)), ratio(hits, predicted.sum(axis=0))
        scores = self.classes.scores("presence_recall", recall) | self.classes.scores("presence_precision", precision)
        empty, alarms = false_alarms(table, self.classes, self.min_area)
        return scores | {"specificity": float(ratio((empty & ~alarms).sum(), empty.sum()))}

    def records(self, table: Table) -> list[Score]:
        meaning = "share of the images without foreground in which none is predicted; the rest are false alarms"
        kinds = [Score(name, text, section="Detection") for name, text in MEANINGS.items()]
        return [*(r for kind in kinds for r in kind.everywhere(self.classes.names)), Score("specificity", meaning)]


def _predicted(table: Table, min_area: int) -> np.ndarray:
    return table["tp"] + table["fp"] >= min_area


def false_alarms(table: Table, classes: Classes, min_area: int) -> tuple[np.ndarray, np.ndarray]:
    """bool [images] each: has valid pixels but no foreground; at least `min_area` pixels of a foreground class are
    predicted."""
    empty = ~table.present[:, classes.foreground].any(axis=1) & table["valid"].any(axis=1)
    return empty, _predicted(table, min_area)[:, classes.foreground].any(axis=1)
