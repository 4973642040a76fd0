"""The console script: the first word without '=' is a command, anything else trains."""

import contextlib
import errno
import logging
import os
import signal
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import segtrain
from segtrain.commands import COMMANDS
from segtrain.cpu import importing, keep_memory, let_waiting_threads_sleep
from segtrain.errors import ConfigError, DiskError, Preempted, SegtrainError, did_you_mean, out_of_memory_explained
from segtrain.ranks import Processes, refuse_several, together
from segtrain.signals import is_job, watched

FIRST = ("--config-dir", "-cd", "--config-name", "-cn")  # options that may stand before a command


def main() -> None:
    """Run the command line; exits with the codes 0 ok, 2 config, 3 data, 4 memory, 5 disk, 6 not finite, 75, 130."""
    # Hydra would print a traceback of its own and exit with 1: with its full errors, they come to us instead.
    verbose = os.environ.get("HYDRA_FULL_ERROR") == "1" or "debug=true" in map(str.lower, sys.argv)
    os.environ["HYDRA_FULL_ERROR"] = "1"
    keep_memory()
    let_waiting_threads_sleep()
    logging.raiseExceptions = False  # a log that cannot be written, as on a full disk, is no error
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a user's own package beside the config, as with `python -m`
    try:
        with out_of_memory_explained():
            sys.exit(_dispatch(sys.argv[1:]))
    except SegtrainError as error:
        if verbose:
            raise
        _say(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # … | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if verbose or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        fix = "check who may read and write it" if error.errno == errno.EACCES else "free space, or write elsewhere"
        _say(DiskError(error.strerror, str(error.filename or ""), fix))
        sys.exit(DiskError.exit_code)


def _say(error: SegtrainError | str) -> None:
    """Print what ended the command; of several processes the first one does."""
    if os.environ.get("RANK", "0") == "0":
        print(f"\n{error}", file=sys.stderr)


def _dispatch(words: list[str]) -> int:
    first = 0  # word after the options before a command
    while first < len(words) and words[first].partition("=")[0] in FIRST:
        first += 1 if "=" in words[first] else 2
    if words[first : first + 1] and words[first] in (*COMMANDS, "help", "train"):
        words = [words[first], *words[:first], *words[first + 1 :]]
    command, rest = (words[0], words[1:]) if words else (None, [])
    if command == "help" and len(rest) == 1 and rest[0] in COMMANDS:
        command, rest = rest[0], ["--help"]
    if command == "help":
        return run_command("help", rest if rest != ["train"] else [])
    if command == "train":  # what a run without a command does
        command, words = None, rest
    if words in (["--version"], ["-V"]):
        print(f"segtrain {segtrain.__version__}")
        return 0
    if command in ("-sc", "--shell-completion") and words[-1].startswith("query="):
        return _complete(words)
    if command is None or command.startswith(("-", "~")) or "=" in command:
        return _train(words)
    if command not in COMMANDS:
        raise _no_command(command)
    if command != "resume":
        refuse_several(f"`segtrain {command}`")
    return run_command(command, rest)


def _no_command(word: str) -> ConfigError:
    """The error for a first word that is neither a command nor a setting, by what it may be."""
    if Path(word).is_dir():
        fix = f"for a dataset: `segtrain check {word}`, `segtrain train {word} dataset.num_classes=N`; for a run: "
        return ConfigError(f"{word} is a folder, not a command", fix=f"{fix}`segtrain evaluate {word}`")
    if "." in word and "/" not in word and not Path(word).exists():
        return ConfigError(f"{word} has no value", fix=f"a setting is written key=value: {word}=VALUE")
    if "/" in word and not Path(word).exists():
        return ConfigError(f"no folder {word}", fix="correct the path; `segtrain help` lists the commands")
    fix = f"commands: {', '.join(COMMANDS)}; settings are written key=value; `segtrain help` lists all"
    return ConfigError(f"no command {word!r}{did_you_mean(word, COMMANDS)}", fix=fix)


def run_command(command: str, words: list[str]) -> int:
    """Run a command and return its exit code; mistakes in its words are found before its imports, which may take seconds."""
    arguments = import_module("segtrain.commands.parsers").PARSERS[command](words)
    with importing():
        module = import_module(f"segtrain.commands.{command.replace('-', '_')}")
    return module.main(arguments)


def _complete(words: list[str]) -> int:
    """Print what may follow what is typed in COMP_LINE: the names of commands, after `help` its topics, else the
    settings, by Hydra."""
    program, _, typed = os.environ.get("COMP_LINE", "").partition(" ")
    *before, last = typed.split(" ")
    if last.startswith("-"):  # options, which Hydra does not complete
        return 0
    if not before:
        print(*(command for command in COMMANDS if command.startswith(last)))
    if before == ["help"]:
        topics = import_module("segtrain.commands.help").topics()
        print(*(topic for topic in topics if topic.startswith(last)))
        return 0
    os.environ["COMP_LINE"] = " ".join([program, *(word for word in before if "=" in word), last])
    with contextlib.suppress(Exception):  # what Hydra cannot read, such as a path, it does not complete
        return _train(words)
    return 0


def _train(words: list[str]) -> int:
    if {"-h", "--help"} & {*words}:
        given = import_module("segtrain.config.internals").parser().parse_args(words)
        return run_command("help", [] if given.config_dir is None else ["--config-dir", given.config_dir])
    from segtrain.config.launch import launch
    from segtrain.report.sweep import jobs_table
    from segtrain.runs.claim import make_run_folder
    from segtrain.runs.sweep import begin_sweep, read_sweep

    if {"-m", "--multirun"} & {*words}:
        refuse_several("a sweep (-m)")
    sweeps: list[Path] = []
    codes: list[int] = []  # of a search by Optuna

    def begin(folder: Path, jobs: list) -> None:
        begin_sweep(folder, jobs)
        sweeps.extend([folder] if jobs else [])

    def search(*how) -> None:
        codes.append(import_module("segtrain.commands.search").begin(*how))

    try:
        with together() as processes:
            make_folder = lambda name: processes.once(lambda: make_run_folder(name))  # noqa: E731
            launch(words, partial(_job, processes=processes), make_folder, begin, search, processes.first)
    finally:
        for folder in sweeps:
            print(f"\n{jobs_table(read_sweep(folder), folder)}")
    return max(codes, default=0)


def _job(cfg, folder: Path, processes: Processes) -> float | None:
    """One training. What it needs is imported here, after a config has been found right."""
    from segtrain.runs.folder import RunFolder, SilentRunFolder

    run_folder = RunFolder if processes.first else SilentRunFolder
    try:
        with (
            watched(),
            run_folder(folder) as run,
            processes.failing_together(run.record_failure),
            out_of_memory_explained(),
        ):
            with importing():
                from segtrain.commands.train import job

            return job(cfg, run, processes)
    except SegtrainError as error:
        if isinstance(error, Preempted):
            if is_job():  # the process that runs the sweep tells of it
                return None
        elif not cfg.sweep.fail_fast:
            raise
        _say(error)
        sys.exit(error.exit_code)  # after an ordinary error, Hydra would go on with the next job of the sweep
