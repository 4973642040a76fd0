"""Counts of images by name, and the ratios and means that scores are made of."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Classes:
    """The classes of a dataset, and the kind of its labels.

    Attributes:
        background: index of the class that foreground scores leave out, or None.
        multilabel: whether a pixel may have several classes.
    """

    names: list[str]
    ignore_index: int = 255
    background: int | None = 0
    multilabel: bool = False

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def foreground(self) -> np.ndarray:
        """bool [C]."""
        return np.arange(len(self)) != (-1 if self.background is None else self.background)

    def named(self, kind: str, values: np.ndarray) -> dict[str, float]:
        """{kind/<class>} of [C]."""
        return {f"{kind}/{name}": float(value) for name, value in zip(self.names, values, strict=True)}

    def scores(self, kind: str, values: np.ndarray) -> dict[str, float]:
        """{kind/mean, kind/foreground (without background), kind/<class>} of [C]."""
        means = {f"{kind}/mean": mean(values), f"{kind}/foreground": mean(values[self.foreground])}
        return means | self.named(kind, values)


class Table:
    """Counts by name: arrays [images, …], of all images or of those drawn, and sums over all images.

    Args:
        arrays: tp, fp, fn, valid: int64 [images, C], and what the groups of scores count.
        drawn: indices of images, which may repeat; None: all.
    """

    def __init__(self, arrays: dict[str, np.ndarray], drawn: np.ndarray | None = None):
        self._arrays, self.drawn = arrays, drawn
        self._selected: dict[str, np.ndarray] = {}
        self._flat: dict[str, np.ndarray] = {}

    def of(self, drawn: np.ndarray) -> "Table":
        """The images `drawn`."""
        table = Table(self._arrays, drawn)
        table._flat = self._flat
        return table

    def __getitem__(self, name: str) -> np.ndarray:
        if self.drawn is None:
            return self._arrays[name]
        if name not in self._selected:
            self._selected[name] = self._arrays[name][self.drawn]
        return self._selected[name]

    @property
    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """tp, fp, fn: int64 [images, C] each."""
        return self["tp"], self["fp"], self["fn"]

    @property
    def sums(self) -> list[np.ndarray]:
        """tp, fp, fn: int64 [C] each, over the images."""
        return [count.sum(axis=0) for count in self.counts]

    @property
    def present(self) -> np.ndarray:
        """bool [images, C]: whether the ground truth of the image shows the class."""
        return self["tp"] + self["fn"] > 0

    def drawn_sum(self, name: str) -> np.ndarray:
        """float64: the sum over the images drawn of a large array, without a copy of its rows."""
        array = self._arrays[name]
        if name not in self._flat:
            self._flat[name] = array.reshape(len(array), -1).astype(np.float32)
        times = np.bincount(self.drawn, minlength=len(array)).astype(np.float32)
        return (times @ self._flat[name]).astype(np.float64).reshape(array.shape[1:])


def ratio(over, under) -> np.ndarray:
    """over / under, NaN where under is 0."""
    over, under = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    return np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)


def mean(values: np.ndarray) -> float:
    """Of those that are defined; NaN when none is. Sorted first: the order of images must not change the last bit."""
    defined = np.sort(values[~np.isnan(values)])
    return float(defined.mean()) if len(defined) else float("nan")


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """As numpy.nanmean, without a warning where all are NaN, and whatever the order."""
    values = np.sort(values, axis=axis)
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=axis), defined.sum(axis=axis))
