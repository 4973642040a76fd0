"""Where the time of a training goes: the parts of its steps in milliseconds, and a trace."""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from segtrain.errors import ConfigError

log = logging.getLogger("segtrain")

WARM = 3  # batches before the first that is looked at: kernels are compiled, and algorithms chosen


class Profile:
    """Measures training: a trace of `batches` batches as they run, then the time of each part of at least as many more, and
    of that epoch's validation.

    While parts are timed, the host waits for the device at the end of each, so that the time of a part is its own; what
    otherwise runs at the same time is then one after the other.

    Args:
        batches: 0: nothing is looked at. device: where the network runs.
    """

    def __init__(self, batches: int, device: torch.device):
        self.batches, self._device, self._number = batches, device, 0
        self._seconds, self._calls, self._done = Counter(), Counter(), not batches
        self._trace: torch.profiler.profile | None = None

    @property
    def _needed(self) -> int:
        """Batches until the profile is complete."""
        return WARM + 2 * self.batches if self.batches else 0

    def check(self, batches: int, left: int) -> None:
        """Raise ConfigError when a training of so many batches is too short; warn when so few of them are left."""
        what = f"trainer.profile={self.batches} needs {self._needed} batches, but"
        if batches < self._needed:
            raise ConfigError(
                f"{what} the training has {batches}", "trainer.profile", "lower it, or train for more steps"
            )
        if self.batches and left < self._needed:
            log.warning(f"{what} {left} are left: there will be no new profile")

    def finished(self) -> bool:
        """True once: at the end of the epoch in which the profile is complete."""
        before, self._done = self._done, self._done or self._number >= self._needed
        return self._done and not before

    def each(self, batches: Iterable, state) -> Iterator:
        """The batches; the seconds for which they are waited for are added to `state.waited`, too."""
        batches = iter(batches)
        while True:
            self._next()
            started = time.perf_counter()
            with self.part("data wait"):
                batch = next(batches, None)
            state.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _next(self) -> None:
        if self._done:
            return
        self._number += 1
        if self._number == WARM + 1:
            self._trace = torch.profiler.profile()
            self._trace.start()
        if self._number == WARM + self.batches + 1:
            self._trace.stop()

    @contextlib.contextmanager
    def part(self, name: str):
        """Within this, a part of a step runs."""
        if self._done or self._number <= WARM + self.batches:  # before and after parts are timed
            yield
            return
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self._seconds[name] += time.perf_counter() - started
        self._calls[name] += 1

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def rows(self) -> list[tuple[str, int, float, float]]:
        """Of each part: its name, how often it ran, its milliseconds, its share of them all."""
        every = sum(self._seconds.values())
        return [(name, self._calls[name], 1000 * s / self._calls[name], s / every) for name, s in self._seconds.items()]

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *error) -> None:
        """Stop a trace that is running: Python would crash at its end."""
        if self._trace is not None and WARM < self._number <= WARM + self.batches:
            self._trace.stop()

    def write_trace(self, file: Path) -> None:
        """For chrome://tracing or https://ui.perfetto.dev."""
        self._trace.export_chrome_trace(str(file))
