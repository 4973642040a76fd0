"""Pixels of image and mask files. Palette masks are never read with OpenCV: it turns indices into grey values."""

import contextlib
import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from segtrain.data.folder.png import check_pixels, has_exif, read_png
from segtrain.data.folder.values import as_bytes, with_channels
from segtrain.errors import DataError, SegtrainError

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pnm", ".npy")
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".webp")
IMAGE_SUFFIXES = (*LOSSY_SUFFIXES, *MASK_SUFFIXES)
# Of images, but not read.
OTHER_SUFFIXES = (".jp2", ".heic", ".heif", ".avif", ".jxl", ".exr", ".dcm", ".nii", ".tga", ".h5")
_ORIENTATION, _BITS, _BANDS, _PLANES, _EXTRA = 0x0112, 0x0102, 0x0115, 0x011C, 0x0152  # tags of EXIF and TIFF
_TURNS = {  # by orientation
    **{2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM},
    **{5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE},
    8: Image.Transpose.ROTATE_90,
}
# What to do about masks of which the values are not those that were drawn.
IN_JPEG = (
    "for a background and one class, dataset.num_classes=2 dataset.mask_format=binary dataset.threshold=127; save others as PNG "
    "again, from the source"
)
MAX_PIXELS = 200_000_000  # of an image, unless a dataset takes more: 0.6 GB of colour
Image.MAX_IMAGE_PIXELS = None  # the limit here is that of the dataset, and holds for every library


