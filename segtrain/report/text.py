"""Tables and numbers as text, for the screen and the log alike."""

import io
import logging
import math

from segtrain.errors import printable


def table(columns: list[str], rows: list[list[str]], title: str = "", left: tuple[str, ...] = ()) -> str:
    """Columns right-aligned but for the first and those in `left`."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        drawn.add_column(
            printable(column).replace("\n", r"\n"),
            justify="left" if i == 0 or column in left else "right",
            no_wrap=True,
        )
    for row in rows:
        drawn.add_row(*(printable(cell).replace("\n", r"\n") for cell in row))
    text = io.StringIO()
    Console(file=text, width=10_000, color_system=None, markup=False).print(drawn)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join(([title, ""] if title else []) + [line for line in lines if line])


class Printable(logging.Formatter):
    """Log lines without what a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def percent(value: float | None) -> str:
    """0.123 as 12.3; n/a for a score that is not defined."""
    return "n/a" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def share(value: float) -> str:
    """A share of the pixels with two digits that mean something: 31 %, 0.28 %, 0.0031 %, 99.972 %."""
    if 0.999 < value < 1:  # what is left, and not 100 %
        return f"{100 - float(f'{100 * (1 - value):.2g}'):.10g} %"
    return f"{100 * value:.2g} %" if value < 0.1 else f"{100 * value:.1f} %"


def number(value: float) -> str:
    return f"{value:.4g}"


def score_text(value: float | None, unit: str) -> str:
    """A score with its unit: 12.3 %, 0.4567, n/a."""
    if value is None or math.isnan(value):
        return "n/a"
    return f"{percent(value)} %" if unit == "%" else f"{number(value)} {unit}".rstrip()
