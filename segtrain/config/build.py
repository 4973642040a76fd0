"""Build the parts of a training from a config: the only place that instantiates classes by name."""

import contextlib
import copy
from collections import Counter

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from segtrain.data.augment import Augmentation, as_augment, crop_size
from segtrain.data.dataset import as_dataset, check_sample
from segtrain.data.sampling import Sampling, as_sampling
from segtrain.errors import ConfigError, DataError, SegtrainError


def build(cfg: DictConfig, part: str, **provided):
    """The object `cfg[part]` names, with `provided` arguments filled in. Raises ConfigError for a refused value."""
    with refusals(f"{part} ({cfg[part]._target_})"):
        try:
            return instantiate(cfg[part], _convert_="all", **provided)
        except InstantiationException as error:
            cause, target = error.__cause__, str(cfg[part]._target_)
            if isinstance(cause, SegtrainError | ValueError):
                raise cause from None
            if target.startswith("segtrain.") or not isinstance(cause, Exception) or isinstance(cause, MemoryError):
                raise
            what = f"{target} cannot be built: {type(cause).__name__}: {cause}"
            raise ConfigError(what, part, "correct the class; debug=true shows where") from error


@contextlib.contextmanager
def refusals(where: str):
    """A ValueError inside is a value that was refused: it becomes a ConfigError."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error), where, "correct it, or leave it out") from error


@contextlib.contextmanager
def all_refused(call: str):
    """Whatever a class of the user's raises in this call becomes a ValueError, for `refusals`."""
    try:
        yield
    except (SegtrainError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"{call} raises {type(error).__name__}: {error} (debug=true shows where)") from error


def build_dataset(cfg: DictConfig, split: str):
    """One split of the dataset. Raises ConfigError when a class of the user's lacks what segtrain needs."""
    dataset = as_dataset(build(cfg, "dataset", split=split))
    check_samples(dataset, split, cfg.dataset._target_)
    return dataset


def check_samples(dataset, split: str, name: str) -> None:
    """Raise DataError when a split is empty, or its first image or mask is not of the form a dataset promises."""
    if not len(dataset.names):
        raise DataError(f"the {split} split is empty", f"dataset ({name})", "give it images")
    if (most := Counter(map(str, dataset.names)).most_common(1)[0])[1] > 1:
        what = f"{most[1]} images of the {split} split have the name {most[0]!r}"
        raise DataError(what, f"dataset ({name})", "give each a name of its own")
    check_sample(dataset.image(0), dataset.mask(0), dataset, 0)


def build_model(cfg: DictConfig, from_checkpoint: bool = False):
    """The network; all of its weights are to come from a checkpoint, or else its encoder's from where the config says."""
    own = {"encoder_weights": None} if from_checkpoint and "encoder_weights" in cfg.model else {}
    return build(cfg, "model", **own)


def build_sampling(cfg: DictConfig) -> Sampling:
    """Which images an epoch draws, and where their crops are centred."""
    return as_sampling(build(cfg, "sampling"))


def build_augment(cfg: DictConfig, dataset) -> Augmentation:
    """The augmentation, with the crop that suits the dataset when augment.size=auto."""
    automatic = {}
    if cfg.augment.get("size") == "auto":
        zooms = any(cfg.augment.get(name) for name in ("scale", "rotate_90"))
        automatic["size"] = crop_size(dataset, zooms)
    return as_augment(build(cfg, "augment", **automatic))


def build_inference(cfg: DictConfig, dataset, training: bool = False):
    """Windows, flips, scales, thresholds, presence, regions. Raises ConfigError for those that do not fit the classes.

    Args:
        training: for the validation of a training, which has no regions.
    """
    import torch

    from segtrain.inference.presence import check_classes, is_chosen
    from segtrain.metrics import predict

    inference = build(cfg, "inference")
    with refusals(f"inference ({cfg.inference._target_})"):
        predict(torch.zeros(1, dataset.num_classes, 1, 1), dataset.multilabel, inference.threshold)
        if is_chosen(inference.presence):
            raise ValueError(
                "presence is chosen on val, after the training, by `segtrain evaluate` and `segtrain predict`"
            )
        check_classes(inference.presence, dataset)
        if training and inference.regions is not None:
            raise ValueError("regions need a trained network: `segtrain evaluate RUN inference.regions=RUN`")
        if inference.regions is not None and dataset.background is None and not dataset.multilabel:
            raise ValueError(
                "regions: the dataset has no background (dataset.background) for the pixels outside the windows"
            )
    return inference


