"""Jobs at the same time on one machine: a GPU and a share of the cores for each."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest

from segtrain.errors import ConfigError
from segtrain.ranks import Rank
from segtrain.runs.environment import gpu_of
from segtrain.training.device import gpu_of_its_own, gpu_of_process, one_of

CODE = """
import segtrain.cpu as cpu
all = cpu.cores()
cpu.share_cores(all + 1)
import os, torch
print(cpu.cores(), torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"], cpu.jobs() == all + 1)
"""


def test_no_two_jobs_have_one_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr("segtrain.training.device.WAIT", 0.01)
    held, most, used = [], [0], []

    def job() -> None:
        with one_of(["first", "second"], tmp_path) as name:
            assert name not in held
            held.append(name)
            used.append(name)
            most[0] = max(most[0], len(held))
            time.sleep(0.05)
            held.remove(name)

    jobs = [threading.Thread(target=job) for _ in range(6)]
    for thread in jobs:
        thread.start()
    for thread in jobs:
        thread.join()
    assert (most, len(used), set(used)) == ([2], 6, {"first", "second"})


def hold(folder, taken) -> None:
    with one_of(["first"], folder):
        taken.set()
        time.sleep(60)


def test_a_killed_job_leaves_its_gpu_to_the_next(tmp_path):
    fork = multiprocessing.get_context("fork")
    taken = fork.Event()
    process = fork.Process(target=hold, args=(tmp_path, taken))
    process.start()
    assert taken.wait(20)
    with one_of(["first", "second"], tmp_path) as name:
        assert name == "second"
    process.kill()
    process.join()
    with one_of(["first", "second"], tmp_path) as name:
        assert name == "first"


def test_a_failing_job_leaves_its_gpu(tmp_path):
    with pytest.raises(ValueError, match="of the job"), one_of(["first"], tmp_path):
        raise ValueError("of the job")
    with one_of(["first"], tmp_path) as name:
        assert name == "first"


class Gpu:
    def __init__(self, index: int):
        self.uuid = f"GPU-{index}"


class Together:
    """This process among others, which have the GPUs `others`."""

    def __init__(self, rank: Rank, *others: str | None):
        self.rank, self.size, self.others = rank, rank.size, others

    def gathered(self, own: str | None) -> list:
        return [own, *self.others]


def test_processes_that_train_together_have_a_gpu_each(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_properties", Gpu)
    for count, local, others, expected in (
        (2, 1, ["GPU-0"], "cuda:1"),
        (1, 1, ["GPU-9"], "cuda:0"),  # each sees its own alone
        (1, 1, ["GPU-0"], "2 processes, but 1 GPU for them"),
        (2, 2, ["GPU-0", "GPU-1"], "3 processes, but 2 GPUs for them"),
    ):
        monkeypatch.setattr("torch.cuda.device_count", lambda count=count: count)
        try:
            found = str(gpu_of_process(Together(Rank(local, 1 + len(others), local), *others)))
        except ConfigError as error:
            found = error.what
        assert found == expected


def test_the_gpu_that_is_recorded_is_that_of_the_training(monkeypatch):
    assert gpu_of("auto") is None
    for name, answer in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "current_device": lambda: 1,
        "get_device_name": ["A", "B"].__getitem__,
    }.items():
        monkeypatch.setattr(f"torch.cuda.{name}", answer)
    names = ("auto", "cuda", "cuda:0", "cuda:1", "cuda:2", "cpu")
    assert [gpu_of(name) for name in names] == ["B", "B", "A", "B", None, None]


def test_each_job_of_several_makes_its_gpu_the_current_one(tmp_path, monkeypatch):
    chosen = []
    monkeypatch.setenv("SEGTRAIN_JOBS", "2")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name, answer in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "get_device_properties": Gpu,
        "set_device": chosen.append,
    }.items():
        monkeypatch.setattr(f"torch.cuda.{name}", answer)
    with gpu_of_its_own("auto"), gpu_of_its_own("cuda"), gpu_of_its_own("cpu"):
        assert chosen == [0, 1]
    monkeypatch.setenv("SEGTRAIN_JOBS", "1")
    with gpu_of_its_own("auto"):
        assert chosen == [0, 1]


def test_jobs_share_the_cores():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "SEGTRAIN_JOBS"))}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1", "PASSIVE", "True"]
