"""The loop: what it learns, keeps, writes and refuses."""

import contextlib
import csv
import gc
import signal
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from small_training import Tiny, fit, parts, same
from torch import nn

from segtrain import optimizers, schedules
from segtrain.class_counts import count_classes
from segtrain.commands.repeat import TIMES
from segtrain.data.augment import Augment
from segtrain.data.loader import Loader
from segtrain.data.sampling import Uniform
from segtrain.data.shapes import Shapes, ShapesMultilabel
from segtrain.errors import ConfigError, NotFinite
from segtrain.files import read_checkpoint
from segtrain.inference import Inference, Predictor
from segtrain.losses import BinaryCrossEntropy, CrossEntropy, Dice, Lovasz, Phased, PixelRegion
from segtrain.metrics import SegmentationScores
from segtrain.models import set_prior_bias
from segtrain.report.logger import Logger
from segtrain.runs.folder import RunFolder
from segtrain.training import Parts, Trainer, evaluate


def rows(folder):
    with (folder / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_a_run_leaves_what_the_contract_says(tmp_path):
    result, _ = fit(tmp_path)
    found = rows(tmp_path)
    assert [row["epoch"] for row in found] == ["1", "2"]
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
    assert result.best["epoch"] in (1, 2)
    assert (result.lower_is_better, result.unit) == (False, "%")
    assert result.scores["iou/mean"] == result.best["value"]
    assert [row["name"] for row in result.per_class] == ["background", "disc", "square", "cross"]
    for name in ("checkpoints/best.pt", "checkpoints/last.pt", "per_image.npz", "plots/examples.png"):
        assert (tmp_path / name).is_file(), name
    assert list((tmp_path / "tensorboard").glob("events*"))
    saved = np.load(tmp_path / "per_image.npz")
    assert saved["tp"].shape == saved["fn"].shape == (6, 4)
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


class WithDropout(Tiny):
    def __init__(self):
        super().__init__()
        self.layers.insert(3, nn.Dropout(0.3))


@pytest.mark.parametrize(("network", "ema_decay"), [(Tiny, None), (WithDropout, 0.95)])
def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path, network, ema_decay):
    def made():
        torch.manual_seed(0)
        return network()

    settings = {"epochs": 3, "ema_decay": ema_decay}
    _, whole = fit(tmp_path / "whole", model=made(), **settings)

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
        fit(tmp_path / "stopped", checkpoint_every=1, loss=StopAt(CrossEntropy(), Dice()), model=made(), **settings)
    _, resumed = fit(tmp_path / "stopped", resume=True, model=made(), **settings)
    assert same(whole, resumed)
    columns = [c for c in rows(tmp_path / "whole")[0] if c not in TIMES]
    for a, b in zip(rows(tmp_path / "whole"), rows(tmp_path / "stopped"), strict=True):
        assert [float(a[c]) for c in columns] == pytest.approx([float(b[c]) for c in columns], nan_ok=True)


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path):
    class Breaks(CrossEntropy):
        calls = 0

        def forward(self, logits, target):
            Breaks.calls += 1
            return super().forward(logits, target) * (float("nan") if Breaks.calls == 3 else 1)

    model = Tiny()
    with pytest.raises(NotFinite, match="the loss or the gradient is not finite"):
        fit(tmp_path, loss=Breaks(), model=model, checkpoint_every=1)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert read_checkpoint(tmp_path / "checkpoints/last.pt")["state"]["step"] == 2


def test_there_is_a_checkpoint_before_the_first_epoch_is_recorded():
    """Killed after best.pt was written and before last.pt was, a run could not be resumed."""
    saved = []
    trainer = Trainer(epochs=2, device="cpu", panel_images=0)
    for _ in trainer.fit(parts(trainer=trainer), checkpoint=saved.append):
        assert [content["state"]["epoch"] for content in saved] == [0]
        break


