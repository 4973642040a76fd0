"""The console script: the first word without '=' is a command, anything else trains."""

import errno
import os
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path

from segtrain.cpu import keep_memory
from segtrain.errors import ConfigError, DiskError, Preempted, SegtrainError, did_you_mean

COMMANDS = {
    "check": "check key=value … [--out DIR]     read every file of a dataset and say what is wrong with it",
    "weights": "weights key=value …              count the masks; counts and every weighting side by side",
    "evaluate": "evaluate RUN [key=value …]       score a finished run on its validation images again",
    "resume": "resume RUN                       continue a run in its own folder",
    "compare": "compare RUN_OR_SWEEP … [--out DIR] settings that differ against scores, best first",
}
HELP = """segtrain trains segmentation models on badly imbalanced classes.

  segtrain key=value …                      train; -m sweeps over values with commas
{commands}
  segtrain help, segtrain --help            this text, and the options of each group

"""


def main() -> None:
    """Run the command line; exits with the codes 0 ok, 2 config, 3 data, 4 memory, 5 disk, 6 not finite, 75, 130."""
    # Hydra would print a traceback of its own and exit with 1: with its full errors, they come to us instead.
    verbose = os.environ.get("HYDRA_FULL_ERROR") == "1" or "debug=true" in map(str.lower, sys.argv)
    os.environ["HYDRA_FULL_ERROR"] = "1"
    keep_memory()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a user's own package beside the config, as with `python -m`
    try:
        sys.exit(_dispatch(sys.argv[1:]))
    except SegtrainError as error:
        if verbose:
            raise
        print(f"\n{error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # … | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if verbose or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        print(
            f"\n{DiskError(error.strerror, str(error.filename or ''), 'free space, or write elsewhere')}",
            file=sys.stderr,
        )
        sys.exit(DiskError.exit_code)


def _dispatch(words: list[str]) -> int:
    if words[:1] in (["help"], ["--help"], ["-h"]):
        print(HELP.format(commands="\n".join(f"  segtrain {line}" for line in COMMANDS.values())))
        return _train(["--help"])
    if words and not words[0].startswith("-") and "=" not in words[0]:
        command = words[0]
        if command not in COMMANDS:
            raise ConfigError(
                f"no command {command!r}{did_you_mean(command, COMMANDS)}",
                fix=f"commands: {', '.join(COMMANDS)}; settings are written key=value; `segtrain help` lists all",
            )
        return import_module(f"segtrain.commands.{command}").main(words[1:])
    return _train(words)


def _train(words: list[str]) -> int:
    import hydra
    from hydra._internal.utils import get_args_parser

    from segtrain.config.compose import SEARCH_PATH, register_resolvers

    register_resolvers()
    arguments = get_args_parser().parse_args(words)
    shows = ("help", "hydra_help", "cfg", "info", "shell_completion")
    if not any(getattr(arguments, name) for name in shows):
        words = words + _prepare(arguments)
    sys.argv = [sys.argv[0], *words]
    failures: list[SegtrainError] = []

    def single(cfg) -> float | None:
        """Hydra announces an error in words of its own: a run's expected failure is kept from it, for `main`."""
        try:
            return _job(cfg)
        except SegtrainError as error:
            failures.append(error)
            return None

    task = _job if arguments.multirun else single
    hydra.main(version_base="1.3", config_path=SEARCH_PATH, config_name="config")(task)()
    if failures:
        raise failures[0]
    return 0


def _prepare(arguments) -> list[str]:
    """Check the config of every job and make the run's or sweep's folder; returns overrides that fix its place."""
    from segtrain.config.compose import compose, output_folder, without_hydra
    from segtrain.config.schema import check_config
    from segtrain.runs.folder import make_run_folder

    sweep = arguments.multirun
    cfg = compose(arguments.overrides, arguments.config_dir, arguments.config_name, sweep=sweep)
    if not sweep:
        check_config(without_hydra(cfg))
        folder = make_run_folder(output_folder(cfg, "hydra.run.dir"))
        return [f"hydra.run.dir={_quoted(folder)}"]
    swept = _check_sweep(cfg, arguments)
    folder = make_run_folder(output_folder(cfg, "hydra.sweep.dir"))
    fixed = sorted({o.split("=", 1)[0].lstrip("+~") for o in cfg.hydra.overrides.task} - swept)
    return [
        f"hydra.sweep.dir={_quoted(folder)}",
        f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]",
    ]


def _check_sweep(cfg, arguments) -> set[str]:
    """Check every combination, as far as the sweeper is Hydra's own; returns the keys that are swept."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from segtrain.config.compose import compose, without_hydra
    from segtrain.config.schema import check_config, config_error

    overrides = OverridesParser.create().parse_overrides(list(cfg.hydra.overrides.task))
    swept = {o.key_or_group for o in overrides if o.is_sweep_override()}
    if not cfg.hydra.sweeper._target_.endswith("BasicSweeper"):
        return swept
    jobs = [job for batch in BasicSweeper.split_arguments(overrides, None) for job in batch]
    hydra_overrides = [o for o in arguments.overrides if o.lstrip("+~").startswith("hydra")]
    mistakes = {}
    for job in jobs[:200]:  # a twentieth of a second each
        try:
            check_config(without_hydra(compose([*job, *hydra_overrides], arguments.config_dir, arguments.config_name)))
        except ConfigError as error:
            mistakes.setdefault(error.what, " ".join(o for o in job if o.split("=")[0] in swept))
    if len(jobs) > 200:
        print(f"checked the first 200 of {len(jobs)} jobs", file=sys.stderr)
    if mistakes:
        raise config_error([f"{what} (in the job {job})" for what, job in mistakes.items()])
    return swept


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _job(cfg) -> float | None:
    """One training, in the folder that Hydra has made for it."""
    from hydra.core.hydra_config import HydraConfig

    from segtrain.commands.train import train
    from segtrain.config.compose import register_resolvers
    from segtrain.runs.folder import RunFolder

    def stop(*_) -> None:
        raise Preempted("stopped by SIGTERM before the first step")

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    register_resolvers()
    try:
        with RunFolder(HydraConfig.get().runtime.output_dir) as run:
            return train(cfg, run)
    except Preempted as error:  # as an ordinary error, Hydra would go on with the next job of the sweep
        print(f"\n{error}", file=sys.stderr)
        sys.exit(error.exit_code)
