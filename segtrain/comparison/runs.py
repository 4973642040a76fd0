"""Find runs, group the repeats of one setting, and read what they counted on each image."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from segtrain.config.saved import settings_of
from segtrain.errors import ConfigError, SegtrainError
from segtrain.files import read_arrays, read_json
from segtrain.runs.environment import FREE, UNSIGNED, changed_settings, signature, whole
from segtrain.runs.result import Result
from segtrain.runs.sweep import command_of, read_sweep, words_of

FOLD = "dataset.fold"
WEIGHTS = ("class_weights", "pos_weight")
DERIVED = (
    "_target_",
    "palette",
    "num_classes",
    "ignore_index",
    "class_names",
    "background",
)
ORDER = (
    "loss",
    "weighting",
    "labels",
    "model",
    "sampling",
    "optimizer",
    "schedule",
    "augment",
    "loader",
    "trainer",
    "dataset",
)
COUNTS = ("tp", "fp", "fn", "valid")
OF_SPLIT = ("scores", "per_class", "lower", "units")  # parts of a result that scores.json of a split has, too


@dataclass
class Run:
    """A run's folder.

    Attributes:
        settings: by dotted key, and for each group the name of the option that was chosen.
        key: equal for repeats of one setting.
        given: the keys of the settings on the command line.
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


@dataclass
class Setting:
    """Repeats of one setting.

    Attributes:
        varied: the settings in which it differs from others, by dotted key.
        named: the keys of as many of them as tell it from the others.
        repeats: for each seed its runs; several when each scored a fold of the images.
    """

    varied: dict[str, object]
    named: list[str]
    repeats: list[list[Run]]

    @property
    def runs(self) -> list[Run]:
        return [run for repeat in self.repeats for run in repeat]

    @property
    def label(self) -> str:
        """loss=ce_dice alpha=0.25 weighting=log_ratio"""
        return self.label_of(self.named) or "all"

    def label_of(self, keys: list[str]) -> str:
        """Some of `named`, as text."""
        return " ".join(f"{short(key, self.named)}={setting_text(self.varied[key])}" for key in keys)


def short(key: str, keys) -> str:
    """The last word of a dotted key, where no other key ends in it."""
    last = last_word(key)
    return last if [last_word(other) for other in keys].count(last) == 1 else key


def setting_text(value) -> str:
    if isinstance(value, float) and len(str(value)) > 8:  # drawn by a search
        return f"{value:.4g}"
    if isinstance(value, list):  # as one types it
        return str(value).replace(", ", ",")
    return "null" if value is None else str(value)


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
        last = finals_of(folder)
        if finals := [file for file in files if file.parent.resolve() in last]:
            unread.append(f"{folder}: {len(files) - len(finals)} shorter trainings of the search's stages are left out")
            files = finals
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
    return found, unread


def finals_of(folder: Path) -> set[Path]:
    """The folders of the final trainings of a search by `segtrain find`; none when it is not that far, or no such folder."""
    if not (folder / "find.json").is_file():
        return set()
    try:
        candidates = int(read_json(folder / "find.json")["candidates"])
        return {job.folder.resolve() for job in read_sweep(folder)[candidates:]}
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError("not the state of a search", str(folder / "find.json"), "restore the file") from error


def read_run(path: Path, split: str | None = None) -> Run:
    """Raises ConfigError for a damaged file, and when the split was not evaluated."""
    result, settings, environment = Result.read(path), settings_of(path), read_json(path / "environment.json")
    file, on_val = path / "per_image.npz", result.scores
    if split is not None and result.status == "finished":
        folder = path / "evaluation" / split
        saved = read_json(folder / "scores.json")
        if not saved:
            raise ConfigError(f"{split} was not evaluated", str(path), f"`segtrain evaluate {path} --split {split}`")
        result = replace(result, **{name: saved[name] for name in OF_SPLIT if name in saved})
        file = folder / "per_image.npz"
    changed = changed_settings(environment)  # since it was resumed
    settings = {name: whole(value) for name, value in (settings | changed).items()}
    command = command_of(path)
    given = frozenset(word.partition("=")[0].lstrip("+") for word in words_of(command) if "=" in word)
    by_hand = settings.get("weighting") == "none" or any(last_word(key) in WEIGHTS for key in given)
    if not by_hand:  # weights that follow from the weighting, and differ between folds
        settings = {key: value for key, value in settings.items() if last_word(key) not in WEIGHTS}
    own = {key: value for key, value in settings.items() if key != FOLD and last_word(key) not in DERIVED}
    kfold = settings.get("dataset.splits") == "kfold"
    known = "signature" in environment and not kfold and set(changed) <= FREE
    key = str(environment["signature"]) if known else signature(own)
    if not settings:  # nothing is known of it
        key = str(path)
    run = Run(path, result, settings, key, result.scores if split == "val" else on_val, command, given)
    if file.is_file():
        arrays = read_arrays(file)
        if not {*COUNTS, "names", "classes"} <= arrays.keys():
            return run
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
    return run


