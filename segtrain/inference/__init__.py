"""Inference: sliding windows, test-time augmentation, thresholds, presence, and a coarse network that says where to look."""

from segtrain.inference.predictor import Prediction, Predictor, window_starts
from segtrain.inference.settings import Inference

__all__ = ["Inference", "Prediction", "Predictor", "window_starts"]
