"""What is written for a predicted image: masks with colours, a file per class, overlays, rows."""

import numpy as np
from PIL import Image

from segtrain.report.predictions import class_folder, row_of, shrunk, write_mask, write_overlay
from segtrain.runs.trained import Classes

PALETTE = np.array([[0, 0, 0], [250, 10, 20]], np.uint8)


def test_a_mask_holds_the_classes_and_shows_their_colours(tmp_path):
    mask = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)
    write_mask(tmp_path, "a/b", mask, Classes(["background", "crack"], 0, False, PALETTE))
    with Image.open(tmp_path / "masks/a/b.png") as file:
        assert np.array_equal(np.asarray(file), mask)
        assert np.asarray(file.convert("RGB"))[0, 1].tolist() == [250, 10, 20]


def test_several_labels_are_a_file_per_class(tmp_path):
    mask = np.array([[[True, False]], [[True, True]]])
    write_mask(tmp_path, "x", mask, Classes(["cell", "a/b nucleus"], None, True, None))
    assert np.asarray(Image.open(tmp_path / "masks/cell/x.png")).tolist() == [[255, 0]]
    assert np.asarray(Image.open(tmp_path / "masks/a_b_nucleus/x.png")).tolist() == [[255, 255]]


def test_folders_of_classes_are_never_shared():
    classes = Classes(["a b", "a/b", "", "..", "Cell", "cell"], None, True, None)
    assert [class_folder(classes, c) for c in range(6)] == ["0_a_b", "1_a_b", "2_", "__", "4_Cell", "5_cell"]


def test_an_overlay_covers_the_foreground_and_is_shrunk(tmp_path):
    image = np.full((10, 4100, 1), 100, np.uint8)
    mask = np.zeros((10, 4100), np.uint8)
    mask[:, :2050] = 1
    write_overlay(tmp_path, "x", shrunk(image), mask, Classes(["background", "crack"], 0, False, PALETTE))
    drawn = np.asarray(Image.open(tmp_path / "overlays/x.jpg"))
    assert drawn.shape[1] <= 2000
    assert np.abs(drawn[0, 0] - [175.0, 55, 60]).max() <= 3  # JPEG
    assert np.abs(drawn[0, -1] - 100.0).max() <= 3


def test_a_row_counts_pixels(tmp_path):
    (tmp_path / "x.png").write_bytes(b"12345")
    classes = Classes(["background", "crack"], 0, False, None)
    row = row_of("x", tmp_path / "x.png", np.array([[0, 0, 0]], np.uint8), np.array([0.9, 0.12345]), classes)
    assert row["bytes"] == 5
    assert (row["pixels/background"], row["present/crack"], row["confidence/crack"]) == (3, 0, 0.1235)
    both = np.array([[[True, False]], [[True, True]]])
    row = row_of("x", tmp_path / "x.png", both, np.array([0.9, 0.8]), Classes(["a", "b"], None, True, None))
    assert (row["pixels/a"], row["pixels/b"], row["height"], row["width"]) == (1, 2, 1, 2)
