"""Launch one job, or the jobs of a sweep, with Hydra."""

import os
import shlex
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, run_job
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from segtrain.config import internals
from segtrain.config.compose import compose, folder_of, register_resolvers, without_hydra
from segtrain.config.schema import check_config, config_error
from segtrain.config.space import SWEEPER, check_keys, search_space
from segtrain.cpu import cores, share_cores
from segtrain.errors import ConfigError, SegtrainError
from segtrain.signals import may_start_job, passed_on

Task = Callable[[DictConfig, Path], float | None]
MakeFolder = Callable[[Callable[[], Path]], Path]
SHOWS = ("hydra_help", "cfg", "info", "shell_completion")  # options that print and do not run


def parsed(words: list[str]) -> Namespace:
    """What a command line of Hydra gives, of any command of segtrain: overrides, config_dir, config_name, …"""
    return internals.parser().parse_known_args(words)[0]


def checked_config(arguments: Namespace) -> DictConfig:
    """The config of parsed arguments, without Hydra's node. Raises ConfigError with every mistake."""
    return composed(arguments.overrides, arguments)[0]


def composed(overrides: list[str], arguments: Namespace) -> tuple[DictConfig, dict[str, str]]:
    """A checked config without Hydra's node, and the option chosen of each group. Raises ConfigError with every mistake."""
    with_hydra = compose(overrides, arguments.config_dir, arguments.config_name)
    cfg = without_hydra(with_hydra)
    check_config(cfg)
    return cfg, OmegaConf.to_container(with_hydra.hydra.runtime.choices)


class Job(NamedTuple):
    """A job of a sweep: the name of its folder, its overrides, its config, and the option chosen of each group."""

    name: str
    overrides: list[str]
    config: DictConfig
    choices: dict[str, str]


def launch(
    words: list[str],
    task: Task,
    make_folder: MakeFolder,
    begin_sweep: Callable[[Path, list[Job]], None],
    search: Callable[[Callable[[], Path], dict, list[Job]], None],
    writes: bool = True,
) -> None:
    """Call `task(config, folder)` once, or with -m for every combination, or search, or print help or the config.

    Args:
        make_folder: makes the folder of the run or sweep of the name it asks for; called when the config has no mistake.
        begin_sweep: is given the folder of a sweep and its jobs before the first one starts; none, when the sweeper
            chooses them on the way.
        search: is given what makes the folder of a search, its settings with the space, and a Job for each combination of
            options.
        writes: whether Hydra writes its files and a log; of several processes that train together one does.

    Raises what the task raises, and ConfigError with every mistake of the config.
    """
    register_resolvers()
    arguments = internals.parser().parse_args(words)
    arguments.overrides = internals.with_folder(arguments.overrides)
    for option in ("config_path", "experimental_rerun"):
        if vars(arguments)[option] is not None:
            fix = "--config-dir DIR adds a folder of your YAML files; `segtrain repeat RUN` repeats a run"
            raise ConfigError("segtrain does not take this option of Hydra", f"--{option.replace('_', '-')}", fix)
    if any(vars(arguments)[name] for name in SHOWS):
        if arguments.cfg and arguments.multirun:
            raise ConfigError("-m and --cfg: each job of a sweep has a config of its own", fix="leave out -m")
        if arguments.cfg:  # Hydra's words for a mistake are a traceback
            compose(arguments.overrides, arguments.config_dir, arguments.config_name)
        internals.show(arguments)
    elif arguments.multirun:
        _sweep(arguments, task, make_folder, begin_sweep, search)
    else:
        _run(arguments, task, make_folder, writes)


def check_single(cfg: DictConfig) -> None:
    """Raise ConfigError with every mistake of the composed config of a single run."""
    given = {word.partition("=")[0].lstrip("+") for word in cfg.hydra.overrides.task}
    if params := [key for key in cfg.hydra.sweeper.get("params") or () if key not in given]:
        what = f"the experiment sweeps {', '.join(params)}: a single run would ignore that"
        words = [word for word in cfg.hydra.overrides.task if word.startswith("experiment=")]
        raise ConfigError(what, " ".join(words) or "hydra.sweeper.params", "add -m")
    check_config(without_hydra(cfg))


