"""Scores from counts of true and false positives and negatives per image and class."""

from segtrain.metrics.scores import SegmentationScores, predict

__all__ = ["SegmentationScores", "predict"]
