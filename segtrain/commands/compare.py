"""`segtrain compare RUN_OR_SWEEP …`: the settings that differ against the scores, best first."""

import argparse
import math
from pathlib import Path

from segtrain.config.saved import settings_of
from segtrain.errors import ConfigError
from segtrain.files import write_rows
from segtrain.report.text import number, percent, table
from segtrain.runs.environment import UNSIGNED
from segtrain.runs.result import Result

LOSS = "val loss"  # the column of the score `loss`, since `loss` is the name of a setting


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="segtrain compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_OR_SWEEP", help="folders of runs or sweeps")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write comparison.csv to")
    arguments = parser.parse_args(words)
    settings, scores, rows = comparison([run for folder in arguments.runs for run in find_runs(folder)])
    texts = [[_text(row[c]) for c in settings] + [_score(row[c], unit) for c, unit in scores.items()] for row in rows]
    print(table([*settings, *scores], texts, f"best first by {next(iter(scores))}; scores in %"))
    if arguments.out:
        write_rows(arguments.out / "comparison.csv", rows)
        print(f"\nwritten to {arguments.out / 'comparison.csv'}")
    return 0


def find_runs(folder: Path) -> list[Path]:
    """The runs in `folder`, which may be one itself. Raises ConfigError when there is none."""
    runs = sorted(file.parent for file in folder.glob("**/result.json") if Result.read(file.parent).status)
    if not runs:
        raise ConfigError("no run in this folder", str(folder), "name folders that hold a result.json")
    return runs


def comparison(runs: list[Path]) -> tuple[list[str], dict[str, str], list[dict]]:
    """Columns of settings, columns of scores with their units, a row a run, best first.

    That is by the score all runs monitored; where they monitored several, by the first one that all have.
    """
    configs = [settings_of(run) for run in runs]
    results = [Result.read(run) for run in runs]
    monitors = {r.best["monitor"] for r in results if r.best}
    one = [r for r in results if r.best] if len(monitors) == 1 else []
    lower, unit = any(r.lower_is_better for r in one), next((r.unit for r in one), "%")
    found = [r.scores for r in results if r.scores]
    common = [name for name in found[0] if all(name in scores for scores in found)] if found else []
    monitor = monitors.pop() if one else next(iter(common), "score")
    monitor = LOSS if monitor == "loss" else monitor
    settings = ["run", *varied(configs)]
    if any(r.status != "finished" for r in results):
        settings.append("status")
    names = dict.fromkeys(c["name"] for r in results for c in r.per_class)
    others = ["iou/mean", "iou/foreground", "accuracy", *(f"iou/{n}" for n in names)]
    scores = {monitor: unit} | {name: "%" for name in others if name != monitor}
    rows = [
        {"run": run.name, "status": result.status}
        | config
        | {LOSS if name == "loss" else name: value for name, value in result.scores.items()}
        for run, config, result in zip(runs, configs, results, strict=True)
    ]

    def order(row: dict) -> float:
        if row.get(monitor) is None:
            return math.inf
        return row[monitor] if lower else -row[monitor]

    return settings, scores, [{c: row.get(c) for c in (*settings, *scores)} for row in sorted(rows, key=order)]


def varied(configs: list[dict]) -> list[str]:
    """Settings that all runs have and that differ. Class weights follow from the weighting."""
    everywhere = [key for key in configs[0] if all(key in config for config in configs)]
    hidden = ("_target_", "class_weights", "pos_weight")
    unsigned = [key for key in UNSIGNED if key != "seed"]
    found = [k for k in everywhere if k not in unsigned and not k.endswith(hidden)]
    return [k for k in found if len({str(config[k]) for config in configs}) > 1]


def _score(value: float | None, unit: str) -> str:
    return percent(value) if unit == "%" or value is None else number(value)


def _text(value) -> str:
    return "" if value is None else str(value)