def build_labels(cfg: DictConfig, dataset):
    """The training targets.

    Raises ConfigError for annotators of a dataset with one mask per image, and for a teacher of other classes.
    """
    labels = build(cfg, "labels")
    if labels.class_names and list(labels.class_names) != list(dataset.class_names):
        raise ConfigError(
            f"the teacher has the classes {', '.join(labels.class_names)}, but the dataset has {', '.join(dataset.class_names)}",
            "labels.teacher.run",
            "name a run on the same classes, in the same order",
        )
    if labels.annotated and (dataset.num_annotators < 2 or dataset.multilabel):
        several = "masks of annotators can only be averaged with one label per pixel"
        what = several if dataset.multilabel else "the dataset has one mask per image"
        fix = "set dataset.annotators=[FOLDER,FOLDER], or labels=hard"
        raise ConfigError(what, f"labels ({cfg.labels._target_})", fix)
    return labels


def build_loss(cfg: DictConfig, dataset, labels=None):
    """The loss, tried on a small batch, with the training targets when they are given.

    Raises ConfigError when it is for one label per pixel and the dataset multi-label, or the reverse, and for values
    it refuses when it is called, such as a class that is not there, or soft labels.
    """
    import torch

    from segtrain.losses import as_loss

    place = f"loss ({cfg.loss._target_})"
    with refusals(place):
        loss = as_loss(build(cfg, "loss"))
        tried = _copy(loss) or as_loss(build(cfg, "loss"))  # a loss may count what it is called with
    wanted = "sigmoid" if dataset.multilabel else "softmax"
    if loss.activation not in (None, wanted):
        kinds = {"softmax": "one label per pixel", "sigmoid": "multi-label masks"}
        options = "bce, bce_dice, bce_jaccard" if dataset.multilabel else "ce, ce_dice, dice, …"
        raise ConfigError(
            f"the loss is for {kinds[loss.activation]}, but the dataset has {kinds[wanted]}",
            f"{place}, dataset ({cfg.dataset._target_})",
            f"choose a loss for {kinds[wanted]}: {options}",
        )
    if len(loss.starts) > 1 and cfg.trainer.monitor == "loss":
        raise ConfigError(
            "the phases have different losses, so their validation losses cannot be compared",
            "trainer.monitor=loss",
            "use another score, such as trainer.monitor=iou/mean",
        )
    number = torch.arange(2 * 64 * 64)
    target = (number % dataset.num_classes).view(2, 64, 64)  # every class
    if dataset.multilabel:
        target = (number % 2).view(2, 1, 64, 64).expand(2, dataset.num_classes, 64, 64)
    target = target.to(torch.uint8)

    def logits() -> torch.Tensor:  # no leaf: a loss may change them in place
        return torch.zeros(2, dataset.num_classes, 64, 64, requires_grad=True) * 1

    for start in tried.starts:
        tried.start_epoch(start)
        with refusals(place):
            _check_value(_called(tried, logits(), target))
        if labels is not None:
            with refusals(f"{place} with labels ({cfg.labels._target_})"):
                masks = target[:, None].expand(-1, dataset.num_annotators, -1, -1) if labels.annotated else target
                images = torch.zeros(2, dataset.channels, 64, 64, dtype=torch.uint8)
                _called(labels.training_loss(tried), logits(), labels.target(masks, images))
    return loss


def _copy(loss):
    """A copy of a loss; None of one that cannot be copied."""
    try:
        return copy.deepcopy(loss)
    except Exception:  # whatever a class of the user's raises
        return None


def _called(loss, logits, target):
    """The value of a loss. Raises ValueError for whatever one of the user's raises."""
    shapes = [list(part.shape) for part in (logits, *(target if isinstance(target, tuple) else (target,)))]
    with all_refused(f"forward(logits, target) with tensors of {' and '.join(map(str, shapes))}"):
        return loss(logits, target)


def _check_value(value) -> None:
    """Raise ValueError for what a loss gives that no training can go down."""
    import torch

    if not isinstance(value, torch.Tensor) or value.ndim:
        kind = f"a tensor of {list(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
        raise ValueError(f"forward returns {kind}: it must return one number, a tensor of shape []")
    if not value.requires_grad:
        raise ValueError(
            "forward returns a number that does not depend on the logits, so nothing can be learned from it"
        )


def build_scores(cfg: DictConfig, dataset):
    """The metric, with the names of the classes and the kind of labels."""
    from segtrain.metrics.metric import as_metric

    metric = build(cfg, "metric", class_names=dataset.class_names, multilabel=dataset.multilabel)
    with refusals(f"metric ({cfg.metric._target_})"):
        return as_metric(metric, dataset.class_names)
