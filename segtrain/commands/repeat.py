"""`segtrain repeat`: train again from a run's config.yaml, in a new folder, and say whether the result is equal."""

import shlex
from argparse import Namespace
from itertools import count
from pathlib import Path

from segtrain.config.choices import choices_of
from segtrain.config.saved import load_saved
from segtrain.config.schema import check_config, flat
from segtrain.errors import ConfigError
from segtrain.files import read_checkpoint, read_json
from segtrain.report.logger import log_to_screen
from segtrain.runs.checkpoints import read_last, read_weights
from segtrain.runs.claim import make_run_folder
from segtrain.runs.environment import FREE, changed_settings, trained_on
from segtrain.runs.folder import RunFolder
from segtrain.runs.result import Result
from segtrain.runs.trained import check_unchanged
from segtrain.signals import watched

TIMES = ("seconds", "images_per_second", "data_wait", "validation_seconds")


def main(arguments: Namespace) -> int:
    first = arguments.run
    file = first / "config.yaml"
    cfg = load_saved(file, arguments.overrides, arguments.trust)
    check_config(cfg, str(file))
    check_repeatable(first)
    second = make_run_folder(lambda: arguments.out or free_name(first))
    log_to_screen(second / "segtrain.log")
    with watched(), RunFolder(second) as run:
        from segtrain.commands.train import train

        run.begin(cfg, options=choices_of(first))
        train(cfg, run)
    text, equal = verdict(first, second)
    print(f"\n{text}")
    return 0 if equal else 1


def check_repeatable(run: Path) -> None:
    """Raise ConfigError for a run that is not finished, or whose settings were changed, on the way or afterwards."""
    if (status := Result.read(run).status) != "finished":
        raise ConfigError(
            f"the run is {status or 'not there'}",
            str(run),
            f"finish it first: `segtrain resume {shlex.quote(str(run))}`",
        )
    content = read_json(run / "environment.json")
    changed = [key for key in changed_settings(content) if key not in FREE]
    changed += ["dataset"] * (trained_on(content) != content.get("dataset_fingerprint"))
    if changed:
        what = f"the run was resumed with other settings ({', '.join(changed)}), so no run from the start can equal it"
        raise ConfigError(what, str(run), "start a new run with the settings you want")
    check_unchanged(run, read_checkpoint(run / "checkpoints" / "best.pt"))


def free_name(run: Path) -> Path:
    """RUN_repeat, RUN_repeat2 and so on: the first that is not there."""
    run = run if run.name not in ("", "..") else run.resolve()
    names = (run.parent / f"{run.name}_repeat{number if number > 1 else ''}" for number in count(1))
    return next(folder for folder in names if not folder.exists())


def verdict(first: Path, second: Path) -> tuple[str, bool]:
    """What is equal and what is not, in words; whether all is."""
    import torch

    found = {}
    for name in ("best", "last"):
        a, b = (read_weights(run / "checkpoints", name) for run in (first, second))
        found[f"weights of the {name} epoch"] = a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    found["scores"] = str(Result.read(first).scores) == str(Result.read(second).scores)
    parted = first_difference(first, second)
    if all(found.values()) and parted is None:
        return f"equal, bit for bit: {', '.join(found)} and metrics.csv of {first} and {second}", True
    lines = [f"{name}: {'equal' if equal else 'not equal'}" for name, equal in found.items()]
    lines.append(f"metrics.csv: {parted or 'equal'}")
    environment = environment_differences(first, second)
    lines += [f"environment: {text}" for text in environment]
    hint = "on CUDA, only trainer.deterministic=true gives the same numbers again"
    if any(text.startswith("dataset_fingerprint") for text in environment):
        hint = "the dataset has changed since: other images, or masks with other classes"
    elif environment:
        hint = "another machine, number of threads or version adds up sums in another order"
    return f"{first} and {second} are not equal\n" + "".join(f"  {line}\n" for line in lines) + f"  {hint}", False


def first_difference(one: Path, other: Path) -> str | None:
    """The first epoch and column of metrics.csv that differ, as a sentence; None when all are equal."""
    rows, others = (read_last(run / "checkpoints")["run"]["rows"] for run in (one, other))
    for row, its in zip(rows, others, strict=False):
        for name in row | its:
            if name not in TIMES and str(row.get(name)) != str(its.get(name)):  # a score that is NaN equals itself
                return f"from epoch {row['epoch']} on: {name} {row.get(name)} and {its.get(name)}"
    return None if len(rows) == len(others) else f"{len(rows)} epochs and {len(others)}"


def environment_differences(one: Path, other: Path) -> list[str]:
    """What differs in versions, hardware, commit and dataset, as words."""
    a, b = (flat(read_json(run / "environment.json")) for run in (one, other))
    compared = ("git_", "versions.", "hardware.", "world_size", "dataset_fingerprint")
    return [f"{k} {a.get(k)} and {b.get(k)}" for k in a | b if k.startswith(compared) and a.get(k) != b.get(k)]
