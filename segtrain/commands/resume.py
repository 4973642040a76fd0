"""`segtrain resume`: continue a run, what is missing of a sweep, or a search."""

import logging
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from segtrain.config.choices import choices_of
from segtrain.config.launch import Job, composed, parsed
from segtrain.config.saved import load_saved, no_run
from segtrain.config.schema import check_config
from segtrain.errors import ConfigError, Preempted, Pruned, SegtrainError, counted, printable
from segtrain.files import read_json
from segtrain.ranks import ALONE, Processes, refuse_several, together
from segtrain.report.logger import log_to_screen
from segtrain.report.sweep import jobs_table
from segtrain.runs.claim import lock, unlock
from segtrain.runs.environment import FREE, changes
from segtrain.runs.folder import RunFolder, SilentRunFolder
from segtrain.runs.sweep import SweepJob, read_sweep, words_of, write_job
from segtrain.signals import watched

log = logging.getLogger("segtrain")

OF_LOSS = ("loss", "weighting", "class_weights")
LONGER = {"trainer.epochs", "trainer.max_steps", "trainer.patience"}  # settings with which a finished run goes on


def main(arguments: Namespace) -> int:
    for search in ("search", "find"):
        if (arguments.run / f"{search}.json").is_file():
            refuse_several("a search")
            if given := [*arguments.overrides, *(f"--allow {key}" for key in arguments.allow)]:
                fix = "leave it out, or resume one of the runs in it"
                raise ConfigError("a search can only continue with its own settings", " ".join(given), fix)
            return import_module(f"segtrain.commands.{search}").go_on(arguments.run, arguments.trust)
    if (arguments.run / "sweep.json").is_file():
        refuse_several("a sweep")
        return resume_sweep(arguments)
    with together() as processes:
        return resume(arguments.run, arguments.overrides, arguments.allow, arguments.trust, processes=processes)


def resume_sweep(arguments: Namespace) -> int:
    """Start what is missing of a sweep, continue what was interrupted or failed; the first failure's exit code."""
    lock(arguments.run)
    code = 0
    try:
        for job in read_sweep(arguments.run):
            if job.result.status == "finished" and not LONGER & {*arguments.allow}:
                continue
            print(printable(f"\n{job.result.status or 'not started'}: {job.folder.name}"))
            error = attempt(job, arguments.overrides, arguments.allow, arguments.trust)
            code = code or (error.exit_code if error else 0)
    finally:  # after Ctrl-C, too
        print(f"\n{jobs_table(read_sweep(arguments.run), arguments.run)}")
    return code


def attempt(job: SweepJob, overrides: list[str], allow: list[str], trust: list[str], **how) -> SegtrainError | None:
    """Start or continue a job as `resume` does; its error, which is printed, so that the other jobs go on."""
    try:
        if not any((job.folder / name).exists() for name in ("config.yaml", "environment.json", "checkpoints")):
            write_job(job.folder, again(job))
        job.check_unchanged()
        resume(job.folder, overrides, allow, trust, **how)
    except (Preempted, Pruned):
        raise
    except SegtrainError as error:
        unlock(job.folder)  # which is held when the run could not be read
        print(f"\n{error}", file=sys.stderr)
        return error
    return None


def again(job: SweepJob) -> Job:
    """A job whose folder was removed, from its overrides and the command of its sweep."""
    given = parsed(words_of(str(read_json(job.folder.parent / "sweep.json").get("command", ""))))
    return Job(job.folder.name, job.overrides, *composed(job.overrides, given))


def check_goes_on(run: RunFolder, checkpoint: dict | None, trainer, changed: dict, trust: list[str]) -> None:
    """Raise ConfigError for changes that a run cannot go on with, and when there is nothing to train.

    Args:
        trainer: the config of the trainer.
        changed: the settings that differ from those before, by dotted key.
    """
    try:
        load_saved(run.path / "config.yaml", [], trust, changed={**run.changed, **changed})  # as the next resume will
    except ConfigError as error:
        what = f"{error.what}: a mapping cannot change when a run is resumed"
        raise ConfigError(what, ", ".join(changed), "leave it as it was, or start a new run") from error
    if "trainer.monitor" in changed:
        what = "the best epoch so far was chosen by another score"
        raise ConfigError(what, "trainer.monitor", "start a new run, or evaluate the checkpoints")
    finished = run.result.status == "finished"
    ended = limits(checkpoint["state"], trainer) if checkpoint and (finished or changed.keys() & LONGER) else {}
    if not finished and not changed.keys() & ended.keys():
        return
    how = " ".join(f"--allow {key} {key}=NUMBER" for key in ended or ("trainer.epochs",))
    if not changed.keys() & LONGER:
        fix = f"start a new run, or train longer: `segtrain resume {shlex.quote(str(run.path))} {how}`"
        raise ConfigError("the run is finished", str(run.path), fix)
    if ended:
        raise ConfigError(
            f"nothing is left to train: {', '.join(ended.values())}", str(run.path), f"{how}, with a larger number"
        )


def limits(state: dict, trainer) -> dict[str, str]:
    """The settings that end a training which has come so far, with the reason of each."""
    found = {}
    for kind, name in (("epoch", "epochs"), ("step", "max_steps")):
        if trainer[name] is not None and state[kind] >= trainer[name]:
            found[f"trainer.{name}"] = f"{counted(state[kind], kind)} of trainer.{name}={trainer[name]}"
    waited = state["epoch"] - state["best"]["epoch"] if state["best"] else 0
    if trainer["patience"] is not None and waited >= trainer["patience"]:
        found["trainer.patience"] = (
            f"{counted(waited, 'epoch')} without a better one, trainer.patience={trainer['patience']}"
        )
    return found


def resume(
    path: Path,
    overrides: list[str],
    allow: list[str],
    trust: list[str],
    only_warnings=False,
    processes: Processes = ALONE,
    after_epoch: Callable = lambda epoch: None,
) -> int:
    """Continue a run, or start one of which there is only the config.

    Args:
        only_warnings: other log lines are for its file alone.
        processes: those that train the network together.
        after_epoch: of `train`.
    """
    if not (path / "config.yaml").is_file():
        raise no_run(path)
    started = (path / "checkpoints/last.pt").is_file()
    if not (file := path / "environment.json").is_file() and started:
        raise ConfigError("the record of the run's start is missing", str(file), "restore the file")
    with watched():
        run = (RunFolder if processes.first else SilentRunFolder)(path, allow)
        checkpoint = run.load_last()
        file = run.path / "config.yaml"
        cfg = load_saved(file, overrides, trust, changed=run.changed)
        check_config(cfg, str(file))
        free = [key for key in (text.partition("=")[0] for text in overrides) if key in FREE]
        changed = changes(run.settings(), cfg, [*allow, *free], str(file))
        check_goes_on(run, checkpoint, cfg.trainer, changed, trust)
        if checkpoint and any(key.split(".")[0] in OF_LOSS for key in changed) and checkpoint.pop("loss", None):
            log.warning("what the loss has learned or counted starts from scratch, because its settings were changed")
        if processes.first:
            log_to_screen(run.path / "segtrain.log", only_warnings)
        from segtrain.commands.train import train

        with run, processes.failing_together(run.record_failure):
            if read_json(path / "environment.json"):
                run.add_start(changed, cfg.trainer.device, processes.size)
            else:
                run.begin(cfg, processes.size, options=choices_of(path))
            train(cfg, run, checkpoint, processes=processes, after_epoch=after_epoch)
    return 0
