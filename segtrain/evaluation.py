"""One pass of a model over whole images: scores, mean loss, pictures. Training and `evaluate` share it."""

from collections.abc import Iterable

import numpy as np
import torch

from segtrain import panels
from segtrain.errors import DataError
from segtrain.metrics import predict


@torch.no_grad()
def evaluate(
    model: torch.nn.Module,
    batches: Iterable,
    scores,
    device: torch.device,
    autocast,
    loss=None,
    names: list[str] | None = None,
    limit: int | None = None,
    bar=None,
) -> float:
    """Fill `scores` from the first `limit` batches (all for None); returns the mean loss per image (NaN without).

    Args:
        batches: of (uint8 images, targets, indices), each image at its own size.
        scores: with update(prediction, target, names) and multilabel; is reset first.
        autocast: a function that returns the autocast context.
        names: the dataset's names, by index.
        bar: called with the number of images done in each batch.
    """
    model.eval()
    scores.reset()
    total, images = torch.zeros((), dtype=torch.float64, device=device), 0
    for number, (batch, target, indices) in enumerate(batches):
        if limit is not None and number >= limit:
            break
        batch, target = batch.to(device, non_blocking=True), target.to(device, non_blocking=True)
        with autocast():
            logits = model(batch)
        if loss is not None:
            total += loss(logits, target).double() * len(batch)
        scores.update(predict(logits, scores.multilabel), target, [names[i] for i in indices] if names else None)
        images += len(batch)
        if bar is not None:
            bar(len(batch))
    if images == 0:
        raise DataError("there is no image to score", "the split, or trainer.val_batches", "add images to the split")
    return float(total / images) if loss is not None else float("nan")


@torch.no_grad()
def draw_examples(model: torch.nn.Module, dataset, indices: list[int], device: torch.device, autocast) -> np.ndarray:
    """uint8 [H, W, 3]: a row of image | truth | prediction for each index into `dataset`."""
    return panels.stacked([draw(model, dataset, index, device, autocast) for index in indices])


@torch.no_grad()
def draw(
    model: torch.nn.Module, dataset, index: int, device: torch.device, autocast, errors: bool = False
) -> np.ndarray:
    """uint8 [H, W, 3]: image | truth | prediction, and with `errors` a map of them (see panels.error_map)."""
    model.eval()
    image, mask = dataset.image(index), dataset.mask(index)
    with autocast():
        logits = model(torch.from_numpy(image.transpose(2, 0, 1).copy())[None].to(device))
    found = predict(logits, dataset.multilabel)[0].cpu().numpy()
    truth = mask.transpose(2, 0, 1) if dataset.multilabel else mask
    shown = [panels.as_rgb(image)]
    shown += [panels.colour_mask(m, dataset.num_classes, dataset.background) for m in (truth, found)]
    if errors:
        shown.append(panels.error_map(truth, found, dataset.ignore_index, dataset.background))
    return panels.side_by_side(shown)
