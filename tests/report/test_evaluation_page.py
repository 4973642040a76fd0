"""Sentences of the evaluation page that are built from numbers."""

import logging

import numpy as np
import pytest
import torch

from segtrain.data.sampling import RareClasses, Uniform
from segtrain.data.shapes import Shapes
from segtrain.errors import DataError
from segtrain.losses import CrossEntropy, Dice, PixelRegion
from segtrain.metrics import SegmentationScores
from segtrain.report import html
from segtrain.report.advice import tips_for_rare_classes
from segtrain.report.pages.evaluation import found_note, picture_groups
from segtrain.report.scores import hardly_found, not_defined
from segtrain.report.text import Printable, score_text, table


@pytest.mark.parametrize(
    ("tp", "note"),
    [
        ([3, 1], "In 2 images; found in each."),
        ([3], "In 1 image; found in each."),
        ([3, 0, 0], "In 3 images; no pixel found in 2."),
    ],
)
def test_in_how_many_images_a_class_is_found(tp, note):
    assert found_note(np.array(tp)) == note


def test_a_score_with_its_unit():
    nan = float("nan")
    pairs = [(0.1234, "%"), (2.5, "px"), (0.53214, ""), (nan, "%"), (None, "")]
    assert [score_text(*pair) for pair in pairs] == ["12.3 %", "2.5 px", "0.5321", "n/a", "n/a"]


def test_classes_without_a_score_are_named():
    rows = [{"name": "a", "iou": None}, {"name": "b", "iou": float("nan")}, {"name": "c", "iou": 0.5}]
    assert not_defined(rows) == ["n/a: a, b (absent from ground truth and prediction; left out of the means)"]


def test_classes_that_are_hardly_found_are_named_with_what_to_try():
    def row(name, recall, iou, support=9):
        return {"name": name, "support": support, "recall": recall, "iou": iou}

    good = [row("a", 0.9, 0.8), row("absent", float("nan"), 0.0, support=0)]
    assert hardly_found(good, "tips") == []
    never, hardly, what = hardly_found([*good, row("b", 0.0, 0.0), row("c", 0.6, 0.04), row("d", 0.1, 0.09)], "tips")
    assert (never, hardly) == ("never found: b", "IoU below 10 %: c, d")
    assert what == "tips"


def test_tips_are_of_what_the_training_has_not():
    assert "loss=ce_dice" in (text := tips_for_rare_classes(CrossEntropy(), Uniform(), crops=True, multilabel=False))
    assert "sampling=rare_classes sampling.foreground_share=0.66" in text
    assert "weighting=log_ratio" in text
    both = PixelRegion(CrossEntropy([1.0, 2.0]), Dice())
    assert tips_for_rare_classes(both, Uniform(), crops=False, multilabel=False) == (
        "Try more epochs, then show the network more of them (sampling=rare_classes)."
    )
    rare = tips_for_rare_classes(both, RareClasses(), crops=True, multilabel=False)
    assert "(sampling.power=1 sampling.foreground_share=0.66)" in rare
    most = RareClasses(power=1.0, foreground_share=0.66)
    assert tips_for_rare_classes(both, most, crops=True, multilabel=False) == "Try more epochs."


def test_pictures_are_of_classes_that_are_there():
    data = Shapes("val", [32, 32], val_images=12)
    data.class_names = [*data.class_names, *(f"absent {i}" for i in range(9))]
    scores = SegmentationScores(len(data.class_names), background=0)
    for index in range(12):
        truth = torch.from_numpy(data.mask(index))[None].long()
        scores.update(torch.zeros_like(truth), truth, [data.names[index]])
    groups = picture_groups(scores, data, [1, 2], lambda index, label: data.image(index))
    assert [group["title"] for group in groups] == [*data.class_names[1:3], "False alarms"]


def test_names_are_shown_as_text():
    """In tables, errors and log lines: no lines, and nothing that a terminal obeys."""
    name = "<script>alert(1)</script>\x1b[31m\n"
    assert table(["class"], [[name]]).splitlines()[-1].strip() == r"<script>alert(1)</script>\x1b[31m\n"
    assert str(DataError(name, name)).count("\\x1b") == 2
    record = logging.LogRecord("segtrain", logging.INFO, "", 0, "never found: %s", (name,), None)
    assert "\x1b" not in Printable("%(message)s").format(record)


def test_pages_show_names_as_text(tmp_path, monkeypatch):
    (tmp_path / "page.html").write_text("<h1>{{ name }}</h1>")
    monkeypatch.setattr(html, "TEMPLATES", tmp_path)
    html.write_page(tmp_path / "out.html", "page.html", name="<script>alert(1)</script>")
    assert (tmp_path / "out.html").read_text() == "<h1>&lt;script&gt;alert(1)&lt;/script&gt;</h1>"
