"""Progress of a loop over images: a bar on a terminal, a line now and then elsewhere."""

import logging
import sys
import time

log = logging.getLogger("segtrain")

_LINE_SECONDS = 30  # between lines where no bar can be drawn


class Progress:
    """A bar with loss, images per second and time left.

    Args:
        title: what is done. total: images in all. done: images that are done already.
        bar: whether one may be drawn, on a terminal.
    """

    def __init__(self, title: str, total: int, done: int = 0, bar: bool = True):
        from tqdm import tqdm

        self._terminal = bar and sys.stderr.isatty()
        self._title, self._total, self._done, self._started = title, total - done, 0, time.time()
        self._last_line = self._started
        self._bar = tqdm(total=total, initial=done, desc=title, unit="image", leave=False, disable=not self._terminal)

    def due(self) -> bool:
        """Whether something new is worth showing, such as a loss that has to be fetched from the device."""
        return time.time() - self._last_line > (0.5 if self._terminal else _LINE_SECONDS)

    def advance(self, images: int, loss: float | None = None) -> None:
        """Count images; show the loss when it is given."""
        self._done += images
        self._bar.update(images)
        if loss is not None:
            self.show(f"loss {loss:.4f}")

    def show(self, what: str) -> None:
        """Show `what`, such as a loss, beside the count."""
        self._last_line = time.time()
        if self._terminal:
            self._bar.set_postfix_str(what)
            return
        rate = self._done / max(time.time() - self._started, 1e-9)
        speed = f", {rate:.1f} images/s, {(self._total - self._done) / rate:.0f} s left" if self._done else ""
        log.info(f"{self._title}: {self._done}/{self._total}, {what}{speed}")

    def close(self) -> None:
        self._bar.close()
