"""Run folders: made once, written whole, read as data."""

import errno
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from segtrain.cli import run_command
from segtrain.commands.resume import limits
from segtrain.errors import ConfigError, DiskError
from segtrain.files import read_checkpoint, write_checkpoint, write_json
from segtrain.metrics.records import Score
from segtrain.runs import checkpoints, claim
from segtrain.runs.checkpoints import validated_weights
from segtrain.runs.claim import make_run_folder, unlock
from segtrain.runs.environment import signature
from segtrain.runs.folder import RunFolder
from segtrain.runs.result import Result
from segtrain.runs.trained import load
from segtrain.training.state import Best


def full_disk(monkeypatch, after: int):
    """Every file takes so many bytes."""

    class Full(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > after:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    def opened(path, mode="r", *args, **kwargs):
        return Full(path, "w") if mode == "wb" else open(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)


def test_checkpoints_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "c.pt"
    write_checkpoint(file, {"step": 1})

    full_disk(monkeypatch, after=100)
    with pytest.raises(DiskError, match="cannot be written: No space left on device"):
        write_checkpoint(file, {"step": 2})
    assert read_checkpoint(file) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_checkpoints_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"model": Evil()}, tmp_path / "c.pt")
    with pytest.raises(ConfigError, match="not a checkpoint of segtrain"):
        read_checkpoint(tmp_path / "c.pt")


def test_run_folders_are_made_once(tmp_path, monkeypatch):
    make_run_folder(lambda: tmp_path / "a")
    (tmp_path / "a/result.json").write_text("{}")
    make_run_folder(lambda: tmp_path / "a")  # ended before its first checkpoint
    (tmp_path / "a/checkpoints").mkdir()
    with pytest.raises(ConfigError, match="holds a run already"):
        make_run_folder(lambda: tmp_path / "a")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    make_run_folder(lambda: tmp_path / "a")


def test_a_name_that_another_run_has_just_made_up_is_not_shared(tmp_path):
    names = iter(["a", "a", "b"])
    make_run_folder(lambda: tmp_path / next(names))
    assert make_run_folder(lambda: tmp_path / next(names)).name == "b"


def test_a_run_that_fails_says_so_in_its_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path):
        _ = 1 / 0
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "failed"
    assert "ZeroDivisionError" in (tmp_path / "segtrain.log").read_text()


def test_nan_is_null_in_json(tmp_path):
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [1.5, float("inf")]})
    found = json.loads((tmp_path / "x.json").read_text())
    assert found.pop("checksum")
    assert found == {"a": None, "b": [1.5, None]}


def test_signature_is_equal_for_repeats_of_a_setting():
    one = {"seed": 0, "loss": {"alpha": 1.0}, "dataset": {"root": "a"}, "loader": {"workers": 1}}
    two = {"seed": 1, "loss": {"alpha": 1.0}, "dataset": {"root": "b"}, "loader": {"workers": 2}}
    assert signature(one) == signature(two)
    assert signature(one) != signature({**one, "loss": {"alpha": 0.5}})


def test_a_result_is_read_as_it_was_written(tmp_path):
    result = Result("finished", {"epoch": 3, "monitor": "loss", "value": 0.5}, {"loss": 0.5}, lower_is_better=True)
    result.write(tmp_path)
    assert Result.read(tmp_path) == result
    assert Result.read(tmp_path / "nowhere").status == ""
    (tmp_path / "result.json").write_text("[1")
    with pytest.raises(ConfigError, match="not JSON"):
        Result.read(tmp_path)


def test_a_folder_that_is_no_run_is_left_as_it_is(tmp_path):
    (tmp_path / "film.part").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.json.12.part").touch()
    with pytest.raises(ConfigError, match="holds no run"):
        run_command("resume", [str(tmp_path)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film.part", "sub"]
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path):
        _ = 1 / 0
    assert (tmp_path / "film.part").exists(), "not one of ours"


def test_a_refusal_leaves_the_result_as_it_was(tmp_path):
    before = Result("finished", scores={"loss": 0.5}, intervals={"loss": [0.4, 0.6]}, seconds=7.0)
    before.write(tmp_path)
    run = RunFolder(tmp_path)
    run.result = Result("running", scores={"loss": 0.5})  # as that of the last checkpoint
    with pytest.raises(ConfigError), run:
        raise ConfigError("no device")
    assert Result.read(tmp_path) == before


def test_a_folder_that_holds_a_run_is_not_kept_from_others(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="holds a run already"):
        make_run_folder(lambda: tmp_path)
    assert tmp_path.resolve() not in claim._held


def test_weights_that_two_names_share_are_exported(tmp_path):
    shared = torch.ones(3)
    content = {"model": {"a": shared, "b": shared}, "epoch": 1, "step": 1, "config": ""}
    write_checkpoint(tmp_path / "best.pt", content)
    checkpoints.write_safetensors(tmp_path)
    assert {*load_file(tmp_path / "best.safetensors")} == {"a", "b"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"model": bytearray(8)}, "bytearray"),
        ({"model": {"weight": torch.zeros(1).expand(1000, 1000)}}, "is stored in 4 bytes"),
    ],
)
def test_checkpoints_that_claim_more_than_they_hold_are_refused(tmp_path, content, reason):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(ConfigError, match=reason):
        read_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize(
    "content",
    [
        {"run": {"config": "", "rows": [], "result": {}}},
        {"state": {"epoch": "x", "batch": 0, "step": 0, "images": 0}, "run": {"config": "", "rows": [], "result": {}}},
        {"state": {}, "run": {"config": "", "rows": [1, 2], "result": {}}},
        {"state": {}, "run": {"config": "", "rows": [], "result": [1]}},
        {"run": 5},
    ],
)
def test_checkpoints_of_another_form_are_refused(tmp_path, content):
    write_checkpoint(tmp_path / "checkpoints/last.pt", content)
    with pytest.raises(ConfigError, match="not a checkpoint of this version"):
        RunFolder(tmp_path).load_last()


