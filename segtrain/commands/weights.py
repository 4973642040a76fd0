"""`segtrain weights key=value …`: count the training masks and print every weighting side by side."""

from hydra._internal.utils import get_args_parser

from segtrain.class_counts import count_classes, default_cache
from segtrain.config.build import build, build_dataset
from segtrain.config.compose import compose, without_hydra
from segtrain.config.schema import check_config
from segtrain.data.sampling import as_sampling
from segtrain.report.weights import weights_text


def main(words: list[str]) -> int:
    arguments = get_args_parser().parse_args(words)
    cfg = without_hydra(compose(arguments.overrides, arguments.config_dir, arguments.config_name))
    check_config(cfg)
    counts = count_classes(build_dataset(cfg, "train"), cache=default_cache(), progress=True)
    print(weights_text(counts, chosen=build(cfg, "weighting")))
    if summary := as_sampling(build(cfg, "sampling")).summary(counts):
        print(f"\n{summary}")
    return 0
