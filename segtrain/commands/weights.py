"""`segtrain weights key=value …`: count the training masks and print every weighting side by side."""

import numpy as np
from hydra._internal.utils import get_args_parser

from segtrain import weighting
from segtrain.build import build_dataset
from segtrain.class_counts import ClassCounts, count_classes, default_cache
from segtrain.config import compose, without_hydra
from segtrain.config_check import check_config
from segtrain.tables import number, share, table

SCHEMES = {
    "none": weighting.NoWeighting,
    "inverse_frequency": weighting.InverseFrequency,
    "inverse_sqrt": weighting.InverseSqrt,
    "log_ratio": weighting.LogRatio,
    "median_frequency": weighting.MedianFrequency,
    "enet": weighting.Enet,
    "effective_number": weighting.EffectiveNumber,
    "neg_pos_ratio": weighting.NegPosRatio,
}


def main(words: list[str]) -> int:
    arguments = get_args_parser().parse_args(words)
    cfg = without_hydra(compose(arguments.overrides, arguments.config_dir, arguments.config_name))
    check_config(cfg)
    print(weights_table(count_classes(build_dataset(cfg, "train"), cache=default_cache(), progress=True)))
    return 0


def weights_table(counts: ClassCounts) -> str:
    """Counts and, per class, the weight of each scheme; the last row is the largest over the smallest weight."""
    weights = {name: scheme()(counts) for name, scheme in SCHEMES.items()}
    rows = [
        [name, f"{counts.pixels[i]:,}", share(counts.share[i]), str(counts.images[i])]
        + [number(w[i]) for w in weights.values()]
        for i, name in enumerate(counts.class_names)
    ]
    ratios = [w[w > 0].max() / w[w > 0].min() if np.any(w > 0) else 1.0 for w in weights.values()]
    rows.append(["max/min", "", "", "", *(number(r) for r in ratios)])
    title = f"{counts.num_images} training images, {counts.num_empty} without foreground"
    return table(["class", "pixels", "share", "images", *weights], rows, title)
