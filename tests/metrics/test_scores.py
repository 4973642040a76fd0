"""Scores against numbers worked out by hand, torchmetrics, and properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.files import read_arrays, write_arrays
from segtrain.metrics import SegmentationScores, predict
from segtrain.report.pictures import error_map


def scores_of(prediction, target, **kwargs) -> SegmentationScores:
    scores = SegmentationScores(**{"num_classes": 3, **kwargs})
    scores.update(torch.as_tensor(prediction), torch.as_tensor(target))
    return scores


def random_case(seed, n=3, c=4, size=8, ignored=0.2):
    rng = np.random.default_rng(seed)
    present = rng.integers(1, c + 1)
    target = rng.integers(0, present, (n, size, size))
    target[rng.random(target.shape) < ignored] = 255
    return torch.tensor(rng.integers(0, c, target.shape)), torch.tensor(target)


def test_by_hand():
    # truth 0 0 1 1 2 ignored, prediction 0 1 1 1 0 2
    scores = scores_of([[[0, 1, 1, 1, 0, 2]]], [[[0, 0, 1, 1, 2, 255]]]).compute()
    assert scores["iou/class 0"] == pytest.approx(1 / 3)
    assert scores["iou/class 1"] == pytest.approx(2 / 3)
    assert scores["iou/class 2"] == 0
    assert scores["iou/mean"] == pytest.approx(1 / 3)
    assert scores["iou/foreground"] == pytest.approx((2 / 3 + 0) / 2)
    assert scores["dice/class 1"] == pytest.approx(4 / 5)
    assert scores["precision/class 1"] == pytest.approx(2 / 3)
    assert scores["recall/class 0"] == pytest.approx(1 / 2)
    assert np.isnan(scores["precision/class 2"]), "never predicted: the ignored pixel does not count"
    assert scores["accuracy"] == pytest.approx(3 / 5)


def test_an_absent_class_has_no_score_and_is_left_out_of_means():
    scores = scores_of([[[0, 0, 1]]], [[[0, 1, 1]]]).compute()
    assert np.isnan(scores["iou/class 2"])
    assert scores["iou/mean"] == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_all_ignored_is_undefined_not_perfect():
    scores = scores_of([[[0, 1]]], [[[255, 255]]]).compute()
    assert all(np.isnan(value) for value in scores.values())


def test_multilabel_by_hand():
    prediction = torch.tensor([[[[1, 0, 1]], [[1, 1, 0]]]]).bool()
    target = torch.tensor([[[[1, 1, 255]], [[1, 0, 0]]]])
    scores = SegmentationScores(2, background=None, class_names=["a", "b"], multilabel=True)
    scores.update(prediction, target)
    values = scores.compute()
    assert values["iou/a"] == pytest.approx(1 / 2)
    assert values["iou/b"] == pytest.approx(1 / 2)
    assert values["accuracy"] == pytest.approx(3 / 5)


@pytest.mark.parametrize("seed", range(60))
def test_equals_torchmetrics(seed):
    from torchmetrics.classification import (
        MulticlassAccuracy,
        MulticlassJaccardIndex,
        MulticlassPrecision,
        MulticlassRecall,
    )

    prediction, target = random_case(seed)
    ours = scores_of(prediction, target, num_classes=4)
    classes = ours.per_class()
    options = {"num_classes": 4, "average": None, "ignore_index": 255}
    defined = ~np.isnan(classes["iou"])
    theirs = MulticlassJaccardIndex(**options)(prediction, target).numpy()
    np.testing.assert_allclose(classes["iou"][defined], theirs[defined], rtol=1e-5)
    for name, metric in (("precision", MulticlassPrecision), ("recall", MulticlassRecall)):
        defined = ~np.isnan(classes[name])
        np.testing.assert_allclose(
            classes[name][defined], metric(**options)(prediction, target).numpy()[defined], rtol=1e-5
        )
    micro = MulticlassAccuracy(num_classes=4, average="micro", ignore_index=255)(prediction, target)
    assert ours.compute()["accuracy"] == pytest.approx(micro.item(), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 5))
def test_batch_size_and_order_do_not_matter(seed, cut):
    prediction, target = random_case(seed, n=6)
    whole = scores_of(prediction, target, num_classes=4)
    parts = SegmentationScores(4)
    for part in (slice(cut, None), slice(None, cut)):
        parts.update(prediction[part], target[part])
    assert str(whole.compute()) == str(parts.compute())
    assert np.array_equal(np.roll(parts.table(), cut, axis=0), whole.table())


def test_swapping_truth_and_prediction_swaps_precision_and_recall():
    prediction, target = random_case(3, ignored=0)
    one, other = (scores_of(*pair, num_classes=4).per_class() for pair in ((prediction, target), (target, prediction)))
    np.testing.assert_array_equal(one["precision"], other["recall"])


def test_counts_beyond_2_to_31_are_right():
    scores = scores_of([[[1]]], [[[1]]])
    tp, fp, fn = (np.array([[0, count, 0]] * 4) for count in (2**31, 2**30, 0))
    names = np.array(list("abcd"))
    scores.restore(**scores.state() | {"tp": tp, "fp": fp, "fn": fn, "valid": tp, "names": names})
    assert scores.per_class()["iou"][1] == pytest.approx(2 / 3)
    assert scores.per_class()["support"][1] == 2**33


def test_score_names_are_what_compute_returns():
    for kwargs in ({}, {"background": None}, {"class_names": ["a", "b", "c"]}):
        scores = scores_of([[[0]]], [[[0]]], **kwargs)
        assert set(scores.score_names()) == set(scores.compute())


def test_predict():
    logits = torch.tensor([[[[0.1, 2.0]], [[0.2, -1.0]]]])
    assert predict(logits, multilabel=False).tolist() == [[[1, 0]]]
    assert predict(logits, multilabel=True).tolist() == [[[[True, True]], [[True, False]]]]


def test_values_that_are_no_class_are_refused():
    with pytest.raises(ValueError, match="prediction 4 is not a class from 0 to 2"):
        scores_of([[[4]]], [[[0]]])
    with pytest.raises(ValueError, match="label 7 is not a class from 0 to 2"):
        scores_of([[[0]]], [[[7]]])


def test_an_ignored_value_is_no_prediction():
    for dtype in (torch.uint8, torch.int64):
        with pytest.raises(ValueError, match="prediction 255 is not a class from 0 to 2: 2 pixels"):
            scores_of(torch.tensor([[[0, 1, 255, 255]]], dtype=dtype), [[[0, 1, 1, 1]]])


def test_names_and_background_must_fit():
    with pytest.raises(ValueError, match="must be 3 different names"):
        SegmentationScores(3, class_names=["a", "b"])
    with pytest.raises(ValueError, match="background=7 is not a class from 0 to 2"):
        SegmentationScores(3, background=7)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"prediction \[1, 1, 2\] and target \[1, 1, 3\] differ in shape"):
        scores_of([[[0, 1]]], [[[0, 1, 1]]])


def test_the_confusion_matrix_by_hand():
    scores = scores_of([[[0, 1, 1, 1, 0, 2]]], [[[0, 0, 1, 1, 2, 255]]])
    assert scores.confusion().tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_what_was_saved_is_restored(tmp_path):
    scores = scores_of(*random_case(1), num_classes=4)
    write_arrays(tmp_path / "p.npz", scores.state())
    other = SegmentationScores(4)
    other.restore(**read_arrays(tmp_path / "p.npz"))
    assert str(other.compute()) == str(scores.compute())
    assert np.array_equal(other.confusion(), scores.confusion())
    assert other.names == scores.names


def test_the_map_of_errors_by_hand():
    truth, found = np.array([[0, 0, 1, 1, 1, 255]]), np.array([[0, 2, 1, 0, 2, 1]])
    white, red, pale, blue, violet, grey = error_map(truth, found, 255, 0)[0].tolist()
    assert white == [255, 255, 255]
    assert red[0] > 200 > red[1]
    assert len({tuple(pale), tuple(blue), tuple(violet), tuple(red)}) == 4
    assert grey == [128, 128, 128]
    several = error_map(np.array([[[1, 0]], [[0, 1]]]), np.array([[[1, 0]], [[0, 0]]]), 255, None)[0].tolist()
    assert several == [pale, blue]