def _run(arguments: Namespace, task: Task, make_folder: MakeFolder, writes: bool) -> None:
    cfg = compose(arguments.overrides, arguments.config_dir, arguments.config_name)
    check_single(cfg)
    _refuse_chdir(cfg)
    folder = make_folder(lambda: folder_of(cfg, "hydra.run.dir"))
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.run.dir, cfg.hydra.mode = str(folder), RunMode.RUN
        cfg.hydra.output_subdir = cfg.hydra.output_subdir if writes else None
    context = internals.context(cfg, internals.config_loader(arguments.config_dir))
    done = run_job(lambda cfg: task(cfg, folder), cfg, "hydra.run.dir", None, context, configure_logging=writes)
    if done.status == JobStatus.FAILED:
        raise done._return_value  # its `return_value` would announce the error in words of its own


def _sweep(arguments: Namespace, task: Task, make_folder: MakeFolder, begin_sweep, search) -> None:
    cfg = compose(arguments.overrides, arguments.config_dir, arguments.config_name, sweep=True)
    _refuse_chdir(cfg)
    if cfg.hydra.sweeper._target_ == SWEEPER:
        settings, templates = _space(cfg, arguments)
        search(lambda: make_folder(lambda: folder_of(cfg, "hydra.sweep.dir")), settings, templates)
        return
    swept, jobs = _checked_jobs(cfg, arguments)
    folder = make_folder(lambda: folder_of(cfg, "hydra.sweep.dir"))
    fixed = sorted({o.split("=", 1)[0].lstrip("+~") for o in cfg.hydra.overrides.task} - swept)
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.sweep.dir, cfg.hydra.mode = str(folder), RunMode.MULTIRUN
        cfg.hydra.overrides.hydra += [  # from which each job is composed
            f"hydra.sweep.dir='{quoted}'",
            f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]",
        ]

    names = [_job_folder(cfg, number, overrides, fixed) for number, (overrides, *_) in enumerate(jobs)]
    begin_sweep(folder, [Job(name, *job) for name, job in zip(names, jobs, strict=True)])

    sweeping = os.getpid()

    def job(cfg: DictConfig) -> float | None:
        if os.getpid() != sweeping and at_once > 1 and not may_start_job():
            return None
        register_resolvers()  # this may be another process
        check_config(cfg)
        return task(cfg, Path(HydraConfig.get().runtime.output_dir))

    at_once = 1
    if cfg.hydra.launcher._target_.endswith("JoblibLauncher"):
        at_once = cfg.hydra.launcher.n_jobs
        at_once = min(at_once if at_once > 0 else cores() + 1 + at_once, len(jobs) or cores())
        share_cores(at_once)
        with read_write(cfg.hydra):  # a process without a job would die of Ctrl-C, and joblib kill the others for it
            cfg.hydra.launcher.n_jobs = at_once
    context = internals.context(cfg, internals.config_loader(arguments.config_dir))
    sweeper = Plugins.instance().instantiate_sweeper(config=cfg, hydra_context=context, task_function=job)
    try:
        with passed_on() if at_once > 1 else nullcontext():
            sweeper.sweep(arguments=OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False))
    except Exception as error:
        if type(error).__name__ != "TerminatedWorkerError":  # joblib's, which is not installed everywhere
            raise
        what = "a training process was killed, perhaps because memory ran out, and joblib ended the others"
        fix = f"`segtrain resume {shlex.quote(str(folder))}` continues them"
        raise SegtrainError(what, str(folder), fix) from error


def _refuse_chdir(cfg: DictConfig) -> None:
    """Raise ConfigError for a change of the working directory, after which the config's relative paths lead elsewhere."""
    if cfg.hydra.job.chdir:
        fix = "leave it out: a run writes only into its own folder anyway"
        raise ConfigError("segtrain does not change the working directory", "hydra.job.chdir=true", fix)


