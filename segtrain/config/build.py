"""Config node to object: the only place that builds what a config names."""

import contextlib
import json
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

from segtrain.config.compose import load_saved
from segtrain.data.dataset import as_dataset, check_sample
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
    dataset = as_dataset(build(cfg, "dataset", split=split))
    if not len(dataset.names):
        raise DataError(f"the {split} split is empty", f"dataset ({cfg.dataset._target_})", "give it images")
    check_sample(dataset.image(0), dataset.mask(0), dataset, 0)
    return dataset


def build_inference(cfg: DictConfig, dataset):
    """How the network is asked. Raises ConfigError for a threshold that does not fit the dataset's classes."""
    import torch

    from segtrain.metrics import predict

    inference = build(cfg, "inference")
    with refusals(f"inference ({cfg.inference._target_})"):
        predict(torch.zeros(1, dataset.num_classes, 1, 1), dataset.multilabel, inference.threshold)
    return inference


def build_labels(cfg: DictConfig, dataset):
    """What the loss is taught with.

    Raises ConfigError for annotators of a dataset with one mask an image, and for a teacher of other classes.
    """
    labels = build(cfg, "labels")
    taught = list(getattr(getattr(labels, "teacher", None), "class_names", dataset.class_names))
    if taught != list(dataset.class_names):
        raise ConfigError(
            f"the teacher knows {', '.join(taught)}, the dataset has {', '.join(dataset.class_names)}",
            "labels.teacher.run",
            "name a run on the same classes, in the same order",
        )
    annotators = dataset.num_annotators
    if labels.annotated and (annotators < 2 or dataset.multilabel):
        raise ConfigError(
            "the dataset has one mask an image" if annotators < 2 else "annotators are averaged for one label a pixel",
            f"labels ({cfg.labels._target_})",
            "set dataset.annotators=[FOLDER,FOLDER], or labels=hard",
        )
    return labels


def build_loss(cfg: DictConfig, dataset, labels=None):
    """The loss, tried on a small batch, with `labels` when they are given.

    Raises ConfigError when it is for one label a pixel and the dataset for several, or the reverse, and for values
    it refuses when it is called, such as a class that is not there, or soft labels.
    """
    import torch

    loss = build(cfg, "loss")
    activation = getattr(loss, "activation", None)
    wanted = "sigmoid" if dataset.multilabel else "softmax"
    if activation not in (None, wanted):
        kinds = {"softmax": "one label a pixel", "sigmoid": "several labels a pixel"}
        options = "bce, bce_dice, bce_jaccard" if dataset.multilabel else "ce, ce_dice, dice, …"
        raise ConfigError(
            f"the loss is for {kinds[activation]}, the dataset has {kinds[wanted]}",
            f"loss ({cfg.loss._target_}), dataset ({cfg.dataset._target_})",
            f"choose a loss for {kinds[wanted]}: {options}",
        )
    logits, pixels = torch.zeros(2, dataset.num_classes, 64, 64), (2, 64, 64)
    target = torch.zeros(logits.shape if dataset.multilabel else pixels, dtype=torch.uint8)
    for start in getattr(loss, "starts", [0]):  # of phases, each
        if hasattr(loss, "start_epoch"):
            loss.start_epoch(start)
        with refusals(f"loss ({cfg.loss._target_})"):
            loss(logits, target)
        if labels is not None:
            _try_labels(cfg, loss, labels, logits, target, dataset)
    if hasattr(loss, "start_epoch"):
        loss.start_epoch(0)
    return loss


def _try_labels(cfg, loss, labels, logits, target, dataset) -> None:
    import torch

    if labels.annotated:
        target = target[:, None].expand(-1, dataset.num_annotators, -1, -1)
    with refusals(f"loss ({cfg.loss._target_}) with labels ({cfg.labels._target_})"):
        images = torch.zeros(2, dataset.channels, 64, 64, dtype=torch.uint8)
        labels(loss, logits, labels.target(target), images)


def build_scores(cfg: DictConfig, dataset):
    """The metric, told the names of the classes and the kind of labels.

    Raises ConfigError when a class of the user's lacks what segtrain needs.
    """
    scores = build(cfg, "metric", class_names=dataset.class_names, multilabel=dataset.multilabel)
    needed = ("reset", "update", "compute", "per_class", "score_names", "table", "class_names")
    if missing := [name for name in needed if not hasattr(scores, name)]:
        raise ConfigError(
            f"the metric class has no {', '.join(missing)}",
            f"metric ({cfg.metric._target_})",
            "see segtrain.metrics.SegmentationScores for what they do",
        )
    return scores


def load_model(cfg: DictConfig, run: Path, checkpoint: str, device):
    """A run's model with the weights of `best` or `last`. Raises ConfigError when they do not fit."""
    from segtrain.runs.checkpoint import load_checkpoint

    content = load_checkpoint(run / "checkpoints" / f"{checkpoint}.pt", device)
    if cfg.model.get("encoder_weights") is not None:
        cfg.model.encoder_weights = None  # every weight comes from the checkpoint
    model = build(cfg, "model").to(device)
    try:
        model.load_state_dict(content["model"])
    except RuntimeError as error:
        raise ConfigError(
            f"the checkpoint does not fit the model of config.yaml: {str(error).splitlines()[0]}",
            str(run),
            "leave model.* as the run had it",
        ) from error
    return model


def model_of_run(run: str, checkpoint: Literal["best", "last"] = "best", trust: list[str] | None = None):
    """A finished run's network, on the CPU: what a `_target_` in a config names to use one, such as a teacher.

    Raises ConfigError for a folder without a run, and for classes outside segtrain's and the packages in `trust`.
    """
    cfg = load_saved(Path(run) / "config.yaml", [], trust or [])
    model = load_model(cfg, Path(run), checkpoint, "cpu")
    counted = Path(run) / "class_counts.json"
    if counted.is_file():
        model.class_names = [row["name"] for row in json.loads(counted.read_text(encoding="utf-8"))["classes"]]
    return model
