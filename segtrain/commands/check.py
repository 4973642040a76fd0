"""`segtrain check`: read every file of a dataset and report what is wrong with it."""

import shlex
from argparse import Namespace

from segtrain.config.build import build
from segtrain.config.launch import checked_config, composed
from segtrain.config.signatures import signature_of
from segtrain.data.dataset import SegmentationDataset, as_dataset
from segtrain.data.folder.layout import NoMasks
from segtrain.dataset_check.findings import check_dataset, unused_levels
from segtrain.dataset_check.unset_classes import number_of_classes
from segtrain.errors import ConfigError, printable
from segtrain.report.pages.dataset import dataset_text, write_dataset_page
from segtrain.report.weights import words_of_sweep


def main(arguments: Namespace) -> int:
    words = arguments.overrides
    given = {word.lstrip("+").partition("=")[0] for word in words}
    if "dataset.num_classes" not in given:
        if "dataset.mask_format=binary" in words:
            words.append("dataset.num_classes=2")
        elif "dataset=folder" in words and ("dataset.class_names" in given or "dataset.mask_format" not in given):
            words.append(f"dataset.num_classes={counted_classes(arguments)}")
    cfg = checked_config(arguments)
    if not any(word.startswith("dataset") for word in words):
        print(f"no dataset is given: checking the one in the settings, {cfg.dataset._target_}")
    crop = cfg.augment.get("size")
    found = datasets(cfg)
    reports = check_dataset(found, None if crop == "auto" else crop)
    print(printable(dataset_text(reports)))
    if arguments.out is not None:
        title, page = f"Dataset check: {cfg.dataset.get('root') or cfg.dataset._target_}", arguments.out / "check.html"
        write_dataset_page(reports, page, title, words_of_sweep(words, arguments.config_dir))
        print(f"\nwritten to {page}")
    if any(f.level == "error" for r in reports for f in r.findings):
        return 3
    if words:
        own = [] if arguments.config_dir is None else ["--config-dir", arguments.config_dir]
        wanted = unused_levels(reports)
        words += [f"dataset.image_range=[0,{wanted[1]}]"] if wanted else []
        words = [*{word.partition("=")[0]: word for word in words}.values()]  # of those given twice the last
        for_multilabel = ["loss=bce_dice"] if found["train"].multilabel and not given & {"loss", "experiment"} else []
        print(printable(f"\nto train: `segtrain {shlex.join([*own, *words, *for_multilabel])}`"))
    return 0


def counted_classes(arguments: Namespace) -> int:
    """The number of class names, else of classes in the training masks. Raises ConfigError where they do not say it."""
    cfg, _ = composed([*arguments.overrides, "dataset.num_classes=255"], arguments)
    if names := cfg.dataset.class_names:
        return len(names)
    count, values = number_of_classes(build(cfg, "dataset", split="train", strict=False))
    print(f"the masks hold {values}: taking dataset.num_classes={count}")
    return count


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
