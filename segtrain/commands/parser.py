"""The parser of a command's words, whose errors are like all others."""

import argparse
import inspect
import re
from pathlib import Path
from typing import NoReturn

from segtrain.config.internals import with_folder
from segtrain.errors import ConfigError, did_you_mean


class Parser(argparse.ArgumentParser):
    """argparse's, with a description as it stands, and a ConfigError instead of an exit."""

    def __init__(self, command: str, about: str | None):
        description, formatter = inspect.cleandoc(about or ""), argparse.RawDescriptionHelpFormatter
        super().__init__(f"segtrain {command}", description=description, formatter_class=formatter)

    def add_run(self) -> None:
        self.add_argument("run", type=Path, metavar="RUN", help="folder of a run")

    def add_settings(self) -> None:
        """Settings as a training takes them, for `parse_settings`."""
        self.add_argument(
            "overrides",
            nargs="*",
            metavar="key=value",
            help="settings; FOLDER alone stands for dataset=folder dataset.root=FOLDER; all commands but check need dataset.num_classes=N",
        )
        self.add_argument("--config-dir", "-cd", metavar="DIR", help="folder with the YAML files of your own options")
        self.add_argument("--config-name", "-cn", metavar="NAME", help="another config instead of `config`")

    def parse_settings(self, words: list[str]) -> argparse.Namespace:
        arguments = self.parse_intermixed_args(words)
        arguments.overrides = with_folder(arguments.overrides)
        return arguments

    def add_trust(self) -> None:
        self.add_argument(
            "--trust", action="append", default=[], metavar="PACKAGE", help="allow classes from this package of yours"
        )

    def add_checkpoint(self) -> None:
        self.add_argument("--checkpoint", default="best", choices=["best", "last"])

    def error(self, message: str) -> NoReturn:
        if option := re.search(r"unrecognized arguments: (--[\w-]+)", message):
            known = [word for action in self._actions for word in action.option_strings if word.startswith("--")]
            message = f"no option {option[1]}{did_you_mean(option[1], known)}"
        usage = " ".join(self.format_usage().split()).removeprefix("usage: ").replace(" [-h]", "")
        raise ConfigError(message, self.prog, f"{usage}; `{self.prog} --help` explains it")
