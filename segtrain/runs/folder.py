"""A run's folder: settings, environment, counts, checkpoints, metrics and result.

`checkpoints/last.pt` holds all that a run is resumed from, the rows of metrics.csv and the result included: those files
are written anew from it, so that they say what it says wherever a run was killed.
"""

import logging
import re
import shlex
import time
import traceback
from dataclasses import asdict
from pathlib import Path

import numpy as np

from segtrain.config.saved import settings_in
from segtrain.config.schema import as_text
from segtrain.errors import ConfigError, DataError, DiskError, NotFinite, OutOfMemory, Preempted, Pruned, SegtrainError
from segtrain.files import read_arrays, read_json, remove_parts, write_arrays, write_json, write_rows, write_text
from segtrain.runs import checkpoints
from segtrain.runs.claim import lock, refuse_links, remove_run_folder, unlock
from segtrain.runs.environment import changed_settings, signature, start, trained_on
from segtrain.runs.result import Result

log = logging.getLogger("segtrain")

DISK_FAILURES = 3  # in a row end a run
BEFORE_TRAINING = {".hydra", ".lock", "segtrain.log", "class_counts.json", "class_weights.json"}
BEFORE_TRAINING |= {"config.yaml", "environment.json", "result.json"}


class RunFolder:
    """Reads and writes the files of one run, which no other process may do meanwhile.

    As a context it records how the run ended, in result.json and segtrain.log; after a mistake before the training the
    folder of a new run is removed.

    Args:
        path: an existing folder.
        allowed: settings that may differ when the run is resumed; `dataset` for its files.

    Attributes:
        checkpoints: their folder.
        result: the content of result.json.
        changed: settings by dotted key that differ from config.yaml since the run was resumed.
        keep: so many of the last epochs' checkpoints are kept as epoch_NNN.pt.

    Raises ConfigError for a folder that is not there, that another process trains in, or that leads out of itself.
    """

    def __init__(self, path: Path | str, allowed: list[str] | None = None):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        if not self.path.is_dir():
            raise ConfigError("no such folder", str(self.path), "name the folder of a run")
        refuse_links(self.path)
        self._lock()
        self.result, self.rows, self.keep = Result.read(self.path), [], 0
        self.changed: dict[str, object] = {}
        self._news: dict[str, object] = {}  # of this start, for environment.json, when its first checkpoint is written
        self._allowed, self._disk_failures = allowed or [], 0
        self._config = self._trained_config = ""  # the text of config.yaml; as it is in the checkpoint
        self._began = False  # whether this process has written a checkpoint
        self._unwritten, self._best = False, None  # rows of metrics.csv, and the best epoch
        self._newer: Result | None = None  # with the best epoch after the last checkpoint, which is trained again
        self._started = time.time() - self.result.seconds  # of the sessions before, when a run is resumed

    def _lock(self) -> None:
        lock(self.path)

    def __enter__(self) -> "RunFolder":
        remove_parts(self.path)
        self._before, self.result.error = Result.read(self.path), None
        self._write_result("running")
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is not None:
            self.record_failure(error)
        unlock(self.path)

    def record_failure(self, error: BaseException) -> None:
        """Write how the run ended."""
        if isinstance(error, ConfigError | DataError) and self._before.status and not self._began:
            self._before.write(self.path)  # the run is what it was
            return
        if isinstance(error, ConfigError | DataError | OutOfMemory) and not self._before.status:
            in_sweep = (self.path.parent / "sweep.json").is_file()
            if not in_sweep and {entry.name for entry in self.path.glob("*")} <= BEFORE_TRAINING:
                remove_run_folder(self.path)  # a mistake that is found after the start leaves no folder
                return
        stopped = isinstance(error, KeyboardInterrupt | Preempted)
        again = "continues where this stopped" if self.can_be_resumed else "starts it again"
        hint = f"`segtrain resume {shlex.quote(str(self.path))}` {again}"
        if isinstance(error, Preempted):
            error.where, error.fix = str(self.path), hint
        elif stopped:
            log.info(hint)
        what = "interrupted" if isinstance(error, KeyboardInterrupt) else repr(error)
        self.result.error = error.what if isinstance(error, SegtrainError) else what
        try:
            if not stopped and not isinstance(error, Pruned):
                # A sweep prints its first error only: the folder of the failed job must have the rest.
                with (self.path / "segtrain.log").open("a", encoding="utf-8") as stream:
                    stream.write("".join(traceback.format_exception(error)))
            if isinstance(error, NotFinite) and error.seen:
                write_json(self.path / "failed" / f"step_{error.seen['step']:06d}.json", error.seen)
            self._write_result("preempted" if stopped else "pruned" if isinstance(error, Pruned) else "failed")
        except (DiskError, OSError):
            log.error("how the run ended could not be written to its folder")

    @property
    def can_be_resumed(self) -> bool:
        return (self.checkpoints / "last.pt").is_file()

    def begin(self, cfg, world_size: int = 1, **more: object) -> None:
        """Write config.yaml, with class weights that are known, and environment.json, with `more` in it.

        Of the same setting, started again before its first checkpoint, environment.json gets an entry more.
        """
        before, own = read_json(self.path / "environment.json"), signature(cfg)
        if before.get("signature") == own and before.get("seed") == cfg.seed:
            self.add_start({}, cfg.trainer.device, world_size)
        else:  # the dataset's fingerprint is known when the masks are counted
            known = {"seed": cfg.seed, "dataset_fingerprint": None, "signature": own, "resumes": []}
            write_json(self.path / "environment.json", {**start(cfg.trainer.device, world_size), **known, **more})
        self.write_config(as_text(cfg, weights_known=False))

    def write_config(self, text: str) -> None:
        """config.yaml; first without class weights, and once more when they are known."""
        self._config = text
        write_text(self.path / "config.yaml", text)

    def write_counts(self, counts, fingerprint: str, size: tuple[int, int]) -> None:
        """class_counts.json (ClassCounts of the training split), the fingerprint of the dataset, and an image's size.

        Raises ConfigError when the run was started on other images or masks, unless `dataset` is allowed to differ.
        """
        content = read_json(self.path / "environment.json")
        before = trained_on(content)
        if before not in (None, fingerprint) and "dataset" not in self._allowed:
            what = "the dataset has changed since the run was started: other images, or masks with other classes"
            fix = "restore it, or start a new run; to continue anyway: `segtrain resume RUN --allow dataset …`"
            raise ConfigError(what, str(self.path), fix)
        if before is None:
            content |= {"dataset_fingerprint": fingerprint, "image_size": list(size)}
            write_json(self.path / "environment.json", content)
        elif before != fingerprint:
            self._news["dataset_fingerprint"] = fingerprint
        write_json(self.path / "class_counts.json", counts.to_dict())

    def write_class_weights(self, target: str, class_names: list[str], weights: list[float] | None) -> None:
        """class_weights.json; `target` is the dotted name of the weighting: segtrain.weighting.LogRatio is log_ratio."""
        package, _, name = target.rpartition(".")
        scheme = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() if package == "segtrain.weighting" else target
        rows = zip(class_names, weights or [1.0] * len(class_names), strict=True)
        classes = [{"index": i, "name": name, "weight": float(weight)} for i, (name, weight) in enumerate(rows)]
        if scheme == "no_weighting":
            scheme = "none" if weights is None else "given"  # as class_weights=[…]
        write_json(self.path / "class_weights.json", {"scheme": scheme, "classes": classes})

    def save_last(self, content: dict) -> None:
        """What a run is resumed from. A full disk leaves the checkpoint before it; the third time in a row: DiskError."""
        try:
            self._write_epoch()
            self.result.seconds = round(time.time() - self._started, 2)
            counted = (self.path / "per_image.npz").is_file()
            run = {"config": self._config, "rows": self.rows, "result": asdict(self.result), "counted": counted}
            checkpoints.write_last(self.checkpoints, {**content, "run": run}, self.keep)
            self._began = True
            if self._news:
                environment = read_json(self.path / "environment.json")
                environment["resumes"][-1] |= self._news
                write_json(self.path / "environment.json", environment)
                self._news = {}
            self._disk_failures = 0
        except DiskError as error:
            self._disk_failures += 1
            if (left := DISK_FAILURES - self._disk_failures) <= 0:
                raise
            log.warning(
                f"{error.where} {error.what}; the previous checkpoint is kept. {left} more in a row end the run"
            )

    def load_last(self) -> dict | None:
        """What save_last wrote, None before the first checkpoint. Rows and result are again those of that moment.

        Raises ConfigError for a damaged checkpoint, and when best.pt or per_image.npz of the best epoch is.
        """
        file = self.path / "config.yaml"
        self._config = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        self.changed = changed_settings(read_json(self.path / "environment.json"))
        if not self.can_be_resumed:
            if (file := self.checkpoints / "best.pt").is_file():
                what = "last.pt is missing, and a run cannot be resumed without it"
                raise ConfigError(what, str(file.parent), "restore it; to start again, remove the folder checkpoints")
            return None
        checkpoint, written = checkpoints.read_last(self.checkpoints), self.result
        run = checkpoint["run"]
        self._trained_config, self.rows = run["config"], run["rows"]
        self.result = Result.of(run["result"], self.checkpoints / "last.pt")
        self._newer = written if checkpoints.is_newer(self.checkpoints, written.best, self.result.best) else None
        self.result.status = written.status
        self._started = min(self._started, time.time() - self.result.seconds)
        if self.result.best:
            checkpoints.read_weights(self.checkpoints, "best")
            if not self.best_counts() and run.get("counted"):
                file = self.path / "per_image.npz"
                raise ConfigError("the counts of the best epoch are missing", str(file), "restore it")
        return checkpoint

    def settings(self) -> dict[str, object]:
        """By dotted key: those the checkpoint was trained with, before the first one those of config.yaml."""
        return {**settings_in(self._trained_config or self._config, str(self.path / "config.yaml")), **self.changed}

    def add_start(self, changed: dict[str, object], device: str, world_size: int = 1) -> None:
        """An entry more in environment.json; metrics.csv as the checkpoint has it. `device`: that of the config.

        The settings that were changed are added with the next checkpoint: before, nothing was trained with them.
        """
        self.changed |= changed
        self._news |= {"changed": changed} if changed else {}
        content = read_json(self.path / "environment.json")
        content["resumes"] = [*content.get("resumes", []), start(device, world_size)]
        write_json(self.path / "environment.json", content)
        if self.rows:
            write_rows(self.path / "metrics.csv", self.rows)

    def record(self, epoch, class_names: list[str], groups: dict[str, str] | None = None) -> None:
        """Write an Epoch: metrics.csv; of the best, weights, per_image.npz, result.json. On a full disk: with the next checkpoint.

        Args:
            groups: by image name its scene or patient; None: each image is alone.
        """
        self.rows.append(epoch.row())
        self._unwritten = True
        known = self._newer is self.result and epoch.value is not None
        kept = self.result.best["value"] if known else None  # though its repetition scored less
        if epoch.best is not None and (kept is None or (epoch.value > kept) == epoch.monitor.higher_is_better):
            self._best, counts = epoch, epoch.best.counts
            if counts and "names" not in counts:
                fix = "let it return the images' names as `names`, or {} to write no counts"
                raise ConfigError("state() of the metric returns no names", "metric", fix)
            if counts:
                counts["groups"] = np.array([(groups or {}).get(name, name) for name in counts["names"].tolist()])
            self.result.take(epoch, class_names)
        elif self._newer and self._newer.best["epoch"] == epoch.number:
            self.result = self._newer
            log.info(f"epoch {epoch.number} was better before the run was stopped: its weights from then are kept")
        try:
            self._write_epoch()
        except DiskError as error:
            log.warning(f"{error.where} {error.what}; it is written with the next checkpoint")

    def _write_epoch(self) -> None:
        """What has not been written yet."""
        if self._unwritten:
            write_rows(self.path / "metrics.csv", self.rows)
            self._unwritten = False
        if self._best is None:
            return
        epoch, best = self._best, self._best.best
        try:
            checkpoints.write_best(self.checkpoints, epoch, self._config)
            if best.counts:
                write_arrays(self.path / "per_image.npz", best.counts)
            self._write_result("running")
        except DiskError:
            best.keep()
            raise
        self._best = None

    def best_counts(self) -> dict:
        """The arrays of per_image.npz; {} when there is none. Raises ConfigError for a damaged file."""
        file = self.path / "per_image.npz"
        return read_arrays(file) if file.is_file() else {}

    def finish(self) -> None:
        """Write the result as that of a finished run, and best.safetensors. Raises DiskError."""
        self._write_epoch()
        checkpoints.write_safetensors(self.checkpoints)
        self._write_result("finished")

    def _write_result(self, status: str) -> None:
        self.result.status, self.result.seconds = status, round(time.time() - self._started, 2)
        self.result.write(self.path)


class SilentRunFolder(RunFolder):
    """The folder for the processes that train with the first one: it is read to resume, and never written."""

    def __enter__(self) -> "SilentRunFolder":
        return self

    def _nothing(self, *_, **__) -> None:
        pass

    _lock = __exit__ = begin = write_counts = write_class_weights = add_start = record_failure = _nothing
