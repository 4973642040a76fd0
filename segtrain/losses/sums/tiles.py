"""The logits in pieces that are worked on one after the other, so that no second copy of them is ever made."""

import torch

from segtrain.losses.targets import work_dtype

TILE = 1 << 20  # numbers a tile: 4 MB of float32. Smaller ones fit the cache better, but cost thread starts
CACHE = 1 << 18  # numbers that fit into the cache of a core: small images are worked on together up to here


def tiles(logits: torch.Tensor, target: torch.Tensor):
    """(slice of images, slice of their pixels, logits [n,C,T], room, spare, target [n,T] or [n,C,T]) over the batch.

    Several whole images where they are small, else some pixels of one. Room and spare, [n,C,T], are to be worked in; in room
    may be the logits, where they had to be copied. Both are the same memory in every turn: what is asked for anew in each
    turn is given back by the C library and paged in again, which can cost more than the work.
    """
    c, pixels = logits.shape[1], logits.shape[2] * logits.shape[3]
    step, images = min(pixels, max(1, TILE // c)), max(1, CACHE // (c * pixels))
    memory = torch.empty(2, min(images, len(logits)) * c * step, dtype=work_dtype(logits), device=logits.device)
    for first in range(0, len(logits), images):
        some = slice(first, min(first + images, len(logits)))
        # flat once an image: logits that were cropped from padded ones are copied here
        z, y = logits[some].flatten(2), target[some].flatten(target.ndim - 2)
        for start in range(0, pixels, step):
            part = slice(start, min(start + step, pixels))
            room, spare = memory[:, : len(z) * c * (part.stop - start)].view(2, len(z), c, -1)
            own = z[..., part]
            as_it_is = own.is_contiguous() and own.dtype == room.dtype
            yield some, part, own if as_it_is else room.copy_(own), room, spare, y[..., part]


def without_ignored(y: torch.Tensor, ignored: torch.Tensor, dtype: torch.dtype):
    """Labels, ignored ones set to 0; and 1 for valid, 0 for ignored ones (None: all are valid)."""
    if not ignored.any():
        return y, None
    return y.masked_fill(ignored, 0), (~ignored).to(dtype)  # not in place: y may be a view of the target


def zeros(logits: torch.Tensor, count: int) -> list[torch.Tensor]:
    """`count` sums [N,C] in float64: a float32 sum of millions of pixels would lose digits."""
    return [logits.new_zeros(logits.shape[:2], dtype=torch.float64) for _ in range(count)]


def pixel_sum(values: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """[n,C,T] to [n,C], over the valid pixels."""
    return (values if valid is None else values * valid).sum(dim=2)


FEW_CLASSES = 4  # up to here a comparison with each class is faster than a histogram


def add_by_label(sums: tuple, label: torch.Tensor, values: tuple) -> None:
    """sum[i, label] += value for each sum [n,C] and its values [n,T]; values of None are 1 everywhere.

    As exact as `pixel_sum`, for TP is compared with P: a histogram in float32, or a dot product, adds one value after the
    other, and a hundred thousand of 0.999 come out 6e-4 too large.
    """
    n, classes = sums[0].shape
    if classes <= FEW_CLASSES:
        dtype = next(value.dtype for value in values if value is not None)
        shown, work = (torch.empty(n, classes, label.shape[1], dtype=dtype) for _ in range(2))
        torch.eq(label.to(dtype)[:, None], torch.arange(classes, dtype=dtype)[:, None], out=shown)
        for total, value in zip(sums, values, strict=True):
            total += (shown if value is None else torch.mul(shown, value[:, None], out=work)).sum(dim=2)
    else:
        cells = cells_of(label, classes).flatten()
        for total, value in zip(sums, values, strict=True):
            weights = None if value is None else value.double().flatten()
            total += torch.bincount(cells, weights, minlength=n * classes).view(n, classes)


def by_label(values: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """[n,T]: of [n,C] the value of each label."""
    return values.flatten().index_select(0, cells_of(label, values.shape[1]).flatten()).view(label.shape)


def cells_of(label: torch.Tensor, classes: int) -> torch.Tensor:
    """The place of each label [n,T] in a flat table [n,C]."""
    return label if len(label) == 1 else label + classes * torch.arange(len(label))[:, None]
