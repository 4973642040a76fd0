"""Target formats and label validation."""

import torch

IGNORED = -1.0  # in soft labels; ignore_index does as well, unless it is 0 or 1, which are shares of a class


def is_ignored(soft: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """bool like soft labels [N,C,H,W]: values that are no share of a class but the mark of an ignored pixel."""
    return (soft < 0) | (soft == ignore_index) if ignore_index > 1 else soft < 0


def is_hard(logits: torch.Tensor, target: torch.Tensor) -> bool:
    """True for class indices [N,H,W]; False for one value per class and pixel, [N,C,H,W].

    Raises ValueError when the target has neither shape.
    """
    n, _, h, w = logits.shape
    if target.shape == (n, h, w) and not target.is_floating_point():
        return True
    if target.shape == logits.shape:
        return False
    raise ValueError(
        f"target must be integer [{n},{h},{w}] or [N,C,H,W] like the logits {list(logits.shape)}, "
        f"but it is {target.dtype} {list(target.shape)}"
    )


def check_labels(target: torch.Tensor, num_classes: int, ignore_index: int) -> bool:
    """Whether pixels may be ignored: False when every label is known to count.

    Raises ValueError that names value, count and image for labels that are no class and not ignore_index.
    """
    if not target.numel():
        return True
    low, high = (int(v) for v in target.aminmax())
    if low >= 0 and high < num_classes:
        return ignore_index < num_classes
    wrong = ((target < 0) | (target >= num_classes)) & (target != ignore_index)
    count = int(wrong.sum())
    if count:
        image = int(wrong.flatten(1).any(dim=1).nonzero()[0])
        values = sorted(target[wrong].unique().tolist())[:5]
        raise ValueError(
            f"label {', '.join(map(str, values))} is not a class from 0 to {num_classes - 1} and not "
            f"ignore_index={ignore_index}: {count} pixels, the first in image {image} of the batch"
        )
    return True


def check_shares(target: torch.Tensor, ignore_index: int, what: str, lowest: float = 0.0) -> None:
    """Raise ValueError for labels, called `what`, that are not from `lowest` to 1 and not ignore_index, and for NaN."""
    low, high = target.aminmax()
    if low >= lowest and high <= 1:
        return
    wrong = ~((target >= lowest) & (target <= 1)) & (target != ignore_index)
    if wrong.any():
        image = int(wrong.flatten(1).any(dim=1).nonzero()[0])
        raise ValueError(
            f"{what} {target[wrong][0].item()} is not from 0 to 1 and not ignore_index={ignore_index}: "
            f"{int(wrong.sum())} values, the first in image {image} of the batch"
        )


def work_dtype(logits: torch.Tensor) -> torch.dtype:
    """float64 for float64 logits, else float32, whatever autocast does."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
