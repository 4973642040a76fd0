"""`segtrain compare RUN_OR_SWEEP …`: the settings that differ against the scores, best first."""

import argparse
import csv
import json
import math
from pathlib import Path

from omegaconf import OmegaConf

from segtrain.config import flat
from segtrain.errors import ConfigError
from segtrain.run_folder import UNSIGNED
from segtrain.tables import percent, table


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="segtrain compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_OR_SWEEP", help="folders of runs or sweeps")
    parser.add_argument("--out", type=Path, help="folder to write comparison.csv to")
    arguments = parser.parse_args(words)
    rows = comparison([run for folder in arguments.runs for run in find_runs(folder)])
    columns = list(rows[0])
    print(table(columns, [[_text(row[c]) for c in columns] for row in rows]))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        with (arguments.out / "comparison.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(rows)
        print(f"\nwritten to {arguments.out / 'comparison.csv'}")
    return 0


def find_runs(folder: Path) -> list[Path]:
    """The runs in `folder`, which may be one itself. Raises ConfigError when there is none."""
    runs = sorted(file.parent for file in folder.glob("**/result.json") if "evaluation" not in file.parts)
    if not runs:
        raise ConfigError("no run in this folder", str(folder), "name folders that hold a result.json")
    return runs


def comparison(runs: list[Path]) -> list[dict]:
    """A row a run, best first: run, the settings in which the runs differ, status if not finished, scores."""
    configs = {run: _config(run) for run in runs}
    results = {run: json.loads((run / "result.json").read_text(encoding="utf-8")) for run in runs}
    varied = _varied(list(configs.values()))
    monitors = {r["best"]["monitor"] for r in results.values() if r.get("best")}
    monitor = monitors.pop() if len(monitors) == 1 else "iou/mean"
    sign = 1 if monitor == "loss" else -1

    def order(run: Path) -> float:
        value = results[run].get("scores", {}).get(monitor)
        return math.inf if value is None else sign * value

    names = list(dict.fromkeys(c["name"] for r in results.values() for c in r.get("per_class", [])))
    rows = []
    for run in sorted(runs, key=order):
        result = results[run]
        scores = result.get("scores", {})
        means = dict.fromkeys([monitor, "iou/mean", "iou/foreground", "accuracy"])
        rows.append(
            {"run": run.name}
            | {_short(key): configs[run].get(key) for key in varied}
            | ({"status": result["status"]} if any(r["status"] != "finished" for r in results.values()) else {})
            | {name: scores.get(name) for name in means}
            | {f"iou/{name}": scores.get(f"iou/{name}") for name in names}
        )
    return rows


def _config(run: Path) -> dict:
    file = run / "config.yaml"
    if not file.is_file():  # it failed before its config was written
        file = run / ".hydra" / "config.yaml"
    return flat(OmegaConf.to_container(OmegaConf.load(file))) if file.is_file() else {}


def _varied(configs: list[dict]) -> list[str]:
    keys = dict.fromkeys(key for config in configs for key in config)
    unsigned = [key for key in UNSIGNED if key != "seed"]
    return [
        key
        for key in keys
        if key not in unsigned
        and not key.endswith("class_weights")
        and len({str(config.get(key)) for config in configs}) > 1
    ]


def _short(key: str) -> str:
    return key.removesuffix("._target_")


def _text(value) -> str:
    if isinstance(value, float):
        return percent(value) if 0 <= value <= 1 else f"{value:.4g}"
    return "n/a" if value is None else str(value).rpartition(".")[2] if "segtrain." in str(value) else str(value)
