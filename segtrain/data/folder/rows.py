"""Large images a few rows at a time: `image[top:bottom]` is uint8 [rows, W, channels], as of an array [H, W, channels]."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from segtrain.data.folder.images import decoded, naming, pixels_of, plain_picture
from segtrain.data.folder.png import check_pixels
from segtrain.data.folder.values import as_bytes, with_channels

READ_AT_ONCE = 2**24  # bytes of a TIFF
CONVERTED_AT_ONCE = 256  # rows of what Pillow decoded
BY_ROWS = 5  # times as many pixels may be read by rows as in whole
PHOTOMETRIC = (1, 2)  # 0 is black, RGB: what is neither inverted nor converted


def open_rows(
    path: Path, channels: int, value_range: tuple[float, float] | None, exif: bool, max_pixels: int
) -> "np.ndarray | TiffRows | PictureRows":
    """An image whose rows are read when they are asked for, with the values of `read_image`.

    A TIFF in strips or tiles is never in memory as a whole; what Pillow reads is while it is decoded. An array of what
    is neither. Raises DataError as `read_image`, and later where damage is found later.
    """
    if path.suffix.lower() in (".tif", ".tiff"):
        try:
            return TiffRows(path, channels, value_range, max_pixels)
        except NotByRows:
            pass
    file = decoded(path, exif, max_pixels=max_pixels)
    if plain_picture(file, channels, value_range):
        return PictureRows(file, channels)
    return pixels_of(file, channels, value_range, path)


class NotByRows(Exception):
    """A TIFF of a kind that is read as a whole."""


class PictureRows:
    """The rows of a decoded picture, from a temporary file: in memory, Pillow takes four bytes for each pixel."""

    def __init__(self, picture: Image.Image, channels: int):
        self.shape = (picture.height, picture.width, channels)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  it is read for as long as this object lives
        for top in range(0, picture.height, CONVERTED_AT_ONCE):
            rows = picture.crop((0, top, picture.width, min(top + CONVERTED_AT_ONCE, picture.height)))
            self._file.write(np.ascontiguousarray(pixels_of(rows, channels, None, Path())))

    def __getitem__(self, rows: slice) -> np.ndarray:
        top, bottom, _ = rows.indices(self.shape[0])
        _, width, channels = self.shape
        self._file.seek(top * width * channels)
        data = self._file.read((bottom - top) * width * channels)
        return np.frombuffer(data, np.uint8).reshape(bottom - top, width, channels)


class TiffRows:
    """The rows of a TIFF in strips or tiles, or without compression. Made for calls from top to bottom.

    Raises NotByRows for several pages or planes, other colours than RGB and grey, an orientation, compressions that
    tifffile does not decode by itself, and values whose range is that of the whole image.
    """

    def __init__(self, path: Path, channels: int, value_range: tuple[float, float] | None, max_pixels: int):
        import tifffile

        self._path, self._channels, self._range = path, channels, value_range
        try:
            tiff = tifffile.TiffFile(path)
            page = self._page = tiff.pages[0]
            plain = len(tiff.pages) == 1 and page.planarconfig == 1 and page.photometric in PHOTOMETRIC
            plain = plain and page.axes in ("YX", "YXS") and 1 not in page.extrasamples
            in_range = page.dtype == np.uint8 or (value_range is not None and page.dtype.kind in "ui")
            by_rows = page.is_tiled or page.is_memmappable or page.rowsperstrip < page.imagelength
            turned = page.tags.valueof("Orientation", 1) != 1
            if not plain or not in_range or not by_rows or turned:
                tiff.close()
                raise NotByRows
            self.shape = (page.imagelength, page.imagewidth, channels)
            self._start()
            self._values(0, 1)
        except Exception as error:  # what tifffile cannot read, Pillow may, or it says why not
            raise NotByRows from error
        if self.shape[0] * self.shape[1] > BY_ROWS * max_pixels:
            check_pixels(*self.shape[:2], max_pixels, path)
        self[0:1]

    def __getitem__(self, rows: slice) -> np.ndarray:
        top, bottom, _ = rows.indices(self.shape[0])
        with naming(self._path):
            values = self._values(top, bottom)
        return with_channels(as_bytes(values, self._range, self._path), self._channels, self._path)

    def _values(self, top: int, bottom: int) -> np.ndarray:
        page = self._page
        if page.is_memmappable:  # mapped anew for each call: what stays mapped stays in memory
            kind = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
            return np.array(np.memmap(self._path, kind, "r", page.dataoffsets[0], page.shape)[top:bottom])
        if top < self._top:
            self._start()
        while self._top + len(self._kept) < bottom:
            gone = min(max(top - self._top, 0), len(self._kept))
            self._kept = np.concatenate([self._kept[gone:], next(self._blocks)])
            self._top += gone
        return self._kept[top - self._top : bottom - self._top]

    def _start(self) -> None:
        self._blocks, self._top = self._rows_of_segments(), 0
        self._kept = np.empty((0, *self._page.shape[1:]), self._page.dtype)

    def _rows_of_segments(self) -> Iterator[np.ndarray]:
        """The rows of a strip, or of the tiles beside one another."""
        height, width = self.shape[:2]
        for data, (_, _, top, column, _), (_, rows, columns, _) in self._page.segments(
            maxworkers=1, buffersize=READ_AT_ONCE
        ):
            if column == 0:
                block = np.zeros((min(rows, height - top), *self._page.shape[1:]), self._page.dtype)
            if data is not None:
                part = data[0, :rows, :columns].reshape(rows, columns, *self._page.shape[2:])
                block[:, column : column + columns] = part[: len(block), : width - column]
            if column + columns >= width:
                yield block
