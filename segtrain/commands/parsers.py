"""The arguments of every command, read before the command is imported: most need PyTorch, which takes seconds."""

import argparse
import glob
from pathlib import Path

from segtrain.commands.parser import Parser
from segtrain.config.saved import no_run
from segtrain.data.folder.images import IMAGE_SUFFIXES
from segtrain.errors import ConfigError

Arguments = argparse.Namespace
EXPORT_SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}
PREDICT_MATTERS = ("inference.", "trainer.device", "trainer.precision")
PREDICT_MATTERS += ("dataset.image_range", "dataset.exif", "dataset.max_pixels")
PREDICT_TAKES = (*PREDICT_MATTERS, "debug=", "dataset.root", "loader.")  # the last two: for presence and regions
# Of the training alone, but for TRAINER_MATTERS.
TRAINING_ALONE = ("optimizer", "schedule", "augment", "sampling", "weighting", "labels", "trainer", "seed")
TRAINER_MATTERS = ("trainer.device", "trainer.precision", "trainer.val_batches")


def help(words: list[str]) -> Arguments:
    """`segtrain help [TOPIC]`: print the commands, or every score with its meaning, the options of a group, the settings of a part.

    Example: segtrain help loss
    """
    parser = Parser("help", help.__doc__)
    topic = "scores, a group of settings such as loss, or a part such as trainer"
    parser.add_argument("topic", nargs="?", metavar="TOPIC", help=topic)
    parser.add_argument("--config-dir", "-cd", metavar="DIR", help="folder with the YAML files of your own options")
    return parser.parse_args(words)


def check(words: list[str]) -> Arguments:
    """`segtrain check key=value … [--out DIR]`: read every file of a dataset and report what is wrong with it.

    FOLDER stands for dataset=folder dataset.root=FOLDER; without dataset.num_classes, the classes are those found in its masks.
    All settings of a training are accepted; dataset.* and augment.size matter. The exit code is 3 when there are errors.
    --out writes a page with samples.

    Example: segtrain check photos --out report
    """
    parser = Parser("check", check.__doc__)
    parser.add_settings()
    parser.add_argument("--out", type=_named, metavar="DIR", help="write check.html there")
    return parser.parse_settings(words)


def weights(words: list[str]) -> Arguments:
    """`segtrain weights key=value …`: count the training masks and print every weighting side by side.

    Example: segtrain weights dataset=folder dataset.root=photos dataset.num_classes=3
    """
    parser = Parser("weights", weights.__doc__)
    parser.add_settings()
    return parser.parse_settings(words)


def find(words: list[str]) -> Arguments:
    """`segtrain find key=value … --hours H`: which loss, weighting and sampling to train with, within a time budget.

    Many settings are trained briefly, the best third of them for three times as long. The two best and your unchanged
    config are then trained from the start with several seeds, and compared as by `segtrain compare`. The results are in
    the folder of a sweep: `segtrain resume FOLDER` continues a search that was killed.

    Example: segtrain find dataset=folder dataset.root=photos dataset.num_classes=3 --hours 2
    """
    parser = Parser("find", find.__doc__)
    parser.add_settings()
    parser.add_argument("--hours", type=float, metavar="H", required=True, help="the time budget, in hours")
    arguments = parser.parse_settings(words)
    if not 0 < arguments.hours < 10_000:
        what = f"--hours {arguments.hours:g} is not a time that a search can take"
        raise ConfigError(what, fix="give hours: --hours 2, --hours 0.25")
    return arguments


def lr_find(words: list[str]) -> Arguments:
    """`segtrain lr-find key=value … [--out DIR]`: suggest a learning rate for these settings, within two minutes.

    Example: segtrain lr-find dataset=folder dataset.root=photos dataset.num_classes=3
    """
    parser = Parser("lr-find", lr_find.__doc__)
    parser.add_settings()
    folder = Path("outputs/lr_find")
    parser.add_argument("--out", type=_named, metavar="DIR", default=folder, help="folder for the plot and its data")
    return parser.parse_settings(words)


