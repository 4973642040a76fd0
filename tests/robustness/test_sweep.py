"""A sweep that fails or is killed: what is missing is run by `resume`, in the same folders, to the same end."""

import json
import multiprocessing
import random
import shutil
import signal
import time
from argparse import Namespace

import pytest
import yaml
from omegaconf import OmegaConf
from test_kill import TINY

from segtrain.cli import run_command
from segtrain.config.schema import as_text
from segtrain.errors import ConfigError
from segtrain.files import read_json, write_json
from segtrain.report.sweep import jobs_table
from segtrain.runs.claim import lock, unlock
from segtrain.runs.folder import RunFolder
from segtrain.runs.result import Result
from segtrain.runs.sweep import SweepJob, begin_sweep, read_sweep

WORDS = ["-m", *TINY, "trainer.epochs=2", "loader.workers=0", "loss.alpha=0,1", "seed=0,1", "hydra.sweep.dir=sweep"]
JOBS = ["00_alpha=0,seed=0", "01_alpha=0,seed=1", "02_alpha=1,seed=0", "03_alpha=1,seed=1"]


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """A sweep without faults."""
    folder = tmp_path_factory.mktemp("whole")
    code, text = server.run(*WORDS, cwd=folder)
    assert code == 0, text
    assert "4 of 4 jobs finished in sweep" in text
    return folder / "sweep"


def scores(sweep) -> dict:
    return {job: json.loads((sweep / job / "result.json").read_text())["scores"] for job in JOBS}


@pytest.mark.slow
def test_a_sweep_lists_its_jobs_before_the_first(whole):
    jobs = read_json(whole / "sweep.json")["jobs"]
    assert [job["folder"] for job in jobs] == JOBS
    assert "loss.alpha=1" in jobs[3]["overrides"]
    assert read_json(whole / "sweep.json")["command"].startswith("segtrain -m")
    assert all(len(read_json(whole / job / "environment.json")["resumes"]) == 0 for job in JOBS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "after",
    ["02_alpha=1,seed=0/environment.json", pytest.param("00_alpha=0,seed=0/metrics.csv", marks=pytest.mark.long)],
)
def test_a_killed_sweep_is_resumed_to_the_same_results(server, whole, tmp_path, after):
    command = server.start(*WORDS, cwd=tmp_path)
    command.wait_for(tmp_path / "sweep" / after)
    command.kill(signal.SIGKILL)
    command.wait()
    code, text = server.run("resume", "sweep", cwd=tmp_path)
    assert code == 0, text
    assert "4 of 4 jobs finished in sweep" in text
    assert scores(tmp_path / "sweep") == scores(whole)
    code, text = server.run("resume", "sweep", cwd=tmp_path)
    assert (code, text.count("epoch")) == (0, 0), "nothing is left to do"


@pytest.mark.slow
@pytest.mark.parametrize("fail_fast", ["false", "true"])
def test_a_failure_that_all_jobs_share_may_end_the_sweep(server, tmp_path, fail_fast):
    words = [
        *WORDS[:-2],
        "seed=0,1",
        "model.encoder=tu-no_such",
        f"sweep.fail_fast={fail_fast}",
        "hydra.sweep.dir=sweep",
    ]
    code, text = server.run(*words, cwd=tmp_path)
    assert code == 2, text
    assert text.count("not started") == (3 if fail_fast == "true" else 0), text
    assert "0 of 4 jobs finished" in text


def test_failed_jobs_are_listed_and_run_again_and_the_others_are_left_alone(server, whole, tmp_path):
    sweep = shutil.copytree(whole, tmp_path / "sweep")
    for name in (JOBS[1], JOBS[2]):
        for file in (sweep / name).iterdir():
            if file.name != "config.yaml":
                shutil.rmtree(file) if file.is_dir() else file.unlink()
    untouched = (sweep / JOBS[0] / "result.json").stat().st_mtime_ns
    config = sweep / JOBS[2] / "config.yaml"
    text_of = json.loads((sweep / "sweep.json").read_text())
    shutil.rmtree(sweep / JOBS[3])  # to be trained again
    config.write_text(config.read_text().replace("seed: 0", "seed: 7"))
    shutil.copy(whole / JOBS[1] / "config.yaml", sweep / JOBS[1] / "config.yaml")
    code, text = server.run("resume", "sweep", cwd=tmp_path)
    assert code == 2, text
    assert "changed since the sweep was started" in text
    assert (sweep / JOBS[0] / "result.json").stat().st_mtime_ns == untouched
    again, before = (read_json(folder / JOBS[3] / "result.json")["scores"] for folder in (sweep, whole))
    assert again == before
    assert text_of == json.loads((sweep / "sweep.json").read_text())


