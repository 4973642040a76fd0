"""Launch one job, or the jobs of a sweep, with Hydra."""

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from segtrain.config import internals
from segtrain.config.compose import compose, folder_of, register_resolvers, without_hydra
from segtrain.config.schema import check_config, config_error
from segtrain.errors import ConfigError

Task = Callable[[DictConfig, Path], float | None]
MakeFolder = Callable[[Callable[[], Path]], Path]
SHOWS = ("help", "hydra_help", "cfg", "info", "shell_completion")  # options that print and do not run


def checked_config(arguments: Namespace) -> DictConfig:
    """The config of parsed arguments, without Hydra's node. Raises ConfigError with every mistake."""
    cfg = without_hydra(compose(arguments.overrides, arguments.config_dir, arguments.config_name))
    check_config(cfg)
    return cfg


def launch(words: list[str], task: Task, make_folder: MakeFolder) -> None:
    """Call `task(config, folder)` once, or with -m for every combination, or print help or the config.

    Args:
        make_folder: makes the folder of the run or sweep of the name it asks for; called when the config has no mistake.

    Raises what the task raises, and ConfigError with every mistake of the config.
    """
    register_resolvers()
    arguments = internals.parser().parse_args(words)
    if any(vars(arguments)[name] for name in SHOWS):
        internals.show(arguments)
    elif arguments.multirun:
        _sweep(arguments, task, make_folder)
    else:
        _run(arguments, task, make_folder)


def _run(arguments: Namespace, task: Task, make_folder: MakeFolder) -> None:
    from hydra.core.utils import run_job
    from hydra.types import RunMode

    cfg = compose(arguments.overrides, arguments.config_dir, arguments.config_name)
    check_config(without_hydra(cfg))
    folder = make_folder(lambda: folder_of(cfg, "hydra.run.dir"))
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.run.dir, cfg.hydra.mode = str(folder), RunMode.RUN
    failures: list[Exception] = []

    def job(cfg: DictConfig) -> float | None:
        try:
            return task(cfg, folder)
        except Exception as error:  # raised below: Hydra would announce it in words of its own
            failures.append(error)
            return None

    run_job(job, cfg, "hydra.run.dir", None, internals.context(cfg, internals.config_loader(arguments.config_dir)))
    if failures:
        raise failures[0]


def _sweep(arguments: Namespace, task: Task, make_folder: MakeFolder) -> None:
    from hydra.core.plugins import Plugins
    from hydra.types import RunMode

    cfg = compose(arguments.overrides, arguments.config_dir, arguments.config_name, sweep=True)
    swept = _check_jobs(cfg, arguments)
    folder = make_folder(lambda: folder_of(cfg, "hydra.sweep.dir"))
    fixed = sorted({o.split("=", 1)[0].lstrip("+~") for o in cfg.hydra.overrides.task} - swept)
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.sweep.dir, cfg.hydra.mode = str(folder), RunMode.MULTIRUN
        cfg.hydra.overrides.hydra += [  # from which each job is composed
            f"hydra.sweep.dir={_quoted(folder)}",
            f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]",
        ]

    def job(cfg: DictConfig) -> float | None:
        from hydra.core.hydra_config import HydraConfig

        register_resolvers()  # this may be another process
        check_config(cfg)
        return task(cfg, Path(HydraConfig.get().runtime.output_dir))

    context = internals.context(cfg, internals.config_loader(arguments.config_dir))
    sweeper = Plugins.instance().instantiate_sweeper(config=cfg, hydra_context=context, task_function=job)
    sweeper.sweep(arguments=OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False))


def _check_jobs(cfg: DictConfig, arguments: Namespace) -> set[str]:
    """Check every combination, as far as the sweeper is Hydra's own; returns the keys that are swept."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    overrides = OverridesParser.create().parse_overrides(list(cfg.hydra.overrides.task))
    swept = {o.key_or_group for o in overrides if o.is_sweep_override()}
    if not cfg.hydra.sweeper._target_.endswith("BasicSweeper"):
        return swept
    jobs = internals.jobs_of_sweep(overrides)
    hydra_overrides = [o for o in arguments.overrides if o.lstrip("+~").startswith("hydra")]
    mistakes = {}
    for job in jobs[:200]:  # a twentieth of a second each
        try:
            check_config(without_hydra(compose([*job, *hydra_overrides], arguments.config_dir, arguments.config_name)))
        except ConfigError as error:
            mistakes.setdefault(error.what, " ".join(o for o in job if o.split("=")[0] in swept))
    if len(jobs) > 200:
        print(f"checked the first 200 of {len(jobs)} jobs; the others are checked when they start", file=sys.stderr)
    if mistakes:
        raise config_error([f"{what} (in the job {job})" for what, job in mistakes.items()])
    return swept


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"
