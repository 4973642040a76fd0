"""A line for what is known to go wrong, and silence for the rest."""

import numpy as np
import pytest
import torch

from segtrain.class_counts import ClassCounts
from segtrain.losses import CrossEntropy, Dice, Jaccard, Lovasz, PixelRegion, as_loss
from segtrain.metrics import SegmentationScores
from segtrain.report.advice import advice

PIXELS = np.array([99_950, 50])
COUNTS = ClassCounts(
    ["background", "crack"], PIXELS, np.array([9, 1]), PIXELS, np.array([100_000] * 2), 0, 9, 8, np.zeros((9, 2))
)


def say(loss, monitor="iou/mean", from_scratch=True):
    record = SegmentationScores(2, groups=["fine_grained"]).records()[monitor]
    return advice(loss, COUNTS, background=0, monitor=record, from_scratch=from_scratch)


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (Jaccard(classes=[1]), "the background is never learned"),
        (PixelRegion(CrossEntropy(), Jaccard(classes=[1]), pixel_weight=0.0), "the background is never learned"),
        (Lovasz(), "Lovász alone starts slowly"),
        (Jaccard(aggregate="class"), "aggregate=class is noisy for crack"),
        (PixelRegion(CrossEntropy([1.0, 9.0]), Dice(class_weights=[1.0, 9.0])), "rare classes count twice"),
        (Dice(), "the loss is Dice, but trainer.monitor=iou/mean"),
    ],
)
def test_what_goes_wrong_is_said(loss, text):
    (line,) = say(loss)
    assert text in line


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropy([1.0, 2.0]),
        Jaccard(),
        PixelRegion(CrossEntropy([1.0, 9.0]), Dice()),
        PixelRegion(CrossEntropy(), Jaccard(classes=[1])),
        PixelRegion(CrossEntropy(), Lovasz()),
        as_loss(torch.nn.Identity()),
    ],
    ids=str,
)
def test_silence_otherwise(loss):
    assert say(loss) == []


def test_the_way_out_is_accepted():
    assert say(Dice(), monitor="dice/mean") == []
    assert say(Lovasz(), from_scratch=False) == []
