"""One pass of a model over whole images: scores, mean loss, pictures. Training and `evaluate` share it."""

from collections.abc import Iterable

import numpy as np
import torch

from segtrain.errors import DataError, NotFinite
from segtrain.inference import Predictor
from segtrain.report import pictures as panels


@torch.no_grad()
def evaluate(
    predictor: Predictor,
    batches: Iterable,
    scores,
    loss=None,
    names: list[str] | None = None,
    limit: int | None = None,
    bar=None,
) -> float:
    """Fill `scores` from the first `limit` batches (all for None); returns the mean loss per image (NaN without).

    Args:
        batches: of (uint8 images, targets, indices), each image at its own size.
        scores: a segtrain.metrics.metric.Metric. Is reset first.
        names: the dataset's names, by index.
        bar: called with the number of images done in each batch.

    Raises DataError for no image, NotFinite for logits that are not.
    """
    scores.reset()
    total, images, seen, finite = torch.zeros((), dtype=torch.float64, device=predictor.device), 0, [], []
    for number, (batch, target, indices) in enumerate(batches):
        if limit is not None and number >= limit:
            break
        target = target.to(predictor.device, non_blocking=True)
        logits = predictor.logits(batch)
        finite.append(logits.flatten(1).sum(dim=1, dtype=torch.float32).isfinite())
        seen += indices
        if loss is not None:
            total += loss(logits, target).double() * len(batch)
        wanted = {"logits": logits} if scores.needs_logits else {}
        scores.update(predictor.decide(logits), target, [names[i] for i in indices] if names else None, **wanted)
        images += len(batch)
        if bar is not None:
            bar(len(batch))
    if images == 0:
        raise DataError("there is no image to score", "the split, or trainer.val_batches", "add images to the split")
    if not (good := torch.cat(finite)).all():
        first = seen[int((~good).nonzero()[0])]
        raise NotFinite(
            f"what the network says of {int((~good).sum())} of {images} images is not finite",
            f"the first is {names[first] if names else first}",
            "use trainer.precision=float32, or an earlier checkpoint",
        )
    return float(total / images) if loss is not None else float("nan")


def draw_examples(predictor: Predictor, dataset, indices: list[int]) -> np.ndarray:
    """uint8 [H, W, 3]: a row of image | truth | prediction for each index into `dataset`."""
    return panels.stacked([draw(predictor, dataset, index) for index in indices])


def draw(predictor: Predictor, dataset, index: int, errors: bool = False, label: int | None = None) -> np.ndarray:
    """uint8 [H, W, 3]: image | truth | prediction, and with `errors` a map of them, or of those of one class (see
    panels.error_map)."""
    image, mask = dataset.image(index), dataset.mask(index)
    logits = predictor.logits(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])
    found = predictor.decide(logits)[0].cpu().numpy()
    truth = mask.transpose(2, 0, 1) if dataset.multilabel else mask
    shown = [panels.as_rgb(image)]
    shown += [panels.colour_mask(m, dataset) for m in (truth, found)]
    if errors:
        shown.append(panels.error_map(truth, found, dataset.ignore_index, dataset.background, label))
    return panels.side_by_side(shown)
