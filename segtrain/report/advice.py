"""What is known to go wrong with a choice of loss, in one line each, with the way out."""

from segtrain.class_counts import ClassCounts
from segtrain.losses import Dice, GeneralizedDice, Lovasz, PixelRegion, Tversky

EXTREME = 1e-3  # share of the pixels below which an image seldom shows enough of a class


def advice(loss, counts: ClassCounts, background: int | None, monitor: str, from_scratch: bool) -> list[str]:
    """Warnings about a loss for these classes; an empty list when nothing is known against it.

    Args:
        loss: a loss of segtrain; nothing is said of others.
        monitor: the score that chooses the best epoch.
        from_scratch: whether the encoder has random weights.
    """
    pixel, region = _parts(loss)
    found = []
    classes = getattr(region, "classes", "present")
    if pixel is None and isinstance(classes, list) and background is not None and background not in classes:
        found.append(
            f"nothing teaches the background: loss.classes={classes} leaves it out and there is no pixel term. Add "
            f"{background} to loss.classes, or use loss=ce_dice"
        )
    if pixel is None and isinstance(region, Lovasz) and from_scratch:
        found.append("Lovász alone starts slowly from random weights: use loss=ce_lovasz, or loss=phased")
    if isinstance(region, Tversky) and "class" in region.aggregates:
        rare = [n for n, s in zip(counts.class_names, counts.share, strict=True) if 0 < s < EXTREME]
        if rare:
            found.append(
                f"aggregate=class is noisy for {', '.join(rare)}, which few images of a batch show: use aggregate=batch"
            )
    if pixel is not None and _weighted(pixel) and _weighted(region):
        found.append(
            "the pixel and the region term are both weighted, so rare classes count twice: set "
            "loss.region.class_weights=null"
        )
    if pixel is None and isinstance(region, Dice | GeneralizedDice) and monitor.startswith("iou"):
        found.append(f"the loss is Dice and trainer.monitor={monitor}: use loss=jaccard, or trainer.monitor=dice/mean")
    return found


def _parts(loss):
    """The pixel term and the region term; None for one that is not there or has no weight."""
    if isinstance(loss, PixelRegion):
        return (loss.pixel if loss.pixel_weight else None), (loss.region if loss.alpha else None)
    if isinstance(loss, Tversky | GeneralizedDice | Lovasz):
        return None, loss
    return loss, None


def _weighted(loss) -> bool:
    return getattr(loss, "class_weights", None) is not None
