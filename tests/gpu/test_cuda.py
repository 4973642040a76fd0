"""What only a CUDA device can show; skipped without one."""

import contextlib
import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import Tiny, parts, same
from torch import nn

from segtrain.class_counts import count_classes
from segtrain.commands.train import seed_everything
from segtrain.config.build import build_dataset, build_labels, build_loss
from segtrain.config.compose import compose
from segtrain.data.augment import Augment
from segtrain.data.loader import Loader
from segtrain.data.sampling import Uniform
from segtrain.errors import DataError, OutOfMemory, out_of_memory_explained
from segtrain.inference import Inference, Predictor
from segtrain.losses import BinaryCrossEntropy, CrossEntropy, Dice, Focal, Lovasz, PixelRegion, Tversky
from segtrain.losses.sums import form
from segtrain.training import Trainer
from segtrain.training.step import LOOK_EVERY, Step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


LOSSES = {
    "ce + dice": PixelRegion(CrossEntropy([1.0, 2.0, 0.5, 1.0, 3.0], label_smoothing=0.1), Dice(), alpha=0.5),
    "focal + tversky": PixelRegion(Focal(), Tversky(gamma=0.75, log=True)),
    "dice image": Dice(aggregate="image"),
    "lovasz": Lovasz(),
    "bce + dice": PixelRegion(BinaryCrossEntropy(), Dice(activation="sigmoid")),
    "lovasz hinge": Lovasz(activation="sigmoid", aggregate="image"),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("how", ["triton", "dense"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_losses_equal_the_cpu_are_deterministic_and_do_not_wait(name, how, dtype, layout, monkeypatch):
    loss, generator = LOSSES[name], torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 64, 80, generator=generator).to(dtype).contiguous(memory_format=layout)
    several = loss.activation == "sigmoid"
    target = torch.randint(0, 2 if several else 5, (2, 5, 64, 80) if several else (2, 64, 80), generator=generator)
    target[..., :9, :] = 255
    results, loss_on_cuda = [], copy.deepcopy(loss).cuda()

    def run(z, y, loss):
        z = z.detach().clone().requires_grad_()
        value = loss(z, y)
        value.backward()
        return value.detach(), z.grad

    expected = run(logits.float(), target, loss)
    monkeypatch.setenv("SEGTRAIN_SUMS", how)
    on_cuda = target.to(torch.uint8).cuda()
    torch.use_deterministic_algorithms(True)
    try:
        for turn in range(2):
            z = logits.cuda()
            torch.cuda.set_sync_debug_mode("error" if turn else "default")  # the first compiles
            results.append(run(z, on_cuda, loss_on_cuda))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(results[0][0].cpu().float(), expected[0], rtol=1e-5, atol=1e-6)
    if "lovasz" not in name:  # whose slopes change with the order of errors that are nearly equal
        most = (1e-4 if dtype == torch.float32 else 1e-2) * expected[1].abs().max()
        assert (results[0][1].cpu().float() - expected[1]).abs().max() <= most
    assert all(map(torch.equal, *results))


def cuda_step(precision=torch.bfloat16):
    """A Step on CUDA, and a pinned batch."""
    made = parts(trainer=Trainer(device="cuda"), model=Tiny().cuda())
    step = Step(made, device=torch.device("cuda"), precision=precision, clip_norm=1.0, ema_decay=0.9, compiled=False)
    step.train(frozen_encoder=False)
    images, target, indices = next(made.train.epoch(0))
    return step, (images.pin_memory(), target.pin_memory(), indices)


def test_no_step_waits():
    step, batch = cuda_step()
    step([batch], 1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(2, 3 * LOOK_EVERY):
            step([batch], number)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    step.finite.check()


def test_labels_that_are_no_class_end_the_training_and_not_the_device():
    step, (images, target, indices) = cuda_step()
    wrong = target.clone()
    wrong[0, 0, 0] = 77
    step([(images, wrong, indices)], 1)
    with pytest.raises(DataError, match="label 77 is not a class"):
        step.finite.check()
    assert torch.ones(1, device="cuda").item() == 1


def test_the_last_device_is_the_one_that_is_used():
    last = torch.cuda.device_count() - 1
    trainer = Trainer(device=f"cuda:{last}")
    assert torch.cuda.current_device() == last
    assert torch.ones(1, device="cuda").device == trainer.device


def test_out_of_memory():
    with pytest.raises(OutOfMemory, match="CUDA out of memory"), out_of_memory_explained():
        torch.empty(1 << 50, device="cuda")


def test_kernels_of_triton_start(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("SEGTRAIN_SUMS", raising=False)
    assert form(torch.zeros(1, 2, 1, 1, device="cuda")) == "triton"


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("multilabel", [False, True])
def test_scores_equal_the_cpu(multilabel, deterministic):
    from segtrain.metrics import SegmentationScores, predict

    seed_everything(0, deterministic)

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 40, 52, generator=generator)
    target = torch.randint(0, 2, logits.shape, generator=generator).to(torch.uint8)
    target = target if multilabel else target.argmax(dim=1).to(torch.uint8)
    target[..., :4] = 255
    groups = ["fine_grained", "presence", "foreground", "objects", "boundary", "calibration"]
    found = []
    for device in ("cpu", "cuda"):
        z, y = logits.to(device), target.to(device)
        scores = SegmentationScores(5, background=None if multilabel else 0, multilabel=multilabel, groups=groups)
        scores.update(predict(z, multilabel), y, logits=z)
        found.append(scores.compute())
    torch.use_deterministic_algorithms(False)
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("more", [[], ["trainer.compile=true"], ["trainer.precision=float16", "trainer.ema_decay=0.9"]])
def test_a_training(segtrain, more, tmp_path):
    from conftest import TINY

    trained = segtrain(*[w for w in TINY if "device" not in w], "trainer.device=cuda", "hydra.run.dir=run", *more)
    assert trained.code == 0, trained
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["hardware"]["gpu"] == torch.cuda.get_device_name()


@pytest.mark.parametrize("size", [(40, 52), (700, 900)])  # the second goes strip by strip
def test_images_that_are_resized(size, monkeypatch):
    monkeypatch.setattr("segtrain.inference.predictor.LARGE", 300_000)
    network, image = (
        nn.Conv2d(3, 2, 3, padding=1).eval(),
        np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8),
    )

    def masks(device: str) -> np.ndarray:
        model = nn.Sequential(Floats(), network).to(device)
        inference = Inference(resize=[32, 32])
        return Predictor(model, torch.device(device), contextlib.nullcontext, False, inference).image(image).mask

    assert (masks("cpu") == masks("cuda")).mean() > 0.999


class Floats(nn.Module):
    def forward(self, images):
        return images.float() / 255


PRESETS = sorted(file.stem for file in (Path(__file__).parents[2] / "configs" / "loss").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_deterministic_steps_give_equal_bits(preset):
    multilabel = ["dataset=shapes_multilabel"] if preset.startswith("bce") else []
    cfg = compose([f"loss={preset}", "dataset.size=[32,32]", *multilabel])
    dataset, trainer = build_dataset(cfg, "train"), Trainer(device="cuda", deterministic=True)
    cfg.class_weights = [1.0 + label for label in range(dataset.num_classes)]
    loss = build_loss(cfg, dataset, build_labels(cfg, dataset)).cuda()
    weights = []
    for _ in range(2):
        seed_everything(0, deterministic=True)
        torch.backends.cudnn.benchmark = False
        made = parts(trainer=trainer, model=Tiny(classes=dataset.num_classes).cuda(), loss=loss)
        train = Loader(workers=0).train(dataset, Augment(), Uniform(), count_classes(dataset), 0)
        step = Step(
            made, device=torch.device("cuda"), precision=torch.bfloat16, clip_norm=1.0, ema_decay=0.9, compiled=False
        )
        step.train(frozen_encoder=False)
        for number, batch in enumerate(train.epoch(0)):
            step([batch], number + 1)
        weights.append(copy.deepcopy(step.validated))
    torch.use_deterministic_algorithms(False)
    assert same(*weights)
