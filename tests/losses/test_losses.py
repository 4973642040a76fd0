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
from torch import nn
from torch.autograd import gradcheck

from segtrain.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Dice,
    Focal,
    GeneralizedDice,
    Jaccard,
    Lovasz,
    Phased,
    PixelRegion,
    Tversky,
    as_loss,
)
from segtrain.losses.distillation import Distillation
from segtrain.losses.loss import Loss

DATA = Path(__file__).parents[1] / "reference"
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
HARD_LOSSES = SOFTMAX_LOSSES | {
    "lovasz": Lovasz(),
    "lovasz image": Lovasz(aggregate="image", classes="all"),
    "ce + lovasz": PixelRegion(CrossEntropy(), Lovasz(classes=[1, 2]), alpha=0.5),
}
SIGMOID_LOSSES = {
    "bce": BinaryCrossEntropy(class_weights=[1.0, 2.0, 0.5], pos_weight=[3.0, 1.0, 9.0]),
    "dice": Dice(activation="sigmoid"),
    "jaccard": Jaccard(activation="sigmoid", aggregate="image", log=True),
    "bce + dice": PixelRegion(BinaryCrossEntropy(), Dice(activation="sigmoid"), alpha=0.7),
    "lovasz hinge": Lovasz(activation="sigmoid"),
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
        (Dice(smooth=1e-9, aggregate="agnostic", classes=[1]), 1 - 1.2 / 1.8),
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


@pytest.mark.parametrize("size", [8, 64, 256])
def test_generalized_dice_of_a_wrong_prediction_is_1_at_any_size(size):
    target = torch.arange(size).remainder(2).expand(1, size, size)
    wrong = 20 * torch.stack([target, 1 - target], dim=1).double()
    assert GeneralizedDice()(wrong, target).item() == pytest.approx(1, abs=1e-4)


def test_a_plain_loss_may_have_a_teacher():
    logits, target = torch.randn(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    loss = Distillation(torch.nn.CrossEntropyLoss(), label_share=1.0)
    expected = torch.nn.functional.cross_entropy(logits, target)
    assert loss(logits, (target, logits)).item() == pytest.approx(expected.item(), rel=1e-6)


def test_binary_cross_entropy_by_hand():
    logits = torch.tensor([0.8, 0.4], dtype=torch.float64).logit().view(1, 1, 1, 2)
    target = torch.tensor([1, 0]).view(1, 1, 1, 2)
    loss = BinaryCrossEntropy(pos_weight=[5.0])
    assert loss(logits, target).item() == pytest.approx(-(5 * math.log(0.8) + math.log(0.6)) / 2)


def reference_loss(entry, ignore_index):
    if entry["loss"] == "lovasz":
        return Lovasz(aggregate=entry["aggregate"], classes=entry["classes"], ignore_index=ignore_index)
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
    for entry in case["values"]:
        exact = entry["loss"] != "lovasz"  # whose reference is in float32
        logits = torch.tensor(ARRAYS[f"{number}_logits"]).to(torch.float64 if exact else torch.float32).requires_grad_()
        target = torch.tensor(ARRAYS[f"{number}_{entry.get('labels', 'hard')}"])
        value = reference_loss(entry, case["ignore_index"])(logits, target)
        value.backward()
        scale = 1.0
        if entry.get("class_weights") is not None and entry["loss"] != "ce":  # the reference does not normalise them
            peak = target.flatten(2).amax(dim=(0, 2)) if target.ndim == 4 else torch.bincount(target.flatten().int())
            there = [c for c, v in enumerate(peak[: logits.shape[1]]) if v > 0.01 or entry["classes"] == "all"]
            scale = len(there) / sum(entry["class_weights"][c] for c in there)
        rel = 1e-6 if exact else 1e-5
        assert value.item() == pytest.approx(entry["value"] * scale, rel=rel), entry
        assert logits.grad.norm().item() == pytest.approx(entry["grad_l2"] * scale, rel=rel), entry


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


@pytest.mark.parametrize("name", HARD_LOSSES)
def test_gradients(name):
    logits, target = batch()
    assert gradcheck(lambda z: HARD_LOSSES[name](z, target), logits, atol=1e-6)


@pytest.mark.parametrize("name", SOFTMAX_LOSSES)
def test_gradients_with_soft_labels(name):
    logits, _ = batch()
    target = soft_labels(logits)
    assert gradcheck(lambda z: SOFTMAX_LOSSES[name](z, target), logits, atol=1e-6)


AGGREGATES = ["batch", "image", "class", "agnostic", {"batch": 0.5, "image": 0.5}]


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", AGGREGATES, ids=str)
@pytest.mark.parametrize("classes", ["present", "all", [0, 2]], ids=str)
@pytest.mark.parametrize("form", [{}, {"log": True}, {"gamma": 1.5}, {"class_weights": [1.0, 0.0, 2.0]}], ids=str)
def test_region_gradients(aggregate, classes, form):
    if aggregate == "agnostic" and "class_weights" in form:
        pytest.skip("refused: they would have no effect")
    logits, target = batch()
    loss = Tversky(aggregate=aggregate, classes=classes, **form)
    for labels in (target, soft_labels(logits)):
        assert gradcheck(lambda z, labels=labels: loss(z, labels), logits, atol=1e-6)


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
@given(seed=st.integers(0, 10_000), name=st.sampled_from(sorted(HARD_LOSSES)))
def test_ignored_pixels_change_nothing(seed, name):
    logits, target = batch(seed=seed)
    loss = HARD_LOSSES[name]
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


@pytest.mark.parametrize("name", [n for n in HARD_LOSSES if n != "ce"])
def test_a_perfect_prediction_has_loss_0_and_a_finite_gradient(name):
    _, target = batch(n=2, h=6, w=6)
    logits = 1000.0 * F.one_hot(target.clamp_max(2), 3).permute(0, 3, 1, 2).double()
    logits.requires_grad_()
    value = HARD_LOSSES[name](logits, target)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.isfinite().all()


def test_equal_images_make_batch_and_image_equal():
    logits, target = batch(n=1)
    logits, target = logits.repeat(3, 1, 1, 1), target.repeat(3, 1, 1)
    assert Dice(smooth=1e-12)(logits, target).item() == pytest.approx(
        Dice(smooth=1e-12, aggregate="image")(logits, target).item()
    )


@pytest.mark.parametrize("name", HARD_LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_at_512(name, dtype):
    logits, target = batch(n=1, h=512, w=512, dtype=torch.float32)
    half = logits.detach().to(dtype).requires_grad_()
    value = HARD_LOSSES[name](half, target)
    value.backward()
    exact = HARD_LOSSES[name](logits, target)
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
@pytest.mark.parametrize("name", HARD_LOSSES)
def test_edge_batches_are_finite_and_connected(name, edge):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = HARD_LOSSES[name](logits, EDGE_TARGETS[edge])
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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [*HARD_LOSSES, *SIGMOID_LOSSES])
def test_a_logit_that_is_not_finite_makes_the_loss_nan(name, value):
    labels = torch.randint(0, 3, (2, 4, 4))
    logits = torch.randn(2, 3, 4, 4)
    logits[1, :, 2, 2] = value
    if name in HARD_LOSSES:
        assert not HARD_LOSSES[name](logits, labels).isfinite()
    else:
        assert not SIGMOID_LOSSES[name](logits, torch.nn.functional.one_hot(labels).movedim(-1, 1)).isfinite()


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
        match="label 7 is not a class from 0 to 2 and not ignore_index=255: 2 pixels, the first in image 1",
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
    with pytest.raises(ValueError, match=r"aggregate: 'imag' is not one of .*did you mean 'image'"):
        Dice(aggregate={"imag": 1.0})
    with pytest.raises(ValueError, match=r"classes=\[5\], but there are 3 classes"):
        Dice(classes=[5])(*batch())
    with pytest.raises(ValueError, match="alpha=-1 must be a number >= 0"):
        PixelRegion(CrossEntropy(), Dice(), alpha=-1)
    with pytest.raises(ValueError, match="PixelRegion: the losses differ in activation: sigmoid, softmax"):
        PixelRegion(CrossEntropy(), Dice(activation="sigmoid"))


@pytest.mark.parametrize("ignored", [0, 5])
@pytest.mark.parametrize("classes", [2, 4, 7, 19])
def test_a_large_confident_area_keeps_its_digits(classes, ignored):
    """True positives are added as exactly as what was predicted: their difference is all that is left of the loss."""
    target = torch.zeros(1, 400, 400, dtype=torch.long)
    target[:, :ignored] = 255
    logits = 0.05 * torch.randn(1, classes, 400, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits[:, 0] += math.log(0.999 / 0.001 * (classes - 1))
    for loss in (Dice(), Jaccard(), Tversky(gamma=0.75)):
        assert loss(logits.float(), target).item() == pytest.approx(loss(logits, target).item(), rel=1e-3)


@pytest.mark.parametrize("name", HARD_LOSSES)
def test_two_runs_are_bit_equal(name):
    logits, target = batch(n=2, h=64, w=64, dtype=torch.float32)
    runs = [torch.autograd.grad(HARD_LOSSES[name](logits, target), logits)[0] for _ in range(2)]
    assert torch.equal(*runs)


def test_channels_last_logits_give_the_same():
    logits, target = batch(n=2, h=33, w=21, dtype=torch.float32)
    last = logits.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    loss = SOFTMAX_LOSSES["ce + dice"]
    loss(logits, target).backward()
    loss(last, target).backward()
    torch.testing.assert_close(last.grad, logits.grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", ["ce + dice", "lovasz"])
def test_logits_cut_out_of_larger_ones_give_the_same(name):
    """As the model gives them after it has cut its padding off."""
    logits, target = batch(n=2, h=33, w=21)
    padded = F.pad(logits.detach(), (0, 11, 0, 31)).requires_grad_()
    HARD_LOSSES[name](padded[..., :33, :21], target).backward()
    HARD_LOSSES[name](logits, target).backward()
    assert torch.equal(padded.grad[..., :33, :21], logits.grad)


@pytest.mark.parametrize("name", HARD_LOSSES)
def test_torch_func_grad(name):
    logits, target = batch()
    expected = torch.autograd.grad(HARD_LOSSES[name](logits, target), logits)[0]
    found = torch.func.grad(lambda z: HARD_LOSSES[name](z, target))(logits.detach())
    torch.testing.assert_close(found, expected)


def test_loss_parts_are_detached_terms():
    logits, target = batch()
    loss = SOFTMAX_LOSSES["ce + dice"]
    value = loss(logits, target)
    assert loss.parts.keys() == {"ce", "dice"}
    assert not any(part.requires_grad for part in loss.parts.values())
    assert value.item() == pytest.approx((loss.parts["ce"] + 0.7 * loss.parts["dice"]).item())


def lovasz_by_definition(logits, target, classes):
    """Berman et al., written down: sort, accumulate, multiply."""
    losses = []
    valid = target != 255
    for k in classes:
        p = logits.softmax(dim=1)[:, k][valid]
        truth = (target[valid] == k).double()
        errors, order = (truth - p).abs().sort(descending=True)
        truth = truth[order]
        jaccard = 1 - (truth.sum() - truth.cumsum(0)) / (truth.sum() + (1 - truth).cumsum(0))
        losses.append(errors @ torch.diff(jaccard, prepend=torch.zeros(1, dtype=torch.float64)))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(5))
def test_lovasz_equals_its_definition(seed, dtype):
    logits, target = batch(n=2, h=9, w=7, seed=seed)
    expected = lovasz_by_definition(logits, target, range(3))
    gradient = torch.autograd.grad(expected, logits)[0]
    ours = logits.detach().to(dtype).requires_grad_()
    value = Lovasz(classes="all")(ours, target)
    value.backward()
    rel = 1e-5 if dtype == torch.float32 else 1e-12
    assert value.item() == pytest.approx(expected.item(), rel=rel)
    torch.testing.assert_close(ours.grad.double(), gradient, rtol=1e-3 if dtype == torch.float32 else 1e-9, atol=1e-7)


def test_lovasz_hinge_by_hand():
    # errors 1 - z s: foreground 1 - 0.5 = 0.5, background 1 + 2 = 3 and 1 - 4 < 0; growth 1/2 (union 2), then 1/2
    logits = torch.tensor([0.5, 2.0, -4.0]).view(1, 1, 1, 3)
    target = torch.tensor([1, 0, 0]).view(1, 1, 1, 3)
    assert Lovasz(activation="sigmoid")(logits, target).item() == pytest.approx(3 * 0.5 + 0.5 * 0.5)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-2, 0.1])
def test_lovasz_tolerance_changes_the_loss_by_at_most_itself(tolerance):
    logits, target = batch(n=2, h=40, w=40)
    exact = Lovasz()(3 * logits, target).item()
    assert abs(Lovasz(tolerance=tolerance)(3 * logits, target).item() - exact) <= tolerance


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("classes", ["present", "all", [0, 1]])
def test_lovasz_ignores_a_label_that_is_also_a_class(activation, classes, monkeypatch):
    logits, target = batch(n=2, h=9, w=7, ignored=0)
    if activation == "sigmoid":
        target = (multilabels(logits, ignored=0) > 0).long()
    ignored = 0 if activation == "softmax" else 1
    own = Lovasz(activation=activation, classes=classes, ignore_index=ignored)
    values = []
    for form in ("tiles", "dense"):
        monkeypatch.setenv("SEGTRAIN_SUMS", form)
        ours = logits.detach().requires_grad_()
        values.append(own(ours, target))
        values[-1].backward()
        if activation == "softmax":
            assert not ours.grad.movedim(1, -1)[target == 0].any()
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-9)