def test_max_steps_val_batches_and_patience(tmp_path):
    fit(tmp_path / "steps", epochs=9, max_steps=4)
    assert [row["step"] for row in rows(tmp_path / "steps")] == ["3", "4"]
    assert Trainer(epochs=9, max_steps=4, device="cpu").total_epochs(3) == 2
    assert Trainer(epochs=9, max_steps=5, accumulate=2, device="cpu").total_epochs(3) == 3
    assert Trainer(epochs=9, device="cpu").total_epochs(3) == 9
    fit(tmp_path / "val", epochs=1, val_batches=1)
    assert np.load(tmp_path / "val/per_image.npz")["tp"].shape[0] == 4

    class Flat(nn.Module):
        def forward(self, logits, target):
            return logits.sum() * 0

    result, _ = fit(tmp_path / "patience", epochs=9, patience=2, loss=Flat(), monitor="loss")
    assert (result.lower_is_better, result.unit) == (True, ""), "known before the run has ended"
    assert len(rows(tmp_path / "patience")) == 3


def test_moving_average_is_what_is_validated_and_kept(tmp_path):
    _, model = fit(tmp_path, ema_decay=0.5)
    best = read_checkpoint(tmp_path / "checkpoints/best.pt")["model"]
    assert best.keys() == model.state_dict().keys()
    assert not torch.equal(best["layers.0.weight"], model.state_dict()["layers.0.weight"])


def test_a_wrong_monitor_lists_the_right_ones(tmp_path):
    with pytest.raises(ConfigError) as error:
        fit(tmp_path, monitor="iou/crss")
    assert "did you mean 'iou/cross'" in error.value.what
    assert "iou/foreground" in error.value.fix


@pytest.mark.parametrize("settings", [{"precision": "bfloat16"}, {"deterministic": True, "clip_norm": 1.0}])
def test_settings_that_change_the_step(tmp_path, settings):
    fit(tmp_path, epochs=1, **settings)
    assert np.isfinite(float(rows(tmp_path)[0]["train/loss"]))


@pytest.mark.long
def test_a_compiled_network_is_compiled_once(tmp_path):
    """For training; not again for a last batch of two images, nor for the validation."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    fit(tmp_path / "compiled", images=10, compile=True)
    assert counters["stats"]["unique_graphs"] == 1
    fit(tmp_path / "plain", images=10)
    losses = [[float(row["train/loss"]) for row in rows(tmp_path / name)] for name in ("compiled", "plain")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


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
    sets = [ShapesMultilabel(split, [32, 32], train_images=8, val_images=4) for split in ("train", "val")]
    loader, model = Loader(batch_size=4, workers=0), Tiny(classes=3)
    optimizer = optimizers.sgd(model)
    made = Parts(
        model,
        BinaryCrossEntropy(pos_weight=[1.0, 2.0, 3.0]),
        optimizer,
        schedules.constant(optimizer, 2),
        loader.train(sets[0], Augment(), Uniform(), count_classes(sets[0]), 0),
        loader.evaluation(sets[1]),
        SegmentationScores(3, background=None, multilabel=True),
        shown=[1],
    )
    (epoch,) = Trainer(epochs=1, device="cpu").fit(made)
    assert epoch.predictions[1].shape == (3, 32, 32)
    assert {len(column) for column in epoch.best.per_class.values()} == {3}


def test_the_loop_ends_with_break():
    trainer = Trainer(epochs=5, device="cpu", panel_images=0)
    before = signal.getsignal(signal.SIGTERM)
    for epoch in trainer.fit(parts(trainer=trainer)):
        assert epoch.number <= 2
        if epoch.number == 2:
            break
    assert trainer.state.step == 6
    del epoch
    gc.collect()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    "loss",
    [
        PixelRegion(CrossEntropy([0.1, 1, 5, 9]), Dice()),
        PixelRegion(CrossEntropy(), Lovasz(aggregate="image")),
        PixelRegion(CrossEntropy(), Lovasz()),
    ],
)
def test_the_validation_loss_does_not_depend_on_the_batch_size(loss):
    """The sums of the split, not a mean over batches."""
    torch.manual_seed(0)
    model, val_set = Tiny().eval(), Shapes("val", [32, 32], val_images=7)
    predictor = Predictor(model, torch.device("cpu"), contextlib.nullcontext, False, Inference())
    found = []
    for batch_size in (1, 3, 7):
        batches = Loader(batch_size=batch_size, workers=0).evaluation(val_set)
        found.append(evaluate(predictor, batches, SegmentationScores(4), loss))
    assert found == pytest.approx([found[0]] * 3, rel=1e-6)


def test_micro_batches_weigh_the_region_term_by_images(tmp_path):
    """Class weights are the pixel term's: one micro-batch may hold nearly all of the weight."""

    class Recorded(PixelRegion):
        seen: ClassVar[list] = []

        def terms(self, logits, target):
            found = super().terms(logits, target)
            Recorded.seen.append((self.amounts(target)[0], *(float(term.detach()) for term in found)))
            return found

    loss = Recorded(CrossEntropy([0.001, 1, 50, 100]), Dice(), alpha=2)
    fit(tmp_path, loss=loss, batch_size=2, images=8, accumulate=4, epochs=1)
    weights = [float(weight) for weight, *_ in Recorded.seen[:4]]
    pixel = sum(w * p for w, (_, p, _) in zip(weights, Recorded.seen, strict=False)) / sum(weights)
    region = sum(r for *_, r in Recorded.seen[:4]) / 4
    assert float(rows(tmp_path)[0]["train/loss"]) == pytest.approx(pixel + region, rel=1e-5)


