"""`segtrain help TOPIC`: every score with its meaning, the options of a group, or the settings of a part."""

import textwrap
from argparse import Namespace
from importlib.resources import files
from pathlib import Path

import yaml

from segtrain.commands import COMMANDS
from segtrain.config.signatures import docstring_of
from segtrain.errors import ConfigError, did_you_mean
from segtrain.report.text import table

MANY = 2  # further lines of a setting
CONFIGS = files("segtrain.configs")
OVERVIEW = """segtrain trains segmentation models on badly imbalanced classes.

  segtrain key=value …                       train; -m sweeps over values with commas
{commands}
  segtrain help, segtrain --help             this text
  segtrain help scores                       every score with its meaning
  segtrain help loss                         the options of a group, each with its meaning and settings
  segtrain help trainer                      the settings of trainer, loader, inference or sweep

== Groups: group=option chooses, `segtrain help GROUP` explains the options and their settings ==
{groups}

== Settings that are changed most often: key=value ==
dataset.root=PATH             with dataset=folder, the folder of images and masks; `segtrain check PATH` says what it holds
dataset.num_classes=4         including the background
dataset.resize=null           with dataset=folder, [height,width] or a factor
augment.size=auto             size of the training crops; null: whole images
loss.alpha=1.0                with loss=ce_dice, the weight of Dice added to cross-entropy
model.encoder=resnet18        a name from segmentation-models-pytorch, or tu-NAME from timm
model.encoder_weights=null    imagenet, a file, or a run
optimizer.lr=0.002            `segtrain lr-find` suggests one
loader.batch_size=4
trainer.epochs=12
trainer.monitor=iou/mean      the score that chooses the best epoch; `segtrain help scores` lists all
trainer.precision=auto        float32, bfloat16 or float16
seed=0
hydra.run.dir=DIR             the run's folder

All settings: `segtrain help GROUP`, also for trainer, loader, inference and sweep; `segtrain --cfg job` prints their values.
Options of Hydra work, too: --cfg job, -m, --config-dir DIR, --config-name NAME; see --hydra-help."""


def main(arguments: Namespace) -> int:
    if arguments.config_dir is not None and not Path(arguments.config_dir).is_dir():
        raise ConfigError(f"no folder {arguments.config_dir}", "--config-dir", "name the folder of your YAML files")
    topic, parts = arguments.topic, parts_of_config()
    if topic is None:
        print(overview(arguments.config_dir))
        return 0
    if topic not in topics():
        fix = f"topics: {', '.join(topics())}; `segtrain help` lists commands and settings"
        raise ConfigError(f"no help on {topic!r}{did_you_mean(topic, topics())}", fix=fix)
    if topic in parts:
        print(part_text(topic, parts[topic]))
    else:
        print(scores_table() if topic == "scores" else group_text(topic, arguments.config_dir))
    return 0


def overview(config_dir: str | None = None) -> str:
    """The commands, the groups with their options, and the settings that are changed most."""
    commands = "\n".join(f"  segtrain {line}" for line in COMMANDS.values())
    options = {group: ", ".join(sorted(options_of(group, config_dir))) for group in groups()}
    return OVERVIEW.format(commands=commands, groups="\n".join(f"{group}: {names}" for group, names in options.items()))


def groups() -> list[str]:
    return sorted(f.name for f in CONFIGS.iterdir() if f.is_dir() and f.name not in ("hydra", "__pycache__"))


def options_of(group: str, config_dir: str | None) -> dict:
    """The YAML file of each option of a group; those in `config_dir` come before segtrain's of the same name."""
    found = {file.name: file for file in CONFIGS.joinpath(group).iterdir()}
    found |= {file.name: file for file in Path(config_dir or "", group).glob("*.yaml") if config_dir}
    return {name.removesuffix(".yaml"): file for name, file in found.items() if name.endswith(".yaml")}


def topics() -> list[str]:
    """What there is help on: the scores, each config group, each other part of the config."""
    return ["scores", *groups(), *parts_of_config()]


def parts_of_config() -> dict[str, list[str]]:
    """The lines of config.yaml below each of its parts that is no group, such as trainer."""
    parts, lines = {}, CONFIGS.joinpath("config.yaml").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        name, _, value = line.partition(":")
        if name.isidentifier() and name != "defaults" and value.partition("#")[0].strip() == "":
            parts[name] = lines[number + 1 : number + 1 + _indented(lines[number + 1 :])]
    return parts