def test_lovasz_refuses_soft_labels_by_name():
    logits, _ = batch()
    with pytest.raises(ValueError, match=r"Lovasz\(activation=softmax\) takes hard labels only"):
        Lovasz()(logits, soft_labels(logits))
    with pytest.raises(ValueError, match=r"Lovasz\(activation=sigmoid\) takes hard labels only"):
        Lovasz(activation="sigmoid")(logits, soft_labels(logits))


@pytest.mark.parametrize("name", ["jaccard", "dice", "tversky", "log jaccard"])
def test_more_mistakes_cost_more(name):
    """Monotone in false positives and in false negatives."""
    truth = torch.zeros(1, 4, 4, dtype=torch.long)
    truth[0, :2] = 1
    values = []
    for flips in range(5):
        wrong = truth.clone()
        wrong[0, 2, :flips] = 1
        values.append(SOFTMAX_LOSSES[name](20.0 * F.one_hot(wrong, 3).permute(0, 3, 1, 2).double(), truth).item())
    assert values == sorted(values)
    assert values[0] < values[-1]


@pytest.mark.parametrize("name", ["ce + dice", "ce + lovasz", "focal"])
def test_compiled_losses_give_the_same(name):
    logits, target = batch()
    torch._dynamo.reset()
    compiled = torch.compile(HARD_LOSSES[name], backend="eager")
    expected = torch.autograd.grad(HARD_LOSSES[name](logits, target), logits)[0]
    torch.testing.assert_close(torch.autograd.grad(compiled(logits, target), logits)[0], expected)


