"""Scores derived from the table: the authors' values, oracles, numbers by hand, and the bootstrap."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.metrics import SegmentationScores
from segtrain.metrics.bootstrap import intervals
from segtrain.metrics.groups.per_image import PerImage
from segtrain.metrics.groups.presence import Presence
from segtrain.metrics.groups.standard import Standard
from segtrain.metrics.table import Classes, Table

DATA = Path(__file__).parents[1] / "reference"
ALL = {"groups": ["fine_grained", "presence", "foreground", "objects", "boundary"], "worst": [20]}


def table_of(counts):
    counts = np.asarray(counts)
    valid = np.broadcast_to(counts[..., [0, 2]].sum(axis=(1, 2))[:, None], counts.shape[:2])
    return Table({"tp": counts[..., 0], "fp": counts[..., 1], "fn": counts[..., 2], "valid": valid})


def scores_of_group(group, counts, *settings):
    """The scores of counts int64 [images, C, 3], by a group of scores."""
    classes = Classes([f"c{i}" for i in range(np.asarray(counts).shape[1])])
    return group(classes, *settings).scores(table_of(counts))


def scores_of(prediction, target, num_classes, **kwargs):
    scores = SegmentationScores(num_classes, **{**ALL, **kwargs})
    scores.update(torch.as_tensor(prediction), torch.as_tensor(target))
    return scores.compute()


REFERENCE = json.loads((DATA / "reference.json").read_text())["metrics"]
OURS = {
    "Acc": "accuracy",
    "mAccD": "balanced_accuracy", "mIoUD": "iou/mean", "mDiceD": "dice/mean",
    **{f"m{a}{k}": f"{b}_{c}/mean" for a, b in (("Acc", "accuracy"), ("IoU", "iou"), ("Dice", "dice")) for k, c in (("I", "image"), ("C", "class"))},
    **{f"m{a}{k}Q": f"{b}_{c}/worst" for a, b in (("Acc", "accuracy"), ("IoU", "iou"), ("Dice", "dice")) for k, c in (("I", "image"), ("C", "class"))},
    **{f"m{a}{k}20": f"{b}_{c}/worst_20" for a, b in (("Acc", "accuracy"), ("IoU", "iou"), ("Dice", "dice")) for k, c in (("I", "image"), ("C", "class"))},
}  # fmt: skip


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: c["case"])
def test_reference_values(case):
    arrays = np.load(DATA / "reference.npz")
    name = case["case"]
    found = scores_of(
        arrays[f"{name}_prediction"].astype(int), arrays[f"{name}_target"].astype(int), case["num_classes"]
    )
    assert set(case["values"]) == set(OURS)
    for theirs, value in case["values"].items():
        assert found[OURS[theirs]] == pytest.approx(value, rel=1e-5), theirs


def random_pair(seed, n=4, c=4, size=9):
    """Truth with few classes, ignored pixels, images of one value, images all ignored."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, rng.integers(1, c + 1), (n, size, size))
    target[rng.random(target.shape) < 0.2] = 255
    kind = rng.integers(0, 6)
    target[0] = {0: 255, 1: 0}.get(int(kind), target[0])
    return np.where(rng.random(target.shape) < 0.6, target % 255 % c, rng.integers(0, c, target.shape)), target


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_500_random_cases_against_torchmetrics(block):
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCohenKappa, MulticlassF1Score

    for seed in range(50 * block, 50 * block + 50):
        prediction, target = random_pair(seed)
        found = scores_of(prediction, target, 4)
        if (target == 255).all():
            assert np.isnan(found["kappa"])
            continue
        p, t = torch.as_tensor(prediction), torch.as_tensor(target)
        kappa = MulticlassCohenKappa(num_classes=4, ignore_index=255)(p, t).item()
        assert found["kappa"] == pytest.approx(kappa, abs=1e-5, nan_ok=True)
        recall = MulticlassAccuracy(num_classes=4, average=None, ignore_index=255)(p, t).numpy()
        there = [c for c in range(4) if (target == c).any()]
        assert found["balanced_accuracy"] == pytest.approx(recall[there].mean(), rel=1e-5)
        f1 = MulticlassF1Score(num_classes=4, average=None, ignore_index=255)(p, t).numpy()
        seen = [c for c in range(4) if (target == c).any() or ((prediction == c) & (target != 255)).any()]
        assert found["dice/mean"] == pytest.approx(f1[seen].mean(), rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_image_and_class_scores_against_a_plain_loop(seed):
    prediction, target = random_pair(seed)
    found = scores_of(prediction, target, 4)
    values = np.full((4, 4), np.nan)
    for i, (p, t) in enumerate(zip(prediction, target, strict=True)):
        for c in range(4):
            p_c, t_c = (p == c) & (t != 255), t == c
            if t_c.any():
                values[i, c] = (p_c & t_c).sum() / (p_c | t_c).sum()
    images = [v[~np.isnan(v)].mean() for v in values if not np.isnan(v).all()]
    classes = [v[~np.isnan(v)].mean() for v in values.T if not np.isnan(v).all()]
    assert found["iou_image/mean"] == pytest.approx(np.mean(images) if images else np.nan, nan_ok=True)
    assert found["iou_class/mean"] == pytest.approx(np.mean(classes) if classes else np.nan, nan_ok=True)


def test_a_perfect_prediction_scores_1_everywhere():
    target = np.random.default_rng(0).integers(0, 4, (3, 8, 8))
    target[1] = 0
    found = scores_of(target, target, 4)
    defined = {name for name, value in found.items() if value == value}
    assert {round(found[name], 12) for name in defined} == {1.0}
    missing = [name for name in found if name not in defined]
    assert all(n.startswith(("errors_", "object_recall_", "specificity")) for n in missing), (
        "no errors, no large objects"
    )


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_two_halves_merge_to_the_whole_in_any_order(seed):
    prediction, target = (torch.as_tensor(a) for a in random_pair(seed))
    whole, parts = SegmentationScores(4, **ALL), SegmentationScores(4, **ALL)
    whole.update(prediction, target)
    for rows in ([3, 1], [0], [2]):
        parts.update(prediction[rows], target[rows])
    for name, value in whole.compute().items():
        assert str(parts.compute()[name]) == str(value), name  # bit for bit


def test_presence_by_hand():
    # images: class 1 found, missed, a false alarm of 2 pixels, empty and left empty
    counts = np.zeros((4, 2, 3), int)
    counts[:, 0, 0] = 50
    counts[0, 1], counts[1, 1], counts[2, 1] = (5, 3, 0), (0, 0, 9), (0, 2, 0)
    found = scores_of_group(Presence, counts, 1)
    assert found["presence_recall/c1"] == 1 / 2
    assert found["presence_precision/c1"] == 1 / 2
    assert found["specificity"] == 1 / 2
    strict = scores_of_group(Presence, counts, 3)
    assert strict["presence_precision/c1"] == 1
    assert strict["specificity"] == 1


def test_an_image_that_is_all_ignored_is_not_left_empty():
    counts = np.zeros((3, 2, 3), int)
    counts[0, 0, 2] = counts[0, 1, 1] = 9  # background predicted as foreground
    assert scores_of_group(Presence, counts, 1)["specificity"] == 0


def test_the_worst_images_by_hand():
    counts = np.zeros((5, 2, 3), int)
    counts[:, 0] = (10, 0, 0)
    counts[:, 1, 0], counts[:, 1, 2] = [0, 2, 4, 6, 8], [10, 8, 6, 4, 2]
    found = scores_of_group(PerImage, counts, [20, 40])
    assert found["iou_image/foreground"] == pytest.approx(0.4)
    assert found["iou_image/mean"] == pytest.approx(0.7)
    assert found["iou_image/worst_20"] == pytest.approx(0.5)
    assert found["iou_image/worst_40"] == pytest.approx(0.55)
    assert found["iou_class/worst_40"] == pytest.approx((1 + 0.1) / 2)


def test_counts_beyond_2_to_31_are_right():
    counts = np.array([[[2**33, 2**31, 2**31], [2**31, 2**31, 2**31]]])
    found = scores_of_group(Standard, counts)
    assert found["iou/c0"] == pytest.approx(4 / 6)
    total = 2**33 + 2**32 + 2**31
    chance = ((2**33 + 2**31) ** 2 + (2**32) ** 2) / total**2
    assert found["kappa"] == pytest.approx(((2**33 + 2**31) / total - chance) / (1 - chance))


@pytest.mark.long
def test_the_bootstrap_covers_the_truth_95_times_of_100():
    """500 samples of 60 images of a known population: the interval holds the true mean 95 % ± 2 of the times."""
    rng = np.random.default_rng(1)
    truth, held, scores = 0.6, 0, lambda t: {"mean": float(t["tp"][:, 0].mean()) / 1000}
    for repeat in range(500):
        sample = np.zeros((60, 1, 3), int)
        sample[:, 0, 0] = rng.beta(6, 4, 60) * 1000

        low, high = intervals(scores, table_of(sample), repeats=400, seed=repeat)["mean"]
        held += low <= truth <= high
    assert 0.93 <= held / 500 <= 0.97


def test_intervals_are_seeded_and_shrink_with_images():
    def interval(images, seed=0):
        scores = SegmentationScores(4)
        rng = np.random.default_rng(0)
        target = rng.integers(0, 4, (images, 6, 6))
        prediction = np.where(rng.random(target.shape) < 0.7, target, rng.integers(0, 4, target.shape))
        scores.update(torch.as_tensor(prediction), torch.as_tensor(target))
        low, high = scores.intervals(300, seed)["iou/mean"]
        assert low < scores.compute()["iou/mean"] < high
        return low, high

    assert interval(20) == interval(20)
    assert interval(20) != interval(20, seed=1)
    assert np.diff(interval(500)) < np.diff(interval(20)) / 3
    assert np.isnan(SegmentationScoresOfOne().intervals(50)["iou/mean"][0])


def test_images_of_a_group_are_drawn_together():
    """Nine copies of each image say no more than the image."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 4, (20, 6, 6))
    prediction = np.where(rng.random(target.shape) < 0.7, target, rng.integers(0, 4, target.shape))
    widths = []
    for copies, groups in ((1, None), (9, [f"{i:02}" for i in range(20) for _ in range(9)]), (9, None)):
        scores = SegmentationScores(4)
        scores.update(*(torch.as_tensor(np.repeat(a, copies, axis=0)) for a in (prediction, target)))
        widths.append(float(np.diff(scores.intervals(300, groups=groups)["iou/mean"])[0]))
    alone, together, as_if_independent = widths
    assert together == pytest.approx(alone, rel=1e-6)
    assert as_if_independent == pytest.approx(alone / 3, rel=0.25)
    assert np.isnan(scores.intervals(50, groups=["one"] * 180)["iou/mean"][0])


def SegmentationScoresOfOne():
    scores = SegmentationScores(2)
    scores.update(torch.zeros(1, 3, 3, dtype=torch.long), torch.zeros(1, 3, 3, dtype=torch.long))
    return scores


def test_evaluate_prints_every_score_with_its_interval(segtrain, trained_copy, tmp_path):
    result = json.loads((tmp_path / "run/result.json").read_text())
    low, high = result["intervals"]["iou/mean"]
    assert low <= result["scores"]["iou/mean"] <= high
    done = segtrain("evaluate", "run", "metric=all", "--bootstrap", "50")
    assert done.code == 0, done
    for name in ("kappa", "iou_image/worst_5", "presence recall", "specificity", "boundary iou", "average precision"):
        assert name in done.out
    rows = (tmp_path / "run/evaluation/val_metric=all/per_image.csv").read_text().splitlines()
    assert rows[0].startswith(
        "image,accuracy,iou,foreground_pixels,foreground_predicted,pixels/background,predicted/background,iou/background"
    )
    assert len(rows) == 13
    saved = json.loads((tmp_path / "run/evaluation/val_metric=all/scores.json").read_text())
    assert saved["scores"]["iou/mean"] == result["scores"]["iou/mean"]
    assert "iou_class/mean" in saved["intervals"]
    for page in (tmp_path / "run/page.html", tmp_path / "run/evaluation/val_metric=all/page.html"):
        text = page.read_text()
        assert "Confusion matrix" in text
        assert text.count("data:image/svg") == (4 if "metric=all" in str(page) else 2)  # the run's own learning curves
        assert "http" not in text
    done = segtrain("evaluate", "run", "metric=detection", "metric.min_area=100000", "--bootstrap", "0")
    saved = json.loads(next(tmp_path.glob("run/evaluation/*min_area*/scores.json")).read_text())
    assert saved["scores"]["presence_recall/foreground"] == 0, "a setting beside a preset counts"
    assert saved["settings"] == ["metric=detection", "metric.min_area=100000"]
    for wrong in (["metric=null"], ["--bootstrap", "-5"], ["--bootstrap", "3"]):
        refused = segtrain("evaluate", "run", *wrong)
        assert refused.code == 2, refused
        assert "Traceback" not in refused.err
    done = segtrain("evaluate", "run", "metric=everything")
    assert done.code == 2
    assert "fine_grained" in done.err
    assert segtrain(*TINY, "trainer.monitor=iou_image/worst_5").code == 2
    assert segtrain(*TINY, "trainer.monitor=iou_image/worst_5", "metric=fine_grained").code == 0


def test_a_preset_changes_the_groups_and_keeps_the_runs_own_settings(tmp_path):
    from omegaconf import OmegaConf

    from segtrain.config.compose import compose, without_hydra
    from segtrain.config.saved import load_saved

    cfg = without_hydra(compose(["metric=all", "metric.min_area=40", "metric.object_sizes=[30,100]"]))
    OmegaConf.save(cfg, tmp_path / "config.yaml", resolve=True)
    metric = load_saved(tmp_path / "config.yaml", ["metric=detection"], []).metric
    assert metric.groups == ["presence", "foreground", "objects"]
    assert (metric.min_area, metric.object_sizes) == (40, [30, 100])


def test_comparing_runs_of_different_monitors_orders_by_a_score_that_is_better_high(segtrain, tmp_path):
    for name, monitor, iou in (("a", "ece", 0.1), ("b", "iou/mean", 0.9)):
        (tmp_path / name).mkdir()
        result = {
            "status": "finished",
            "best": {"epoch": 0, "monitor": monitor, "value": 0.5},
            "scores": {"iou/mean": iou, "ece": iou},
            "lower_is_better": monitor == "ece",
        }
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    done = segtrain("compare", "a", "b", "--out", "report")
    assert "best first by iou/mean; scores in %" in done.out
    with (tmp_path / "report/comparison.csv").open() as stream:
        assert [float(row["iou/mean"]) for row in csv.DictReader(stream)] == [0.9, 0.1]
    low = segtrain("compare", "a").out
    assert "best first by ece" in low


def test_a_class_in_few_images_does_not_move_the_interval_of_the_mean():
    """A draw without it must not average the other classes alone."""
    rng, target = np.random.default_rng(0), np.zeros((40, 8, 8), int)
    target[:, 4:], target[0, :2], target[1:3, :, 7] = 1, 2, 3
    prediction = np.where(rng.random(target.shape) < 0.9, target, 0)
    prediction[0, :2] = 0
    scores = SegmentationScores(4, groups=["fine_grained", "presence"])
    scores.update(torch.as_tensor(prediction), torch.as_tensor(target))
    found, exact = scores.intervals(300), scores.compute()
    for name in ("iou/mean", "iou/foreground", "iou_class/mean", "balanced_accuracy"):
        low, high = found[name]
        assert low < exact[name] < high < exact[name] + 0.1, name
    assert np.isnan(found["iou/class 2"]).all(), "one image tells nothing of others"
    assert found["iou/class 3"][0] < exact["iou/class 3"] <= found["iou/class 3"][1]
    of_groups = scores.intervals(50, groups=["a", "b", "b", *(f"{i}" for i in range(37))])
    assert np.isnan(of_groups["iou/class 3"]).all(), "both images of it are of one group"
    assert not np.isnan(of_groups["iou/class 1"]).any()
    empty = SegmentationScores(2, groups=["calibration"]).intervals()
    assert np.isnan(empty["iou/mean"]).all()


def test_a_mean_that_one_image_decides_has_no_interval():
    target = np.zeros((10, 8, 8), int)
    target[0, :4] = 1
    prediction = target.copy()
    prediction[0, :2] = 0
    scores = SegmentationScores(2)
    scores.update(torch.as_tensor(prediction), torch.as_tensor(target))
    found = scores.intervals(100)
    assert np.isnan(found["iou/foreground"]).all()
    assert not np.isnan(found["iou/mean"]).any()


def test_names_and_classes_that_cannot_be():
    with pytest.raises(ValueError, match="1 names for 2 images"):
        SegmentationScores(2).update(torch.zeros(2, 3, 3), torch.zeros(2, 3, 3), names=["a"])
    with pytest.raises(ValueError, match="at most 256"):
        SegmentationScores(300)