def _space(cfg: DictConfig, arguments: Namespace) -> tuple[dict, list[Job]]:
    """Settings of a search with its space, and a job for each combination of options, without the settings searched."""
    overrides = list({override.key_or_group: override for override in _parsed(cfg, arguments)}.values())
    space, combinations = search_space(cfg, overrides)
    fixed = [override.input_line for override in overrides if not override.is_sweep_override()]
    templates = []
    for number, options in enumerate(combinations):
        words = [f"{group}={option}" for group, option in options.items()]
        one, choices = composed([*fixed, *words], arguments)
        check_keys(one, space, options)
        templates.append(Job(f"{number:03d}", words, one, choices))
    sweeper = OmegaConf.to_container(cfg.hydra.sweeper, resolve=True)
    settings = {key: value for key, value in sweeper.items() if key not in ("_target_", "params")}
    return {**settings, "space": space, "fixed": fixed}, templates


def _parsed(cfg: DictConfig, arguments: Namespace) -> list:
    """The overrides of the sweep that an experiment has, then those of the command line."""
    words = [f"{key}={values}" for key, values in (cfg.hydra.sweeper.get("params") or {}).items()]
    loader = internals.config_loader(arguments.config_dir)  # knows the options that glob(*) stands for
    return OverridesParser.create(config_loader=loader).parse_overrides([*words, *cfg.hydra.overrides.task])


def _checked_jobs(
    cfg: DictConfig, arguments: Namespace
) -> tuple[set[str], list[tuple[list[str], DictConfig, dict[str, str]]]]:
    """The keys that are swept, and the overrides, config and chosen options of every job, where the sweeper is Hydra's own.

    Raises ConfigError with the mistakes of all jobs.
    """
    overrides = _parsed(cfg, arguments)
    last = {override.key_or_group: override for override in overrides}  # the command line wins over an experiment
    swept = {key for key, override in last.items() if override.is_sweep_override()}
    if not cfg.hydra.sweeper._target_.endswith("BasicSweeper"):
        return swept, []
    if not swept and cfg.hydra.launcher._target_.endswith("BasicLauncher"):
        fix = "give a setting several values: segtrain -m loss.alpha=0,0.25,1 seed=0,1,2; or leave out -m"
        raise ConfigError("nothing to sweep", "-m", fix)
    if ranges := [override.input_line for override in overrides if override.is_interval_sweep()]:
        fix = "add hydra/sweeper=optuna, which draws values from it; or name the values: loss.alpha=0,0.25,1"
        raise ConfigError("Hydra's own sweeper cannot draw values from an interval", ranges[0], fix)
    jobs = internals.jobs_of_sweep(overrides)
    if not jobs:
        empty = " ".join(override.input_line for override in overrides if override.is_sweep_override())
        fix = "range(START,STOP,STEP) ends before STOP, and glob needs an option that its pattern fits"
        raise ConfigError("nothing to sweep: a range or glob without values", empty, fix)
    hydra_overrides = [o for o in arguments.overrides if o.lstrip("+~").startswith("hydra")]
    mistakes, found = {}, []
    for job in jobs:  # a twentieth of a second each
        try:
            one, choices = composed([*job, *hydra_overrides], arguments)
            found.append((job, one, choices))
        except ConfigError as error:
            what = f"{error.what}, {error.where}" if error.where else error.what
            mistakes.setdefault(what, " ".join(o for o in job if o.split("=")[0] in swept))
    if mistakes:
        raise config_error([f"{what} (in the job {job})" for what, job in mistakes.items()])
    return swept, found


def _job_folder(cfg: DictConfig, number: int, overrides: list[str], fixed: list[str]) -> str:
    """The name of a job's folder, as Hydra will make it."""
    cfg = cfg.copy()
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.job.num, cfg.hydra.job.override_dirname = number, internals.dirname_of(overrides, fixed)
    return str(folder_of(cfg, "hydra.sweep.subdir"))
