"""`segtrain weights`: count the training masks and print every weighting side by side."""

from argparse import Namespace

from segtrain.commands.counting import count
from segtrain.config.build import build, build_augment, build_dataset, build_sampling, refusals
from segtrain.config.launch import checked_config
from segtrain.config.schema import reads_class_weights
from segtrain.data.loader import needs_locations
from segtrain.report.weights import weights_text, words_of_sweep


def main(arguments: Namespace) -> int:
    cfg = checked_config(arguments)
    train_set, sampling = build_dataset(cfg, "train"), build_sampling(cfg)
    counts = count(train_set, needs_locations(build_augment(cfg, train_set), sampling))
    weighting, sweep = build(cfg, "weighting"), words_of_sweep(arguments.overrides, arguments.config_dir)
    with refusals(f"weighting ({cfg.weighting._target_})"):
        print(weights_text(counts, weighting, sweep, reads_class_weights(cfg)))
    if summary := sampling.summary(counts):
        print(f"\n{summary}")
    return 0
