"""Scores from counts per image and class, of which none is an average of the scores of batches."""

from segtrain.metrics.confusion import predict
from segtrain.metrics.metric import Metric, as_metric
from segtrain.metrics.records import LOSS, Score
from segtrain.metrics.scores import SegmentationScores

__all__ = ["LOSS", "Metric", "Score", "SegmentationScores", "as_metric", "predict"]
