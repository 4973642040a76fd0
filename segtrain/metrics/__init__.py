"""Scores from counts per image and class, of which none is an average of the scores of batches."""

from segtrain.metrics.confusion import predict
from segtrain.metrics.scores import SegmentationScores

__all__ = ["SegmentationScores", "predict"]
