"""`segtrain predict RUN IMAGES… --out DIR`: masks, overlays and a table for images without ground truth.

IMAGES are files, folders or patterns ('scans/*.tif'). Windows, flips, thresholds and presence are the run's
inference.* and can be given. A damaged file is named and left out, with exit code 3 at the end; a call that was stopped
goes on where it was.

Example: segtrain predict outputs/folder/RUN 'scans/*.tif' --out predicted
"""

import argparse
import glob
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from segtrain.commands.evaluate import choose_presence, predictor_of, thresholds_of
from segtrain.config.schema import flat
from segtrain.data.augment import LARGEST_CROP
from segtrain.data.folder.images import MAX_PIXELS
from segtrain.data.inputs import LARGE, THREADS, ImageReader, find_images
from segtrain.dataset_check.samples import DARK
from segtrain.errors import ConfigError, DataError, counted, few, printable
from segtrain.files import read_json, read_rows, remove_parts, write_json, write_rows
from segtrain.inference import Prediction, Predictor
from segtrain.report.logger import log_to_screen
from segtrain.report.predictions import mask_files, row_of, shrunk, write_mask, write_overlay, write_probabilities
from segtrain.runs.trained import Classes, Trained, classes_of, load
from segtrain.signals import leave_if_stopped, watched
from segtrain.training.memory import free_memory
from segtrain.training.progress import Progress

log = logging.getLogger("segtrain")

FILE = "predict.json"  # what made the predictions in a folder
SMALLEST_WINDOW = 512  # where the run has none: windows are its training images or crops, but no smaller
MATTERS = ("inference.", "trainer.device", "trainer.precision")
MATTERS += ("dataset.image_range", "dataset.exif", "dataset.max_pixels")
SAVED_EVERY = 10.0  # seconds, of predictions.csv


def main(words: list[str]) -> int:
    arguments, images, overrides = parse(words)
    log_to_screen()
    files = find_images(images, leave_out=own_folder(arguments.out))
    trained = load(str(arguments.run), arguments.checkpoint, arguments.trust, overrides)
    predictor, classes = prepared(trained)
    refuse_inputs(arguments.out, files)
    before = rows_before(arguments, trained)
    done = {name for name, row in before.items() if name in files and is_done(arguments.out, row, files[name], classes)}
    if done:
        log.info(f"{len(done)} of {counted(len(files), 'image')} done before")
    with watched():
        rows, damaged = predict_all(arguments, trained, predictor, classes, files, before, done)
    found = [f"{name} in {sum(row[f'present/{name}'] for row in rows)}" for name in classes.class_names]
    left_out = f", {len(damaged)} left out" if damaged else ""
    print(printable(f"{counted(len(rows), 'image')}{': ' * bool(rows)}{', '.join(found) if rows else ''}{left_out}"))
    print(printable(f"written to {arguments.out}"))
    for error in damaged:
        log.error(printable(str(error)))
    return DataError.exit_code if damaged else 0


def prepared(trained: Trained) -> tuple[Predictor, Classes]:
    """The predictor of a run, with the thresholds, the presence and the size of images that its result asks for."""
    cfg = trained.config
    if threshold := thresholds_of(trained):
        cfg.inference.threshold = threshold
    if cfg.inference.presence == "best":
        choose_presence(trained, bool(threshold))
    cfg.inference.resize = cfg.inference.resize or cfg.dataset.get("resize")
    classes = classes_of(trained)
    return predictor_of(trained, classes), classes


def parse(words: list[str]) -> tuple[argparse.Namespace, list[str], list[str]]:
    """The arguments, the images, and the settings among the words."""
    usage = "segtrain predict RUN IMAGE… --out DIR [inference.key=value …] [--probabilities] [--no-overlays]"
    parser = argparse.ArgumentParser(
        prog="segtrain predict", usage=usage, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, patterns; and inference.key=value")
    parser.add_argument("--out", type=named, required=True, metavar="DIR", help="folder for what is written")
    parser.add_argument("--probabilities", action="store_true", help="write float16 [C, H, W] of each image, too")
    parser.add_argument("--no-overlays", action="store_true", help="masks and the table only")
    parser.add_argument("--checkpoint", default="best", choices=["best", "last"])
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="allow classes of this package")
    arguments = parser.parse_intermixed_args(words)
    overrides = [w for w in arguments.images if "=" in w and not Path(w).exists() and not glob.glob(w, recursive=True)]
    images = [w for w in arguments.images if w not in overrides]
    refuse_idle(overrides)
    if not images:
        raise ConfigError("no image is named", fix=usage)
    return arguments, images, overrides


