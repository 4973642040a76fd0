"""Presence and thresholds that are chosen on some images, and scored on others."""

import numpy as np
import pytest
import torch

from segtrain.metrics import SegmentationScores
from segtrain.metrics.tuning import FOLDS, LEVELS, Counted, alarmed, best_presence, cross_fitted, folds_of


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
    counted = Counted(levels, tp, levels[:, :, 100:, 0].sum(axis=2), levels[..., 1].sum(axis=2) - tp)

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


def test_presence_with_few_enough_false_alarms():
    rng = np.random.default_rng(1)
    levels = np.zeros((200, 3, len(LEVELS), 2), int)
    there = rng.random((200, 3)) < [1, 0.1, 0.2]
    confidence = rng.integers(64, len(LEVELS), (200, 3)) + np.where(there, 20, 0)
    pixels = rng.integers(1, 60, (200, 3)) + np.where(there, 20, 0)
    for image, label in np.ndindex(200, 3):
        part = min(confidence[image, label], len(LEVELS) - 1)
        levels[image, label, part, int(there[image, label])] = pixels[image, label]
    tp, fp = levels[..., 1].sum(axis=2), levels[..., 0].sum(axis=2)
    counted, classes = Counted(levels, tp, fp, np.zeros_like(tp)), np.array([False, True, True])
    empty = ~there[:, 1:].any(axis=1)

    def alarms(found) -> float:
        by_hand = [(found.applied(counted).fp[image, 1:] > 0).any() for image in np.flatnonzero(empty)]
        assert alarmed(found.applied(counted), classes) == pytest.approx(np.mean(by_hand))
        return float(np.mean(by_hand))

    best = best_presence(counted, classes)
    shares = [alarms(best_presence(counted, classes, limit)) for limit in (0.2, 0.1, 0.02, 0)]
    assert alarms(best) > 0.2
    assert np.all(np.array(shares) <= [0.2, 0.1, 0.02, 0])
    assert best_presence(counted, classes, 1.0).area.tolist() == best.area.tolist()
    kept = [best_presence(counted, classes, limit).applied(counted).tp.sum() for limit in (0.2, 0.02)]
    assert kept[0] > kept[1] > 0
