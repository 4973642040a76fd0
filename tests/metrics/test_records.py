"""Records of scores: each score has one, and it tells meaning, direction, unit and tag."""

import numpy as np
import pytest
import torch

from segtrain.metrics import SegmentationScores
from segtrain.metrics.records import LOSS

ALL = ["fine_grained", "presence", "foreground", "objects", "boundary", "calibration"]


def filled(images, c=3, size=12, **kwargs):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, c, size, size, generator=generator)
    target = torch.randint(0, c, (images, size, size), generator=generator)
    scores = SegmentationScores(c, **{"groups": ALL, **kwargs})
    scores.update(logits.argmax(dim=1), target, logits=logits)
    return scores


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("background", [0, None])
def test_every_score_has_a_record_with_a_meaning(multilabel, background):
    scores = SegmentationScores(3, background=background, multilabel=multilabel, groups=ALL)
    records = scores.records()
    assert list(records) == list(scores.compute()) == scores.score_names()
    for name, record in records.items():
        assert record.name == name
        assert record.meaning[0].isalnum(), name
        assert record.unit == "%"


def test_a_meaning_is_a_whole_sentence_for_means_too():
    records = SegmentationScores(3, groups=ALL).records()
    assert records["dice/foreground"].meaning == (
        "2 TP / (2 TP + FP + FN), the F1 score of pixels; mean over the classes without the background"
    )
    assert records["iou_image/foreground"].meaning.startswith("IoU: mean over images")


def test_kind_part_and_class_of_a_name():
    records = SegmentationScores(2, class_names=["sky/blue", "mean value"], background=None).records()
    record = records["iou/sky/blue"]
    assert (record.kind, record.part, record.class_name) == ("iou", "sky/blue", "sky/blue")
    assert (records["iou/mean"].kind, records["iou/mean"].part, records["iou/mean"].class_name) == ("iou", "mean", None)
    assert records["accuracy"].kind == "accuracy"


def test_errors_are_better_low():
    records = SegmentationScores(2, groups=ALL).records()
    lower = {record.kind for record in records.values() if not record.higher_is_better}
    assert lower == {"ece", "class_ece", "errors_beyond_8"}
    assert not LOSS.higher_is_better
    assert LOSS.unit == ""


def test_tags_of_tensorboard():
    records = SegmentationScores(2, groups=ALL).records()
    tags = {name: records[name].tag for name in ("iou/mean", "dice/foreground", "accuracy", "iou/class 1", "ece")}
    assert list(tags.values()) == [
        "means/iou_mean",
        "means/dice_foreground",
        "means/accuracy",
        "iou/class 1",
        "means/ece",
    ]
    assert records["foreground/iou"].tag == "foreground/iou"
    assert records["iou_image/worst_5"].tag == "iou_image/worst_5"
    assert LOSS.tag == "loss/val"


def test_the_worst_percent_that_are_one_image_have_no_interval_and_say_so():
    scores = filled(23, worst=[1, 5, 20])
    found, values, records = scores.intervals(40), scores.compute(), scores.records()
    assert values["iou_image/worst_1"] == values["iou_image/worst_5"]
    for name in ("iou_image/worst_1", "iou_image/worst_5", "dice_class/worst_5"):
        assert np.isnan(found[name]).all(), "one image tells nothing of others"
        assert not np.isnan(values[name])
    assert records["iou_image/worst_5"].meaning.endswith("worst 5 % of the images: 1 of 23, so no interval")
    assert records["iou_class/worst_5"].meaning.endswith("worst 5 % of the images: 1 of each class, so no interval")
    assert records["iou_image/worst_20"].meaning.endswith("worst 20 % of the images: 4 of 23")
    assert found["iou_image/worst_20"][0] < found["iou_image/worst_20"][1]
    low, high = filled(60, worst=[5]).intervals(40)["iou_image/worst_5"]
    assert low < high, "3 of 60 images"


def test_boundary_iou_of_thin_objects_is_iou_and_its_meaning_says_so():
    target = torch.zeros(1, 40, 40, dtype=torch.long)
    target[:, 10:30, 10:13] = 1
    scores = SegmentationScores(2, groups=["boundary"], boundary_width=3)
    scores.update(target.roll(1, 2), target)
    values = scores.compute()
    assert values["boundary_iou/class 1"] == values["iou/class 1"]
    for name in ("boundary_iou/mean", "boundary_iou/class 1"):
        assert "equal to IoU for objects thinner than two bands" in scores.records()[name].meaning