def test_phased_changes_the_loss_at_its_epochs():
    logits, target = batch()
    ce, dice = CrossEntropy(), Dice()
    loss = Phased([ce, dice], starts=[0, 3])
    assert loss.start_epoch(2) is None
    assert loss(logits, target) == ce(logits, target)
    assert loss.start_epoch(3) == "Dice"
    assert loss(logits, target) == dice(logits, target)
    assert loss.parts.keys() == {"phase", "dice"}
    assert loss.start_epoch(4) is None
    assert Phased([ce, dice], starts=[0, 3]).start_epoch(5) == "Dice", "as after a resume"
    for starts in ([1, 2], [0, 0], [0]):
        with pytest.raises(ValueError, match="Phased: "):
            Phased([ce, dice], starts=starts)
    with pytest.raises(ValueError, match="Phased: the losses differ in activation"):
        Phased([ce, BinaryCrossEntropy()], starts=[0, 1])


@pytest.mark.parametrize("name", ["ce", "focal", "ce + dice", "bce + dice"])
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_terms_of_micro_batches_weighed_by_their_amounts(name, labels):
    """The pixel term is that of the whole batch; the region term the mean over images, whatever the class weights."""
    several = name.startswith("bce")
    if several:
        loss = PixelRegion(BinaryCrossEntropy(), Dice(activation="sigmoid"), alpha=0.7)
    elif name == "ce + dice":
        loss = PixelRegion(CrossEntropy([0.1, 5, 1]), Dice(), alpha=0.7)
    else:
        loss = SOFTMAX_LOSSES[name]
    logits, target = batch(n=3, ignored=0.5)
    target[0] = 255
    if several:
        target = torch.stack([torch.where(target == 255, 255, target == c) for c in range(3)], dim=1)
    elif labels == "soft":
        target = soft_labels(logits)
    parts = [(logits[i : i + 1], target[i : i + 1]) for i in range(3)]
    amounts = torch.tensor([[float(a) for a in loss.amounts(y)] for _, y in parts], dtype=torch.float64)
    terms = torch.stack([torch.stack(loss.terms(z, y)) for z, y in parts]).double()
    found = (terms * amounts / amounts.sum(dim=0)).sum(dim=0)
    whole = loss.terms(logits, target)
    assert found[0].item() == pytest.approx(whole[0].item(), rel=1e-9)
    assert torch.stack(whole).sum().item() == pytest.approx(loss(logits, target).item(), rel=1e-12)
    if len(found) == 2:
        assert found[1].item() == pytest.approx(terms[:, 1].mean().item(), rel=1e-9)


