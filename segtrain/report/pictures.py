"""Pictures of image | ground truth | prediction."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segtrain.data.dataset import class_pixels, read_mask
from segtrain.files import whole

GAP = 4
TILE = 240  # pixels; pictures less than half as wide are enlarged
FONT, LINE = 14, 20  # pixels


def class_colours(dataset) -> np.ndarray:
    """uint8 [256, 3]: the dataset's palette, or the PASCAL VOC colours with black for a background; others are grey."""
    colours = np.full((256, 3), 128, dtype=np.uint8)
    if dataset.palette is not None:
        colours[: dataset.num_classes] = dataset.palette
        return colours
    numbers = np.arange(dataset.num_classes)[:, None] + int(dataset.background is None)
    # Of the number three bits at a time, one for each channel, which are the channels' bits from the brightest down.
    colours[: dataset.num_classes] = sum((numbers >> (3 * bit + np.arange(3)) & 1) << (7 - bit) for bit in range(8))
    return colours


def html_colours(dataset) -> list[str]:
    """Those of the classes, for pages and charts: #rrggbb."""
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in class_colours(dataset)[: dataset.num_classes]]


def colour_mask(mask: np.ndarray, dataset) -> np.ndarray:
    """uint8 [H, W, 3] of class indices [H, W]; multi-label [C, H, W] the colours of all classes that are set, added up."""
    colours = class_colours(dataset)
    if mask.ndim == 2:
        return colours[mask]
    total = sum((mask[c] == 1)[..., None] * colours[c].astype(np.int64) for c in range(len(mask)))
    total[(mask > 1).any(axis=0)] = 128
    return np.minimum(total, 255).astype(np.uint8)


def error_map(
    truth: np.ndarray, found: np.ndarray, ignore_index: int, background: int | None, label: int | None = None
) -> np.ndarray:
    """uint8 [H, W, 3] of ground truth and prediction [H, W], or multi-label [C, H, W].

    White is right background, green right foreground, red foreground predicted on background, blue missed foreground,
    violet one foreground class predicted as another, grey ignored pixels. With a `label`, that class against all others.
    """
    if truth.ndim == 2 and label is None:
        ignored, wrong = truth == ignore_index, truth != found
        here, predicted = truth != background, found != background
        more, less, confused = wrong & ~here, wrong & ~predicted, wrong & here & predicted
        right = ~wrong & here & (background is not None)
    else:
        if truth.ndim == 2:
            planes = (truth == ignore_index)[None], (truth == label)[None], (found == label)[None]
        else:
            chosen = slice(None) if label is None else [label]
            planes = (truth == ignore_index)[chosen], (truth == 1)[chosen], (found == 1)[chosen]
        unknown, here, predicted = planes
        every = (unknown, predicted & ~here & ~unknown, here & ~predicted, here)
        ignored, more, less, right = (plane.any(axis=0) for plane in every)
        confused = more & less
    picture = np.full((*ignored.shape, 3), 255, dtype=np.uint8)
    for where, colour in (
        (right, (158, 206, 154)),
        (more, (214, 69, 65)),
        (less, (44, 98, 200)),
        (confused, (142, 68, 173)),
        (ignored, (128, 128, 128)),
    ):
        picture[where] = colour
    return picture


def as_rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] for display: grey three times, or the first three of more channels."""
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., [0, 1, min(2, image.shape[2] - 1)]]


def side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    """uint8 [H, sum of W, 3] of pictures of one height, with white gaps."""
    white = np.full((pictures[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    parts = [part for picture in pictures for part in (picture, white)]
    return np.concatenate(parts[:-1], axis=1)


def example(dataset, index: int, predicted: list, errors: bool = False, label: int | None = None) -> np.ndarray:
    """uint8 [H, W, 3]: image | ground truth | predictions, and with `errors` the first one's error_map, of a class `label`.

    Small ones are enlarged.
    """
    shown = with_masks(dataset, index, predicted)
    if errors:
        mask = dataset.mask(index)
        truth = mask.transpose(2, 0, 1) if dataset.multilabel else mask
        shown.append(error_map(truth, predicted[0], dataset.ignore_index, dataset.background, label))
    factor = _factor(shown[0].shape[1])
    return side_by_side([_enlarged(picture, factor) for picture in shown])


def _factor(width: int) -> int:
    """By how much pictures so wide are enlarged."""
    return max(1, TILE // width)


def _enlarged(picture: np.ndarray, factor: int) -> np.ndarray:
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def with_masks(dataset, index: int, predicted: list) -> list[np.ndarray]:
    """uint8 [H, W, 3] each: an image, its ground truth and predictions in the colours of the classes."""
    mask = dataset.mask(index)
    masks = [mask.transpose(2, 0, 1) if dataset.multilabel else mask, *predicted]
    return [as_rgb(dataset.image(index)), *(colour_mask(one, dataset) for one in masks)]


def figure(rows: list[list[np.ndarray]], titles: list[str], dataset) -> np.ndarray:
    """uint8 [H, W, 3]: a grid of pictures, small ones enlarged, with titles above and the colours of the classes below."""
    width = max(picture.shape[1] for row in rows for picture in row)
    factor = _factor(width)
    parts = []
    for row in rows:
        filled = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in row]
        large = [_enlarged(picture, factor) for picture in filled]
        parts.append(np.pad(side_by_side(large), ((0, GAP), (0, 0), (0, 0)), constant_values=255))
    head = Image.new("RGB", (parts[0].shape[1], LINE), "white")
    for number, title in enumerate(titles):
        left = number * (factor * width + GAP)
        ImageDraw.Draw(head).text((left + GAP, 1), title, "black", ImageFont.load_default(FONT))
    return np.concatenate([np.asarray(head), *parts, legend(dataset, head.width)])


def legend(dataset, width: int) -> np.ndarray:
    """uint8 [H, W, 3]: the classes with their colours, in as many lines as they take."""
    font, places, left, top = ImageFont.load_default(FONT), [], GAP, 0
    for name in dataset.class_names:
        length = FONT + 3 * GAP + int(font.getlength(name)) + FONT
        if left > GAP and left + length > width:
            left, top = GAP, top + LINE
        places.append((left, top))
        left += length
    picture = Image.new("RGB", (width, top + LINE), "white")
    draw = ImageDraw.Draw(picture)
    for name, colour, (left, top) in zip(dataset.class_names, html_colours(dataset), places, strict=True):
        draw.rectangle((left, top + 3, left + FONT, top + 3 + FONT), colour, "black")
        draw.text((left + FONT + GAP, top + 1), name, "black", font)
    return np.asarray(picture)


def images_with_rare_classes(dataset, count: int, sample: int = 60) -> list[int]:
    """Up to `count` of `sample` images spread over the dataset: for each class, rarest first, one with most of it."""
    spread = np.unique(np.linspace(0, len(dataset.names) - 1, sample).astype(int)).tolist()
    pixels = np.array([class_pixels(read_mask(dataset, index), dataset, index) for index in spread])
    chosen: list[int] = []
    for label in np.argsort(pixels.sum(axis=0)).tolist() * count:
        order = [i for i in np.argsort(-pixels[:, label]).tolist() if pixels[i, label] and i not in chosen]
        chosen += order[: min(1, count - len(chosen))]
    return [spread[i] for i in chosen or range(len(spread))][:count]


def write_png(picture: np.ndarray | Image.Image, file: Path) -> None:
    """Write uint8 [H, W, 3] or [H, W], or a picture of Pillow's. Raises DiskError."""
    with whole(file) as stream:
        (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(stream, "PNG")
