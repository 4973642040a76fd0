"""Wrappers around hydra._internal, which may change with a new version: the only file that imports it."""

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import NoReturn

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import _run_hydra, create_config_search_path, get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobRuntime, setup_globals
from hydra.types import HydraContext
from hydra.version import setbase

from segtrain.errors import ConfigError

SEARCH_PATH = "pkg://segtrain.configs"


def parser() -> ArgumentParser:
    """Hydra's own: overrides, -m, --config-dir, --config-name, --cfg, --help and so on."""
    found = get_args_parser()
    found.prog = "segtrain"

    def error(message: str) -> NoReturn:
        raise ConfigError(
            message,
            "segtrain",
            "settings are written key=value, such as trainer.epochs=3; `segtrain --help` lists them",
        )

    found.error = error
    return found


def with_folder(words: list[str]) -> list[str]:
    """The settings; a folder that is named alone stands for dataset=folder, unless another is chosen, and dataset.root=FOLDER.

    Raises ConfigError for several folders.
    """
    # a path with = in it has a space or a / before; no key has the one, and few the other
    named = [word for word in words if "=" not in word or {*" /"} & {*word.partition("=")[0]}]
    folders = [word for word in named if Path(word).is_dir()]
    if len(folders) > 1:
        raise ConfigError(
            f"{len(folders)} folders are given", ", ".join(folders), "give only the folder of the dataset"
        )
    for word in folders:
        settings = [] if any(other.startswith("dataset=") for other in words) else ["dataset=folder"]
        quoted = word if re.fullmatch(r"[\w./-]+", word) else f"'{word}'" if "'" not in word else f'"{word}"'
        settings.append(f"dataset.root={quoted}")
        print(f"reading {word} as {' '.join(settings)}")
        place = words.index(word)
        words = [*words[:place], *settings, *words[place + 1 :]]
    return words


def config_loader(config_dir: str | None = None):
    """Hydra's loader for the configs in `config_dir` and segtrain's. Raises ConfigError when there is no such folder."""
    search_path = create_config_search_path(SEARCH_PATH)
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise ConfigError(f"no folder {config_dir}", "--config-dir", "name the folder that holds your YAML files")
        search_path.prepend("command-line", f"file://{Path(config_dir).resolve()}")
    return ConfigLoaderImpl(search_path)


def context(cfg, loader):
    """Set Hydra's global state; return the context that its jobs are given."""
    setbase("1.3")
    setup_globals()
    JobRuntime.instance().set("name", "segtrain")
    return HydraContext(config_loader=loader, callbacks=Callbacks(cfg))


def jobs_of_sweep(overrides: list) -> list[list[str]]:
    """The overrides of each job of Hydra's own sweeper."""
    return [job for batch in BasicSweeper.split_arguments(overrides, None) for job in batch]


def dirname_of(overrides: list[str], fixed: list[str]) -> str:
    """`hydra.job.override_dirname` of a job, without the overrides that all jobs have."""
    return get_overrides_dirname(OverridesParser.create().parse_overrides(overrides), set(fixed), ",", "=")


def show(arguments: Namespace) -> None:
    """Print what --cfg, --info, --hydra-help and such ask for."""
    setbase("1.3")
    _run_hydra(arguments, parser(), lambda cfg: None, SEARCH_PATH, "config")
