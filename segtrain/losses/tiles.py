"""The logits in pieces that are worked on one after the other, so that no second copy of them is ever made."""

import torch

from segtrain.losses.targets import work_dtype

CPU_TILE = 1 << 19  # numbers a tile: 2 MB of float32. Smaller ones fit the cache, but cost thread starts
GPU_TILE = 1 << 27


def tiles(logits: torch.Tensor, target: torch.Tensor):
    """(image, slice of its pixels, logits [C,T], target [T] or [C,T]) over the batch."""
    c, pixels = logits.shape[1], logits.shape[2] * logits.shape[3]
    step = max(1, (CPU_TILE if logits.device.type == "cpu" else GPU_TILE) // c)
    dtype = work_dtype(logits)
    for n in range(len(logits)):
        # flat once an image: logits that were cropped from padded ones are copied here
        z, y = logits[n].flatten(1), target[n].flatten(target.ndim - 3)
        for start in range(0, pixels, step):
            part = slice(start, start + step)
            yield n, part, z[:, part].to(dtype), y[..., part]


def zeros(logits: torch.Tensor, count: int) -> list[torch.Tensor]:
    """`count` tables [N,C] in float64: a float32 sum of millions of pixels would lose digits."""
    return [logits.new_zeros(logits.shape[:2], dtype=torch.float64) for _ in range(count)]


def add_by_label(row: torch.Tensor, label: torch.Tensor, value: torch.Tensor) -> None:
    """row[label] += value. index_put is deterministic on CUDA, where scatter_add is not."""
    if row.device.type == "cpu":
        row += torch.bincount(label, weights=value, minlength=len(row))
    else:
        row.index_put_((label,), value.to(row.dtype), accumulate=True)


def pixel_sum(values: torch.Tensor, valid) -> torch.Tensor:
    """[C,T] to [C], over the valid pixels."""
    return values.sum(dim=1) if valid is None else values @ valid
