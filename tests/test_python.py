"""segtrain in Python: a run that is loaded, a training on dataset objects, and the documentation, which is run."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

import segtrain
from segtrain.cli import run_command
from segtrain.config.saved import load_saved
from segtrain.data.dataset import SegmentationDataset, as_dataset
from segtrain.data.given import train_and_val
from segtrain.data.shapes import Shapes
from segtrain.errors import ConfigError, DataError

DOCS = Path(__file__).resolve().parents[1] / "docs"


class Plain:
    """What is required of a dataset, and nothing else."""

    num_classes, class_names, ignore_index, background, multilabel = 2, ["a", "b"], 255, 0, False

    def __init__(self, images: int = 20):
        self.names = [f"image {i}" for i in range(images)]

    def image(self, index):
        return np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)

    def mask(self, index):
        return self.image(index)[..., 0] // 128


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGTRAIN_CACHE", str(tmp_path / "cache"))


def test_a_loaded_run_predicts_what_validation_counted(trained, tmp_path):
    run = segtrain.load(trained)
    cfg = load_saved(trained / "config.yaml", [], [])
    data = Shapes("val", list(cfg.dataset.size), val_images=cfg.dataset.val_images)
    assert run.class_names == data.class_names
    assert run.scores == json.loads((trained / "result.json").read_text())["scores"]
    assert run.config.loss.alpha == cfg.loss.alpha
    assert run.per_image["names"].tolist() == data.names
    for index in range(3):
        mask = run.predict(data.image(index))
        found = [int(((mask == c) & (data.mask(index) == c)).sum()) for c in range(4)]
        assert found == run.per_image["tp"][index].tolist()
    file = tmp_path / "image.png"
    Image.fromarray(data.image(0)).save(file)
    assert np.array_equal(run.predict(file), run.predict(data.image(0)))
    probabilities = run.probabilities(data.image(0))
    np.testing.assert_allclose(probabilities.astype(np.float32).sum(axis=0), 1, atol=2e-3)
    assert np.array_equal(run.predict(Image.open(file)), run.predict(file))
    grey = np.asarray(Image.open(file).convert("L"))
    assert np.array_equal(run.predict(grey), run.predict(np.stack([grey] * 3, axis=2)))
    pixels = np.zeros((8, 9, 3), np.uint8)
    for wrong, form, fix in (
        (np.zeros((3, 4)), "the image is float64 [3, 4]", "from 0 to 255"),
        (pixels.astype(np.uint16), "the image is uint16 [8, 9, 3]", "from 0 to 255"),
        (pixels.transpose(2, 0, 1), "the image is uint8 [3, 8, 9]", "image.transpose(1, 2, 0)"),
        (pixels[None], "the image is uint8 [1, 8, 9, 3]", "one image at a time"),
        (
            torch.tensor(pixels).permute(2, 0, 1),
            "the image is a tensor of torch.uint8 [3, 8, 9]",
            "permute(1, 2, 0).numpy()",
        ),
        ([pixels, pixels], "the image is a list", "one image at a time"),
        (None, "the image is a NoneType", "a file"),
        (tmp_path, "this is a folder", "segtrain predict"),
        (tmp_path / "no.png", "no such file", "name an image file"),
    ):
        with pytest.raises(DataError) as error:
            run.predict(wrong)
        assert error.value.what == form
        assert fix in error.value.fix
    for settings, what in (
        ({"overrides": ["trainer.epochs=3"]}, "trainer.epochs does not matter to predict"),
        ({"overrides": "inference.flips=[horizontal]"}, "overrides is not a list"),
        ({"trust": "package"}, "trust is not a list"),
    ):
        with pytest.raises(ConfigError, match=what):
            segtrain.load(trained, **settings)


def test_training_on_objects(tmp_path):
    words = [word for word in TINY if not word.startswith("dataset.")]
    run = segtrain.train(words, dataset=Plain(), folder=tmp_path / "run")
    assert (run.path, run.class_names, run.epoch) == (tmp_path / "run", ["a", "b"], 1)
    kept = run.per_image["names"].tolist()
    assert 0 < len(kept) < 10
    assert set(kept) < set(Plain().names)
    assert run.predict(Plain().image(0)).shape == (32, 32)
    assert "epoch" in (tmp_path / "run/segtrain.log").read_text()
    assert "dataset=…" in json.loads((tmp_path / "run/environment.json").read_text())["command"]
    with pytest.raises(ConfigError, match="dataset objects, which its folder does not hold"):
        run_command("evaluate", [str(tmp_path / "run")])
    with pytest.raises(ConfigError, match="the folder holds a run already"):
        segtrain.train(words, dataset=Plain(), folder=tmp_path / "run")
    with pytest.raises(ConfigError, match="instead of a dataset object") as error:
        segtrain.train(words, dataset="my/images")
    assert "dataset.root=my/images" in error.value.fix


class ThreeClasses(Plain):
    num_classes, class_names = 3, ["a", "b", "c"]


class Scenes(Plain, SegmentationDataset):
    def group(self, index):
        return f"scene {index // 4}"


class Alike(Plain):
    def __init__(self):
        super().__init__(6)
        self.names = ["x"] * 6


class Floats(Plain):
    def image(self, index):
        return super().image(index) / 255


@pytest.mark.parametrize(
    ("words", "dataset", "kind", "what"),
    [
        (["dataset.root=x"], Plain(), ConfigError, "a dataset object is given as well"),
        (["loss.alhpa=1"], Plain(), ConfigError, "config error: loss has no key 'alhpa', did you mean 'alpha'?\n"),
        ("loss=ce", Plain(), ConfigError, "overrides is not a list: 'loss=ce'"),
        ({"loss": "ce"}, Plain(), ConfigError, "overrides is not a list"),
        (["loss=bce"], (Plain(), ThreeClasses()), ConfigError, "differ in num_classes, class_names"),
        ([], (Plain(),), ConfigError, "1 datasets"),
        (["-m", "seed=0,1"], Plain(), ConfigError, "sweeps run only from the command line"),
        ([], Alike(), DataError, "6 images of the train split have the name 'x'"),
        ([], object(), ConfigError, "the dataset class has no num_classes"),
        ([], Plain(1), DataError, "no image for val: 1 image in 1 group"),
        ([], Plain(1), DataError, "where: Plain"),
        ([], (Plain(3), Plain(0)), DataError, "the val split is empty"),
        ([], Floats(), DataError, "mask is float64"),
        (["experiment=alpha_sweep"], None, ConfigError, "the experiment sweeps"),
    ],
)
def test_mistakes_are_found_before_a_folder_is_made(tmp_path, words, dataset, kind, what):
    with pytest.raises(kind) as error:
        segtrain.train(words, dataset=dataset)
    assert what in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_named_and_no_file(trained):
    with pytest.raises(ConfigError, match="give 'best' or 'last'"):
        segtrain.load(trained, checkpoint=str(trained / "checkpoints/best.pt"))


def test_a_pair_is_divided_already():
    with pytest.raises(ConfigError, match="a pair of datasets is already divided"):
        segtrain.train([], dataset=(Plain(3), Plain(3)), val_ratio=0.5)


def test_a_dataset_is_divided_by_groups_and_survives_pickling():
    data = Scenes(200)
    train, val = train_and_val(data, 0.2, "Scenes")
    assert sorted(train.names + val.names) == sorted(data.names)
    assert 20 <= len(val.names) <= 60
    groups = [{part.group(i) for i in range(len(part.names))} for part in (train, val)]
    assert not groups[0] & groups[1]
    again = pickle.loads(pickle.dumps(val))
    assert np.array_equal(again.image(3), data.image(data.names.index(val.names[3])))


def test_of_few_images_one_is_for_validation():
    for images in (2, 3, 4, 5):
        train, val = train_and_val(as_dataset(Plain(images)), 0.2, "Plain")
        assert train.names
        assert val.names
    with pytest.raises(ConfigError, match="val_ratio='0.2'"):
        train_and_val(as_dataset(Plain(5)), "0.2", "Plain")


def test_an_experiment_may_say_how_files_are_read(tmp_path):
    words = [word for word in TINY if not word.startswith("dataset.")]
    run = segtrain.train(["experiment=street_scenes", *words, "model.full_resolution_skip=0"], dataset=Plain())
    assert "resize" not in run.config.dataset
    assert "dataset.resize" in (run.path / "segtrain.log").read_text()


def test_import_is_fast_and_names_are_documented():
    code = "import sys, segtrain; assert 'torch' not in sys.modules and 'hydra' not in sys.modules; print(segtrain.load.__doc__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Raises ConfigError" in done.stdout, done.stderr
    for name in segtrain.__all__:
        assert name == "__version__" or getattr(segtrain, name).__doc__
    public = [value for name, value in vars(segtrain.Run).items() if not name.startswith("_") and callable(value)]
    assert all(value.__doc__ for value in public)
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = segtrain.laod


@pytest.mark.slow
def test_the_code_of_the_documentation_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.S)
    assert len(blocks) == 3
    names = {"__name__": "documentation"}
    for block in blocks:
        exec(compile(block, "python.md", "exec"), names)
    assert names["run"].path == Path("scratches")


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    content = json.loads((DOCS / "python.ipynb").read_text())
    names = {"__name__": "notebook"}
    for number, cell in enumerate(content["cells"]):
        assert not cell.get("outputs"), "the notebook is kept without outputs"
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert set(names["runs"]) == {"ce", "ce_dice"}
