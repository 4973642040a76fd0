"""`segtrain check key=value … [--out DIR]`: read every file of a dataset and report what is wrong with it.

FOLDER stands for dataset=folder dataset.root=FOLDER; without dataset.num_classes, the classes are those of its masks.
All settings of a training may be given; dataset.* and augment.size matter. The exit code is 3 when there are errors.
--out writes a page with samples.

Example: segtrain check photos --out report
"""

import re
from pathlib import Path

import numpy as np

from segtrain.config.build import build
from segtrain.config.internals import parse, parser
from segtrain.config.launch import checked_config
from segtrain.config.signatures import signature_of
from segtrain.data.dataset import SegmentationDataset, as_dataset
from segtrain.data.folder.layout import NoMasks
from segtrain.data.mask_values import GREY, MANY
from segtrain.data.threads import in_threads, tried
from segtrain.data.value_counts import value_counts
from segtrain.dataset_check.findings import check_dataset
from segtrain.errors import ConfigError, DataError, few, printable
from segtrain.report.pages.dataset import dataset_text, write_dataset_page

NUM_CLASSES = re.compile(
    r"\+*dataset\.(num_classes|mask_format|class_names)="
)  # with which the classes are known, or not to be counted


def main(words: list[str]) -> int:
    own = parser("segtrain check", __doc__, " [--out DIR]")
    own.add_argument("--out", type=Path, metavar="DIR", help="write check.html there")
    arguments = parse(own, words)
    if "dataset=folder" in arguments.overrides and not any(map(NUM_CLASSES.match, arguments.overrides)):
        arguments.overrides.append(f"dataset.num_classes={number_of_classes(arguments)}")
    cfg = checked_config(arguments)
    if not any(word.startswith("dataset") for word in arguments.overrides):
        print(f"no dataset is named: checking the one of the settings, {cfg.dataset._target_}")
    crop = cfg.augment.get("size")
    reports = check_dataset(datasets(cfg), None if crop == "auto" else crop, progress=True)
    print(printable(dataset_text(reports)))
    if arguments.out is not None:
        title = f"Dataset check: {cfg.dataset.get('root') or cfg.dataset._target_}"
        write_dataset_page(reports, arguments.out / "check.html", title)
        print(f"\nwritten to {arguments.out / 'check.html'}")
    return 3 if any(f.level == "error" for r in reports for f in r.findings) else 0


def number_of_classes(arguments) -> int:
    """One more than the highest value in the training masks. Raises ConfigError where they do not say it."""
    given = arguments.overrides
    arguments.overrides = [*given, "dataset.num_classes=255"]
    cfg = checked_config(arguments)
    dataset = build(cfg, "dataset", split="train", strict=False)
    arguments.overrides = given
    indices = [index for index in range(len(dataset.names)) if dataset.has_mask(index)]
    if not indices:  # what is wrong with the files is raised, as before a training
        build(cfg, "dataset", split="train")
    read = in_threads(lambda index: tried(lambda: value_counts(dataset.mask(index)) > 0), indices, "reading masks")
    masks = list(read)
    readable = [found for found in masks if not isinstance(found, DataError)]
    if masks and not readable:  # of another format, which the first says
        raise masks[0]
    values = np.flatnonzero(np.any(readable, axis=0)).tolist() if readable else []
    labels = [value for value in values if value != dataset.ignore_index]
    count = 2 if values == [0, 255] else len(labels) if labels[:1] == [1] else labels[-1] + 1 if labels else 0
    listed = few([*map(str, values)], 20) or "no values that can be read"
    if len(labels) > MANY:
        what = f"dataset.num_classes is not set, and the masks hold {len(labels)} values"
        raise ConfigError(what, "dataset.num_classes", f"{GREY}; otherwise give their number")
    if count < 2 or len(labels) < count - 1:
        what = f"dataset.num_classes is not set, and the masks hold {listed}"
        raise ConfigError(what, "dataset.num_classes", numbered(values, dataset.ignore_index))
    print(f"the masks hold {listed}: taking dataset.num_classes={count}")
    return count


def numbered(values: list[int], ignored: int) -> str:
    """How masks of a few other values can be trained on: the values as classes 0, 1, …"""
    kept = [value for value in values if value != ignored]
    if len(values) < 2:
        return "give the number of classes, and see docs/dataset.md for other masks"

    def as_classes(chosen: list[int]) -> str:
        pairs = ", ".join(f"{value}: {label}" for label, value in enumerate(chosen) if value != label)
        return f"dataset.num_classes={len(chosen)}" + (f" 'dataset.remap={{{pairs}}}'" if pairs else "")

    if kept == values:
        return f"for a class of each value, {as_classes(values)}"
    return f"where {ignored} is a class, {as_classes(values)}; where it means unlabelled, {as_classes(kept)}"


def datasets(cfg) -> dict[str, SegmentationDataset]:
    """train, val, and test when there are files of it; files without partners are left to the report."""
    signature = signature_of(cfg.dataset._target_)
    lenient = {"strict": False} if "strict" in signature.annotations else {}

    def split(name: str) -> SegmentationDataset:
        return as_dataset(build(cfg, "dataset", split=name, **lenient))

    found = {name: split(name) for name in ("train", "val")}
    try:
        test = split("test")
    except NoMasks as error:
        print(f"note: the test images are not checked: {error.what}\n")
        return found
    except ConfigError:  # most datasets have none
        return found
    return found | ({"test": test} if test.files() else {})
