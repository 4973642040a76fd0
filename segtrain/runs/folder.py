"""A run's folder: everything that says what was run, with what, and what came out."""

import csv
import hashlib
import json
import logging
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
import traceback
from importlib import metadata
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from segtrain.class_counts import ClassCounts
from segtrain.config.schema import flat
from segtrain.cpu import cores
from segtrain.errors import ConfigError, DiskError, Preempted, SegtrainError

log = logging.getLogger("segtrain")

# What may differ between two runs of one setting.
UNSIGNED = (
    "seed",
    "advice",
    "debug",
    "class_weights",
    "dataset.root",
    "loader.workers",
    "loader.cache",
    "trainer.device",
    "trainer.checkpoint_every",
    "trainer.panel_images",
)
PACKAGES = (
    "torch",
    "torchvision",
    "segmentation-models-pytorch",
    "hydra-core",
    "omegaconf",
    "albumentations",
    "tensorboard",
    "numpy",
    "pillow",
)


def make_folder(folder: Path) -> Path:
    """Raises DiskError when it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"the folder cannot be made: {error.strerror}", str(folder), "name another place") from error
    return folder


def make_run_folder(folder: Path) -> Path:
    """Make the folder of a new run. Raises ConfigError when it holds a run, DiskError when it cannot be made."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            runs = [
                name for name in ("config.yaml", "result.json", ".hydra", "multirun.yaml") if (folder / name).exists()
            ]
            if runs:
                raise ConfigError(
                    "the run folder holds a run already",
                    str(folder),
                    "name another folder, or `segtrain resume` the run",
                ) from None
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
    """Writes the files of one run. As a context it records how the run ended in result.json and segtrain.log."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.checkpoints, self.plots = self.path / "checkpoints", self.path / "plots"
        self._started = time.time()

    def __enter__(self) -> "RunFolder":
        self._started -= self.read_result().get("seconds") or 0  # of the sessions before, when a run goes on
        self.write_json("result.json", {"status": "running"})
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is None:
            return
        stopped = isinstance(error, KeyboardInterrupt | Preempted)
        if isinstance(error, KeyboardInterrupt) and (self.checkpoints / "last.pt").is_file():
            log.info(f"`segtrain resume {self.path}` goes on where this stopped")
        if not stopped:
            # A sweep prints its first error only: the folder of the failed job must tell the rest.
            with (self.path / "segtrain.log").open("a", encoding="utf-8") as stream:
                stream.write("".join(traceback.format_exception(kind, error, trace)))
        what = error.what if isinstance(error, SegtrainError) else repr(error)
        result = {**self.read_result(), "status": "preempted" if stopped else "failed", "error": what}
        try:
            self.write_json("result.json", {**result, "seconds": round(time.time() - self._started, 2)})
        except DiskError:
            log.error("result.json could not be written")

    def read_result(self) -> dict:
        file = self.path / "result.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def write_json(self, name: str, content: dict) -> None:
        """Whole or not at all; NaN becomes null. Raises DiskError."""
        file = self.path / name
        part = file.with_name(f"{file.name}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
            os.replace(part, file)
        except OSError as error:
            raise DiskError(
                f"cannot be written: {error.strerror}", str(file), "free space or set hydra.run.dir"
            ) from error

    def write_inputs(self, cfg: DictConfig, counts: ClassCounts, names: list[str]) -> None:
        """config.yaml, environment.json, class_counts.json, class_weights.json."""
        OmegaConf.save(cfg, self.path / "config.yaml", resolve=True)
        self.write_json("environment.json", environment(cfg, counts, names))
        self.write_json("class_counts.json", counts.to_dict())
        weights = cfg.class_weights if cfg.class_weights is not None else [1.0] * len(counts.class_names)
        classes = [
            {"index": i, "name": name, "weight": float(weight)}
            for i, (name, weight) in enumerate(zip(counts.class_names, weights, strict=True))
        ]
        self.write_json("class_weights.json", {"scheme": _scheme(cfg.weighting._target_), "classes": classes})

    def write_per_image(self, name: str, scores) -> None:
        """tp, fp, fn per image and class, with the images' names, and what else the scores come from; where a metric has
        a state."""
        if state := scores.state():
            np.savez_compressed(self.path / name, **state)

    def write_rows(self, name: str, columns: dict[str, list]) -> None:
        """A CSV file; NaN becomes an empty cell. Raises DiskError."""
        rows = zip(*([_cell(value) for value in column] for column in columns.values()), strict=True)
        try:
            with (self.path / name).open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows([list(columns), *rows])
        except OSError as error:
            raise DiskError(f"cannot be written: {error.strerror}", str(self.path / name), "free space") from error

    def read_per_image(self, name: str) -> dict[str, np.ndarray]:
        """What write_per_image wrote."""
        with np.load(self.path / name, allow_pickle=False) as saved:
            return dict(saved)

    def write_result(self, best: dict, scores: dict[str, float], per_class: list[dict], **more) -> None:
        seconds = round(time.time() - self._started, 2)
        result = {
            "status": "finished",
            "best": best,
            "scores": scores,
            "per_class": per_class,
            "seconds": seconds,
        }
        self.write_json("result.json", {**result, **more})


def per_class_rows(scores) -> list[dict]:
    """`per_class` of result.json; [] for a metric that has no columns."""
    if not (columns := scores.per_class()):
        return []
    return [
        {"index": i, "name": name, **{key: column[i].item() for key, column in columns.items()}}
        for i, name in enumerate(scores.class_names)
    ]


def signature(cfg) -> str:
    """Equal for repeats of one setting, whatever the seed, the paths and the machine."""
    config = {k: v for k, v in flat(cfg).items() if k not in UNSIGNED}
    return hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=8).hexdigest()


def environment(cfg: DictConfig, counts: ClassCounts, names: list[str]) -> dict:
    import torch

    resolved = OmegaConf.to_container(cfg, resolve=True)
    fingerprint = hashlib.blake2b(json.dumps([names, counts.to_dict()]).encode(), digest_size=8).hexdigest()
    cuda = torch.cuda.is_available()
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **_git(),
        "versions": {"python": platform.python_version(), "segtrain": _version("segtrain")}
        | {package: _version(package) for package in PACKAGES},
        "hardware": {
            "machine": platform.machine(),
            "cores": cores(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if cuda else None,
            "cuda": torch.version.cuda if cuda else None,
        },
        "world_size": 1,
        "seed": cfg.seed,
        "dataset_fingerprint": fingerprint,
        "signature": signature(resolved),
    }


def _scheme(target: str) -> str:
    """segtrain.weighting.LogRatio is log_ratio; another package's class keeps its dotted name."""
    package, _, name = target.rpartition(".")
    if package != "segtrain.weighting":
        return target
    return "none" if name == "NoWeighting" else re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git() -> dict:
    """Commit and a hash of what is not committed, of the folder the command was given in."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    commit, diff = git("rev-parse", "HEAD"), git("diff", "HEAD")
    return {
        "git_commit": commit and commit.strip(),
        "git_diff": hashlib.blake2b(diff.encode(), digest_size=8).hexdigest() if diff else None,
    }


def _cell(value):
    return "" if isinstance(value, float) and value != value else value


def _plain(value):
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
