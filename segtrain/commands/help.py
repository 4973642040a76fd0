"""`segtrain help scores`: every score with its meaning."""

from segtrain.errors import ConfigError, did_you_mean
from segtrain.metrics import LOSS, SegmentationScores
from segtrain.report.text import table

GROUPS = ["fine_grained", "presence", "foreground", "objects", "boundary", "calibration"]
TOPICS = ("scores",)


def main(words: list[str]) -> int:
    if words[0] not in TOPICS:
        fix = f"topics: {', '.join(TOPICS)}; `segtrain help` lists commands and settings"
        raise ConfigError(f"no help on {words[0]!r}{did_you_mean(words[0], TOPICS)}", fix=fix)
    print(scores_table())
    return 0


def scores_table() -> str:
    """A row per score that metric=all gives; <class> stands for the name of each class."""
    names = ["background", "<class>"]
    records = SegmentationScores(2, class_names=names, groups=GROUPS).records()
    shown = [LOSS, *(score for score in records.values() if score.class_name != "background")]
    rows = [[s.name, "higher" if s.higher_is_better else "lower", s.unit, s.meaning] for s in shown]
    title = "Scores of metric=all; any that the chosen metric has can be trainer.monitor"
    return table(["score", "better", "unit", "meaning"], rows, title, left=("meaning",))
