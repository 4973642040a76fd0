"""The same seed gives the same bits, and `segtrain repeat` says so."""

import pytest
from test_kill import SETTINGS, words_of

from segtrain.commands.repeat import verdict


@pytest.mark.slow
def test_a_run_is_repeated_bit_for_bit(server, tmp_path):
    words = words_of(["weighting=median_frequency", "model=fpn", "trainer.epochs=2"])
    code, text = server.run(*words, "loader.workers=0", "hydra.run.dir=run", cwd=tmp_path)
    assert code == 0, text
    code, text = server.run("repeat", "run", cwd=tmp_path)
    assert code == 0, text
    assert "equal, bit for bit: weights of the best epoch" in text
    config = tmp_path / "run_repeat/config.yaml"
    assert config.read_text() == (tmp_path / "run/config.yaml").read_text()
    code, text = server.run("compare", "run", "run_repeat", cwd=tmp_path)
    assert (code, "One setting" in text, "1 seed" in text) == (0, True, True), text
    code, text = server.run(*words, "seed=1", "hydra.run.dir=other", cwd=tmp_path)
    assert code == 0, text
    text, equal = verdict(tmp_path / "run", tmp_path / "other")
    assert not equal
    assert "weights of the last epoch: not equal" in text
    assert "from epoch 1 on: train/loss" in text
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    code, text = server.run("repeat", "run_repeat", cwd=tmp_path)
    assert code == 2
    assert "changed since the checkpoint was written: dataset.seed, seed" in text


@pytest.mark.long
def test_20_runs_are_repeated(server, tmp_path, figure):
    equal = 0
    for k in range(20):
        words = words_of([*SETTINGS[k % len(SETTINGS)], f"seed={k}", f"loader.workers={k % 3}"])
        code, text = server.run(*words, f"hydra.run.dir={k}", cwd=tmp_path)
        assert code == 0, text
        equal += server.run("repeat", k, cwd=tmp_path)[0] == 0
    figure("repeat of 20 finished runs", f"{equal} bit-equal")
    assert equal == 20
