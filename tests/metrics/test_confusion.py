"""Decisions and counts of a batch, against torch and a plain NumPy count."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.metrics import SegmentationScores, predict
from segtrain.metrics import confusion as counting
from segtrain.metrics.confusion import confusion_per_image


def plain_confusion(prediction, target, classes, ignore_index):
    valid = target != ignore_index
    return np.array(
        [[((target == t) & (prediction == p) & valid).sum() for p in range(classes)] for t in range(classes)]
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.sampled_from([1, 2, 11, 150, 255]), ignored=st.sampled_from([0, 3, 255]))
def test_counts_equal_a_plain_count(seed, classes, ignored):
    rng = np.random.default_rng(seed)
    target, prediction = rng.integers(0, classes, (2, 3, 7, 9))
    target[rng.random(target.shape) < 0.3] = ignored
    expected, valid = np.zeros((3, classes, classes), int), target != ignored
    np.add.at(expected, (np.nonzero(valid)[0], target[valid], prediction[valid]), 1)
    for dtype in (torch.uint8, torch.int64):
        pair = [torch.tensor(a).to(dtype) for a in (prediction, target)]
        found = confusion_per_image(*pair, classes, ignored)
        assert found.dtype == torch.int64
        known = np.arange(classes) != ignored  # ground truth of that value is ignored
        assert np.array_equal(found.numpy()[:, known], expected[:, known])


@pytest.mark.parametrize("classes", [2, 11, 150, 256])
@pytest.mark.parametrize(("dtype", "ignored"), [(torch.uint8, 255), (torch.int64, 1)])
@pytest.mark.parametrize("pixels", [400, 403])
def test_what_cuda_is_given_counts_the_same(classes, dtype, ignored, pixels):
    target, prediction = torch.randint(0, classes, (2, 3, pixels)).to(dtype)
    target[:, :50] = ignored
    one, other = (
        count(prediction, target, classes, ignored) for count in (counting._count_by_opencv, counting._count_by_torch)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("multilabel", "where", "value"),
    [(False, "target", 7), (False, "target", -3), (True, "target", 300), (False, "prediction", 3)],
)
def test_what_cuda_is_given_refuses_values_that_are_no_class_in_the_end(multilabel, where, value, monkeypatch):
    shape = (2, 3, 4, 5) if multilabel else (2, 4, 5)
    prediction, target = torch.randint(0, 2, (2, *shape))
    scores, found = SegmentationScores(3, multilabel=multilabel, background=None), []
    for how in ("tiles", "dense"):
        monkeypatch.setenv("SEGTRAIN_SUMS", how)
        scores.reset()
        scores.update(prediction.bool() if multilabel else prediction, target, ["a", "b"])
        found.append(scores.compute())
    assert found[1] == pytest.approx(found[0], nan_ok=True)
    (target if where == "target" else prediction)[1, ..., 2] = value
    scores.update(prediction.bool() if multilabel else prediction, target, ["c", "d"])
    with pytest.raises(
        ValueError, match=r"labels or predictions that are not a class from .* in 1 images, the first is d"
    ):
        scores.compute()


def test_large_images_are_counted_in_parts(monkeypatch):
    monkeypatch.setattr(counting, "_EXACT", 5)
    target, prediction = torch.randint(0, 3, (2, 2, 4, 7)).to(torch.uint8)
    found = confusion_per_image(prediction, target, 3, 255)
    for i in range(2):
        assert np.array_equal(found[i], plain_confusion(prediction[i].numpy(), target[i].numpy(), 3, 255))


def test_more_pixels_than_float32_can_count():
    target = torch.ones(1, 4100, 4100, dtype=torch.uint8)
    target[0, 0, 0] = 0
    assert confusion_per_image(torch.ones_like(target), target, 2, 255)[0].tolist() == [[0, 1], [0, 4100**2 - 1]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_values_that_are_no_class_are_refused(dtype):
    with pytest.raises(ValueError, match=r"label 7 is not a class from 0 to 2 .* 1 pixels, the first in image 1"):
        confusion_per_image(torch.zeros(2, 1, 2, dtype=dtype), torch.tensor([[[0, 1]], [[7, 1]]], dtype=dtype), 3, 255)
    with pytest.raises(ValueError, match="prediction 3 is not a class from 0 to 2"):
        confusion_per_image(torch.full((1, 1, 1), 3, dtype=dtype), torch.zeros(1, 1, 1, dtype=dtype), 3, 255)


@pytest.mark.parametrize("classes", [2, 3, 12, 13, 40])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_decision_is_that_of_max(classes, layout):
    torch.manual_seed(classes)
    logits = torch.randn(2, classes, 9, 11).round(decimals=1).contiguous(memory_format=layout)  # with equal ones
    for z in (logits, logits[..., 2:8, 1:]):
        assert torch.equal(predict(z, False).long(), z.max(dim=1).indices)


def test_thresholds():
    logits = torch.tensor([0.3, 0.6, 0.8]).logit().view(1, 1, 1, 3).repeat(1, 2, 1, 1)
    assert predict(logits, True, 0.7)[0].int().tolist() == [[[0, 0, 1]], [[0, 0, 1]]]
    assert predict(logits, True, [0.2, 0.7])[0].int().tolist() == [[[1, 1, 1]], [[0, 0, 1]]]
    with pytest.raises(ValueError, match="3 thresholds for 2 classes"):
        predict(logits, True, [0.2, 0.7, 0.1])


def test_a_threshold_for_two_classes_is_for_the_second():
    probability = torch.tensor([0.1, 0.3, 0.6])
    logits = torch.stack([(1 - probability).log(), probability.log()])[None, :, None]
    assert predict(logits, False, 0.25).tolist() == [[[0, 1, 1]]]
    assert torch.equal(predict(logits, False, 0.5), predict(logits, False))
    with pytest.raises(ValueError, match=r"threshold=0.25 for 3 classes, .* the most probable class is predicted"):
        predict(torch.zeros(1, 3, 1, 1), False, 0.25)


@given(pixels=st.integers(1, 40), bins=st.integers(1, 7), exact=st.sampled_from([8, 9, 1 << 24]))
def test_a_histogram_of_any_number_of_pixels(pixels, bins, exact):
    values = np.random.default_rng(pixels).integers(0, bins, (2, pixels)).astype(np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_EXACT", exact)
        found = counting.exact_histogram(list(values), [bins, bins])
    expected = np.zeros((bins, bins), int)
    np.add.at(expected, tuple(values), 1)
    assert np.array_equal(found, expected)
