"""segtrain in Python: `segtrain.load(RUN)` for a trained run, `segtrain.train(overrides, dataset=…)` for a training."""

import copy
import functools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from segtrain.commands.large_images import set_window
from segtrain.commands.parsers import refuse_idle
from segtrain.commands.predict import prepared, reader_of
from segtrain.commands.train import train as run_training
from segtrain.config.build import check_samples
from segtrain.config.compose import compose, folder_of, without_hydra
from segtrain.config.internals import with_folder
from segtrain.config.launch import check_single
from segtrain.config.saved import packages_of
from segtrain.data.dataset import as_dataset
from segtrain.data.folder.images import pixels_of, upright
from segtrain.data.folder.values import with_channels
from segtrain.data.given import given_arguments, train_and_val
from segtrain.errors import ConfigError, DataError
from segtrain.files import read_arrays
from segtrain.report.logger import logged_to
from segtrain.runs import trained
from segtrain.runs.claim import make_run_folder
from segtrain.runs.folder import RunFolder
from segtrain.signals import watched

log = logging.getLogger("segtrain")

PathLike = str | Path
BY_CLASS = ("class_names", "palette")  # settings with an item for each class


class Run:
    """A trained run, ready to predict.

    Attributes:
        path: its folder.
        config: its settings by name, such as `run.config.loss.alpha`.
        network: a torch module, uint8 images [N, channels, H, W] -> logits [N, C, H, W], in evaluation mode on its device.
        class_names: the C classes.
        epoch: after which the checkpoint was written, from 1.
        result: what result.json holds: `per_class`, `intervals`, `thresholds`, and more.
    """

    def __init__(self, found: trained.Trained):
        self._trained, self.config = found, copy.deepcopy(found.config)
        self._predictor = prepared(found)
        self.path, self.network = found.run, self._predictor.model
        self.class_names, self.epoch, self.result = found.classes.class_names, found.epoch, found.result

    @property
    def scores(self) -> dict[str, float]:
        """The scores of the best epoch on val by name: `run.scores["iou/mean"]`. A score that is not defined is None."""
        return self.result.scores

    @functools.cached_property
    def per_image(self) -> dict[str, np.ndarray]:
        """Counts of the best epoch for each validation image: `tp`, `fp`, `fn` int64 [images, C], `names`, `classes`, `groups`.

        Raises ConfigError for a run whose metric keeps none.
        """
        return read_arrays(self.path / "per_image.npz")

    def predict(self, image: np.ndarray | Image.Image | PathLike) -> np.ndarray:
        """The predicted classes, uint8 [H, W]; of a multi-label run bool [C, H, W].

        With the run's windows, flips, thresholds and presence (`inference.*`), as `segtrain predict`.

        Args:
            image: uint8 [H, W, channels], 3 channels are RGB; grey as [H, W]; a PIL image; or an image file.

        Raises DataError for a file that cannot be read, and an array of another form.
        """
        return self._prediction(image, probabilities=False).mask

    def probabilities(self, image: np.ndarray | Image.Image | PathLike) -> np.ndarray:
        """The probability of each class, float16 [C, H, W], for an image as `predict` takes it."""
        return self._prediction(image, probabilities=True).probabilities

    def _prediction(self, image: np.ndarray | Image.Image | PathLike, probabilities: bool):
        reader, channels = reader_of(self._trained), self._trained.channels
        if isinstance(image, str | Path):
            if Path(image).is_dir():
                fix = f"`segtrain predict {self.path} {image} --out DIR` predicts all images of a folder; here name one file"
                raise DataError("this is a folder", str(image), fix)
            if not Path(image).is_file():
                raise DataError("no such file", str(image), "name an image file")
            image = reader.read(Path(image))
        elif isinstance(image, Image.Image):
            image = pixels_of(upright(image, reader.exif), channels, reader.value_range, Path("predict"))
        else:
            _check_array(image, channels, reader.value_range)
            image = with_channels(image, channels, Path("predict"))
        set_window(self._predictor, self._trained, image)
        return self._predictor.image(image, probabilities)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, epoch {self.epoch}, classes {', '.join(self.class_names)})"


def _check_array(image: Any, channels: int, value_range: Sequence[float] | None) -> None:
    """Raise DataError for what is no uint8 [H, W] or [H, W, channels], with how to make it one."""
    fix = f"give uint8 [H, W, {channels}], a PIL image, or a file"
    if isinstance(image, torch.Tensor):
        first = image.ndim == 3 and image.shape[-1] != channels
        fix = f"image.{'permute(1, 2, 0).' * first}numpy(); {fix}"
    elif not isinstance(image, np.ndarray):
        raise DataError(f"the image is a {type(image).__name__}", "predict", f"one image at a time: {fix}")
    elif image.ndim == 4:
        fix = f"one image at a time: {fix}"
    elif image.ndim == 3 and image.shape[0] == channels != image.shape[2]:
        fix = f"channels come last: image.transpose(1, 2, 0); {fix}"
    elif image.dtype == np.uint16 and image.ndim == 2:
        fix = f"Image.fromarray(image), which is read like a 16-bit file; {fix}"
    elif image.dtype != np.uint8:
        scaled = (
            "" if value_range is None else f", where 0 stands for {value_range[0]:g} and 255 for {value_range[1]:g}"
        )
        fix = f"with values from 0 to 255{scaled}: {fix}"
    elif image.ndim in (2, 3) and image.size:
        return
    kind = "a tensor of " * isinstance(image, torch.Tensor)
    raise DataError(f"the image is {kind}{image.dtype} {list(image.shape)}", "predict", fix)


