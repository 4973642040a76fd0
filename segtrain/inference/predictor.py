"""Predictions of a network: sliding windows, test-time augmentation, thresholds, presence, regions."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from segtrain.data.inputs import LARGE
from segtrain.data.resize import resized, resized_size
from segtrain.inference.presence import confident_pixels, without_absent
from segtrain.inference.regions import Regions
from segtrain.inference.settings import Inference
from segtrain.metrics import predict

Rows = Callable[[int, int], torch.Tensor]  # (top, bottom) -> uint8 [N,B,bottom-top,W]
STRIP = 256  # rows at a time of a larger image
_ROWS = 64
_AXES = {"horizontal": -1, "vertical": -2}


@dataclass(frozen=True)
class Prediction:
    """The prediction for an image.

    Attributes:
        mask: classes uint8 [H,W], or multi-label bool [C,H,W].
        confidence: float32 [C], the highest probability of each class in the image.
        probabilities: float16 [C,H,W], when they were asked for.
    """

    mask: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray | None


class Predictor:
    """Predictions of a network on its device. The network is put into evaluation mode.

    Args:
        model: uint8 [N,B,H,W] -> logits [N,C,H,W], of any height and width.
        autocast: a function that returns the context of a forward pass.
        multilabel: whether classes may overlap (multi-label).
        background: index of the class that takes the place of an absent one; see `Inference`, presence.
        regions: which windows to predict; None: all.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        autocast,
        multilabel: bool,
        inference: Inference,
        background: int | None = None,
        regions: Regions | None = None,
    ):
        self.model, self.device, self.autocast = model.eval(), device, autocast
        self.multilabel, self.inference, self.background = multilabel, inference, background
        self.regions = regions

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """float [N,C,H,W] on the device. Averaged ones are the logarithms of the mean probabilities (multi-label: of
        their odds); those of a single view are the network's own."""
        if self.inference.resize is None:
            return self._at_given_size(images)
        size = images.shape[-2:]
        images = resized(images, resized_size(tuple(size), self.inference.resize))
        return nn.functional.interpolate(self._at_given_size(images).float(), size, mode="bilinear")

    def _at_given_size(self, images: torch.Tensor) -> torch.Tensor:
        images = images.to(self.device, non_blocking=True)
        return self._averaged([functools.partial(self._at_scale, images, scale) for scale in self.inference.scales])

    def _averaged(self, views: list[Callable[[], torch.Tensor]]) -> torch.Tensor:
        """The logits of a single view; of several those of the mean probabilities."""
        if len(views) == 1:
            return views[0]()
        mean = sum(self.probabilities(view()) for view in views) / len(views)
        return mean.logit(eps=1e-7) if self.multilabel else mean.clamp_min(1e-30).log()

    def decide(self, logits: torch.Tensor) -> torch.Tensor:
        """The prediction: classes uint8 [N,H,W], or multi-label bool [N,C,H,W]."""
        prediction = predict(logits, self.multilabel, self.inference.threshold)
        if self.inference.presence is None:
            return prediction
        confident = confident_pixels(self.probabilities(logits), self.inference.presence)
        return without_absent(prediction, confident, self.inference.presence, self.background)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """float32 [N,C,H,W]."""
        return logits.float().sigmoid() if self.multilabel else logits.float().softmax(dim=1)

    @torch.no_grad()
    def image(
        self, image, keep_probabilities: bool = False, after_rows: Callable[[int], None] = lambda rows: None
    ) -> Prediction:
        """The prediction for an image uint8 [H,W,B] of any size.

        With windows, and no `scales`, rows are read and finished one window's height after another: beside the mask no
        more is in memory than the logits of that height; but for `regions`, which look at the whole. A large image with
        `resize` is shrunk, and its logits enlarged, strip by strip.

        Args:
            image: an array, or anything else with `shape` whose rows are `image[top:bottom]`.
            after_rows: called with the number of rows that are finished, again and again.
        """

        def rows(top: int, bottom: int) -> torch.Tensor:
            pixels = torch.from_numpy(np.require(image[top:bottom], requirements="CW"))
            return pixels.permute(2, 0, 1)[None]

        height, width = image.shape[:2]
        mask, probabilities, confident, highest, top = None, [], 0, 0.0, 0
        for logits in self._bands(height, width, rows):
            probability = self.probabilities(logits)
            highest = torch.maximum(probability.amax(dim=(0, 2, 3)), torch.as_tensor(highest, device=logits.device))
            if self.inference.presence is not None:
                confident = confident + confident_pixels(probability, self.inference.presence)
            if keep_probabilities:
                probabilities.append(probability[0].half().cpu().numpy())
            band = predict(logits, self.multilabel, self.inference.threshold).cpu()
            if mask is None:
                mask = band.new_empty(*band.shape[:-2], height, width)
            mask[..., top : top + band.shape[-2], :] = band
            top += band.shape[-2]
            after_rows(top)
        if self.inference.presence is not None:
            for strip in mask.split(STRIP, dim=-2):  # a few rows: indices take eight bytes a pixel
                strip.copy_(without_absent(strip, confident.cpu(), self.inference.presence, self.background))
        kept = np.concatenate(probabilities, axis=1) if keep_probabilities else None
        return Prediction(mask[0].numpy(), highest.cpu().numpy(), kept)

    def _bands(self, height: int, width: int, rows: Rows) -> Iterator[torch.Tensor]:
        """The logits from top to bottom, in bands of all columns; one of all rows where scales have to be averaged."""
        if self.inference.resize is not None and height * width > LARGE:
            return self._resized_strips(height, width, rows)
        if self.inference.resize is None and list(self.inference.scales) == [1.0]:
            return self._in_bands(height, width, lambda top, bottom: rows(top, bottom).to(self.device))
        return iter([self.logits(rows(0, height))])

    def _resized_strips(self, height: int, width: int, rows: Rows) -> Iterator[torch.Tensor]:
        """As `logits` with `resize`, to rounding, for an image of which no more than some rows are in memory."""
        size = resized_size((height, width), self.inference.resize)
        narrow = []
        for top in range(0, height, STRIP):
            strip = rows(top, min(top + STRIP, height))
            narrow.append(resized(strip, (strip.shape[-2], size[1])))
        small = resized(torch.cat(narrow, dim=2), size)
        logits = self._at_given_size(small).float()
        row = (torch.arange(height, dtype=torch.float64, device=logits.device) + 0.5) * (size[0] / height) - 0.5
        for at in row.clamp_(0, size[0] - 1).split(STRIP):
            above = at.long()
            strip = logits[:, :, above].lerp(
                logits[:, :, (above + 1).clamp_max(size[0] - 1)], (at - above).float()[:, None]
            )
            yield nn.functional.interpolate(strip, (len(at), width), mode="bilinear")

    def _at_scale(self, images: torch.Tensor, scale: float) -> torch.Tensor:
        if scale == 1:
            return self._in_windows(images)
        size = images.shape[-2:]
        scaled = [max(1, round(scale * side)) for side in size]
        images = nn.functional.interpolate(images.float(), scaled, mode="bilinear", antialias=scale < 1)
        return nn.functional.interpolate(self._in_windows(images).float(), size, mode="bilinear")

    def _in_windows(self, images: torch.Tensor) -> torch.Tensor:
        bands = list(self._in_bands(*images.shape[-2:], lambda top, bottom: images[..., top:bottom, :]))
        return torch.cat(bands, dim=-2) if len(bands) > 1 else bands[0]

    def _in_bands(self, height: int, width: int, rows: Rows) -> Iterator[torch.Tensor]:
        """The logits from top to bottom: rows that no window below reaches."""
        tall, wide = self.inference.window or (height, width)
        tall, wide = min(tall, height), min(wide, width)
        if (tall, wide) == (height, width) and self.regions is None:
            yield self._forward(rows(0, height))
            return
        weight = _gaussian(tall, wide).to(self.device)
        total = weights = predicted = None  # of the rows from `top` on; of each window
        tops, lefts = (window_starts(*side, self.inference.overlap) for side in ((height, tall), (width, wide)))
        if self.regions is not None:
            highest = self.regions.highest(rows(0, height), tops, lefts, (tall, wide))
            predicted = (highest >= self.regions.threshold).cpu()
            total = weight.new_zeros(len(predicted), self.regions.num_classes, tall, width)
        for row, (top, below) in enumerate(itertools.pairwise([*tops, height])):
            images = rows(top, top + tall)
            if weights is None:
                weights = weight.new_zeros(len(images), 1, tall, width)
            for column, left in enumerate(lefts):
                columns, of = slice(left, left + wide), slice(None)
                if predicted is not None:
                    found = predicted[:, row, column].nonzero()[:, 0]
                    if not len(found):
                        continue
                    of = found.to(self.device)
                logits = self._forward(images[of, :, :, columns]).float()
                if total is None:
                    total = logits.new_zeros(*logits.shape[:2], tall, width)
                total[of, :, :, columns] += logits * weight
                weights[of, :, :, columns] += weight
            done = below - top
            for first in range(0, done, _ROWS):  # few at a time: what is made of them takes several times their memory
                some = slice(first, min(first + _ROWS, done))
                band, seen = total[..., some, :] / weights[..., some, :], weights[..., some, :] > 0
                yield band if predicted is None else band.where(seen, self.regions.background_logits(weight))
            for kept in (total, weights):
                remaining = kept[..., done:, :].clone()
                kept.zero_()
                kept[..., : tall - done, :] = remaining

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        axes = [_AXES[flip] for flip in self.inference.flips]
        flips = [flip for count in range(len(axes) + 1) for flip in itertools.combinations(axes, count)]
        return self._averaged([functools.partial(self._flipped, images, flip) for flip in flips])

    def _flipped(self, images: torch.Tensor, flip: tuple[int, ...]) -> torch.Tensor:
        """The logits of flipped images, flipped back."""
        with self.autocast():
            return self.model(images.flip(flip)).flip(flip) if flip else self.model(images)


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Starts of the windows along a side: evenly spread, the last ends at the border, the overlap is at least `overlap`."""
    count = 1 + math.ceil((size - window) / max(1, int(window * (1 - overlap))))
    return [round(i * (size - window) / max(1, count - 1)) for i in range(count)]


def _gaussian(height: int, width: int) -> torch.Tensor:
    """float [h, w], 1 in the centre, with a standard deviation of an eighth of each side."""
    rows, columns = (torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in (height, width))
    return rows[:, None] * columns