def test_the_config_of_a_job_that_failed_early_may_not_change(tmp_path):
    """The class weights that the run has filled in are no change."""
    config = {"seed": 0, "class_weights": None, "loss": {"alpha": 1.0, "parts": [{"weight": "${class_weights}"}]}}
    job = Namespace(name="0", overrides=[], config=OmegaConf.create(config), choices={})
    begin_sweep(tmp_path, [job])
    (tmp_path / "0" / "environment.json").write_text("{}")
    file = tmp_path / "0" / "config.yaml"
    known = {**config, "class_weights": [0.5, 2.0], "loss": {"alpha": 1.0, "parts": [{"weight": [0.5, 2.0]}]}}
    file.write_text(yaml.safe_dump(known))
    read_sweep(tmp_path)[0].check_unchanged()
    file.write_text(yaml.safe_dump({**known, "seed": 7}))
    with pytest.raises(ConfigError, match="changed since the sweep was started"):
        read_sweep(tmp_path)[0].check_unchanged()


@pytest.mark.parametrize("weights", [None, [1.0, 3.0]])
def test_a_job_that_was_started_with_other_settings_may_be_started_again(tmp_path, weights):
    """As `find` does, for fewer epochs first: it may be killed before the first checkpoint."""
    config = {"seed": 0, "class_weights": weights, "loss": {"weight": "${class_weights}"}, "epochs": 9}
    config["trainer"] = {"device": "cpu"}
    begin_sweep(tmp_path, [Namespace(name="0", overrides=[], config=OmegaConf.create(config), choices={})])
    started = OmegaConf.create({**config, "epochs": 1})
    with RunFolder(tmp_path / "0") as run:
        run.begin(started)
        read_sweep(tmp_path)[0].check_unchanged()
        started.class_weights = weights or [0.5, 2.0]  # they are computed, unless they are given
        run.write_config(as_text(started))
    read_sweep(tmp_path)[0].check_unchanged()
    started.epochs = 2
    (tmp_path / "0" / "config.yaml").write_text(as_text(started))
    with pytest.raises(ConfigError, match="changed since the sweep was started"):
        read_sweep(tmp_path)[0].check_unchanged()


@pytest.mark.parametrize("name", ["sweep", "find", "search"])
def test_a_folder_of_runs_is_resumed_by_one_process(tmp_path, name):
    write_json(tmp_path / f"{name}.json", {"jobs": []})
    other = multiprocessing.get_context("fork").Process(target=_hold, args=(tmp_path,))
    other.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(ConfigError, match="another process is writing into this folder"):
        run_command("resume", [str(tmp_path)])
    other.kill()
    other.join()


def _hold(folder):
    lock(folder)
    (folder / "held").touch()
    time.sleep(60)


def test_the_table_of_jobs_fits_a_screen(tmp_path):
    jobs = [
        SweepJob(tmp_path / ("alpha=1," * 6), [], Result("failed", error="it is long " * 30), ""),
        SweepJob(tmp_path / "b", [], Result("finished", {"epoch": 1, "monitor": "iou/foreground", "value": 0.5}), ""),
    ]
    assert max(len(line) for line in jobs_table(jobs, tmp_path).splitlines()[2:5]) <= 120


TWELVE = [
    "-m",
    *TINY,
    "trainer.epochs=1",
    "loader.workers=0",
    "loss.alpha=0,0.5,1",
    "seed=range(0,4)",
    "hydra.sweep.dir=sweep",
]


