"""Config node to object: the only place that builds what a config names."""

import contextlib

from omegaconf import DictConfig

from segtrain.data.dataset import check_sample
from segtrain.errors import ConfigError, DataError, SegtrainError


def build(cfg: DictConfig, part: str, **provided):
    """The object `cfg[part]` names, with `provided` arguments filled in. Raises ConfigError for a refused value."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    with refusals(f"{part} ({cfg[part]._target_})"):
        try:
            return instantiate(cfg[part], _convert_="all", **provided)
        except InstantiationException as error:
            if isinstance(error.__cause__, SegtrainError | ValueError):
                raise error.__cause__ from None
            raise


@contextlib.contextmanager
def refusals(where: str):
    """A ValueError inside is a value that was refused: it becomes a ConfigError."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error), where, "change it in the config") from error


def build_dataset(cfg: DictConfig, split: str):
    """One split of the dataset. Raises ConfigError when a class of the user's lacks what segtrain needs."""
    dataset = build(cfg, "dataset", split=split)
    place = f"dataset ({cfg.dataset._target_})"
    needed = (
        "num_classes",
        "class_names",
        "ignore_index",
        "background",
        "multilabel",
        "names",
        "image",
        "mask",
    )
    missing = [name for name in needed if not hasattr(dataset, name)]
    if missing:
        raise ConfigError(
            f"the dataset class has no {', '.join(missing)}",
            place,
            "see segtrain.data.dataset.SegmentationDataset for what a dataset must have",
        )
    if not len(dataset.names):
        raise DataError(f"the {split} split is empty", place, "give it images")
    check_sample(dataset.image(0), dataset.mask(0), dataset, 0)
    return dataset


def build_loss(cfg: DictConfig, num_classes: int, multilabel: bool):
    """The loss, tried on a small batch.

    Raises ConfigError when it is for one label a pixel and the dataset for several, or the reverse, and for values
    it refuses when it is called, such as a class that is not there.
    """
    import torch

    loss = build(cfg, "loss")
    activation = getattr(loss, "activation", None)
    wanted = "sigmoid" if multilabel else "softmax"
    if activation not in (None, wanted):
        kinds = {"softmax": "one label a pixel", "sigmoid": "several labels a pixel"}
        options = "bce, bce_dice, bce_jaccard" if multilabel else "ce, ce_dice, dice, …"
        raise ConfigError(
            f"the loss is for {kinds[activation]}, the dataset has {kinds[wanted]}",
            f"loss ({cfg.loss._target_}), dataset ({cfg.dataset._target_})",
            f"choose a loss for {kinds[wanted]}: {options}",
        )
    shape = (2, num_classes, 32, 32)
    target = torch.zeros(shape if multilabel else (2, 32, 32), dtype=torch.uint8)
    with refusals(f"loss ({cfg.loss._target_})"):
        loss(torch.zeros(shape), target)
    return loss


def build_scores(cfg: DictConfig, dataset):
    """The metric, told the names of the classes and the kind of labels."""
    return build(cfg, "metric", class_names=dataset.class_names, multilabel=dataset.multilabel)
