"""PNG files: damage that Pillow does not see, and what else they hold than pixels."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from segtrain.data.folder.images import image_size, orientation, read_image, read_values
from segtrain.errors import DataError

RNG = np.random.default_rng(0)
SMOOTH = np.kron(RNG.integers(0, 5, (6, 8)), np.ones((4, 4), int)).astype(np.uint8)
NOISE = RNG.integers(0, 256, (9, 7)).astype(np.uint8)


def png(values, mode=None, **options) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(stream, "PNG", **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def turned(orientation) -> bytes:
    """An eXIf chunk."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return chunk(b"eXIf", tags.tobytes().removeprefix(b"Exif\0\0"))


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "1", "LA"])
def test_a_wrong_bit_is_refused_or_read_as_it_was(mode, suffix, tmp_path):
    """Pillow reads other values from a tenth of such files."""
    whole = png(SMOOTH, mode)
    path, refused = tmp_path / f"m{suffix}", 0
    path.write_bytes(whole)
    expected = read_values(path)
    for bit in np.random.default_rng(0).choice(8 * len(whole), 200):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert np.array_equal(read_values(path), expected)
        except DataError:
            refused += 1
    assert refused > 190


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_file_that_is_cut_off_is_refused_wherever_it_ends(mode, tmp_path):
    path, whole = tmp_path / "m.png", png(SMOOTH, mode)
    for end in range(8, len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match="cannot be decoded: the file is cut off"):
            read_values(path)


def test_pixels_of_another_size_than_in_the_header_are_refused(tmp_path):
    whole = png(NOISE)
    pixels = b"".join(b"\0" + row.tobytes() for row in NOISE[:5])
    (tmp_path / "m.png").write_bytes(whole[:33] + chunk(b"IDAT", zlib.compress(pixels)) + whole[-12:])
    with pytest.raises(DataError, match="the pixels do not match the size in its header"):
        read_values(tmp_path / "m.png")
    (tmp_path / "m.png").write_bytes(whole[:8] + whole[-12:])
    with pytest.raises(DataError, match="it does not begin with a header"):
        read_values(tmp_path / "m.png")


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_a_file_without_pixels_is_an_error_that_names_it(mode, tmp_path):
    whole = png(NOISE, mode)
    (tmp_path / "m.png").write_bytes(whole[:33] + whole[-12:])
    with pytest.raises(DataError, match="cannot be decoded") as error:
        read_values(tmp_path / "m.png")
    assert "m.png" in error.value.where


@pytest.mark.parametrize("kind", ["text", "gamma", "profile", "transparency", "resolution", "stored", "nothing"])
def test_what_else_a_grey_png_holds_changes_no_value_and_prints_nothing(kind, tmp_path, capfd):
    text, gamma = PngInfo(), PngInfo()
    text.add_text("Software", "a tool")
    gamma.add(b"gAMA", (45455).to_bytes(4, "big"))
    gamma.add(b"bKGD", b"\0\1")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options = {
        "text": {"pnginfo": text},
        "gamma": {"pnginfo": gamma},
        "profile": {"icc_profile": profile},
        "transparency": {"transparency": 3},
        "resolution": {"dpi": (72, 72)},
        "stored": {"compress_level": 0},
        "nothing": {},
    }[kind]
    (tmp_path / "m.png").write_bytes(png(NOISE, **options) + b"something after the end")
    assert np.array_equal(read_values(tmp_path / "m.png"), NOISE)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("place", ["before the pixels", "after the pixels"])
def test_exif_turns_wherever_it_lies(place, turn, mode, tmp_path):
    whole = png(NOISE, mode)
    at = 33 if place == "before the pixels" else len(whole) - 12
    path = tmp_path / "i.png"
    path.write_bytes(whole[:at] + turned(turn) + whole[at:])
    quarter = turn >= 5
    assert orientation(path) == turn
    assert image_size(path) == (NOISE.shape[::-1] if quarter else NOISE.shape)
    flat = NOISE[:, ::-1] if turn in (2, 4, 5, 7) else NOISE
    expected = np.rot90(flat, {3: 2, 4: 2, 5: 1, 8: 1, 6: -1, 7: -1}.get(turn, 0))
    assert np.array_equal(read_image(path)[..., 0], expected)
    assert np.array_equal(read_image(path, exif=False)[..., 0], NOISE)


AS_TEXT = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\2" + b"6\0\0\0" + bytes(4))


@pytest.mark.parametrize("exif", [chunk(b"eXIf", b"what is no EXIF"), AS_TEXT, turned(9)])
def test_exif_that_cannot_be_read_turns_nothing(exif, tmp_path):
    whole = png(NOISE)
    (tmp_path / "i.png").write_bytes(whole[:33] + exif + whole[33:])
    assert np.array_equal(read_values(tmp_path / "i.png"), NOISE)
    assert image_size(tmp_path / "i.png") == NOISE.shape
    assert orientation(tmp_path / "i.png") == 1


def test_text_that_pillow_refuses_is_an_error_that_names_the_file(tmp_path):
    whole = png(NOISE, "RGB")
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2_000_000)))
    (tmp_path / "i.png").write_bytes(whole[:33] + text + whole[33:])
    for read in (read_image, image_size, orientation):
        with pytest.raises(DataError, match="cannot be read: Decompressed data too large") as error:
            read(tmp_path / "i.png")
        assert "i.png" in error.value.where
