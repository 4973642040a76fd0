"""Log a training: a line per epoch, TensorBoard scalars, pictures and settings."""

import contextlib
import logging
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np

from segtrain.errors import DiskError
from segtrain.metrics.metric import Metric
from segtrain.metrics.records import LOSS
from segtrain.report import charts, pictures
from segtrain.report.text import Printable, score_text, share, table

log = logging.getLogger("segtrain")

WAITED, LONG = 0.1, 10  # share of an epoch's time, and seconds of it, from which waiting for images is worth a word
_FIRST = ("loss", "loss.alpha", "weighting", "sampling", "seed")  # columns of a table of runs
_COMPARED = (*_FIRST, "model", "optimizer", "schedule", "augment.size", "loader.batch_size")


def log_to_screen(file: Path | None = None, only_warnings: bool = False) -> None:
    """Show log lines, or warnings alone, and append all lines to `file`; Hydra does this for the jobs it starts."""
    handlers = _handlers(file)
    handlers[0].setLevel(logging.WARNING if only_warnings else logging.INFO)
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)  # in place of those of a run before


@contextlib.contextmanager
def logged_to(file: Path):
    """Within this, log lines are shown and appended to `file`; for a call from Python, whose logging stays as it was."""
    handlers, level = _handlers(file), log.level
    for handler in handlers:
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


def _handlers(file: Path | None) -> list[logging.Handler]:
    handlers = [logging.StreamHandler(), *([logging.FileHandler(file)] if file is not None else [])]
    for handler in handlers:
        handler.setFormatter(Printable("%(message)s"))
    return handlers


class Logger:
    """Tells of each epoch on screen and in TensorBoard; a context manager.

    Args:
        folder: the run's folder.
        dataset: the validation images, for pictures.
        scores: the metric, whose records have the tags.
        epochs: of the whole training.
        first_step: when a run is resumed, events from here on are dropped.
        faster: what may help when the network waits for images.
    """

    def __init__(
        self, folder: Path, dataset, scores: Metric, epochs: int, first_step: int | None = None, faster: str = ""
    ):
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._dataset, self._epochs, self._faster = folder, dataset, epochs, faster
        self._records = {**scores.records(), LOSS.name: LOSS}
        # One tag for the best epoch of each: what a table of runs compares.
        background = None if dataset.background is None else dataset.class_names[dataset.background]
        of_iou = [score for score in scores.records().values() if score.kind == "iou"]
        # HPARAMS shows the first ones: the background comes last.
        of_iou.sort(key=lambda score: score.class_name is not None and score.class_name == background)
        self._of_best = {score.name: f"best/{score.name}" for score in of_iou}
        self._writer = SummaryWriter
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
        self._started, self._shown = time.monotonic(), 0

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(OSError):  # of a disk that is full, which was said
            self._board.close()

    def show(self, epoch, best: float | None) -> None:
        """A line to the log; scalars and pictures to TensorBoard; of the best epoch, plots/examples.png.

        Args:
            best: the monitored score of the best epoch so far.
        """
        row = epoch.row()
        log.info(
            f"epoch {epoch.number:>3}/{self._epochs}  train loss {row['train/loss']:.4f}  val loss {row['val/loss']:.4f}"
            f"  {epoch.monitor.name} {score_text(epoch.value, epoch.monitor.unit)}  {epoch.images_per_second:.1f} images/s"
            f"  data wait {100 * epoch.data_wait:.0f} %{self._time_left(epoch.number)}"
        )
        if self._faster and epoch.data_wait > WAITED and epoch.seconds > LONG:
            log.warning(f"the network waited for images: {self._faster} may help")
            self._faster = ""
        if epoch.profile is not None:
            rows = [[name, str(calls), f"{each:.2f}", share(part)] for name, calls, each, part in epoch.profile.rows()]
            title = "time of each part alone, with the host waiting for it; trace.json:"
            log.info(table(["part", "times", "ms each", "share"], rows, title))
        try:
            self._draw(epoch, {**row, "best": best})
            self._board.flush()
        except (OSError, DiskError) as error:  # such as a full disk, with which the training goes on
            log.warning(f"TensorBoard, plots/ or trace.json are incomplete for epoch {epoch.number}: {error}")
            with contextlib.suppress(OSError):  # still full: the next epoch tries again
                self._board = self._writer(str(self._folder / "tensorboard"))  # the thread of the old one has ended

    def _time_left(self, number: int) -> str:
        """Of the whole training, in words, where it is a minute or more."""
        self._shown += 1
        seconds = (time.monotonic() - self._started) / self._shown * (self._epochs - number)
        return f"  {seconds / 60:.0f} min left" if seconds >= 60 else ""

    def _draw(self, epoch, row: dict) -> None:
        if epoch.profile is not None:
            epoch.profile.write_trace(self._folder / "trace.json")
        tags = {f"val/{name}": score.tag for name, score in self._records.items()}
        tags |= {f"train/loss/{name}": f"loss/train_{name}" for name in epoch.losses} | {"train/loss": "loss/train"}
        tags |= {name: f"run/{name}" for name in ("lr", "seconds", "images_per_second", "best")}
        for key, value in row.items():
            if key in tags and value is not None and value == value:
                self._board.add_scalar(tags[key], value, epoch.step)
        for name, tag in self._of_best.items() if epoch.best is not None else ():
            if (value := row.get(f"val/{name}")) is not None and value == value:
                self._board.add_scalar(tag, value, epoch.step)
        if epoch.best is not None and "confusion" in epoch.best.counts and not self._dataset.multilabel:
            picture = charts.confusion_matrix(epoch.best.counts["confusion"], self._dataset.class_names)
            self._picture("confusion matrix", picture, epoch.step)
        if epoch.predictions:
            rows = [pictures.with_masks(self._dataset, i, [found]) for i, found in epoch.predictions.items()]
            picture = pictures.figure(rows, ["image", "ground truth", "prediction"], self._dataset)
            self._picture("image | ground truth | prediction", picture, epoch.step)
            if epoch.best is not None:
                pictures.write_png(picture, self._folder / "plots" / "examples.png")

    def settings(self, config: dict, given: Collection[str] = ()) -> None:
        """For TensorBoard's HPARAMS page, in this run's own event file: the settings one compares and the scores of the
        best epoch.

        Args:
            config: values by dotted key, and by group the option that was chosen, where it is known.
            given: keys of more settings to compare, such as those of the command line.
        """
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
        from torch.utils.tensorboard.summary import hparams

        plain = {}
        for key, value in sorted(config.items()):  # an option comes before the class that it names
            name = key.removesuffix("._target_")
            if (
                name not in plain
                and key.startswith((*_COMPARED, *given))
                and not key.endswith(("class_weights", "pos_weight"))
            ):
                value = str(value).rpartition(".")[2] if name != key else value
                plain[name] = value if isinstance(value, int | float | str | bool) else str(value)
        scored = dict.fromkeys(["run/best", *self._of_best.values()], 0.0)  # the scalars of these names
        plain.setdefault("loss.alpha", 0.0)  # of a loss without a second term; a run that lacks a column is left out
        columns, *summaries = hparams(plain, scored)
        content = columns.value[0].metadata.plugin_data
        table = HParamsPluginData.FromString(content.content)
        for column in table.experiment.hparam_infos:
            column.differs = column.name in _FIRST  # such columns are shown first
        content.content = table.SerializeToString()
        for summary in (columns, *summaries):
            self._board.file_writer.add_summary(summary)

    def _picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """uint8 [H, W, 3] to TensorBoard."""
        self._board.add_image(name, picture, step, dataformats="HWC")
