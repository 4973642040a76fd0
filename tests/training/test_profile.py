"""The profile of a training, and the waiting for data that every epoch tells."""

import csv
import json
import time

import pytest
import torch
from conftest import TINY

from segtrain.errors import ConfigError
from segtrain.training.profile import WARM, Profile
from segtrain.training.state import State


def test_parts_and_trace_of_a_training(segtrain, tmp_path):
    done = segtrain(*TINY, "trainer.profile=1", "trainer.epochs=2", "loader.batch_size=2", "hydra.run.dir=run")
    assert done.code == 0, done
    parts = (
        "data wait",
        "transfer",
        "forward",
        "loss",
        "backward",
        "optimizer",
        "validation: forward",
        "validation: scores",
    )
    assert all(f" {part} " in done.err + done.out for part in parts), done
    events = json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]
    assert any("convolution" in event.get("name", "") for event in events)
    with (tmp_path / "run" / "metrics.csv").open() as stream:
        assert all(0 <= float(row["data_wait"]) < 1 for row in csv.DictReader(stream))


def test_milliseconds_and_shares():
    profile, state = Profile(2, torch.device("cpu")), State()
    profile.check(WARM + 4, WARM + 4)
    for _ in profile.each(iter(range(WARM + 4)), state):
        with profile.part("forward"):
            time.sleep(0.01)
    assert profile.finished()
    assert not profile.finished()
    rows = {name: (calls, each, share) for name, calls, each, share in profile.rows()}
    assert rows["forward"][0] == 2
    assert 10 <= rows["forward"][1] < 100
    assert sum(share for *_, share in rows.values()) == pytest.approx(1)


def test_a_resumed_training_of_few_steps_says_that_there_will_be_no_profile(caplog):
    Profile(2, torch.device("cpu")).check(20, WARM + 3)
    assert f"needs {WARM + 4} batches, but {WARM + 3} are left: there will be no new profile" in caplog.text


def test_waiting_for_data_is_counted():
    def slow():
        for _ in range(3):
            time.sleep(0.02)
            yield 1

    state = State()
    assert len(list(Profile(0, torch.device("cpu")).each(slow(), state))) == 3
    assert 0.06 <= state.waited < 0.5


def test_a_training_that_is_too_short_is_refused():
    with pytest.raises(ConfigError, match=r"trainer.profile=9 needs 21 batches, but the training has 20"):
        Profile(9, torch.device("cpu")).check(20, 20)


def test_batches_count_and_not_steps(segtrain):
    words = [
        "trainer.profile=3",
        "trainer.accumulate=4",
        "loader.batch_size=2",
        "loader.min_images=32",
        "hydra.run.dir=run",
    ]
    done = segtrain(*TINY, *words)  # 16 batches, 4 steps
    assert done.code == 0, done
    assert "each part alone" in done.out + done.err