def test_a_module_with_forward_alone_is_a_loss():
    class Own(nn.Module):
        def forward(self, logits, target):
            return logits.mean()

    loss, (logits, target) = as_loss(Own()), batch()
    assert loss(logits, target) == logits.mean()
    assert (loss.activation, loss.parts, loss.amounts(target)) == (None, {}, [len(target)])
    assert (
        PixelRegion(CrossEntropy(), Own(), alpha=2)(logits, target)
        == CrossEntropy()(logits, target) + 2 * logits.mean()
    )
    with pytest.raises(ValueError, match="is not a torch"):
        as_loss(3)


def test_a_batch_of_classes_of_weight_0_has_no_loss():
    loss = CrossEntropy([0.0, 1.0, 1.0], label_smoothing=0.1)
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    found = loss(logits, torch.zeros(2, 4, 4, dtype=torch.long))
    found.backward()
    assert found.item() == 0
    assert float(logits.grad.abs().max()) == 0


@pytest.mark.parametrize("classes", ["all", [0, 1, 2]])
@pytest.mark.parametrize("aggregate", ["image", "class"])
def test_an_image_that_is_all_ignored_does_not_count(classes, aggregate):
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    target[1] = 255
    loss = Jaccard(aggregate, classes)
    assert float(loss(logits, target)) == pytest.approx(float(loss(logits[:1], target[:1])))