def test_cudnn_times_convolutions_in_training_only(tmp_path):
    seen = {True: set(), False: set()}

    class Looks(Tiny):
        def forward(self, images):
            seen[self.training].add(torch.backends.cudnn.benchmark)
            return super().forward(images)

    fit(tmp_path, model=Looks())
    assert seen == {True: {True}, False: {False}}


def test_a_run_killed_before_its_validation_is_validated(tmp_path):
    """With max_steps reached, too: there was a TypeError."""

    class Killed(Exception):
        pass

    class KilledAt(SegmentationScores):
        def reset(self):
            super().reset()
            if self.names == [] and KilledAt.armed:
                raise Killed

    whole, _ = fit(tmp_path / "whole", epochs=9, max_steps=2)
    trainer = Trainer(epochs=9, max_steps=2, device="cpu", panel_images=1)
    KilledAt.armed = False
    made = parts(trainer=trainer)
    made.scores, KilledAt.armed = KilledAt(4, class_names=made.scores.class_names), True
    KilledAt.armed = True
    folder = tmp_path / "killed"
    folder.mkdir()
    with pytest.raises(Killed):
        list(trainer.fit(made, None, RunFolder(folder).save_last))
    resumed, _ = fit(folder, epochs=9, max_steps=2, resume=True)
    assert resumed.best == whole.best
    assert resumed.scores == pytest.approx(whole.scores, nan_ok=True)


def test_a_run_resumed_at_the_end_of_an_epoch_keeps_its_events_and_its_learning_rate(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tmp_path / "whole", epochs=3)

    class Stop(Exception):
        pass

    trainer = Trainer(epochs=3, device="cpu", panel_images=1)
    made = parts(trainer=trainer)
    (tmp_path / "stopped").mkdir()
    run = RunFolder(tmp_path / "stopped")
    with Logger(run.path, made.val.dataset, made.scores, 3) as logger:
        fitted = trainer.fit(made, None, run.save_last)
        for epoch in fitted:
            run.record(epoch, made.val.dataset.class_names)
            logger.show(epoch, run.result.best["value"])
            if epoch.number == 2:
                with contextlib.suppress(Stop):
                    fitted.throw(Stop)  # killed before the checkpoint after the epoch
    fit(tmp_path / "stopped", epochs=3, resume=True)
    found = []
    for name in ("whole", "stopped"):
        events = EventAccumulator(str(tmp_path / name / "tensorboard"))
        events.Reload()
        found.append([(e.step, e.value) for e in events.Scalars("run/lr")])
        found.append([float(row["lr"]) for row in rows(tmp_path / name)])
    assert found[0] == found[2]
    assert [step for step, _ in found[0]] == [3, 6, 9]
    assert found[1] == found[3]


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


