"""Many processes at once: each run has its own folder, a folder has one process, and masks are counted once."""

import signal
import time
from importlib.resources import files
from itertools import product
from pathlib import Path

import pytest
from conftest import write_folder_dataset
from small_training import fit, same
from test_kill import TINY

from segtrain.class_counts import count_classes
from segtrain.config.build import build
from segtrain.config.compose import compose, without_hydra
from segtrain.config.schema import config_mistakes
from segtrain.data.shapes import Shapes
from segtrain.errors import ConfigError
from segtrain.files import read_json
from segtrain.runs.claim import lock, unlock


def test_a_lock_is_held_by_one_process_and_gone_with_it(server, tmp_path):
    command = server.start(*TINY, "trainer.epochs=99", "loader.workers=1", "hydra.run.dir=run", cwd=tmp_path)
    command.wait_for(tmp_path / "run/metrics.csv")
    with pytest.raises(ConfigError, match="another process is writing"):
        lock(tmp_path / "run")
    for words in (["resume", "run"], [*TINY, "hydra.run.dir=run"]):
        code, text = server.run(*words, cwd=tmp_path)
        assert code == 2
        assert "another process is writing into this folder" in text
    command.kill(signal.SIGKILL)  # its workers live on for some seconds
    command.wait()
    lock(tmp_path / "run")
    unlock(tmp_path / "run")


def test_a_run_that_is_started_again_before_its_first_checkpoint_keeps_the_record_of_the_start(server, tmp_path):
    words = [*TINY, "trainer.epochs=1", "loader.workers=0", "hydra.run.dir=run"]
    command = server.start(*words, cwd=tmp_path)
    command.wait_for(tmp_path / "run/environment.json")
    command.kill()
    command.wait()
    started = read_json(tmp_path / "run/environment.json")
    code, text = server.run(*words, "advice=false", cwd=tmp_path)
    assert code == 0, text
    environment = read_json(tmp_path / "run/environment.json")
    assert environment["command"] == started["command"]
    assert [entry["command"] for entry in environment["resumes"]] == [f"{started['command']} advice=false"]
    code, text = server.run("resume", "run", cwd=tmp_path)
    assert (code, "the run is finished" in text) == (2, True)


@pytest.mark.long
def test_64_starts_20_pairs_of_resumes_and_32_counts(server, tmp_path, figure):
    words = [*TINY, "trainer.max_steps=1", "loader.workers=0"]
    started = time.monotonic()
    commands = [server.start(*words, cwd=tmp_path) for _ in range(64)]
    seconds = time.monotonic() - started
    assert [command.wait() for command in commands] == [0] * 64
    runs = list((tmp_path / "outputs/shapes").iterdir())
    figure("64 runs started at once", f"{len(runs)} folders; started within {seconds:.1f} s")
    assert len(runs) == 64

    refused = 0
    for k in range(20):
        command = server.start(*TINY, "trainer.epochs=9", "loader.workers=0", f"hydra.run.dir=pair{k}", cwd=tmp_path)
        command.wait_for(tmp_path / f"pair{k}/metrics.csv")
        command.kill()
        command.wait()
        pair = [server.start("resume", f"pair{k}", cwd=tmp_path) for _ in range(2)]
        refused += sorted(command.wait() for command in pair) == [0, 2]
    figure("pairs of simultaneous resume", f"{refused} of 20 refusals")
    assert refused == 20

    cache = {"SEGTRAIN_CACHE": str(tmp_path / "counts")}
    data = ["dataset=folder", f"dataset.root={_folder(tmp_path)}", "dataset.num_classes=3"]
    commands = [server.start("weights", *data, cwd=tmp_path, **cache) for _ in range(32)]
    assert [command.wait() for command in commands] == [0] * 32
    texts = {command.text().split("waiting for")[0] for command in commands}
    waited = [text for text in texts if "Pillow" in text]
    figure("32 processes counting", f"{len(list((tmp_path / 'counts').glob('counts-*.npz')))} file of counts")
    assert waited == []
    assert len(list((tmp_path / "counts").glob("counts-*.npz"))) == 1


def _folder(tmp_path):
    return write_folder_dataset(tmp_path / "data", images=200)


PRESETS = {
    group: sorted(file.stem for file in Path(str(files("segtrain.configs"))).joinpath(group).glob("*.yaml"))
    for group in ("loss", "weighting", "labels")
}


@pytest.mark.long
def test_the_same_seed_gives_the_same_bits(tmp_path, figure):
    counts = count_classes(Shapes("train", [32, 32], train_images=12))
    equal = total = 0
    for names in product(*PRESETS.values()):
        cfg = compose([f"{group}={name}" for group, name in zip(PRESETS, names, strict=True)])
        if names[0].startswith("bce") or names[2] in ("annotators", "teacher") or config_mistakes(without_hydra(cfg)):
            continue
        if names[1] != "none":
            cfg.class_weights = build(cfg, "weighting")(counts).tolist()
        runs = []
        for n in range(2):
            settings = {"loss": build(cfg, "loss"), "labels": build(cfg, "labels"), "epochs": 1, "panel_images": 0}
            try:
                runs.append(fit(tmp_path / f"{total}-{n}", **settings))
            except ValueError:  # a loss that takes no soft labels
                break
        if len(runs) == 2:
            total += 1
            equal += same(runs[0][1], runs[1][1]) and str(runs[0][0].scores) == str(runs[1][0].scores)
    figure("same seed twice, every loss × weighting × labels", f"{equal} of {total} bit-equal")
    assert equal == total > 100
