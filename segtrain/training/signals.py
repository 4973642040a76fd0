"""Ending a run on Ctrl-C and SIGTERM without losing what it has done."""

import contextlib
import signal
from collections.abc import Callable


@contextlib.contextmanager
def stopped_by_signals(stop: Callable):
    """Call `stop` on Ctrl-C and on SIGTERM, which schedulers send some seconds before they kill."""
    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, as under some launchers: their own handling stays
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
