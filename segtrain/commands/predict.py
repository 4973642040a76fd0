"""`segtrain predict`: masks, overlays and a table for images without ground truth."""

import hashlib
import logging
import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from segtrain.commands.large_images import refuse_too_large, set_window
from segtrain.commands.parsers import PREDICT_MATTERS
from segtrain.commands.scoring import at_original_size, choose_presence, choose_thresholds, predictor_of
from segtrain.config.schema import flat
from segtrain.data.folder.images import MAX_PIXELS
from segtrain.data.inputs import LARGE, MARK, THREADS, WRITTEN, ImageReader, find_images, without_masks
from segtrain.dataset_check.samples import DARK
from segtrain.errors import ConfigError, DataError, DiskError, counted, few, printable
from segtrain.files import read_json, read_rows, remove_parts, write_json, write_rows
from segtrain.inference import Prediction, Predictor
from segtrain.report.logger import log_to_screen
from segtrain.report.pictures import legend, write_png
from segtrain.report.predictions import files_of, row_of, shrunk, write_mask, write_overlay, write_probabilities
from segtrain.runs.claim import lock
from segtrain.runs.trained import Classes, Trained, load
from segtrain.signals import leave_if_stopped, watched
from segtrain.training.progress import Progress

log = logging.getLogger("segtrain")

CHANGES_NOTHING = ("trainer.device", "dataset.max_pixels")  # in a prediction
LEGEND = 480  # pixels, the width of legend.png
SAVED_EVERY = 10.0  # seconds, of predictions.csv


def main(arguments: Namespace) -> int:
    log_to_screen()
    files = find_images(arguments.images)
    trained = load(str(arguments.run), arguments.checkpoint, arguments.trust, arguments.overrides)
    files = without_masks(files, trained.config.dataset.get("masks") or "")
    predictor, classes = prepared(trained), trained.classes
    refuse_inputs(arguments.out, files)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"cannot be made: {error.strerror}", str(arguments.out), "choose another folder") from error
    lock(arguments.out)
    before = without_renamed(arguments.out, rows_before(arguments, trained), files, classes)
    kinds = not arguments.no_overlays, arguments.probabilities
    known = {name: row for name, row in before.items() if name in files}
    done = {name for name, row in known.items() if is_done(arguments.out, row, files[name], classes, *kinds)}
    if done:
        log.info(f"{len(done)} of {counted(len(files), 'image')} done before")
    with watched():
        rows, damaged = predict_all(arguments, trained, predictor, files, before, done)
    if not arguments.no_overlays:
        write_png(legend(classes, LEGEND), arguments.out / "legend.png")
    found = [f"{name} in {sum(row[f'present/{name}'] for row in rows)}" for name in classes.class_names]
    left_out = f", {len(damaged)} left out" if damaged else ""
    print(printable(f"{counted(len(rows), 'image')}{': ' * bool(rows)}{', '.join(found) if rows else ''}{left_out}"))
    print(printable(f"written to {arguments.out}"))
    for error in damaged:
        log.error(printable(str(error)))
    return DataError.exit_code if damaged else 0


def prepared(trained: Trained) -> Predictor:
    """The predictor of a run, with the thresholds, the presence and the size of images that its result asks for."""
    at_original_size(trained.config)  # before presence is chosen: its areas are of the images as they will be predicted
    choose_presence(trained, thresholds=bool(choose_thresholds(trained)))
    return predictor_of(trained, trained.classes)


