"""Confidence against torchmetrics and numbers worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.metrics import SegmentationScores, predict
from segtrain.metrics import curves as curves_module
from segtrain.metrics.curves import LEVELS, Curves


def case(seed, n=2, c=3, size=16, ignored=0.2):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, c, size, size, generator=generator)
    target = torch.randint(0, c, (n, size, size), generator=generator)
    target = torch.where(torch.rand(target.shape, generator=generator) < 0.4, logits.max(dim=1).indices, target)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits, target


def filled(logits, target, **kwargs):
    scores = SegmentationScores(logits.shape[1], groups=["calibration"], **kwargs)
    scores.update(predict(logits, scores.multilabel), target, logits=logits)
    return scores


@pytest.mark.parametrize("seed", range(20))
def test_equals_torchmetrics(seed):
    from torchmetrics.classification import MulticlassCalibrationError

    logits, target = case(seed)
    scores = filled(logits, target)
    found = scores.compute()
    ece = MulticlassCalibrationError(3, n_bins=15, ignore_index=255)(logits, target)
    assert found["ece"] == pytest.approx(ece.item(), abs=1e-5)


@pytest.mark.parametrize("sharpness", [0.3, 1, 10])
@pytest.mark.parametrize("rare", [0.003, 0.3])
def test_average_precision_is_exact_for_rare_classes_and_confident_networks(sharpness, rare):
    from torchmetrics.functional.classification import binary_average_precision

    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(1, 200, 200, generator=generator) < rare).long()
    logits = sharpness * torch.randn(1, 2, 200, 200, generator=generator)
    logits[:, 1] += sharpness * (2 * target - 2) + np.log(rare)
    found = filled(logits, target).compute()
    exact = binary_average_precision(logits.double().softmax(dim=1)[:, 1].flatten(), target.flatten()).item()
    assert found["average_precision/class 1"] == pytest.approx(exact, abs=0.002)


def test_by_hand():
    # two pixels said with 0.9, of which one is right, and one with 0.6 that is right
    probability = torch.tensor([0.9, 0.9, 0.6])
    logits = torch.stack([probability.log(), (1 - probability).log()])[None, :, None]
    found = filled(logits, torch.tensor([[[0, 1, 0]]])).compute()
    assert found["ece"] == pytest.approx((2 * (0.9 - 0.5) + (1 - 0.6)) / 3, abs=4e-5)
    assert found["confidence"] == pytest.approx(0.8, abs=4e-5)


def test_several_labels_a_pixel():
    logits = torch.tensor([0.9, 0.2]).logit().view(1, 2, 1, 1)
    scores = filled(logits, torch.tensor([[[[1]], [[1]]]]), multilabel=True, background=None)
    assert scores.compute()["ece"] == pytest.approx((0.1 + 0.8) / 2, abs=4e-5)


@pytest.mark.parametrize("multilabel", [False, True])
def test_what_cuda_is_given_counts_the_same(multilabel):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, curves_module._CODES, (3, 5000), generator=generator).to(torch.int16)
    truth = torch.randint(0, 2 if multilabel else 3, (3 if multilabel else 1, 5000), generator=generator)
    classes = torch.ones(1, dtype=torch.int64) if multilabel else torch.arange(3)
    found = []
    for count in (curves_module._count_planes, curves_module._count_at_once):
        total = torch.zeros(3, LEVELS, 2, dtype=torch.int64)
        parts = torch.zeros(3, len(curves_module.COARSE), 2, dtype=torch.int32)
        count(codes, truth, classes, total, parts)
        found.append((total, parts))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
        assert one.sum() == (codes <= curves_module._INFINITE).sum()


def test_one_class_alone_ignores_what_is_ignored():
    logits, target = torch.randn(1, 1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.uint8)
    target[:, :4] = 255
    scores = filled(logits, target, background=None)
    assert scores.curves().counts.sum() == 32
    assert scores.compute()["average_precision/mean"] == 1


def test_a_network_that_is_sure_of_everything_has_thresholds_that_can_be_set():
    counts = np.zeros((2, LEVELS, 2), int)
    counts[:, -2:, 0], counts[0, -1, 1], counts[1, 0, 1] = 5, 50, 50
    assert all(0 < threshold < 1 for threshold in Curves(counts).best_thresholds())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_order_and_batches_do_not_matter_bit_for_bit(seed):
    logits, target = case(seed, n=4)
    whole = filled(logits, target)
    parts = SegmentationScores(3, groups=["calibration"])
    for i in (2, 0, 3, 1):
        parts.update(predict(logits[[i]], False), target[[i]], logits=logits[[i]])
    assert str(whole.compute()) == str(parts.compute())


def test_the_best_threshold_is_the_best():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 2, 60, 60, generator=generator) < torch.tensor([0.3, 0.02]).view(1, 2, 1, 1)
    logits = torch.randn(truth.shape, generator=generator) + 2 * truth - 2
    scores = SegmentationScores(2, background=None, multilabel=True)
    scores.update(predict(logits, True), truth.int(), logits=logits)
    best = scores.curves().best_thresholds().tolist()

    def dice(threshold):
        scores = SegmentationScores(2, background=None, multilabel=True)
        scores.update(predict(logits, True, threshold), truth.int())
        return scores.per_class()["dice"]

    every = np.array([dice(k / 100) for k in range(1, 100)]).max(axis=0)
    assert (dice(best) >= every - 1e-9).all()
    assert (dice(best) > dice(0.5)).all()


def test_the_best_threshold_of_a_network_that_says_no_to_everything():
    logits = torch.full((1, 1, 10, 10), -70.0)
    logits[..., :3] = -60
    scores = SegmentationScores(1, background=None, multilabel=True)
    truth = torch.ones(1, 1, 10, 10, dtype=torch.uint8)
    scores.update(logits > 0, truth, logits=logits)
    assert predict(logits, True, list(scores.best_thresholds().values())).all()


def test_of_equally_good_thresholds_the_middle_and_of_an_absent_class_none():
    counts = np.zeros((2, LEVELS, 2), int)
    counts[0, 100, 0], counts[0, 900, 1], counts[1, 5, 0] = 50, 3, 10
    found = Curves(counts).best_thresholds()
    assert found[0] == pytest.approx(curves_module.probability((101 + 900) / 2))
    assert np.isnan(found[1])


def test_an_absent_class_has_no_curve_score():
    logits, target = case(0, c=3)
    target[target == 2] = 255
    found = filled(logits, target).compute()
    assert np.isnan(found["average_precision/class 2"])
    assert np.isnan(found["class_ece/class 2"])
    assert not np.isnan(found["average_precision/mean"])


def test_logits_are_asked_for():
    with pytest.raises(ValueError, match="needs the logits"):
        SegmentationScores(2, groups=["calibration"]).update(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))


def test_scores_of_curves_have_intervals_that_narrow_with_images():
    def width(images):
        logits, target = case(3, n=images)
        scores = filled(logits, target)
        found, exact = scores.intervals(200), scores.compute()
        for name in ("average_precision/class 1", "average_precision/mean", "class_ece/class 2"):
            assert found[name][0] < exact[name] < found[name][1]
        return np.subtract(*found["average_precision/mean"][::-1])

    assert width(40) < 0.7 * width(8)


@pytest.mark.parametrize(
    ("negatives", "positives"), [((-9, 0.6), (-6.2, 0.4)), ((-21, 0.7), (-18.5, 0.7)), ((3, 1), (6, 2))]
)
def test_the_interval_of_a_rare_class_of_a_confident_network(negatives, positives):
    rng, images = np.random.default_rng(0), 40
    odds, truth = rng.normal(*negatives, (images, 1000)), np.zeros((images, 1000), bool)
    for i in range(images):
        many = rng.integers(1, 12)
        truth[i, :many] = True
        odds[i, :many] = rng.normal(*positives, many) - rng.random()
    scores = SegmentationScores(1, background=None, multilabel=True, groups=["calibration"])
    logits = torch.as_tensor(odds, dtype=torch.float32).view(images, 1, 10, 100)
    target = torch.as_tensor(truth).view(images, 1, 10, 100).to(torch.uint8)
    scores.update(logits > 0, target, logits=logits)
    low, high = scores.intervals(300)["average_precision/mean"]
    rng, drawn = np.random.default_rng(0), []
    for _ in range(300):
        draw = rng.integers(images, size=images)
        order = np.argsort(-odds[draw].ravel())
        right = truth[draw].ravel()[order]
        drawn.append((np.cumsum(right) / np.arange(1, len(right) + 1))[right].mean())
    assert [low, high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist(), abs=0.006)


def test_the_interval_of_average_precision_is_that_of_drawing_the_pixels_again():
    from torchmetrics.functional.classification import binary_average_precision

    logits, target = case(1, n=12)
    low, high = filled(logits, target).intervals(400)["average_precision/class 1"]
    rng, drawn = np.random.default_rng(0), []
    for _ in range(400):
        images = rng.integers(12, size=12)
        truth, probability = target[images], logits[images].softmax(dim=1)[:, 1]
        valid = truth != 255
        drawn.append(binary_average_precision(probability[valid], (truth[valid] == 1).long()).item())
    assert np.percentile(drawn, [2.5, 97.5]) == pytest.approx([low, high], abs=0.004)
