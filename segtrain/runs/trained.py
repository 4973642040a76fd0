"""Load a run's trained network with its classes and settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segtrain.config.build import build
from segtrain.config.saved import load_saved
from segtrain.config.schema import check_config
from segtrain.errors import ConfigError
from segtrain.runs.files import read_checkpoint, read_json
from segtrain.runs.result import Result


@dataclass
class Trained:
    """A trained network and what belongs to it.

    Attributes:
        run: its folder.
        config: its settings, of which parts are built: dataset, inference, metric, loss, …
        network: uint8 images [N,B,H,W] -> logits [N,C,H,W].
        class_names: of the dataset it was trained on.
        result: its scores and thresholds.
        epoch: after which the checkpoint was written, from 1.
    """

    run: Path
    config: Any
    network: Any
    class_names: list[str]
    result: Result
    epoch: int


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
    cfg = load_saved(folder / "config.yaml", overrides or [], trust or [], config_dir)
    check_config(cfg)
    content = read_checkpoint(folder / "checkpoints" / f"{checkpoint}.pt")
    if cfg.model.get("encoder_weights") is not None:
        cfg.model.encoder_weights = None  # every weight comes from the checkpoint
    network = build(cfg, "model")
    try:
        network.load_state_dict(content["model"])
    except RuntimeError as error:
        raise ConfigError(
            f"the checkpoint does not fit the model of config.yaml: {str(error).splitlines()[0]}",
            run,
            "leave model.* as the run had it",
        ) from error
    names = [row["name"] for row in read_json(folder / "class_counts.json").get("classes", [])]
    return Trained(folder, cfg, network, names, Result.read(folder), content.get("epoch") or content["state"]["epoch"])
