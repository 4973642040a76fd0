"""Losses with parameters and buffers of their own: trained, kept in checkpoints, left alone by the validation."""

import json

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from small_training import Tiny, fit, parts
from torch import nn

from segtrain.errors import ConfigError
from segtrain.files import write_checkpoint
from segtrain.losses import CrossEntropy, Loss, as_loss
from segtrain.losses.state import load_own_state
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


class Pretrained(nn.Module):
    """A loss with a frozen network, a queue that grows, a buffer that is made later, and state that is no tensor."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)).requires_grad_(False).eval()
        self.register_buffer("queue", torch.zeros(0))
        self.register_buffer("ema", None)
        self.calls, self.trained_calls = 0, 0

    def forward(self, logits, target):
        self.calls += self.training
        self.ema = torch.ones(()) if self.ema is None else self.ema
        self.queue = torch.cat([self.queue, torch.ones(1)]) if self.training else self.queue
        return F.cross_entropy(logits, target) + self.network(logits).abs().mean()

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


def test_a_frozen_network_stays_as_it_is_and_state_of_any_kind_is_resumed(tmp_path):
    loss = Pretrained()
    fit(tmp_path / "run", loss=loss, epochs=1)
    assert not loss.network.training
    assert loss.training
    assert loss.network[1].running_mean.abs().sum() == 0
    kept = read_checkpoint(tmp_path / "run/checkpoints/last.pt")["loss"]
    assert "module.network.0.weight" not in kept
    again = Pretrained()
    fit(tmp_path / "run", loss=again, epochs=2, resume=True)
    assert (again.calls, len(again.queue), float(again.ema)) == (6, 6, 1.0)
    best = read_checkpoint(tmp_path / "run/checkpoints/best.pt")["loss"]
    assert best["module._extra_state"]["calls"] in (3, 6)
    with pytest.raises(ValueError, match="the loss has no module.other"):
        load_own_state(as_loss(Pretrained()), {"module.other": torch.ones(())})


class Spoilt(Running):
    """Its second batch is not finite."""

    def forward(self, logits, target):
        loss = super().forward(logits, target)
        first = self.seen.sum() < 4 + 2 * 4 * 32 * 32
        return loss if first or not self.training or self.spoilt else self.spoil(loss)

    spoilt = False

    def spoil(self, loss):
        self.spoilt = True
        return loss * torch.nan


def test_what_a_skipped_step_has_counted_is_forgotten(tmp_path):
    loss = Spoilt()
    fit(tmp_path, loss=loss, epochs=1, nonfinite="skip")
    assert loss.spoilt
    assert loss.seen.sum() == 4 + 2 * 4 * 32 * 32


def test_evaluate_takes_the_loss_as_it_was_learned(segtrain, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\nimport torch.nn.functional as F\n\n\nclass Learned(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.t = torch.nn.Parameter(torch.zeros(()))\n\n"
        "    def forward(self, logits, target):\n"
        "        return F.cross_entropy(logits * self.t.exp(), target) + (self.t - 1) ** 2\n"
    )
    (tmp_path / "conf/loss").mkdir(parents=True)
    (tmp_path / "conf/loss/learned.yaml").write_text("# Its temperature is learned.\n_target_: mine.Learned\n")
    done = segtrain("--config-dir", "conf", *TINY, "loss=learned", "trainer.epochs=2", "hydra.run.dir=run")
    assert done.code == 0, done
    trained = json.loads((tmp_path / "run/result.json").read_text())["scores"]["loss"]
    done = segtrain("evaluate", "run", "--trust", "mine", "--bootstrap", "0")
    assert done.code == 0, done
    assert json.loads((tmp_path / "run/evaluation/val/scores.json").read_text())["scores"]["loss"] == pytest.approx(
        trained
    )
    best = tmp_path / "run/checkpoints/best.pt"
    for wrong in (5, {"module.u": torch.ones(())}, {"module.t": torch.ones(3)}):
        write_checkpoint(best, {**read_checkpoint(best), "loss": wrong})
        refused = segtrain("evaluate", "run", "--trust", "mine")
        assert (refused.code, "the checkpoint does not fit the loss" in refused.err) == (2, True), refused
    words = ("--allow", "trainer.epochs", "trainer.epochs=3")
    assert segtrain("resume", "run", "--trust", "mine", *words).code == 0
    page = (tmp_path / "run/page.html").read_text()
    assert '<td><code>trainer.epochs</code></td><td class="left">3</td>' in page
    for source, said in (
        ("class Other: ...", "has no Learned"),
        ("def (", "importing it fails"),
        (None, "cannot be imported"),
    ):
        (tmp_path / "mine.py").unlink() if source is None else (tmp_path / "mine.py").write_text(source)
        refused = segtrain("evaluate", "run", "--trust", "mine")
        assert (refused.code, said in refused.err, "PYTHONPATH" in refused.err) == (2, True, True), refused


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
