"""`segtrain compare`: which setting wins, on which class, and whether the difference is real."""

import shlex
from argparse import Namespace
from pathlib import Path

import numpy as np

from segtrain.comparison.answer import answer
from segtrain.comparison.baseline import choose_baseline
from segtrain.comparison.images import image_scores, most_different
from segtrain.comparison.runs import Run, finals_of, find_runs, without_copies
from segtrain.comparison.settings import Setting, setting_text, settings_from, without_parts
from segtrain.comparison.verdict import Comparison, compare
from segtrain.cpu import give_memory_back
from segtrain.errors import ConfigError, SegtrainError, counted, printable
from segtrain.files import write_json, write_rows
from segtrain.report.comparison import comparison_content, comparison_rows, comparison_table
from segtrain.report.pages.comparison import write_comparison_page
from segtrain.report.text import percent
from segtrain.runs.sweep import not_started


def main(arguments: Namespace, notes: str = "") -> int:
    """`notes` are shown on the page, such as what a search tried before."""
    give_memory_back()  # draws of many runs, which nothing needs when they are compared
    runs, unread = find_runs(arguments.runs, arguments.split)
    distinct, left_out = without_copies([run for run in runs if run.comparable])
    groups = []
    for members in alike(distinct):
        settings, lines = without_parts(settings_from(members))
        left_out += lines
        groups += [settings] if settings else []
    baselines, lines = baselines_of(groups, arguments.baseline or as_it_is(arguments.runs, distinct))
    left_out += lines
    comparisons = [
        compare(settings, arguments.by, baseline, arguments.split)
        for settings, baseline in zip(groups, baselines, strict=True)
    ]
    left_out += [*(unfinished(run) for run in runs if not run.comparable), *unread, *map(to_start, arguments.runs)]
    left_out = [line for line in left_out if line]
    kinds = kinds_of(comparisons)
    lines = [f"{len(comparisons)} groups of runs with different images or classes, compared separately\n"]
    lines = lines if len(comparisons) > 1 else []
    for comparison, kind in zip(comparisons, kinds, strict=True):
        lines += [f"── {kind}\n"] if len(comparisons) > 1 else []
        lines += ["\n".join(answer(comparison)) + "\n", comparison_table(comparison) + "\n"]
    searched = importances([folder for folder in arguments.runs if (folder / "search.json").is_file()])
    below = [*searched, *left_out]
    written = ""
    try:  # before it is printed: to a program that reads no more of it, the end of all
        if comparisons and arguments.out is not None:
            written = write(arguments, comparisons, "\n".join([*([notes] if notes else []), *below]))
    finally:
        print(printable("\n".join([*lines, *below])))
    if not comparisons:
        raise nothing_to_compare(arguments, runs)
    print(printable(written), end="")
    return 0


def write(arguments: Namespace, comparisons: list[Comparison], below: str) -> str:
    """Write tables and pages to `arguments.out`; a line on what is there. `below` stands at the end of each page."""
    pages, missing = [], []
    write_rows(arguments.out / "comparison.csv", [row for c in comparisons for row in comparison_rows(c)])
    write_json(arguments.out / "comparison.json", {"comparisons": [comparison_content(c) for c in comparisons]})
    for number, comparison in enumerate(comparisons):
        pages.append(arguments.out / f"comparison{number + 1 if number else ''}.html")
        shown, reason = pictures(comparison, arguments) if arguments.pictures else ([], "")
        missing += [reason] if reason else []
        write_comparison_page(pages[-1], comparison, shown, below)
    for page in arguments.out.glob("comparison[1-9]*.html"):  # of a comparison of more groups before
        if page not in pages:
            page.unlink()
    missing = "".join(f"no pictures on the page: {reason}\n" for reason in missing)
    return (
        f"{missing}\nwritten to {arguments.out}: comparison.csv, comparison.json, {', '.join(p.name for p in pages)}\n"
    )


def as_it_is(folders: list[Path], runs: list[Run]) -> str | None:
    """The baseline of a search by `segtrain find`: a final training of the config as it is; of other folders None."""
    finals = finals_of(folders[0]) if len(folders) == 1 else []
    usual = [run for run in runs if run.path.resolve() in finals and run.path.name.endswith("as_it_is")]
    return str(usual[0].path) if usual else None


def baselines_of(groups: list[list[Setting]], wanted: str | None) -> tuple[list[str | None], list[str]]:
    """The baseline that is asked for in the groups that have it; in the others None, which chooses one, and a line on each.

    Where no group has it, it stays, and `compare` refuses it with what there is.
    """
    baselines, lines = [], []
    for settings in groups:
        try:
            choose_baseline(settings, wanted)
            baselines.append(wanted)
        except ConfigError as error:
            baselines.append(None)
            where = settings[0].runs[0].path
            lines.append(f"{error.what} among the settings of {where}: comparing with the plainest setting")
    return (baselines, lines) if wanted in baselines else ([wanted] * len(groups), [])


def importances(searches: list[Path]) -> list[str]:
    """How much each setting matters that was searched by Optuna, a line for each folder of a search."""
    lines = []
    for folder in searches:
        from segtrain.commands.search import Search  # torch takes seconds to import

        try:
            lines.append(Search(folder, []).importance())
        except ConfigError as error:
            lines.append(f"cannot compute the importance of the settings in {folder}: {error.what}")
    return [line for line in lines if line]


