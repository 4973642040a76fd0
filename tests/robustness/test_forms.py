"""Files of a run that are whole but hold something else: refused by name, never a traceback or a crash."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
import yaml
from test_kill import TINY

from segtrain.files import read_checkpoint, read_json, write_arrays, write_checkpoint, write_json


@pytest.fixture(scope="module")
def stopped(server, tmp_path_factory):
    """A folder with `run`, stopped after an epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    command = server.start(*TINY, "trainer.epochs=4", "loader.workers=0", "hydra.run.dir=run", cwd=folder)
    command.wait_for(folder / "run/metrics.csv")
    command.kill(signal.SIGTERM)
    assert command.wait() == 75, command.text()
    return folder / "run"


@pytest.fixture
def run(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


class Allocation:
    def __reduce__(self):
        return torch.IntTensor, (3 * 10**8,)


def put(*keys, value):
    """Replace what is at keys[:-1] → keys[-1] of last.pt."""

    def change(run):
        file = run / "checkpoints/last.pt"
        content = inside = read_checkpoint(file)
        for key in keys[:-1]:
            inside = inside[key]
        inside[keys[-1]] = value
        write_checkpoint(file, content)

    return change


def best_epoch(run):
    write_checkpoint(run / "checkpoints/best.pt", read_checkpoint(run / "checkpoints/best.pt") | {"epoch": "x"})


def counts(**arrays):
    """Of a run whose training is done: a better epoch would write them anew."""

    def change(run):
        put("state", "epoch", value=4)(run)
        with np.load(run / "per_image.npz") as saved:
            write_arrays(run / "per_image.npz", {**saved, **arrays})

    return change


def entry(name, **content):
    return lambda run: write_json(run / name, {**read_json(run / name), **content})


def pipe(name):
    def change(run):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return change


def folder(name):
    def change(run):
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    return change


def removed(name):
    return lambda run: (run / name).unlink()


def setting(key, value):
    def change(run):
        config = yaml.safe_load((run / "config.yaml").read_text())
        config[key] = value
        (run / "config.yaml").write_text(yaml.safe_dump(config))

    return change


TEACHER = {"_target_": "segtrain.runs.trained.load", "run": "run", "overrides": ['seed="\\x24{oc.env:HOME}"']}

RESUMED = {
    "a moment of another shape": put("optimizer", "state", 0, "exp_avg", value=torch.zeros(3)),
    "a moment that is text": put("optimizer", "state", 0, "exp_avg", value="x"),
    "a tensor made at any size": put("optimizer", "state", 0, "exp_avg", value=Allocation()),
    "a rate that is text": put("optimizer", "param_groups", 0, "lr", value="x"),
    "a schedule with a step of its own": put("schedule", "step", value=3),
    "a schedule without rates": put("schedule", "base_lrs", value=[]),
    "negative epochs": put("state", "epoch", value=-5),
    "more batches than there are": put("state", "batch", value=10**9),
    "seconds that are text": put("state", "seconds", value="x"),
    "sums that are text": put("state", "sums", value={"loss": "x"}),
    "a best epoch without number": put("state", "best", value={"value": 1.0}),
    "weights of another shape": put("model", "segmentation_head.0.weight", value=torch.zeros(3)),
    "random numbers of another form": put("random", value=torch.zeros(3)),
    "rows without epoch": put("run", "rows", value=[{}]),
    "counts of other images": counts(names=np.array(["zz"] * 8)),
    "counts of other classes": counts(tp=np.zeros((8, 9), np.int64)),
    "no counts": removed("per_image.npz"),
    "no last.pt": removed("checkpoints/last.pt"),
    "no environment.json": removed("environment.json"),
    "other changed settings": entry("environment.json", resumes=[{"changed": {"a": 1}}]),
    "a pipe in place of the log": pipe("segtrain.log"),
    "a folder in place of the lock": folder(".lock"),
    "a teacher that reads the environment": setting(
        "labels", {"_target_": "segtrain.labels.Teacher", "teacher": TEACHER}
    ),
}
EVALUATED = {
    "an epoch that is text": best_epoch,
    "an image of no size": entry("environment.json", image_size=[0, 0]),
    "scores that are text": entry("result.json", scores={"iou/mean": "x"}),
    "a config with numbers for keys": setting(1, 2),
    "a config with a number of 400 digits": setting("seed", 10**400),
}


def refused(server, run, *words):
    code, text = server.run(*words, cwd=run.parent)
    assert code == 2, text
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize("kind", RESUMED)
def test_resume_refuses_what_does_not_fit(server, run, kind):
    RESUMED[kind](run)
    text = refused(server, run, "resume", "run")
    assert os.environ["HOME"] not in text.replace(str(run), "")


@pytest.mark.parametrize("kind", EVALUATED)
def test_evaluate_refuses_what_does_not_fit(server, run, kind):
    EVALUATED[kind](run)
    refused(server, run, "evaluate", "run", "--bootstrap", "0")


def test_predict_refuses_classes_without_names(server, run):
    entry("class_counts.json", classes=[1])(run)
    assert "its classes have no names" in refused(server, run, "predict", "run", str(run / "plots"), "--out", "out")


@pytest.mark.slow
def test_a_refused_resume_changes_nothing(server, run):
    before = json.loads((run / "result.json").read_text())["status"]
    words = ("--allow", "model.decoder_channels", "run", "model.decoder_channels=[32,16,8,8,4]")
    assert "does not fit" in refused(server, run, "resume", *words)
    assert json.loads((run / "result.json").read_text())["status"] == before
    code, text = server.run("resume", "run", cwd=run.parent)
    assert code == 0, text
    assert all("changed" not in start for start in read_json(run / "environment.json")["resumes"])


def test_a_dataset_that_is_gone_leaves_the_run_as_it_is(server, run, tmp_path):
    code, text = server.run("resume", "run", "dataset.root=/nowhere", cwd=tmp_path)
    assert code == 2, text
    assert json.loads((run / "result.json").read_text())["status"] == "preempted"
