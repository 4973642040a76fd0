"""The settings and options of a run by name, for people and comparisons, and what they are by default."""

import re
from pathlib import Path

from omegaconf import OmegaConf

from segtrain.config.compose import compose, without_hydra
from segtrain.config.internals import config_loader
from segtrain.config.saved import content_of
from segtrain.config.schema import flat
from segtrain.errors import ConfigError
from segtrain.files import read_json


def settings_of(run: Path) -> dict[str, object]:
    """A run's settings by dotted name, and for each group the name of the option that was chosen; all as data."""
    saved, composed = run / "config.yaml", run / ".hydra"
    file = saved if saved.is_file() else composed / "config.yaml"  # a run may fail before it saves its config
    settings = flat(content_of(file, resolved=False)) if file.is_file() else {}
    return settings | choices_of(run)


def defaults_of(choices: dict[str, str], settings: dict[str, object]) -> dict[str, object]:
    """What the settings of a run are by default, by dotted key, where these options are chosen; and the option of each group.

    What follows another setting (`${dataset.num_classes}`) follows that of the run. Options that are not known here, such
    as the user's own, have no defaults.
    """
    loader, usual = config_loader(), compose([]).hydra.runtime.choices
    ours = {group: option for group, option in choices.items() if group in usual}
    known = [f"{group}={option}" for group, option in ours.items() if option in loader.get_group_options(group)]
    found = flat(OmegaConf.to_container(without_hydra(compose(known)), resolve=False))
    for key, value in found.items():
        if isinstance(value, str) and "${" in value:
            followed = re.fullmatch(r"\$\{([\w.]+)\}", value)
            found[key] = settings.get(followed[1] if followed else key)
    found |= {group: usual[group] for group in ours}
    return {key: value for key, value in found.items() if value != "???"}


def choices_of(run: Path) -> dict[str, str]:
    """The option that was chosen of each group, by environment.json, and before the run was started by what Hydra wrote.

    Empty where they are not known: they only name settings better.
    """
    options, file = read_json(run / "environment.json").get("options"), run / ".hydra" / "hydra.yaml"
    try:
        if options is None and file.is_file():
            options = content_of(file, resolved=False)["hydra"]["runtime"]["choices"]
        chosen = {str(group): choice if choice is None else str(choice) for group, choice in (options or {}).items()}
    except (ConfigError, KeyError, TypeError, AttributeError):
        return {}
    return {group: choice for group, choice in chosen.items() if "/" not in group and group != "hydra"}
