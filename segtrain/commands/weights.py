"""`segtrain weights key=value …`: count the training masks and print every weighting side by side."""

from segtrain.class_counts import count_classes, default_cache
from segtrain.config.build import build, build_dataset
from segtrain.config.internals import parse, parser
from segtrain.config.launch import checked_config
from segtrain.data.sampling import as_sampling
from segtrain.report.weights import weights_text


def main(words: list[str]) -> int:
    own = parser("segtrain weights")
    own.description = __doc__
    arguments = parse(own, words)
    cfg = checked_config(arguments)
    counts = count_classes(build_dataset(cfg, "train"), cache=default_cache(), progress=True)
    print(weights_text(counts, chosen=build(cfg, "weighting")))
    if summary := as_sampling(build(cfg, "sampling")).summary(counts):
        print(f"\n{summary}")
    return 0
