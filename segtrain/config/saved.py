"""Load a run's config.yaml as untrusted data."""

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from segtrain.config.compose import compose, key_mistakes, without_hydra
from segtrain.config.internals import config_loader
from segtrain.config.schema import CLASS_WEIGHTS, config_error, flat
from segtrain.errors import ConfigError, counted, did_you_mean, few

# What a saved config may build besides the classes that segtrain's own YAML files name.
KNOWN = {
    *(f"torch.optim.{name}" for name in ("Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "SGD")),
    *(f"torch.nn.{name}" for name in ("CrossEntropyLoss", "BCEWithLogitsLoss")),
    *(f"segmentation_models_pytorch.losses.{name}Loss" for name in ("Dice", "Focal", "Jaccard", "Lovasz", "Tversky")),
}


TEACHER = "segtrain.runs.trained.load"  # whose other arguments are read as those of a command line

MAX_BYTES = 100_000  # of a config: read in 2 s


def load_saved(
    file: Path,
    overrides: list[str],
    trust: list[str],
    config_dir: str | None = None,
    changed: dict[str, object] | None = None,
) -> DictConfig:
    """A run's config.yaml with `key=value` overrides, as untrusted data.

    Args:
        overrides: of single keys; `metric=OPTION` takes another option of that group: settings that both have stay the
            run's, but for the groups of scores.
        trust: packages whose classes may be built, besides segtrain's; what the file itself trusts does not count.
        config_dir: where the option may be, besides segtrain's.
        changed: other settings by dotted key, from the run's folder, which come before the overrides.

    Raises ConfigError for a missing file, an unknown key, a damaged one, or a class that is not to be built.
    """
    if not file.is_file():
        raise no_run(file.parent)
    try:
        cfg = OmegaConf.create(content_of(file))
    except OmegaConfBaseException as error:  # such as a date
        raise _damaged(f"not a config: {error}", file) from error
    _refuse_interpolations(changed or {}, str(file))
    for key, value in (changed or {}).items():
        try:
            _update(cfg, key, value)
        except ConfigError as error:
            raise ConfigError(error.what, str(file.with_name("environment.json")), "restore the file") from error
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} is not key=value")
        if key == "metric":
            _choose_metric(cfg, value, config_dir)
            continue
        _update(cfg, key, value_of(text))
    _check_targets(cfg, trust, file)
    return cfg


def value_of(text: str):
    """The value of `key=value`, by Hydra's grammar where it has one for it: {a:1} is a mapping there, but a text in YAML."""
    try:
        override = OverridesParser.create().parse_override(text)
        if override.is_sweep_override():
            raise ConfigError(f"{text!r} has several values", fix="give one; only trainings can be swept (-m)")
        return override.value()
    except HydraException:
        pass
    try:
        return OmegaConf.from_dotlist([f"v={text.partition('=')[2]}"]).v
    except YAMLError as error:
        raise ConfigError(f"the value of {text!r} cannot be read", fix="close brackets and quotation marks") from error


def _update(cfg: DictConfig, key: str, value) -> None:
    if wrong := list(key_mistakes(cfg, key)):
        raise config_error(wrong)
    now = OmegaConf.select(cfg, key)
    if isinstance(now, DictConfig) and "_target_" in now:
        raise ConfigError(
            f"{key}: the groups of a saved run cannot be chosen again", fix=f"set single keys, {key}.NAME=VALUE"
        )
    OmegaConf.update(cfg, key, value, merge=False)


def settings_in(text: str, where: str = "") -> dict[str, object]:
    """The settings in the text of a config by dotted key, as data. Raises ConfigError for a damaged one."""
    return flat(_parsed(text, where))


def _damaged(what: str, where: Path | str) -> ConfigError:
    return ConfigError(what, str(where), "use the file the run wrote")


def content_of(file: Path, resolved: bool = True) -> dict:
    """What a config's file holds, as data. Raises ConfigError for a damaged one.

    With `resolved=False` interpolations may stand in it, and stay text.
    """
    if file.stat().st_size > MAX_BYTES:
        raise _damaged(f"not a config: {file.stat().st_size:,} bytes are too many", file)
    return _parsed(file.read_text(encoding="utf-8", errors="replace"), str(file), resolved)


def _parsed(text: str, where: str, resolved: bool = True) -> dict:
    """The settings in a YAML text; tags, aliases and interpolations, however they are spelled, are refused.

    But `${class_weights}`, of a run that was killed before they were computed.
    """
    import yaml

    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader  # which is twenty times as slow
    if len(text) > MAX_BYTES:
        raise _damaged(f"not a config: {len(text):,} characters are too many", where)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, loader)):
            raise ValueError("it holds an alias")  # a few lines of which stand for gigabytes
        content = yaml.load(text, loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _damaged(f"not a config: {str(error).splitlines()[0]}", where) from error
    if not isinstance(content, dict):
        raise _damaged("not a config: not a mapping", where)
    for is_key, part in _parts(content):
        odd_key = is_key and not isinstance(part, str) and type(part) is not int
        if odd_key or (isinstance(part, int) and abs(part) >= 2**63):  # more digits than any setting has
            raise _damaged(f"not a config: {hex(part) if isinstance(part, int) else repr(part):.40}", where)
    if resolved:
        content.pop("hydra", None)
        _refuse_interpolations(content, where)
    return content


def _refuse_interpolations(content: dict, where: str) -> None:
    referring = any("${" in str(part) and part != CLASS_WEIGHTS for _, part in _parts(content))
    if referring or content.get("class_weights") == CLASS_WEIGHTS:
        raise _damaged("a saved config must be resolved, but this one holds ${…}", where)


def _parts(value) -> Iterator[tuple[bool, object]]:
    """Every key and value in mappings and lists, and whether it is a key."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield True, key
            yield from _parts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _parts(item)
    else:
        yield False, value


def _check_targets(cfg: DictConfig, trust: list[str], file: Path) -> None:
    """Every class is one of a list, or lives in a trusted package itself: a name that leads through it does not count."""
    texts = [f.read_text(encoding="utf-8") for f in Path(str(files("segtrain.configs"))).glob("**/*.yaml")]
    known = KNOWN.union(*(re.findall(r"_target_: (\S+)", text) for text in texts))
    for node in _nodes(cfg):
        target = str(node["_target_"])
        package = target.split(".")[0]
        if "trust" in node:
            node["trust"] = trust
        if target == TEACHER and (more := sorted(set(node) - {"_target_", "run", "checkpoint", "trust"})):
            raise _damaged(f"a saved run may not have {', '.join(more)}", file)
        if target in known:
            continue
        what = f"the run's config builds {target}, which is not a class of segtrain"
        if package not in trust:
            fix = f"if you trust its code: --trust {package}, from Python trust=[{package!r}]"
            raise ConfigError(what, str(file), fix)
        if wrong := _not_in(package, target):
            fix = f"put the folder of {package} on PYTHONPATH; a class that was renamed needs its old name, too"
            raise ConfigError(f"{what}: {wrong}", str(file), fix)


def _not_in(package: str, target: str) -> str:
    """Why the class or function behind a dotted name is not one that was defined in a package; empty when it is."""
    import pydoc
    from types import FunctionType

    try:
        found = pydoc.locate(target)
    except pydoc.ErrorDuringImport as error:
        return f"importing it fails: {error.value}"
    if found is None:
        return f"{package} cannot be imported here, or has no {target.partition('.')[2]}"
    defined = isinstance(found, type | FunctionType) and found.__module__.split(".")[0] == package
    return "" if defined else f"it is not defined in {package}"


def _choose_metric(cfg: DictConfig, name: str, config_dir: str | None) -> None:
    options = config_loader(config_dir).get_group_options("metric")
    if name not in options:
        raise ConfigError(
            f"metric has no option {name!r}{did_you_mean(name, options)}", fix=f"use {', '.join(options)}"
        )
    chosen = without_hydra(compose([f"metric={name}"], config_dir))
    chosen.dataset = cfg.dataset
    values = OmegaConf.to_container(chosen.metric, resolve=True)
    same = cfg.metric.get("_target_") == values["_target_"]
    kept = {k: v for k, v in cfg.metric.items() if same and k in values and k != "groups"}
    cfg.metric = values | kept


def packages_of(*configs: DictConfig) -> list[str]:
    """The packages besides segtrain whose classes configs name; what one's own command line names is trusted."""
    return sorted({str(node["_target_"]).split(".")[0] for cfg in configs for node in _nodes(cfg)} - {"segtrain"})


def _nodes(value) -> Iterator[DictConfig]:
    """Every node that names a class."""
    if isinstance(value, DictConfig):
        if "_target_" in value:
            yield value
        for item in value.values():
            yield from _nodes(item)
    elif isinstance(value, ListConfig):
        for item in value:
            yield from _nodes(item)


def no_run(folder: Path) -> ConfigError:
    """The error for a folder that holds no config.yaml, with what it is instead."""
    if re.match(r"[^/=]+=", str(folder)) and not folder.exists():
        return ConfigError(f"{folder} is a setting: the folder of the run comes first", fix="write RUN key=value …")
    fix = "name the folder of a run, which a training prints in its last lines"
    if not folder.exists():
        return ConfigError(f"no folder {folder}", fix=fix)
    if above := next((parent for parent in folder.parents if (parent / "config.yaml").is_file()), None):
        fix = f"name the folder of the run: {above}"
    elif below := sorted(file.parent for file in folder.glob("*/config.yaml")):
        kind = "a sweep" if (folder / "sweep.json").is_file() else f"a folder of {counted(len(below), 'run')}"
        below.sort(key=lambda run: not (run / "checkpoints/best.pt").is_file())  # those that can be used first
        return ConfigError(f"{folder} is {kind}, not a run", fix=f"name one of its runs: {few([*map(str, below)], 3)}")
    return ConfigError(f"{folder} holds no run: config.yaml is missing", fix=fix)
