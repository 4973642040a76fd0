"""Losses with parameters and buffers of their own: trained, kept in checkpoints, left alone by the validation."""

import pytest
import torch
import torch.nn.functional as F
from small_training import Tiny, fit, parts
from torch import nn

from segtrain.errors import ConfigError
from segtrain.losses import CrossEntropy, Loss, as_loss
from segtrain.optimizers import adamw, add_parameters
from segtrain.runs.checkpoints import read_checkpoint
from segtrain.schedules import poly
from segtrain.training import Trainer
from segtrain.training.step import Step


class Running(nn.Module):
    """Cross-entropy with weights by how often each class was seen in training so far."""

    def __init__(self, limit=None):
        super().__init__()
        self.register_buffer("seen", torch.ones(4))
        self.register_buffer("constant", torch.ones(4))
        self.limit = limit  # calls in training, after which it breaks

    def forward(self, logits, target):
        if self.training:
            self.seen += torch.bincount(target.flatten(), minlength=4).float()
            self.limit = self.limit and self.limit - 1
            if self.limit == 0:
                raise KeyboardInterrupt
        return F.cross_entropy(logits, target, weight=self.constant * self.seen.sum() / self.seen)


def made():
    torch.manual_seed(0)
    return Tiny()


def test_what_a_loss_has_counted_is_resumed(tmp_path):
    loss = Running()
    whole, network = fit(tmp_path / "whole", loss=loss, model=made())
    assert loss.seen.sum() == 4 + 2 * 12 * 32 * 32, "neither the validation nor the first try of it count"
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", loss=Running(limit=5), model=made(), checkpoint_every=1)
    kept = read_checkpoint(tmp_path / "stopped/checkpoints/last.pt")["loss"]
    assert [*kept] == ["module.seen"], "what is constant comes from the config"
    resumed, again = fit(tmp_path / "stopped", loss=Running(), model=made(), resume=True)
    assert resumed.scores == pytest.approx(whole.scores, nan_ok=True)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, logits, target):
        return F.cross_entropy(logits * self.temperature.exp(), target) + 0.1 * self.temperature**2


def test_parameters_of_a_loss_are_trained_and_clipped_with_the_network(tmp_path):
    made = parts(loss=Learned(), trainer=Trainer(epochs=1, device="cpu"))
    add_parameters(made.optimizer, made.loss)
    made.schedule = poly(made.optimizer, 3)
    assert made.optimizer.param_groups[-1]["params"] == [made.loss.module.temperature]
    assert made.optimizer.param_groups[-1]["weight_decay"] == 0
    how = {"device": torch.device("cpu"), "precision": torch.float32, "clip_norm": None, "ema_decay": None}
    step = Step(made, compiled=False, **how)
    step.train(frozen_encoder=False)
    step([next(iter(made.train.epoch(0)))], 0)
    assert made.loss.module.temperature != 0
    assert [*step.state_dict()["loss"]] == ["module.temperature"]
    shared = Loss()
    shared.needs, shared.bias = (), nn.Parameter(torch.zeros(()))
    with pytest.raises(ConfigError, match="has parameters of its own"):
        shared.check_shared()


def test_a_loss_without_state_adds_nothing_to_a_checkpoint_or_an_optimizer():
    optimizer = adamw(Tiny())
    groups = len(optimizer.param_groups)
    add_parameters(optimizer, CrossEntropy([1.0, 2.0, 3.0, 4.0]))
    assert len(optimizer.param_groups) == groups
    assert not as_loss(CrossEntropy([1.0, 2.0])).state_dict()


def test_losses_of_pytorch_take_the_targets_of_training():
    target = torch.randint(0, 4, (2, 8, 8), dtype=torch.uint8)
    logits = torch.randn(2, 4, 8, 8)
    assert as_loss(nn.CrossEntropyLoss())(logits, target) == F.cross_entropy(logits, target.long())
