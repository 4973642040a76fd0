"""Optimizer steps and validations of one process and of several, on the same images; for test_distributed."""

import functools
import os
import pickle
import socket
from pathlib import Path

import numpy as np
import torch
from torch import nn

from segtrain.class_counts import count_classes
from segtrain.config.build import build, build_loss
from segtrain.config.compose import compose, without_hydra
from segtrain.data.augment import Augment
from segtrain.data.dataset import SegmentationDataset
from segtrain.data.loader import Loader
from segtrain.data.sampling import Uniform
from segtrain.data.views import InMemory
from segtrain.inference import Inference, Predictor
from segtrain.labels import Hard, Smooth, Teacher
from segtrain.losses import CrossEntropy, Dice, Lovasz, Phased, PixelRegion
from segtrain.metrics import SegmentationScores
from segtrain.ranks import ALONE, Rank
from segtrain.training import Parts
from segtrain.training.distributed import SeveralProcesses
from segtrain.training.evaluation import evaluate
from segtrain.training.step import Step

# The Lovász loss of a whole batch is refused.
OF_IMAGES = {"lovasz": ["loss.aggregate=image"], "ce_lovasz": ["loss.region.aggregate=image"]}
PRESETS = sorted(file.stem for file in Path(__file__).parents[2].glob("configs/loss/*.yaml"))
WEIGHTINGS = sorted(file.stem for file in Path(__file__).parents[2].glob("configs/weighting/*.yaml"))
CPU = torch.device("cpu")


