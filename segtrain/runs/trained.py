"""Load a run's trained network with its classes and settings."""

import logging
import operator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from segtrain.arguments import Label, Range, Size, mistake
from segtrain.config.build import build_model
from segtrain.config.saved import content_of, load_saved, no_run, settings_in
from segtrain.config.schema import check_config, flat
from segtrain.errors import ConfigError
from segtrain.files import read_checkpoint, read_json
from segtrain.runs.checkpoints import validated_weights
from segtrain.runs.claim import refuse_links
from segtrain.runs.environment import changed_settings, differing
from segtrain.runs.result import Result

log = logging.getLogger("segtrain")

Colour = Annotated[list[Label], Range("[r, g, b]", lambda v: len(v) == 3)]


@dataclass(frozen=True)
class Classes:
    """The classes that a run was trained on.

    Attributes:
        background: index, or None. multilabel: whether a pixel may have several.
        palette: uint8 [C, 3] for pictures, or None.
    """

    class_names: list[str]
    background: int | None
    multilabel: bool
    palette: np.ndarray | None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def check_foreground(self, run: str) -> None:
        """Raise ConfigError when foreground cannot be told from background."""
        if self.background is None and not self.multilabel:
            raise ConfigError("its dataset has no background", run, "name a run that tells foreground from background")


@dataclass
class Trained:
    """A trained network and what belongs to it.

    Attributes:
        run: its folder.
        config: its settings, of which parts are built: dataset, inference, metric, loss, …
        network: uint8 images [N,B,H,W] -> logits [N,C,H,W].
        loss_state: what its loss has learned or counted (segtrain.losses.state).
        result: its scores and thresholds.
        epoch: after which the checkpoint was written, from 1.
        image_size: the usual height and width of a training image; None where environment.json does not give it.
        trusted: packages besides segtrain's whose classes were allowed.
    """

    run: Path
    config: Any
    network: Any
    loss_state: dict
    result: Result
    epoch: int
    image_size: list[int] | None
    trusted: list[str]

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.config.model.get("in_channels") or self.config.dataset.get("channels") or 3

    @cached_property
    def classes(self) -> Classes:
        """What is predicted, without the dataset. Raises ConfigError for a run that did not keep it."""
        file = self.run / "class_counts.json"
        content = read_json(file)
        background, multilabel = content.get("background"), content.get("multilabel")
        try:
            names = [row["name"] for row in content.get("classes", [])]
        except (TypeError, KeyError):
            names = [None]
        if not names or not all(isinstance(name, str) for name in names):
            raise ConfigError("its classes have no names", str(file), "restore the file")
        if not isinstance(multilabel, bool) or not (background is None or background in range(len(names))):
            what = "it does not say which class is the background, or whether a pixel may have several classes"
            raise ConfigError(what, str(file), "restore the file")
        return Classes(names, background, multilabel, _palette(self.config.dataset, len(names)))


def load(
    run: str,
    checkpoint: Literal["best", "last"] = "best",
    trust: list[str] | None = None,
    overrides: list[str] | None = None,
    config_dir: str | None = None,
) -> Trained:
    """Load a run; its network is on the CPU.

    Args:
        trust: packages besides segtrain's whose classes its config may build.
        overrides: `key=value`, and `metric=OPTION`.
        config_dir: where that option may be, besides segtrain's.

    Raises ConfigError for a folder without a run, for classes that are not trusted, and for weights that do not fit.
    """
    folder = Path(run)
    saved, environment = folder / "config.yaml", folder / "environment.json"
    if not saved.is_file():
        raise no_run(folder)
    refuse_links(folder)
    changed = changed_settings(read_json(environment))  # since it was resumed
    arguments = saved, overrides or [], trust or [], config_dir
    try:
        cfg = load_saved(*arguments, changed)
    except ConfigError as error:
        if error.where != str(environment):
            raise
        log.warning(f"what `resume` changed cannot be read ({error.what}): the settings are those of config.yaml")
        changed, cfg = {}, load_saved(*arguments)
    check_config(cfg, f"{' '.join(overrides)} with {saved}" if overrides else str(saved))
    file = folder / "checkpoints" / f"{checkpoint}.pt"
    content = read_checkpoint(file)
    check_unchanged(folder, content)
    network = build_model(cfg, from_checkpoint=True)
    try:
        network.load_state_dict(validated_weights(content))
        epoch = operator.index(content["epoch"] if "epoch" in content else content["state"]["epoch"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            f"the checkpoint does not fit the model of config.yaml: {' '.join(str(error).split())[:300]}",
            str(file),
            "leave model.* as the run had it",
        ) from error
    size = read_json(environment).get("image_size")
    if any(key.startswith("dataset.resize") for key in changed):
        size = None
    elif size is not None and mistake(size, Size):
        raise ConfigError(f"image_size {mistake(size, Size)}", str(environment), "restore the file")
    return Trained(folder, cfg, network, content.get("loss", {}), Result.read(folder), epoch, size, trust or [])


def _palette(dataset, num_classes: int) -> np.ndarray | None:
    """The colours that the dataset's settings give the classes: dataset.palette, or the first of dataset.colors."""
    colours = [
        list(colour) if isinstance(colour[0], int) else list(colour[0])
        for colour in dataset.get("palette") or dataset.get("colors") or ()
    ]
    if not colours:
        return None
    if len(colours) != num_classes or mistake(colours, list[Colour]):
        raise ConfigError(f"{colours} are not colours", "dataset.palette", "give one [r,g,b] per class")
    return np.array(colours, dtype=np.uint8)


def check_unchanged(folder: Path, content: dict) -> None:
    """Raise ConfigError when config.yaml is not the one that the checkpoint was trained with."""
    run = content.get("run")
    text = content.get("config") or (run.get("config") if isinstance(run, dict) else None)
    file = folder / "config.yaml"
    if changed := differing(settings_in(str(text), str(file)), flat(content_of(file))):
        fix = "restore the file; give settings for the evaluation as key=value"
        raise ConfigError(f"changed since the checkpoint was written: {', '.join(changed)}", str(file), fix)