def refuse_inputs(out: Path, files: dict[str, Path]) -> None:
    """Raise ConfigError when what is written might replace an image that is read, or other files."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file", "--out", "name a folder")
    written = {(out / kind).resolve() for kind in WRITTEN}
    if out.resolve() in {file.resolve().parent for file in files.values()}:
        raise ConfigError(
            f"the images to predict are in {out}", "--out", f"choose another folder, such as {out}/predicted"
        )
    for file in files.values():
        if written & {(real := file.resolve()), *real.parents}:
            raise ConfigError(f"{file} is in a folder where predictions are written", "--out", "choose another folder")
    if not read_json(out / MARK):
        others = [out / name for name in ("predictions.csv", MARK, "config.yaml")]
        if there := [path.name for path in (*written, *others) if path.exists()]:
            what = f"it holds {', '.join(sorted(there))}, which segtrain predict did not write"
            raise ConfigError(what, f"--out {out}", "choose a new folder")


def rows_before(arguments, trained: Trained) -> dict[str, dict]:
    """Rows of predictions.csv that calls with the same run and settings wrote before; by name.

    Raises ConfigError for a folder with predictions of another run or of other settings.
    """
    out, settings = arguments.out, flat(trained.config)
    settings = {k: v for k, v in settings.items() if k.startswith(PREDICT_MATTERS) and k not in CHANGES_NOTHING}
    request = {"weights": weights_of(arguments.run, arguments.checkpoint), "settings": settings}
    if regions := settings.get("inference.regions"):
        request["regions"] = weights_of(Path(regions), "best")
    remove_parts(out)
    before = read_json(out / MARK)
    if before and (different := [key for key in request if before.get(key) != request[key]]):
        known = before.get("settings") or {}
        if "settings" in different:
            different.remove("settings")
            different += [key for key in settings if known.get(key) != settings[key]]
        what = f"it holds predictions of another run, or of other settings ({', '.join(different)})"
        raise ConfigError(what, str(out), "choose another --out")
    write_json(out / MARK, {"run": str(arguments.run), **request})
    rows = read_rows(out / "predictions.csv") if before else []
    return {row["name"]: row for row in (as_numbers(row, trained.classes.class_names) for row in rows) if row}


def weights_of(run: Path, checkpoint: str) -> str:
    """A hash of a checkpoint."""
    return hashlib.blake2b((run / "checkpoints" / f"{checkpoint}.pt").read_bytes(), digest_size=8).hexdigest()


def without_renamed(out: Path, rows: dict[str, dict], files: dict[str, Path], classes: Classes) -> dict[str, dict]:
    """Rows without those of images that were named with their suffix and now are not, or the other way round.

    An image is named without it, unless another one of the call has the same stem. What was written under the name
    before is deleted; that of a call that named the image by another folder stays.
    """
    names = {file.resolve(): Path(name) for name, file in files.items()}
    kept = dict(rows)
    for name, row in rows.items():
        before, now = Path(name), names.get(Path(row["image"]).resolve(), Path(name))
        if before != now and (before == now.with_suffix("") or before.with_suffix("") == now):
            del kept[name]
            for file in files_of(out, name, classes, overlays=True, probabilities=True):
                file.unlink(missing_ok=True)
    return kept


def is_same(row: dict, file: Path) -> bool:
    """Whether a row is of an image as it is now."""
    status = file.stat()
    return (row.get("bytes"), row.get("modified")) == (status.st_size, status.st_mtime_ns)


def is_done(out: Path, row: dict, file: Path, classes: Classes, overlays: bool, probabilities: bool) -> bool:
    """Whether an image was predicted as it is now, and its files are there. Raises ConfigError for another of its name."""
    same = is_same(row, file)
    if not same and Path(row["image"]).resolve() != file.resolve():
        what = f"{row['image']}, which has the same name as {file}, was predicted into this folder"
        raise ConfigError(what, str(out), "choose another --out")
    return same and all(file.is_file() for file in files_of(out, row["name"], classes, overlays, probabilities))


def predict_all(
    arguments, trained: Trained, predictor: Predictor, files: dict[str, Path], rows: dict, done: set
) -> tuple[list[dict], list[DataError]]:
    """Predict what is not done; returns the rows of `files`, and the errors of those that cannot be read.

    Decoding before and writing after the network are done by threads, while it works on the images between.
    """
    kept = {name for name, row in rows.items() if name in files and is_same(row, files[name])}
    rows = {name: row for name, row in rows.items() if name not in files or name in done}
    pending: deque[tuple[str, Future]] = deque()
    damaged, dark, saved_at, out = [], [], time.monotonic(), arguments.out
    missing = {name: file for name, file in files.items() if name not in done}
    progress = Progress("predict", len(files), len(done))

    def save() -> None:
        others = [row for name, row in rows.items() if name not in files]  # of calls before
        write_rows(out / "predictions.csv", [*others, *(rows[name] for name in files if name in rows)])

    with ThreadPoolExecutor(THREADS) as writer:
        try:
            for name, image in reader_of(trained).ahead(missing):
                leave_if_stopped()
                try:
                    found, shown = predicted(arguments, trained, predictor, name, image, progress)
                except DataError as error:
                    damaged.append(error.with_traceback(None))  # which holds the image
                    found = None
                if isinstance(image, np.ndarray) and image.max() <= DARK:
                    dark.append(name)
                del image  # before the next large one is read
                if found is not None:
                    written = writer.submit(write, out, name, files[name], trained.classes, shown, found, name in kept)
                    pending.append((name, written))
                    height, width = found.mask.shape[-2:]
                    while len(pending) > (1 if height * width > LARGE else THREADS):  # in memory until they are written
                        before, written = pending.popleft()
                        rows[before] = written.result()
                progress.advance(1)
                if time.monotonic() - saved_at > SAVED_EVERY:
                    save()
                    saved_at = time.monotonic()
            for _, written in pending:
                written.result()  # or why it was not written
        finally:
            rows |= {before: written.result() for before, written in pending if written.exception() is None}
            save()
            progress.close()
    if dark:
        warn_of_dark(dark, trained.config.dataset)
    return [rows[name] for name in files if name in rows], damaged


def warn_of_dark(images: list[str], dataset) -> None:
    """Name images that may have other values than the network was trained with; `dataset`: the config of the run's."""
    what = f"{counted(len(images), 'image')} with no value above {DARK} of 255 ({few(images, 3)})"
    if given := dataset.get("image_range"):
        log.warning(
            f"{what}, scaled by dataset.image_range={list(given)} of the training: give the range of these images"
        )
        return
    way = "give dataset.image_range=[0,4095]" if "image_range" in dataset else "scale them to 8 bits"
    log.warning(f"{what}. If they have 10 or 12 bits and the training images 8, {way}")


