"""Pictures with titles and a legend."""

import numpy as np

from segtrain.data.shapes import Shapes
from segtrain.report import charts
from segtrain.report.pictures import class_colours, figure, legend, with_masks


def test_small_pictures_are_enlarged_between_titles_and_the_colours_of_the_classes():
    data = Shapes("val", [32, 24], val_images=2)
    rows = [with_masks(data, index, [data.mask(index)]) for index in range(2)]
    found = figure(rows, ["image", "ground truth", "prediction"], data)
    colours = class_colours(data)[data.mask(0)].repeat(10, axis=0).repeat(10, axis=1)
    assert (found[20:340, 244:484] == colours).all()  # below a line of titles, ten times as large
    assert (found[20:340, 488:] == colours).all()
    below = found[2 * (320 + 4) + 20 :]
    assert (below == legend(data, found.shape[1])).all()
    assert all((below == colour).all(axis=2).any() for colour in class_colours(data)[: data.num_classes])


def test_a_legend_takes_as_many_lines_as_it_needs():
    data = Shapes("val", [32, 24], val_images=1)
    assert [legend(data, width).shape[0] for width in (600, 1)] == [20, 20 * data.num_classes]
    assert legend(data, 600).dtype == np.uint8


def test_names_with_dollars_are_no_formulas():
    drawn = charts.confusion_matrix(np.eye(3, dtype=int), ["background", "a$_$", "5$_10$"])
    assert drawn.ndim == 3
