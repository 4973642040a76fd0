"""Standard scores: IoU, Dice, precision, recall, accuracy, kappa, from the counts of all images added up.

D as in Wang et al., 2023, https://arxiv.org/abs/2310.19252.
"""

from dataclasses import replace

import numpy as np

from segtrain.metrics.groups.group import Counts, Group, ScoredBatch
from segtrain.metrics.records import Score
from segtrain.metrics.table import Table, mean, nanmean, ratio

KINDS = {
    "iou": Score("iou", "intersection over union, TP / (TP + FP + FN)"),
    "dice": Score("dice", "2 TP / (2 TP + FP + FN), the F1 score of pixels"),
    "precision": Score("precision", "share of the predicted pixels that are right"),
    "recall": Score("recall", "share of the ground-truth pixels that are predicted"),
}


class Standard(Group):
    """tp, fp, fn and valid pixels of each image and class, the confusion matrix, and the scores of their sums."""

    def arrays(self) -> dict[str, Counts]:
        c = len(self.classes)
        matrix = {} if self.classes.multilabel else {"confusion": Counts((c, c), summed=True)}
        return dict.fromkeys(("tp", "fp", "fn", "valid"), Counts((c,))) | matrix

    def count(self, batch: ScoredBatch) -> dict:
        return batch.counts if self.classes.multilabel else batch.counts | {"confusion": batch.confusion.sum(dim=0)}

    def scores(self, table: Table) -> dict[str, float]:
        """Means, foreground, accuracy, balanced accuracy, frequency-weighted IoU, kappa; then of each class."""
        columns, scores = self.per_class(table), {}
        for kind in ("iou", "dice"):
            scores[f"{kind}/mean"] = mean(columns[kind])
            scores[f"{kind}/foreground"] = mean(columns[kind][self.classes.foreground])
        scores["accuracy"] = float(self._accuracy(*table.sums, table["valid"].sum(axis=0)))
        scores["balanced_accuracy"] = mean(columns["recall"])
        share = ratio(columns["support"], columns["support"].sum())
        scores["frequency_weighted_iou"] = float(np.nansum(share * columns["iou"])) if share.sum() > 0 else float("nan")
        if not self.classes.multilabel:
            scores["kappa"] = _kappa(table)
        for kind in KINDS:
            scores |= self.classes.named(kind, columns[kind])
        return scores

    def records(self, table: Table) -> list[Score]:
        of_pixels = "valid values of all channels" if self.classes.multilabel else "valid pixels"
        means = []
        for kind in (KINDS["iou"], KINDS["dice"]):
            for record in kind.means():
                first, tag = record.name != "dice/foreground", f"means/{kind.name}_{record.part}"
                means.append(replace(record, summary=first, tensorboard=tag))
        means += [
            Score("accuracy", f"share of the {of_pixels} that are right", summary=True),
            Score("balanced_accuracy", "mean recall of the classes", summary=True),
            Score("frequency_weighted_iou", "IoU of each class, weighted by its share of the pixels"),
        ]
        if not self.classes.multilabel:
            means.append(Score("kappa", "Cohen's kappa: agreement beyond chance", summary=True))
        return means + [record for kind in KINDS.values() for record in kind.of_classes(self.classes.names)]

    def per_class(self, table: Table) -> dict[str, np.ndarray]:
        """iou, dice, precision, recall (NaN where undefined), support (ground-truth pixels), images with the class."""
        tp, fp, fn = table.sums
        return {
            "iou": ratio(tp, tp + fp + fn),
            "dice": ratio(2 * tp, 2 * tp + fp + fn),
            "precision": ratio(tp, tp + fp),
            "recall": ratio(tp, tp + fn),
            "support": tp + fn,
            "images": table.present.sum(axis=0),
        }

    def per_image(self, table: Table) -> dict[str, np.ndarray]:
        """A column a score, a row an image: accuracy, iou (mean over the image's classes), foreground pixels in ground
        truth and prediction (not where classes overlap), and of each class the pixels in both, and iou (NaN where the
        ground truth lacks it)."""
        (tp, fp, fn), foreground, valid = table.counts, self.classes.foreground, table["valid"]
        iou = np.where(table.present, ratio(tp, tp + fp + fn), np.nan)
        columns = {"accuracy": self._accuracy(tp, fp, fn, valid), "iou": nanmean(iou, axis=1)}
        if not self.classes.multilabel:
            columns["foreground_pixels"] = (tp + fn)[:, foreground].sum(axis=1)
            columns["foreground_predicted"] = (tp + fp)[:, foreground].sum(axis=1)
        for c, name in enumerate(self.classes.names):
            columns |= {f"pixels/{name}": (tp + fn)[:, c], f"predicted/{name}": (tp + fp)[:, c]}
            columns[f"iou/{name}"] = iou[:, c]
        return columns

    def _accuracy(self, tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Share of valid pixels (multi-label: of valid values of all channels) that are right, from counts [..., C]."""
        if self.classes.multilabel:
            every = valid.sum(axis=-1)
            return ratio(every - (fp + fn).sum(axis=-1), every)
        return ratio(tp.sum(axis=-1), valid[..., 0])


def _kappa(table: Table) -> float:
    """Cohen's kappa of ground truth and prediction: agreement above that of chance, over the most there could be."""
    tp, fp, fn = (v.astype(np.float64) for v in table.sums)
    total = (tp + fn).sum()
    agreed, chance = ratio(tp.sum(), total), ratio(((tp + fn) * (tp + fp)).sum(), total**2)
    return float(ratio(agreed - chance, 1 - chance))
