"""`segtrain check key=value … [--out DIR]`: read every file of a dataset and say what is wrong with it."""

from pathlib import Path

import numpy as np
from hydra._internal.utils import get_args_parser

from segtrain.class_counts.count import summed
from segtrain.commands.weights import recommendation, weights_rows
from segtrain.config.build import build
from segtrain.config.compose import compose, without_hydra
from segtrain.config.schema import check_config
from segtrain.config.signatures import signature_of
from segtrain.data.folder.layout import NoMasks
from segtrain.dataset_check.findings import LEVELS, check_dataset
from segtrain.dataset_check.samples import SplitReport
from segtrain.errors import ConfigError, counted
from segtrain.report import pictures as panels
from segtrain.report.html import inline, write_page
from segtrain.report.text import share, table


def main(words: list[str]) -> int:
    parser = get_args_parser()
    parser.prog = "segtrain check"
    parser.add_argument("--out", type=Path, metavar="DIR", help="write check.html there")
    arguments = parser.parse_args(words)
    cfg = without_hydra(compose(arguments.overrides, arguments.config_dir, arguments.config_name))
    check_config(cfg)
    reports = check_dataset(datasets(cfg), cfg.augment.get("size"), progress=True)
    print(text(reports).encode(errors="backslashreplace").decode())  # names need not be UTF-8
    if arguments.out is not None:
        write_html(reports, arguments.out / "check.html", cfg.dataset._target_)
        print(f"\nwritten to {arguments.out / 'check.html'}")
    return 3 if any(f.level == "error" for r in reports for f in r.findings) else 0


def datasets(cfg) -> dict:
    """train, val, and test when there is one; files without partners are left for the report to tell."""
    signature = signature_of(cfg.dataset._target_)
    lenient = {"strict": False} if "strict" in signature.annotations else {}
    found = {split: build(cfg, "dataset", split=split, **lenient) for split in ("train", "val")}
    try:
        found["test"] = build(cfg, "dataset", split="test", **lenient)
    except NoMasks as error:
        print(f"note: the test images are not looked at: {error.what}\n")
        return found
    except ConfigError:  # most datasets have none
        return found
    return found if len(found["test"].names) and has_files(found["test"]) else {k: found[k] for k in ("train", "val")}


def has_files(dataset) -> bool:
    """Generated datasets have as many splits as one asks for; only files are worth a third look."""
    return hasattr(dataset, "images")


def text(reports: list[SplitReport]) -> str:
    """Tables per split, then the findings, errors first."""
    parts = [split_table(report) for report in reports]
    findings = ordered(reports)
    for split, finding in findings:
        parts.append(f"{finding.level}: {split}: {finding.what}")
        if finding.level == "note":
            continue
        parts += [f"  {file}" for file in finding.files[:5]]
        parts += [f"  … and {len(finding.files) - 5} more"] if len(finding.files) > 5 else []
        parts.append(f"  to do: {finding.fix}")
    return "\n".join([*parts, "", summary(reports)])


def summary(reports: list[SplitReport]) -> str:
    """How many images, and how many findings of each level."""
    levels = [finding.level for _, finding in ordered(reports)]
    found = ", ".join(counted(levels.count(level), level) for level in LEVELS)
    return f"{counted(sum(len(r.samples) for r in reports), 'image')}: {found}"


def ordered(reports: list[SplitReport]) -> list:
    every = [(report.name, finding) for report in reports for finding in report.findings]
    return sorted(every, key=lambda pair: LEVELS.index(pair[1].level))


def split_table(report: SplitReport) -> str:
    rows = [[row["name"], row["pixels"], row["share"], row["images"], row["smallest"]] for row in class_rows(report)]
    title = f"{report.name}: {len(report.samples)} images, {sizes(report)}"
    return table(["class", "pixels", "share", "images", "smallest object"], rows, title) + "\n"


def class_rows(report: SplitReport) -> list[dict]:
    pixels, images, smallest = report.pixels, report.images, report.smallest
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
    return rows


def sizes(report: SplitReport) -> str:
    found = sorted({s.size for s in report.readable})
    if not found:
        return "none of them readable"
    if len(found) == 1:
        return f"{found[0][1]}×{found[0][0]} (width × height)"
    heights, widths = zip(*found, strict=True)
    return f"{len(found)} sizes, width {min(widths)} to {max(widths)}, height {min(heights)} to {max(heights)}"


def write_html(reports: list[SplitReport], file: Path, target: str) -> None:
    train = reports[0]
    weights = None
    if train.readable and train.pixels.any():
        counts = summed(counts_rows(train), train.dataset)
        names, rows = weights_rows(counts)
        weights = {"names": names, "rows": rows, "advice": recommendation(counts)}
    folder = getattr(train.dataset, "root", "")
    write_page(
        file,
        "check.html",
        title=f"Dataset check: {folder or target}",
        summary=summary(reports),
        findings=ordered(reports),
        splits=[{"name": r.name, "images": len(r.samples), "sizes": sizes(r), "rows": class_rows(r)} for r in reports],
        weights=weights,
        pictures=[picture for report in reports for picture in samples(report)],
    )


def counts_rows(report: SplitReport) -> np.ndarray:
    """The table of class_counts, of the samples that could be read."""
    rows = [
        np.concatenate([s.pixels, np.full(len(s.pixels), s.valid), [s.size[0] * s.size[1]]]) for s in report.readable
    ]
    return np.stack(rows).astype(np.int64)


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
