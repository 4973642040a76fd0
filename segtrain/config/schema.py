"""Check a config against the signatures of the classes it names, before any of them is imported."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from segtrain.arguments import Range, Weights, mistake
from segtrain.config.signatures import is_function, members_of, signature_of
from segtrain.errors import ConfigError, did_you_mean
from segtrain.protocols import PROTOCOLS

Sweep = Annotated[
    dict, Range("{fail_fast: true or false}", lambda v: [*v] == ["fail_fast"] and isinstance(v["fail_fast"], bool))
]
Seed = Annotated[int, Range("a whole number from 0 to 2^32 - 1", lambda v: 0 <= v < 2**32)]  # what NumPy takes
OF_A_CALL = ("logits", "target", "prediction", "counts")  # arguments of a part, not of its constructor
ROOT_KEYS = {"seed": Seed, "class_weights": Weights | None, "advice": bool, "debug": bool, "sweep": Sweep}
# The parts of a config, with the arguments that build.py fills in: a config need not hold them.
PARTS: dict[str, set[str]] = {
    "dataset": {"split", "strict"},
    "augment": set(),
    "sampling": set(),
    "loader": {"pinned"},
    "weighting": set(),
    "model": set(),
    "loss": set(),
    "labels": set(),
    "optimizer": {"model"},
    "schedule": {"optimizer", "steps"},
    "metric": {"class_names", "multilabel"},
    "inference": set(),
    "trainer": set(),
}

# Bases whose attributes and methods do not count as those of a user's class.
BASES = {*(protocol.base for protocol in PROTOCOLS.values()), "builtins.object"}
BASES |= {"torch.nn.Module", "torch.nn.modules.module.Module"}


def check_config(cfg: DictConfig, where: str = "") -> None:
    """Raise ConfigError that lists all mistakes of a config, of a file when it was saved; see config_mistakes."""
    if mistakes := config_mistakes(cfg):
        raise config_error(mistakes, where)


def config_mistakes(cfg: DictConfig) -> list[str]:
    """Bind every `_target_` node to the signature of its class, without importing any class.

    A sentence for each mistake: unknown and missing keys, types, ranges, parts that contradict the dataset, a
    weighting without effect.
    """
    mistakes = [
        f"there is no key {k!r}{did_you_mean(k, [*PARTS, *ROOT_KEYS])}" for k in cfg if k not in (*PARTS, *ROOT_KEYS)
    ]
    mistakes += [
        f"{k}={cfg[k]!r} {m}" for k, t in ROOT_KEYS.items() if k in cfg and (m := mistake(_unwrapped(cfg[k]), t))
    ]
    mistakes += [f"{k} is missing" for k in ROOT_KEYS if k not in cfg]
    for part, provided in PARTS.items():
        if not isinstance(cfg.get(part), DictConfig):
            mistakes.append(f"{part} is not set: choose an option of the group {part}")
        elif "_target_" not in cfg[part]:
            mistakes.append(f"{part} has no _target_, the dotted name of its class")
        else:
            mistakes += _node_mistakes(cfg[part], part, provided, part)
    return _named_once(mistakes) or [*_contradictions(cfg), *_weighting_mistakes(cfg)]


def _named_once(mistakes: list[str]) -> list[str]:
    """Without those of settings that follow the dataset's, such as model.num_classes."""
    own = tuple(f".{text.split()[0].removeprefix('dataset.')}" for text in mistakes if text.startswith("dataset."))
    return [text for text in mistakes if text.startswith("dataset.") or not text.split()[0].endswith(own)]


def _contradictions(cfg: DictConfig) -> Iterator[str]:
    """num_classes and ignore_index are the dataset's wherever they stand."""
    for key, value in flat(cfg).items():
        name = key.rpartition(".")[2]
        if name in ("num_classes", "ignore_index") and name in cfg.dataset and value != cfg.dataset[name]:
            yield f"{key}={value}, but dataset.{name}={cfg.dataset[name]}: change dataset.{name}, the rest follows"


