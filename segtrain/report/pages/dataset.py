"""`segtrain check`: classes and findings of a dataset as text, and as a page with weights and samples."""

from pathlib import Path

import numpy as np

from segtrain.class_counts.count import summed
from segtrain.dataset_check.samples import SplitReport
from segtrain.errors import counted
from segtrain.report import pictures as panels
from segtrain.report.html import inline, write_page
from segtrain.report.text import share, table
from segtrain.report.weights import recommendation, weights_rows

LEVELS = ("error", "warning", "note")


def dataset_text(reports: list[SplitReport]) -> str:
    """Tables per split, then the findings, errors first."""
    parts = []
    for report in reports:
        rows = [[row[k] for k in ("name", "pixels", "share", "images", "smallest")] for row in class_rows(report)]
        title = f"{report.name}: {counted(len(report.samples), 'image')}, {sizes(report)}"
        columns = ["class", "pixels", "share", "images", "smallest object"]
        parts.append((table(columns, rows, title) if report.readable else title) + "\n")
    fixes: dict[str, str] = {}
    for split, finding in ordered(reports):
        parts.append(f"{finding.level}: {split}: {finding.what}")
        if finding.level == "note":
            continue
        parts += [f"  {file}" for file in finding.files[:5]]
        parts += [f"  … and {len(finding.files) - 5} more"] if len(finding.files) > 5 else []
        before = fixes.setdefault(finding.fix, split)
        parts.append(f"  fix: {finding.fix if before == split else f'the same as for {before}'}")
    return "\n".join([*parts, "", summary(reports)])


def write_dataset_page(reports: list[SplitReport], file: Path, title: str, words: str = "") -> None:
    """The page of a checked dataset.

    Args:
        words: the settings of the command line, for the sweep that the page proposes.

    Raises DiskError.
    """
    train = reports[0]
    weights = None
    if train.readable and train.pixels.any():
        rows = [[*s.pixels, *s.counted, s.size[0] * s.size[1]] for s in train.readable]  # as count_classes has them
        counts = summed(np.array(rows, dtype=np.int64), train.dataset)
        names, rows = weights_rows(counts)
        weights = {"names": names, "rows": rows, "advice": recommendation(counts, words)}
    write_page(
        file,
        "check.html",
        title=title,
        summary=summary(reports),
        findings=ordered(reports),
        splits=[{"name": r.name, "images": len(r.samples), "sizes": sizes(r), "rows": class_rows(r)} for r in reports],
        weights=weights,
        pictures=[picture for report in reports for picture in samples(report)],
    )


def summary(reports: list[SplitReport]) -> str:
    """How many images, and how many findings of each level."""
    levels = [finding.level for _, finding in ordered(reports)]
    found = ", ".join(counted(levels.count(level), level) for level in LEVELS)
    return f"{counted(sum(len(r.samples) for r in reports), 'image')}: {found}"


def ordered(reports: list[SplitReport]) -> list[tuple]:
    """(split, finding), errors first."""
    every = [(report.name, finding) for report in reports for finding in report.findings]
    return sorted(every, key=lambda pair: LEVELS.index(pair[1].level))


def class_rows(report: SplitReport) -> list[dict]:
    """Texts, colour and bar of each class."""
    pixels, images, smallest = report.pixels, report.images, report.objects.found()
    total = sum(s.valid for s in report.readable)
    colours = panels.html_colours(report.dataset)
    rows = []
    for c, name in enumerate(report.dataset.class_names):
        part = pixels[c] / total if total else 0.0
        rows.append(
            {
                "name": name,
                "pixels": f"{pixels[c]:,}",
                "share": share(part),
                # six orders of magnitude on 24 rem
                "bar": round(max(0.0, 24 + 4 * np.log10(part)), 2) if part > 0 else 0,
                "images": f"{images[c]}",
                "smallest": f"{smallest[c]:,} px" if smallest[c] else "",
                "colour": colours[c],
            }
        )
    if ignored := sum(s.ignored for s in report.readable):
        rows.append(_ignored(ignored, ignored + total, sum(s.ignored > 0 for s in report.readable)))
    return rows


def _ignored(pixels: int, every: int, images: int) -> dict:
    """The row of the pixels that belong to no class: their share is of all pixels."""
    texts = {
        "name": "(ignored)",
        "pixels": f"{pixels:,}",
        "share": f"{share(pixels / every)} of all",
        "images": f"{images}",
    }
    return texts | {"bar": 0, "smallest": "", "colour": "none"}


def sizes(report: SplitReport) -> str:
    """The size of the images, or the range of their sizes."""
    found = sorted({s.size for s in report.readable})
    if not found:
        return "but none could be read with its mask"
    if len(found) == 1:
        return f"{found[0][1]}×{found[0][0]} (width × height)"
    heights, widths = zip(*found, strict=True)
    return f"{len(found)} sizes, width {min(widths)} to {max(widths)}, height {min(heights)} to {max(heights)}"


def samples(report: SplitReport, count: int = 6):
    """(caption, data address) of images beside their masks: for each class, rarest first, the image with most of it."""
    dataset, readable = report.dataset, report.readable
    chosen: list = []
    for label in np.argsort(report.pixels).tolist():
        best = max(readable, key=lambda s: s.pixels[label], default=None)
        if best is not None and best.pixels[label] and best not in chosen and len(chosen) < count:
            chosen.append(best)
    for sample in chosen:
        image, mask = panels.as_rgb(dataset.image(sample.index)), dataset.mask(sample.index)
        mask = mask.transpose(2, 0, 1) if dataset.multilabel else mask
        colours = panels.colour_mask(mask, dataset)
        there = colours.any(axis=2, keepdims=True)  # the background is black: leave the image as it is
        shown = np.where(there, image * 0.5 + colours * 0.5, image).astype(np.uint8)
        present = ", ".join(n for n, p in zip(dataset.class_names, sample.pixels, strict=True) if p)
        caption = f"{report.name}: {dataset.names[sample.index]}: {present}"
        yield caption, inline(panels.side_by_side([image, shown]), 720)
