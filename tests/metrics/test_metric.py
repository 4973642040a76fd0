"""The protocol of a metric, and a metric of the user's own."""

import json
import os

import numpy as np
import pytest
import torch

from segtrain.errors import ConfigError
from segtrain.metrics import SegmentationScores
from segtrain.metrics.metric import Metric, as_metric, numbers
from segtrain.metrics.records import Score

OWN = """
class Right:
    def __init__(self, class_names, multilabel, number: int = 0):
        pass

    def reset(self):
        self.right = self.pixels = 0

    def update(self, prediction, target, names=None):
        self.right += int((prediction == target).sum())
        self.pixels += target.numel()

    def compute(self):
        return {"right": self.right / self.pixels if self.pixels else float("nan")}
"""


def own():
    namespace = {}
    exec(OWN, namespace)
    return namespace["Right"](["a", "b"], False)


def test_the_required_methods_are_enough():
    metric = as_metric(own(), ["a", "b"])
    metric.update(torch.tensor([[[0, 1]], [[1, 1]]]), torch.tensor([[[0, 1]], [[0, 1]]]), ["x", "y"])
    assert metric.compute() == {"right": 3 / 4}
    assert metric.score_names() == ["right"]
    assert metric.records()["right"].higher_is_better
    assert (metric.names, metric.class_names) == (["x", "y"], ["a", "b"])
    assert (metric.per_class(), metric.state(), metric.intervals(), metric.table()) == ({}, {}, {}, None)
    metric.reset()
    assert metric.names == []


@pytest.mark.parametrize("base", [object, Metric])
def test_what_is_missing_is_named(base):
    kind = type("Half", (base,), {"reset": lambda self: None})
    with pytest.raises(ConfigError, match=r"the metric class has no update, compute\n.*Half\n.*see segtrain.metrics"):
        as_metric(kind(), ["a"])


def test_scores_before_the_first_image_are_asked_for_at_once():
    part = own()
    type(part).compute = lambda self: {"right": self.right / self.pixels}
    with pytest.raises(ValueError, match=r"Right.compute\(\) fails before the first image \(ZeroDivisionError"):
        as_metric(part, ["a", "b"])


def test_scores_of_any_kind_of_number_and_what_is_none():
    assert numbers({"a": torch.tensor(0.5), "b": np.float32(0.25), "c": 1}) == {"a": 0.5, "b": 0.25, "c": 1.0}
    with pytest.raises(ConfigError, match="the score a is list, not a number"):
        numbers({"a": [1]})


def test_an_update_of_other_arguments_and_no_scores_at_all_are_named_at_once():
    part = own()
    type(part).compute = lambda self: {}
    with pytest.raises(ValueError, match=r"Right.compute\(\) returns no score before the first image"):
        as_metric(part, ["a", "b"])
    type(part).update = lambda self, prediction, target: None
    with pytest.raises(ConfigError, match=r"Right.update is called as update\(prediction, target, names\)"):
        as_metric(part, ["a", "b"])


def test_a_class_that_derives_tells_the_direction():
    class Distance(Metric):
        def reset(self):
            pass

        def update(self, prediction, target, names=None):
            pass

        def compute(self):
            return {"distance": float("nan")}

        def records(self):
            return {"distance": Score("distance", "mean distance of the contours", higher_is_better=False, unit="px")}

    metric = as_metric(Distance(), ["a", "b"])
    assert isinstance(metric, Distance)
    assert not metric.records()["distance"].higher_is_better
    assert metric.class_names == ["a", "b"]


def test_segmentation_scores_are_taken_as_they_are():
    scores = SegmentationScores(2)
    assert as_metric(scores, ["a", "b"]) is scores
    assert scores.class_names == ["class 0", "class 1"]


@pytest.mark.slow
def test_a_training_and_an_evaluation_with_an_own_metric(console_script, tmp_path):
    from conftest import TINY

    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "conf/metric").mkdir(parents=True)
    (tmp_path / "conf/metric/own.yaml").write_text("_target_: own.Right\n")
    (tmp_path / "conf/metric/named.yaml").write_text("_target_: own.Right\nnumber: ${dataset.num_classes}\n")
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    words = ["--config-dir", "conf", *TINY, "metric=own", "trainer.monitor=right", "hydra.run.dir=run"]
    done = console_script(*words, env=env)
    assert done.code == 0, done
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["best"]["monitor"] == "right"
    assert (result["lower_is_better"], result["unit"], result["per_class"]) == (False, "", [])
    assert not (tmp_path / "run/per_image.npz").exists()
    named = ["metric=named", "--config-dir", "conf"]
    done = console_script("evaluate", "run", "--trust", "own", *named, env=env)
    assert done.code == 0, done
    assert "right" in done.out
    assert "right" in next(tmp_path.glob("run/evaluation/*/page.html")).read_text()
