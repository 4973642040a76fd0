"""Compose the config from the command line and report all mistakes."""

import re
import secrets
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from segtrain.config.internals import config_loader
from segtrain.config.schema import config_error, config_mistakes
from segtrain.errors import ConfigError, did_you_mean


def register_resolvers() -> None:
    """`${stamp:}`, a new run's folder name, and `${job_name:NUM,DIRNAME}`, a sweep job's."""
    OmegaConf.register_new_resolver(
        "stamp", lambda: f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}", replace=True, use_cache=False
    )
    OmegaConf.register_new_resolver("job_name", job_name, replace=True)


def job_name(number: int, overrides: str) -> str:
    """`03_alpha=0.25,weighting=log_ratio`: keys by their last word, no slashes, at most 120 characters."""
    last_words = re.sub(r"(^|,)[\w.@/]*[./](\w+)=", r"\1\2=", str(overrides))
    return f"{int(number):02d}_{re.sub(r'[/ ]', '-', last_words)}"[:120].rstrip(",_.")


def compose(overrides: list[str], config_dir: str | None = None, config_name: str | None = None, sweep: bool = False):
    """The config of a command line, `hydra` node included. Raises ConfigError with every wrong key and option.

    With `sweep`, values such as `loss.alpha=0,1` are accepted and left to the sweeper.
    """
    register_resolvers()
    loader = config_loader(config_dir)
    try:
        return _composed(loader, overrides, config_name, sweep)
    except (YAMLError, UnicodeDecodeError) as error:
        raise _not_yaml(error, config_dir) from error


def _composed(loader, overrides: list[str], config_name: str | None, sweep: bool) -> DictConfig:
    name, mode = config_name or "config", RunMode.MULTIRUN if sweep else RunMode.RUN
    try:
        return loader.load_configuration(name, overrides, run_mode=mode, validate_sweep_overrides=not sweep)
    except UnicodeDecodeError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        mistakes = [] if "Cannot find primary config" in str(error) else _override_mistakes(loader, overrides, name)
        raise _refused(str(error), [*mistakes], config_name) from error


def _refused(what: str, mistakes: list[str], config_name: str | None) -> ConfigError:
    """The error for a command line that Hydra refuses with the words `what`."""
    if "Cannot find primary config" in what:
        fix = "name a YAML of your --config-dir, without its suffix"
        return ConfigError(f"no config {config_name}.yaml", "--config-name", fix)
    mistakes = mistakes or [what]
    if "Ambiguous value" in mistakes[0]:
        word = re.search("'(.*)'", mistakes[0].splitlines()[0])
        key, _, values = word[1].partition("=") if word else ("", "", "")
        fix = f"to train with each: `segtrain -m {key}={values} …`; for a list: '{key}=[{values}]'"
        return ConfigError(f"{key}={values} names several values", key, fix)
    return config_error(list(dict.fromkeys(mistakes)))


def without_hydra(cfg: DictConfig) -> DictConfig:
    """The job's part of a composed config."""
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])


def _not_yaml(error: YAMLError | UnicodeDecodeError, config_dir: str | None) -> ConfigError:
    """The error for a file of the user's that is no YAML in UTF-8, with its name."""
    if isinstance(error, UnicodeDecodeError):
        files = sorted(Path(config_dir).rglob("*.yaml")) if config_dir is not None else []
        where = next((file for file in files if error.object in file.read_bytes()), config_dir or "")
        return ConfigError(f"a file is not UTF-8: {error.reason}", str(where), "save it as UTF-8")
    lines = [line.strip() for line in str(error).splitlines()]
    where = next((line.removeprefix("in ") for line in reversed(lines) if line.startswith("in ")), config_dir or "")
    problem = error.problem if isinstance(error, MarkedYAMLError) else lines[0]
    return ConfigError(f"a file is not valid YAML: {problem}", where, "correct it")


def _quoted(key: str, value: str) -> str:
    """How a value with special characters is typed in a shell."""
    if value == "~" or value.startswith("~/"):
        return f"write $HOME for ~: {key}=$HOME{value[1:]}"
    if value.count("[") != value.count("]"):
        return "a bracket is not closed"
    if re.fullmatch(r"""\[[^][{}"']*\]""", value):
        items = [item.strip() for item in value[1:-1].split(",")]
        value = ",".join(item if re.fullmatch(r"[\w.+-]*", item) else f'"{item}"' for item in items)
        return f"quote words with special characters: '{key}=[{value}]'"
    return f"quote values with special characters twice: '{key}=\"{value or 'a b'}\"'"


def _unreadable(text: str) -> str:
    """A sentence on a word that is no override."""
    if "=" not in text and ("/" in text or "." not in text):
        return f"no folder {text}"
    key, _, value = text.partition("=")
    what = "is not key=value" if "=" in text else "has no value: key=value"
    return f"{text!r} {what} ({_quoted(key or 'key', value)})"