def read_image(
    path: Path,
    channels: int = 3,
    value_range: tuple[float, float] | None = None,
    exif: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """uint8 [H, W, channels] of an image file: PNG, JPEG, TIFF, BMP, WebP, GIF, PPM, PGM or .npy.

    Args:
        channels: 3 repeats grey and drops alpha; 1 turns colour to grey; other numbers must be the file's.
        value_range: the values that become 0 and 255. None: 8 bits as they are, 16 bits by their high byte.
        exif: turn the image by its EXIF orientation.
        max_pixels: an image that has more by its header is not read.

    Raises DataError for a damaged or too large file, other channels, and values that need a `value_range`.
    """
    return pixels_of(decoded(path, exif, max_pixels=max_pixels), channels, value_range, path)


def plain_picture(file: Image.Image | np.ndarray, channels: int, value_range: tuple[float, float] | None) -> bool:
    """Whether Pillow converts what `decoded` gives to the pixels that are wanted."""
    picture = isinstance(file, Image.Image) and not file.mode.startswith(("I", "F"))
    return picture and value_range is None and channels in (1, 3)


def pixels_of(
    file: Image.Image | np.ndarray, channels: int, value_range: tuple[float, float] | None, path: Path
) -> np.ndarray:
    """uint8 [H, W, channels] of what `decoded` gives; see `read_image`."""
    if isinstance(file, Image.Image) and value_range is not None and file.mode in ("P", "PA"):
        raise DataError("a palette image has no values to scale", str(path), "set dataset.image_range=null")
    if plain_picture(file, channels, value_range):
        wanted = "RGB" if channels == 3 else "L"
        pixels = np.asarray(file if file.mode == wanted else file.convert(wanted))
        return pixels[..., None] if channels == 1 else pixels
    values = values_of(file)
    if channels in (1, 3) and values.ndim == 3 and values.shape[2] == 4:
        values = values[..., :3]  # without alpha
    return with_channels(as_bytes(values, value_range, path), channels, path)


def read_values(path: Path, exif: bool = True, lossless: bool = False, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The file's numbers as they are, [H, W] or [H, W, bands]; palette images give their indices.

    Raises DataError for a damaged file; and with `lossless` for JPEG, whatever the file is called.
    """
    return values_of(decoded(path, exif, lossless, max_pixels))


def values_of(file: Image.Image | np.ndarray) -> np.ndarray:
    """The numbers of what `decoded` gives."""
    other = isinstance(file, Image.Image) and file.mode in ("CMYK", "YCbCr", "LAB", "HSV")
    values = np.asarray(file.convert("RGB") if other else file)
    return values.astype(np.uint8) if values.dtype == bool else values


def has_one_bit(file: Image.Image | np.ndarray) -> bool:
    """Whether what `decoded` gives has one bit per pixel, which `values_of` turns to 0 and 1."""
    return file.dtype == bool if isinstance(file, np.ndarray) else file.mode == "1"


def decoded(path: Path, exif: bool, lossless: bool = False, max_pixels: int = MAX_PIXELS) -> Image.Image | np.ndarray:
    """What a file holds, turned upright: by Pillow, or as an array what Pillow does not read whole.

    Raises DataError for a damaged file; and with `lossless` for formats that change values, such as JPEG.
    """
    if path.suffix.lower() == ".npy":
        return _read_npy(path, max_pixels)
    data, grey = read_png(path, max_pixels)
    if grey is not None:
        return grey
    try:
        with naming(path), open_image(path, data) as file:
            check_pixels(file.height, file.width, max_pixels, path)
            if lossless:
                _check_lossless(file, path)
            if _is_plain(file, path):
                # Of 16 bits in each of several channels Pillow keeps 8; how many there are is not known after loading.
                deep = file.format == "PNG" and file.mode in ("RGB", "RGBA") and file.tile[0][3].endswith(";16B")
                if file.format == "TIFF":
                    file.filename = ""  # else Pillow maps the file, which scrambles pixels to be turned by a quarter
                file.load()
                if file.format == "GIF" and _is_grey(file):
                    return file.convert("L")
                return _deep_colours(file, data, path, exif) if deep else upright(file, exif)
    except UnidentifiedImageError:
        pass  # a TIFF of kinds that Pillow does not know
    return _read_tiff(path, max_pixels)


def _check_lossless(file: Image.Image, path: Path) -> None:
    """Raise DataError for a mask in JPEG or another format that changes values."""
    jpeg = file.info.get("compression") in ("jpeg", "tiff_jpeg")
    if jpeg or file.format in ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF"):
        kind = "JPEG" if jpeg or file.format == "MPO" else file.format
        raise DataError(f"a mask in {kind}, which changes class values", str(path), IN_JPEG)


def _is_plain(file: Image.Image, path: Path) -> bool:
    """Whether Pillow reads all of a file.

    False for a TIFF of several pages, of planes, of more bands or bits than the mode that Pillow chose has, or with
    associated alpha, by which Pillow divides. Raises DataError for several pictures in another format, but for MPO,
    which is JPEG with previews.
    """
    several = _pictures(file) > 1
    if file.format != "TIFF":
        if several and file.format != "MPO":
            raise DataError("several pictures in one file", str(path), "save one picture per file")
        return True
    bands, bits = file.tag_v2.get(_BANDS, 1), np.max(file.tag_v2.get(_BITS, 1))
    planes, divided = file.tag_v2.get(_PLANES, 1) == 2, 1 in np.atleast_1d(file.tag_v2.get(_EXTRA, 0))
    whole = len(file.getbands()) == bands and (bands == 1 or (not planes and bits <= 8))
    return whole and not several and not divided


def _is_grey(file: Image.Image) -> bool:
    """Whether a palette has nothing but grey, whose values count: programs that write GIF sort and shorten palettes."""
    return file.mode == "P" and not np.ptp(np.reshape(file.getpalette(), (-1, 3)), axis=1).any()


def _pictures(file: Image.Image) -> int:
    try:
        return file.n_frames
    except AttributeError:  # of a format for one picture
        return 1


def image_size(path: Path, exif: bool = True) -> tuple[int, int]:
    """Height and width from the file's header, turned by its EXIF orientation. Raises DataError."""
    if path.suffix.lower() == ".npy":
        return _read_npy(path, header_only=True).shape[:2]
    try:
        with naming(path), open_image(path) as file:
            turned = exif and _exif_turn(file) >= 5  # a quarter
            return (file.width, file.height) if turned else (file.height, file.width)
    except UnidentifiedImageError:
        return _read_tiff(path, header_only=True).shape[:2]


def orientation(path: Path) -> int:
    """The orientation of EXIF, or of a TIFF's own tag: 1 to 8; 1, upright, without one."""
    if path.suffix.lower() == ".npy":
        return 1
    try:
        with naming(path), open_image(path) as file:
            return _exif_turn(file, file.format == "TIFF")
    except UnidentifiedImageError:
        import tifffile

        with naming(path), tifffile.TiffFile(path) as tiff:
            return int(tiff.pages[0].tags.valueof(_ORIENTATION, 1))


def open_image(path: Path, data: bytes | None = None) -> Image.Image:
    """Raises DataError, and UnidentifiedImageError for a TIFF that Pillow does not know.

    Args:
        data: what the file holds, where it is read already.
    """
    try:
        return Image.open(path if data is None else io.BytesIO(data))
    except UnidentifiedImageError as error:
        size = path.stat().st_size
        if size and path.suffix.lower() in (".tif", ".tiff"):
            raise
        what = "the file is empty (0 bytes)" if size == 0 else "not an image file, or damaged"
        raise DataError(what, str(path), "replace or remove the file") from error
    except (SegtrainError, MemoryError):  # a stop signal, or no fault of the file
        raise
    except Exception as error:  # Pillow raises errors of many kinds for broken files
        raise DataError(f"cannot be read: {error}", str(path), "replace or remove the file") from error


@contextlib.contextmanager
def naming(path: Path):
    """Errors of any library about a damaged file become a DataError that names it, but for UnidentifiedImageError."""
    try:
        yield
    except (SegtrainError, MemoryError, UnidentifiedImageError):
        raise
    except Exception as error:
        fix = "install imagecodecs" if "imagecodecs" in str(error) else "replace or remove the file"
        raise DataError(f"cannot be decoded: {error}", str(path), fix) from error


def upright(file: Image.Image, exif: bool) -> Image.Image:
    """Turned by the EXIF orientation."""
    turn = _exif_turn(file) if exif else 1
    return file.transpose(_TURNS[turn]) if turn in _TURNS else file


def _exif_turn(file: Image.Image, there: bool = False) -> int:
    """The EXIF orientation of a file, loaded or not: 1 to 8; 1, upright, without one. `there`: it is known to have one."""
    late = file.format == "PNG" and file.fp is not None and "exif" not in file.info and has_exif(file.fp)
    if not there and not late and "exif" not in file.info:
        return 1
    try:
        turn = file.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF that cannot be read turns nothing, as in any viewer
        return 1
    return turn if turn in _TURNS else 1


def _read_npy(path: Path, max_pixels: int = MAX_PIXELS, header_only: bool = False) -> np.ndarray:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy parses the header as Python
        raise DataError(f"not a NumPy array: {error}", str(path), "save a plain array with np.save") from error
    if not isinstance(values, np.ndarray) or values.ndim not in (2, 3) or not values.size:
        form = list(values.shape) if isinstance(values, np.ndarray) else []
        raise DataError(f"this is an array of shape {form}", str(path), "save [H, W], or [H, W, channels]")
    if values.dtype.kind not in "biuf":
        raise DataError(f"this is an array of {values.dtype}", str(path), "save whole numbers or floats")
    if not header_only:
        check_pixels(*values.shape[:2], max_pixels, path)
        values = np.array(values)
    return values


def _read_tiff(path: Path, max_pixels: int = MAX_PIXELS, header_only: bool = False) -> np.ndarray:
    """A TIFF of any number of bands, [H, W] or [H, W, bands], upright."""
    import tifffile

    with naming(path), tifffile.TiffFile(path) as file:
        series = file.series[0]
        if not header_only:
            check_pixels(file.pages[0].imagelength, file.pages[0].imagewidth, max_pixels, path)
        values = np.broadcast_to(np.uint8(0), series.shape) if header_only else series.asarray()
        planar = len(series.shape) == 3 and not series.axes.endswith("S")  # pages, or planes, of bands
        turn = int(file.pages[0].tags.valueof(_ORIENTATION, 1))
    if values.ndim not in (2, 3) or not values.size:
        raise DataError(f"a TIFF of shape {list(values.shape)}", str(path), "save one page of [H, W, bands]")
    return _turned(np.moveaxis(values, 0, 2) if planar else values, turn)


def _turned(values: np.ndarray, turn: int) -> np.ndarray:
    """[H, W, …] upright, by an orientation of 1 to 8: mirrored, then turned clockwise."""
    mirrored = values[:, ::-1] if turn in (2, 4, 5, 7) else values
    return np.rot90(mirrored, {3: 2, 4: 2, 5: 1, 8: 1, 6: -1, 7: -1}.get(turn, 0))


def _deep_colours(file: Image.Image, data: bytes, path: Path, exif: bool) -> np.ndarray:
    """uint16 [H, W, channels] of a PNG, by OpenCV; loaded by Pillow before, which names what is wrong."""
    import cv2

    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise DataError("cannot be decoded", str(path), "replace or remove the file")
    return _turned(values[..., [2, 1, 0, *range(3, values.shape[2])]], _exif_turn(file) if exif else 1)
