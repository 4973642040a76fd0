"""A flipped byte or a truncation in any file of a run folder is found, and the file named, or has no effect."""

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from folders import content
from test_kill import TINY

from segtrain.files import read_json, write_json


@pytest.fixture(scope="module")
def stopped(server, tmp_path_factory):
    """A folder with `run`, stopped after two epochs, and `whole`, the same one resumed to its end."""
    folder = tmp_path_factory.mktemp("stopped")
    words = [*TINY, "trainer.epochs=4", "weighting=log_ratio", "loader.workers=0", "hydra.run.dir=run"]
    command = server.start(*words, cwd=folder)
    command.wait_for(folder / "run/metrics.csv")
    command.kill(signal.SIGTERM)
    assert command.wait() == 75, command.text()
    shutil.copytree(folder / "run", folder / "whole/run")
    code, text = server.run("resume", "run", cwd=folder / "whole")
    assert code == 0, text
    return folder


def damaged(file: Path, rng: random.Random) -> str:
    """Flip a bit, or cut the file; how, in words."""
    data = bytearray(file.read_bytes())
    if rng.random() < 0.5 or not data:
        length = rng.randrange(len(data) + 1)
        file.write_bytes(data[:length])
        return f"{file} cut at {length} of {len(data)}"
    place = rng.randrange(len(data))
    data[place] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    return f"{file} flipped at {place} of {len(data)}"


def resumed(server, folder: Path, name: str, whole: Path) -> str | None:
    """What is wrong with how a damaged folder was resumed."""
    code, text = server.run("resume", "run", cwd=folder)
    if code == 2:
        return None if name in text else f"not named: {text}"
    if code:
        return f"exit code {code}: {text}"
    one, other = content(whole), content(folder / "run")
    views = ("tensorboard", "page") if "events" in name else ()
    found = [key for key in one if str(one[key]) != str(other[key]) and key not in views]
    return f"an effect on {found}" if found else None


def evaluated(server, folder: Path, name: str, whole: Path) -> str | None:
    code, text = server.run("evaluate", "run", "--bootstrap", "0", cwd=folder)
    if code == 2:
        return None if name in text else f"not named: {text}"
    if code:
        return f"exit code {code}: {text}"
    scores = [json.loads((run / "evaluation/val/scores.json").read_text()) for run in (whole, folder / "run")]
    return None if scores[0] == scores[1] else "an effect on the scores"


def trial(server, stopped: Path, folder: Path, file: str, rng: random.Random, check, whole: Path) -> str | None:
    shutil.copytree(stopped / "run", folder / "run")
    how = damaged(folder / "run" / file, rng)
    found = check(server, folder, Path(file).name, whole)
    return f"{how}: {found}" if found else None


def files_of(run: Path) -> list[str]:
    found = [os.path.relpath(os.path.join(f, name), run) for f, _, names in os.walk(run) for name in names]
    return sorted(name for name in found if name != ".lock")


@pytest.mark.parametrize("file", ["checkpoints/last.pt", "result.json", "metrics.csv", ".hydra/hydra.yaml"])
def test_damage_is_found_or_has_no_effect(server, stopped, tmp_path, file):
    assert trial(server, stopped, tmp_path, file, random.Random(file), resumed, stopped / "whole/run") is None


def test_a_changed_setting_is_refused_and_named(server, stopped, tmp_path):
    shutil.copytree(stopped / "run", tmp_path / "run")
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text().replace("epochs: 4", "epochs: 6"))
    code, text = server.run("resume", "run", cwd=tmp_path)
    assert code == 2
    assert "trainer.epochs: 4 then, 6 now" in text
    code, text = server.run("resume", "run", "loss.alpha=0.5", "--allow", "trainer.epochs", cwd=tmp_path)
    assert code == 2
    assert "loss.alpha: 1.0 then, 0.5 now" in text
    code, text = server.run("resume", "run", "--allow", "trainer.epochs", cwd=tmp_path)
    assert code == 0, text
    assert (tmp_path / "run/metrics.csv").read_text().count("\n") == 7
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["resumes"][-1]["changed"] == {"trainer.epochs": 6}


def test_another_dataset_is_refused_unless_allowed_and_then_recorded(server, stopped, tmp_path):
    shutil.copytree(stopped / "run", tmp_path / "run")
    text = (tmp_path / "run/environment.json").read_text()
    before = json.loads(text)["dataset_fingerprint"]
    content = read_json(tmp_path / "run/environment.json") | {"dataset_fingerprint": "other"}
    write_json(tmp_path / "run/environment.json", content)
    code, text = server.run("resume", "run", cwd=tmp_path)
    assert (code, "the dataset has changed" in text) == (2, True), text
    code, text = server.run("resume", "run", "--allow", "dataset", cwd=tmp_path)
    assert code == 0, text
    content = read_json(tmp_path / "run/environment.json")
    assert content["dataset_fingerprint"] == "other"
    assert content["resumes"][-1]["dataset_fingerprint"] == before
    code, text = server.run("repeat", "run", cwd=tmp_path)
    assert (code, "other settings (dataset)" in text) == (2, True), text


@pytest.mark.long
def test_300_damages(server, stopped, tmp_path, figure):
    server.run("evaluate", "run", "--bootstrap", "0", cwd=stopped / "whole")
    shutil.copytree(stopped / "run", stopped / "scored/run")
    assert server.run("evaluate", "run", "--bootstrap", "0", cwd=stopped / "scored")[0] == 0
    rng, failures, files = random.Random(0), [], files_of(stopped / "run")
    for k in range(300):
        (folder := tmp_path / str(k)).mkdir()
        check, whole = (evaluated, "scored/run") if k % 2 else (resumed, "whole/run")
        found = trial(server, stopped, folder, files[k // 2 % len(files)], rng, check, stopped / whole)
        failures += [found] if found else []
        shutil.rmtree(folder)
    figure(
        "a flipped bit or truncation in every file", f"{300 - len(failures)} of 300 refused by name or without effect"
    )
    assert failures == []
