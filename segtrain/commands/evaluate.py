"""`segtrain evaluate RUN [key=value …]`: score a finished run's best checkpoint again.

Scores, tables and a page of the largest errors are written to RUN/evaluation.

Example: segtrain evaluate outputs/folder/RUN metric=all inference.flips=[horizontal]
"""

import argparse
import hashlib
import logging
import math
import re
from pathlib import Path

import numpy as np
import torch

from segtrain.commands.parser import Parser
from segtrain.config.build import build, build_dataset, build_inference, build_loss, build_scores, check_presence
from segtrain.config.schema import flat
from segtrain.data.resize import resized_size
from segtrain.errors import ConfigError, counted, printable
from segtrain.files import write_arrays, write_json, write_rows
from segtrain.inference import Predictor, is_chosen, window_starts
from segtrain.metrics.tuning import NEVER
from segtrain.regions import Regions, spans, threshold_for
from segtrain.report.logger import log_to_screen
from segtrain.report.pages.evaluation import write_evaluation_page
from segtrain.report.pictures import example
from segtrain.report.scores import cross_fitted_line, means_line, more_tables, not_defined, scores_table
from segtrain.report.text import percent
from segtrain.runs.result import Result, per_class_rows
from segtrain.runs.trained import Trained, classes_of, load
from segtrain.training import evaluate, predict_one
from segtrain.training.progress import Progress

log = logging.getLogger("segtrain")

# Of the training alone, but for MATTERS.
IDLE = ("optimizer", "schedule", "augment", "sampling", "weighting", "labels", "trainer", "seed")
MATTERS = ("trainer.device", "trainer.precision", "trainer.val_batches")
UNNAMED = ("loader.", "trainer.device=")  # which change no score
SIZES_ALIKE = 1.5  # factor between the sides of evaluated and trained images; a larger one gives a warning


def main(words: list[str]) -> int:
    arguments = parse(words)
    log_to_screen()
    trained = load(str(arguments.run), arguments.checkpoint, arguments.trust, arguments.overrides, arguments.config_dir)
    if arguments.original_size:
        score_at_original_size(trained)
    if threshold := thresholds_of(trained):
        trained.config.inference.threshold = threshold
        values = ", ".join(f"{v:.3g}" for v in threshold)
        print(f"using the thresholds that maximised Dice on val: {values} (inference.threshold=0.5 for one half)")
    cross_fitted = choose_presence(trained, bool(threshold)) if is_chosen(trained.config.inference.presence) else {}
    scores, result, dataset, draw = evaluate_split(trained, arguments.split)
    if threshold and not cross_fitted:
        cross_fitted = scores.cross_fitted(groups_of(dataset, scores.names))
    result.cross_fitted = cross_fitted if arguments.split == "val" else None
    if arguments.bootstrap:
        result.intervals = scores.intervals(arguments.bootstrap)
    print(printable(text(scores, result, arguments.split)))
    named = [word for word in arguments.overrides if not word.startswith(UNNAMED)]
    settings = [*(["original-size"] if arguments.original_size else []), *named]
    request = {"split": arguments.split, "checkpoint": arguments.checkpoint, "settings": settings}
    out = arguments.run / "evaluation" / folder_name(**request)
    inference = {key.removeprefix("inference."): value for key, value in flat(trained.config).items()}
    chosen = {key: value for key, value in inference.items() if key.split(".")[0] in ("threshold", "presence")}
    found = {"scores": result.scores, "per_class": result.per_class, "intervals": result.intervals}
    if result.cross_fitted:
        found["cross_fitted"] = result.cross_fitted
    write_json(out / "scores.json", {**request, **chosen, **found})
    if counts := scores.state():
        counts["groups"] = np.array(groups_of(dataset, counts["names"].tolist()))
        write_arrays(out / "per_image.npz", counts)
        write_rows(out / "per_image.csv", image_rows(scores))
    title = f"{arguments.run}, {arguments.split}, {arguments.checkpoint} checkpoint"
    write_evaluation_page(out / "page.html", title, scores, result, dataset, draw)
    print(f"\nwritten to {out}")
    return 0


def parse(words: list[str]) -> argparse.Namespace:
    usage = (
        "segtrain evaluate RUN [key=value …] [--split SPLIT] [--checkpoint best|last] [--original-size] [--bootstrap N] "
        "[--config-dir DIR] [--trust PACKAGE]"
    )
    parser = Parser("segtrain evaluate", __doc__, usage)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="for example dataset.root=PATH")
    parser.add_argument("--split", default="val", choices=["train", "val", "test"])
    parser.add_argument("--checkpoint", default="best", choices=["best", "last"])
    parser.add_argument(
        "--original-size", action="store_true", help="of a run with dataset.resize: score the files' own masks"
    )
    parser.add_argument("--bootstrap", type=draws, default=1000, metavar="N", help="draws for the intervals; 0: none")
    parser.add_argument("--config-dir", metavar="DIR", help="where your own option of metric=NAME is")
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="allow classes of this package")
    arguments = parser.parse_intermixed_args(words)
    for word in arguments.overrides:
        key = word.partition("=")[0]
        group = key.split(".")[0]
        if group == "model":
            fix = f"leave it out, or train another: `segtrain {word} …`"
            raise ConfigError(f"{key}: the network is that of the run", word, fix)
        if group in IDLE and not word.startswith(MATTERS):
            fix = f"leave it out; of trainer, {', '.join(MATTERS)} matter"
            raise ConfigError(f"{key} does not matter to evaluate", word, fix)
    return arguments