class Images(SegmentationDataset):
    """Images of two sizes when they are for validation; rare classes, ignored pixels, one image that is all ignored."""

    num_classes, class_names, background, ignore_index = 4, ["none", "a", "b", "c"], 0, 255

    def __init__(self, count: int, multilabel: bool = False, sizes: tuple = ((24, 20),), seed: int = 0):
        rng = np.random.default_rng(seed)
        self.names, self.multilabel = [f"image {i}" for i in range(count)], multilabel
        self._images, self._masks = [], []
        for i in range(count):
            size = sizes[i % len(sizes)]
            self._images.append(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
            mask = rng.choice(4, p=[0.8, 0.1, 0.1 - 0.02 * (i % 5), 0.02 * (i % 5)], size=size).astype(np.uint8)
            if multilabel:
                mask = (rng.random((*size, 4)) < [0.5, 0.2, 0.05, 0.02 * (i % 3)]).astype(np.uint8)
            mask[: i % 3] = 255
            if i == 1:
                mask[:] = 255
            self._masks.append(mask)

    def image(self, index):
        return self._images[index]

    def mask(self, index):
        return self._masks[index]


class Plain(nn.Module):
    """Without batch norm, which several processes do not compute together on the CPU."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))
        self.unused = nn.Conv2d(1, 1, 1)

    def forward(self, images):
        return self.layers(images.to(self.layers[0].weight.dtype) / 255)


class Kept(torch.optim.SGD):
    """Keeps the gradients in place of a step."""

    def step(self):
        gradients = [p.grad.clone() for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.kept = [*self.kept, gradients] if hasattr(self, "kept") else [gradients]


@functools.cache
def config(*words: str):
    return without_hydra(compose(list(words)))


def loss_of(preset: str, weights, dataset):
    """The loss of a preset, of images where that of a batch is refused; and training targets of others."""
    if preset == "phased":
        return Phased([CrossEntropy(weights), Lovasz("image")], [0, 1]), Hard()
    if preset in ("smooth", "teacher"):
        torch.manual_seed(5)
        labels = Smooth(4) if preset == "smooth" else Teacher(Plain())
        return PixelRegion(CrossEntropy(weights), Dice({"batch": 0.5, "image": 0.3, "class": 0.2})), labels
    cfg = config(f"loss={preset}", "dataset.num_classes=4", *OF_IMAGES.get(preset, []))
    cfg.class_weights = weights
    return build_loss(cfg, dataset), Hard()


def weights_of(weighting: str, dataset) -> list[float] | None:
    if weighting in ("none", "manual"):
        return None if weighting == "none" else [0.1, 2.0, 0.5, 5.0]
    return build(config(f"weighting={weighting}"), "weighting")(count_classes(dataset)).tolist()


def steps(case: tuple, processes=ALONE) -> tuple[list, list]:
    """Losses and terms, and gradients, of the steps of an epoch: of 6 + 5 images, and of 6 + 2, with 3 processes one idle."""
    preset, weighting, accumulate, dtype = case
    losses, gradients = [], []
    for images in (11, 8):
        dataset = Images(images, preset.startswith("bce"))
        loss, labels = loss_of(preset, weights_of(weighting, dataset), dataset)
        processes.check(labels.training_loss(loss), 6)
        torch.manual_seed(0)
        model = Plain().to(dtype)
        optimizer = Kept(model.parameters(), lr=1.0)
        train = Loader(6, workers=0, min_images=1).train(
            dataset, Augment(horizontal_flip=0.5), Uniform(), count_classes(dataset), 0, processes=processes
        )
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        parts = Parts(model, loss, optimizer, schedule, train, None, None, labels)
        step = Step(
            parts,
            device=CPU,
            precision=torch.float32,
            clip_norm=None,
            ema_decay=None,
            compiled=False,
            processes=processes,
        )
        for epoch in loss.starts:
            loss.start_epoch(epoch)
            step.train(frozen_encoder=False)
            batches = list(train.epoch(epoch))
            for first in range(0, len(batches), accumulate):
                found = step(batches[first : first + accumulate], first)
                losses.append({name: float(value) for name, value in found.items()})
        gradients += optimizer.kept
    return losses, gradients


def validation(case: tuple, processes=ALONE) -> tuple[dict, float, dict]:
    """Scores, loss and counts of 14 images in batches of 3, of two sizes; of the first 4 batches alone."""
    preset, limit = case
    dataset = Images(14, preset.startswith("bce"), sizes=((24, 20), (16, 20)), seed=1)
    loss, _ = loss_of(preset, weights_of("median_frequency", dataset), dataset)
    groups = ["fine_grained", "presence", "foreground", "objects", "boundary", "calibration"]
    scores = SegmentationScores(4, class_names=dataset.class_names, multilabel=dataset.multilabel, groups=groups)
    torch.manual_seed(0)
    predictor = Predictor(Plain(), CPU, torch.no_grad, dataset.multilabel, Inference(), 0)
    batches = Loader(3, workers=0).evaluation(dataset, processes.validating(scores))
    limit = batches.num_images(limit)
    value = evaluate(predictor, batches, scores, loss, dataset.names, limit, processes=processes)
    return scores.compute(), value, scores.state()


def in_memory(count: int, processes=ALONE) -> tuple[list, list]:
    """Images and masks that are kept in memory, after each process has written into its own, and what each has decoded."""
    decoded = []

    class Watched(Images):
        def image(self, index):
            decoded.append(index)
            return super().image(index)

    kept = InMemory(Watched(count, sizes=((24, 20), (7, 5))), processes)
    samples = [(kept.image(i).copy(), kept.mask(i).copy()) for i in range(count)]
    for i in range(count):
        kept.image(i)[:] = processes.rank.number
    everyone = processes.gathered(
        (sorted(decoded), all((kept.image(i) == processes.rank.number).all() for i in range(count)))
    )
    assert all(own for _, own in everyone)
    return samples, [numbers for numbers, _ in everyone]


def work(number: int, size: int, port: int, function, cases: list, file: str) -> None:
    """What process `number` does; the first one writes the results."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with SeveralProcesses(Rank(number, size, number)) as processes:
        found = [function(case, processes) for case in cases]
    if number == 0:
        Path(file).write_bytes(pickle.dumps(found))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
