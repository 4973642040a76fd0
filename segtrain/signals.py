"""Stop signals set a flag that is checked between two steps, so that what is done is not lost."""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

from segtrain.errors import Preempted

log = logging.getLogger("segtrain")

# Ctrl-C; a scheduler's end of time; what Slurm and submitit send before it.
STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
CHAINED = STOPS[2:]
DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
AT_ONCE_SECONDS = 5.0  # a second signal within this time does not wait for the step

PASSING_SECONDS = 1.0  # in which a job may get a signal twice: that to all processes, and the one passed on

AGAIN_SECONDS = 0.5

_watching = False
_told: set[int] = set()  # processes to which the last stop signal was passed on
_job = False  # whether this process trains jobs of a sweep that another one runs
_received: signal.Signals | None = None
_received_at = 0.0


def leave_if_stopped() -> None:
    """Raise KeyboardInterrupt after Ctrl-C, Preempted after another stop signal, nothing without one."""
    _leave_after(_received)


def _leave_after(number: signal.Signals | None) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number is not None:
        raise Preempted(f"stopped by {number.name}")


def received() -> int:
    """The number of the stop signal that came; 0: none."""
    return _received or 0


def receive(number: int) -> None:
    """Take note of a stop signal that another process received; 0: none."""
    global _received
    if number and _received is None:
        _received = signal.Signals(number)


@contextlib.contextmanager
def passed_on():
    """Within this, stop signals are passed on as SIGTERM to the processes that this one has started, and it waits for them.

    Raises KeyboardInterrupt after Ctrl-C and Preempted after another stop signal.
    """
    global _received
    _received = None
    known = [number for number in STOPS if signal.getsignal(number) in DEFAULTS]
    before = {number: signal.signal(number, _pass_on) for number in [*known, signal.SIGALRM]}
    try:
        yield
    except Exception:
        if _received is None:  # else it is that of jobs which the signal has ended; the table of jobs has them
            raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        came, _received = _received, None
    _leave_after(came)


def _pass_on(number: int, _frame) -> None:
    if number != signal.SIGALRM:
        receive(number)
        _told.clear()
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS, AGAIN_SECONDS)  # for those that are not ready yet
    processes = multiprocessing.active_children()
    for process in processes:
        if process.pid not in _told and _takes_stops(process.pid):
            _told.add(process.pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
    if not processes:  # there are none yet, or the jobs are trained in this one
        leave_if_stopped()


def _takes_stops(pid: int) -> bool:
    """Whether a process has a handler of SIGTERM: one without would die, and joblib would kill the others for it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it is gone, or this is not Linux
        return not Path("/proc").is_dir()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def may_start_job() -> bool:
    """Of a process that trains jobs of a sweep and to which signals are `passed_on`: whether none has come."""
    global _job
    if not _job:
        for number in STOPS:  # Ctrl-C and a scheduler's may go to all processes, and are passed on besides
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _between_jobs)
        _job = True
    return _received is None


def is_job() -> bool:
    """Whether this process trains jobs of a sweep that another one runs."""
    return _job


def _between_jobs(number: int, _frame) -> None:
    receive(number)


@contextlib.contextmanager
def watched():
    """Within this, a stop signal only sets the flag, and a second one within five seconds ends the work at once.

    When the work has left for a SIGUSR1 or SIGUSR2 that had a handler before, such as submitit's, that one is called
    last: it has the job queued again. A SIGTERM that has one is left to it, for submitit sends SIGUSR2, too. Outside of
    the main thread, and within another of these, nothing changes.
    """
    global _received, _watching
    if _watching or threading.current_thread() is not threading.main_thread():
        yield
        return
    _received, _watching = _received if _job else None, True
    # What is ignored stays so, as Ctrl-C in the background.
    before = {
        number: handler
        for number in STOPS
        if (handler := signal.getsignal(number)) in (*DEFAULTS, _between_jobs, _pass_on)
        or (number in CHAINED and handler != signal.SIG_IGN)
    }
    for number in before:
        signal.signal(number, _note)
    left = None
    try:
        yield
    except (KeyboardInterrupt, Preempted):
        left = _received
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received, _watching = _received if _job else None, False  # a job that was stopped is the last one
        if left in CHAINED and (handler := before.get(left, signal.SIG_DFL)) not in DEFAULTS:
            handler(left, None)


def _note(number: int, _frame) -> None:
    global _received, _received_at
    since = time.monotonic() - _received_at
    if _job and _received is not None and since < PASSING_SECONDS:
        return
    again = _received is not None and since < AT_ONCE_SECONDS
    _received, _received_at = signal.Signals(number), time.monotonic()
    if again:
        leave_if_stopped()
    log.info(f"{_received.name}: stopping after the current step; a second signal within 5 s stops at once")