def evaluate(words: list[str]) -> Arguments:
    """`segtrain evaluate RUN [key=value …]`: score a finished run's best checkpoint again.

    Scores, tables and a page of the largest errors are written to RUN/evaluation.

    Example: segtrain evaluate outputs/folder/RUN metric=all inference.flips=[horizontal]
    """
    parser = Parser("evaluate", evaluate.__doc__)
    parser.add_run()
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="for example dataset.root=PATH")
    parser.add_argument("--split", default="val", choices=["train", "val", "test"])
    parser.add_checkpoint()
    original_size = "for a run with dataset.resize: score at the original size of the masks"
    parser.add_argument("--original-size", action="store_true", help=original_size)
    parser.add_argument(
        "--bootstrap", type=_draws, default=1000, metavar="N", help="draws; 0: no intervals (default 1000)"
    )
    parser.add_argument("--config-dir", metavar="DIR", help="folder with your own option of metric=NAME")
    parser.add_trust()
    arguments = _of_a_run(parser, words)
    refuse_bare(arguments.overrides, "one run is evaluated at a time: segtrain evaluate RUN key=value …")
    for word in arguments.overrides:
        key = word.partition("=")[0]
        group = key.split(".")[0]
        if group == "model":
            fix = f"leave it out, or train another: `segtrain {word} …`"
            raise ConfigError(f"{key}: the network is that of the run", word, fix)
        if group in TRAINING_ALONE and not word.startswith(TRAINER_MATTERS):
            fix = f"leave it out; of the trainer settings, only {', '.join(TRAINER_MATTERS)} matter"
            raise ConfigError(f"{key} does not matter to evaluate", word, fix)
    return arguments


def predict(words: list[str]) -> Arguments:
    """`segtrain predict RUN IMAGES… --out DIR`: write masks, overlays and a table for images without ground truth.

    IMAGES are files, folders or patterns ('scans/*.tif'). Windows, flips, thresholds and presence are the run's
    inference.* and can be changed; so can dataset.image_range for images with more than 8 bits. A damaged file is named
    and left out, with exit code 3 at the end. A call that was stopped continues where it stopped.

    Example: segtrain predict outputs/folder/RUN 'scans/*.tif' --out predicted
    """
    parser = Parser("predict", predict.__doc__)
    parser.add_run()
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, patterns, or inference.key=value")
    parser.add_argument("--out", "-o", type=_named, required=True, metavar="DIR", help="output folder")
    parser.add_argument("--probabilities", action="store_true", help="also write float16 [C, H, W] of each image")
    parser.add_argument("--no-overlays", action="store_true", help="write only the masks and the table")
    parser.add_checkpoint()
    parser.add_trust()
    arguments = _of_a_run(parser, words)
    settings = [w for w in arguments.images if "=" in w and Path(w).suffix.lower() not in IMAGE_SUFFIXES]
    overrides = [w for w in settings if not Path(w).exists() and not glob.glob(w, recursive=True)]
    refuse_idle(overrides)
    arguments.overrides, arguments.images = overrides, [w for w in arguments.images if w not in overrides]
    if not arguments.images:
        raise ConfigError("no image is given", fix="segtrain predict RUN IMAGE… --out DIR")
    return arguments


def refuse_idle(overrides: list[str]) -> None:
    """Raise ConfigError for a setting that does not matter to predictions."""
    if idle := [word for word in overrides if not word.startswith(PREDICT_TAKES)]:
        key = idle[0].partition("=")[0]
        raise ConfigError(f"{key} does not matter to predict", idle[0], f"keys: {', '.join(PREDICT_TAKES)}")


def refuse_bare(overrides: list[str], fix: str) -> None:
    """Raise ConfigError for a word that is no setting."""
    if bare := [word for word in overrides if "=" not in word]:
        raise ConfigError(f"{bare[0]} has no value", fix=fix)


def export(words: list[str]) -> Arguments:
    """`segtrain export RUN --format onnx|torch_export`: the trained network as a file that runs without segtrain.

    The file takes pixels, uint8 [N, channels, H, W] of any batch and image size, and returns logits or classes. It holds
    normalisation, padding, class names, colours and thresholds, and is compared with the network before it is kept.

    Example: segtrain export outputs/folder/RUN --out model.onnx
    """
    parser = Parser("export", export.__doc__)
    parser.add_run()
    parser.add_argument("overrides", nargs="*", default=[], metavar="inference.threshold=VALUE")
    formats = "torch_export is read by torch.export.load"
    parser.add_argument("--format", default="onnx", choices=list(EXPORT_SUFFIXES), help=formats)
    parser.add_argument("--out", type=_named, metavar="FILE", help="default: RUN/model.onnx, RUN/model.pt2")
    parser.add_argument("--output", default="logits", choices=["logits", "classes"])
    parser.add_checkpoint()
    parser.add_trust()
    arguments = _of_a_run(parser, words)
    for word in arguments.overrides:
        if (key := word.partition("=")[0]) != "inference.threshold":
            raise ConfigError(f"{key} does not matter to export", word, "the only setting is inference.threshold")
    suffix = EXPORT_SUFFIXES[arguments.format]
    out = arguments.out = arguments.out or arguments.run / f"model{suffix}"
    if out.is_dir():
        raise ConfigError("this is a folder, a file is needed", f"--out {out}", f"--out {out / f'model{suffix}'}")
    if out.suffix != suffix:
        raise ConfigError(f"a file of --format {arguments.format} ends in {suffix}", f"--out {out}", "rename it")
    return arguments