def predicted(
    arguments, trained: Trained, predictor: Predictor, name: str, image, progress: Progress
) -> tuple[Prediction, np.ndarray | None]:
    """What is found in an image, and the pixels of its overlay. Raises DataError for one that is damaged or too large."""
    if isinstance(image, DataError):
        raise image
    set_window(predictor, trained, image)
    refuse_too_large(predictor, image, trained.classes.num_classes, arguments.probabilities)
    found = predictor.image(image, arguments.probabilities, after_rows(name, image.shape[0], progress))
    return found, None if arguments.no_overlays else shrunk(image)


def after_rows(name: str, height: int, progress: Progress) -> Callable[[int], None]:
    """A callback after each band of rows: it shows the progress, and leaves after a stop signal."""

    def shown(rows: int) -> None:
        leave_if_stopped()
        if progress.due():
            progress.show(name if rows == height else f"{name} {rows / height:.0%}")

    return shown


def write(out: Path, name: str, file: Path, classes, shown: np.ndarray | None, found: Prediction, keep: bool) -> dict:
    """Write what was found in an image, over `shown` unless it is None; returns its row of predictions.csv.

    Args:
        keep: what earlier calls wrote that this one does not ask for; it is deleted where it is of another image.
    """
    write_mask(out, name, found.mask, classes)
    if shown is not None:
        write_overlay(out, name, shown, found.mask, classes)
    if found.probabilities is not None:
        write_probabilities(out, name, found.probabilities)
    written = files_of(out, name, classes, shown is not None, found.probabilities is not None)
    for before in files_of(out, name, classes, overlays=True, probabilities=True):
        if before not in written and not keep:
            before.unlink(missing_ok=True)
    return row_of(name, file, found.mask, found.confidence, classes)


def as_numbers(row: dict[str, str], class_names: list[str]) -> dict:
    """A row of predictions.csv as it was written; empty for one that something else has changed."""
    whole = ("pixels/", "present/", "bytes", "modified")
    if not {"name", "image", "bytes", "modified", *(f"present/{name}" for name in class_names)} <= row.keys():
        return {}
    try:
        return {key: int(value) if key.startswith(whole) else value for key, value in row.items()}
    except (TypeError, ValueError, AttributeError):  # the last of a row with more cells than names
        return {}


def reader_of(trained: Trained) -> ImageReader:
    """What reads an image as the run's dataset would."""
    dataset = trained.config.dataset
    limits, exif = dataset.get("image_range"), dataset.get("exif", "apply") == "apply"
    return ImageReader(trained.channels, limits and tuple(limits), exif, dataset.get("max_pixels") or MAX_PIXELS)
