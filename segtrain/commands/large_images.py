"""Large images in `segtrain predict`: windows where the run has none, and a refusal of what does not fit into memory."""

import functools
import logging

import torch

from segtrain.data.augment import LARGEST_CROP
from segtrain.data.inputs import LARGE
from segtrain.errors import DataError
from segtrain.inference import Predictor
from segtrain.runs.trained import Trained
from segtrain.training.memory import free_memory

log = logging.getLogger("segtrain")

SMALLEST_WINDOW = 512  # where the run has none: windows are its training images or crops, but no smaller


def set_window(predictor: Predictor, trained: Trained, image) -> None:
    """Predict a large image in windows where the run sets none, so that memory does not grow with it; logged once."""
    own = trained.config.inference.window
    large = own is None and predictor.inference.resize is None and image.shape[0] * image.shape[1] > LARGE
    crop = trained.config.augment.get("size")
    sides = trained.image_size or [0, 0] if crop in (None, "auto") else crop
    sides = [min(side, LARGEST_CROP) for side in sides] if crop == "auto" else sides
    window = [max(SMALLEST_WINDOW, side) for side in sides]
    if large and predictor.inference.window is None:
        say_once(f"images of more than {LARGE:,} pixels are predicted in windows of {window} (inference.window)")
    predictor.inference.window = window if large else own


@functools.cache
def say_once(text: str) -> None:
    log.info(text)


def refuse_too_large(predictor: Predictor, image, num_classes: int, probabilities: bool) -> None:
    """Raise DataError for a large image of which more would be in memory than there is."""
    pixels, scales = image.shape[0] * image.shape[1], list(predictor.inference.scales)
    of_all_rows = scales != [1.0] and predictor.inference.resize is None
    if pixels <= LARGE or not (of_all_rows or probabilities):
        return
    # Measured: the logits of all rows at the largest scale twice, and their mean probabilities; float16 twice.
    needed = pixels * num_classes * ((8 + 8 * max(scales) ** 2) * of_all_rows + 4 * probabilities)
    free = free_memory(predictor.device if of_all_rows else torch.device("cpu"))
    if free is not None and needed > free:
        what, fix = (
            ("inference.scales", "set inference.scales=[1.0]") if of_all_rows else ("--probabilities", "leave it out")
        )
        raise DataError(
            f"{image.shape[0]}×{image.shape[1]} pixels with {what} take at least {needed / 1e9:.1f} GB, "
            f"but {free / 1e9:.1f} GB are free",
            what,
            f"{fix}, or cut the image",
        )