def all_scores(sweep) -> dict:
    return {job.folder.name: (job.result.status, job.result.scores) for job in read_sweep(sweep)}


@pytest.fixture(scope="module")
def twelve(server, tmp_path_factory):
    """The scores of a sweep of twelve jobs without faults."""
    folder = tmp_path_factory.mktemp("twelve")
    code, text = server.run(*TWELVE, cwd=folder)
    assert code == 0, text
    return all_scores(folder / "sweep")


def test_a_job_whose_process_is_gone_is_named(tmp_path):
    job = SweepJob(tmp_path, [], Result(status="running"), "")
    lock(tmp_path)
    assert "running" in jobs_table([job], tmp_path)
    unlock(tmp_path)
    assert "killed" in jobs_table([job], tmp_path)


@pytest.mark.long
def test_of_twelve_jobs_two_fail_and_one_is_killed(server, twelve, tmp_path):
    names = list(twelve)
    for name in (names[2], names[5]):  # what the job has to write is in the way
        (tmp_path / "sweep" / name / "class_counts.json").mkdir(parents=True)
    command = server.start(*TWELVE, cwd=tmp_path)
    command.wait_for(tmp_path / "sweep" / names[11] / "environment.json")
    command.kill(signal.SIGKILL)
    command.wait()
    done = all_scores(tmp_path / "sweep")
    assert [name for name in names if done[name][0] == "finished"] == [
        n for n in names if n not in (names[2], names[5], names[11])
    ]
    assert [done[name][0] for name in (names[2], names[5], names[11])] == ["failed", "failed", "running"]
    code, text = server.run("resume", "sweep", cwd=tmp_path)
    assert (code, "10 of 12 jobs finished" in text) == (5, True), text
    for name in (names[2], names[5]):
        (tmp_path / "sweep" / name / "class_counts.json").rmdir()
    code, text = server.run("resume", "sweep", cwd=tmp_path)
    assert code == 0, text
    assert text.count("best epoch") == 2, "the other ten are left alone"
    assert all_scores(tmp_path / "sweep") == twelve


@pytest.mark.long
def test_a_sweep_killed_at_ten_moments_ends_as_one_that_was_not(server, twelve, tmp_path, figure):
    rng, kills = random.Random(0), 0
    began = time.monotonic()
    assert server.run(*TWELVE, cwd=tmp_path)[0] == 0
    whole = time.monotonic() - began
    for moment in range(10):
        folder = tmp_path / str(moment)
        folder.mkdir()
        command = server.start(*TWELVE, cwd=folder)
        time.sleep(rng.uniform(0.05, 0.95) * whole)
        command.kill(signal.SIGKILL)
        kills += command.wait() == -signal.SIGKILL
        words = ("resume", "sweep") if (folder / "sweep/sweep.json").is_file() else TWELVE
        code, text = server.run(*words, cwd=folder)
        assert code == 0, text
        assert all_scores(folder / "sweep") == twelve
    assert kills >= 8
    figure("sweeps of 12 jobs", f"{kills} of 10 killed, all end with the same 12 results")


@pytest.mark.long
def test_jobs_of_a_queue_of_submitit_end_like_others(segtrain, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    words = [*WORDS, "hydra/launcher=submitit_local"]
    (tmp_path / "sweep" / JOBS[2] / "class_counts.json").mkdir(parents=True)  # in the way of what the job writes
    done = segtrain(*words)
    assert done.code == 5, done
    assert "3 of 4 jobs finished" in done.out
    (tmp_path / "sweep" / JOBS[2] / "class_counts.json").rmdir()
    done = segtrain("resume", "sweep")
    assert (done.code, "4 of 4 jobs finished" in done.out) == (0, True), done


@pytest.mark.parametrize("folder", ["../elsewhere", "/tmp", "..", "link"])
def test_a_strangers_sweep_leads_nowhere_else(tmp_path, folder):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/link").symlink_to(tmp_path)
    write_json(tmp_path / "sweep/sweep.json", {"jobs": [{"folder": folder, "overrides": [], "config": ""}]})
    with pytest.raises(ConfigError, match="not a folder of the sweep"):
        read_sweep(tmp_path / "sweep")
