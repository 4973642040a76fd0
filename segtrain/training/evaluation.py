"""One pass of a network over whole images: scores and loss. Training and `evaluate` share it."""

import contextlib
from collections.abc import Iterable

import numpy as np
import torch

from segtrain.errors import DataError, NotFinite
from segtrain.inference import Predictor
from segtrain.losses import Loss
from segtrain.metrics.metric import Metric
from segtrain.signals import leave_if_stopped


@torch.no_grad()
def evaluate(
    predictor: Predictor,
    batches: Iterable,
    scores: Metric,
    loss: Loss | None = None,
    names: list[str] | None = None,
    limit: int | None = None,
    advance=None,
    part=lambda name: contextlib.nullcontext(),
) -> float:
    """Fill `scores` from the first `limit` batches (None: all); returns the loss of all images.

    Args:
        batches: of (uint8 images, targets, indices), each image at its own size.
        scores: is reset first.
        loss: a function of the sums is computed from those of all images; any other is the mean over images. None: NaN.
        names: the dataset's names, by index.
        advance: called with the number of images of each batch.
        part: gives a context for each part of the work, by name.

    Raises DataError for no image, NotFinite for logits that are not; Preempted and such after a stop signal.
    """
    scores.reset()
    pieces, seen, finite = [], [], []
    for number, (batch, target, indices) in enumerate(batches):
        if limit is not None and number >= limit:
            break
        leave_if_stopped()
        target = target.to(predictor.device, non_blocking=True)
        with part("validation: forward"):
            logits = predictor.logits(batch)
            finite.append(logits.flatten(1).sum(dim=1, dtype=torch.float32).isfinite())
        seen += indices
        if loss is not None:
            with part("validation: loss"):
                pieces.append(loss.piece(logits, target))
        wanted = {"logits": logits} if scores.needs_logits else {}
        with part("validation: scores"):
            scores.update(predictor.decide(logits), target, [names[i] for i in indices] if names else None, **wanted)
        if advance is not None:
            advance(len(batch))
    if not seen:
        raise DataError("there is no image to score", "the split, or trainer.val_batches", "add images to the split")
    if not (good := torch.cat(finite)).all():
        first = seen[int((~good).nonzero()[0])]
        raise NotFinite(
            f"non-finite logits in {int((~good).sum())} of {len(seen)} images",
            f"the first is {names[first] if names else first}",
            "use trainer.precision=float32, a lower optimizer.lr, trainer.clip_norm=1, or an earlier checkpoint",
        )
    return float(loss.of_pieces(pieces)) if loss is not None else float("nan")


def predict_one(predictor: Predictor, image: np.ndarray) -> np.ndarray:
    """The prediction for an image uint8 [H,W,B]: classes uint8 [H,W], or multi-label bool [C,H,W]."""
    logits = predictor.logits(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])
    return predictor.decide(logits)[0].cpu().numpy()
