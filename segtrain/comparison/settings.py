"""Repeats of one setting put together, and the settings in which they differ from others."""

import shlex
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from segtrain.comparison.runs import FOLD, ROOT, Run, last_word
from segtrain.runs.environment import UNSIGNED
from segtrain.runs.sweep import words_of

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
DERIVED = ("_target_", "palette", "num_classes", "ignore_index", "class_names", "background")  # from other settings


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
    def command(self) -> str:
        """What trains it again: the command of its first run, and of all its folds."""
        command, folds = self.runs[0].command, [str(run.settings.get(FOLD)) for run in self.repeats[0]]
        if len(folds) == 1 or not (words := words_of(command)):
            return command
        kept = [word for word in words[1:] if not word.startswith(f"{FOLD}=") and word not in ("-m", "--multirun")]
        return shlex.join([words[0], "-m", *kept, f"{FOLD}={','.join(folds)}"])

    @property
    def min_area(self) -> int | None:
        """Predicted pixels from which on a class is found in an image; None where its runs differ, or say nothing."""
        found = {run.settings.get("metric.min_area") for run in self.runs}
        least = found.pop() if len(found) == 1 else None
        return least if isinstance(least, int) else None

    @property
    def label(self) -> str:
        """loss=ce_dice alpha=0.25 weighting=log_ratio"""
        return self.label_of(self.named) or "all"

    def label_of(self, keys: list[str]) -> str:
        """Those of `named` that it has, as text: loss=ce has no alpha. All of them where it has none."""
        there = [key for key in keys if self.has(key)] or keys
        return " ".join(f"{short(key, self.named)}={setting_text(self.varied[key])}" for key in there)

    def has(self, key: str) -> bool:
        return self.varied[key] is not None or key in self.runs[0].settings

    def text_of(self, key: str) -> str:
        """The value of a setting in which it differs from others; a dash for one that it does not have."""
        return setting_text(self.varied[key]) if self.has(key) else "–"


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


def without_parts(settings: list[Setting]) -> tuple[list[Setting], list[str]]:
    """Settings without repeats of which a fold is missing, so that all have scored the same images; a line on each.

    And one on folds that none has.
    """
    images = {name for setting in settings for run in setting.runs for name in run.names.tolist()}
    folds = {run.settings.get(FOLD) for setting in settings for run in setting.runs}
    first, kept, lines = settings[0].runs[0].settings, [], []
    if first.get("dataset.splits") == "kfold" and len(folds) < first.get("dataset.folds", 0):
        missing = f"{first['dataset.folds'] - len(folds)} of the {first['dataset.folds']} folds"
        lines.append(f"there is no run of {missing}: their images are not compared")
    for setting in settings:
        whole = []
        for repeat in setting.repeats:
            if sum(len(run.names) for run in repeat) in (0, len(images)):
                whole.append(repeat)
            else:
                lines.append(f"left out: {repeat[0].path}, because other folds of it are missing")
        kept += [Setting(setting.varied, setting.named, whole)] if whole else []
    return kept, lines


def settings_from(runs: list[Run]) -> list[Setting]:
    """Runs grouped by setting, in the order of their folders."""
    keys: dict[str, list[Run]] = {}
    for run in runs:
        keys.setdefault(run.key, []).append(run)
    given = frozenset().union(*(run.given for run in runs))
    shown = {ROOT} if len({run.data for run in runs}) > 1 else set()
    columns, named = varied_keys([members[0].settings for members in keys.values()], given, shown)
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


def varied_keys(
    configs: list[dict], given: frozenset[str] = frozenset(), shown: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Settings that differ, and of them those that name a config.

    A group's option (`weighting`) or a given setting that differs is always one of both. Another (`loss.alpha`) is left out
    when it differs just as one before or follows from its group's option, and names a config when what is before does not
    tell it from all others.

    Args:
        shown: keys that count though they are `hidden` elsewhere.
    """
    keys = dict.fromkeys(key for config in configs for key in config)
    keys = [key for key in keys if key in shown or not hidden(key)]
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