def test_counts_without_the_images_names_are_refused_in_the_first_epoch(tmp_path):
    best = Best({}, {"right": np.zeros(3)}, {})
    with (
        RunFolder(tmp_path) as run,
        pytest.raises(ConfigError, match="state\\(\\) of the metric returns no names"),
    ):
        run.record(SimpleNamespace(best=best, row=dict), ["a"])


def test_a_better_epoch_after_the_last_checkpoint_stays_the_best(tmp_path):
    """Killed between best.pt and last.pt, and trained again to other numbers, as on CUDA."""
    run = RunFolder(tmp_path)
    last = {"state": {"epoch": 0, "batch": 0, "step": 0, "images": 0}}
    run.save_last(last)
    best = Best({"w": torch.ones(1)}, {}, {})
    record = Score("iou/mean", "")
    epoch = SimpleNamespace(
        number=1, step=3, best=best, monitor=record, value=0.5, scores={}, records={}, row=lambda: {"epoch": 1}
    )
    run.record(epoch, [])
    unlock(tmp_path)
    run = RunFolder(tmp_path)
    run.load_last()
    assert run.result.best is None
    epoch.best, epoch.value = None, 0.4
    run.record(epoch, [])
    assert run.result.best == {"epoch": 1, "monitor": "iou/mean", "value": 0.5}
    epoch.number = 2
    for value, known in ((0.45, 0.5), (0.6, 0.6)):  # better than what the checkpoint knows as the best
        epoch.best, epoch.value = Best({"w": torch.zeros(1)}, {}, {}), value
        run.record(epoch, [])
        assert run.result.best["value"] == known


def test_numbers_of_numpy_are_numbers_in_a_checkpoint(tmp_path):
    content = {"rows": [{"acc": np.float64(0.5), "n": np.int64(2)}], "names": ("a", np.str_("b"))}
    write_checkpoint(tmp_path / "x.pt", content)
    assert read_checkpoint(tmp_path / "x.pt") == {"rows": [{"acc": 0.5, "n": 2}], "names": ("a", "b")}


def test_a_last_checkpoint_is_loaded_as_it_was_validated():
    average = {"n_averaged": torch.tensor(3), "module.w": torch.ones(1)}
    assert validated_weights({"model": {"w": 0}, "average": average}) == {"w": torch.ones(1)}
    assert validated_weights({"model": {"w": 0}}) == {"w": 0}


def test_seconds_are_those_of_all_sessions(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    run._started -= 100
    run.save_last({"state": {"epoch": 0, "batch": 0, "step": 0, "images": 0}})
    unlock(tmp_path)
    run = RunFolder(tmp_path)
    run.load_last()
    run.save_last({"state": {"epoch": 0, "batch": 0, "step": 0, "images": 0}})
    assert 100 <= run.result.seconds < 110


def test_settings_changed_by_resume_hold_afterwards(segtrain, trained_copy):
    words = [
        "--allow",
        "trainer.epochs",
        "--allow",
        "inference.flips",
        "trainer.epochs=2",
        "inference.flips=[horizontal]",
    ]
    assert segtrain("resume", "run", *words).code == 0
    config = load(str(trained_copy)).config
    assert (config.trainer.epochs, list(config.inference.flips)) == (2, ["horizontal"])
    done = segtrain("resume", "run", "--allow", "trainer.epochs", "trainer.epochs=1")
    assert (done.code, "nothing is left to train: 2 epochs of trainer.epochs=1\n" in done.err) == (2, True), done
    done = segtrain("resume", "run")
    assert "`segtrain resume run --allow trainer.epochs trainer.epochs=NUMBER`" in done.err
    done = segtrain(
        "resume", "run", "--allow", "trainer.epochs,trainer.max_steps", "trainer.epochs=3", "trainer.max_steps=1"
    )
    assert (done.code, "of trainer.max_steps=1" in done.err) == (2, True), done
    longer = ["--allow", "trainer.epochs", "trainer.epochs=3"]
    presence = ["inference.presence", "inference.presence.area", "inference.presence.confidence"]
    allowed = [word for key in presence for word in ("--allow", key)]
    done = segtrain("resume", "run", *longer, *allowed, "inference.presence={area: 3, confidence: 0.5}")
    assert (done.code, "a mapping cannot change" in done.err) == (2, True), done
    assert segtrain("resume", "run", *longer).code == 0, "as before"


def test_what_ended_a_training_is_named_before_it_goes_on():
    trainer = {"epochs": 6, "max_steps": None, "patience": None}
    state = {"epoch": 2, "step": 8, "best": {"epoch": 1, "monitor": "iou/mean", "value": 0.5}}
    assert limits(state, trainer) == {}
    assert limits(state, trainer | {"epochs": 2}) == {"trainer.epochs": "2 epochs of trainer.epochs=2"}
    assert limits(state, trainer | {"max_steps": 8}) == {"trainer.max_steps": "8 steps of trainer.max_steps=8"}
    assert limits(state, trainer | {"patience": 1}) == {
        "trainer.patience": "1 epoch without a better one, trainer.patience=1"
    }
    assert limits(state | {"best": None}, trainer | {"patience": 1}) == {}
