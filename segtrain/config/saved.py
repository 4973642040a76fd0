"""Reading a run's config.yaml back: as data from a stranger."""

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from segtrain.config.compose import compose, key_mistakes
from segtrain.config.internals import config_loader
from segtrain.config.schema import config_error, flat
from segtrain.errors import ConfigError, did_you_mean

TRUSTED = ("segtrain", "segmentation_models_pytorch", "albumentations", "torch.optim", "torch.nn")


def load_saved(file: Path, overrides: list[str], trust: list[str], config_dir: str | None = None) -> DictConfig:
    """A run's config.yaml with `key=value` overrides, as data from a stranger.

    Args:
        overrides: of single keys; `metric=OPTION` takes another option of that group: settings that both have stay the
            run's, but for the groups of scores.
        trust: packages whose classes may be built, besides segtrain's.
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
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} is not key=value")
        if key == "metric":
            _choose_metric(cfg, value, config_dir)
            continue
        if wrong := list(key_mistakes(cfg, key)):
            raise config_error(wrong)
        if isinstance(OmegaConf.select(cfg, key), DictConfig):
            raise ConfigError(
                f"{text}: a saved run has no groups to choose from", fix=f"set single keys, {key}.NAME=VALUE"
            )
        OmegaConf.update(cfg, key, OmegaConf.from_dotlist([f"v={value}"]).v)
    _check_targets(cfg, trust, file)
    return cfg


def _check_targets(cfg: DictConfig, trust: list[str], file: Path) -> None:
    allowed = (*TRUSTED, *trust)
    for target in _targets(OmegaConf.to_container(cfg)):
        if not any(target == package or target.startswith(f"{package}.") for package in allowed):
            raise ConfigError(
                f"the run's config builds {target}, which is not in a trusted package",
                str(file),
                f"when you trust its code: --trust {target.split('.')[0]}",
            )


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


def settings_of(run: Path) -> dict[str, object]:
    """A run's settings by dotted name, and for each group the name of the option that was chosen."""
    saved, composed = run / "config.yaml", run / ".hydra"
    file = saved if saved.is_file() else composed / "config.yaml"  # a run may fail before it saves its config
    settings = flat(OmegaConf.load(file)) if file.is_file() else {}
    if (composed / "hydra.yaml").is_file():
        choices = OmegaConf.load(composed / "hydra.yaml").hydra.runtime.choices
        settings |= {group: choice for group, choice in choices.items() if "/" not in group and group != "hydra"}
    return settings
