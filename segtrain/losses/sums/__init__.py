"""Sums per image and class from which every loss is computed, with their gradient, in two passes over the logits.

A loss here is a function of [N,C] sums; autograd carries dL/dsums into `backward`, which adds every part up
in one more softmax. With a_c = dL/dP_c, b_c = dL/dTP_c and k = dL/dpixel_y, a pixel of class y gets
    dz_c = p_c (a_c - S + k), and at c = y also p_y b_y - k, where S = sum_c a_c p_c + b_y p_y.
On the CPU no one-hot and no copy of the logits is made: the work is done in tiles that stay in the cache (`tiles`), and
the softmax is computed again in backward, which costs less than writing it out and reading it back. On CUDA that is done
by kernels of our own (`triton`), or, without Triton, over the whole batch in plain PyTorch (`dense`). These do not wait
for the device, so labels that are no class are not named there: they make Y NaN, and with it the loss.
"""

import logging
import math
import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch

from segtrain.losses.sums import dense
from segtrain.losses.sums.hard import HardSums
from segtrain.losses.sums.sigmoid import SigmoidSums
from segtrain.losses.sums.soft import SoftSums
from segtrain.losses.targets import check_labels, check_shares, is_hard

log = logging.getLogger("segtrain")


@dataclass(frozen=True)
class Needs:
    """What a loss needs of the sums besides P, TP and Y.

    Attributes:
        pixel: the sums of a pixel loss.
        focal_gamma: the exponent of (1 - p) in it.
        smoothing: the sum of -ln p over all classes.
    """

    pixel: bool = False
    focal_gamma: float = 0.0
    smoothing: bool = False

    def merged(self, other: "Needs") -> "Needs":
        """What two losses need, of which one at most is a pixel loss."""
        gamma, smoothing = max(self.focal_gamma, other.focal_gamma), self.smoothing or other.smoothing
        return Needs(self.pixel or other.pixel, gamma, smoothing)


@dataclass(frozen=True)
class Sums:
    """Sums over the valid pixels of each image, all [N,C].

    Attributes:
        pixel: softmax: sum over pixels of class c of (1 - p)^gamma (-ln p). Soft labels: of each class's share.
        uniform: sum of -ln p_c over all valid pixels, for label smoothing (zeros or None unless needed).
        positive, negative: sigmoid: sums of y softplus(-z) and of (1 - y) softplus(z).
        P, TP, Y: sums of p, of min(p, y) and of y.
        present: bool, whether the class has a valid pixel of ground truth (soft labels: one above 0.01).
        valid: number of valid pixels.
    """

    P: torch.Tensor
    TP: torch.Tensor
    Y: torch.Tensor
    present: torch.Tensor
    valid: torch.Tensor
    pixel: torch.Tensor | None = None
    uniform: torch.Tensor | None = None
    positive: torch.Tensor | None = None
    negative: torch.Tensor | None = None

    @property
    def given(self) -> dict[str, torch.Tensor]:
        """Those that are not None, by name."""
        return {name: column for name, column in vars(self).items() if column is not None}


def joined(batches: list[Sums]) -> Sums:
    """The sums of several batches as one, in float64."""
    columns = {name: torch.cat([vars(sums)[name] for sums in batches]) for name in batches[0].given}
    return Sums(**{name: c if c.dtype == torch.bool else c.double() for name, c in columns.items()})


FORMS = ("tiles", "dense", "triton")


def form(logits: torch.Tensor) -> str:
    """How sums are computed, one of FORMS: what the environment variable SEGTRAIN_SUMS says, or by device.

    tiles on the CPU; on CUDA triton where it runs and has kernels for the logits, else dense.
    """
    if chosen := os.environ.get("SEGTRAIN_SUMS"):
        if chosen not in FORMS:
            raise ValueError(f"SEGTRAIN_SUMS={chosen} is not one of {', '.join(FORMS)}")
        return chosen
    if logits.device.type != "cuda":
        return "tiles" if logits.device.type == "cpu" else "dense"
    has_kernels = logits.dtype != torch.float64 and logits.shape[1] <= 256
    return "triton" if has_kernels and _triton_runs(logits.device) else "dense"


@cache
def _triton_runs(device: torch.device) -> bool:
    """Whether Triton is installed and a kernel of it starts: that takes a C compiler, Python's headers, a GPU it knows."""
    if find_spec("triton") is None:
        return False
    from segtrain.losses.sums.triton import start_a_kernel

    try:
        start_a_kernel(device)
    except Exception as error:  # of the compiler, the driver, the disk: whatever it is, PyTorch does without
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        log.warning(
            f"Triton cannot start its kernels: the losses run without, which is slower ({cause}). It needs a C compiler and "
            "Python's headers (gcc, python3-dev), and a folder to write to (TRITON_CACHE_DIR)"
        )
        return False
    return True


@torch.compiler.disable
def has_kernels(sums: torch.Tensor) -> bool:
    """Whether the kernels of `means` take sums [N,C]."""
    return sums.dtype == torch.float32 and form(sums) == "triton"


def _by_rows(logits: torch.Tensor) -> torch.Tensor:
    """Logits whose pixels follow each other by rows, as tiles are cut from them; a transposed image is copied."""
    return logits.contiguous() if logits.stride(-2) < logits.stride(-1) else logits


@torch.compiler.disable
def softmax_sums(logits: torch.Tensor, target: torch.Tensor, ignore_index: int, needs: Needs) -> Sums:
    """Sums for class indices [N,H,W], or for soft labels [N,C,H,W].

    Soft: pixels with a negative value are ignored, and with ignore_index, unless that is 0 or 1.
    """
    hard, how = is_hard(logits, target), form(logits)
    if how == "triton":
        from segtrain.losses.sums import triton

        sums = triton.SoftmaxSums.apply
    elif how == "dense":
        sums = dense.hard_sums if hard else dense.soft_sums
    elif hard:
        ignore_index = ignore_index if check_labels(target, logits.shape[1], ignore_index) else None
        logits, sums = _by_rows(logits), HardSums.apply
    else:
        check_shares(target, ignore_index, "soft label", lowest=-math.inf)  # below 0: ignored
        logits, sums = _by_rows(logits), SoftSums.apply
    pixel, uniform, P, TP, Y, present, valid, *_ = sums(
        logits, target, ignore_index, needs.focal_gamma, needs.smoothing
    )
    return Sums(P, TP, Y, present, valid, pixel=pixel, uniform=uniform)


@torch.compiler.disable
def sigmoid_sums(logits: torch.Tensor, target: torch.Tensor, ignore_index: int) -> Sums:
    """Sums for labels [N,C,H,W] from 0 to 1, each channel on its own; values of ignore_index are ignored."""
    if is_hard(logits, target):
        raise ValueError(f"a sigmoid loss needs a target [N,C,H,W] like the logits, but it is {list(target.shape)}")
    how = form(logits)
    if how == "triton":
        from segtrain.losses.sums import triton

        sums = triton.SigmoidSums.apply
    elif how == "dense":
        sums = dense.sigmoid_sums
    else:
        check_shares(target, ignore_index, "label")
        logits, sums = _by_rows(logits), SigmoidSums.apply
    positive, negative, P, TP, Y, present, valid, *_ = sums(logits, target, ignore_index)
    return Sums(P, TP, Y, present, valid, positive=positive, negative=negative)
