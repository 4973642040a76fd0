"""A network and a training that take a second, for tests of what surrounds them."""

import torch
from torch import nn

from segtrain import optimizers, schedules
from segtrain.class_counts import count_classes
from segtrain.commands.train import first_step
from segtrain.data.augment import Augment
from segtrain.data.loader import Loader
from segtrain.data.sampling import Uniform
from segtrain.data.shapes import Shapes
from segtrain.labels import Hard
from segtrain.losses import CrossEntropy, Dice, PixelRegion, as_loss
from segtrain.metrics import SegmentationScores
from segtrain.report.logger import Logger
from segtrain.runs.folder import RunFolder
from segtrain.training import Parts, Trainer


class Tiny(nn.Module):
    """A network small enough to be trained in a test."""

    def __init__(self, classes=4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1)
        )

    def forward(self, images):
        return self.layers(images.float() / 255)


def parts(loss=None, batch_size=4, images=12, seed=0, model=None, labels=None, trainer=None) -> Parts:
    torch.manual_seed(seed)
    train_set, val_set = (Shapes(split, [32, 32], train_images=images, val_images=6) for split in ("train", "val"))
    loader = Loader(batch_size=batch_size, workers=0, min_images=1)
    train = loader.train(train_set, Augment(horizontal_flip=0.5), Uniform(), count_classes(train_set), seed)
    model = model or Tiny()
    optimizer = optimizers.adamw(model, lr=0.01)
    return Parts(
        model,
        as_loss(loss or PixelRegion(CrossEntropy(), Dice())),
        optimizer,
        schedules.poly(optimizer, trainer.total_steps(len(train))),
        train,
        loader.evaluation(val_set),
        SegmentationScores(4, class_names=val_set.class_names),
        labels or Hard(),
        shown=[0][: trainer.panel_images],
    )


def fit(folder, resume=False, **settings):
    """Two epochs, recorded in `folder`; returns the result and the network."""
    own = {k: settings.pop(k) for k in ("loss", "batch_size", "images", "seed", "model", "labels") if k in settings}
    trainer = Trainer(**{"epochs": 2, "device": "cpu", "panel_images": 1, **settings})
    made = parts(**own, trainer=trainer)
    folder.mkdir(exist_ok=True)
    run, dataset = RunFolder(folder), made.val.dataset
    checkpoint = run.load_last() if resume else None
    first = first_step(checkpoint)
    with Logger(folder, dataset, made.scores, trainer.epochs, first) as logger:
        for epoch in trainer.fit(made, checkpoint, run.save_last):
            run.record(epoch, dataset.class_names)
            logger.show(epoch, run.result.best["value"])
    return run.result, made.model


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
