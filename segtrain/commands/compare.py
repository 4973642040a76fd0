"""`segtrain compare RUN_OR_SWEEP …`: which setting wins, on which class, and whether the difference is real.

Repeats of a setting (seed=0,1,2) are one row. How it is decided: docs/comparison.md.
"""

import argparse
from pathlib import Path

from segtrain.comparison.answer import answer
from segtrain.comparison.runs import Run, find_runs, settings_from
from segtrain.comparison.verdict import compare
from segtrain.errors import ConfigError, printable
from segtrain.files import write_json, write_rows
from segtrain.report.comparison import comparison_content, comparison_rows, comparison_table
from segtrain.report.pages.comparison import write_comparison_page


def main(words: list[str]) -> int:
    arguments = parse(words)
    runs, unread = find_runs(arguments.runs, arguments.split)
    comparisons = [compare(settings_from(members), arguments.by, arguments.baseline) for members in alike(runs)]
    pages: list[Path] = []
    if len(comparisons) > 1:
        print(f"{len(comparisons)} kinds of runs, of other images or classes, which are compared apart\n")
    for comparison in comparisons:
        print(printable("\n".join(answer(comparison))) + "\n")
        print(comparison_table(comparison) + "\n")
    for line in [*(unfinished(run) for run in runs if run.result.status != "finished"), *unread]:
        print(printable(line))
    if not comparisons:
        raise ConfigError("no run has scores", ", ".join(map(str, arguments.runs)), "finish one: `segtrain resume RUN`")
    if arguments.out is not None:
        write_rows(arguments.out / "comparison.csv", [row for c in comparisons for row in comparison_rows(c)])
        write_json(arguments.out / "comparison.json", {"comparisons": [comparison_content(c) for c in comparisons]})
        for number, comparison in enumerate(comparisons):
            pages.append(arguments.out / f"comparison{number + 1 if number else ''}.html")
            write_comparison_page(pages[-1], comparison)
        print(f"\nwritten to {arguments.out}: comparison.csv, comparison.json, {', '.join(p.name for p in pages)}")
    return 0


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="segtrain compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_OR_SWEEP", help="folders of runs or sweeps")
    parser.add_argument("--by", metavar="SCORE", help="such as iou/foreground; without it, the one all runs monitored")
    parser.add_argument(
        "--baseline",
        metavar="RUN_OR_SETTING",
        help="a run's folder, or loss.alpha=0,weighting=none; without it, the plainest setting",
    )
    parser.add_argument("--split", metavar="SPLIT", help="take the scores of `segtrain evaluate RUN --split SPLIT`")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for comparison.csv, .json and .html")
    return parser.parse_intermixed_args(words)


def alike(runs: list[Run]) -> list[list[Run]]:
    """Runs with scores that can be compared: of the same classes, in the same order, and the same images.

    Folds of one dataset are together; whether each setting has all of them shows when they are put together.
    """
    found: dict[tuple, list[Run]] = {}
    for run in runs:
        if run.scored:
            images = () if run.settings.get("dataset.splits") == "kfold" else tuple(run.names.tolist())
            size = tuple(map(int, run.counts[:, 3, 0])) if run.counts is not None and images else ()
            found.setdefault((run.classes, images, size), []).append(run)
    return list(found.values())


def unfinished(run: Run) -> str:
    """A line on a run that did not finish, with the reason."""
    reason = (run.result.error or "").split("\n")[0]
    best = run.result.best
    scored = f"; its best epoch so far ({best['epoch']}) is compared" if run.scored and best else ""
    return f"{run.result.status}: {run.path}{': ' * bool(reason)}{reason}{scored}"
