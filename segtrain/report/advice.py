"""Warnings about choices that are known to fail, each with a way out."""

from collections.abc import Sequence

from segtrain.class_counts import ClassCounts
from segtrain.data.sampling import RareClasses, Sampling
from segtrain.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Dice,
    GeneralizedDice,
    Loss,
    Lovasz,
    PixelRegion,
    RegionLoss,
)
from segtrain.metrics.groups.per_image import OVER
from segtrain.metrics.groups.standard import KINDS
from segtrain.metrics.records import Score

IOU = [KINDS["iou"].name, *(f"{KINDS['iou'].name}_{over}" for over in OVER)]  # kinds of score that a Dice loss is not
EXTREME = 1e-3  # share of the pixels below which an image seldom shows enough of a class


def advice(loss: Loss, counts: ClassCounts, background: int | None, monitor: Score, from_scratch: bool) -> list[str]:
    """Warnings about a loss for these classes; an empty list when nothing is known against it.

    Args:
        loss: a loss of segtrain; there are no warnings about others.
        monitor: the record of the score that chooses the best epoch.
        from_scratch: whether the encoder has random weights.
    """
    pixel, region = _parts(loss)
    found, aggregated = [], isinstance(region, RegionLoss)
    classes = region.classes if aggregated or isinstance(region, Lovasz) else "present"
    if pixel is None and isinstance(classes, list) and background is not None and background not in classes:
        found.append(
            f"the background is never learned, because loss.classes={classes} leaves it out and there is no pixel term. Add "
            f"{background} to loss.classes, or use loss=ce_dice"
        )
    if pixel is None and isinstance(region, Lovasz) and from_scratch:
        found.append("Lovász alone starts slowly from random weights: use loss=ce_lovasz, or loss=phased")
    if aggregated and "class" in region.aggregates:
        rare = [n for n, s in zip(counts.class_names, counts.share, strict=True) if 0 < s < EXTREME]
        if rare:
            found.append(
                f"aggregate=class is noisy for {', '.join(rare)}, present in few images of a batch: use aggregate=batch"
            )
    weighted = aggregated and region.class_weights is not None
    if weighted and isinstance(pixel, CrossEntropy | BinaryCrossEntropy) and pixel.class_weights is not None:
        found.append(
            "the pixel and the region term are both weighted, so rare classes count twice: set "
            "loss.region.class_weights=null"
        )
    if pixel is None and isinstance(region, Dice | GeneralizedDice) and monitor.kind in IOU:
        found.append(
            f"the loss is Dice, but trainer.monitor={monitor.name}: use loss=jaccard, or trainer.monitor=dice/mean"
        )
    return found


def tips_for_rare_classes(loss: Loss, sampling: Sampling, crops: bool, multilabel: bool) -> str:
    """What else to try when classes are hardly found, in a sentence.

    Args:
        crops: whether the training images are cropped.
    """
    pixel, region = _parts(loss)
    known = isinstance(sampling, RareClasses) and sampling.threshold == 1
    more = (["sampling.power=1"] if sampling.power < 1 else []) if known else ["sampling=rare_classes"]
    more += ["sampling.foreground_share=0.66"] if crops and not (known and sampling.foreground_share >= 0.66) else []
    tips = ["more epochs", *([f"show the network more of them ({' '.join(more)})"] if more else [])]
    if region is None:
        tips.append(f"a region term (loss={'bce_dice' if multilabel else 'ce_dice'})")
    weighted = isinstance(pixel, BinaryCrossEntropy) and pixel.pos_weight is not None
    if isinstance(pixel, CrossEntropy | BinaryCrossEntropy) and pixel.class_weights is None and not weighted:
        tips.append(
            f"weights (weighting={'inverse_sqrt' if multilabel else 'log_ratio'}; `segtrain weights` lists all)"
        )
    return f"Try {', then '.join(tips)}."


def padding_advice(crop: Sequence[int] | None, size: tuple[int, int]) -> list[str]:
    """A warning about crops of which more than half is no image; an empty list when there is none.

    Args:
        crop: height and width; None: whole images.
        size: height and width of an image.
    """
    if crop is None:
        return []
    share = min(crop[0], size[0]) * min(crop[1], size[1]) / (crop[0] * crop[1])
    if share > 0.5:
        return []
    what = f"augment.size=[{crop[0]},{crop[1]}] on images of {size[0]}×{size[1]} (height × width)"
    return [
        f"{what}: {100 * (1 - share):.0f} % of each crop is padding, which costs time and teaches nothing. Use augment.size=auto"
    ]


def _parts(loss: Loss) -> tuple[Loss | None, Loss | None]:
    """The pixel term and the region term; None for one that is not there or has no weight."""
    if isinstance(loss, PixelRegion):
        return (loss.pixel if loss.pixel_weight else None), (loss.region if loss.alpha else None)
    if isinstance(loss, RegionLoss | GeneralizedDice | Lovasz):
        return None, loss
    return loss, None
