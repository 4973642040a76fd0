"""The settings of inference."""

from typing import Annotated, Literal

from segtrain.arguments import Fraction, FractionBelowOne, Positive, Range, Size, checked
from segtrain.data.resize import Resize
from segtrain.inference.presence import check_keys

Threshold = Annotated[float, Range("a number above 0 and below 1", lambda v: 0 < v < 1)]


class Inference:
    """Settings of inference.

    Args:
        flips: horizontal, vertical: average the probabilities over the flipped images, too (both: over all four); with
            windows, over each flipped window.
        scales: average the probabilities over the image scaled by these factors; 1 is its own size.
        window: [height, width] of sliding windows, for images larger than that; null: the whole image at once.
        overlap: of neighbouring windows, as a share of the window. Where they overlap, logits are averaged, with
            weights that fall off as a Gaussian from the window's centre (Isensee et al., 2021, nnU-Net).
        threshold: probability above which a class is predicted, one for all or one per class; null: 0.5 (`segtrain
            evaluate` takes those that maximised Dice on val). For multi-label, and for the second of two classes.
        presence: {area: PIXELS, confidence: PROBABILITY}, each one number or one per class: a class with fewer pixels of
            at least that probability is predicted nowhere in the image, so that clean images stay clean; its pixels are
            background. best: `segtrain evaluate` and `predict` choose them on val; {false_alarms: SHARE}: such that at most
            that share of the val images without foreground has a false alarm. Pixels are those of the prediction: in
            `predict` of the image itself, in `evaluate` of the resized one, unless with --original-size.
        resize: as dataset.resize, but the logits are brought back to the image's own size.
        regions: a run on small images that says in which windows to look; the others are background. In `evaluate` and
            `predict`.
        region_recall: share of the foreground pixels of val that the windows looked at must hold.
    """

    @checked
    def __init__(
        self,
        flips: list[Literal["horizontal", "vertical"]] = (),
        scales: list[Positive] = (1.0,),
        window: Size | None = None,
        overlap: FractionBelowOne = 0.5,
        threshold: Threshold | list[Threshold] | None = None,
        presence: Literal["best"] | dict | None = None,
        resize: Resize = None,
        regions: str | None = None,
        region_recall: Fraction = 0.99,
    ):
        if regions is not None and window is None:
            raise ValueError("regions need windows to look at: give inference.window, such as [256,256]")
        check_keys(presence)
        if not scales:
            raise ValueError("scales is empty: give [1.0] for the unscaled image")
        self.flips, self.scales, self.window, self.overlap = tuple(dict.fromkeys(flips)), scales, window, overlap
        self.threshold, self.presence, self.resize = threshold, presence, resize
        self.regions, self.region_recall = regions, region_recall
