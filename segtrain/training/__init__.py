"""Training: the loop, its step, its state, and the evaluation of a network."""

from segtrain.training.evaluation import evaluate, predict_one
from segtrain.training.state import Best, Epoch, Parts, State
from segtrain.training.trainer import Trainer

__all__ = ["Best", "Epoch", "Parts", "State", "Trainer", "evaluate", "predict_one"]