def alike(runs: list[Run]) -> list[list[Run]]:
    """Runs that can be compared: of the same classes, in the same order, and the same images and ground truth.

    Folds of the dataset in one folder are together; whether each setting has all of them shows when they are put together.
    """
    found: dict[tuple, list[Run]] = {}
    roots = _roots([run for run in runs if run.settings.get("dataset.splits") == "kfold"])
    for run in runs:
        folds = run.settings.get("dataset.splits") == "kfold"
        images = roots[_root(run)] if folds else tuple(run.names.tolist())
        truth = b""
        if run.counts is not None and not folds:  # true positives and false negatives, and the valid pixels
            truth = (run.counts[:, 0] + run.counts[:, 2]).tobytes() + run.counts[:, 3].tobytes()
        found.setdefault((run.classes, images, truth), []).append(run)
    return list(found.values())


def _roots(runs: list[Run]) -> dict[Path, Path]:
    """One name for each folder of a dataset: a folder with the same images in a fold is a copy of it, or it was moved."""
    first: dict[tuple, Path] = {}
    names: dict[Path, Path] = {}
    for run in runs:
        root = _root(run)
        known = first.setdefault((run.settings.get("dataset.fold"), tuple(run.names.tolist())), root)
        if known == root or not len(run.names):
            names.setdefault(root, root)
        else:
            names[root] = names[known]
    return names


def _root(run: Run) -> Path:
    return Path(str(run.settings.get("dataset.root"))).expanduser().resolve()


def kinds_of(comparisons: list[Comparison]) -> list[str]:
    """What each was scored on, in words that tell it from the first."""
    words: list[str] = []
    keys = ("dataset.root", "dataset.resize")
    settings = [{key: found.settings[0].runs[0].settings.get(key) for key in keys} for found in comparisons]
    differing = [key for key in keys if len({str(values[key]) for values in settings}) > 1]
    for found, values in zip(comparisons, settings, strict=True):
        run, first = found.settings[0].runs[0], comparisons[0].settings[0].runs[0]
        named = f": {', '.join(run.classes)}" if run.classes != first.classes else ""
        classes = f"{len(run.classes)} classes{named}" if run.classes else "scores of another metric"
        parts = [counted(len(found.settings), "setting"), classes]
        if sorted(run.classes) == sorted(first.classes) and run.classes != first.classes:
            parts[-1] += " (in another order)"
        parts += [counted(len(run.names), "image")] if len(run.names) else ["unknown images"]
        if run is not first and len(run.names) == len(first.names) and run.classes == first.classes:
            other = "names" if run.names.tolist() != first.names.tolist() else "sizes or masks"
            parts[-1] += f" with other {other}"
        parts += [f"{key}={setting_text(values[key])}" for key in differing]
        words.append("; ".join([*parts, f"such as {run.path}"]))
    return words


def pictures(found: Comparison, arguments: Namespace) -> tuple[list[tuple[str, np.ndarray]], str]:
    """Captions and pictures of the images that baseline and best predict most differently; none, with the reason, when a
    run cannot be loaded."""
    scored, best = image_scores(found, first=True), int(found.baseline == 0)
    if scored is None or len(found.settings) < 2:
        return [], ""
    pair = [found.settings[i].runs[0].path for i in (found.baseline, best)]
    if lacking := [path for path in pair if not (path / "checkpoints" / "best.pt").is_file()]:
        return [], f"{lacking[0]} has no checkpoints/best.pt"
    from segtrain.commands.scoring import predictor_of  # torch takes seconds to import
    from segtrain.config.build import build_dataset
    from segtrain.report.pictures import example
    from segtrain.runs.trained import load
    from segtrain.training import predict_one

    names, values = scored
    try:
        loaded = [load(str(path), trust=arguments.trust) for path in pair]  # each reads images as it was trained
        datasets = [build_dataset(trained.config, arguments.split or "val") for trained in loaded]
        predictors = [predictor_of(*pair) for pair in zip(loaded, datasets, strict=True)]
        drawn, positions = [], [{name: index for index, name in enumerate(dataset.names)} for dataset in datasets]
        for i in most_different(values, found.baseline, best, arguments.pictures):
            indices = [position.get(str(names[i])) for position in positions]
            if None in indices:  # of another fold
                continue
            each = zip(predictors, datasets, indices, strict=True)
            predicted = [predict_one(one, dataset.image(index)) for one, dataset, index in each]
            picture = example(datasets[0], indices[0], predicted)
            before, after = percent(values[found.baseline, i]), percent(values[best, i])
            drawn.append((f"{names[i]}: IoU {before} → {after} %", picture))
        return drawn, ""
    except SegtrainError as error:
        return [], f"{error.what} ({error.where}); fix: {error.fix}"


def unfinished(run: Run) -> str:
    """A line on a run that did not finish, and is not compared, with the reason."""
    reason = (run.result.error or "").split("\n")[0]
    status = "running or killed" if run.result.status == "running" else run.result.status
    return f"not compared, {status}: {run.path}{': ' * bool(reason)}{reason}"


def to_start(folder: Path) -> str:
    """A line on jobs of a sweep that have no result yet; empty when there is none."""
    try:
        missing, jobs = not_started(folder)
    except SegtrainError as error:
        return f"{error.where}: {error.what}"
    again = f"`segtrain resume {shlex.quote(str(folder))}`"
    return f"{missing} of {jobs} jobs of {folder} were not started: {again}" if missing else ""


def nothing_to_compare(arguments: Namespace, runs: list[Run]) -> ConfigError:
    where = ", ".join(map(str, arguments.runs))
    if arguments.split and not runs:
        fix = f"`segtrain evaluate RUN --split {arguments.split}` for each"
        return ConfigError(f"no run was evaluated on {arguments.split}", where, fix)
    if not runs:
        return ConfigError("it holds no run", where, "name folders that hold a result.json")
    return ConfigError("no run has finished", where, "finish one: `segtrain resume RUN`")
