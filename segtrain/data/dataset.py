"""The protocol of a dataset: SegmentationDataset with its defaults, and the checks of what a dataset returns."""

import logging
import math

import numpy as np

from segtrain.data.mask_values import of_one, value_counts, wrong_values
from segtrain.errors import ConfigError, DataError
from segtrain.protocols import PROTOCOLS, adopted

log = logging.getLogger("segtrain")

READ = 16  # images, to learn the sizes of a dataset that does not know them


class SegmentationDataset:
    """One split of a dataset. Built as `YourClass(split="train", **the keys of its YAML)`.

    A dataset derives from this class, or is any class with the attributes below, `image` and `mask`; everything else is
    optional, has its default here, and is used only of classes that derive. The YAML holds num_classes, ignore_index and
    background, which other parts read as ${dataset.num_classes} and so on; so the class takes these three as arguments.

    Attributes:
        num_classes: number of classes C, at most 255.
        class_names: C names.
        ignore_index: mask value of pixels that are neither learned from nor scored.
        background: index of the class that is left out of foreground scores, or None.
        multilabel: whether a pixel may have several classes.
        names: one unique name per image.
        channels: of the images; other than 3 it is also a key of the YAML, for the model.
        palette: uint8 [C, 3], the colours of the classes in pictures; None: those of PASCAL VOC.
        num_annotators: masks per image, for labels=annotators.
        findings: what `segtrain check` reports besides what it finds itself, a list of Finding.
    """

    num_classes: int
    class_names: list[str]
    ignore_index: int
    background: int | None
    multilabel: bool
    names: list[str]
    channels = 3
    palette: np.ndarray | None = None
    num_annotators = 1
    findings = ()

    def image(self, index: int) -> np.ndarray:
        """uint8 [H, W, channels], the same in every call, since it may be kept; 3 channels are RGB."""
        raise NotImplementedError

    def mask(self, index: int) -> np.ndarray:
        """uint8 [H, W] of class indices; multi-label [H, W, C] of 0 and 1. Or ignore_index in either."""
        raise NotImplementedError

    def annotated_mask(self, index: int) -> np.ndarray:
        """uint8 [H, W, A]: the mask of each annotator."""
        return self.mask(index)[..., None]

    def group(self, index: int) -> str:
        """The scene or patient of an image: images of one group are not independent. Its own name: it is alone."""
        return str(self.names[index])

    def size(self, index: int) -> tuple[int, int] | None:
        """Height and width without decoding the image; None: not known."""
        return None

    def check_pair(self, index: int) -> None:
        """Raise DataError when image and mask do not fit; called for each image before training."""

    def has_mask(self, index: int) -> bool:
        """Whether the mask of an image exists; `findings` name those that do not."""
        return True

    def turned_apart(self, index: int) -> bool:
        """Whether an EXIF orientation turns the image, but not its mask in the same way."""
        return False

    def image_file(self, index: int) -> str:
        """The file of an image, to name it in a finding."""
        return str(self.names[index])

    def mask_file(self, index: int) -> str:
        """The file of a mask, to name it in an error."""
        return str(self.names[index])

    def files(self) -> list[str]:
        """Every file that the class counts depend on: while none has changed, none is read."""
        return []

    def mask_key(self, index: int) -> str | None:
        """A text that changes when the mask does; None: class counts are not cached."""
        return None

    def mask_rule(self) -> str:
        """A text that changes when the same files give other classes."""
        return f"{type(self).__name__} {self.names[0]}"

    @property
    def mask_channels(self) -> int | None:
        """Channels of a mask; None: it is [H, W]."""
        return self.num_classes if self.multilabel else None


def group_of(dataset: SegmentationDataset, index: int) -> str:
    """The group of an image as text: a dataset of one's own may give the number of a patient."""
    return str(dataset.group(index))


def as_dataset(part) -> SegmentationDataset:
    """`part` when it derives from SegmentationDataset, else the required attributes and methods of it alone.

    Raises ConfigError that names what it lacks.
    """
    return adopted(part, "dataset", SegmentationDataset, _with_required)


def _with_required(part) -> SegmentationDataset:
    if "group" in dir(part):
        log.warning(
            f"{type(part).__name__}.group is not used: derive the class from segtrain.data.dataset.SegmentationDataset, where "
            "it is an optional method"
        )
    dataset = SegmentationDataset()
    for name in PROTOCOLS["dataset"].required:
        setattr(dataset, name, getattr(part, name))
    dataset.class_names = list(dataset.class_names)  # not an array, which has no truth
    return dataset