def without_copies(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """Runs without those of a setting, seed and images that are there already; and a line on each of them."""
    first: dict[tuple, Run] = {}
    lines = []
    for run in runs:
        part = (run.key, str(run.seed), str(run.settings.get(FOLD)), run.classes, tuple(run.names.tolist()))
        if (before := first.setdefault(part, run)) is not run:
            lines.append(f"not counted again: {run.path}, of the settings and seed of {before.path}")
    return list(first.values()), lines


def without_parts(settings: list[Setting]) -> tuple[list[Setting], list[str]]:
    """Settings without repeats of which a fold is missing, so that all have scored the same images; a line on each.

    And one on folds that none has.
    """
    images = {name for setting in settings for run in setting.runs for name in run.names.tolist()}
    kept, lines = [], []
    folds, first = (
        {run.settings.get(FOLD) for setting in settings for run in setting.runs},
        settings[0].runs[0].settings,
    )
    if first.get("dataset.splits") == "kfold" and len(folds) < first.get("dataset.folds", 0):
        missing = f"{first['dataset.folds'] - len(folds)} of the {first['dataset.folds']} folds"
        lines.append(f"no run of {missing}: their images are not compared")
    for setting in settings:
        whole = []
        for repeat in setting.repeats:
            if sum(len(run.names) for run in repeat) in (0, len(images)):
                whole.append(repeat)
            else:
                lines.append(f"left out: {repeat[0].path}, of which other folds are missing")
        kept += [Setting(setting.varied, setting.named, whole)] if whole else []
    return kept, lines


def settings_from(runs: list[Run]) -> list[Setting]:
    """Runs grouped by setting, in the order of their folders."""
    keys: dict[str, list[Run]] = {}
    for run in runs:
        keys.setdefault(run.key, []).append(run)
    given = frozenset().union(*(run.given for run in runs))
    columns, named = varied_keys([members[0].settings for members in keys.values()], given)
    settings = []
    for members in keys.values():
        repeats: list[list[Run]] = []
        for run in members:
            same = [r for r in repeats if r[0].seed == run.seed and not any(set(o.names) & set(run.names) for o in r)]
            if same and len(run.names):
                same[0].append(run)
            else:
                repeats.append([run])
        varied = {key: members[0].settings.get(key) for key in columns}
        if len(keys) > 1 and not named:  # nothing is known that tells them apart
            settings.append(Setting({"run": members[0].path.name}, ["run"], repeats))
        else:
            settings.append(Setting(varied, named, repeats))
    return settings


def counts_of(repeat: list[Run]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Names, groups and counts of all folds together, by name; None when one has none."""
    if any(run.counts is None for run in repeat):
        return None
    names, groups, counts = (
        np.concatenate([getattr(run, name) for run in repeat]) for name in ("names", "groups", "counts")
    )
    order = np.argsort(names)
    return names[order], groups[order], counts[order]


def varied_keys(configs: list[dict], given: frozenset[str] = frozenset()) -> tuple[list[str], list[str]]:
    """Settings that differ, and of them those that name a config.

    A group's option (`weighting`) or a given setting that differs is always one of both. Another (`loss.alpha`) is left out
    when it differs just as one before or follows from its group's option, and names a config when what is before does not
    tell it from all others.
    """
    keys = [key for key in dict.fromkeys(key for config in configs for key in config) if not hidden(key)]
    keys.sort(key=lambda key: ("." in key, ORDER.index(first) if (first := key.split(".")[0]) in ORDER else len(ORDER)))
    varied, named, seen, apart, of_group = [], [], set(), [()] * len(configs), {}
    for key in keys:
        values = [str(config.get(key)) for config in configs]
        partition = tuple(values.index(value) for value in values)
        chosen, option = "." not in key or key in given, of_group.get(key.split(".")[0])
        comes_with = option is not None and len(set(zip(option, partition, strict=True))) == len(set(option))
        follows = partition in seen or comes_with
        if len(set(partition)) == 1 or (follows and not chosen):
            continue
        seen.add(partition)
        of_group |= {} if "." in key else {key: partition}
        varied.append(key)
        finer = [(*before, part) for before, part in zip(apart, partition, strict=True)]
        if chosen or len(set(finer)) > len(set(apart)):
            named.append(key)
            apart = finer
    return varied, named


def hidden(key: str) -> bool:
    """Settings that are no choice between trainings."""
    derived = last_word(key) in DERIVED or key.split(".")[0] == "metric"
    return key in (*UNSIGNED, FOLD, "experiment") or derived


def last_word(key: str) -> str:
    """Of a dotted key."""
    return key.rpartition(".")[2]
