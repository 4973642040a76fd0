"""`segtrain resume RUN`: continue a run in its own folder, from its last checkpoint; without one, from the start.

A setting may be changed when it is named: --allow trainer.epochs RUN trainer.epochs=40. Workers, device and how often
checkpoints are written are free.
"""

import argparse
from pathlib import Path

from segtrain.config.saved import load_saved
from segtrain.config.schema import check_config
from segtrain.errors import ConfigError
from segtrain.report.logger import log_to_screen
from segtrain.runs.environment import FREE, changes
from segtrain.runs.folder import RunFolder
from segtrain.signals import watched

LONGER = {"trainer.epochs", "trainer.max_steps", "trainer.patience"}  # settings with which a finished run goes on


def main(words: list[str]) -> int:
    usage = "segtrain resume RUN [key=value …] [--allow KEY] [--trust PACKAGE]"
    parser = argparse.ArgumentParser(prog="segtrain resume", usage=usage, description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that are to differ")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="KEY",
        help="a setting that may differ; `dataset` stands for its files",
    )
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="allow classes of this package")
    arguments = parser.parse_intermixed_args(words)
    if not (arguments.run / "config.yaml").is_file():
        raise ConfigError(f"{arguments.run} holds no run: config.yaml is missing", fix="name the folder of a run")
    if not (file := arguments.run / "environment.json").is_file():
        raise ConfigError("the record of the run's start is missing", str(file), "restore the file")
    with watched():
        run = RunFolder(arguments.run, arguments.allow)
        checkpoint = run.load_last()
        file = run.path / "config.yaml"
        cfg = load_saved(file, arguments.overrides, arguments.trust, changed=run.changed)
        check_config(cfg, str(file))
        free = [key for key in (text.partition("=")[0] for text in arguments.overrides) if key in FREE]
        changed = changes(run.settings(), cfg, [*arguments.allow, *free], str(file))
        if "trainer.monitor" in changed:
            what = "the best epoch so far was chosen by another score"
            raise ConfigError(what, "trainer.monitor", "start a new run, or evaluate the checkpoints")
        if run.result.status == "finished" and not changed.keys() & LONGER:
            fix = f"start a new run, or train on: `segtrain resume --allow trainer.epochs {run.path} trainer.epochs=NUMBER`"
            raise ConfigError("the run is finished", str(run.path), fix)
        log_to_screen(run.path / "segtrain.log")
        from segtrain.commands.train import train

        with run:
            run.add_start(changed)
            train(cfg, run, checkpoint)
    return 0
