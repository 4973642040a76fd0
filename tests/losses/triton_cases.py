"""Prints as JSON what the Triton kernels give in Triton's interpreter, against float64 PyTorch. Run by test_triton.py.

A process of its own, since TRITON_INTERPRET=1 must be set before triton is imported. Keys are "loss, labels, dtype, layout":
errors of the loss and, relative to the largest, of the gradient, and whether a second call gave the same bits. With the
word `all`, every loss is run with every kind of labels, dtype and layout; else most with one, since no loss sees the
logits but through the sums.
"""

import itertools
import json
import os
import sys
import warnings
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from kernel_count import KernelCount
from test_losses import SIGMOID_LOSSES, SOFTMAX_LOSSES
from triton.runtime import interpreter

from segtrain.losses import BinaryCrossEntropy, CrossEntropy, Dice, Focal, Jaccard, Lovasz, PixelRegion, Tversky
from segtrain.losses.sums import triton as kernels

warnings.filterwarnings("ignore", category=RuntimeWarning)  # of NumPy, for values that are left out afterwards

LOSSES = {name: loss for name, loss in SOFTMAX_LOSSES.items() if not isinstance(loss, Lovasz)}
LOSSES |= {
    "focal 0.5": Focal(gamma=0.5),
    "focal 2": Focal(),
    "log tversky 1.5": Tversky(log=True, gamma=1.5, class_weights=[1.0, 0.0, 2.0]),
    "all": PixelRegion(CrossEntropy(label_smoothing=0.2), Jaccard(classes="all"), alpha=0.3),
}
SEVERAL = {name: loss for name, loss in SIGMOID_LOSSES.items() if not isinstance(loss, Lovasz)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = ("NCHW", "channels_last", "cropped")
SUMS = (("all", "hard"), ("focal + tversky", "soft"), ("bce + dice", "sigmoid"))  # every part of the kernels of sums


def logits_of(dtype, layout, classes=3, seed=0, height=5, width=7):
    z = 3 * torch.randn(2, classes, height, width, generator=torch.Generator().manual_seed(seed))
    z = z.to(dtype)
    if layout == "cropped":  # as the network gives them when it has cut off its padding
        return torch.nn.functional.pad(z, (0, 3, 0, 2))[..., :height, :width]
    return z.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else z


def target_of(labels, logits, seed=1):
    generator = torch.Generator().manual_seed(seed)
    n, classes, *size = logits.shape
    ignored = torch.rand(n, *size, generator=generator) < 0.2
    if labels == "hard":
        return torch.randint(0, classes, (n, *size), generator=generator).masked_fill(ignored, 255).to(torch.uint8)
    if labels == "soft":
        return torch.randn(n, classes, *size, generator=generator).softmax(dim=1).masked_fill(ignored[:, None], -1)
    target = torch.rand(n, classes, *size, generator=generator).round(decimals=1)
    return target.masked_fill(torch.rand(target.shape, generator=generator) < 0.2, 255)


def run(loss, logits, target, how):
    os.environ["SEGTRAIN_SUMS"] = how
    whole = logits.detach().requires_grad_()
    value = loss(whole, target)
    return value.detach(), *torch.autograd.grad(value, whole)


def errors(loss, logits, target) -> list:
    first, second = (run(loss, logits, target, "triton") for _ in range(2))
    value, gradient = run(loss, logits.double(), target, "dense")
    of_gradient = (first[1].double() - gradient).abs().max() / gradient.abs().max()
    return [
        float((first[0] - value).abs() / value.abs()),
        float(of_gradient),
        all(map(torch.equal, first, second)),
    ]


def launches(loss, images) -> list[int]:
    """Triton's kernels, PyTorch's, and waits of a forward and backward pass."""
    run_grid, count = interpreter.GridExecutor.__call__, [0]

    def counted(self, *args, **kwargs):
        count[0] += 1
        with torch.utils._python_dispatch._disable_current_modes():
            return run_grid(self, *args, **kwargs)

    interpreter.GridExecutor.__call__ = counted
    os.environ["SEGTRAIN_SUMS"] = "triton"
    z = torch.randn(images, 3, 5, 5, requires_grad=True)
    target = torch.zeros((images, 5, 5) if loss.activation == "softmax" else (images, 3, 5, 5), dtype=torch.uint8)
    with KernelCount() as torch_count:
        loss(z, target).backward()
    interpreter.GridExecutor.__call__ = run_grid
    return [count[0], torch_count.kernels, torch_count.waits]


def main(every: bool) -> None:
    found = {}
    kernels.start_a_kernel(torch.device("cpu"))
    block_of = kernels.block_of
    kernels.block_of = lambda *what: (block_of(*what)[0], 16, 1)  # so that a small image is several blocks
    cases = [(name, labels, loss) for name, loss in LOSSES.items() for labels in ("hard", "soft")]
    cases += [(name, "sigmoid", loss) for name, loss in SEVERAL.items()]
    for dtype, layout in itertools.product(DTYPES, LAYOUTS):
        for name, labels, loss in cases:
            of_sums = (name, labels) in SUMS and (dtype, layout) in zip(DTYPES, LAYOUTS[::-1], strict=True)
            if every or of_sums or (labels != "soft" and (dtype, layout) == ("float32", "NCHW")):
                logits = logits_of(DTYPES[dtype], layout)
                found[f"{name}, {labels}, {dtype}, {layout}"] = errors(loss, logits, target_of(labels, logits))
    kernels.block_of = block_of
    for classes in (2, 19, 256):
        logits = logits_of(torch.float32, "NCHW", classes)
        loss = PixelRegion(CrossEntropy(), Dice())
        found[f"{classes} classes"] = errors(loss, logits, target_of("hard", logits))
    ce_dice = PixelRegion(CrossEntropy(), Dice(), alpha=0.5)
    both = PixelRegion(BinaryCrossEntropy(), Dice(activation="sigmoid"))
    counts = {f"ce_dice {n}": launches(ce_dice, n) for n in (2, 16)} | {"bce_dice 2": launches(both, 2)}
    wrong = {}
    for labels, loss in {"hard": ce_dice, "soft": ce_dice, "sigmoid": both}.items():
        target = target_of(labels, logits_of(torch.float32, "NCHW"))
        target[(1, *[0] * (target.ndim - 1))] = 77
        wrong[labels] = bool(run(loss, logits_of(torch.float32, "NCHW"), target, "triton")[0].isnan())
    print(json.dumps({"errors": found, "launches": counts, "wrong labels are NaN": wrong}))


if __name__ == "__main__":
    main(every="all" in sys.argv)