def _node_mistakes(node: DictConfig, path: str, provided: set[str], part: str) -> Iterator[str]:
    """Mistakes of a node; `part` is the kind of part that it must be, empty when not known."""
    target = node["_target_"]
    try:
        signature = signature_of(target)
    except LookupError as error:
        yield f"{path}._target_={target}: {error}"
        return
    names = members_of(target, BASES) if part in PROTOCOLS and "_partial_" not in node else None
    if names is not None and (lacking := PROTOCOLS[part].lacking(names)):  # as far as the source shows
        yield f"{path}: {target} has no {', '.join(lacking)}: see {PROTOCOLS[part].base}"
    below = part if target.startswith("segtrain.losses.") else ""  # the losses of a loss
    keys = [k for k in node if k not in ("_target_", "_convert_", "_recursive_", "_partial_")]
    for key in keys:
        if key not in signature.annotations and not signature.open:
            known = [k for k in signature.annotations if k not in provided]
            yield f"{path}: {target} takes no {key!r}{did_you_mean(key, known)}"
            continue
        if OmegaConf.is_missing(node, key):
            counted = " (`segtrain check PATH` says how many there are)" if key == "num_classes" else ""
            yield f"{path}.{key} is not set: give {path}.{key}=VALUE{counted}"
            continue
        try:
            value = node[key]
        except InterpolationToMissingValueError:  # the value that is missing is reported where it stands
            continue
        except OmegaConfBaseException as error:
            yield f"{path}.{key}: {str(error).splitlines()[0]}"
            continue
        if isinstance(value, DictConfig) and "_target_" in value:
            yield from _node_mistakes(value, f"{path}.{key}", set(), below)
        elif isinstance(value, ListConfig) and any(isinstance(v, DictConfig) and "_target_" in v for v in value):
            for i, item in enumerate(value):
                yield from _node_mistakes(item, f"{path}.{key}[{i}]", set(), below)
        elif found := mistake(_unwrapped(value), signature.annotations.get(key, Any)):
            yield f"{path}.{key}={_unwrapped(value)!r} {found}"
    for name in sorted(provided - {"strict", *signature.annotations}) if not signature.open else []:
        yield f"{path}: {target} is given {name!r}, which it does not take: name a class or function that does"
    missing = [name for name in signature.required if name not in keys and name not in provided]
    if set(missing) & set(OF_A_CALL) and is_function(target):
        yield f"{path}: {target} is a function of {', '.join(missing)}: name a class, whose objects are called with them"
        return
    for name in missing:
        yield f"{path}: {target} needs {name!r}: give +{path}.{name}=VALUE"


def _unwrapped(value):
    if not OmegaConf.is_config(value):
        return value
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=False)


def reads_class_weights(cfg: DictConfig) -> bool:
    """Whether any node holds `${class_weights}`, or in a saved config the very weights."""
    if "${class_weights}" in OmegaConf.to_yaml(cfg, resolve=False):
        return True
    content = OmegaConf.to_container(cfg, resolve=True)
    weights = content.pop("class_weights", None)
    return weights is not None and replaced(content, weights, None) != content


def _weighting_mistakes(cfg: DictConfig) -> list[str]:
    given = cfg.get("class_weights")
    if reads_class_weights(cfg) or (given is None and cfg.weighting._target_ == "segtrain.weighting.NoWeighting"):
        return []
    what = f"the weighting ({cfg.weighting._target_}) has" if given is None else "class_weights have"
    return [
        f"{what} no effect: the loss does not use ${{class_weights}}. Set "
        "weighting=none, choose a loss with a pixel term, or give the loss 'loss.class_weights=${class_weights}'"
    ]


def config_error(mistakes: list[str], where: str = "") -> ConfigError:
    """One error for all mistakes, of a file when the config was saved."""
    fix = "`segtrain --cfg job` prints the whole config, `segtrain help` the options of each group"
    if topic := re.match(rf"({'|'.join(PARTS)}|sweep)\b", mistakes[0]):
        fix = f"`segtrain help {topic[1]}` explains these settings, `segtrain --cfg job` prints the whole config"
    if unknown := [f"'~{m[1]}.{m[2]}'" for text in mistakes if (m := re.match(r"(\S+): \S+ takes no '(\w+)'", text))]:
        fix = f"correct the name, or leave out what belongs to another option: {' '.join(unknown)}"
    if mistakes[0].startswith("no folder"):
        fix = "correct the path"
    if where:
        fix = "correct the setting, or use the file the run wrote"
    if len(mistakes) == 1:
        return ConfigError(mistakes[0], where, fix)
    return ConfigError(f"{len(mistakes)} mistakes\n" + "\n".join(f"  - {m}" for m in mistakes), where, fix)


def flat(cfg) -> dict[str, object]:
    """`{"loss.alpha": 0.25, …}`: every leaf by its dotted key; lists are leaves."""
    leaves = {}
    for key, value in (cfg if isinstance(cfg, dict) else OmegaConf.to_container(cfg, resolve=True)).items():
        below = flat(value) if isinstance(value, dict) else None
        leaves |= {f"{key}.{k}": v for k, v in below.items()} if below else {key: value}
    return leaves


def replaced(value, old, new):
    """A config's content with `new` in place of `old`, inside its dicts and lists too."""
    if value == old:
        return new
    if isinstance(value, dict):
        return {key: replaced(item, old, new) for key, item in value.items()}
    return [replaced(item, old, new) for item in value] if isinstance(value, list) else value


CLASS_WEIGHTS = "${class_weights}"  # what a loss holds that reads them


def as_text(cfg: DictConfig, weights_known: bool = True) -> str:
    """The resolved config as YAML, to be read back by load_saved.

    While the class weights are not known, what reads them stays `${class_weights}`.
    """
    if weights_known or cfg.class_weights is not None:
        return OmegaConf.to_yaml(cfg, resolve=True)
    cfg = cfg.copy()
    cfg.class_weights = placeholder = "not known yet"
    content = replaced(OmegaConf.to_container(cfg, resolve=True), placeholder, CLASS_WEIGHTS)
    return OmegaConf.to_yaml(OmegaConf.create({**content, "class_weights": None}))
