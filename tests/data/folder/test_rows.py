"""Large images by rows: the values of `read_image`, whatever the order and the kind of file."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from segtrain.data.folder.images import MAX_PIXELS, read_image
from segtrain.data.folder.rows import PictureRows, TiffRows, open_rows
from segtrain.errors import DataError

RNG = np.random.default_rng(0)
COLOUR, GREY = RNG.integers(0, 256, (75, 90, 3), dtype=np.uint8), RNG.integers(0, 256, (75, 90), dtype=np.uint8)
DEEP, FIVE = RNG.integers(0, 4096, (75, 90), dtype=np.uint16), RNG.integers(0, 256, (75, 90, 5), dtype=np.uint8)

CONTIG = {"photometric": "minisblack", "planarconfig": "contig"}  # all bands of a pixel beside one another
TIFFS = {
    "tiles": (COLOUR, {"tile": (32, 48), "compression": "zlib"}, 3, None),
    "tiles with differences": (COLOUR, {"tile": (32, 32), "compression": "zlib", "predictor": True}, 3, None),
    "strips": (COLOUR, {"rowsperstrip": 7, "compression": "zlib"}, 3, None),
    "not compressed": (COLOUR, {}, 3, None),
    "tiles that are not compressed": (COLOUR, {"tile": (16, 16)}, 3, None),
    "grey": (GREY, {"tile": (32, 32)}, 3, None),
    "grey to one channel": (GREY, {"tile": (32, 32)}, 1, None),
    "16 bits": (DEEP, {"tile": (32, 32)}, 3, (0, 4095)),
    "16 bits, big-endian": (DEEP, {"byteorder": ">"}, 1, (0, 4095)),
    "five bands": (FIVE, {"rowsperstrip": 8, "compression": "zlib", **CONTIG}, 5, None),
}


def read(file, channels, value_range):
    return open_rows(file, channels, value_range, True, MAX_PIXELS)


@pytest.mark.parametrize("kind", TIFFS)
def test_rows_of_a_tiff_are_those_of_the_whole(kind, tmp_path):
    pixels, options, channels, value_range = TIFFS[kind]
    file = tmp_path / "image.tif"
    tifffile.imwrite(file, pixels, **{"photometric": "rgb" if pixels.ndim == 3 else "minisblack", **options})
    expected, rows = read_image(file, channels, value_range), read(file, channels, value_range)
    assert isinstance(rows, TiffRows)
    assert rows.shape == expected.shape
    for top, bottom in [(0, 20), (10, 30), (30, 75), (74, 75), (5, 6), (0, 75), (70, 74)]:
        assert np.array_equal(rows[top:bottom], expected[top:bottom])


def white_is_zero(file):
    tifffile.imwrite(file, GREY, photometric="miniswhite", rowsperstrip=8)


def turned(file):
    tifffile.imwrite(file, COLOUR, photometric="rgb", rowsperstrip=8, extratags=[(274, "H", 1, 6, True)])


def palette(file):
    Image.fromarray(COLOUR).quantize(16).save(file)


def planes(file):
    tifffile.imwrite(file, np.moveaxis(COLOUR, 2, 0), photometric="rgb", planarconfig="separate", rowsperstrip=8)


def lzw(file):
    Image.fromarray(COLOUR).save(file, compression="tiff_lzw")


def deep(file):
    tifffile.imwrite(file, DEEP << 4, rowsperstrip=8)


@pytest.mark.parametrize("write", [white_is_zero, turned, palette, planes, lzw, deep])
def test_other_tiffs_are_read_as_ever(write, tmp_path):
    write(tmp_path / "image.tif")
    expected = read_image(tmp_path / "image.tif")
    rows = read(tmp_path / "image.tif", 3, None)
    assert rows.shape == expected.shape
    assert np.array_equal(rows[20:60], expected[20:60])


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_of_a_picture_are_those_of_the_whole(mode, channels, tmp_path):
    file = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.fromarray(COLOUR).convert(mode).save(file)
    expected, rows = read_image(file, channels), read(file, channels, None)
    assert isinstance(rows, PictureRows) or mode == "L"
    assert rows.shape == expected.shape
    assert np.array_equal(rows[11:40], expected[11:40])


@pytest.mark.parametrize("turn", [3, 6])
def test_a_turned_tiff_is_turned_as_in_whole(turn, tmp_path):
    tifffile.imwrite(file := tmp_path / "image.tif", COLOUR, photometric="rgb", extratags=[(274, "H", 1, turn, True)])
    rows = open_rows(file, 3, None, False, MAX_PIXELS)
    assert np.array_equal(rows[0 : rows.shape[0]], read_image(file, 3, None, False))


def test_damage_further_down_names_the_file(tmp_path):
    file = tmp_path / "image.tif"
    tifffile.imwrite(file, COLOUR, photometric="rgb", rowsperstrip=8, compression="zlib")
    with tifffile.TiffFile(file) as tiff:
        place = tiff.pages[0].dataoffsets[5]
    data = bytearray(file.read_bytes())
    data[place : place + 40] = bytes(40)
    file.write_bytes(data)
    rows = read(file, 3, None)
    assert rows[0:8].shape == (8, 90, 3)
    with pytest.raises(DataError) as error:
        rows[0:75]
    assert error.value.where == str(file)


def test_other_channels_and_too_many_pixels_are_refused(tmp_path):
    file = tmp_path / "image.tif"
    tifffile.imwrite(file, FIVE, rowsperstrip=8, **CONTIG)
    with pytest.raises(DataError, match=r"5 channels, but dataset.channels=3"):
        read(file, 3, None)
    with pytest.raises(DataError, match="more than dataset.max_pixels=100"):
        open_rows(file, 5, None, True, 100)
    assert open_rows(file, 5, None, True, FIVE.shape[0] * FIVE.shape[1] // 2).shape == FIVE.shape
