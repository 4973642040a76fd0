"""`segtrain evaluate`: score a finished run's checkpoint again, with tables and a page of the largest errors."""

import hashlib
import logging
import re
from argparse import Namespace
from pathlib import Path

import numpy as np

from segtrain.commands.scoring import (
    at_original_size,
    choose_presence,
    choose_thresholds,
    evaluate_split,
    groups_of,
    intervals_of,
)
from segtrain.config.choices import choices_of
from segtrain.config.schema import flat
from segtrain.errors import ConfigError, counted, few, printable
from segtrain.files import read_arrays, write_arrays, write_json, write_rows
from segtrain.report.logger import log_to_screen
from segtrain.report.pages.evaluation import write_evaluation_page
from segtrain.report.scores import cross_fitted_line, means_line, more_tables, not_defined, scores_table
from segtrain.runs.result import Result
from segtrain.runs.trained import load

log = logging.getLogger("segtrain")

# Settings that divide the images into training and validation.
DIVIDING = tuple(f"dataset.{name}=" for name in ("fold", "folds", "val_ratio", "splits", "split_file", "groups"))
UNNAMED = ("loader.", "trainer.device=", "debug=", "advice=")  # which change no score


def main(arguments: Namespace) -> int:
    log_to_screen()
    trained = load(str(arguments.run), arguments.checkpoint, arguments.trust, arguments.overrides, arguments.config_dir)
    warn_of_images(arguments.overrides)
    if arguments.original_size:
        if trained.config.dataset.get("resize") is None:
            raise ConfigError("the run was not trained on resized images", "--original-size", "leave it out")
        at_original_size(trained.config)
    threshold = choose_thresholds(trained)
    cross_fitted = choose_presence(trained, bool(threshold))
    scores, result, dataset, draw = evaluate_split(trained, arguments.split)
    if arguments.split == "val":
        warn_of_others(arguments.run, scores.names, trained.config.dataset.get("splits") == "kfold")
    groups = groups_of(dataset, scores.names)
    if arguments.split == "val":
        if threshold and not cross_fitted and trained.config.inference.presence is None:
            cross_fitted = scores.cross_fitted(groups)
        result.cross_fitted = cross_fitted
    if arguments.bootstrap:
        result.intervals = intervals_of(scores, groups, arguments.bootstrap)
    usual = {f"{group}={option}" for group, option in choices_of(arguments.run).items()}
    named = [word for word in arguments.overrides if not word.startswith(UNNAMED) and word not in usual]
    settings = [*(["original-size"] if arguments.original_size else []), *named]
    request = {"split": arguments.split, "checkpoint": arguments.checkpoint, "settings": settings}
    out = arguments.run / "evaluation" / folder_name(**request)
    inference = flat(trained.config.inference)
    chosen = {key: value for key, value in inference.items() if key.split(".")[0] in ("threshold", "presence")}
    found = {name: vars(result)[name] for name in ("scores", "per_class", "intervals", "lower", "units")}
    if result.cross_fitted:
        found["cross_fitted"] = result.cross_fitted
    title = ", ".join([str(arguments.run), arguments.split, f"{arguments.checkpoint} checkpoint", *settings])
    notes = [f"{key}: {value}" for key, value in chosen.items() if value is not None]
    notes += [too_good(result)] if result.cross_fitted else []
    try:  # before it is printed: to a program that reads no more of it, the end of all
        write_json(out / "scores.json", {**request, **chosen, **found})
        if counts := scores.state():
            counts["groups"] = np.array(groups_of(dataset, counts["names"].tolist()))
            write_arrays(out / "per_image.npz", counts)
            write_rows(out / "per_image.csv", image_rows(scores))
        write_evaluation_page(out / "page.html", title, scores, result, dataset, draw, notes=notes)
    finally:
        print(printable(text(scores, result, arguments.split)))
    print(f"\nwritten to {out}")
    return 0


def warn_of_images(overrides: list[str]) -> None:
    """Name settings that may let images be scored that the run was trained on."""
    if moved := [word for word in overrides if word.startswith(DIVIDING)]:
        log.warning(f"{', '.join(moved)}: the scored images may include images that the run was trained on")


def warn_of_others(run: Path, names: list[str], folds: bool) -> None:
    """Warn of images of val that the run has not validated: files were added, or folds divided otherwise.

    Unless all are others, of another dataset than that of the training; `folds`: then too.
    """
    file = run / "per_image.npz"
    known = read_arrays(file).get("names", []) if file.is_file() else []
    others = [str(name) for name in names if str(name) not in {*map(str, known)}]
    if len(known) and others and (folds or len(others) < len(names)):
        what = f"{counted(len(others), 'image')} of val not among those that the run validated ({few(others, 3)})"
        log.warning(f"{what}: it may have been trained on them")


def folder_name(split: str, checkpoint: str, settings: list[str]) -> str:
    """Name of the folder of an evaluation; long ones end in a hash."""
    words = [split, *(["last"] if checkpoint == "last" else []), *settings]
    name = "_".join(re.sub(r"[^\w.=,-]", "-", re.sub(r"[\[\]\s'\"]", "", word)) for word in words)
    return name if len(name) <= 120 else f"{name[:111]}_{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


def text(scores, result: Result, split: str) -> str:
    """What is printed: means, a table of the classes for each kind of score, and all others."""
    parts = [f"{len(scores.names)} {split} images:  {means_line(result.scores, scores.records(), result.intervals)}"]
    parts += [too_good(result)] if result.cross_fitted else []
    classes = [scores_table(result.per_class, intervals=result.intervals), *not_defined(result.per_class)]
    return "\n\n".join([*parts, "\n".join(classes), *more_tables(result, scores.records())])


def too_good(result: Result) -> str:
    """What cross-fitting says of scores whose thresholds or presence were chosen on the same images."""
    chosen = "thresholds or presence were chosen on these images, which makes their scores too good"
    return f"{chosen}; {cross_fitted_line(result)}"


def image_rows(scores) -> list[dict]:
    """Rows of per_image.csv; a score that is not defined is an empty cell."""
    columns = {name: column.tolist() for name, column in scores.per_image().items()}
    rows = zip(*columns.values(), strict=True)
    return [
        {"image": image, **{name: "" if v != v else v for name, v in zip(columns, row, strict=True)}}
        for image, row in zip(scores.names, rows, strict=True)
    ]
