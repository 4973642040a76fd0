"""Dataset objects that are given in Python: their place in a run's config, and the division of one into train and val."""

import functools
from typing import NoReturn

from segtrain.arguments import Fraction, Label, NonNegativeInt, PositiveInt, mistake
from segtrain.data.dataset import SegmentationDataset, group_of
from segtrain.data.folder.splits import for_validation
from segtrain.errors import ConfigError, DataError, counted

CLASSES = ("num_classes", "class_names", "ignore_index", "background", "multilabel", "channels", "palette")
BY_INDEX = ("image", "mask", "annotated_mask", "group", "size", "check_pair", "has_mask", "turned_apart")
BY_INDEX += ("image_file", "mask_file", "mask_key")


class Given(SegmentationDataset):
    """What a run's config says of dataset objects that `segtrain.train` was given: their classes, but no images.

    What needs no images, such as `segtrain predict`, works with such a run; `names`, `image` and `mask` raise ConfigError.
    """

    def __init__(
        self,
        split: str,
        num_classes: PositiveInt,
        class_names: list[str],
        ignore_index: Label,
        background: NonNegativeInt | None,
        multilabel: bool,
        channels: PositiveInt = 3,
        palette: list[list[Label]] | None = None,
    ):
        self.num_classes, self.class_names, self.ignore_index = num_classes, class_names, ignore_index
        self.background, self.multilabel, self.channels, self.palette = background, multilabel, channels, palette

    @property
    def names(self) -> NoReturn:
        raise ConfigError(
            "the run was trained in Python on dataset objects, which its folder does not hold",
            "dataset (segtrain.data.given.Given)",
            "`segtrain predict RUN IMAGES --out DIR`, `segtrain export RUN`, segtrain.load(RUN).predict(image) need no dataset; "
            "to score it, use segtrain.metrics.SegmentationScores",
        )

    def image(self, index: int) -> NoReturn:
        return self.names

    def mask(self, index: int) -> NoReturn:
        return self.names


def given_arguments(dataset: SegmentationDataset) -> dict:
    """The arguments of Given for a dataset."""
    palette = dataset.palette
    return {
        "num_classes": int(dataset.num_classes),
        "class_names": [str(name) for name in dataset.class_names],
        "ignore_index": int(dataset.ignore_index),
        "background": None if dataset.background is None else int(dataset.background),
        "multilabel": bool(dataset.multilabel),
        "channels": int(dataset.channels),
        "palette": None if palette is None else [[int(value) for value in colour] for colour in palette],
    }


class Part(SegmentationDataset):
    """Some of the images of a dataset."""

    def __init__(self, dataset: SegmentationDataset, indices: list[int]):
        self._dataset, self._indices, self.names = dataset, indices, [dataset.names[index] for index in indices]
        for name in (*CLASSES, "num_annotators", "mask_rule"):
            setattr(self, name, getattr(dataset, name))
        for name in BY_INDEX:
            setattr(self, name, functools.partial(self._of_image, name))

    def _of_image(self, name: str, index: int):
        return getattr(self._dataset, name)(self._indices[index])


def train_and_val(dataset: SegmentationDataset, val_ratio: float, owner: str) -> tuple[Part, Part]:
    """A share of the groups, by hash, for validation; an image stays where it is when others are added.

    Args:
        owner: the dataset's name in messages.

    Raises ConfigError for a share that is none, DataError when a part would be empty.
    """
    if wrong := mistake(val_ratio, Fraction):
        raise ConfigError(f"val_ratio={val_ratio!r} {wrong}", "segtrain.train", "give a share, such as 0.2")
    indices = range(len(dataset.names))
    in_val = for_validation([group_of(dataset, index) for index in indices], val_ratio)
    parts = [Part(dataset, [i for i in indices if in_val[i] == chosen]) for chosen in (False, True)]
    for name, part in zip(("train", "val"), parts, strict=True):
        if not part.names:
            groups = len({group_of(dataset, index) for index in indices})
            what = f"no image for {name}: {counted(len(dataset.names), 'image')} in {counted(groups, 'group')}, "
            what += f"{100 * val_ratio:g} % of which are for validation"
            raise DataError(what, owner, "give two datasets: dataset=(TRAIN, VAL)")
    return parts[0], parts[1]
