"""Find runs, and read their settings, their scores and what they counted on each image."""

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from segtrain.config.choices import choices_of, settings_of
from segtrain.errors import ConfigError, SegtrainError
from segtrain.files import read_arrays, read_json
from segtrain.runs.environment import changed_settings, floats_as_ints, signature, trained_on
from segtrain.runs.result import Result
from segtrain.runs.sweep import command_of, given_in, read_sweep, swept

FOLD, ROOT = "dataset.fold", "dataset.root"
FINGERPRINT = "dataset.fingerprint"  # no setting, but what tells runs apart whose masks differ and nothing else
WEIGHTS = ("class_weights", "pos_weight")
COUNTS = ("tp", "fp", "fn", "valid")
OF_SPLIT = ("scores", "per_class", "lower", "units")  # parts of a result that scores.json of a split has, too


@dataclass
class Run:
    """A run's folder.

    Attributes:
        settings: by dotted key, and for each group the name of the option that was chosen.
        key: equal for repeats of one setting, also where they differ in what they scored (metric).
        given: the keys of the settings on the command line.
        fingerprint: of the dataset; None where it is not known, and of a fold, which has its own.
        data: equal for runs of one dataset, wherever it lies.
        on_val: scores of the training, also where `result` has those of another split.
        names, groups, classes: of the images and classes that were scored; empty when nothing was counted.
        counts: int64 [images, 4, C], tp, fp, fn and valid pixels, in the order of `names`.
    """

    path: Path
    result: Result
    settings: dict[str, object]
    key: str
    on_val: dict[str, float]
    command: str
    given: frozenset[str] = frozenset()
    fingerprint: str | None = None
    data: str = ""
    names: np.ndarray = field(default_factory=lambda: np.zeros(0, str))
    groups: np.ndarray = field(default_factory=lambda: np.zeros(0, str))
    classes: tuple[str, ...] = ()
    counts: np.ndarray | None = None

    @property
    def seed(self):
        return self.settings.get("seed")

    @property
    def comparable(self) -> bool:
        """Whether it has the scores of a whole training."""
        return self.result.status == "finished" and bool(self.result.scores)


def find_runs(folders: list[Path], split: str | None = None) -> tuple[list[Run], list[str]]:
    """The runs in folders, each of which may be one itself; and lines on those that cannot be read or are left out.

    Of a search by `segtrain find` its final trainings, as soon as there are some: those of the stages are shorter.

    Args:
        split: take the scores of RUN/evaluation/<split>; None: those of the training.

    Raises ConfigError for a folder that is not there.
    """
    found, unread, seen = [], [], set()
    for folder in folders:
        files = sorted(folder.glob("**/result.json"))
        for search in sorted({file.parent.parent for file in files if file.parent != folder}):
            if not (search / "find.json").is_file():
                continue
            try:
                last = finals_of(search)
            except SegtrainError as error:
                if search == folder:
                    raise
                unread.append(f"{search}: {error.what}")
                continue
            if finals := [file for file in files if file.parent.resolve() in last]:
                others = [file for file in files if file.parent.parent != search]
                stages = len(files) - len(others) - len(finals)
                unread.append(f"{search}: {stages} shorter trainings from the stages of the search are left out")
                files = sorted([*others, *finals])
        new = [file for file in files if file.resolve() not in seen]
        seen |= {file.resolve() for file in files}
        before = len(found) + len(unread)
        for file in new:
            try:
                run = read_run(file.parent, split)
            except SegtrainError as error:
                unread.append(f"{file.parent}: {error.what}")
                continue
            found += [run] if run.result.status else []
        if not folder.exists():
            raise ConfigError("no such folder", str(folder), "name folders of runs or sweeps")
        if len(found) + len(unread) == before and (new or not files):
            unread.append(f"{folder}: no run in it")
    _tell_datasets_apart(found)
    return found, unread


def finals_of(folder: Path) -> list[Path]:
    """The folders of the final trainings of a search by `segtrain find`, that of the config as it is first.

    Empty when it is not that far, and for another folder.
    """
    if not (folder / "find.json").is_file():
        return []
    try:
        candidates = int(read_json(folder / "find.json")["candidates"])
        return [job.folder.resolve() for job in read_sweep(folder)[candidates:]]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError("not the state of a search", str(folder / "find.json"), "restore the file") from error


