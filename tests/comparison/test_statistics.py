"""Paired differences over groups of images and seeds: by hand, against scipy, and false alarms in a simulation."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from segtrain.comparison.draws import Counted, draw_groups, pooled_score, without_each
from segtrain.comparison.resampled import ResampledCounts
from segtrain.comparison.statistics import (
    Estimate,
    Scores,
    estimate,
    holm,
    needed,
    ranks,
    seed_noise,
    unlike,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))


def test_scores_of_sums_by_hand():
    sums = np.array([[50, 0, 10], [10, 5, 15], [0, 0, 30], [90, 90, 90]])  # tp, fp, fn, valid of three classes
    names, foreground = ["background", "absent", "rare"], np.array([False, True, True])
    score = {n: float(pooled_score(n, sums, names, foreground)) for n in ("iou/mean", "iou/foreground", "recall/rare")}
    # A class that is predicted counts, though the ground truth has none of it: as in the scores of a run.
    means = {"iou/mean": (50 / 60 + 0 + 10 / 55) / 3, "iou/foreground": (0 + 10 / 55) / 2}
    assert score == pytest.approx({**means, "recall/rare": 0.25})
    assert pooled_score("accuracy", sums, names, foreground) == pytest.approx(60 / 90)
    several = np.array([[5, 2], [1, 0], [1, 2], [20, 20]])  # multi-label
    assert pooled_score("accuracy", several, ["a", "b"], np.array([True, True])) == pytest.approx(36 / 40)
    once = np.array([[8, 9], [3, 0], [2, 1], [20, 20]])  # the same where each pixel has one class in the ground truth
    assert pooled_score("accuracy", once, ["a", "b"], np.array([True, True])) == pytest.approx(34 / 40)
    assert np.isnan(pooled_score("recall/absent", sums, names, foreground)), "no pixel of it in the ground truth"
    sums[1, 1] = 0
    assert np.isnan(pooled_score("iou/absent", sums, names, foreground)), "nor in the prediction"
    with pytest.raises(KeyError):
        pooled_score("ece", sums, names, foreground)


def test_groups_are_drawn_whole():
    weights = draw_groups(np.array(["b", "a", "b", "c"]), draws=500)
    assert np.array_equal(weights[:, 0], weights[:, 2])
    assert np.allclose(weights[:, 0] + weights[:, 1] + weights[:, 3], 3)
    assert weights.mean(axis=0) == pytest.approx(1, abs=0.15)


def test_sums_without_each_group(monkeypatch):
    table, groups = np.arange(5 * 4 * 2).reshape(5, 4, 2), np.array(["b", "a", "b", "c", "a"])
    expected = np.stack([table[groups != name].sum(axis=0) for name in "abc"])
    assert np.array_equal(without_each(groups, table), expected)
    monkeypatch.setattr("segtrain.comparison.draws.DRAWS", 2)  # a and c together
    assert np.array_equal(without_each(groups, table), np.stack([table[[0, 2]].sum(axis=0), expected[1]]))


def test_a_group_with_most_of_the_pixels_is_not_hidden_by_draws_of_it():
    """0.9 of the pixels are in one of 11 groups, which two of three draws have and hardly differ from."""
    x, pixels = np.array([0.3, *[0.8, 0.6] * 5]), np.array([900, *[10] * 10])
    right = (x * pixels).astype(int)
    table = np.stack([right, 0 * right, pixels - right, pixels], axis=1)[..., None]
    scores = ResampledCounts([Counted([table], "iou/a", ["a"], np.array([True]))], np.arange(11)).scores("iou/a")
    theta = right.sum() / pixels.sum()
    without = [(right.sum() - r) / (pixels.sum() - p) for r, p in zip(right, pixels, strict=True)]
    jackknife = 10 / 11 * np.square(without - np.mean(without)).sum()
    assert scores.variance(lambda s: s[0][0]) == pytest.approx(jackknife)
    assert jackknife == pytest.approx((0.7 - theta) ** 2, rel=0.2), "what the others say of the large one"
    assert scores.draws[0][0].var() * 11 / 10 < jackknife
    found = estimate(scores, seed_noise(scores), 0)
    assert found.high - theta == pytest.approx(stats.t.isf(0.025, 10) * np.sqrt(jackknife))


@pytest.mark.parametrize("in_truth", [True, False])
def test_a_class_that_one_group_alone_shows_is_not_left_out(in_truth):
    table = np.zeros((4, 4, 3), int)
    table[:, 0, :2], table[:, 2, :2] = 50, [[10, 20], [30, 5], [0, 9], [7, 7]]
    table[2, :3, 2] = [5, 5, 5] if in_truth else [0, 5, 0]
    table[0, 1, 2] = 3 * in_truth  # predicted where it is not
    table[:, 3] = 200
    resampled = ResampledCounts([counted(table, "rare")], np.arange(4))
    classes = [resampled.scores(f"iou/{name}").left_out[0][0] for name in ("a", "b", "rare")]
    assert classes[2] == pytest.approx([5 / 15, *[5 / 18] * 3] if in_truth else [0] * 4)
    assert resampled.scores("iou/mean").left_out[0][0] == pytest.approx(np.mean(classes, axis=0))


def test_accuracy_without_a_group_that_alone_shows_a_class():
    table = np.zeros((3, 4, 3), int)  # 100 pixels an image, of a class each
    table[:, 0], table[:, 2, 0], table[:, 1, 1] = [[50, 30, 0], [60, 35, 0], [40, 25, 20]], [20, 5, 15], [20, 5, 15]
    table[:, 3] = 100
    left_out = ResampledCounts([counted(table, "c")], np.arange(3)).scores("accuracy").left_out[0][0]
    assert left_out == pytest.approx([180 / 200, 165 / 200, 175 / 200])


def counted(table: np.ndarray, last: str) -> Counted:
    """Counts of one run of three classes, the first of which is the background."""
    return Counted([table], "iou/mean", ["a", "b", last], np.array([False, True, True]))


def test_the_error_of_a_mean_over_images_is_that_of_scipy():
    rng = np.random.default_rng(0)
    values = rng.normal(size=60)
    weights = draw_groups(np.arange(60).astype(str), draws=4000)
    scores = Scores([np.array([values.mean()])], [(weights @ values / 60)[None]], 60)
    found = estimate(scores, seed_noise(scores), 0)
    expected = stats.bootstrap((values,), np.mean, method="basic", rng=1).confidence_interval
    exact = stats.t.interval(0.95, 59, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(exact, abs=0.02)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.05)


def test_seeds_alone_give_the_test_of_student():
    """Without any spread over images it is the t test with pooled variance."""
    one, other = np.array([0.61, 0.64, 0.66]), np.array([0.58, 0.60, 0.59])
    scores = Scores([one, other], [np.repeat(v[:, None], 50, axis=1) for v in (one, other)], 10)
    found = estimate(scores, seed_noise(scores), 0, 1)
    expected = stats.ttest_ind(one, other)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_one_seed_each_knows_no_noise_of_seeds():
    scores = Scores([np.array([0.5]), np.array([0.6])], [np.full((1, 9), 0.5), np.full((1, 9), 0.6)], 9)
    assert not seed_noise(scores).known
    assert estimate(scores, seed_noise(scores), 1, 0) == Estimate(pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.1), 0.0, 0.0, 0.0)  # fmt: skip


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([])).size == 0


def test_ranks_against_brute_force():
    rng = np.random.default_rng(1)
    draws = rng.normal(0, 0.02, (3, 300))
    draws += np.array([0.6, 0.61, 0.5])[:, None] - draws.mean(axis=1, keepdims=True)
    scores = Scores([np.array([m]) for m in (0.6, 0.61, 0.5)], [d[None] for d in draws], 10**9)
    found = ranks(scores, seed_noise(scores))
    orders = [sorted(range(3), key=lambda s: -column[s]) for column in draws.T]
    assert found.best.tolist() == pytest.approx([sum(o[0] == s for o in orders) / 300 for s in range(3)])
    places = [[o.index(s) + 1 for o in orders] for s in range(3)]
    assert found.high.tolist() == [np.percentile(p, 97.5, method="nearest") for p in places]
    chosen = [column[o[0]] - (0.6, 0.61, 0.5)[o[0]] for column, o in zip(draws.T, orders, strict=True)]
    assert found.optimism == pytest.approx(np.mean(chosen))
    assert ranks(scores, seed_noise(scores), lower_is_better=True).best.argmax() == 2


def test_what_it_would_take():
    """Of 5 seeds of each of two settings the margin is 2.306 (t of 8 degrees), and 0.842 more are met in four of five cases."""
    seeds, images = Estimate(0.02, -0.01, 0.05, 0.1, 0.0, 1e-4), Estimate(0.01, -0.01, 0.03, 0.1, 1e-4, 0.0)
    assert needed(seeds, seeds=2, freedom=2, groups=100) == "about 5 seeds of each"
    assert 0.02 > (2.306 + 0.842) * (1e-4 * 2 / 5) ** 0.5
    assert 0.02 < (2.447 + 0.842) * (1e-4 * 2 / 4) ** 0.5
    assert needed(images, seeds=1, freedom=0, groups=100) == "about 788 images"
    assert needed(Estimate(0.2, 0.1, 0.3, 0.0, 1e-4, 0.0), seeds=1, freedom=0, groups=100) == ""
    tiny = Estimate(0.001, -0.1, 0.1, 0.9, 1e-4, 1e-3)
    assert needed(tiny, seeds=2, freedom=2, groups=100) == "more than 100 times as many images and seeds"
    of_seeds = Estimate(0.001, -0.1, 0.1, 0.9, 0.0, 1e-2)  # of a score without counts of images
    assert needed(of_seeds, seeds=2, freedom=2, groups=1) == "more than 100 times as many seeds"
    assert needed(seeds, seeds=2, freedom=2, groups=100, differences=8) == "about 9 seeds of each"
    both = Estimate(0.02, -0.01, 0.05, 0.1, 1e-4, 1e-4)
    found = needed(both, seeds=3, freedom=4, groups=5, unit="groups of images")
    assert found == "about 22 groups of images (4.4 times as many) and as many times more seeds"


def test_every_draw_has_every_class():
    shown = np.zeros((30, 3), bool)
    shown[:, 0] = shown[7, 1] = True  # one image with class 1, none with class 2
    groups = np.arange(30) // 2
    drawn = draw_groups(groups, 500, shown=shown)
    assert (drawn[:, shown[:, 1]].sum(axis=1) > 0).all()
    plain = draw_groups(groups, 500)
    np.testing.assert_array_equal(drawn[plain[:, 7] > 0], plain[plain[:, 7] > 0])
    assert set(np.unique((drawn - plain).sum(axis=1))) == {0, 2}  # a group of two images more


def test_a_setting_whose_seeds_differ_by_more_has_its_own_variance():
    full = [np.array([0.3, 0.5, 0.7]), *[np.array([0.50, 0.51, 0.52]) + k / 50 for k in range(3)]]
    scores = Scores(full, [np.repeat(v[:, None], 50, axis=1) for v in full], 10)
    noise = seed_noise(scores)
    assert noise.own.tolist() == [True, False, False, False]
    assert noise.variance == pytest.approx([0.04, 1e-4, 1e-4, 1e-4])
    assert noise.freedom.tolist() == [2, 6, 6, 6]
    alike = estimate(scores, noise, 2, 1)
    assert alike.p == pytest.approx(2 * stats.t.sf(0.02 / np.sqrt(1e-4 * 2 / 3), 6))
    margin = np.sqrt(0.04 / 3 * stats.t.isf(0.025, 2) ** 2 + 1e-4 / 3 * stats.t.isf(0.025, 6) ** 2)
    assert estimate(scores, noise, 0, 1).high == pytest.approx(margin + scores.means[0] - scores.means[1])


def test_variances_are_told_apart_by_the_f_test():
    assert not unlike(np.array([9.0, 1.0, 1.0]), np.array([2, 2, 2])).any()  # P(F(2, 4) > 9) = 0.033, times 3 settings
    assert unlike(np.array([40.0, 1.0, 1.0]), np.array([2, 2, 2])).tolist() == [True, False, False]
    assert not unlike(np.array([5.0, 0.0]), np.array([2, 2])).any()  # of two, neither is the usual one
    assert not unlike(np.zeros(4), np.array([2, 0, 2, 2])).any()
    assert unlike(np.array([1e-9, 0, 0, 0]), np.array([2, 0, 2, 2])).tolist() == [True, False, False, False]


def test_equal_settings_share_the_chance_of_being_the_best():
    draws = np.random.default_rng(0).normal(0.5, 0.1, (1, 2000))
    scores = Scores([np.array([0.5])] * 2, [draws] * 2, 50)
    assert ranks(scores, seed_noise(scores)).best == pytest.approx([0.5, 0.5], abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "seeds", "images", "scene"), [(2, 2, 100, 1), (2, 3, 60, 6), (5, 2, 20, 1), (5, 3, 100, 10)]
)
def test_no_difference_is_seldom_found(settings, seeds, images, scene):
    """200 repeats: of 5 % no more than 4 standard errors."""
    from simulate_comparison import simulate

    found = simulate(200, settings, seeds, images, scene)
    assert found["found"] <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 200)
    assert found["covered"] >= 0.95 - 4 * np.sqrt(0.05 * 0.95 / 200)


def test_a_difference_of_three_standard_errors_is_found():
    from simulate_comparison import simulate

    found = simulate(100, 2, 3, 200, 1, shift=0.55)
    assert found["found"] >= 0.7
    assert list(itertools.islice(found, 2)) == ["found", "covered"]
