"""The loop: what it learns, keeps, writes and refuses."""

import csv
import json

import numpy as np
import pytest
import torch
from small_training import Tiny, fit, same
from torch import nn

from segtrain import optimizers, schedules
from segtrain.class_counts import count_classes
from segtrain.data.augment import Augment
from segtrain.data.loader import Loader
from segtrain.data.sampling import Uniform
from segtrain.data.shapes import ShapesMultilabel
from segtrain.errors import ConfigError, DiskError, NotFinite
from segtrain.losses import CrossEntropy, Dice, Phased, PixelRegion
from segtrain.metrics import SegmentationScores
from segtrain.runs.checkpoint import load_checkpoint, save_checkpoint
from segtrain.runs.folder import RunFolder, make_run_folder, signature
from segtrain.training.trainer import Trainer


def rows(folder):
    with (folder / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_a_run_leaves_what_the_contract_says(tmp_path):
    result, _ = fit(tmp_path)
    found = rows(tmp_path)
    assert [row["epoch"] for row in found] == ["0", "1"]
    assert {
        "step",
        "lr",
        "train/loss",
        "train/loss/ce",
        "train/loss/dice",
        "val/loss",
        "val/iou/mean",
        "val/iou/cross",
        "seconds",
        "images_per_second",
    } <= set(found[0])
    assert float(found[1]["train/loss"]) < float(found[0]["train/loss"])
    assert {"best", "scores", "per_class"} == set(result)
    for name in ("checkpoints/best.pt", "checkpoints/last.pt", "per_image.npz", "plots/examples.png"):
        assert (tmp_path / name).is_file(), name
    assert list((tmp_path / "tensorboard").glob("events*"))
    saved = np.load(tmp_path / "per_image.npz")
    assert [saved[name].shape for name in ("tp", "fp", "fn")] == [(6, 4)] * 3
    assert saved["names"][0] == "val_00000"


def test_the_train_loss_is_the_mean_over_images(tmp_path):
    class Constant(nn.Module):
        def forward(self, logits, target):
            return logits.sum() * 0 + len(target)  # the loss of a batch is its size

    fit(tmp_path, loss=Constant(), batch_size=8, epochs=1)  # 12 images: batches of 8 and 4
    assert float(rows(tmp_path)[0]["train/loss"]) == pytest.approx((8 * 8 + 4 * 4) / 12)


def test_accumulated_cross_entropy_equals_the_whole_batch(tmp_path):
    class NoNorm(Tiny):
        def __init__(self):
            super().__init__()
            self.layers[1] = nn.Identity()

    results, weights = [], [0.1, 1.0, 5.0, 9.0]  # without which the mean of the parts is the loss of the whole
    for name, settings in {"whole": {"batch_size": 8}, "parts": {"batch_size": 2, "accumulate": 4}}.items():
        torch.manual_seed(0)
        results.append(fit(tmp_path / name, loss=CrossEntropy(weights), images=8, model=NoNorm(), **settings)[1])
    for a, b in zip(*(m.state_dict().values() for m in results), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path):
    _, whole = fit(tmp_path / "whole", epochs=3)

    class Stop(Exception):
        pass

    class StopAt(PixelRegion):
        calls = 0

        def forward(self, logits, target):
            StopAt.calls += self.training and torch.is_grad_enabled()
            if StopAt.calls == 6:  # the last of the second epoch's three batches
                raise Stop
            return super().forward(logits, target)

    with pytest.raises(Stop):
        fit(tmp_path / "stopped", epochs=3, checkpoint_every=1, loss=StopAt(CrossEntropy(), Dice()))
    _, resumed = fit(tmp_path / "stopped", epochs=3, resume=True)
    assert same(whole, resumed)
    columns = [c for c in rows(tmp_path / "whole")[0] if c not in ("seconds", "images_per_second")]
    for a, b in zip(rows(tmp_path / "whole"), rows(tmp_path / "stopped"), strict=True):
        assert [float(a[c]) for c in columns] == pytest.approx([float(b[c]) for c in columns], nan_ok=True)


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path):
    class Breaks(CrossEntropy):
        calls = 0

        def forward(self, logits, target):
            Breaks.calls += 1
            return super().forward(logits, target) * (float("nan") if Breaks.calls == 3 else 1)

    model = Tiny()
    with pytest.raises(NotFinite, match="the loss is not finite"):
        fit(tmp_path, loss=Breaks(), model=model)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert load_checkpoint(tmp_path / "checkpoints/last.pt")["state"]["step"] == 2


def test_max_steps_val_batches_and_patience(tmp_path):
    fit(tmp_path / "steps", epochs=9, max_steps=4)
    assert [row["step"] for row in rows(tmp_path / "steps")] == ["3", "4"]
    fit(tmp_path / "val", epochs=1, val_batches=1)
    assert np.load(tmp_path / "val/per_image.npz")["tp"].shape[0] == 4

    class Flat(nn.Module):
        def forward(self, logits, target):
            return logits.sum() * 0

    fit(tmp_path / "patience", epochs=9, patience=2, loss=Flat(), monitor="loss")
    assert len(rows(tmp_path / "patience")) == 3


