"""The error for masks that cannot be read as class indices when dataset.num_classes is not set."""

import re

import numpy as np
import pytest
from conftest import write_folder_dataset
from PIL import Image

from segtrain.cli import run_command
from segtrain.errors import ConfigError, DataError


def written(root, convert):
    """A folder dataset whose masks are `convert(mask)`."""
    write_folder_dataset(root)
    for file in root.glob("*/masks/*.png"):
        Image.fromarray(convert(np.asarray(Image.open(file)))).save(file)
    return str(root)


def test_the_settings_for_colours_are_said_and_work(tmp_path, capsys):
    colors = np.array([[10, 10, 10], [200, 0, 0], [0, 200, 0]], np.uint8)
    root = written(tmp_path / "data", lambda mask: colors[mask])
    with pytest.raises(ConfigError, match="the masks hold 3 colours: \\[10, 10, 10\\]") as error:
        run_command("check", [root])
    assert "multi-label" not in error.value.fix  # three values in a channel
    setting = error.value.fix.split("'")[1]
    assert setting.startswith("dataset.colors=[[10,10,10],")
    assert "here the colour of most pixels" in error.value.fix
    assert run_command("check", [root, "dataset.mask_format=color", "dataset.num_classes=3", setting]) == 0
    assert "class 2" in capsys.readouterr().out


def test_black_is_proposed_as_the_background(tmp_path):
    colors = np.array([[255, 0, 0], [0, 0, 0], [0, 200, 0]], np.uint8)
    with pytest.raises(ConfigError) as error:
        run_command("check", [written(tmp_path / "data", lambda mask: colors[mask])])
    assert "'dataset.colors=[[0,0,0],[255,0,0]," in error.value.fix
    assert "here black; without one dataset.background=null" in error.value.fix


def test_the_share_of_ignored_pixels_is_named(tmp_path, capsys):
    root = written(tmp_path / "data", lambda mask: np.where(mask == 2, 255, mask).astype(np.uint8))
    assert run_command("check", [root]) == 0
    printed = capsys.readouterr().out
    assert "the masks hold 0, 1, 255 (255 is ignored: 7.5 % of the pixels): taking dataset.num_classes=2" in printed
    assert re.search(r"\(ignored\) +864 +7.5 % of all +6", printed)


def test_masks_in_jpeg_called_png(tmp_path):
    root = write_folder_dataset(tmp_path / "data")
    for file in root.glob("*/masks/*.png"):
        Image.open(file).save(file, "JPEG")
    with pytest.raises(DataError, match="a mask in JPEG"):
        run_command("check", [str(root)])


def test_grey_edges_of_few_values(tmp_path):
    def smooth(mask):
        edge = np.arange(mask.size).reshape(mask.shape) % 7 == 0
        return np.where(edge, np.arange(mask.shape[1]) * 5 % 256, 255 * (mask > 0)).astype(np.uint8)

    with pytest.raises(ConfigError, match="values") as error:
        run_command("check", [written(tmp_path / "data", smooth)])
    assert "dataset.threshold=127" in error.value.fix


def test_channels_of_two_values_may_be_classes(tmp_path):
    colors = np.array([[0, 0, 0], [255, 0, 0], [255, 255, 0]], np.uint8)
    with pytest.raises(ConfigError) as error:
        run_command("check", [written(tmp_path / "data", lambda mask: colors[mask])])
    assert "dataset.mask_format=channels dataset.num_classes=3" in error.value.fix


def test_colours_of_smooth_edges_are_too_many(tmp_path):
    def smooth(mask):
        ramp = np.arange(mask.size, dtype=np.int64).reshape(mask.shape)
        return np.stack([ramp % 256, ramp // 256 % 256, mask], axis=2).astype(np.uint8)

    with pytest.raises(ConfigError, match="the masks hold [0-9,]+ colours") as error:
        run_command("check", [written(tmp_path / "data", smooth)])
    assert "without smooth edges" in error.value.fix


def test_values_of_16_bits_are_all_listed(tmp_path):
    with pytest.raises(ConfigError, match="the masks hold 3 values: 0, 1000, 2000") as error:
        run_command("check", [written(tmp_path / "data", lambda mask: mask.astype(np.uint16) * 1000)])
    assert "dataset.num_classes=3 'dataset.remap={1000: 1, 2000: 2}'" in error.value.fix


def test_other_masks_are_answered_by_the_first(tmp_path):
    def two_channels(mask):
        return np.stack([mask, np.arange(mask.size, dtype=np.uint8).reshape(mask.shape)], axis=2)

    with pytest.raises(DataError, match="a mask with 2 channels"):
        run_command("check", [written(tmp_path / "data", two_channels)])


def test_an_image_without_any_object_among_colour_masks(tmp_path):
    """All black, its mask reads as one of class indices."""
    root = write_folder_dataset(tmp_path)
    for file in root.glob("*/masks/*.png"):
        mask = np.asarray(Image.open(file))
        colours = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)[mask * (file.stem[-1] > "1")]
        Image.fromarray(colours[..., 0] if file.stem[-1] == "1" else colours).save(file)
    with pytest.raises(ConfigError, match="3 colours") as error:
        run_command("check", [str(root)])
    assert "dataset.mask_format=color dataset.num_classes=3 'dataset.colors=[[0,0,0]," in error.value.fix