def read_run(path: Path, split: str | None = None) -> Run:
    """Raises ConfigError for a damaged file, and when the split was not evaluated."""
    result, environment = Result.read(path), read_json(path / "environment.json")
    file, on_val = path / "per_image.npz", result.scores
    if split is not None and result.status == "finished":
        folder = path / "evaluation" / split
        saved = read_json(folder / "scores.json")
        if not saved:
            again = f"`segtrain evaluate {shlex.quote(str(path))} --split {split}`"
            raise ConfigError(f"{split} was not evaluated", str(path), again)
        result = replace(result, **{name: saved[name] for name in OF_SPLIT if name in saved})
        file, on_val = folder / "per_image.npz", result.scores if split == "val" else on_val
    settings = settings_of(path) | changed_settings(environment)  # since it was resumed
    settings = {name: floats_as_ints(value) for name, value in settings.items()}
    command = command_of(path)
    given = given_in(command)
    computed = settings.get("class_weights") if settings.get("weighting") != "none" else None
    if computed is not None and "class_weights" not in given:  # by the weighting, and differ between folds
        settings = {key: value for key, value in settings.items() if last_word(key) not in WEIGHTS or value != computed}
    others = {FOLD, *choices_of(path)}  # options of two names may be the same
    trained = {key: value for key, value in settings.items() if key not in others and not key.startswith("metric.")}
    key = signature(trained) if settings else str(path)  # of which nothing is known
    fingerprint = trained_on(environment) if settings and settings.get("dataset.splits") != "kfold" else None
    run = Run(path, result, settings, key, on_val, command, given, fingerprint)
    if file.is_file():
        _read_counts(run, file)
    return run


def _read_counts(run: Run, file: Path) -> None:
    """Of per_image.npz; nothing of one without counts. Raises ConfigError for a damaged one."""
    arrays = read_arrays(file)
    if not {*COUNTS, "names", "classes"} <= arrays.keys():
        return
    plain = arrays["names"].ndim == arrays["classes"].ndim == 1
    shape = (len(arrays["names"]), len(arrays["classes"])) if plain else None
    texts = all(arrays[name].dtype.kind == "U" for name in ("names", "classes"))
    groups = arrays.get("groups", arrays["names"])
    counted = all(arrays[name].shape == shape and arrays[name].dtype.kind == "i" for name in COUNTS)
    if not texts or not counted or groups.shape != arrays["names"].shape:
        raise ConfigError("not the counts of a run", str(file), "restore the file, or leave this folder out")
    order = np.argsort(arrays["names"])
    run.names, run.classes = arrays["names"][order], tuple(arrays["classes"].tolist())
    run.groups = groups[order]
    run.counts = np.stack([arrays[name] for name in COUNTS], axis=1)[order]


def _tell_datasets_apart(runs: list[Run]) -> None:
    """Give runs of one setting on other datasets other keys: by fingerprint, where all have one, and by the folder where a
    sweep varied it, whose images may be other ones with the same masks."""
    alike: dict[str, list[Run]] = {}
    for run in runs:
        alike.setdefault(run.key, []).append(run)
    for members in alike.values():
        known = all(run.fingerprint is not None for run in members)
        varied = any(swept(run.path, ROOT) for run in members)
        for run in members:
            run.settings |= {FINGERPRINT: run.fingerprint} if known else {}
            run.data = " ".join([*[str(run.fingerprint)] * known, *[str(run.settings.get(ROOT))] * varied])
            run.key = f"{run.key} {run.data}"


def without_copies(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """Runs without those of a setting, seed and images that are there already; and a line on each of them."""
    first: dict[tuple, Run] = {}
    lines = []
    for run in runs:
        part = (run.key, str(run.seed), str(run.settings.get(FOLD)), run.classes, tuple(run.names.tolist()))
        if (before := first.setdefault(part, run)) is not run:
            more, less = (run, before) if len(run.result.scores) > len(before.result.scores) else (before, run)
            first[part] = more  # with more scores, such as of another metric
            lines.append(f"not counted again: {less.path}, because {more.path} has the same settings and seed")
    return list(first.values()), lines


def last_word(key: str) -> str:
    """Of a dotted key."""
    return key.rpartition(".")[2]