def load(
    run: PathLike,
    checkpoint: Literal["best", "last"] = "best",
    *,
    overrides: list[str] | None = None,
    trust: list[str] | None = None,
) -> Run:
    """A trained run from its folder. No code of the folder is executed.

    Args:
        overrides: settings such as `inference.window=[512,512]` and `trainer.device=cpu`.
        trust: packages besides segtrain's whose classes its config may build.

    Raises ConfigError for a folder without a run, a damaged one, classes that are not trusted, and overrides that do not
    matter to predictions.
    """
    if Path(checkpoint).name != checkpoint or checkpoint.endswith(".pt"):
        raise ConfigError(
            "this is a file, not the name of a checkpoint", f"checkpoint={checkpoint!r}", "give 'best' or 'last'"
        )
    refuse_idle(_words(overrides, "overrides", "inference.flips=[horizontal]"))
    return Run(trained.load(str(run), checkpoint, _words(trust, "trust", "my_package"), overrides))


def _words(given: list[str] | None, name: str, example: str) -> list[str]:
    """Raise ConfigError for a single text, whose letters would be taken, and for a mapping."""
    if isinstance(given, str | dict):
        raise ConfigError(f"{name} is not a list: {given!r:.60}", name, f"give a list: [{example!r}]")
    return list(given or [])


def train(
    overrides: list[str] | None = None,
    dataset: Any = None,
    *,
    val_ratio: float | None = None,
    folder: PathLike | None = None,
    config_dir: PathLike | None = None,
) -> Run:
    """Train, as `segtrain key=value …` does, and return the run with the weights of its best epoch.

    Args:
        overrides: settings as on the command line: `["loss=ce_dice", "trainer.epochs=20"]`.
        dataset: an object with what `segtrain.data.dataset.SegmentationDataset` describes, or a pair of them, for training
            and for validation; None: the dataset that the overrides name.
        val_ratio: share of the groups of a single dataset that is for validation, chosen by a hash of their names; None: 0.2.
        folder: of the run, which must not hold one; None: a new one in outputs/.
        config_dir: where your own YAML files are.

    Raises ConfigError for settings that are wrong, DataError for data that are, before the training starts.
    """
    words, datasets = _words(overrides, "overrides", "loss=ce_dice"), None
    if {"-m", "--multirun"} & {*words}:
        raise ConfigError(
            "sweeps run only from the command line", "-m", "leave it out, and call train for each setting"
        )
    if dataset is not None:
        _refuse_dataset(dataset, words)
        datasets = _pair(dataset, val_ratio)
        settings = given_arguments(datasets[0])
        # As words, so that mistakes in `overrides` are not answered by what is missing; texts would have to be quoted.
        plain = [f"dataset.{key}={json.dumps(value)}" for key, value in settings.items() if key not in BY_CLASS]
        words = ["dataset=python", *plain, "dataset.class_names=[]", *words]
    cfg = compose(with_folder(words), None if config_dir is None else str(config_dir))
    left_out = []
    if datasets is not None:
        left_out = [key for key in cfg.dataset if key not in (*settings, "_target_")]  # of an experiment
        cfg.dataset = {"_target_": cfg.dataset["_target_"], **settings}
    check_single(cfg)
    path = make_run_folder(lambda: folder_of(cfg, "hydra.run.dir") if folder is None else Path(folder))
    options = {**cfg.hydra.runtime.choices}
    cfg = without_hydra(cfg)
    with watched(), logged_to(path / "segtrain.log"), RunFolder(path) as run:
        command = f"segtrain.train({overrides or []!r}{', dataset=…' * (dataset is not None)})"
        run.begin(cfg, command=command, options=options)
        if left_out:
            keys = ", ".join(f"dataset.{key}" for key in left_out)
            log.warning(f"the dataset object is used unchanged; not used: {keys} of the experiment")
        run_training(cfg, run, datasets=datasets)
    return load(path, trust=packages_of(cfg))


def _refuse_dataset(dataset: Any, words: list[str]) -> None:
    """Raise ConfigError for what is no object, and for one beside a dataset that the overrides name."""
    if named := [word for word in words if word.partition("=")[0].split(".")[0].lstrip("+~") == "dataset"]:
        raise ConfigError("a dataset object is given as well", named[0], "leave it out, or leave out dataset=…")
    if isinstance(dataset, str | Path):
        fix = f'segtrain.train(["dataset=folder", "dataset.root={dataset}", "dataset.num_classes=2"])'
        raise ConfigError(f"the path {dataset} is given instead of a dataset object", "dataset", fix)
    if isinstance(dataset, type):
        name = dataset.__name__
        raise ConfigError(f"the class {name} itself is given", "dataset", f"give an object: {name}(…)")


def _pair(dataset: Any, val_ratio: float | None) -> tuple:
    """The datasets of training and validation, checked. Raises ConfigError when their classes differ."""
    if isinstance(dataset, tuple | list):
        if len(dataset) != 2:
            raise ConfigError(f"{len(dataset)} datasets are given", "dataset", "give one, or a pair: (TRAIN, VAL)")
        if val_ratio is not None:
            raise ConfigError("a pair of datasets is already divided", f"val_ratio={val_ratio}", "leave it out")
        pair, owners = (as_dataset(dataset[0]), as_dataset(dataset[1])), [type(each).__name__ for each in dataset]
    else:
        owners = [type(dataset).__name__] * 2
        single = as_dataset(dataset)
        check_samples(single, "train", owners[0])
        pair = train_and_val(single, 0.2 if val_ratio is None else val_ratio, owners[0])
    for split, each, owner in zip(("train", "val"), pair, owners, strict=True):
        check_samples(each, split, owner)
    first, second = map(given_arguments, pair)
    if different := [key for key in first if first[key] != second[key]]:
        what = f"the two datasets differ in {', '.join(different)}"
        raise ConfigError(what, "dataset", "make them the same in both")
    return pair
