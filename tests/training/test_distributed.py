"""Several processes (gloo) against one: losses, gradients, scores, runs; and how they end."""

import itertools
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import TINY, write_folder_dataset
from ranks_cases import PRESETS, WEIGHTINGS, Images, free_port, in_memory, steps, validation, work
from small_training import Tiny, parts

from segtrain.config.build import build_loss
from segtrain.config.compose import compose, without_hydra
from segtrain.errors import ConfigError
from segtrain.losses.loss import as_loss
from segtrain.ranks import ALONE, Rank, launched
from segtrain.training import Trainer
from segtrain.training.distributed import SeveralProcesses
from segtrain.training.step import Step

fork = multiprocessing.get_context("forkserver")
fork.set_forkserver_preload(
    ["segtrain.commands.train", "segtrain.training.distributed", "hydra._internal.instantiate._instantiate2"]
)


def of_processes(size: int, function, cases: list, folder) -> list:
    """function(case, processes) for each case, by so many processes."""
    port, file = free_port(), folder / "found"
    started = [fork.Process(target=work, args=(n, size, port, function, cases, str(file))) for n in range(size)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * size
    return pickle.loads(file.read_bytes())


def check_steps(size: int, cases: list, folder) -> dict:
    """The largest relative difference of a gradient by the number of micro-batches a step."""
    largest = {}
    for case, (losses, gradients) in zip(cases, of_processes(size, steps, cases, folder), strict=True):
        one_losses, one_gradients = steps(case)
        preset, _, accumulate, dtype = case
        # The shares of micro-batches are float32 in one process, and so is a teacher's part.
        most = 1e-6 if dtype == torch.float32 or preset == "teacher" else 1e-12 if accumulate == 1 else 1e-7
        assert losses == [pytest.approx(terms, rel=most, abs=most) for terms in one_losses], case
        for own, one in zip(gradients, one_gradients, strict=True):
            scale = max(float(g.abs().max()) for g in one)
            difference = max(float((a - b).abs().max()) for a, b in zip(own, one, strict=True)) / scale
            assert difference <= most, case
            largest[accumulate] = max(difference, largest.get(accumulate, 0.0))
    return largest


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_losses_and_gradients_are_those_of_one_process(size, tmp_path):
    presets = PRESETS if size == 2 else PRESETS[::4]  # the long test has all of them
    cases = [(preset, "median_frequency", 1 + number % 2, torch.float64) for number, preset in enumerate(presets)]
    cases += [("smooth", "none", 2, torch.float64), ("teacher", "log_ratio", 1, torch.float64)]
    check_steps(size, [*cases, ("ce_dice", "none", 2, torch.float32), ("ce", "manual", 1, torch.float32)], tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("size", [2, 3])
def test_losses_and_gradients_of_every_preset_weighting_and_accumulation(size, tmp_path, figure):
    grid = itertools.product([*PRESETS, "smooth", "teacher"], WEIGHTINGS, (1, 2), (torch.float64,))
    for accumulate, largest in check_steps(size, cases := list(grid), tmp_path).items():
        title = f"{size} processes against one, accumulate={accumulate}, {len(cases) // 2} losses and weightings"
        figure(title, f"gradients differ by {largest:.1e} at most")


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_scores_and_validation_losses_are_bit_equal(size, tmp_path):
    cases = [(preset, limit) for preset in ("ce_dice", "bce_dice", "lovasz") for limit in (None, 4, 1)]
    for case, (scores, loss, state) in zip(cases, of_processes(size, validation, cases, tmp_path), strict=True):
        one_scores, one_loss, one_state = validation(case)
        np.testing.assert_equal(scores, one_scores)
        np.testing.assert_equal(state, one_state)
        assert loss == one_loss


@pytest.mark.skipif(sys.platform != "linux", reason="memory is shared on Linux only")
def test_images_in_memory_are_decoded_once_by_all_processes(tmp_path):
    cases = [7, 2, 1]  # images, of which a process may have none
    for count, (samples, decoded) in zip(cases, of_processes(2, in_memory, cases, tmp_path), strict=True):
        one_samples, _ = in_memory(count)
        np.testing.assert_equal(samples, one_samples)
        assert decoded == [list(range(count))[number::2] for number in range(2)]


CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_steps_of_a_group_of_one_process(device, monkeypatch):
    """On CUDA with NCCL and SyncBatchNorm."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))

    def weights_after(processes) -> dict:
        trainer = Trainer(device=device)
        made = parts(trainer=trainer, model=Tiny().to(trainer.device))
        step = Step(
            made,
            device=trainer.device,
            precision=torch.float32,
            clip_norm=1.0,
            ema_decay=0.9,
            compiled=False,
            processes=processes,
        )
        step.train(frozen_encoder=False)
        batches = list(made.train.epoch(0))
        step(batches[:2], 0)
        step(batches[2:], 1)
        step.processes.same_buffers(step.model, step.validated)
        return step.validated.state_dict()

    torch.manual_seed(0)
    alone = weights_after(ALONE)
    torch.manual_seed(0)
    with SeveralProcesses(Rank(0, 1)) as processes:
        assert processes.device("auto").startswith(device) or device == "cpu"
        torch.testing.assert_close(weights_after(processes), alone, rtol=1e-5, atol=1e-6)


# runs

PLAIN = """from torch import nn


class Plain(nn.Module):
    def __init__(self, num_classes: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, num_classes, 1))

    def forward(self, images):
        return self.layers(images.float() / 255)
"""
SMALL = [word for word in TINY if not word.startswith(("model", "trainer.epochs"))]
WORDS = ["--config-dir", "conf", "model=plain", *SMALL, "trainer.epochs=2", "dataset.train_images=18"]


@pytest.fixture
def plain(tmp_path):
    """The folder of a test, with a network without batch norm: model=plain."""
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/plain.yaml").write_text("_target_: plain.Plain\nnum_classes: ${dataset.num_classes}\n")
    (tmp_path / "plain.py").write_text(PLAIN)
    return tmp_path


def start(server, folder, size: int, *words, **environment) -> list:
    """The processes of a training, as torchrun starts them."""
    known = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **environment}
    ranks = [{"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(size)]
    return [server.start(*words, cwd=folder, **known, **rank) for rank in ranks]


def weights(run) -> dict:
    return torch.load(run / "checkpoints/last.pt", weights_only=True)["model"]


def check_equal(run, other) -> None:
    """The weights of two runs but for the last bits; the counts of their best epoch exactly."""
    for own, one in zip(weights(run).values(), weights(other).values(), strict=True):
        torch.testing.assert_close(own, one, rtol=1e-5, atol=1e-7)
    counts, of_other = np.load(run / "per_image.npz"), np.load(other / "per_image.npz")
    for name in counts:
        np.testing.assert_array_equal(counts[name], of_other[name])


@pytest.mark.slow
def test_torchrun_trains_as_one_process(plain, server):
    assert server.run(*WORDS, "hydra.run.dir=one", cwd=plain)[0] == 0
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    environment = {**os.environ, "SEGTRAIN_CACHE": str(plain / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, "-m", "segtrain", *WORDS, "hydra.run.dir=two"],
        cwd=plain,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    check_equal(plain / "two", plain / "one")
    files = [sorted(f.name.split(".17")[0] for f in (plain / run).rglob("*")) for run in ("one", "two")]
    assert files[0] == files[1]
    assert json.loads((plain / "two/environment.json").read_text())["world_size"] == 2
    assert done.stdout.count("epoch   2/2") == 1


def test_a_run_of_two_processes_goes_on_with_one(plain, server):
    words = [*WORDS, "trainer.epochs=8"]
    assert server.run(*words, "hydra.run.dir=one", cwd=plain)[0] == 0
    both = start(server, plain, 2, *words, "hydra.run.dir=two", "trainer.checkpoint_every=3")
    both[0].wait_for(plain / "two/checkpoints/last.pt")
    both[0].kill(signal.SIGTERM)  # one of them alone
    assert [process.wait() for process in both] == [75, 75]
    assert json.loads((plain / "two/result.json").read_text())["status"] == "preempted"
    code, text = server.run("resume", "--trust", "plain", "two", cwd=plain)
    assert code == 0, text
    check_equal(plain / "two", plain / "one")
    resumed = json.loads((plain / "two/environment.json").read_text())["resumes"]
    assert [entry["world_size"] for entry in resumed] == [1]


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_other(plain, server):
    both = start(server, plain, 2, *WORDS, "trainer.epochs=2000", "hydra.run.dir=two")
    both[0].wait_for(plain / "two/checkpoints/last.pt")
    both[1].kill()
    started = time.monotonic()
    assert both[0].wait() == 1
    assert time.monotonic() - started < 30
    assert "error: process 1 has ended, or hangs, without a message\n  where: process 1\n" in both[0].text()
    result = json.loads((plain / "two/result.json").read_text())
    assert (result["status"], result["error"]) == ("failed", "process 1 has ended, or hangs, without a message")
    both[1].wait()


def test_the_first_process_is_missed_too(plain, server):
    both = start(server, plain, 2, *WORDS, "trainer.epochs=2000", "hydra.run.dir=two")
    both[0].wait_for(plain / "two/checkpoints/last.pt")
    both[0].kill()
    assert both[1].wait() == 1
    assert "error: process 0 has ended, or hangs, without a message" in both[1].text()
    both[0].wait()


@pytest.mark.long
def test_a_process_that_hangs_ends_the_other(plain, server):
    both = start(server, plain, 2, *WORDS, "trainer.epochs=2000", "hydra.run.dir=two")
    both[0].wait_for(plain / "two/checkpoints/last.pt")
    both[1].kill(signal.SIGSTOP)
    started = time.monotonic()
    assert both[0].wait() == 1
    assert time.monotonic() - started < 30
    assert "error: process 1 has ended, or hangs" in both[0].text()
    assert json.loads((plain / "two/result.json").read_text())["status"] == "failed"
    both[1].kill()
    both[1].wait()


def test_an_error_of_one_process_is_that_of_all(plain, server):
    data = write_folder_dataset(plain / "data")
    files = sorted((data / "train/images").iterdir())
    files[3].write_bytes(files[3].read_bytes()[:200])
    words = ["dataset=folder", f"dataset.root={data}", "dataset.num_classes=3", "augment.size=[32,32]"]
    words += ["loader.cache=none"]  # so that one process alone reads the file, and during the training
    both = start(server, plain, 2, *[w for w in WORDS if "dataset" not in w], *words, "hydra.run.dir=two")
    assert [process.wait() for process in both] == [3, 3], both[0].text()
    text = both[0].text() + both[1].text()
    assert text.count("data error:") == 1
    assert files[3].name in text
    assert json.loads((plain / "two/result.json").read_text())["status"] == "failed"


def test_patience_ends_all(plain, server):
    words = [*WORDS, "trainer.epochs=9", "trainer.patience=1", "optimizer.lr=1e-12", "hydra.run.dir=two"]
    both = start(server, plain, 2, *words)
    assert [process.wait() for process in both] == [0, 0], both[0].text()
    assert len((plain / "two/metrics.csv").read_text().splitlines()) == 3


def test_not_finite_ends_all(plain, server):
    both = start(server, plain, 2, *WORDS, "optimizer.lr=1e30", "hydra.run.dir=two")
    assert [process.wait() for process in both] == [6, 6]
    assert both[0].text().count("not finite:") == 1
    assert both[1].text() == ""


def test_a_mistake_in_the_config_is_said_once(plain, server):
    both = start(server, plain, 2, *WORDS, "loader.batch_size=5")
    assert [process.wait() for process in both] == [2, 2]
    assert "5 images cannot be shared evenly by 2 processes" in both[0].text()
    assert both[1].text() == ""


def test_refusals(plain, server):
    both = start(server, plain, 2, "-m", "seed=0,1")
    assert [process.wait() for process in both] == [2, 2]
    assert "a sweep (-m) runs in one process, but 2 were started" in both[0].text()
    (plain / "swept").mkdir()
    (plain / "swept/sweep.json").write_text("{}")
    both = start(server, plain, 2, "resume", "swept")
    assert [process.wait() for process in both] == [2, 2]
    assert "a sweep runs in one process, but 2 were started" in both[0].text()

    def refused(preset: str, fix: str) -> None:
        loss = build_loss(without_hydra(compose([f"loss={preset}"])), Images(2))
        with pytest.raises(ConfigError, match=fix):
            SeveralProcesses(Rank(0, 2)).check(loss, 4)

    for preset in ("lovasz", "ce_lovasz", "phased"):
        refused(preset, "loss.aggregate=image")
    with pytest.raises(ConfigError, match="Own needs the whole batch"):
        SeveralProcesses(Rank(0, 2)).check(as_loss(type("Own", (torch.nn.Module,), {"forward": lambda *_: None})()), 4)
    with pytest.raises(ConfigError, match="2 processes cannot share one device, cuda:1"):
        SeveralProcesses(Rank(0, 2)).device("cuda:1")


def test_ranks_of_torchrun_and_slurm(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.setenv(name, "1")  # which it was before, when the test has ended
        monkeypatch.delenv(name)
    assert launched() == Rank()
    slurm = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "77"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    with pytest.raises(ConfigError, match="export MASTER_ADDR="):
        launched()
    monkeypatch.setenv("MASTER_ADDR", "node1")
    assert launched() == Rank(3, 4, 1)
    assert os.environ["MASTER_PORT"] == "20077"


def test_shares_of_a_batch():
    parts = [Rank(number, 3).part(list(range(8))) for number in range(3)]
    assert parts == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert [Rank(number, 3).part([0, 1]) for number in range(3)] == [[0], [1], []]
