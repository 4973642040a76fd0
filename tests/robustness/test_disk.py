"""A full disk costs no checkpoint: the one before it stays, and the training goes on."""

import errno
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from small_training import fit, parts

from segtrain.errors import DiskError, Preempted
from segtrain.files import read_checkpoint, whole, write_checkpoint
from segtrain.runs import checkpoints
from segtrain.runs.folder import RunFolder
from segtrain.training import Trainer


class FullDisk:
    """As the stream of `whole`, raises the error of a full disk after `left` bytes, while it is full."""

    def __init__(self, monkeypatch, left: int = 0):
        self.full, self.left, self.failures = False, left, 0
        opened = Path.open
        disk = self

        class Stream:
            def __init__(self, stream):
                self.stream = stream

            def write(self, data):
                disk.left -= len(data)
                if disk.full and disk.left < 0:
                    disk.failures += 1
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return self.stream.write(data)

            def __getattr__(self, name):
                return getattr(self.stream, name)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.stream.close()

        monkeypatch.setattr(
            Path,
            "open",
            lambda path, mode="r", **kw: Stream(opened(path, mode)) if mode == "wb" else opened(path, mode, **kw),
        )


def trained_with_a_full_disk(folder, disk: FullDisk, failures: int) -> RunFolder:
    """Three epochs, the disk being full from the end of the first until so many writes have failed."""
    trainer = Trainer(epochs=3, device="cpu", panel_images=0)
    made = parts(trainer=trainer)
    folder.mkdir()
    run = RunFolder(folder)
    for epoch in trainer.fit(made, None, run.save_last):
        disk.full = epoch.number == 1 or (disk.full and disk.failures < failures)
        run.record(epoch, made.val.dataset.class_names)
        if disk.failures >= failures:
            disk.full = False
    run.finish()
    return run


def test_training_goes_on_when_the_disk_is_full(tmp_path, monkeypatch, caplog):
    fit(tmp_path / "whole", epochs=3, panel_images=0)
    disk = FullDisk(monkeypatch)
    run = trained_with_a_full_disk(tmp_path / "run", disk, failures=1)
    assert disk.failures == 1
    assert "No space left on device; it is written with the next checkpoint" in caplog.text
    for name in ("best.pt", "last.pt"):
        one, other = (
            read_checkpoint(folder / "checkpoints" / name)["model"] for folder in (tmp_path / "whole", run.path)
        )
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert (run.path / "metrics.csv").read_text().count("\n") == 4


def test_the_third_failure_in_a_row_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("segtrain.training.trainer.SAVED_ANEW", -1)  # as after a long epoch: before its validation, too
    disk = FullDisk(monkeypatch)
    with pytest.raises(DiskError, match="No space left"):
        trained_with_a_full_disk(tmp_path / "run", disk, failures=9)
    assert disk.failures == 5, "three checkpoints, and the records of two epochs"
    disk.full = False
    run = RunFolder(tmp_path / "run")
    assert run.load_last()["state"]["epoch"] == 0
    assert not list(run.path.rglob("*.part"))


def test_space_is_looked_at_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 2**20))
    with pytest.raises(DiskError, match="1 MiB are free, but the checkpoints take up to 3 MiB"):
        checkpoints.check_space(tmp_path, torch.nn.Linear(2**16, 1, bias=False), keep=0)


def test_epochs_before_are_kept(tmp_path):
    fit(tmp_path / "run", epochs=4)
    run, trainer = RunFolder(tmp_path / "run"), Trainer(epochs=5, device="cpu", panel_images=0)
    run.keep = 2
    (run.checkpoints / "epoch_002_backup.pt").touch()  # of the user
    list(trainer.fit(parts(trainer=trainer), None, run.save_last))
    kept = ["epoch_002_backup.pt", "epoch_004.pt", "epoch_005.pt"]
    assert sorted(p.name for p in run.checkpoints.glob("epoch_*")) == kept
    assert read_checkpoint(run.checkpoints / "epoch_004.pt")["state"]["epoch"] == 4


def test_fewer_epochs_than_are_done_end_the_run(tmp_path):
    fit(tmp_path / "run", epochs=3)
    run, trainer = RunFolder(tmp_path / "run"), Trainer(epochs=1, device="cpu")
    assert list(trainer.fit(parts(trainer=trainer), run.load_last(), run.save_last)) == []


def test_an_error_that_is_none_of_the_disk_is_not_called_one(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"), whole(tmp_path / "x"):
        raise RuntimeError("a bug")
    assert list(tmp_path.iterdir()) == []


def _save_for_ever(file: Path) -> None:
    torch.set_num_threads(1)
    for step in range(10**6):
        write_checkpoint(file, {"step": step, "model": {"weight": torch.full((2**20,), float(step))}})


@pytest.mark.long
def test_full_disks_and_kills_in_a_save(tmp_path, monkeypatch, figure):
    rng, loaded = random.Random(0), 0
    file, good = tmp_path / "last.pt", {"step": -1, "model": {"weight": torch.full((2**20,), -1.0)}}
    write_checkpoint(file, good)
    disk = FullDisk(monkeypatch)
    for k in range(50):
        disk.full, disk.left = True, k * file.stat().st_size // 50
        with pytest.raises(DiskError):
            write_checkpoint(file, {**good, "step": k})
        loaded += read_checkpoint(file)["step"] == -1
    disk.full = False
    fork = multiprocessing.get_context("fork")
    for _ in range(100):
        process = fork.Process(target=_save_for_ever, args=(file,))
        process.start()
        time.sleep(rng.uniform(0.05, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        content = read_checkpoint(file)
        loaded += bool((content["model"]["weight"] == content["step"]).all())
    with RunFolder(tmp_path):
        pass
    left = list(tmp_path.rglob("*.part"))
    figure("full disk at 50 offsets, 100 kills in a save", f"loads {loaded} of 150, {len(left)} temporary files left")
    assert loaded == 150
    assert left == []


def _save_till_stopped(file: Path, times: int) -> None:
    def stop(*_):
        raise Preempted("stopped by SIGALRM")

    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, stop)
    rng, content, stops = random.Random(0), {str(k): torch.zeros(16) for k in range(300)}, []
    while len(stops) < times:
        try:
            # Again after 10 s only where a destructor swallows the error: sooner may hit the handler below on a busy machine.
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.001, 0.02), 10)
            while True:
                write_checkpoint(file, content)
        except Preempted as stopped:
            signal.setitimer(signal.ITIMER_REAL, 0)
            stops.append(stopped)
    stops.clear()  # what torch had opened is freed, which may not end the process


def test_a_stop_while_a_checkpoint_is_written_is_that_stop(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_save_till_stopped, args=(tmp_path / "last.pt", 100))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]
