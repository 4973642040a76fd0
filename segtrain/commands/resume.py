"""`segtrain resume RUN`: continue a run in its own folder, from its last checkpoint; without one, from the start."""

import argparse
from pathlib import Path

from segtrain.commands.train import train
from segtrain.config.saved import load_saved
from segtrain.config.schema import check_config
from segtrain.errors import ConfigError
from segtrain.report.logger import log_to_screen
from segtrain.runs.folder import RunFolder


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="segtrain resume", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="allow classes of this package")
    arguments = parser.parse_args(words)
    cfg = load_saved(arguments.run / "config.yaml", [], arguments.trust)
    check_config(cfg)
    run = RunFolder(arguments.run)
    if run.result.status == "finished":
        raise ConfigError("the run is finished", str(run.path), "start a new run, with more trainer.epochs")
    log_to_screen(run.path / "segtrain.log")
    with run:
        train(cfg, run, resume=run.can_be_resumed)
    return 0