def _override_mistakes(loader, overrides: list[str], config_name: str) -> Iterator[str]:
    """A sentence for every override that Hydra cannot apply."""
    parser, groups, values, unread = OverridesParser.create(), {}, [], []
    for text in overrides:
        try:
            override = parser.parse_override("" if text.startswith("=") else text)
            options = loader.get_group_options(override.key_or_group)
        except (HydraException, ValueError):
            unread.append(text.partition("=")[0])
            yield _unreadable(text)
            continue
        if options:
            groups[text] = override, list(_option_mistakes(override, options))
        else:
            values.append((text, override))
    yield from (mistake for _, wrong in groups.values() for mistake in wrong)
    chosen = {override.key_or_group for override, _ in groups.values()}
    wrong_dataset = any(wrong for override, wrong in groups.values() if override.key_or_group == "dataset")
    good = [t for t, (o, wrong) in groups.items() if not (wrong or o.is_sweep_override() or o.is_delete())]
    try:
        base = loader.load_configuration(config_name, good, run_mode=RunMode.RUN)
    except (HydraException, OmegaConfBaseException) as error:
        yield str(error)
        return
    for text, override in values:
        key = override.key_or_group
        if wrong_dataset and key.startswith("dataset."):  # which keys there are is the option's
            continue
        wrong = [] if override.is_add() or override.is_force_add() else list(key_mistakes(base, key))
        if wrong and (having := _options_with(loader, base, key)):
            group = key.partition(".")[0]
            hint = ": add one of them" if having[1:] else f": add {group}={having[0]}"
            hint = ", not of the one chosen" if group in chosen else hint
            yield f"{key} is a setting of {group}={', '.join(having)}{hint}"
            if group == "dataset":  # of which every key would be wrong
                return
        else:
            yield from wrong
        if override.is_sweep_override():
            unread.append(key)
        elif not wrong:
            good.append(text)
    try:  # what is wrong with the values of the keys that are right
        found = config_mistakes(without_hydra(loader.load_configuration(config_name, good, RunMode.RUN)))
    except (HydraException, OmegaConfBaseException):
        return
    yield from (text for text in found if text.split()[0] not in unread)


def _options_with(loader, base: DictConfig, key: str) -> list[str]:
    """The options of a group that have a setting which the one in `base` lacks.

    Of the datasets only folder is asked, from which others derive.
    """
    group, dot, name = key.partition(".")
    own = base.get(group) if group != "hydra" else None
    if not dot or not isinstance(own, DictConfig) or name.split(".")[0] in list(own):
        return []
    options = ["folder"] if group == "dataset" else loader.get_group_options(group)
    files = {option: loader.repository.load_config(f"{group}/{option}") for option in options}
    return [option for option, file in files.items() if name.split(".")[0] in list(file.config)]  # `???` is a key, too


def _option_mistakes(override, options: list[str]) -> Iterator[str]:
    if override.is_delete():
        return
    given = override.value().list if override.is_choice_sweep() else [override.value()]
    for value in [item for one in given for item in (one if isinstance(one, list) else [one])]:
        if value in options or not isinstance(value, str | int | float | None):  # others are left to Hydra
            continue
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        off = value in (None, False) and "none" in options
        meant = ", did you mean 'none'?" if off else did_you_mean(shown, options)
        if override.key_or_group == "experiment" and value is None:
            meant = ": leave it out for none"
        if shown in options:  # a file 1.yaml
            meant = f" without quotes: '{override.key_or_group}=\"{shown}\"'"
        yield f"{override.key_or_group} has no option {shown!r}{meant} (options: {', '.join(sorted(options))})"


def key_mistakes(cfg: DictConfig, key: str) -> Iterator[str]:
    """A sentence when a dotted key is not in a config."""
    node, path = cfg, []
    for word in key.split("."):
        if isinstance(node, ListConfig):
            return
        keys = list(node.keys()) if isinstance(node, DictConfig) else []
        if word not in keys:  # `in node` would be False for a key without a value yet
            owner = ".".join(path) or "the config"
            places = [f"{k}.{word}" for k, v in cfg.items() if isinstance(v, DictConfig) and word in v and k != "hydra"]
            hint = did_you_mean(word, keys) or (f", did you mean {places[0]!r}?" if places else "")
            yield f"{owner} has no key {word!r}{hint}"
            return
        try:
            node = node[word]
        except OmegaConfBaseException:
            return
        path.append(word)


def folder_of(cfg: DictConfig, key: str) -> Path:
    """Where hydra.run.dir or hydra.sweep.dir of a composed config points to."""
    setup_globals()
    HydraConfig.instance().set_config(cfg)
    folder = OmegaConf.select(cfg, key)
    if not folder:
        raise ConfigError("no folder is named", key, f"leave it out, or give {key}=FOLDER")
    return Path(folder)