@pytest.mark.parametrize("loss", [Dice(), Dice(activation="sigmoid"), CrossEntropy(label_smoothing=0.1)])
def test_transposed_images_have_the_same_gradient(loss):
    logits, target = torch.randn(2, 3, 6, 5), torch.randint(0, 3, (2, 5, 6))
    target = F.one_hot(target, 3).movedim(-1, 1).float() if loss.activation == "sigmoid" else target
    found = []
    for turned in (logits.transpose(2, 3), logits.transpose(2, 3).contiguous()):
        z = turned.detach().requires_grad_()
        loss(z, target).backward()
        found.append(z.grad)
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("made", "what"),
    [
        (lambda: PixelRegion(CrossEntropy(), Dice(), alpha=0, pixel_weight=0), "alpha and pixel_weight are 0"),
        (lambda: PixelRegion(Phased([CrossEntropy(), Dice()], [0, 1]), Dice()), "changes by epoch"),
        (lambda: Tversky(0, 0), "fp_weight and fn_weight are 0"),
        (lambda: Dice("agnostic", class_weights=[1, 2]), "class_weights would have no effect"),
    ],
)
def test_what_could_have_no_effect_is_refused(made, what):
    with pytest.raises(ValueError, match=what):
        made()


def test_class_weights_may_be_a_tensor():
    assert CrossEntropy(torch.tensor([1.0, 2.0])).class_weights.tolist() == [1, 2]
    with pytest.raises(ValueError, match="class_weights"):
        CrossEntropy(torch.tensor([1.0, -2.0]))


def test_a_loss_of_ones_own_from_sums_names_what_it_needs():
    class Own(Loss):
        def from_sums(self, sums):
            return sums.P.sum()

    with pytest.raises(ValueError, match="Own: from_sums requires values of activation, needs and ignore_index"):
        Own()(torch.randn(1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=torch.long))


def test_phases_leave_out_the_same_label():
    assert Phased([CrossEntropy(), Lovasz()], [0, 1]).ignore_index == 255
