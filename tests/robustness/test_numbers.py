"""Numbers that are not finite stop a training before they reach the weights, or are left out."""

import json
import math
import random

import pytest
import torch
from small_training import Tiny, fit, parts
from torch import nn

from segtrain.errors import NotFinite
from segtrain.files import read_checkpoint
from segtrain.losses import CrossEntropy, Dice, PixelRegion
from segtrain.training import Trainer

PLACES = ("image", "activation", "loss", "gradient")


class Poisoned(Tiny):
    """Gives a NaN at one of its training steps, in the pixels, an activation, or on the way back."""

    def __init__(self, place: str, steps: set[int]):
        super().__init__()
        self.place, self.steps, self.seen = place, steps, 0

    def forward(self, images):
        now, self.seen = self.training and self.seen in self.steps, self.seen + self.training
        images = images.float() / 255
        if now and self.place == "image":
            images = images.index_fill(0, torch.tensor([0]), math.nan)
        features = self.layers[:2](images)
        if now and self.place == "activation":
            features = features * math.inf
        logits = self.layers[2:](features)
        if now and self.place == "gradient":
            logits.register_hook(lambda gradient: gradient * math.nan)
        return logits


class PoisonedLoss(nn.Module):
    def __init__(self, steps: set[int]):
        super().__init__()
        self.loss, self.steps, self.seen = PixelRegion(CrossEntropy(), Dice()), steps, 0

    def forward(self, logits, target):
        now, self.seen = logits.requires_grad and self.seen in self.steps, self.seen + logits.requires_grad
        return self.loss(logits, target) * (math.nan if now else 1)


def poisoned(place: str, steps: set[int]) -> dict:
    return {"loss": PoisonedLoss(steps)} if place == "loss" else {"model": Poisoned(place, steps)}


def finite(weights: dict) -> bool:
    return all(torch.isfinite(t).all() for t in weights.values() if t.is_floating_point())


def stopped(folder, place: str, step: int) -> tuple[NotFinite, dict]:
    """The error of a training with a NaN at a step, and its last checkpoint."""
    with pytest.raises(NotFinite) as caught:
        fit(folder, **poisoned(place, {step}), epochs=3, checkpoint_every=1, panel_images=0, batch_size=2)
    return caught.value, read_checkpoint(folder / "checkpoints/last.pt")


@pytest.mark.parametrize("place", PLACES)
def test_a_nan_stops_before_the_update(tmp_path, place):
    error, last = stopped(tmp_path, place, 7)
    assert error.where == "step 8"
    assert last["state"]["step"] == 7
    assert finite(last["model"])
    assert len(error.seen["images"]) == 2
    assert error.seen["not_finite_gradients"]


@pytest.mark.parametrize("place", PLACES)
def test_a_nan_can_be_skipped(tmp_path, place):
    result, _ = fit(
        tmp_path, **poisoned(place, {2, 7}), epochs=3, nonfinite="skip", ema_decay=0.5, panel_images=0, batch_size=2
    )
    last = read_checkpoint(tmp_path / "checkpoints/last.pt")
    assert last["state"]["skipped"] == 2
    assert finite(last["model"])
    assert finite(last["average"])
    assert all(math.isfinite(row["train/loss"]) for row in last["run"]["rows"])
    assert math.isfinite(result.best["value"])


def test_a_step_after_a_skipped_one_is_scaled_and_clipped(tmp_path, monkeypatch):
    scaler = torch.amp.GradScaler
    monkeypatch.setattr("torch.amp.GradScaler", lambda *_, **__: scaler("cpu", init_scale=8.0))
    fit(tmp_path, **poisoned("loss", {2, 7}), epochs=3, nonfinite="skip", clip_norm=1.0, panel_images=0, batch_size=2)
    assert read_checkpoint(tmp_path / "checkpoints/last.pt")["scaler"]["scale"] == 8


def test_skipped_steps_have_a_limit(tmp_path):
    with pytest.raises(NotFinite, match="3 steps had a loss or gradient"):
        fit(tmp_path, **poisoned("loss", set(range(9))), nonfinite="skip", max_skipped=2, panel_images=0)


def test_weights_that_are_not_finite_are_not_written():
    trainer = Trainer(epochs=1, device="cpu", panel_images=0)
    made = parts(trainer=trainer)

    def spoil(content):
        raise AssertionError("written")

    made.model.layers[1].running_var[0] = math.inf
    with pytest.raises(NotFinite, match="batch statistics"):
        list(trainer.fit(made, None, spoil))


def test_float16_overflows_are_left_out_but_not_for_ever(tmp_path):
    settings = {"precision": "float16", "epochs": 3, "panel_images": 0, "batch_size": 2}
    result, _ = fit(tmp_path / "once", **poisoned("gradient", {2, 7}), **settings)
    assert result.best
    with pytest.raises(NotFinite, match="at any scale"):
        fit(tmp_path / "always", **poisoned("gradient", set(range(99))), **{**settings, "epochs": 20})


def test_what_was_seen_is_in_the_folder(segtrain, tmp_path):
    words = ["dataset.train_images=32", "dataset.size=[32,32]", "optimizer.lr=1e30", "loader.workers=0"]
    done = segtrain(*words, "model.encoder=tu-mobilenetv3_small_050", "hydra.run.dir=run", "trainer.device=cpu")
    assert done.code == 6, done
    assert json.loads((tmp_path / "run/result.json").read_text())["status"] == "failed"
    files = list((tmp_path / "run/failed").glob("step_*.json"))
    assert len(files) == 1, done
    seen = json.loads(files[0].read_text())
    assert all(name in seen for name in ("images", "pixels", "loss", "gradient_norms"))


@pytest.mark.long
def test_nans_at_40_steps(tmp_path, figure):
    rng, good = random.Random(0), 0
    for k in range(40):
        step = rng.randrange(1, 18)
        error, last = stopped(tmp_path / str(k), PLACES[k % 4], step)
        good += error.where == f"step {step + 1}" and last["state"]["step"] == step and finite(last["model"])
    figure("NaN in image, activation, loss, gradient", f"{good} of 40 stopped before the update, last.pt finite")
    assert good == 40
