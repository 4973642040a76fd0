"""Two stages: a coarse network on small images says where foreground may be, and a fine one looks there only.

For small objects in large images, most of which hold nothing: the fine network's windows without a sign of foreground are
not predicted, they are background.
"""

import itertools
import math

import numpy as np
import torch
from torch import nn

from segtrain.data.resize import Resize, resized, resized_size
from segtrain.errors import ConfigError

CERTAIN = 15.0  # logit of certainty; float16 holds its exponential


class Foreground:
    """The probability of foreground that a coarse network gives each pixel of a small image.

    Args:
        network: uint8 [N,B,H,W] -> logits [N,C,H,W].
        resize: of images for it, as dataset.resize of its training; None: as they are.
        multilabel: whether its classes may overlap.
        background: its class that is no foreground; a multi-label network may have none.
    """

    def __init__(self, network: nn.Module, resize: Resize, multilabel: bool, background: int | None):
        self.network, self.resize = network.eval(), resize
        self.multilabel, self.background = multilabel, background

    @classmethod
    def of_run(cls, coarse, device: torch.device, given: Resize = None) -> "Foreground":
        """That of a trained run (segtrain.runs.trained.Trained).

        Args:
            given: how the images that it will be given are resized already.

        Raises ConfigError for a run without a background class, and where its factor is of images of another size.
        """
        coarse.classes.check_foreground(str(coarse.run))
        resize = coarse.config.dataset.get("resize")
        if isinstance(given, int | float) and resize is None:
            resize = 1.0  # of images as they are
        if given is not None and isinstance(resize, int | float):
            if not isinstance(given, int | float):
                what = f"{coarse.run} has dataset.resize={resize}, a factor, but this training has a size"
                raise ConfigError(what, "dataset.resize", "train the coarse run with dataset.resize=[height,width]")
            resize = resize / given
        return cls(coarse.network.to(device), resize, coarse.classes.multilabel, coarse.classes.background)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """float [N,H',W'] of the resized images."""
        if self.resize is not None:
            images = resized(images, resized_size(tuple(images.shape[-2:]), self.resize))
        logits = self.network(images).float()
        if not self.multilabel:
            return 1 - logits.softmax(dim=1)[:, self.background]
        foreground = [c for c in range(logits.shape[1]) if c != self.background]
        return logits[:, foreground].sigmoid().amax(dim=1)


class Regions:
    """Which windows of an image a fine network predicts.

    Each pixel belongs to the window whose centre is nearest. A window is predicted when the coarse network gives some
    pixel of its own at least `threshold` as the probability of foreground.

    Args:
        foreground: of the coarse network.
        autocast: a function that returns the context of its forward pass.
        num_classes, outside: of the fine network, and its class where it predicts nothing; None for multi-label.
        threshold: chosen by `threshold_for`.
    """

    def __init__(self, foreground: Foreground, autocast, num_classes: int, outside: int | None, threshold: float = 0.0):
        self.foreground, self.autocast, self.threshold = foreground, autocast, threshold
        self.num_classes, self.outside = num_classes, outside

    def highest(self, images: torch.Tensor, tops: list[int], lefts: list[int], window: tuple[int, int]) -> torch.Tensor:
        """float [N, windows down, windows across]: the highest probability of foreground among a window's own pixels."""
        with self.autocast():
            found = self.foreground(images)
        sides = zip((tops, lefts), window, images.shape[-2:], found.shape[-2:], strict=True)
        rows, columns = (
            [(first * coarse // size, math.ceil(last * coarse / size)) for first, last in spans(starts, length, size)]
            for starts, length, size, coarse in sides
        )
        across = torch.stack([found[:, :, first:last].amax(dim=2) for first, last in columns], dim=2)
        return torch.stack([across[:, first:last].amax(dim=1) for first, last in rows], dim=1)

    def background_logits(self, like: torch.Tensor) -> torch.Tensor:
        """float [C,1,1], the fine network's logits where it predicts nothing."""
        logits = like.new_full((self.num_classes, 1, 1), -CERTAIN)
        if self.outside is not None:
            logits[self.outside] = CERTAIN
        return logits


def spans(starts: list[int], window: int, size: int) -> list[tuple[int, int]]:
    """First and last row (or column) of each window's own pixels, which it is nearest to."""
    middles = [(before + after + window) // 2 for before, after in itertools.pairwise(starts)]
    return list(zip([0, *middles], [*middles, size], strict=True))


def threshold_for(values: np.ndarray, pixels: np.ndarray, recall: float) -> float:
    """The largest threshold at which windows that are looked at hold at least this share of all foreground pixels.

    Args:
        values: float [n], the highest probability of each window's own pixels.
        pixels: int [n], its own foreground pixels.
        recall: from 0 to 1.

    Returns 0, which looks everywhere, when there is no foreground.
    """
    order = np.argsort(-values, kind="stable")
    found = np.cumsum(pixels[order])
    if not len(found) or found[-1] == 0:
        return 0.0
    return float(values[order][np.searchsorted(found, recall * found[-1])])