def resume(words: list[str]) -> Arguments:
    """`segtrain resume RUN_OR_SWEEP`: continue a run in its own folder, from its last checkpoint; without one, from the start.

    In a sweep, it trains the runs that are missing, interrupted or failed; in a search (`segtrain find`), what is still
    undecided.

    A setting may change when --allow names it: RUN --allow trainer.epochs trainer.epochs=40. Workers, device and how often
    checkpoints are written may always change.

    Example: segtrain resume outputs/folder/RUN
    """
    parser = Parser("resume", resume.__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_OR_SWEEP", help="folder of a run or a sweep")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="settings to change")
    allow = "a setting that may change; `dataset` stands for its files"
    parser.add_argument("--allow", action="append", default=[], metavar="KEY", help=allow)
    parser.add_trust()
    arguments = parser.parse_intermixed_args(words)
    arguments.allow = [key for keys in arguments.allow for key in keys.split(",")]
    refuse_bare(
        arguments.overrides, "a setting is written key=value; each setting that may change needs its own --allow KEY"
    )
    return arguments


def repeat(words: list[str]) -> Arguments:
    """`segtrain repeat RUN [dataset.root=PATH]`: train again from a run's config.yaml, in a new folder, and say whether the result is equal.

    The exit code is 0 when weights and scores are equal, 1 when they are not.

    Example: segtrain repeat outputs/folder/RUN
    """
    parser = Parser("repeat", repeat.__doc__)
    parser.add_run()
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="dataset.root=PATH", help="where the dataset is now"
    )
    parser.add_argument("--out", type=_named, metavar="DIR", help="the new folder; default: RUN_repeat")
    parser.add_trust()
    arguments = _of_a_run(parser, words)
    refuse_bare(arguments.overrides, "one run is repeated at a time: segtrain repeat RUN")
    for word in arguments.overrides:
        if (key := word.partition("=")[0]) != "dataset.root":
            raise ConfigError(f"{key} cannot change in a repeat", word, "leave it out; only dataset.root may change")
    return arguments


def compare(words: list[str]) -> Arguments:
    """`segtrain compare RUN_OR_SWEEP …`: which setting wins, on which class, and whether the difference is real.

    Repeats of a setting (seed=0,1,2) are one row. How it is decided: docs/comparison.md.

    Example: segtrain compare outputs/folder/sweeps/SWEEP --out report
    """
    parser = Parser("compare", compare.__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_OR_SWEEP", help="folders of runs or sweeps")
    parser.add_argument("--by", metavar="SCORE", help="such as iou/foreground; default: the score all runs monitored")
    baseline = "a run's folder, or loss.alpha=0,weighting=none; default: the plainest setting, in a search the unchanged config"
    parser.add_argument("--baseline", metavar="RUN_OR_SETTING", help=baseline)
    parser.add_argument("--split", metavar="SPLIT", help="compare the scores of `segtrain evaluate RUN --split SPLIT`")
    parser.add_argument("--out", type=_named, metavar="DIR", help="folder for comparison.csv, .json and .html")
    pictures = "how many images to show on the page, those that baseline and best predict most differently (default 6; 0: none, faster)"
    parser.add_argument("--pictures", type=_number, default=6, metavar="N", help=pictures)
    parser.add_trust()
    return parser.parse_intermixed_args(words)


PARSERS = {
    function.__name__.replace("_", "-"): function
    for function in (help, check, weights, find, lr_find, evaluate, predict, export, resume, repeat, compare)
}


def _of_a_run(parser: Parser, words: list[str]) -> Arguments:
    """The arguments, `run` among them. Raises ConfigError when it holds no run."""
    arguments = parser.parse_intermixed_args(words)
    if not (arguments.run / "config.yaml").is_file():
        raise no_run(arguments.run)
    return arguments


def _draws(text: str) -> int:
    """How often the bootstrap draws."""
    if not text.lstrip("-").isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of draws")
    number = int(text)
    if number != 0 and number < 20:
        raise argparse.ArgumentTypeError(f"{number} draws are too few for an interval: give 0, or at least 20")
    return number


def _number(text: str) -> int:
    """Of pictures."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pictures")
    return int(text)


def _named(word: str) -> Path:
    """A file or folder; "", as of an unset variable, would be the current folder."""
    if not word:
        raise argparse.ArgumentTypeError("no name is given")
    return Path(word)