def check_classes(owner: str, num_classes: int, class_names, background: int | None) -> list[str]:
    """Class names as given, or "class 0" and so on. Raises ConfigError when they do not match num_classes."""
    if not 1 <= num_classes <= 255:
        fix = "merge some with dataset.remap" if num_classes > 255 else "set dataset.num_classes"
        raise ConfigError(f"num_classes={num_classes}, where 1 to 255 classes are possible", owner, fix)
    names = [f"class {i}" for i in range(num_classes)] if class_names is None else [str(name) for name in class_names]
    if len(names) != num_classes:
        what = f"{len(names)} class names for num_classes={num_classes}"
        raise ConfigError(what, f"{owner}: {', '.join(names)}", "give dataset.class_names one name per class, or null")
    if len(set(names)) < len(names):
        raise ConfigError(f"class names repeat: {', '.join(names)}", owner, "make dataset.class_names unique")
    if background is not None and not 0 <= background < num_classes:
        what = f"background={background} is not a class from 0 to {num_classes - 1}"
        raise ConfigError(what, owner, "set dataset.background to a class index or null")
    if referring := [name for name in names if "${" in name]:
        raise ConfigError(f"the class name {referring[0]!r} would be read as a reference", owner, "name it without ${")
    # `iou/mean` and `iou/foreground` are the scores of all classes; with two classes the latter are the same.
    for reserved in ("mean", "foreground", "all"):
        if reserved in names and not (
            reserved == "foreground" and num_classes == 2 and background is not None and names[background] != reserved
        ):
            what = f"the class name {reserved!r} is reserved for scores of all classes, such as iou/mean"
            raise ConfigError(what, owner, "rename the class")
    return names


def read_mask(dataset: SegmentationDataset, index: int) -> np.ndarray:
    """A mask, whose form is checked."""
    mask = dataset.mask(index)
    check_mask(mask, dataset, index)
    return mask


def check_sample(image: np.ndarray, mask: np.ndarray, dataset: SegmentationDataset, index: int) -> None:
    """Raise DataError when image or mask are not of the form SegmentationDataset promises."""
    check_mask(mask, dataset, index)
    where, bands = dataset.mask_file(index), dataset.channels
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != bands:
        raise DataError(f"image is {_form(image)}", where, f"give uint8 [H, W, {bands}]")
    if mask.shape[:2] != image.shape[:2]:
        raise DataError(f"mask is {_form(mask)}, the image {list(image.shape)}", where, "give both the same size")


def check_mask(mask: np.ndarray, dataset: SegmentationDataset, index: int) -> None:
    """Raise DataError when a mask is no uint8 array [H, W], or multi-label [H, W, C]."""
    channels = dataset.mask_channels
    trailing = () if channels is None else (channels,)
    fits = isinstance(mask, np.ndarray) and mask.dtype == np.uint8 and mask.ndim >= 2 and mask.size
    if fits and mask.shape[2:] == trailing:
        return
    form = "[H, W] of class indices" if channels is None else f"[H, W, {channels}] of 0 and 1"
    raise DataError(
        f"mask is {_form(mask)}", dataset.mask_file(index), f"give a uint8 array {form}: mask.astype(numpy.uint8)"
    )


def known_sizes(dataset: SegmentationDataset, every: int = 1) -> list[tuple[int, int]]:
    """Height and width of each image, or of one in `every`; of a dataset that does not know them, of some that are read."""
    sizes = [dataset.size(index) for index in range(0, len(dataset.names), every)]
    if None not in sizes:
        return sizes
    return [
        dataset.image(index).shape[:2] for index in range(0, len(dataset.names), math.ceil(len(dataset.names) / READ))
    ]


def typical_size(dataset: SegmentationDataset) -> tuple[int, int]:
    """Height and width: the medians over the images, of a large dataset over some of them."""
    height, width = np.median(known_sizes(dataset, every=1 + len(dataset.names) // 200), axis=0)
    return int(height), int(width)


def class_pixels(mask: np.ndarray, dataset: SegmentationDataset, index: int) -> np.ndarray:
    """int64 [C]: pixels of each class in a mask. Raises DataError for values outside the classes."""
    histogram = check_values(mask, dataset, index)
    if dataset.multilabel:
        return (mask == 1).sum(axis=(0, 1))
    pixels = histogram[: dataset.num_classes].copy()
    pixels[dataset.ignore_index : dataset.ignore_index + 1] = 0
    return pixels


def check_values(mask: np.ndarray, dataset: SegmentationDataset, index: int) -> np.ndarray:
    """The histogram [256] of a mask. Raises WrongValues for values outside the classes and the ignore index."""
    histogram = value_counts(mask)
    if len(wrong_values(dataset, histogram)):
        raise of_one(dataset, histogram, dataset.mask_file(index))
    return histogram


def _form(values) -> str:
    return f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else type(values).__name__