def draws(text: str) -> int:
    """How often the bootstrap draws."""
    if not text.lstrip("-").isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of draws")
    number = int(text)
    if number != 0 and number < 20:
        raise argparse.ArgumentTypeError(f"{number} draws make no interval: give 0, or 20 and more")
    return number


def folder_name(split: str, checkpoint: str, settings: list[str]) -> str:
    """Name of the folder of an evaluation; long ones end in a hash."""
    words = [split, *(["last"] if checkpoint == "last" else []), *settings]
    name = "_".join(re.sub(r"[^\w.=,-]", "-", re.sub(r"[\[\]\s'\"]", "", word)) for word in words)
    return name if len(name) <= 120 else f"{name[:111]}_{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


def text(scores, result: Result, split: str) -> str:
    """What is printed: means, a table of the classes for each kind of score, and all others."""
    parts = [f"{len(scores.names)} {split} images:  {means_line(result.scores, scores.records(), result.intervals)}"]
    if result.cross_fitted:
        parts.append(
            f"thresholds or presence were chosen on these images, which makes their scores too good; {cross_fitted_line(result)}"
        )
    parts.append(
        "\n".join([scores_table(result.per_class, intervals=result.intervals), *not_defined(result.per_class)])
    )
    return "\n\n".join([*parts, *more_tables(result, scores.records())])


def image_rows(scores) -> list[dict]:
    """Rows of per_image.csv; a score that is not defined is an empty cell."""
    columns = {name: column.tolist() for name, column in scores.per_image().items()}
    rows = zip(*columns.values(), strict=True)
    return [
        {"image": image, **{name: "" if v != v else v for name, v in zip(columns, row, strict=True)}}
        for image, row in zip(scores.names, rows, strict=True)
    ]


def warn_of_other_sizes(trained: Trained, dataset, resize) -> None:
    """Say when the images are much larger or smaller than those of the training: the network knows other sizes of objects."""
    if trained.image_size is None:
        return
    here, there = resized_size(dataset.image(0).shape[:2], resize), trained.image_size
    times = math.sqrt(here[0] * here[1] / (there[0] * there[1]))
    if not 1 / SIZES_ALIKE < times < SIZES_ALIKE:
        log.warning(
            f"the images are {here[1]}×{here[0]}, those of the training {there[1]}×{there[0]}: when they show the same, objects "
            f"are {times:.2g} times as large as the network knows them; inference.resize=[{there[0]},{there[1]}] resizes them"
        )


def score_at_original_size(trained: Trained) -> None:
    """Resize images for the network alone: its logits are brought back to the size of the masks in the files."""
    cfg = trained.config
    if cfg.dataset.get("resize") is None:
        raise ConfigError("the run was not trained on resized images", "--original-size", "leave it out")
    cfg.inference.resize, cfg.dataset.resize = cfg.dataset.resize, None


def thresholds_of(trained: Trained) -> list[float] | None:
    """Of a multi-label run, the thresholds that maximised Dice on val; None when the config sets some."""
    found, names = trained.result.thresholds, [row["name"] for row in trained.result.per_class]
    if not found or trained.config.inference.threshold is not None:
        return None
    return [found.get(name, 0.5) for name in names]


def choose_presence(trained: Trained, thresholds: bool) -> dict[str, float]:
    """Set the presence of each class that is best on val; returns the scores with presence chosen on other images.

    Args:
        thresholds: whether the thresholds, too, were chosen on val.
    """
    cfg = trained.config
    if "groups" not in cfg.metric:
        raise ConfigError("presence is chosen by segtrain's own metric", "inference.presence", "take metric=detection")
    classes = classes_of(trained)
    if classes.background is None and not classes.multilabel:
        what, fix = "no class is the background, which absent classes become", "leave out inference.presence"
        raise ConfigError(what, "inference.presence", fix)
    asked, groups = build(cfg, "inference").presence, list(cfg.metric.groups)
    limit = {"false_alarms": asked["false_alarms"]} if isinstance(asked, dict) else {}
    cfg.inference.presence, cfg.metric.groups = None, ["thresholds"]
    scores, _, dataset, _ = evaluate_split(trained, "val")
    if limit and not any(scores.false_alarms()[0]):
        what = "no val image is without foreground, so that false alarms cannot be counted"
        raise ConfigError(what, "inference.presence", "take inference.presence=best")
    found = scores.best_presence(**limit)
    cfg.inference.presence, cfg.metric.groups = found, groups
    check_presence(found, dataset)
    rows = zip(scores.class_names, found["area"], found["confidence"], strict=True)
    needed = [f"{name} {_smallest(area, confidence)}" for name, area, confidence in rows if area]
    present = (
        f"it has so many pixels of at least this probability: {', '.join(needed)}" if needed else "it has any pixel"
    )
    print(f"presence chosen on val: a class counts as present where {present}")
    fitted = scores.cross_fitted(groups_of(dataset, scores.names), thresholds, presence=True, **limit)
    if (clean := fitted.get("specificity", math.nan)) == clean:
        most = f"at most {percent(limit['false_alarms'])} % of them were asked for; " if limit else ""
        print(
            f"val images without foreground: {most}with presence chosen on others {percent(1 - clean)} % have a false alarm"
        )
    return fitted


