"""The logits in pieces that are worked on one after the other, so that no second copy of them is ever made."""

import torch

from segtrain.losses.targets import work_dtype

TILE = 1 << 20  # numbers a tile: 4 MB of float32. Smaller ones fit the cache better, but cost thread starts


def tiles(logits: torch.Tensor, target: torch.Tensor):
    """(image, slice of its pixels, copy of the logits [C,T], spare [C,T], target [T] or [C,T]) over the batch.

    Logits and spare are the same memory in every turn, to be worked in: memory asked for anew in each turn is given
    back by the C library and paged in again, which can cost more than the work.
    """
    c, pixels = logits.shape[1], logits.shape[2] * logits.shape[3]
    step = max(1, TILE // c)
    dtype = work_dtype(logits)
    room = torch.empty(2, c * min(step, pixels), dtype=dtype, device=logits.device)
    for n in range(len(logits)):
        # flat once an image: logits that were cropped from padded ones are copied here
        z, y = logits[n].flatten(1), target[n].flatten(target.ndim - 3)
        for start in range(0, pixels, step):
            part = slice(start, min(start + step, pixels))
            work, spare = room[:, : c * (part.stop - start)].view(2, c, -1)
            yield n, part, work.copy_(z[:, part]), spare, y[..., part]


def without_ignored(y: torch.Tensor, ignored: torch.Tensor, dtype: torch.dtype):
    """Labels, ignored ones set to 0; and 1 for valid, 0 for ignored ones (None: all are valid)."""
    if not ignored.any():
        return y, None
    return y.masked_fill(ignored, 0), (~ignored).to(dtype)  # not in place: y may be a view of the target


def zeros(logits: torch.Tensor, count: int) -> list[torch.Tensor]:
    """`count` sums [N,C] in float64: a float32 sum of millions of pixels would lose digits."""
    return [logits.new_zeros(logits.shape[:2], dtype=torch.float64) for _ in range(count)]


FEW_CLASSES = 4  # up to here a comparison a class is faster than a histogram


def add_by_label(rows: tuple, label: torch.Tensor, values: tuple) -> None:
    """row[label] += value for each row [C] and its values [T]; values of None are 1 everywhere.

    As exact as `pixel_sum`, for TP is compared with P: a histogram in float32, or a dot product, adds one value after the
    other, and a hundred thousand of 0.999 come out 6e-4 too large.
    """
    classes = len(rows[0])
    if classes <= FEW_CLASSES:
        dtype = next(value.dtype for value in values if value is not None)
        labels, mine = label.to(dtype), torch.empty(label.shape, dtype=dtype)
        for c in range(classes):
            torch.eq(labels, c, out=mine)
            for row, value in zip(rows, values, strict=True):
                row[c] += mine.sum() if value is None else (mine * value).sum()
    else:
        for row, value in zip(rows, values, strict=True):
            row += torch.bincount(label, weights=None if value is None else value.double(), minlength=classes)


def pixel_sum(values: torch.Tensor, valid) -> torch.Tensor:
    """[C,T] to [C], over the valid pixels."""
    return (values if valid is None else values * valid).sum(dim=1)
