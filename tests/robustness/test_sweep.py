"""A sweep that fails or is killed: what is missing is run by `resume`, in the same folders, to the same end."""

import json
import shutil
import signal

import pytest
from test_kill import TINY

from segtrain.errors import ConfigError
from segtrain.files import read_json, write_json
from segtrain.runs.sweep import read_sweep

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
@pytest.mark.parametrize("after", ["00_alpha=0,seed=0/metrics.csv", "02_alpha=1,seed=0/environment.json"])
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


@pytest.mark.slow
def test_failed_jobs_are_listed_and_run_again_and_the_others_are_left_alone(server, whole, tmp_path):
    sweep = shutil.copytree(whole, tmp_path / "sweep")
    for name in (JOBS[1], JOBS[2]):
        for file in (sweep / name).iterdir():
            if file.name != "config.yaml":
                shutil.rmtree(file) if file.is_dir() else file.unlink()
    untouched = (sweep / JOBS[0] / "result.json").stat().st_mtime_ns
    config = sweep / JOBS[2] / "config.yaml"
    text_of = json.loads((sweep / "sweep.json").read_text())
    config.write_text(config.read_text().replace("seed: 0", "seed: 7"))
    shutil.copy(whole / JOBS[1] / "config.yaml", sweep / JOBS[1] / "config.yaml")
    code, text = server.run("resume", "sweep", cwd=tmp_path)
    assert code == 2, text
    assert "changed since the sweep was started" in text
    assert (sweep / JOBS[0] / "result.json").stat().st_mtime_ns == untouched
    assert text_of == json.loads((sweep / "sweep.json").read_text())


@pytest.mark.parametrize("folder", ["../elsewhere", "/tmp", "..", "link"])
def test_a_strangers_sweep_leads_nowhere_else(tmp_path, folder):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/link").symlink_to(tmp_path)
    write_json(tmp_path / "sweep/sweep.json", {"jobs": [{"folder": folder, "overrides": [], "config": ""}]})
    with pytest.raises(ConfigError, match="no folder of the sweep"):
        read_sweep(tmp_path / "sweep")
