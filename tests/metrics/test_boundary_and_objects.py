"""Borders and objects against their definitions, done slowly, and against MONAI and scipy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segtrain.metrics import SegmentationScores

GROUPS = {"groups": ["boundary", "objects", "foreground"]}


def filled(prediction, target, num_classes=3, **kwargs):
    scores = SegmentationScores(num_classes, **{**GROUPS, **kwargs})
    scores.update(torch.as_tensor(np.asarray(prediction)), torch.as_tensor(np.asarray(target)))
    return scores


def blobs(seed, size=(23, 31), classes=3, ignored=0.0):
    """Truth of smooth regions and a prediction that is a little off."""
    rng = np.random.default_rng(seed)
    noise = [ndimage.gaussian_filter(rng.normal(size=(classes, *size)), (0, s, s)) for s in (2.5, 2.5)]
    target, prediction = noise[0].argmax(axis=0), (noise[0] + 0.5 * noise[1]).argmax(axis=0)
    target[ndimage.gaussian_filter(rng.random(size), 1.5) < 0.5 - 0.2 * (1 - ignored)] = 255 if ignored else 0
    return prediction[None], target[None]


def masks(prediction, target, label):
    ignored = target[0] == 255
    return (prediction[0] == label) & ~ignored, (target[0] == label) & ~ignored, ignored


def slow_band(mask, ignored, depth):
    """Pixels whose nearest pixel outside, or beyond the image, is at most `depth` rows and columns away."""
    filled = np.pad(mask | ignored, 1)
    return mask & (ndimage.distance_transform_cdt(filled, "chessboard")[1:-1, 1:-1] <= depth)


def slow_contour(mask, ignored):
    height, width = mask.shape
    line = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask), strict=True):
        around = [(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        inside = [(a, b) for a, b in around if 0 <= a < height and 0 <= b < width]
        line[y, x] = any(not mask[p] and not ignored[p] for p in inside)
    return line


def slow_hits(line, other, reach):
    places = np.argwhere(other)
    return sum(bool(len(places)) and np.hypot(*(places - p).T).min() <= reach for p in np.argwhere(line))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000), depth=st.integers(1, 6), ignored=st.sampled_from([0.0, 0.3]))
def test_counts_at_borders_equal_their_definition(seed, depth, ignored):
    prediction, target = blobs(seed, ignored=ignored)
    counts = filled(prediction, target, boundary_width=depth, boundary_tolerance=1.5, error_distances=[1, 3]).state()
    for label in range(3):
        said, truth, out = masks(prediction, target, label)
        p, t = slow_band(said, out, depth), slow_band(truth, out, depth)
        assert counts["band"][0, label].tolist() == [(p & t).sum(), (p & ~t).sum(), (t & ~p).sum()]
        p, t = slow_contour(said, out), slow_contour(truth, out)
        assert counts["contour"][0, label].tolist() == [slow_hits(p, t, 1.5), p.sum(), slow_hits(t, p, 1.5), t.sum()]
        distance = np.full(truth.shape, np.inf)
        if truth.any():
            distance = ndimage.distance_transform_edt(~truth)
        if (~truth & ~out).any():
            distance = np.where(truth, ndimage.distance_transform_edt(truth | out), distance)
        elif truth.any():
            distance[truth] = np.inf
        wrong = distance[said != truth]
        assert counts["distance"][0, label].tolist() == [
            (wrong <= 1).sum(),
            ((wrong > 1) & (wrong <= 3)).sum(),
            (wrong > 3).sum(),
        ]


def test_more_classes_than_bits_in_a_word():
    """Classes 0 to 69 in tiles; what is counted of a class does not depend on the others."""
    tiles = np.arange(70).reshape(7, 10).repeat(9, axis=0).repeat(9, axis=1)
    target, prediction = tiles[None].copy(), np.roll(tiles, (2, -3), axis=(0, 1))[None]
    target[:, 20:23] = 255
    found = filled(prediction, target, 70).state()
    for label in (0, 31, 63, 64, 69):
        ignored = np.where(target == 255, 255, target == label)
        alone = filled(prediction == label, ignored, 2).state()
        for name in ("band", "contour", "distance", "objects"):
            assert found[name][0, label].tolist() == alone[name][0, 1].tolist(), (name, label)


def test_all_ignored_counts_nothing():
    found = filled(np.zeros((1, 9, 9), int), np.full((1, 9, 9), 255), 3).state()
    assert not any(found[name].any() for name in ("band", "contour", "distance", "objects"))


def test_boundary_f1_against_monai():
    from monai.metrics import compute_surface_dice

    compared = 0
    for seed in range(100):
        prediction, target = (np.pad(a, ((0, 0), (2, 2), (2, 2))) for a in blobs(seed))
        right, said, found, true = filled(prediction, target, boundary_tolerance=2).state()["contour"][0, 1:].T
        one_hot = [torch.nn.functional.one_hot(torch.tensor(a), 3).permute(0, 3, 1, 2) for a in (prediction, target)]
        theirs = compute_surface_dice(*one_hot, class_thresholds=[2.0, 2.0], include_background=False)[0].numpy()
        there = (said > 0) & (true > 0)
        np.testing.assert_allclose(((right + found) / (said + true))[there], theirs[there], rtol=1e-6)
        compared += there.sum()
    assert compared > 150


def test_a_square_that_is_one_pixel_off_by_hand():
    target = np.zeros((1, 30, 30), int)
    target[:, 10:20, 10:20] = 1
    prediction = np.roll(target, 1, axis=2)
    scores = filled(prediction, target, 2, boundary_width=1, boundary_tolerance=1).compute()
    # each ring has 36 pixels; 9 + 9 of the upper and lower rows are in both
    assert scores["boundary_iou/class 1"] == pytest.approx(18 / 54)
    assert scores["boundary_f1/class 1"] == 1
    assert scores["iou/class 1"] == pytest.approx(90 / 110)
    assert scores["errors_within_2/class 1"] == 1
    assert scores["errors_beyond_8/all"] == 0


def test_a_hallucination_is_not_a_slip():
    target, prediction = np.zeros((2, 1, 40, 60), int)
    target[:, 5:15, 5:15] = prediction[:, 5:15, 5:15] = 1
    prediction[:, 25:30, 40:45] = 1
    scores = filled(prediction, target, 2).compute()
    assert scores["errors_beyond_8/class 1"] == 1
    assert filled(prediction, np.zeros_like(target), 2).compute()["errors_beyond_8/class 1"] == 1, "truth has none"


def test_widths_below_1_are_shares_of_the_diagonal():
    prediction, target = blobs(0, size=(60, 80))
    share, pixels = (filled(prediction, target, boundary_width=w).state()["band"] for w in (0.04, 4))
    assert np.array_equal(share, pixels)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_objects_against_scipy(seed):
    prediction, target = blobs(seed, ignored=0.3)
    counts = filled(prediction, target, object_sizes=[20, 60], object_overlap=0.4).state()["objects"][0]
    for label in range(3):
        said, truth, _ = masks(prediction, target, label)
        labels, number = ndimage.label(truth, np.ones((3, 3)))
        expected = np.zeros((3, 2), int)
        for k in range(1, number + 1):
            area = (labels == k).sum()
            expected[int(area >= 20) + int(area >= 60)] += [(said & (labels == k)).sum() >= 0.4 * area, 1]
        assert counts[label].tolist() == expected.tolist()


def test_objects_by_hand():
    target = np.zeros((1, 20, 40), int)
    target[:, 2:4, 2:4] = target[:, 8:18, 2:12] = target[:, 2:4, 30:32] = 1  # 4, 100 and 4 pixels
    prediction = np.zeros_like(target)
    prediction[:, 8:18, 2:7] = prediction[:, 2, 2] = 1  # half of the large one, a quarter of a small one
    scores = filled(prediction, target, 2, object_sizes=[10, 50]).compute()
    assert scores["object_recall_small/class 1"] == 0
    assert np.isnan(scores["object_recall_medium/class 1"])
    assert scores["object_recall_large/class 1"] == 1
    assert scores["object_recall/class 1"] == pytest.approx(1 / 3)


def test_foreground_and_the_class_within_it_by_hand():
    target = [[[0, 0, 1, 1, 2, 2, 2, 255]]]
    prediction = [[[0, 1, 1, 2, 2, 2, 0, 1]]]
    scores = filled(prediction, target).compute()
    assert scores["foreground/recall"] == pytest.approx(4 / 5)
    assert scores["foreground/precision"] == pytest.approx(4 / 5)
    assert scores["foreground/iou"] == pytest.approx(4 / 6)
    assert scores["accuracy_within_foreground"] == pytest.approx(3 / 4)
    assert scores["within_foreground/class 1"] == pytest.approx(1 / 2)
    assert scores["within_foreground/class 2"] == pytest.approx(2 / 3)
    assert "within_foreground/class 0" not in scores


def test_foreground_of_several_labels_is_any_label():
    target = torch.tensor([[[[1, 0, 1, 0]], [[1, 0, 0, 255]]]])
    prediction = torch.tensor([[[[1, 1, 0, 1]], [[0, 0, 1, 0]]]]).bool()
    scores = SegmentationScores(2, background=None, multilabel=True, **GROUPS)
    scores.update(prediction, target)
    found = scores.compute()
    assert found["foreground/precision"] == pytest.approx(2 / 3), "the pixel that a channel ignores does not count"
    assert found["foreground/recall"] == 1
    assert found["within_foreground/class 0"] == pytest.approx(1 / 2)
    assert found["within_foreground/class 1"] == 0


def test_without_background_there_is_no_foreground_score():
    assert not [n for n in SegmentationScores(3, background=None, **GROUPS).score_names() if n.startswith("foreground")]


def test_of_the_shares_of_errors_only_the_far_ones_are_better_low():
    lower = [n for n, record in SegmentationScores(2, **GROUPS).records().items() if not record.higher_is_better]
    assert lower == ["errors_beyond_8/all", "errors_beyond_8/class 0", "errors_beyond_8/class 1"]