def refuse_idle(overrides: list[str]) -> None:
    """Raise ConfigError for a setting that does not matter to predictions."""
    if idle := [word for word in overrides if not word.startswith(MATTERS)]:
        key = idle[0].partition("=")[0]
        raise ConfigError(f"{key} does not matter to predict", idle[0], f"keys: {', '.join(MATTERS)}")


def named(word: str) -> Path:
    """A folder; "" would be the current one."""
    if not word:
        raise argparse.ArgumentTypeError("no folder is named")
    return Path(word)


def own_folder(out: Path) -> Path | None:
    """`out`, when an earlier call has written into it."""
    return out.resolve() if read_json(out / FILE) else None


def refuse_inputs(out: Path, files: dict[str, Path]) -> None:
    """Raise ConfigError when what is written might replace an image that is read, or other files."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file", "--out", "name a folder")
    written = {(out / kind).resolve() for kind in ("masks", "overlays", "probabilities")}
    for file in files.values():
        if written & {*file.resolve().parents}:
            raise ConfigError(f"{file} lies where predictions are written", "--out", "choose another folder")
    if own_folder(out) is None:
        there = [
            path.name for path in (*written, out / "predictions.csv", out / FILE, out / "config.yaml") if path.exists()
        ]
        if there:
            what = f"it holds {', '.join(sorted(there))}, which segtrain predict has not written"
            raise ConfigError(what, f"--out {out}", "choose a new folder")


def rows_before(arguments, trained: Trained) -> dict[str, dict]:
    """Rows of predictions.csv that calls with the same run and settings wrote before; by name.

    Raises ConfigError for a folder with predictions of another run or of other settings.
    """
    out, inference = arguments.out, {k: v for k, v in flat(trained.config).items() if k.startswith(MATTERS)}
    weights = (arguments.run / "checkpoints" / f"{arguments.checkpoint}.pt").read_bytes()
    request = {
        "weights": hashlib.blake2b(weights, digest_size=8).hexdigest(),
        "settings": inference,
        "probabilities": arguments.probabilities,
    }
    request["overlays"] = not arguments.no_overlays
    remove_parts(out)
    before = read_json(out / FILE)
    if before and {key: before.get(key) for key in request} != request:
        raise ConfigError("it holds predictions of another run, or of other settings", str(out), "choose another --out")
    write_json(out / FILE, {"run": str(arguments.run), **request})
    return {row["name"]: as_numbers(row) for row in read_rows(out / "predictions.csv")} if before else {}


def is_done(out: Path, row: dict, file: Path, classes) -> bool:
    """Whether an image was predicted as it is now, and its masks are there. Raises ConfigError for another of its name."""
    status = file.stat()
    same = (row.get("bytes"), row.get("modified")) == (status.st_size, status.st_mtime_ns)
    if not same and Path(row["image"]).resolve() != file.resolve():
        what = f"{row['image']} was predicted under the name of {file}"
        raise ConfigError(what, str(out), "choose another --out")
    return same and all(mask.is_file() for mask in mask_files(out, row["name"], classes))


def predict_all(
    arguments,
    trained: Trained,
    predictor: Predictor,
    classes: Classes,
    files: dict[str, Path],
    rows: dict[str, dict],
    done: set[str],
) -> tuple[list[dict], list[DataError]]:
    """Predict what is not done; returns the rows of `files`, and the errors of those that cannot be read.

    Decoding before and writing after the network are done by threads, while it works on the images between.
    """
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
                    found, shown = predicted(arguments, trained, predictor, classes, name, image, progress)
                except DataError as error:
                    damaged.append(error.with_traceback(None))  # which holds the image
                    found = None
                dark += [name] if isinstance(image, np.ndarray) and image.max() <= DARK else []
                del image  # before the next large one is read
                if found is not None:
                    pending.append((name, writer.submit(write, out, name, files[name], classes, shown, found)))
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
        what = f"{counted(len(dark), 'image')} with no value above {DARK} of 255 ({few(dark, 3)})"
        log.warning(f"{what}: for 10 or 12 bits where training had 8, give dataset.image_range=[0,4095]")
    return [rows[name] for name in files if name in rows], damaged


def predicted(
    arguments, trained: Trained, predictor: Predictor, classes: Classes, name: str, image, progress: Progress
) -> tuple[Prediction, np.ndarray | None]:
    """What is found in an image, and the pixels of its overlay. Raises DataError for one that is damaged or too large."""
    if isinstance(image, DataError):
        raise image
    set_window(predictor, trained, image)
    check_memory(predictor, image, len(classes.class_names), arguments.probabilities)
    found = predictor.image(image, arguments.probabilities, after_rows(name, image.shape[0], progress))
    return found, None if arguments.no_overlays else shrunk(image)


def after_rows(name: str, height: int, progress: Progress) -> Callable[[int], None]:
    """What is called between the rows of an image: it shows how far it is, and leaves after a stop signal."""

    def shown(rows: int) -> None:
        leave_if_stopped()
        if progress.due():
            progress.show(name if rows == height else f"{name} {rows / height:.0%}")

    return shown


def check_memory(predictor: Predictor, image, num_classes: int, probabilities: bool) -> None:
    """Raise DataError for a large image of which more would be in memory than there is."""
    of_all_rows = list(predictor.inference.scales) != [1.0] and predictor.inference.resize is None
    pixels = image.shape[0] * image.shape[1]
    needed = pixels * num_classes * (8 * of_all_rows + 4 * probabilities)
    free = free_memory(torch.device("cpu"))
    if pixels > LARGE and free is not None and needed > free:
        what = "inference.scales" if of_all_rows else "--probabilities"
        raise DataError(
            f"{image.shape[0]}×{image.shape[1]} pixels with {what} take at least {needed / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free",
            what,
            "leave it out, or cut the image",
        )


def write(out: Path, name: str, file: Path, classes, shown: np.ndarray | None, found: Prediction) -> dict:
    """Write what was found in an image, over `shown` unless it is None; returns its row of predictions.csv."""
    write_mask(out, name, found.mask, classes)
    if shown is not None:
        write_overlay(out, name, shown, found.mask, classes)
    if found.probabilities is not None:
        write_probabilities(out, name, found.probabilities)
    return row_of(name, file, found.mask, found.confidence, classes)


def as_numbers(row: dict[str, str]) -> dict:
    """A row of predictions.csv as it was written."""
    whole = ("pixels/", "present/", "bytes", "modified")
    return {key: int(value) if key.startswith(whole) else value for key, value in row.items()}


def reader_of(trained: Trained) -> ImageReader:
    """What reads an image as the run's dataset would."""
    dataset = trained.config.dataset
    limits, exif = dataset.get("image_range"), dataset.get("exif", "apply") == "apply"
    return ImageReader(trained.channels, limits and tuple(limits), exif, dataset.get("max_pixels") or MAX_PIXELS)


def set_window(predictor: Predictor, trained: Trained, image) -> None:
    """Windows for a large image of a run without, so that memory does not grow with it; said once."""
    own = trained.config.inference.window
    large = own is None and predictor.inference.resize is None and image.shape[0] * image.shape[1] > LARGE
    crop = trained.config.augment.get("size")
    sides = trained.image_size or [0, 0] if crop in (None, "auto") else crop
    sides = [min(side, LARGEST_CROP) for side in sides] if crop == "auto" else sides
    window = [max(SMALLEST_WINDOW, side) for side in sides]
    if large and predictor.inference.window is None:
        log.info(f"images of more than {LARGE:,} pixels are predicted in windows of {window} (inference.window)")
    predictor.inference.window = window if large else own
