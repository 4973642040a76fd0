"""Commands on a device that is not the CPU: no tensor is used with those of another device, as CUDA would refuse."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch.utils.backend_registration
from PIL import Image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
        reason="a version of PyTorch without devices in Python",
    ),
]

SCRIPT = Path(__file__).parents[1] / "second_device.py"
SMALL = ["dataset.train_images=12", "dataset.val_images=4", "loader.min_images=1", "loader.workers=0"]
SMALL += ["trainer.epochs=2", "trainer.max_steps=3", "loader.batch_size=4", "model.encoder=resnet18"]
TRAININGS = {
    "everything scored": ["metric=all", "loader.workers=2", "trainer.accumulate=2", "trainer.clip_norm=1"],
    "float16": ["trainer.precision=float16", "optimizer=sgd", "loss=ce_lovasz", "loss.region.aggregate=image"],
    "frozen": ["trainer.freeze_encoder=1", "optimizer.encoder_lr=0.1", "schedule=one_cycle", "trainer.ema_decay=null"],
    "crops": ["sampling=foreground_crops", "augment=strong", "augment.size=[32,32]", "augment.paste=0.5"],
    "whole": ["trainer.deterministic=true", "weighting=median_frequency", "loss=phased", "loss.starts=[0,1]"],
    "multi-label": ["dataset=shapes_multilabel", "loss=bce_jaccard", "metric=all", "trainer.nonfinite=skip"],
    "soft labels": ["labels=boundary_smooth", "model=segformer", "inference.scales=[0.75,1]"],
}


def on_the_device(folder: Path, *commands: list[str], processes: int = 1) -> str:
    """What the commands print, run in `folder`. Fails with it when one of them does."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = [sys.executable, *(torchrun if processes > 1 else []), SCRIPT, json.dumps(commands)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def losses(run: Path) -> list[list[float]]:
    with (run / "metrics.csv").open() as file:
        return [[float(row[name]) for name in ("train/loss", "val/loss")] for row in csv.DictReader(file)]


REFUSED = """
import numpy, torch, second_device
second_device.install()
one, host = torch.ones(3, device="second"), torch.ones(3)
for mixed in (
    lambda: one + host,
    lambda: torch.nn.Linear(3, 2).to("second")(host),
    lambda: torch.stack([one, host]),
    lambda: host.add_(one),
    lambda: torch.from_numpy(numpy.ones(3)) * one,
    lambda: one.numpy(),
    lambda: torch.ones(3, device="second:1"),
):
    try:
        mixed()
    except RuntimeError:
        print("refused")
"""


def test_the_device_refuses_what_is_mixed():
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, cwd=SCRIPT.parent)
    assert (done.stdout.split(), done.stderr) == (["refused"] * 7, "")


def test_a_training_is_that_of_the_cpu(tmp_path, monkeypatch):
    from segtrain.python import train

    settings = [*SMALL, "trainer.precision=float32", "trainer.max_steps=null"]
    on_the_device(tmp_path, [*settings, f"hydra.run.dir={tmp_path / 'device'}"])
    monkeypatch.chdir(tmp_path)
    run = train([*settings, f"hydra.run.dir={tmp_path / 'cpu'}"])
    environment = json.loads((tmp_path / "device" / "environment.json").read_text())
    assert environment["hardware"]["gpu"] == "emulated"
    np.testing.assert_allclose(losses(tmp_path / "device"), losses(run.path), rtol=2e-3)


def test_two_processes_train_as_one(tmp_path):
    """With synchronised batch norm, which PyTorch has for no CPU."""
    settings = [*SMALL, "trainer.precision=float32", "weighting=log_ratio", "metric=all", "trainer.clip_norm=1"]
    on_the_device(tmp_path, [*settings, f"hydra.run.dir={tmp_path / 'one'}"])
    text = on_the_device(tmp_path, [*settings, f"hydra.run.dir={tmp_path / 'two'}"], processes=2)
    assert "synchronises batch norm" not in text
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=2e-3)


@pytest.mark.parametrize("name", TRAININGS)
def test_trainings(name, tmp_path):
    on_the_device(tmp_path, [*SMALL, *TRAININGS[name], f"hydra.run.dir={tmp_path / 'run'}"])


def test_what_a_run_is_used_for(tmp_path):
    run, images = tmp_path / "run", tmp_path / "images"
    images.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    coarse = [f"inference.regions={run}", "inference.window=[32,32]"]
    text = on_the_device(
        tmp_path,
        [*SMALL, f"hydra.run.dir={run}"],
        ["evaluate", str(run), "metric=all", "inference.flips=[horizontal]", "inference.presence=best"],
        ["evaluate", str(run), *coarse, "inference.region_recall=0.9"],
        ["predict", str(run), str(images), "--out", str(tmp_path / "masks"), "--probabilities"],
        ["predict", str(run), str(images), "--out", str(tmp_path / "regions"), *coarse],
        ["export", str(run), "--format", "torch_export", "--out", str(tmp_path / "model.pt2")],
        ["lr-find", *SMALL, f"hydra.run.dir={tmp_path / 'lr'}"],
        [*SMALL, "labels=teacher", f"labels.teacher.run={run}", f"hydra.run.dir={tmp_path / 'taught'}"],
        [
            *SMALL,
            "sampling=proposals",
            f"sampling.coarse.run={run}",
            "augment.size=[32,32]",
            f"hydra.run.dir={tmp_path / 'p'}",
        ],
        ["repeat", str(run)],
    )
    assert "equal" in text
    assert len([*(tmp_path / "masks").rglob("0*.png")]) >= 1