def test_moving_average_is_what_is_validated_and_kept(tmp_path):
    _, model = fit(tmp_path, ema_decay=0.5)
    best = load_checkpoint(tmp_path / "checkpoints/best.pt")["model"]
    assert best.keys() == model.state_dict().keys()
    assert not torch.equal(best["layers.0.weight"], model.state_dict()["layers.0.weight"])


def test_a_wrong_monitor_lists_the_right_ones(tmp_path):
    with pytest.raises(ConfigError) as error:
        fit(tmp_path, monitor="iou/crss")
    assert "did you mean 'iou/cross'" in error.value.what
    assert "iou/foreground" in error.value.fix


@pytest.mark.parametrize(
    "settings", [{"precision": "bfloat16"}, {"deterministic": True, "clip_norm": 1.0}, {"compile": True}]
)
def test_settings_that_change_the_step(tmp_path, settings):
    fit(tmp_path, epochs=1, **settings)
    assert np.isfinite(float(rows(tmp_path)[0]["train/loss"]))


def test_phases_are_marked_and_kept_by_resume(tmp_path):
    def phased():
        return Phased([CrossEntropy(), Dice()], starts=[0, 2])

    fit(tmp_path / "whole", loss=phased(), epochs=3)
    assert [float(row["train/loss/phase"]) for row in rows(tmp_path / "whole")] == [0, 0, 1]
    assert [row["train/loss/dice"] != "" for row in rows(tmp_path / "whole")] == [False, False, True]
    fit(tmp_path / "stopped", loss=phased(), epochs=3, checkpoint_every=1, max_steps=7)
    fit(tmp_path / "stopped", loss=phased(), epochs=3, resume=True)
    assert float(rows(tmp_path / "stopped")[-1]["train/loss/phase"]) == 1


def test_multilabel(tmp_path):
    from segtrain.losses import BinaryCrossEntropy

    trainer = Trainer(epochs=1, device="cpu", panel_images=1)
    sets = [ShapesMultilabel(split, [32, 32], train_images=8, val_images=4) for split in ("train", "val")]
    loader, model = Loader(batch_size=4, workers=0), Tiny(classes=3)
    optimizer = optimizers.sgd(model)
    result = trainer.fit(
        model,
        BinaryCrossEntropy(pos_weight=[1.0, 2.0, 3.0]),
        optimizer,
        schedules.constant(optimizer, 2),
        loader.train(sets[0], Augment(), Uniform(), count_classes(sets[0]), 0),
        loader.evaluation(sets[1]),
        SegmentationScores(3, background=None, multilabel=True),
        RunFolder(tmp_path),
        config={},
    )
    assert len(result["per_class"]) == 3


def test_schedules():
    parameter = nn.Parameter(torch.zeros(1))
    factors = {}
    for name, options in {"poly": {"power": 1.0}, "cosine": {"final": 0.1}, "constant": {}}.items():
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        schedule = getattr(schedules, name)(optimizer, 14, warmup=4, **options)
        factors[name] = []
        for _ in range(15):
            factors[name].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
    for values in factors.values():
        assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors["poly"][9] == pytest.approx(0.5)
    assert factors["poly"][14] == pytest.approx(0)
    assert factors["cosine"][9] == pytest.approx(0.55)
    assert factors["cosine"][14] == pytest.approx(0.1)
    assert factors["constant"][14] == 1


def test_biases_and_norms_are_not_decayed():
    groups = optimizers.adamw(Tiny(), weight_decay=0.1).param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert {p.ndim for p in groups[1]["params"]} == {1}


def test_checkpoints_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "c.pt"
    save_checkpoint({"step": 1}, file)

    def full_disk(*args):
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(DiskError, match="cannot be written"):
        save_checkpoint({"step": 2}, file)
    assert load_checkpoint(file) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_checkpoints_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"model": Evil()}, tmp_path / "c.pt")
    with pytest.raises(ConfigError, match="not a checkpoint of segtrain"):
        load_checkpoint(tmp_path / "c.pt")


def test_run_folders_are_made_once(tmp_path):
    make_run_folder(tmp_path / "a")
    (tmp_path / "a/result.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a run already"):
        make_run_folder(tmp_path / "a")


def test_a_run_that_fails_says_so_in_its_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path):
        _ = 1 / 0
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "failed"
    assert "ZeroDivisionError" in (tmp_path / "segtrain.log").read_text()


def test_nan_is_null_in_json(tmp_path):
    RunFolder(tmp_path).write_json("x.json", {"a": float("nan"), "b": [1.5, float("inf")]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [1.5, None]}


def test_signature_is_equal_for_repeats_of_a_setting():
    one = {"seed": 0, "loss": {"alpha": 1.0}, "dataset": {"root": "a"}, "loader": {"workers": 1}}
    two = {"seed": 1, "loss": {"alpha": 1.0}, "dataset": {"root": "b"}, "loader": {"workers": 2}}
    assert signature(one) == signature(two)
    assert signature(one) != signature({**one, "loss": {"alpha": 0.5}})
