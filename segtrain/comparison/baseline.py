"""The setting that the others are compared with."""

import re
from pathlib import Path

from segtrain.comparison.settings import Setting, setting_text
from segtrain.config.compose import compose, without_hydra
from segtrain.config.schema import flat
from segtrain.errors import ConfigError

PLAIN = ("none", "0", "null", "uniform", "hard", "ce", "bce", "false")  # values of a setting that adds nothing


def choose_baseline(settings: list[Setting], wanted: str | None) -> int:
    """The number of the setting that the others are compared with.

    Args:
        wanted: `loss.alpha=0,weighting=none`, a run's folder, or None: the plainest, then the one nearest to the defaults,
            then the first by the name of its folder.

    Raises ConfigError when `wanted` is none of the settings, or several.
    """
    if wanted is None:
        cfg = compose([])
        usual = {**flat(without_hydra(cfg)), **cfg.hydra.runtime.choices}
        plain = [(_plain_values(setting.varied), _usual_values(setting.varied, usual)) for setting in settings]
        # of equal ones the first that was trained: were it chosen by its score, it would look worse than it is
        return min(range(len(plain)), key=lambda i: ([-n for n in plain[i]], str(settings[i].runs[0].path)))
    if by_label := [i for i, setting in enumerate(settings) if setting.label == wanted]:
        return by_label[0]
    pairs = [pair.partition("=") for pair in re.split(r",(?![^\[]*\])", wanted)]  # at commas, but not those of a list
    found = [
        i
        for i, setting in enumerate(settings)
        if any(run.path.resolve() == Path(wanted).resolve() for run in setting.runs)
        or (all(eq for _, eq, _ in pairs) and all(_is(setting.varied.get(_key(k, setting)), v) for k, _, v in pairs))
    ]
    if len(found) != 1:
        labels = "; ".join(settings[i].label for i in (found or range(len(settings))))
        what = f"{'no setting is' if not found else f'{len(found)} settings are'} {wanted}"
        raise ConfigError(what, "--baseline", f"one of: {labels}")
    return found[0]


def _plain_values(varied: dict) -> int:
    """How many values add nothing. A loss's own settings do not count where losses differ."""
    counted = [value for key, value in varied.items() if "." not in key or key.split(".")[0] not in varied]
    return sum(setting_text(value).lower() in PLAIN for value in counted)


def _usual_values(varied: dict, defaults: dict) -> int:
    """How many values are segtrain's defaults."""
    return sum(key in defaults and value in (defaults[key], str(defaults[key])) for key, value in varied.items())


def _is(value, text: str) -> bool:
    """Whether a setting has the value that is written so: 1 as 1.0, too, and [1, 2] as [1,2]."""
    if type(value) not in (int, float):
        return setting_text(value).lower() == text.replace(" ", "").lower()
    try:
        return float(text) == value
    except ValueError:
        return False


def _key(word: str, setting: Setting) -> str:
    """The dotted key that a word is the end of."""
    return next((key for key in setting.varied if key == word or key.endswith(f".{word}")), word)
