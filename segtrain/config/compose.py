"""Composing a config from the command line, and reading a saved one back."""

import re
import secrets
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segtrain.config.schema import config_error, config_mistakes
from segtrain.errors import ConfigError, did_you_mean

SEARCH_PATH = "pkg://segtrain.configs"
TRUSTED = ("segtrain", "segmentation_models_pytorch", "albumentations", "torch.optim", "torch.nn")


def register_resolvers() -> None:
    """`${stamp:}`, a new run's folder name, and `${job_name:NUM,DIRNAME}`, a sweep job's."""
    OmegaConf.register_new_resolver("stamp", _stamp, replace=True, use_cache=False)
    OmegaConf.register_new_resolver("job_name", _job_name, replace=True)


def _stamp() -> str:
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}"


def _job_name(number: int, overrides: str) -> str:
    """`03_alpha=0.25,weighting=log_ratio`: keys by their last word, no slashes, at most 120 characters."""
    last_words = re.sub(r"(^|,)[\w.@/]*[./](\w+)=", r"\1\2=", str(overrides))
    return f"{int(number):02d}_{re.sub(r'[/ ]', '-', last_words)}"[:120].rstrip(",_.")


def config_loader(config_dir: str | None = None):
    """Hydra's loader for the configs in `config_dir` and segtrain's."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path

    register_resolvers()
    search_path = create_config_search_path(SEARCH_PATH)
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise ConfigError(f"no folder {config_dir}", "--config-dir", "name the folder that holds your YAML files")
        search_path.prepend("command-line", f"file://{Path(config_dir).resolve()}")
    return ConfigLoaderImpl(search_path)


def compose(overrides: list[str], config_dir: str | None = None, config_name: str | None = None, sweep: bool = False):
    """The config of a command line, `hydra` node included. Raises ConfigError with every wrong key and option.

    With `sweep`, values such as `loss.alpha=0,1` are accepted and left to the sweeper.
    """
    from hydra.errors import HydraException
    from hydra.types import RunMode

    loader = config_loader(config_dir)
    try:
        return loader.load_configuration(
            config_name or "config",
            overrides,
            run_mode=RunMode.MULTIRUN if sweep else RunMode.RUN,
            validate_sweep_overrides=not sweep,
        )
    except (HydraException, OmegaConfBaseException) as error:
        mistakes = list(_override_mistakes(loader, overrides, config_name or "config")) or [str(error)]
        raise config_error(mistakes) from error


def without_hydra(cfg: DictConfig) -> DictConfig:
    """The job's part of a composed config."""
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])


def output_folder(cfg: DictConfig, key: str) -> Path:
    """Where hydra.run.dir or hydra.sweep.dir of a composed config points to."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import setup_globals

    setup_globals()
    HydraConfig.instance().set_config(cfg)
    return Path(OmegaConf.select(cfg, key))


def _override_mistakes(loader, overrides: list[str], config_name: str) -> Iterator[str]:
    """A sentence for every override that Hydra cannot apply."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from hydra.types import RunMode

    parser, groups, values = OverridesParser.create(), [], []
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:
            yield f"{text!r} is not key=value (quote values with special characters: 'key=\"a b\"')"
            continue
        options = loader.get_group_options(override.key_or_group)
        (groups if options else values).append((text, override, options))
    good = []
    for text, override, options in groups:
        if override.is_delete():
            continue
        chosen = override.value().list if override.is_choice_sweep() else [override.value()]
        wrong = [v for v in chosen if isinstance(v, str) and v not in options]
        for value in wrong:
            yield (
                f"{override.key_or_group} has no option {value!r}{did_you_mean(value, options)} "
                f"(options: {', '.join(sorted(options))})"
            )
        if not wrong and not override.is_sweep_override():
            good.append(text)
    try:
        base = loader.load_configuration(config_name, good, run_mode=RunMode.RUN)
    except (HydraException, OmegaConfBaseException) as error:
        yield str(error)
        return
    known = []
    for text, override, _ in values:
        wrong = [] if override.is_add() or override.is_force_add() else list(_key_mistakes(base, override.key_or_group))
        yield from wrong
        if not wrong and not override.is_sweep_override():
            known.append(text)
    try:  # what is wrong with the values of the keys that are right
        yield from config_mistakes(without_hydra(loader.load_configuration(config_name, good + known, RunMode.RUN)))
    except (HydraException, OmegaConfBaseException):
        return


def _key_mistakes(cfg: DictConfig, key: str) -> Iterator[str]:
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


def load_saved(
    file: Path, overrides: list[str], trust: list[str], metric: str | None = None, config_dir: str | None = None
) -> DictConfig:
    """A run's config.yaml with `key=value` overrides, as data from a stranger.

    Args:
        trust: packages whose classes may be built, besides segtrain's.
        metric: an option of the group metric, in place of the run's; settings that both have stay the run's, but for
            the groups of scores.
        config_dir: where the option may be, besides segtrain's.

    Raises ConfigError for a missing file, an unknown key, or a class outside the trusted packages.
    """
    if not file.is_file():
        raise ConfigError(f"{file.parent} holds no run: config.yaml is missing", fix="name the folder of a run")
    cfg = OmegaConf.load(file)
    if "${" in file.read_text(encoding="utf-8"):
        raise ConfigError(
            "a saved config must be resolved, this one holds ${…}", str(file), "use the file the run wrote"
        )
    if "inference" not in cfg:  # of a run before there was this section
        cfg.inference = compose([]).inference
    if metric is not None:
        _choose_metric(cfg, metric, config_dir)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} is not key=value")
        if wrong := list(_key_mistakes(cfg, key)):
            raise config_error(wrong)
        if isinstance(OmegaConf.select(cfg, key), DictConfig):
            raise ConfigError(
                f"{text}: a saved run has no groups to choose from", fix=f"set single keys, {key}.NAME=VALUE"
            )
        OmegaConf.update(cfg, key, OmegaConf.from_dotlist([f"v={value}"]).v)
    allowed = (*TRUSTED, *trust)
    for target in _targets(OmegaConf.to_container(cfg)):
        if not any(target == package or target.startswith(f"{package}.") for package in allowed):
            raise ConfigError(
                f"the run's config builds {target}, which is not in a trusted package",
                str(file),
                f"when you trust its code: --trust {target.split('.')[0]}",
            )
    return cfg


def _choose_metric(cfg: DictConfig, name: str, config_dir: str | None) -> None:
    options = config_loader(config_dir).get_group_options("metric")
    if name not in options:
        raise ConfigError(
            f"metric has no option {name!r}{did_you_mean(name, options)}", fix=f"use {', '.join(options)}"
        )
    chosen = compose([f"metric={name}"], config_dir).metric
    values = {k: cfg.dataset[k] if OmegaConf.is_interpolation(chosen, k) else chosen[k] for k in chosen}
    same = cfg.metric.get("_target_") == values["_target_"]
    kept = {k: v for k, v in cfg.metric.items() if same and k in values and k != "groups"}
    cfg.metric = values | kept


def _targets(value) -> Iterator[str]:
    if isinstance(value, dict):
        if "_target_" in value:
            yield str(value["_target_"])
        for item in value.values():
            yield from _targets(item)
    elif isinstance(value, list):
        for item in value:
            yield from _targets(item)
