"""Config node to object: the only place that builds what a config names."""

from omegaconf import DictConfig

from segtrain.errors import ConfigError, SegtrainError


def build(cfg: DictConfig, part: str, **provided):
    """The object `cfg[part]` names, with `provided` arguments filled in. Raises ConfigError for a refused value."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(cfg[part], _convert_="all", **provided)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, SegtrainError):
            raise cause from None
        if isinstance(cause, ValueError):
            raise ConfigError(
                str(cause), where=f"{part} ({cfg[part]._target_})", fix=f"change {part} in the config"
            ) from error
        raise


def build_dataset(cfg: DictConfig, split: str):
    """One split of the dataset. Raises ConfigError when a class of the user's lacks what segtrain needs."""
    dataset = build(cfg, "dataset", split=split)
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
            f"dataset ({cfg.dataset._target_})",
            "see segtrain.data.dataset.SegmentationDataset for what a dataset must have",
        )
    return dataset


def build_loss(cfg: DictConfig, multilabel: bool):
    """The loss. Raises ConfigError when it is for one label a pixel and the dataset for several, or the reverse."""
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
    return loss


def build_scores(cfg: DictConfig, dataset):
    """The metric, told the names of the classes and the kind of labels."""
    return build(cfg, "metric", class_names=dataset.class_names, multilabel=dataset.multilabel)
