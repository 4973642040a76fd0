"""What segtrain asks of a dataset. Any class with these attributes and methods is one; nothing to inherit."""

from typing import Protocol

import numpy as np

from segtrain.errors import ConfigError, DataError

SPLITS = ("train", "val", "test")


class SegmentationDataset(Protocol):
    """One split of a dataset. Built as `YourClass(split="train", **the keys of its YAML)`.

    The YAML holds num_classes, ignore_index and background, which model, augmentation, loss and metric read as
    ${dataset.num_classes} and so on; so the class takes these three as arguments.

    Attributes:
        num_classes: number of classes C, at most 255.
        class_names: C names.
        ignore_index: mask value of pixels that are neither learned from nor scored.
        background: index of the class that is left out of foreground scores, or None.
        multilabel: whether a pixel may have several classes.
        names: one unique name per image.

    Optional: channels, of the images, when not 3 (and a key of the YAML, for the model); on_error, raise or skip;
    palette, uint8 [C, 3], for pictures.
    """

    num_classes: int
    class_names: list[str]
    ignore_index: int
    background: int | None
    multilabel: bool
    names: list[str]

    def image(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3], RGB; [H, W, channels] with other channels."""

    def mask(self, index: int) -> np.ndarray:
        """uint8 [H, W] of class indices; multi-label [H, W, C] of 0 and 1. Or ignore_index in either."""

    # Optional. Without `mask_key` the class counts of the dataset are not cached.
    # def mask_file(self, index) -> str: the file to name in an error
    # def mask_key(self, index) -> str: a text that changes when the mask does
    # def files(self) -> list[str]: every file that counts depend on: while none has changed, none is read
    # def mask_rule(self) -> str: a text that changes when the same files give other classes
    # def mask_histogram(self, index) -> np.ndarray: int64 [256], pixels per mask value, faster than via mask()
    # def check_pair(self, index) -> None: raise DataError when image and mask do not fit, before training
    # def size(self, index) -> tuple[int, int]: height and width, without decoding the image
    # num_annotators: int and def annotated_mask(self, index) -> np.ndarray: uint8 [H, W, A], for labels=annotators


def check_classes(owner: str, num_classes: int, class_names, background: int | None) -> list[str]:
    """Class names as given, or "class 0" and so on. Raises ConfigError when they do not match num_classes."""
    if not 1 <= num_classes <= 255:
        raise ConfigError(f"num_classes={num_classes} is not from 1 to 255", owner, "set dataset.num_classes")
    names = [f"class {i}" for i in range(num_classes)] if class_names is None else list(class_names)
    if len(names) != num_classes:
        raise ConfigError(
            f"{len(names)} class names for num_classes={num_classes}",
            f"{owner}: {', '.join(names)}",
            "give dataset.class_names one name per class, or null",
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"class names repeat: {', '.join(names)}", owner, "make dataset.class_names unique")
    # `iou/mean` and `iou/foreground` are the scores of all classes; with two classes the latter are the same.
    for taken in ("mean", "foreground", "all"):
        if taken in names and not (taken == "foreground" and num_classes == 2 and names[background or 0] != taken):
            raise ConfigError(
                f"the class name {taken!r} is the name of scores of all classes, such as iou/mean",
                owner,
                "rename the class",
            )
    if background is not None and not 0 <= background < num_classes:
        raise ConfigError(
            f"background={background} is no class of 0 to {num_classes - 1}",
            owner,
            "set dataset.background to a class index or null",
        )
    return names


def check_sample(image: np.ndarray, mask: np.ndarray, dataset: SegmentationDataset, index: int) -> None:
    """Raise DataError when image or mask are not of the form SegmentationDataset promises."""
    check_mask(mask, dataset, index)
    where, bands = mask_place(dataset, index), getattr(dataset, "channels", 3)
    if getattr(image, "dtype", None) != np.uint8 or image.ndim != 3 or image.shape[2] != bands:
        raise DataError(f"image is {_form(image)}", where, f"give uint8 [H, W, {bands}]")
    if mask.shape[:2] != image.shape[:2]:
        raise DataError(f"mask is {_form(mask)}, the image {list(image.shape)}", where, "give both the same size")


def check_mask(mask: np.ndarray, dataset: SegmentationDataset, index: int) -> None:
    """Raise DataError when a mask is no uint8 array [H, W], or [H, W, C] of several labels a pixel."""
    channels = getattr(dataset, "mask_channels", dataset.num_classes if dataset.multilabel else None)
    fits = getattr(mask, "dtype", None) == np.uint8 and mask.ndim == (2 if channels is None else 3) and mask.size
    if not fits or mask.shape[2:] != (() if channels is None else (channels,)):
        form = "[H, W] of class indices" if channels is None else f"[H, W, {channels}] of 0 and 1"
        raise DataError(f"mask is {_form(mask)}", mask_place(dataset, index), f"give a uint8 array {form}")


def _form(values) -> str:
    return f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else type(values).__name__


def mask_place(dataset: SegmentationDataset, index: int) -> str:
    """The file of a mask, or the image's name where there is no file."""
    return dataset.mask_file(index) if hasattr(dataset, "mask_file") else str(dataset.names[index])


def _mend(wrong: np.ndarray, dataset: SegmentationDataset) -> str:
    """What to change for mask values of no class."""
    if wrong.tolist() == [255] and dataset.num_classes == 2:
        return "masks of 0 and 255: dataset.mask_format=binary, or 'dataset.remap={255: 1}'"
    values = ", ".join(map(str, wrong[:5].tolist()))
    return (
        f"correct the mask, set dataset.num_classes, or say what {values} are: 'dataset.remap={{{wrong[0]}: CLASS}}' "
        f"or dataset.ignore_values=[{values.replace(' ', '')}]"
    )


def check_values(histogram: np.ndarray, dataset: SegmentationDataset, index: int) -> None:
    """Raise DataError when a mask's histogram [256] has pixels outside the classes and the ignore index."""
    limit = 2 if dataset.multilabel else dataset.num_classes
    wrong = np.flatnonzero(histogram)
    wrong = wrong[(wrong >= limit) & (wrong != dataset.ignore_index)]
    if len(wrong):
        values = ", ".join(f"{v} ({histogram[v]} pixels)" for v in wrong[:5]) + (" …" if len(wrong) > 5 else "")
        raise DataError(
            f"mask values outside the classes 0 to {limit - 1} and ignore_index={dataset.ignore_index}: {values}",
            mask_place(dataset, index),
            _mend(wrong, dataset),
        )