class Encoded(nn.Module):
    """A network with an encoder."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, images):
        return self.head(self.encoder(images.float() / 255))


def test_a_frozen_encoder_stays_as_it_is_for_so_many_epochs(tmp_path):
    torch.manual_seed(0)
    model = Encoded()
    trainer = Trainer(epochs=2, device="cpu", panel_images=0, freeze_encoder=1)
    made = parts(model=model, trainer=trainer)
    before = [tensor.clone() for tensor in model.encoder.state_dict().values()]
    head, changed = model.head.weight.clone(), []
    for _ in trainer.fit(made):
        changed.append(not all(map(torch.equal, before, model.encoder.state_dict().values())))
    assert changed == [False, True]
    assert not torch.equal(head, model.head.weight)
    with pytest.raises(ConfigError, match="no encoder"):
        optimizers.check_encoder(Tiny(), "trainer.freeze_encoder", 0)


def test_what_a_model_has_frozen_itself_stays_frozen():
    model = Encoded()
    model.encoder.requires_grad_(False)
    trainer = Trainer(epochs=1, device="cpu", panel_images=0)
    for _ in trainer.fit(parts(model=model, trainer=trainer)):
        continue
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.encoder.parameters())


def test_a_warm_up_longer_than_the_training_is_refused():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(ConfigError, match="a training of 9 steps with a warm-up of 9 steps"):
        schedules.poly(optimizer, 9, warmup=9)


def test_the_encoder_may_have_a_learning_rate_of_its_own():
    optimizer = optimizers.adamw(Encoded(), lr=0.1, encoder_lr=0.5, weight_decay=0.2)
    found = [(group["lr"], group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
    assert found == [(0.1, 0.2, 1), (0.1, 0.0, 1), (0.05, 0.2, 1), (0.05, 0.0, 3)]
    with pytest.raises(ConfigError, match="no encoder"):
        optimizers.adamw(Tiny(), encoder_lr=0.5)


def test_the_prior_bias_predicts_the_shares_of_the_classes():
    dataset = Shapes("train", [32, 32], train_images=12)
    counts, model = count_classes(dataset), Encoded()
    set_prior_bias(model, counts)
    nn.init.zeros_(model.head.weight)
    probabilities = model(torch.zeros(1, 3, 4, 4)).softmax(dim=1)[0, :, 0, 0]
    assert probabilities.tolist() == pytest.approx(counts.share.tolist(), abs=1e-3)
    with pytest.raises(ConfigError, match="does not end in a convolution"):
        set_prior_bias(nn.Linear(2, 2), counts)


def test_one_cycle_is_that_of_torch():
    weight = [nn.Parameter(torch.zeros(1))]
    optimizer, other = torch.optim.SGD(weight, lr=0.4), torch.optim.SGD(weight, lr=0.4)
    ours = schedules.one_cycle(optimizer, 100, warmup=0.3, start=0.04)
    theirs = torch.optim.lr_scheduler.OneCycleLR(other, 0.4, total_steps=101, pct_start=0.3, div_factor=25)
    for _ in range(100):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(other.param_groups[0]["lr"], abs=0.02)
        optimizer.step(), ours.step(), other.step(), theirs.step()


def test_the_time_left_of_the_whole_training_is_said(tmp_path, monkeypatch, caplog):
    clock = iter(range(0, 10_000, 90))  # seconds, an epoch every 90
    monkeypatch.setattr("segtrain.report.logger.time", SimpleNamespace(monotonic=lambda: next(clock)))
    with caplog.at_level("INFO"):
        fit(tmp_path / "run", epochs=3)
    lines = [line for line in caplog.messages if line.startswith("epoch  ")]
    assert [line.rpartition("%")[2] for line in lines] == ["  3 min left", "  2 min left", ""]


def test_terms_of_the_loss_are_weighed_as_the_loss(tmp_path):
    """The logged terms add up to the logged loss when micro-batches have unlike numbers of valid pixels."""
    fit(
        tmp_path,
        loss=PixelRegion(CrossEntropy([0.001, 1, 50, 100]), Dice(), alpha=2),
        batch_size=2,
        images=8,
        accumulate=4,
    )
    row = rows(tmp_path)[0]
    parts = {name: float(value) for name, value in row.items() if name.startswith("train/loss/")}
    assert float(row["train/loss"]) == pytest.approx(parts["train/loss/ce"] + 2 * parts["train/loss/dice"], rel=1e-5)
