"""Whether two runs gave the same numbers, and from which epoch on they do not."""

from pathlib import Path

from segtrain.config.schema import flat
from segtrain.files import read_json
from segtrain.runs.checkpoints import read_last, read_weights
from segtrain.runs.result import Result

TIMES = ("seconds", "images_per_second", "data_wait", "validation_seconds")


def first_difference(one: Path, other: Path) -> str | None:
    """The first epoch and column of metrics.csv that differ, as a sentence; None when all are equal."""
    rows, others = (read_last(run / "checkpoints")["run"]["rows"] for run in (one, other))
    for row, its in zip(rows, others, strict=False):
        for name in row | its:
            if name not in TIMES and str(row.get(name)) != str(its.get(name)):  # a score that is NaN equals itself
                return f"from epoch {row['epoch']} on: {name} {row.get(name)} and {its.get(name)}"
    return None if len(rows) == len(others) else f"{len(rows)} epochs and {len(others)}"


def equal_weights(one: Path, other: Path, checkpoint: str) -> bool:
    """Whether a checkpoint (`best` or `last`) of two runs holds the same weights, bit for bit."""
    import torch

    a, b = (read_weights(run / "checkpoints", checkpoint) for run in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def equal_scores(one: Path, other: Path) -> bool:
    """Whether result.json has the same scores."""
    return str(Result.read(one).scores) == str(Result.read(other).scores)


def environment_differences(one: Path, other: Path) -> list[str]:
    """What differs in versions, hardware, commit and dataset, as words."""
    a, b = (flat(read_json(run / "environment.json")) for run in (one, other))
    compared = ("git_", "versions.", "hardware.", "world_size", "dataset_fingerprint")
    return [f"{k} {a.get(k)} and {b.get(k)}" for k in a | b if k.startswith(compared) and a.get(k) != b.get(k)]
