"""Presence of classes: its setting, and predictions in which an absent class is background."""

import torch

from segtrain.arguments import Fraction, NonNegativeInt, mistake

KINDS = {
    "area": NonNegativeInt | list[NonNegativeInt],
    "confidence": Fraction | list[Fraction],
    "false_alarms": Fraction,
}


def is_chosen(presence) -> bool:
    """Whether `segtrain evaluate` chooses the presence on val."""
    return presence == "best" or "false_alarms" in (presence or ())


def check_keys(presence) -> None:
    """Raise ValueError for a mapping of other keys than there are, or with a value that does not fit."""
    if not isinstance(presence, dict):
        return
    if set(presence) not in ({"area", "confidence"}, {"false_alarms"}):
        raise ValueError(f"presence has {', '.join(map(str, presence))}: give area and confidence, or false_alarms")
    for name, value in presence.items():
        if text := mistake(value, KINDS[name]):
            raise ValueError(f"presence.{name}={value!r} {text}, or one per class")


def check_classes(presence, dataset) -> None:
    """Raise ValueError for a presence that does not fit the classes."""
    if presence is None:
        return
    if dataset.background is None and not dataset.multilabel:
        raise ValueError(
            "presence: the dataset has no background (dataset.background), which the pixels of absent classes would become"
        )
    for name, values in presence.items():
        if isinstance(values, list) and len(values) != dataset.num_classes:
            raise ValueError(f"presence.{name}: {len(values)} numbers for {dataset.num_classes} classes")


def confident_pixels(probability: torch.Tensor, presence: dict) -> torch.Tensor:
    """int64 [N,C]: pixels of at least the probability that presence asks for.

    Args:
        probability: [N,C,H,W].
    """
    confidence = torch.as_tensor(presence["confidence"], device=probability.device)
    return (probability >= confidence.expand(probability.shape[1]).view(-1, 1, 1)).sum(dim=(2, 3))


def without_absent(
    prediction: torch.Tensor, confident: torch.Tensor, presence: dict, background: int | None
) -> torch.Tensor:
    """The prediction with classes of too few confident pixels left out.

    Args:
        prediction: classes uint8 [N,H,W], or multi-label bool [N,C,H,W].
        confident: of `confident_pixels`.
        background: what an absent class becomes; not for multi-label.
    """
    classes = torch.arange(confident.shape[1], device=confident.device)
    present = confident >= torch.as_tensor(presence["area"], device=confident.device)
    if prediction.dtype == torch.bool:
        return prediction & present[:, :, None, None]
    labels = classes.where(present, background).to(torch.uint8)
    return labels.gather(1, prediction.flatten(1).long()).view_as(prediction)
