"""One pass of a network over whole images: scores and loss. Training and `evaluate` share it."""

import contextlib
from collections.abc import Iterable

import numpy as np
import torch

from segtrain.errors import DataError, NotFinite
from segtrain.inference import Predictor
from segtrain.losses import Loss
from segtrain.losses.state import in_evaluation
from segtrain.metrics.metric import Metric
from segtrain.ranks import ALONE, Processes
from segtrain.signals import leave_if_stopped


@torch.no_grad()
def evaluate(
    predictor: Predictor,
    batches: Iterable,
    scores: Metric,
    loss: Loss,
    names: list[str] | None = None,
    limit: int | None = None,
    advance=lambda images: None,
    part=lambda name: contextlib.nullcontext(),
    processes: Processes = ALONE,
) -> float:
    """Fill `scores` from the first `limit` images (None: all); returns the loss of them all.

    Args:
        batches: of (uint8 images, targets, indices), each image at its own size.
        scores: is reset first.
        loss: a function of the sums is computed from those of all images; any other is the mean over images.
        names: the dataset's names, by index.
        advance: called with the number of images of each batch.
        part: gives a context for each part of the work, by name.
        processes: those that have a part of the batches each; scores and loss are of all.

    Raises DataError for no image, NotFinite for logits that are not; Preempted and such after a stop signal.
    """
    scores.reset()
    done = []  # of each batch: indices of its images, what the loss needs of it, whether the logits are finite
    with in_evaluation(loss):
        for batch, target, indices in batches:
            if limit is not None and indices[0] >= limit:
                break
            leave_if_stopped()
            target = target.to(predictor.device, non_blocking=True)
            with part("validation: forward"):
                logits = predictor.logits(batch)
                finite = logits.sum(dim=(1, 2, 3), dtype=torch.float32).isfinite()
            with part("validation: loss"):
                done.append((indices, loss.piece(logits, target), finite))
            wanted = {"logits": logits} if scores.needs_logits else {}
            with part("validation: scores"):
                scores.update(
                    predictor.decide(logits), target, [names[i] for i in indices] if names else None, **wanted
                )
            advance(len(batch))
    if processes.size > 1:
        done = _join(processes, scores, done)
    if not done:
        raise DataError("there is no image to score", "the split, or trainer.val_batches", "add images to the split")
    _check_finite([index for indices, *_ in done for index in indices], torch.cat([f for *_, f in done]), names)
    return float(loss.of_pieces([piece for _, piece, _ in done]))


def _check_finite(seen: list[int], good: torch.Tensor, names: list[str] | None) -> None:
    """Raise NotFinite when not all of the images that were seen are good."""
    if not good.all():
        first = seen[int((~good).nonzero()[0])]
        raise NotFinite(
            f"non-finite logits in {int((~good).sum())} of {len(seen)} images",
            f"the first is {names[first] if names else first}",
            "use trainer.precision=float32, a lower optimizer.lr, trainer.clip_norm=1, or an earlier checkpoint",
        )


def _join(processes: Processes, scores: Metric, done: list) -> list:
    """What the processes did, in the order in which one process does it, and their counts in `scores`."""
    found, states = zip(*processes.gathered((done, scores.state())), strict=True)
    rows = [index for part in found for indices, *_ in part for index in indices]
    every = sorted((batch for part in found for batch in part), key=lambda batch: batch[0][0])
    place = {index: row for row, index in enumerate(rows)}
    scores.join(list(states), np.array([place[index] for indices, *_ in every for index in indices], dtype=int))
    return every


def predict_one(predictor: Predictor, image: np.ndarray) -> np.ndarray:
    """The prediction for an image uint8 [H,W,B]: classes uint8 [H,W], or multi-label bool [C,H,W]."""
    logits = predictor.logits(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])
    return predictor.decide(logits)[0].cpu().numpy()
