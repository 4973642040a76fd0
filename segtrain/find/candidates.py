"""The settings that a search tries: losses, weightings and samplings that suit the classes of a dataset."""

from itertools import product

import numpy as np

from segtrain.class_counts import ClassCounts
from segtrain.data.sampling import RareClasses
from segtrain.weighting import same_as

LOSSES = (["loss=ce_dice", "loss.alpha=1.0"], ["loss=ce"], ["loss=ce_lovasz"], ["loss=ce_dice", "loss.alpha=0.25"])
MULTILABEL_LOSSES = (["loss=bce_dice"], ["loss=bce"], ["loss=bce_jaccard"])
# Not the best on any of four datasets (docs/recipes.md).
LARGE = ("weighting=median_frequency", "weighting=inverse_frequency")
RARE = 0.25  # share of the images below which sampling=auto brings a class more often
UNEVEN = 1.5  # times as often as another an image must come, for sampling=rare_classes to be tried


def candidates(counts: ClassCounts, fixed: set[str], crops: bool) -> list[list[str]]:
    """Overrides of each candidate: the config as it is, then one change of it, then two, then three; large weights count as two.

    Args:
        counts: of the training split.
        fixed: the groups that the user has chosen, such as `loss`: they stay.
        crops: whether training images are cropped.
    """
    losses = MULTILABEL_LOSSES if counts.multilabel else LOSSES
    different = [scheme for scheme, first in same_as(counts).items() if scheme == first]
    weightings = ["none", "inverse_sqrt", "neg_pos_ratio"] if counts.multilabel else different
    drawn = RareClasses().weights(counts)
    rare = ["sampling=rare_classes", *["sampling.foreground_share=0.33"] * crops]
    uneven = drawn.max() > UNEVEN * drawn.min()
    automatic = crops or np.ptp(RareClasses(threshold=RARE).weights(counts)) > 0  # else it is uniform
    samplings = [["sampling=auto"], *[["sampling=uniform"]] * bool(automatic), *[rare] * bool(uneven)]
    axes = {
        "sampling": samplings,
        "weighting": [[f"weighting={name}"] for name in weightings],
        "loss": losses,  # of as many changes the losses come first
    }
    choices = [[[], *options] for group, options in axes.items() if group not in fixed]
    combined = sorted(product(*choices), key=lambda options: sum(map(_changes, options)))
    return [[word for option in reversed(options) for word in option] for options in combined]


def _changes(option: list[str]) -> int:
    """For how many changes an option of a group counts."""
    return bool(option) + any(word in LARGE for word in option)
