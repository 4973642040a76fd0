"""A run's folder: settings, environment, counts, checkpoints, metrics and result."""

import csv
import logging
import re
import time
import traceback
from pathlib import Path

from segtrain.errors import ConfigError, DiskError, Preempted, SegtrainError
from segtrain.runs.environment import start
from segtrain.runs.files import (
    read_arrays,
    read_checkpoint,
    read_json,
    write_arrays,
    write_checkpoint,
    write_json,
    write_rows,
    write_text,
)
from segtrain.runs.result import Result, per_class_rows

log = logging.getLogger("segtrain")


def make_run_folder(folder: Path) -> Path:
    """Make the folder of a new run. Raises ConfigError when it holds a run, DiskError when it cannot be made.

    A run that ended before its first checkpoint may be started again in its folder.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            if any((folder / name).exists() for name in ("checkpoints", "metrics.csv", "multirun.yaml")):
                fix = f"name another folder, or `segtrain resume {folder}`"
                raise ConfigError("the run folder holds a run already", str(folder), fix) from None
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise DiskError(
            f"the output folder cannot be written: {error.strerror}",
            str(folder),
            "set hydra.run.dir (with -m: hydra.sweep.dir)",
        ) from error
    return folder


class RunFolder:
    """Writes the files of one run. As a context it records how the run ended, in result.json and segtrain.log.

    Attributes:
        path, checkpoints, plots: folders.
        result: the content of result.json.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.checkpoints, self.plots = self.path / "checkpoints", self.path / "plots"
        self.result, self._rows = Result.read(self.path), []
        self._started = time.time() - self.result.seconds  # of the sessions before, when a run is resumed

    def __enter__(self) -> "RunFolder":
        self.result.error = None
        self._write_result("running")
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is None:
            return
        stopped = isinstance(error, KeyboardInterrupt | Preempted)
        hint = f"`segtrain resume {self.path}` goes on where this stopped" if self.can_be_resumed else ""
        if isinstance(error, Preempted):
            error.where, error.fix = str(self.path), hint or "start it again"
        elif stopped and hint:
            log.info(hint)
        if not stopped:
            # A sweep prints its first error only: the folder of the failed job must have the rest.
            with (self.path / "segtrain.log").open("a", encoding="utf-8") as stream:
                stream.write("".join(traceback.format_exception(kind, error, trace)))
        self.result.error = error.what if isinstance(error, SegtrainError) else repr(error)
        try:
            self._write_result("preempted" if stopped else "failed")
        except DiskError:
            log.error("result.json could not be written")

    @property
    def can_be_resumed(self) -> bool:
        return (self.checkpoints / "last.pt").is_file()

    def write_inputs(self, config_text: str, environment: dict, counts) -> None:
        """config.yaml, environment.json, class_counts.json (ClassCounts of the training split): written once."""
        write_text(self.path / "config.yaml", config_text)
        write_json(self.path / "environment.json", environment)
        write_json(self.path / "class_counts.json", counts.to_dict())

    def write_class_weights(self, target: str, class_names: list[str], weights: list[float] | None) -> None:
        """class_weights.json; `target` is the dotted name of the weighting: segtrain.weighting.LogRatio is log_ratio."""
        package, _, name = target.rpartition(".")
        scheme = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() if package == "segtrain.weighting" else target
        rows = zip(class_names, weights or [1.0] * len(class_names), strict=True)
        classes = [{"index": i, "name": name, "weight": float(weight)} for i, (name, weight) in enumerate(rows)]
        scheme = "none" if scheme == "no_weighting" else scheme
        write_json(self.path / "class_weights.json", {"scheme": scheme, "classes": classes})

    def save_last(self, content: dict) -> None:
        """What a run is resumed from. Raises DiskError."""
        write_checkpoint(self.checkpoints / "last.pt", content)

    def load_last(self, device) -> dict:
        """What save_last wrote; rows of metrics.csv that come after it are dropped, and environment.json has an entry more.

        Raises ConfigError when there is none, or it is damaged.
        """
        content = read_checkpoint(self.checkpoints / "last.pt", device)
        environment = read_json(self.path / "environment.json")
        environment["resumes"] = [*environment.get("resumes", []), start()]
        write_json(self.path / "environment.json", environment)
        self._rows = [r for r in _read_rows(self.path / "metrics.csv") if int(r["epoch"]) <= content["state"]["epoch"]]
        return content

    def record(self, epoch, class_names: list[str]) -> None:
        """Write what a segtrain.training Epoch gave: metrics.csv; when it is the best, best.pt, per_image.npz, result.json."""
        self._rows.append(epoch.row())
        write_rows(self.path / "metrics.csv", self._rows)
        if epoch.best is None:
            return
        weights = {"model": epoch.best.weights, "epoch": epoch.number, "step": epoch.step}
        write_checkpoint(self.checkpoints / "best.pt", weights)
        if epoch.best.counts:
            write_arrays(self.path / "per_image.npz", epoch.best.counts)
        self.result.best = {"epoch": epoch.number, "monitor": epoch.monitor.name, "value": epoch.value}
        self.result.lower_is_better, self.result.unit = not epoch.monitor.higher_is_better, epoch.monitor.unit
        self.result.scores = epoch.scores
        self.result.per_class = per_class_rows(epoch.best.per_class, class_names)
        self._write_result("running")

    def best_counts(self) -> dict:
        """The arrays of per_image.npz; {} when there is none."""
        file = self.path / "per_image.npz"
        return read_arrays(file) if file.is_file() else {}

    def best_weights(self, device) -> dict:
        """The state dict in best.pt."""
        return read_checkpoint(self.checkpoints / "best.pt", device)["model"]

    def finish(self) -> None:
        """Write the result as that of a finished run."""
        self._write_result("finished")

    def _write_result(self, status: str) -> None:
        self.result.status, self.result.seconds = status, round(time.time() - self._started, 2)
        self.result.write(self.path)


def _read_rows(file: Path) -> list[dict]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
