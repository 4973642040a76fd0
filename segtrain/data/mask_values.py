"""Values of masks: how often each occurs, and what those say that are no class, of one mask and of all together."""

import numpy as np

from segtrain.errors import DataError, counted, few

# Masks of 0 and another value; {value} and {name} are filled in.
BOTH_WAYS = (
    "choose: a softmax of two classes, dataset.num_classes=2 dataset.mask_format=binary, where 0 is class 0 (background) "
    "and {value} is class 1{name}; or a sigmoid of one class, dataset.num_classes=1 dataset.mask_format=channels "
    "dataset.background=null loss=bce_dice, where {value} is class 0"
)
MANY = 64  # values of masks: they may be grey, not classes
GREY = "for masks with grey edges: dataset.num_classes=2 dataset.mask_format=binary dataset.threshold=127"
_NAMED = 12  # values of a remap that are written out
_COUNTED = 1 << 24  # pixels that OpenCV counts at once: it does so in float32


class WrongValues(DataError):
    """Mask values outside the classes and the ignore index. `histogram`: int64 [256], pixels of each value."""

    def __init__(self, what: str, where: str = "", fix: str = "", histogram: np.ndarray | None = None):
        super().__init__(what, where, fix)
        self.histogram = histogram


def value_counts(mask: np.ndarray) -> np.ndarray:
    """int64 [256]: pixels of each value of a uint8 mask, of any shape."""
    import cv2

    flat, counts = mask.reshape(1, -1), np.zeros(256, np.int64)
    for first in range(0, flat.size, _COUNTED):
        part = flat[:, first : first + _COUNTED]
        counts += cv2.calcHist([part], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    return counts


def both_ways(class_names: list[str], value: int = 255) -> str:
    """How masks of 0 and `value` can be trained on."""
    named = len(class_names) == 2 and class_names[1] != "class 1"
    return BOTH_WAYS.format(value=value, name=f" ({class_names[1]})" if named else "")


def wrong_values(dataset, histogram: np.ndarray) -> np.ndarray:
    """The values of a histogram [256] that are neither a class nor the ignore index; multi-label: nor 0 or 1."""
    values = np.flatnonzero(histogram)
    return values[(values >= _limit(dataset)) & (values != dataset.ignore_index)]


def of_one(dataset, histogram: np.ndarray, file: str) -> WrongValues:
    """The error of a mask with wrong values."""
    return WrongValues(_outside(dataset, histogram), file, _fix(dataset, histogram), histogram)


def of_all(dataset, errors: list[WrongValues], pixels: np.ndarray) -> WrongValues:
    """One error for all masks of a split with wrong values.

    Args:
        pixels: int64 [C], of each class in the other masks.
    """
    histogram = sum(error.histogram for error in errors)
    every = histogram.copy()
    every[: len(pixels)] += pixels
    labels = [v for v in np.flatnonzero(every).tolist() if v != dataset.ignore_index]
    classes, fix, start = dataset.num_classes, _fix(dataset, histogram), ""
    pairs = [f"{value}: {value - 1}" for value in range(1, classes + 1)]
    remap = f"'dataset.remap={{{', '.join(pairs if classes <= _NAMED else [*pairs[:2], '…', pairs[-1]])}}}'"
    if dataset.multilabel:
        pass
    elif len(labels) > MANY and classes <= 2:
        fix = GREY
    elif len(labels) == 2 and labels[0] == 0 and (labels[1] == 255 or classes == 2):
        fix = both_ways(dataset.class_names, labels[1])
    elif labels[-1] == classes and labels[0] > 0:
        start = "labels start at 1, but classes are counted from 0: "
        fix = f"{remap}, with dataset.background=null unless the first class is the background; or, where 0 is a class "
        fix += f"without pixels here, dataset.num_classes={classes + 1}"
    elif labels[-1] == classes:
        fix = f"where {classes} means unlabelled (void), dataset.ignore_index={classes}; where it is a class, "
        fix += f"dataset.num_classes={classes + 1}; where 0 means unlabelled, {remap} dataset.ignore_values=[0] "
        fix += f"dataset.background=null; where {classes} is a mistake, correct the masks"
    what = f"{start}{_outside(dataset, histogram)} in {counted(len(errors), 'mask')}"
    if len(errors) > 1:
        what += f"; all masks together hold {few([*map(str, labels)], _NAMED)}"
    return WrongValues(what, few([error.where for error in errors], 1), fix, histogram)


def _limit(dataset) -> int:
    return 2 if dataset.multilabel else dataset.num_classes


def _outside(dataset, histogram: np.ndarray) -> str:
    wrong = [f"{value} ({histogram[value]:,} pixels)" for value in wrong_values(dataset, histogram)]
    limit = _limit(dataset) - 1
    return f"mask values outside the classes 0 to {limit} and ignore_index={dataset.ignore_index}: {few(wrong)}"


def _fix(dataset, histogram: np.ndarray) -> str:
    from segtrain.data.folder.folder import Folder

    if not isinstance(dataset, Folder):
        return "correct the mask, num_classes or ignore_index of the dataset"
    wrong = wrong_values(dataset, histogram).tolist()
    if wrong == [255] and dataset.num_classes == 2:
        return "for masks of 0 and 255: dataset.mask_format=binary, or 'dataset.remap={255: 1}'"
    return (
        f"correct the mask, set dataset.num_classes, map the values to classes, 'dataset.remap={{{wrong[0]}: CLASS}}', "
        f"or ignore them, dataset.ignore_values=[{','.join(map(str, wrong[:20]))}{',…' * (len(wrong) > 20)}]"
    )
