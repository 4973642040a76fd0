"""Losses: numbers worked out by hand, reference values, independent oracles, properties, pitfalls of other libraries."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from segtrain.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Dice,
    Focal,
    GeneralizedDice,
    Jaccard,
    PixelRegion,
    Tversky,
)

DATA = Path(__file__).parent / "data"
REFERENCE = json.loads((DATA / "reference.json").read_text())["losses"]
ARRAYS = np.load(DATA / "reference.npz")

SOFTMAX_LOSSES = {
    "ce": CrossEntropy(class_weights=[1.0, 2.0, 0.5], label_smoothing=0.1),
    "focal": Focal(gamma=1.5, class_weights=[1.0, 2.0, 0.5]),
    "jaccard": Jaccard(),
    "dice": Dice(aggregate="image"),
    "dice weighted": Dice(class_weights=[1.0, 3.0, 2.0]),
    "tversky": Tversky(aggregate="class", classes="all"),
    "log jaccard": Jaccard(log=True, classes=[1, 2]),
    "focal tversky": Tversky(gamma=0.75, aggregate="agnostic"),
    "mixed": Dice(aggregate={"batch": 0.3, "image": 0.7}),
    "generalized dice": GeneralizedDice(),
    "ce + dice": PixelRegion(CrossEntropy(), Dice(), alpha=0.7),
    "focal + tversky": PixelRegion(Focal(), Tversky(), alpha=0.5, pixel_weight=0.5),
}
SIGMOID_LOSSES = {
    "bce": BinaryCrossEntropy(class_weights=[1.0, 2.0, 0.5], pos_weight=[3.0, 1.0, 9.0]),
    "dice": Dice(activation="sigmoid"),
    "jaccard": Jaccard(activation="sigmoid", aggregate="image", log=True),
    "bce + dice": PixelRegion(BinaryCrossEntropy(), Dice(activation="sigmoid"), alpha=0.7),
}


def batch(n=2, c=3, h=5, w=4, seed=0, ignored=0.2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, c, h, w, generator=generator, dtype=dtype)
    target = torch.randint(0, c, (n, h, w), generator=generator)
    target[torch.rand(n, h, w, generator=generator) < ignored] = 255
    return logits.requires_grad_(), target


def soft_labels(logits, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(logits.shape, generator=generator, dtype=logits.dtype).softmax(dim=1)


def multilabels(logits, seed=1, ignored=0.2):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, logits.shape, generator=generator)
    return labels.masked_fill(torch.rand(logits.shape, generator=generator) < ignored, 255)


# Worked out by hand: two pixels, p = (0.8, 0.2) with truth 0 and p = (0.4, 0.6) with truth 1.
HAND_LOGITS = torch.tensor([[0.8, 0.4], [0.2, 0.6]], dtype=torch.float64).log().view(1, 2, 1, 2)
HAND_TARGET = torch.tensor([[[0, 1]]])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (CrossEntropy(), -(math.log(0.8) + math.log(0.6)) / 2),
        (CrossEntropy(class_weights=[1.0, 3.0]), -(math.log(0.8) + 3 * math.log(0.6)) / 4),
        (Focal(gamma=2.0), -(0.2**2 * math.log(0.8) + 0.4**2 * math.log(0.6)) / 2),
        # class 0: TP 0.8, P 1.2, Y 1; class 1: TP 0.6, P 0.8, Y 1
        (Jaccard(smooth=1e-9), ((1 - 0.8 / 1.4) + (1 - 0.6 / 1.2)) / 2),
        (Dice(smooth=1e-9), ((1 - 1.6 / 2.2) + (1 - 1.2 / 1.8)) / 2),
        (
            Tversky(smooth=1e-9),
            ((1 - 0.8 / (0.8 + 0.3 * 0.4 + 0.7 * 0.2)) + (1 - 0.6 / (0.6 + 0.3 * 0.2 + 0.7 * 0.4))) / 2,
        ),
        (Dice(smooth=1e-9, classes=[1]), 1 - 1.2 / 1.8),
        (Dice(smooth=1e-9, class_weights=[1.0, 3.0]), ((1 - 1.6 / 2.2) + 3 * (1 - 1.2 / 1.8)) / 4),
        (Dice(smooth=1e-9, aggregate="agnostic"), 1 - 2.8 / 4),
        (Jaccard(smooth=1e-9, log=True), -(math.log(0.8 / 1.4) + math.log(0.6 / 1.2)) / 2),
        (Jaccard(smooth=1e-9, gamma=2.0), ((1 - 0.8 / 1.4) ** 2 + (1 - 0.6 / 1.2) ** 2) / 2),
        (GeneralizedDice(smooth=1e-9), 1 - 2 * 1.4 / 4),
        (
            PixelRegion(CrossEntropy(), Dice(smooth=1e-9, classes=[1]), alpha=0.5, pixel_weight=2.0),
            -(math.log(0.8) + math.log(0.6)) + 0.5 * (1 - 1.2 / 1.8),
        ),
    ],
)
def test_by_hand(loss, expected):
    assert loss(HAND_LOGITS, HAND_TARGET).item() == pytest.approx(expected, rel=1e-7)


def test_binary_cross_entropy_by_hand():
    logits = torch.tensor([0.8, 0.4], dtype=torch.float64).logit().view(1, 1, 1, 2)
    target = torch.tensor([1, 0]).view(1, 1, 1, 2)
    loss = BinaryCrossEntropy(pos_weight=[5.0])
    assert loss(logits, target).item() == pytest.approx(-(5 * math.log(0.8) + math.log(0.6)) / 2)


def reference_loss(entry, ignore_index):
    if entry["loss"] == "ce":
        return CrossEntropy(class_weights=entry["class_weights"], ignore_index=ignore_index)
    return Tversky(
        entry["alpha"],
        entry["beta"],
        aggregate=entry["aggregate"],
        classes=entry["classes"],
        log=entry["form"] == "log",
        gamma=entry["gamma"],
        smooth=entry["smooth"],
        class_weights=entry["class_weights"],
        ignore_index=ignore_index,
    )


@pytest.mark.parametrize("case", REFERENCE, ids=lambda case: f"case {case['case']}")
def test_reference_values_and_gradient_norms(case):
    number = case["case"]
    for entry in (e for e in case["values"] if e["loss"] != "lovasz"):
        logits = torch.tensor(ARRAYS[f"{number}_logits"]).double().requires_grad_()
        target = torch.tensor(ARRAYS[f"{number}_{entry.get('labels', 'hard')}"])
        value = reference_loss(entry, case["ignore_index"])(logits, target)
        value.backward()
        scale = 1.0
        if entry["loss"] != "ce" and entry["class_weights"] is not None:  # the reference does not normalise them
            peak = target.flatten(2).amax(dim=(0, 2)) if target.ndim == 4 else torch.bincount(target.flatten().int())
            there = [c for c, v in enumerate(peak[: logits.shape[1]]) if v > 0.01 or entry["classes"] == "all"]
            scale = len(there) / sum(entry["class_weights"][c] for c in there)
        assert value.item() == pytest.approx(entry["value"] * scale, rel=1e-6), entry
        assert logits.grad.norm().item() == pytest.approx(entry["grad_l2"] * scale, rel=1e-6), entry


@pytest.mark.parametrize("name", ["jaccard", "dice", "tversky"])
def test_the_named_losses_are_tversky_with_their_weights(name):
    logits, target = batch()
    loss, weights = {
        "jaccard": (Jaccard(), (1, 1)),
        "dice": (Dice(), (0.5, 0.5)),
        "tversky": (Tversky(), (0.3, 0.7)),
    }[name]
    assert loss(logits, target) == Tversky(*map(float, weights))(logits, target)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_equals_torch(weights, smoothing):
    logits, target = batch()
    ours = CrossEntropy(class_weights=weights, label_smoothing=smoothing)(logits, target)
    weight = torch.tensor(weights, dtype=torch.float64) if weights else None
    theirs = F.cross_entropy(logits, target, weight=weight, ignore_index=255, label_smoothing=smoothing)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    ours, theirs = (torch.autograd.grad(v, logits)[0] for v in (ours, theirs))
    torch.testing.assert_close(ours, theirs)


def test_binary_cross_entropy_equals_torch():
    logits, _ = batch()
    target = multilabels(logits, ignored=0)
    weight, pos_weight = (torch.tensor(v).double()[:, None, None] for v in ([1.0, 2.0, 0.5], [3.0, 1.0, 9.0]))
    theirs = F.binary_cross_entropy_with_logits(logits, target.double(), weight=weight, pos_weight=pos_weight)
    assert SIGMOID_LOSSES["bce"](logits, target).item() == pytest.approx(theirs.item(), rel=1e-12)


def test_dice_equals_monai():
    from monai.losses import DiceLoss

    logits, target = batch(ignored=0)
    theirs = DiceLoss(softmax=True, to_onehot_y=True, batch=True, smooth_nr=1e-9, smooth_dr=1e-9)
    ours = Dice(classes="all", smooth=1e-10)
    assert ours(logits, target).item() == pytest.approx(theirs(logits, target[:, None]).item(), rel=1e-6)


def test_focal_with_gamma_0_is_cross_entropy_exactly():
    logits, target = batch()
    for weights in (None, [1.0, 2.0, 0.5]):
        focal, ce = Focal(gamma=0.0, class_weights=weights), CrossEntropy(class_weights=weights)
        assert focal(logits, target) == ce(logits, target)
        assert torch.equal(*(torch.autograd.grad(loss(logits, target), logits)[0] for loss in (focal, ce)))


def test_alpha_0_is_the_pixel_loss_bit_for_bit():
    logits, target = batch(n=3, c=4, h=17, w=9, dtype=torch.float32)
    both, ce = PixelRegion(CrossEntropy(), Dice(), alpha=0.0), CrossEntropy()
    assert both(logits, target) == ce(logits, target)
    assert torch.equal(*(torch.autograd.grad(loss(logits, target), logits)[0] for loss in (both, ce)))
    assert set(both.parts) == {"ce", "dice"}


def test_pixel_region_takes_losses_that_share_no_table():
    class Mine(torch.nn.Module):
        def forward(self, logits, target):
            return logits.square().mean()

    logits, target = batch()
    loss = PixelRegion(CrossEntropy(), Mine(), alpha=0.5)
    assert loss(logits, target).item() == pytest.approx(
        (CrossEntropy()(logits, target) + 0.5 * logits.square().mean()).item()
    )


@pytest.mark.parametrize("name", SOFTMAX_LOSSES)
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_gradients(name, labels):
    logits, target = batch()
    target = target if labels == "hard" else soft_labels(logits)
    assert gradcheck(lambda z: SOFTMAX_LOSSES[name](z, target), logits, atol=1e-6)


@pytest.mark.parametrize("name", SIGMOID_LOSSES)
def test_sigmoid_gradients(name):
    logits, _ = batch()
    target = multilabels(logits)
    assert gradcheck(lambda z: SIGMOID_LOSSES[name](z, target), logits, atol=1e-6)


@pytest.mark.parametrize("name", SOFTMAX_LOSSES)
def test_hard_labels_equal_their_one_hot(name):
    logits, target = batch(ignored=0)
    one_hot = F.one_hot(target, 3).permute(0, 3, 1, 2).double()
    loss = SOFTMAX_LOSSES[name]
    assert loss(logits, target).item() == pytest.approx(loss(logits, one_hot).item(), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(sorted(SOFTMAX_LOSSES)))
def test_ignored_pixels_change_nothing(seed, name):
    logits, target = batch(seed=seed)
    loss = SOFTMAX_LOSSES[name]
    before = loss(logits, target)
    gradient = torch.autograd.grad(before, logits)[0]
    changed = torch.where((target == 255)[:, None], 50 * torch.rand_like(logits), logits).detach().requires_grad_()
    after = loss(changed, target)
    assert torch.equal(before, after)
    assert torch.equal(gradient, torch.autograd.grad(after, changed)[0])
    assert gradient[(target == 255)[:, None].expand_as(gradient)].abs().sum() == 0


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    name=st.sampled_from(["ce + dice", "jaccard", "dice", "focal + tversky", "generalized dice"]),
)
def test_permuting_classes_changes_nothing(seed, name):
    logits, target = batch(seed=seed)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    renumbered = torch.where(target == 255, 255, torch.argsort(order)[target.clamp_max(2)])
    loss = SOFTMAX_LOSSES[name]
    assert loss(logits[:, order], renumbered).item() == pytest.approx(loss(logits, target).item(), rel=1e-9)


@pytest.mark.parametrize("name", [n for n in SOFTMAX_LOSSES if n != "ce"])
def test_a_perfect_prediction_has_loss_0_and_a_finite_gradient(name):
    _, target = batch(n=2, h=6, w=6)
    logits = 1000.0 * F.one_hot(target.clamp_max(2), 3).permute(0, 3, 1, 2).double()
    logits.requires_grad_()
    value = SOFTMAX_LOSSES[name](logits, target)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.isfinite().all()


def test_equal_images_make_batch_and_image_equal():
    logits, target = batch(n=1)
    logits, target = logits.repeat(3, 1, 1, 1), target.repeat(3, 1, 1)
    assert Dice(smooth=1e-12)(logits, target).item() == pytest.approx(
        Dice(smooth=1e-12, aggregate="image")(logits, target).item()
    )


@pytest.mark.parametrize("name", SOFTMAX_LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_at_512(name, dtype):
    logits, target = batch(n=1, h=512, w=512, dtype=torch.float32)
    half = logits.detach().to(dtype).requires_grad_()
    value = SOFTMAX_LOSSES[name](half, target)
    value.backward()
    exact = SOFTMAX_LOSSES[name](logits, target)
    assert value.item() == pytest.approx(exact.item(), rel=1e-2)
    assert half.grad.isfinite().all()
    assert half.grad.abs().sum() > 0


EDGE_TARGETS = {
    "all ignored": torch.full((2, 4, 4), 255),
    "single class": torch.zeros(2, 4, 4, dtype=torch.long),
    "one pixel": torch.full((2, 4, 4), 255).index_put(
        (torch.tensor(0), torch.tensor(1), torch.tensor(1)), torch.tensor(2)
    ),
}


@pytest.mark.parametrize("edge", EDGE_TARGETS)
@pytest.mark.parametrize("name", SOFTMAX_LOSSES)
def test_edge_batches_are_finite_and_connected(name, edge):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = SOFTMAX_LOSSES[name](logits, EDGE_TARGETS[edge])
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    if edge == "all ignored":
        assert value == 0
        assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize("name", SIGMOID_LOSSES)
def test_multilabel_all_ignored_or_empty(name):
    for value in (255, 0):
        logits = torch.randn(2, 3, 4, 4, requires_grad=True)
        loss = SIGMOID_LOSSES[name](logits, torch.full((2, 3, 4, 4), value))
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


def test_classes_of_weight_0_only():
    logits, _ = batch()
    value = CrossEntropy(class_weights=[0.0, 1.0, 1.0])(logits, torch.zeros(2, 5, 4, dtype=torch.long))
    assert value == 0  # torch gives nan


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_integer_targets_of_any_width(dtype):
    logits, target = batch()
    assert SOFTMAX_LOSSES["ce + dice"](logits, target.to(dtype)) == SOFTMAX_LOSSES["ce + dice"](logits, target)


def test_labels_that_are_no_class_are_named():
    logits, target = batch(ignored=0)
    target[1, :2, 0] = 7
    with pytest.raises(
        ValueError,
        match="label 7 is no class of 0 to 2 and not ignore_index=255: 2 pixels, the first in image 1",
    ):
        CrossEntropy()(logits, target)


def test_shapes_and_arguments_are_checked():
    logits, _ = batch()
    with pytest.raises(ValueError, match=r"target must be integer \[2,5,4\] or \[N,C,H,W\]"):
        CrossEntropy()(logits, torch.zeros(2, 4, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="a sigmoid loss needs a target"):
        BinaryCrossEntropy()(logits, torch.zeros(2, 5, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="label 3.0 is not from 0 to 1"):
        BinaryCrossEntropy()(logits, torch.full(logits.shape, 3.0))
    with pytest.raises(ValueError, match="2 class weights for 3 classes"):
        CrossEntropy(class_weights=[1.0, 2.0])(*batch())
    with pytest.raises(ValueError, match=r"Dice: aggregate='bach' must be .*batch"):
        Dice(aggregate="bach")
    with pytest.raises(ValueError, match=r"aggregate: 'imag' is none of .*did you mean 'image'"):
        Dice(aggregate={"imag": 1.0})
    with pytest.raises(ValueError, match=r"classes=\[5\], but there are 3 classes"):
        Dice(classes=[5])(*batch())
    with pytest.raises(ValueError, match="alpha=-1 must be a number >= 0"):
        PixelRegion(CrossEntropy(), Dice(), alpha=-1)
    with pytest.raises(ValueError, match="one loss is for softmax, the other for sigmoid"):
        PixelRegion(CrossEntropy(), Dice(activation="sigmoid"))


@pytest.mark.parametrize("name", SOFTMAX_LOSSES)
def test_two_runs_are_bit_equal(name):
    logits, target = batch(n=2, h=64, w=64, dtype=torch.float32)
    runs = [torch.autograd.grad(SOFTMAX_LOSSES[name](logits, target), logits)[0] for _ in range(2)]
    assert torch.equal(*runs)


def test_channels_last_logits_give_the_same():
    logits, target = batch(n=2, h=33, w=21, dtype=torch.float32)
    last = logits.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    loss = SOFTMAX_LOSSES["ce + dice"]
    loss(logits, target).backward()
    loss(last, target).backward()
    torch.testing.assert_close(last.grad, logits.grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", SOFTMAX_LOSSES)
def test_torch_func_grad(name):
    logits, target = batch()
    expected = torch.autograd.grad(SOFTMAX_LOSSES[name](logits, target), logits)[0]
    found = torch.func.grad(lambda z: SOFTMAX_LOSSES[name](z, target))(logits.detach())
    torch.testing.assert_close(found, expected)


def test_loss_parts_are_detached_terms():
    logits, target = batch()
    loss = SOFTMAX_LOSSES["ce + dice"]
    value = loss(logits, target)
    assert loss.parts.keys() == {"ce", "dice"}
    assert not any(part.requires_grad for part in loss.parts.values())
    assert value.item() == pytest.approx((loss.parts["ce"] + 0.7 * loss.parts["dice"]).item())
