"""The same sums by Triton kernels, for CUDA: the logits are read once forward, and read and written once backward."""

import torch
import triton
from torch.autograd.function import once_differentiable

from segtrain.losses.sums.function import SumsFunction
from segtrain.losses.sums.kernels import (
    add_partials,
    sigmoid_backward,
    sigmoid_forward,
    softmax_backward,
    softmax_forward,
)

PROGRAMS = 1024  # of a forward pass, about: enough for any device, however many images there are
OPTIONS = {"enable_fp_fusion": True}


def start_a_kernel(device: torch.device) -> None:
    """Compile the smallest of the kernels and start it. Raises what Triton raises where it cannot."""
    partial, sums = torch.zeros(1, 1, 7, 2, device=device), torch.empty(6, 1, 1, device=device)
    present = torch.empty(1, 1, dtype=torch.bool, device=device)
    with torch.cuda.device_of(partial):
        add_partials[(1, 7)](partial, sums, present, 1, 1, 1, CP=2, AT_A_TIME=32, **OPTIONS)


def block_of(classes: int, hard: bool) -> tuple[int, int, int]:
    """CP, B and warps. Of many classes a thread has eight or so, since registers are few; soft labels take more of them."""
    padded = max(2, triton.next_power_of_2(classes))
    if padded > 32:
        return padded, 2048 // padded, 8
    if padded == 32:
        return padded, 128 if hard else 32, 4
    return padded, 256 if padded <= 8 else 128, 4


def _forward(kernel, logits: torch.Tensor, target: torch.Tensor, **constants) -> tuple[torch.Tensor, ...]:
    """The seven sums, each [N,C]."""
    n, classes, height, width = logits.shape
    padded, pixels, warps = block_of(classes, target.ndim == 3)
    blocks = max(1, min(triton.cdiv(height * width, pixels), PROGRAMS // n))
    partial = torch.empty(n, blocks, 7, padded, device=logits.device)
    sums = torch.empty(6, n, classes, device=logits.device)
    present = torch.empty(n, classes, dtype=torch.bool, device=logits.device)
    size = (height * width, width)
    with torch.cuda.device_of(logits):
        kernel[(blocks, n)](
            logits, target, partial, *size, *logits.stride(), *_strides(target), blocks,
            **constants, C=classes, CP=padded, B=pixels, num_warps=warps, **OPTIONS,
        )  # fmt: skip
        add_partials[(n, 7)](partial, sums, present, n, classes, blocks, CP=padded, AT_A_TIME=32, **OPTIONS)
    first, second, P, TP, Y, valid = sums.unbind(0)
    return first, second, P, TP, Y, present, valid


def _backward(kernel, logits: torch.Tensor, target: torch.Tensor, slopes, **constants) -> torch.Tensor:
    """The gradient like `logits`, from those by the first four sums [N,C], which may be None."""
    n, classes, height, width = logits.shape
    padded, pixels, warps = block_of(classes, target.ndim == 3)
    gradient = torch.empty_like(logits)
    size = (height * width, width)
    by = [part for s in slopes for part in ((logits, 0, 0) if s is None else (s, *s.stride()))]
    given = {f"GIVEN_{i}": slope is not None for i, slope in enumerate(slopes, 1)}
    with torch.cuda.device_of(logits):
        kernel[(triton.cdiv(height * width, pixels), n)](  # the first may be large, others 65535
            logits, target, gradient, *size, *logits.stride(), *_strides(target), *gradient.stride(), *by,
            **given, **constants, C=classes, CP=padded, B=pixels, num_warps=warps, **OPTIONS,
        )  # fmt: skip
    return gradient


def _strides(target: torch.Tensor) -> tuple[int, ...]:
    if target.ndim == 4:
        return target.stride()
    n, h, w = target.stride()
    return n, 0, h, w


class SoftmaxSums(SumsFunction):
    @staticmethod
    def forward(logits, target, ignore_index, gamma, smoothing):
        constants = {"IGNORE": ignore_index, "GAMMA": gamma, "SMOOTHING": smoothing, "HARD": target.ndim == 3}
        return _forward(softmax_forward, logits, target, **constants)

    @staticmethod
    @once_differentiable
    def backward(ctx, *slopes):
        (logits, target), (ignore_index, gamma, smoothing) = ctx.saved_tensors, ctx.settings
        constants = {"IGNORE": ignore_index, "GAMMA": gamma, "SMOOTHING": smoothing, "HARD": target.ndim == 3}
        return _backward(softmax_backward, logits, target, slopes[:4], **constants), None, None, None, None


class SigmoidSums(SumsFunction):
    @staticmethod
    def forward(logits, target, ignore_index):
        return _forward(sigmoid_forward, logits, target, IGNORE=ignore_index)

    @staticmethod
    @once_differentiable
    def backward(ctx, *slopes):
        (logits, target), (ignore_index,) = ctx.saved_tensors, ctx.settings
        return _backward(sigmoid_backward, logits, target, slopes[:4], IGNORE=ignore_index), None, None