def _smallest(area: int, confidence: float) -> str:
    """Of a class, the pixels that make it present, as words."""
    if area == NEVER:
        return "never"
    return f"{counted(area, 'pixel')} at {100 * confidence:.{3 if confidence < 0.999 else 7}g} %"


def groups_of(dataset, names: list[str]) -> list[str]:
    """The scene or patient of each image; of names that are not the dataset's, each is alone."""
    groups = {name: dataset.group(index) for index, name in enumerate(dataset.names)}
    return [groups.get(name, name) for name in names]


def evaluate_split(trained: Trained, split: str):
    """The filled scores, the Result of them, the dataset, and (index, label) -> picture with errors."""
    cfg = trained.config
    dataset = build_dataset(cfg, split)
    trainer, scores = build(cfg, "trainer"), build_scores(cfg, dataset)
    loss = build_loss(cfg, dataset).to(trainer.device)
    loss.start_epoch(max(trained.epoch - 1, 0))  # of phases, the one that the checkpoint was validated with
    warn_of_other_sizes(trained, dataset, cfg.inference.resize)
    predictor = predictor_of(trained, dataset)
    batches = build(cfg, "loader").evaluation(dataset)
    limit = batches.num_images(trainer.val_batches)
    progress = Progress(split, limit)
    mean_loss = evaluate(predictor, batches, scores, loss, dataset.names, limit, progress.advance)
    progress.close()
    result = Result(scores={**scores.compute(), "loss": mean_loss})
    result.per_class = per_class_rows(scores.per_class(), dataset.class_names)

    def draw(index: int, label: int | None):
        return example(dataset, index, [predict_one(predictor, dataset.image(index))], True, label)

    return scores, result, dataset, draw


def predictor_of(trained: Trained, dataset) -> Predictor:
    """Of a run's network and inference settings, on the device its config names, for the classes of a dataset."""
    trainer, inference = build(trained.config, "trainer"), build_inference(trained.config, dataset)
    regions = regions_of(trained, trainer, inference, dataset)
    return trainer.predictor(trained.network.to(trainer.device), dataset, inference, regions)


def regions_of(trained: Trained, trainer, inference, classes) -> Regions | None:
    """The windows to look at, by the run that inference.regions names; its threshold is chosen on val.

    Args:
        classes: of the fine network.
    """
    if inference.regions is None:
        return None
    coarse = load(inference.regions, trust=trained.trusted)
    seen = classes_of(coarse)
    if seen.background is None and not seen.multilabel:
        raise ConfigError(
            "its dataset has no background", inference.regions, "name a run that tells foreground from it"
        )
    network, resize = coarse.network.to(trainer.device), coarse.config.dataset.get("resize")
    found = Regions(
        network, trainer.autocast, resize, seen.multilabel, seen.background, classes.num_classes, classes.background
    )
    val = build_dataset(trained.config, "val")
    values, pixels = [], []
    for index in range(len(val.names)):
        image, mask = torch.from_numpy(val.image(index)).permute(2, 0, 1)[None].to(trainer.device), val.mask(index)
        window = tuple(map(min, inference.window, mask.shape[:2]))
        starts = [window_starts(*side, inference.overlap) for side in zip(mask.shape[:2], window, strict=True)]
        values.append(found.highest(image, *starts, window)[0].cpu().numpy().ravel())
        there = mask.any(axis=2) if val.multilabel else ~np.isin(mask, (val.background, val.ignore_index))
        rows, columns = (spans(*side) for side in zip(starts, window, mask.shape[:2], strict=True))
        pixels.append([there[top:bottom, left:right].sum() for top, bottom in rows for left, right in columns])
    values, pixels = np.concatenate(values), np.concatenate(pixels)
    found.threshold = threshold_for(values, pixels, inference.region_recall)
    kept = values >= found.threshold
    recall = pixels[kept].sum() / max(pixels.sum(), 1)
    print(
        f"regions: windows are looked at where the coarse network's probability of foreground reaches "
        f"{100 * found.threshold:.3g} %: {100 * kept.mean():.1f} % of the windows of val, with {100 * recall:.2f} % of its foreground"
    )
    return found