def part_text(name: str, lines: list[str]) -> str:
    """The settings of a part with their defaults, and what its class says of them."""
    text = [f"Settings of {name}: {name}.KEY=VALUE changes one"]
    text += [line for line in lines if "_target_" not in line]
    if target := next((line.split()[1] for line in lines if "_target_" in line), None):
        about = docstring_of(target).partition("Args:\n")[2]
        text += ["", textwrap.dedent(about)]
    return "\n".join(text)


def group_text(group: str, config_dir: str | None = None) -> str:
    """Each option of a group: the first line of its YAML, which says what it is, and its settings.

    Args:
        config_dir: where there may be more, or others of the same name.
    """
    change = (
        "and its settings are changed by their own keys"
        if group == "experiment"
        else f"{group}.KEY=VALUE changes a setting"
    )
    parts = [f"Options of {group}: {group}=NAME chooses one, {change}"]
    found = options_of(group, config_dir)
    for name, file in sorted(found.items(), key=lambda option: (option[0] != "folder", option[0])):
        lines = file.read_text(encoding="utf-8").splitlines()
        notes = [line for line in lines if line.startswith("#") and not line.startswith("# @package")]
        about = notes[0].lstrip("# ") if notes else ""
        start = lines.index("defaults:") if "defaults:" in lines else None
        inherited = [] if start is None else lines[start : start + 1 + _indented(lines[start + 1 :])]
        settings = [line for line in lines if line and not line.startswith(("#", "_target_")) and line not in inherited]
        parts_of = [line.strip("- ").partition("@") for line in inherited if "@" in line]
        bases = [base for line in inherited[1:] if (base := line.strip("- ")) != "_self_" and "@" not in base]
        chosen = [base.removeprefix("override /").replace(": ", "=") for base in bases if base.startswith("override /")]
        settings = _shortened(settings) + chosen
        settings += [f"and those of {group}={base}" for base in bases if not base.startswith("override /")]
        if group == "experiment":  # the command, the time, and the answer that was seen
            settings = notes[1:] + settings
        settings += [f"{part}.KEY: as {group}={option}" for option, _, part in parts_of]
        parts.append("\n".join([f"{name}: {about}", *(f"    {line}" for line in settings)]))
    return "\n\n".join(parts)


def _shortened(lines: list[str]) -> list[str]:
    """Settings, of which a list or mapping of many lines, such as the 150 classes of a dataset, is left out."""
    found: list[str] = []
    for number, line in enumerate(lines):
        if line.startswith(" "):
            continue
        below, (key, _, value) = _indented(lines[number + 1 :]), line.partition(": ")
        if value.startswith(("[", "{")) and below >= MANY:
            found.append(f"{key}: … (`segtrain --cfg job` prints it)")
        else:
            found += lines[number : number + 1 + below]
    return found


def _indented(lines: list[str]) -> int:
    """How many of the first lines are indented."""
    return next((i for i, line in enumerate(lines) if not line.startswith(" ")), len(lines))


def scores_table() -> str:
    """A row for each kind of score that metric=all gives, and for each part; <class> stands for the name of each class."""
    from segtrain.metrics import LOSS, Score, SegmentationScores  # which import torch

    names = ["background", "<class>"]
    every = yaml.safe_load(CONFIGS.joinpath("metric/all.yaml").read_text(encoding="utf-8"))["groups"]
    records = SegmentationScores(2, class_names=names, groups=every).records()
    kinds: dict[str, list[Score]] = {}
    for score in [LOSS, *records.values()]:
        if score.class_name != "background":
            kinds.setdefault(score.kind, []).append(score)
    rows, parts = [], {"<class>": "of one class"}
    for kind, scores in kinds.items():
        meaning = min((score.meaning for score in scores), key=len)  # the others go on with the part
        for score in scores:
            parts.setdefault(score.part, score.meaning.removeprefix(meaning).removeprefix("; "))
        better = "higher" if scores[0].higher_is_better else "lower"
        rows.append([kind, " ".join(score.part for score in scores), better, meaning])
    title = "Scores of metric=all; trainer.monitor takes any score of the chosen metric"
    of_kinds = table(["score", "parts", "better", "meaning"], rows, title, left=("parts", "meaning"))
    named = [[part, words] for part, words in parts.items() if part]
    title = "A score with parts is named score/part, such as iou/mean"
    of_parts = table(["part", "meaning"], named, title, left=("meaning",))
    return f"{of_kinds}\n{of_parts}"
