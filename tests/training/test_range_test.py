"""The learning-rate range test: rates of equal ratios, a rate that learns, an end where the loss explodes."""

import numpy as np
import pytest
from small_training import parts

from segtrain.training import Trainer
from segtrain.training.range_test import HIGHEST, LOWEST, RangeTest, range_test


def test_rates_rise_by_equal_ratios_to_the_highest():
    trainer = Trainer(epochs=1, device="cpu")
    found = range_test(trainer, parts(trainer=trainer), 0.01, steps=40)
    assert found.rates[0] == pytest.approx(LOWEST)
    ratios = found.rates[1:] / found.rates[:-1]
    assert np.allclose(ratios, ratios[0])
    assert found.rates[-1] <= HIGHEST * 1.0001
    assert 1e-5 < found.suggested < 1


def test_the_rate_is_suggested_at_which_the_loss_falls_fastest():
    rates = np.geomspace(1e-6, 1, 100)
    losses = 3 - 2 / (1 + np.exp(-4 * (np.log10(rates) + 2.5)))
    noise = np.random.default_rng(0).normal(0, 0.02, 100)
    assert RangeTest(rates, losses + noise).suggested == pytest.approx(10**-2.5, rel=0.4)


def test_a_loss_that_explodes_ends_the_test():
    trainer = Trainer(epochs=1, device="cpu")
    made = parts(trainer=trainer)
    for group in made.optimizer.param_groups:
        group["lr"] = group["initial_lr"] = 100.0  # ten thousand times what the test takes it for
    found = range_test(trainer, made, 0.01, steps=100)
    assert found.rates[-1] < HIGHEST * 1000  # a tenth of the highest


def test_the_command_writes_a_plot_and_leaves_no_run(segtrain, tmp_path):
    words = ["dataset.train_images=16", "dataset.size=[32,32]", "loader.workers=0", "trainer.device=cpu"]
    done = segtrain(
        "lr-find", *words, "--out", "found", "model.encoder=tu-test_resnet", "model.decoder_channels=[32,16,8,8,8]"
    )
    assert done.code == 0, done
    assert "the suggested rate, optimizer.lr=" in done.out
    assert (tmp_path / "found/lr_find.csv").read_text().startswith("lr,loss\n")
    assert b"</svg>" in (tmp_path / "found/lr_find.svg").read_bytes()
    assert not (tmp_path / "outputs").exists()
