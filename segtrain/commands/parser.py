"""The parser of a command's words, whose errors are like all others."""

import argparse
from typing import NoReturn

from segtrain.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse's, with the command's docstring as it stands, and a ConfigError instead of an exit.

    Args:
        prog: `segtrain COMMAND`.
        about: the docstring of the command's module.
        usage: None: made of the arguments.
    """

    def __init__(self, prog: str, about: str | None, usage: str | None = None):
        super().__init__(prog, usage, about, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        usage = " ".join(self.format_usage().split()).removeprefix("usage: ")
        raise ConfigError(message, self.prog, f"{usage}; `{self.prog} --help` explains it")
