"""A comparison of settings as a table on the screen, as rows, and as data."""

import numpy as np

from segtrain.comparison.answer import answer, interval, text
from segtrain.comparison.settings import short
from segtrain.comparison.verdict import Comparison
from segtrain.errors import counted
from segtrain.report.text import percent, table

WIDTH = 120
LONGEST, SHORT = 24, 16  # characters of a setting; where the table is too wide
RARE = 3  # classes


def comparison_table(found: Comparison) -> str:
    """A row a setting, best first, within 120 columns: what says least goes first."""
    settings, several = found.settings, any(len(setting.repeats) > 1 for setting in found.settings)
    named, keys = settings[0].named, list(settings[0].varied)
    others = [key for key in keys if key not in named]
    of_settings = {key: short(key, keys) for key in [*named, *others]}

    def cells(longest: int) -> dict[str, list[str]]:
        return {name: [_cell(s.text_of(key), longest) for s in settings] for key, name in of_settings.items()}

    columns = cells(LONGEST)
    if not columns:
        columns["setting"] = [setting.label for setting in settings]
    columns[found.by] = [text(found, e.value) for e in found.estimates]
    if found.images or several:
        columns["95 %"] = [interval(found, e) for e in found.estimates]
    if len(settings) > 1:
        columns["over baseline"] = [_over_baseline(found, i) for i in range(len(settings))]
        columns["best"] = [chance_text(chance, " %") for chance in found.ranks.best]
        columns["rank"] = [rank_text(*pair) for pair in zip(found.ranks.low, found.ranks.high, strict=True)]
    columns["seeds"] = [str(len(setting.repeats)) for setting in settings]
    if several:
        columns["± seeds"] = [text(found, float(v.std(ddof=1))) if len(v) > 1 else "" for v in found.scores.full]
    classes = {c: found.classes[c] for c in rarest(found)} if found.class_means.size else {}
    classes = {c: name if name not in columns else f"class {name}" for c, name in classes.items()}
    columns |= {name: [percent(means[c]) for means in found.class_means] for c, name in classes.items()}
    rare = [*classes.values()]
    if _width(columns) > WIDTH and keys:
        columns |= cells(SHORT)
    alike = ["seeds"] if len({len(setting.repeats) for setting in settings}) == 1 else []  # the answer says how many
    less, more = ([of_settings[key] for key in reversed(some)] for some in (others, named[1:]))
    dropped = []
    for name in [*less, *alike, *rare[::-1], "rank", "± seeds", *more]:
        if _width(columns) > WIDTH and columns.pop(name, None):
            dropped.append(name)
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    title = f"best first by {found.by}{' on val' if found.split else ''}{'; scores in %' if found.unit else ''}"
    if not all(found.real[i] for i, difference in enumerate(found.differences) if difference is not None):
        title += "; ? may be chance"
    if number := len({*of_settings.values()} & {*dropped}):
        title += f"; {counted(number, 'other setting')} that {'differ' if number > 1 else 'differs'}: see --out"
    if shown := [name for name in rare if name not in dropped]:
        title += f"; {', '.join(shown)}: IoU"
    if lost := [name for name in rare if name in dropped]:
        title += f"; no room for rare classes {', '.join(lost)}: see --out"
    return table(list(columns), rows, title)


def _cell(cell: str, longest: int) -> str:
    return cell if len(cell) <= longest else f"…{cell[1 - longest :]}"


def _over_baseline(found: Comparison, index: int) -> str:
    difference = found.differences[index]
    if difference is None:
        return "baseline"
    return f"{text(found, difference.value, True)} {'' if found.real[index] else '?'}".rstrip()


def chance_text(chance: float, unit: str = "") -> str:
    return "n/a" if np.isnan(chance) else f"{100 * chance:.0f}{unit}"


def rank_text(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}–{high}"


def _width(columns: dict[str, list[str]]) -> int:
    return sum(max(len(name), *map(len, cells)) + 3 for name, cells in columns.items())


def rarest(found: Comparison) -> list[int]:
    """The rarest classes of the ground truth, without the most frequent one."""
    present = [int(c) for c in np.argsort(found.pixels, kind="stable") if found.pixels[c] > 0]
    return present[: min(RARE, max(1, len(present) - 1))]


def comparison_rows(found: Comparison) -> list[dict]:
    """Rows of comparison.csv: the settings, the estimate, and the mean over seeds of every score all runs have.

    Not of folds: a score of theirs is that of all images together, no mean.
    """
    folds = found.settings[0].runs[0].settings.get("dataset.splits") == "kfold"
    common = [
        name
        for name in found.settings[0].runs[0].result.scores
        if not folds
        and all(run.result.scores.get(name) is not None for setting in found.settings for run in setting.runs)
    ]
    rows = []
    for i, setting in enumerate(found.settings):
        means = {name: float(np.mean([run.result.scores[name] for run in setting.runs])) for name in common}
        scores = {f"score/{name}" if name in setting.varied else name: mean for name, mean in means.items()}
        rows.append({**setting.varied, "seeds": len(setting.repeats), **_numbers(found, i), **scores})
    return rows


def _numbers(found: Comparison, index: int) -> dict:
    one, difference = found.estimates[index], found.differences[index]
    numbers = {"score": one.value, "low": one.low, "high": one.high}
    if difference is not None:
        numbers |= {
            "difference": difference.value,
            "difference_low": difference.low,
            "difference_high": difference.high,
        }
        numbers |= {"p_corrected": float(found.corrected[index]), "real": bool(found.real[index])}
    low, high = int(found.ranks.low[index]), int(found.ranks.high[index])
    return {**numbers, "chance_best": float(found.ranks.best[index]), "rank_low": low, "rank_high": high}


def comparison_content(found: Comparison) -> dict:
    """The content of comparison.json."""
    return {
        "answer": answer(found),
        "by": found.by,
        "lower_is_better": found.lower_is_better,
        "baseline": found.settings[found.baseline].label,
        "images": found.images,
        "groups": found.groups,
        "optimism": found.ranks.optimism,
        "class_gains": {
            name: {"value": e.value, "low": e.low, "high": e.high} for name, e in found.class_gains.items()
        },
        "settings": [
            {
                "label": setting.label,
                "varied": setting.varied,
                "runs": [str(run.path) for run in setting.runs],
                "command": setting.command,
                "seeds": found.scores.full[i].tolist(),
                **_numbers(found, i),
                "iou": dict(zip(found.classes, found.class_means[i].tolist(), strict=False)),
            }
            for i, setting in enumerate(found.settings)
        ],
    }
