"""What a training tells while it runs: progress bar or lines, metrics.csv, TensorBoard."""

import csv
import logging
import sys
import time
from pathlib import Path

import numpy as np

log = logging.getLogger("segtrain")

_COMPARED = ("loss", "weighting", "model", "optimizer", "schedule", "augment.size", "loader.batch_size", "seed")
_LINE_SECONDS = 30  # between progress lines where no bar can be drawn


def log_to_screen(file: Path | None = None) -> None:
    """Show log lines, and append them to `file`; Hydra does this for the jobs it starts."""
    handlers = [logging.StreamHandler()] + ([logging.FileHandler(file)] if file is not None else [])
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers)


class Logbook:
    """Rows of metrics.csv and TensorBoard events below `folder`.

    Args:
        folder: the run's folder.
        first_epoch, first_step: when a run goes on, rows and events from here on are dropped.
    """

    def __init__(self, folder: Path, first_epoch: int = 0, first_step: int = 0):
        from torch.utils.tensorboard import SummaryWriter

        self._csv = Path(folder) / "metrics.csv"
        self._rows = [r for r in _read_rows(self._csv) if int(r["epoch"]) < first_epoch]
        self._board = SummaryWriter(str(Path(folder) / "tensorboard"), purge_step=first_step or None)

    def epoch(self, row: dict[str, float], monitor: str, epochs: int) -> None:
        """One row: written to metrics.csv, to TensorBoard and, with the score to watch, as a line to the log."""
        log.info(
            f"epoch {row['epoch'] + 1:>3}/{epochs}  train loss {row['train/loss']:.4f}  val loss {row['val/loss']:.4f}"
            f"  {monitor} {row[f'val/{monitor}']:.4f}  {row['images_per_second']:.1f} images/s"
        )
        self._rows.append(row)
        columns = list(dict.fromkeys(key for r in self._rows for key in r))
        part = self._csv.with_suffix(".part")
        with part.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(self._rows)
        part.replace(self._csv)
        for key, value in row.items():
            if key not in ("epoch", "step") and value == value:
                self._board.add_scalar(_tag(key), value, row["step"])
        self._board.flush()

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """uint8 [H, W, 3] to TensorBoard."""
        self._board.add_image(name, picture, step, dataformats="HWC")

    def settings(self, config: dict, best: float | None) -> None:
        """The settings one compares, for TensorBoard's HPARAMS page, in this run's own event file."""
        from torch.utils.tensorboard.summary import hparams

        plain = {}
        for key, value in config.items():
            if key.startswith(_COMPARED) and not key.endswith(("class_weights", "pos_weight")):
                name = key.removesuffix("._target_")
                value = str(value).rpartition(".")[2] if name != key else value
                plain[name] = value if isinstance(value, int | float | str | bool) else str(value)
        best = float("nan") if best is None else best
        for summary in hparams(plain, {"run/best": best}):
            self._board.file_writer.add_summary(summary)
        self._board.add_scalar("run/best", best, 0)

    def close(self) -> None:
        self._board.close()


class Progress:
    """A bar with loss, images per second and time left; a line now and then when not on a terminal."""

    def __init__(self, title: str, total: int, done: int = 0):
        from tqdm import tqdm

        self._terminal = sys.stderr.isatty()
        self._title, self._total, self._done, self._started = title, total - done, 0, time.time()
        self._last_line = self._started
        self._bar = tqdm(total=total, initial=done, desc=title, unit="image", leave=False, disable=not self._terminal)

    def due(self) -> bool:
        """Whether a fresh loss is worth fetching from the device."""
        return time.time() - self._last_line > (0.5 if self._terminal else _LINE_SECONDS)

    def advance(self, images: int, loss: float | None = None) -> None:
        self._done += images
        self._bar.update(images)
        if loss is None:
            return
        self._last_line = time.time()
        if self._terminal:
            self._bar.set_postfix_str(f"loss {loss:.4f}")
        else:
            rate = self._done / max(time.time() - self._started, 1e-9)
            left = (self._total - self._done) / max(rate, 1e-9)
            log.info(
                f"{self._title}: {self._done}/{self._total}, loss {loss:.4f}, {rate:.1f} images/s, {left:.0f} s left"
            )

    def close(self) -> None:
        self._bar.close()


def _tag(key: str) -> str:
    """TensorBoard groups by the word before the first slash: losses, means and each kind of score apart."""
    kind, _, rest = key.partition("/")
    if kind == "val" and rest in ("iou/mean", "iou/foreground", "dice/mean", "dice/foreground"):
        return f"means/{rest.replace('/', '_')}"
    if kind == "val" and "/" in rest:
        return rest
    if kind in ("train", "val"):
        return (
            f"loss/{kind}{rest.removeprefix('loss').replace('/', '_')}" if rest.startswith("loss") else f"means/{rest}"
        )
    return f"run/{key}"


def _read_rows(file: Path) -> list[dict]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
