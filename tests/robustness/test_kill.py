"""A run that is killed at any moment and resumed ends with what an undisturbed run has, bit for bit."""

import random
import time

import pytest
from folders import differing

from segtrain.files import read_json

TINY = [
    "dataset.train_images=24",
    "dataset.val_images=8",
    "dataset.size=[32,32]",
    "trainer.epochs=3",
    "loader.batch_size=4",
    "model.encoder=tu-test_resnet",
    "trainer.device=cpu",
    "trainer.panel_images=1",
]
SETTINGS = [
    ["trainer.ema_decay=0.9"],
    ["trainer.accumulate=2", "trainer.checkpoint_every=2"],
    ["model=fpn"],  # with dropout
    ["loss=phased", "loss.starts=[0,2]", "weighting=log_ratio"],
    ["trainer.patience=1", "trainer.checkpoint_every=1"],
    ["sampling=foreground_crops", "augment.size=[32,32]", "weighting=median_frequency"],
    ["dataset=shapes_multilabel", "loss=bce_dice", "trainer.checkpoint_minutes=0.005"],
    ["loss=ce_lovasz", "trainer.keep=2", "trainer.clip_norm=1.0"],
    ["labels=smooth", "optimizer=sgd", "schedule=cosine"],
]


def words_of(settings: list[str]) -> list[str]:

    return TINY + settings


def killed_and_resumed(server, folder, settings: list[str], kills: int, rng: random.Random) -> tuple[list[str], int]:
    """What differs from an undisturbed run, and how often the run was killed before it ended."""
    words = words_of(settings)
    started = time.monotonic()
    code, text = server.run(*words, "loader.workers=0", "hydra.run.dir=whole", cwd=folder)
    seconds = time.monotonic() - started
    assert code == 0, text
    command, count = server.start(*words, f"loader.workers={rng.randint(0, 2)}", "hydra.run.dir=run", cwd=folder), 0
    while count < kills:
        time.sleep(rng.uniform(0.02, 0.6) * seconds)
        command.kill()
        if (code := command.wait()) == 0:
            break
        count += 1
        assert code == -9, command.text()
        if read_json(folder / "run/result.json").get("status") == "finished":  # killed on its way out
            code = 0
            break
        if not (folder / "run/config.yaml").is_file():  # killed before there was a run
            command = server.start(*words, "hydra.run.dir=run", cwd=folder)
        else:
            command = server.start("resume", "run", f"loader.workers={rng.randint(0, 2)}", cwd=folder)
    else:
        code = command.wait()
    assert code == 0, command.text()
    return differing(folder / "whole", folder / "run"), count


@pytest.mark.slow
def test_a_killed_run_ends_as_others(server, tmp_path):
    settings = ["model=fpn", "trainer.ema_decay=0.9", "trainer.patience=1", "trainer.checkpoint_every=1"]
    found, kills = killed_and_resumed(server, tmp_path, settings, 3, random.Random(0))
    assert found == []
    assert kills > 0


@pytest.mark.long
def test_200_kills(server, tmp_path, figure):
    rng, runs, kills, equal = random.Random(0), 0, 0, 0
    failures = []
    while kills < 200 or runs < 40:
        settings = rng.choice(SETTINGS)
        (folder := tmp_path / str(runs)).mkdir()
        found, count = killed_and_resumed(server, folder, settings, 8, rng)
        runs, kills, equal = runs + 1, kills + count, equal + (found == [])
        failures += [f"{' '.join(settings)}: {', '.join(found)}"] if found else []
    figure("SIGKILL at random moments", f"{kills} kills over {runs} runs: {equal} equal in every file")
    assert not failures, "\n".join(failures)
