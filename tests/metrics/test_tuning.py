"""PresenceRule and thresholds that are chosen on some images, and scored on others."""

import itertools

import numpy as np
import pytest
import torch

from segtrain.inference.presence import confident_pixels, without_absent
from segtrain.metrics import SegmentationScores
from segtrain.metrics.tuning import (
    AREAS,
    FOLDS,
    LEVELS,
    Limit,
    PresenceRule,
    TuningCounts,
    best_presence,
    cross_fitted,
    folds_of,
)


def scores_of(logits, target, multilabel=False, **settings):
    scores = SegmentationScores(logits.shape[1], groups=["presence", "thresholds"], multilabel=multilabel, **settings)
    prediction = logits > 0 if multilabel else logits.argmax(dim=1).to(torch.uint8)
    scores.update(prediction, target, [f"{i:03}" for i in range(len(logits))], logits=logits)
    return scores


def defects(images=40, seed=0):
    """One foreground class: large and sure where it is, small and unsure where the network only thinks so."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.zeros(images, 16, 16, dtype=torch.uint8)
    logits = torch.zeros(images, 2, 16, 16)
    logits[:, 1] = -4 + torch.rand(images, 16, 16, generator=generator)
    for i in range(images):
        if i % 4 == 0:
            target[i, 2:8, 2:8] = 1
            logits[i, 1, 2:8, 2:8] = 3.0
        elif i % 4 == 1:
            logits[i, 1, 10:12, 10:12] = 1.0  # a false alarm of 4 pixels
    return logits, target


def test_presence_keeps_clean_images_clean():
    logits, target = defects()
    scores = scores_of(logits, target)
    assert scores.compute()["specificity"] == pytest.approx(20 / 30)
    found = scores.best_presence()
    assert found["area"][0] == 0, "the background is always there"
    assert 0 < found["area"][1] <= 36
    fitted = scores.cross_fitted(presence=True)
    assert fitted["specificity"] == 1
    assert fitted["iou/foreground"] == 1
    assert fitted["presence_recall/class 1"] == 1


def test_nothing_is_left_out_where_that_costs_more():
    logits, target = defects()
    logits[:, 1][target == 1] -= 1.9  # what is there is now as unsure as what is not
    logits[:, 1, 10:12, 10:12] = -4
    found = scores_of(logits, target).best_presence()
    assert found == {"area": [0, 0], "confidence": [0.0, 0.0]}


def test_best_presence_maximises_what_it_says():
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 3, (30, 2, len(LEVELS), 2))
    levels[rng.random(30) < 0.5, 1, :, 1] = 0
    tp = levels[:, :, 100:, 1].sum(axis=2)
    counted = TuningCounts(levels, tp, levels[:, :, 100:, 0].sum(axis=2), levels[..., 1].sum(axis=2) - tp)

    def value(presence) -> float:
        after = presence.applied(counted)
        dice = 2 * after.tp / np.maximum(2 * after.tp + after.fp + after.fn, 1)
        shown = (counted.tp + counted.fn)[:, 1] > 0
        return dice[shown, 1].mean() / 2 + (after.fp[~shown, 1] == 0).mean() / 2

    found = best_presence(counted, np.array([False, True]))
    best = value(found)
    for area in (1, 4, 16, 64, 256):
        for part in range(0, len(LEVELS), 9):
            other = type(found)(np.array([0, area]), np.array([0, LEVELS[part]]))
            assert value(other) <= best + 1e-9


def test_what_was_chosen_by_chance_does_not_help_on_other_images():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 3, 8, 8, generator=generator)
    target = (torch.rand(20, 3, 8, 8, generator=generator) < 0.05).to(torch.uint8)
    scores = scores_of(logits, target, multilabel=True, background=None)
    cuts = torch.tensor(list(scores.best_thresholds().values())).logit().view(-1, 1, 1).float()
    tuned = SegmentationScores(3, multilabel=True, background=None)
    tuned.update(logits > cuts, target)
    assert scores.cross_fitted()["dice/foreground"] < tuned.compute()["dice/foreground"]


def test_a_class_that_is_easy_everywhere_is_cross_fitted_to_the_same():
    target = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    target[:, :, :4] = 1
    logits = target * 3.0 - 2.5  # the best threshold is below one half... of the odds
    scores = scores_of(logits, target, multilabel=True, background=None)
    fitted = scores.cross_fitted()
    assert fitted["iou/class 0"] == 1


def test_groups_stay_in_one_fold():
    groups = [f"scene {i // 3}" for i in range(60)]
    folds = folds_of(groups)
    assert len(np.unique(folds)) == FOLDS
    assert all(len(set(folds[i : i + 3])) == 1 for i in range(0, 60, 3))
    assert np.bincount(folds).tolist() == [12] * FOLDS


def test_one_group_leaves_nothing_to_choose_from():
    assert scores_of(*defects(8)).cross_fitted(["one"] * 8, presence=True) == {}


def test_a_class_of_one_group_is_predicted_above_one_half():
    target = torch.zeros(10, 1, 8, 8, dtype=torch.uint8)
    target[0, 0, :4] = 1
    logits = torch.full((10, 1, 8, 8), -3.0)
    logits[0, 0, :4] = 0.5
    counted = scores_of(logits, target, multilabel=True, background=None)._counted()
    found = cross_fitted(counted, [str(i) for i in range(10)], True, None)
    assert (found.tp.sum(), found.fp.sum(), found.fn.sum()) == (32, 0, 0)


def drawn_images(number: int, shares: list[float], seed: int = 1) -> TuningCounts:
    """Of the classes after the first, each image has or has not each; predictions are surer where it has."""
    rng = np.random.default_rng(seed)
    there = rng.random((number, len(shares))) < shares
    parts = np.minimum(rng.integers(64, len(LEVELS), there.shape) + 20 * there, len(LEVELS) - 1)
    levels = np.zeros((number, len(shares), len(LEVELS), 2), int)
    image, label = np.indices(there.shape)
    levels[image, label, parts, there.astype(int)] = rng.integers(1, 60, there.shape) + 20 * there
    tp, fp = levels[..., 1].sum(axis=2), levels[..., 0].sum(axis=2)
    return TuningCounts(levels, tp, fp, np.zeros_like(tp))


def limit_of(counted: TuningCounts, share: float, min_area: int = 1) -> Limit:
    foreground = np.arange(counted.tp.shape[1]) > 0
    return Limit(share, ~(counted.tp + counted.fn > 0)[:, 1:].any(axis=1), foreground, min_area)


@pytest.mark.parametrize("min_area", [1, 30])
@pytest.mark.parametrize("shares", [[1, 0.1, 0.2], [1, 0.3, 0], [1, 0.05]])
def test_presence_with_few_enough_false_alarms(shares, min_area):
    counted, classes = drawn_images(200, shares), np.arange(len(shares)) > 0

    def alarms(found) -> float:
        after, limit = found.applied(counted), limit_of(counted, 0.1)
        by_hand = [(after.fp[image, 1:] >= min_area).any() for image in np.flatnonzero(limit.clean)]
        return float(np.mean(by_hand))

    assert alarms(best_presence(counted, classes)) > 0.2
    kept = []
    for share in (0.2, 0.1, 0.02, 0):
        found = best_presence(counted, classes, limit_of(counted, share, min_area))
        assert alarms(found) <= share
        after = found.applied(counted)
        shown = (counted.tp > 0)[:, 1:]
        found = (after.tp[:, 1:] > 0).sum(axis=0) / np.maximum(shown.sum(axis=0), 1)
        kept.append((found - ((after.fp[:, 1:] > 0) & ~shown).sum(axis=0) / (~shown).sum(axis=0)).sum())
    assert all(looser >= stricter - 0.02 for looser, stricter in itertools.pairwise(kept))
    assert kept[3] > 0
    loose = best_presence(counted, classes, limit_of(counted, 1.0))
    assert loose.area.tolist() == best_presence(counted, classes, limit_of(counted, 0.99)).area.tolist()


@pytest.mark.slow
def test_presence_of_one_class_is_the_best_that_its_limit_allows():
    counted, classes = drawn_images(150, [1, 0.3], seed=3), np.array([False, True])
    limit = limit_of(counted, 0.1)
    dice = lambda after: after.tp[~limit.clean, 1].astype(bool).mean()  # noqa: E731  every prediction is right, or alarms
    found = dice(best_presence(counted, classes, limit).applied(counted))
    for area in AREAS:
        for confidence in np.unique(LEVELS):
            after = PresenceRule(np.array([0, area]), np.array([0, confidence])).applied(counted)
            if limit.alarms(after).any(axis=1).sum() <= limit.allowed:
                assert dice(after) <= found + 0.02, (area, confidence)


def test_a_class_that_no_image_shows_is_never_predicted_where_its_alarms_are_too_many():
    counted, classes = drawn_images(300, [1, 0.3, 0]), np.array([False, True, True])
    strict = best_presence(counted, classes, limit_of(counted, 0.05))
    alone = best_presence(
        counted, np.array([False, True, False]), Limit(0.05, limit_of(counted, 0).clean, classes & [1, 1, 0])
    )
    found = [one.applied(counted).tp[:, 1].astype(bool).mean() for one in (strict, alone)]
    assert found[0] >= found[1] - 0.02
    assert strict.applied(counted).fp[:, 2].astype(bool).mean() < 0.05


def test_without_probabilities_nothing_is_chosen():
    scores = SegmentationScores(2)
    scores.update(torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(1, 4, 4, dtype=torch.long))
    assert scores.best_presence() == scores.best_thresholds() == {}


def test_probabilities_that_round_to_one_are_within_the_limit():
    """Odds tell them apart, a float32 does not: a rule that asked for 1 would find more pixels than were counted."""
    logits = torch.zeros(8, 2, 8, 8)
    logits[:, 0] = 30.0
    logits[:4, 1, :2, :2] = 60.0
    logits[4:, 1, 0, 0] = 30 + 17.0  # false alarms, of a probability of 1 - 4e-8
    target = torch.zeros(8, 8, 8, dtype=torch.uint8)
    target[:4, :2, :2] = 1
    found = scores_of(logits, target).best_presence(false_alarms=0.0)
    presence = {"area": found["area"], "confidence": found["confidence"]}
    confident = confident_pixels(logits.softmax(dim=1), presence)
    kept = without_absent(logits.argmax(dim=1).to(torch.uint8), confident, presence, 0)
    assert not kept[4:].any()
    assert kept[:4].sum() == 16
