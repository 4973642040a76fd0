"""A signal at any moment ends a run with its exit code, without orphans, and the run goes on with `resume`."""

import json
import os
import random
import signal
import time

import pytest
from folders import differing
from processes import alive, children
from test_kill import TINY

from segtrain.errors import Preempted
from segtrain.files import read_rows
from segtrain.runs.result import Result
from segtrain.signals import leave_if_stopped, passed_on, received, watched

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def stopped(server, folder, number, rng, after: float, group: bool) -> tuple[int, list[int], str]:
    """The exit code of a run that gets a signal, its orphans, and what it printed."""
    words = [*TINY, "trainer.epochs=200", f"loader.workers={rng.randint(0, 2)}", "hydra.run.dir=run"]
    command = server.start(*words, cwd=folder)
    command.wait_for(folder / "run/config.yaml")
    time.sleep(after)
    workers = children(command.pid)
    command.kill(number, group)
    return command.wait(), alive(workers), command.text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_signal_to_the_group_stops_after_the_step(server, tmp_path, number):
    code, orphans, text = stopped(server, tmp_path, number, random.Random(number), 2.0, group=True)
    assert (code, orphans) == (130 if number == signal.SIGINT else 75, []), text
    assert "segtrain resume" in text
    assert "DataLoader worker" not in text
    assert json.loads((tmp_path / "run/result.json").read_text())["status"] == "preempted"


def test_a_second_signal_stops_at_once(server, tmp_path):
    command = server.start(*TINY, "trainer.epochs=200", "hydra.run.dir=run", cwd=tmp_path)
    command.wait_for(tmp_path / "run/metrics.csv")
    command.kill(signal.SIGTERM)
    time.sleep(0.002)
    command.kill(signal.SIGTERM)
    assert command.wait() == 75, command.text()


def _stop_in_a_job() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert received() == signal.SIGTERM, "a job looks at it after its step"
    leave_if_stopped()


def test_a_sweep_without_processes_of_its_own_stops_in_its_job_and_between_them():
    with pytest.raises(Preempted, match="SIGTERM"), passed_on(), watched():
        _stop_in_a_job()
    with pytest.raises(Preempted, match="SIGUSR1"), passed_on():
        os.kill(os.getpid(), signal.SIGUSR1)
    leave_if_stopped()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_to_a_sweep_in_parallel_stops_its_jobs_after_the_step(server, tmp_path, number):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = [*TINY, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "trainer.epochs=200", "hydra.sweep.dir=sweep"]
    command = server.start("-m", "seed=0,1,2", *words, cwd=tmp_path)
    jobs = [tmp_path / f"sweep/0{seed}_seed={seed}" for seed in range(3)]
    for job in jobs[:2]:
        command.wait_for(job / "metrics.csv")
    processes = children(command.pid)
    command.kill(number, group=number == signal.SIGINT)  # as Ctrl-C does
    assert command.wait() == (130 if number == signal.SIGINT else 75), command.text()
    assert alive(processes) == []
    assert [Result.read(job).status for job in jobs] == ["preempted", "preempted", ""]
    assert all((job / "checkpoints/last.pt").is_file() for job in jobs[:2])


@pytest.mark.slow
def test_a_job_that_slurm_queues_again_goes_on(server, tmp_path):
    words = [*TINY, "loader.workers=0", "weighting=log_ratio"]
    code, text = server.run(*words, "hydra.run.dir=whole", cwd=tmp_path)
    assert code == 0, text
    command = server.start(*words, "hydra.run.dir=run", cwd=tmp_path)
    command.wait_for(tmp_path / "run/metrics.csv")
    command.kill(signal.SIGTERM)
    assert command.wait() == 75, command.text()
    code, text = server.run(*words, "hydra.run.dir=run", cwd=tmp_path)
    assert code == 2
    assert "holds a run already" in text
    code, text = server.run(*words, "hydra.run.dir=run", cwd=tmp_path, SLURM_RESTART_COUNT="1")
    assert code == 0, text
    assert "resuming after" in text
    assert differing(tmp_path / "whole", tmp_path / "run") == []


def _stop_now(calls: list) -> None:
    os.kill(os.getpid(), signal.SIGUSR2)
    assert calls == []
    leave_if_stopped()


def test_a_handler_of_the_scheduler_is_called_last(monkeypatch):
    calls = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: calls.append(number))
    try:
        with pytest.raises(Preempted, match="SIGUSR2"), watched():
            _stop_now(calls)
        assert calls == [signal.SIGUSR2]
        leave_if_stopped()
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_signal_within_another_watch_is_not_forgotten():
    with watched():
        with watched():
            os.kill(os.getpid(), signal.SIGTERM)
        assert received()
    assert not received()


@pytest.mark.long
def test_signals_at_100_moments(server, tmp_path, figure):
    rng, right, resumable, orphaned, failures = random.Random(0), 0, 0, 0, []
    for number in SIGNALS:
        for k in range(25):
            (folder := tmp_path / f"{number.name}{k}").mkdir()
            code, orphans, text = stopped(server, folder, number, rng, rng.uniform(0, 4), rng.random() < 0.5)
            right += code == (130 if number == signal.SIGINT else 75)
            orphaned += len(orphans)
            more = f"trainer.epochs={len(read_rows(folder / 'run/metrics.csv')) + 2}"
            resumed, more = server.run("resume", "run", "--allow", "trainer.epochs", more, cwd=folder)
            resumable += resumed == 0
            if resumed or code not in (75, 130):
                failures.append(f"{number.name} {k}: {code} {resumed}\n{text}\n{more}")
    figure("signals at random moments", f"{right} of 100 exit codes, {resumable} of 100 resumable, {orphaned} orphans")
    assert failures == []
    assert orphaned == 0
