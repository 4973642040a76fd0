"""What a new user mistypes first, and the answer: what, where and what to do."""

import numpy as np
import pytest
from PIL import Image

from segtrain.commands.evaluate import warn_of_others
from segtrain.files import write_arrays
from segtrain.report.advice import padding_advice


def dataset(root, values, images="images", masks="masks"):
    for split in ("train", "val"):
        for folder in (images, masks):
            (root / split / folder).mkdir(parents=True)
        mask = np.full((32, 32), values[0], np.uint8)
        for k, value in enumerate(values[1:]):
            mask[8 * k : 8 * k + 8] = value
        for name in ("a", "b"):
            Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(root / split / images / f"{name}.png")
            Image.fromarray(mask).save(root / split / masks / f"{name}.png")


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        ("loss.alpha=0,1", "loss.alpha=0,1 names several values", "`segtrain -m loss.alpha=0,1 …`"),
        ("check /no/such", "no folder /no/such", ""),
        ("/no/such", "no folder /no/such", "`segtrain help`"),
        ("predict", "the following arguments are required", "`segtrain predict --help`"),
        ("evaluate run --split vall", "invalid choice: 'vall'", "`segtrain evaluate --help`"),
        ("check --nope", "no option --nope", "`segtrain check --help`"),
        ("evaluate run sampling=uniform", "sampling does not matter to evaluate", "leave it out"),
        (
            "evaluate run model.encoder=resnet18",
            "the network is that of the run",
            "`segtrain model.encoder=resnet18 …`",
        ),
        ("model.encoder_weights=imagenett", "did you mean 'imagenet'?", "use null (random)"),
        ("check deep", "no train images", "it is one folder deeper: dataset.root=deep/inner"),
        ("check photos", "no train images", "'dataset.images=\"{split}/pictures\"' dataset.masks=truth"),
        ("--config-dir deep check grey", "the masks hold 0, 128, 255", "dataset.num_classes=3"),
        ("evaluate run other", "other has no value", "one run is evaluated at a time"),
        ("resume run --allow trainer.epochs trainer.patience", "trainer.patience has no value", "--allow KEY"),
        ("repeat run seed=3", "seed cannot change in a repeat", "only dataset.root may change"),
        ("check grey", "the masks hold 0, 128, 255", "dataset.num_classes=3 'dataset.remap={128: 1, 255: 2}'"),
        ("evaluate deep/inner/train/images", "holds no run", "name the folder of a run"),
    ],
)
def test_a_mistake_is_named_with_what_to_do(segtrain, tmp_path, words, what, fix):
    dataset(tmp_path / "deep" / "inner", (0, 1))
    dataset(tmp_path / "photos", (0, 1), "pictures", "truth")
    dataset(tmp_path / "grey", (0, 128, 255))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").touch()
    done = segtrain(*words.split())
    assert done.code == 2, done
    assert what in done.err, done
    assert fix in done.err.partition("fix:")[2], done


def test_settings_that_read_another_folder_are_right(segtrain, tmp_path):
    dataset(tmp_path / "photos", (0, 1), "pictures", "truth")
    assert segtrain("check", "photos", 'dataset.images="{split}/pictures"', "dataset.masks=truth").code == 0


def test_what_train_and_val_share_is_explained_once(segtrain, tmp_path):
    dataset(tmp_path / "from1", (1, 2, 3))
    done = segtrain("check", "from1")
    assert done.code == 3, done
    assert done.out.count("'dataset.remap={1: 0, 2: 1, 3: 2}'") == 1
    assert "fix: the same as for train" in done.out


def test_a_checkpoint_in_place_of_its_run(segtrain, tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/config.yaml").touch()
    (tmp_path / "run/checkpoints/best.pt").touch()
    assert "name the folder of the run: run" in segtrain("evaluate", "run/checkpoints/best.pt").err


@pytest.mark.parametrize("command", ["check", "find", "lr-find"])
def test_the_help_of_a_command_lists_its_options(segtrain, command):
    out = segtrain(command, "--help").out
    own = {"check": "--out DIR", "find": "--hours H", "lr-find": "--out DIR"}[command]
    assert own in out.partition("options:")[2]


def test_crops_of_which_most_is_padding():
    assert padding_advice([600, 600], (64, 64)) == [
        "augment.size=[600,600] on images of 64×64 (height × width): 99 % of each crop is padding, which costs time and "
        "teaches nothing. Use augment.size=auto"
    ]
    assert padding_advice([64, 64], (48, 64)) == padding_advice(None, (64, 64)) == []


def test_a_glob_stands_for_the_options_and_an_interval_is_for_a_search(segtrain):
    for words in ((), ("hydra/sweeper=optuna", "loss.alpha=interval(0,1)")):
        done = segtrain("-m", "weighting=glob(neg*)", "trainer.epochs=-1", *words)
        assert "trainer.epochs=-1 must be" in done.err
    assert "in the job weighting=neg_pos_ratio" in segtrain("-m", "weighting=glob(neg*)", "trainer.epochs=-1").err
    done = segtrain("-m", "loss.alpha=interval(0,1)")
    assert done.code == 2
    assert "add hydra/sweeper=optuna" in done.err


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        (["trainer.epochs"], "trainer.epochs has no value", "trainer.epochs=VALUE"),
        (["trainer.epoch=3"], "trainer has no key 'epoch'", "segtrain help trainer"),
        (["loss=dise"], "loss has no option 'dise'", "segtrain help loss"),
        (["--epochs", "3"], "unrecognized arguments: --epochs", "trainer.epochs=3"),
        (["~loss.alpha", "trainer.epoch=3"], "trainer has no key 'epoch'", "segtrain help trainer"),
        (["--config-path", "/nowhere"], "segtrain does not take this option of Hydra", "--config-dir DIR"),
        (["weights", "--config-path", "/nowhere"], "no option --config-path, did you mean", "segtrain weights --help"),
        (["check", "nowhere"], "no folder nowhere", "correct the path"),
        (["evaluate", "nowhere"], "no folder nowhere", "name the folder of a run"),
        (["compare", "x", "--outs", "y"], "no option --outs, did you mean '--out'", "segtrain compare --help"),
    ],
)
def test_what_is_mistyped_is_answered_with_what_to_type(segtrain, words, what, fix):
    done = segtrain(*words)
    assert done.code == 2
    assert what in done.err
    assert fix in done.err


def test_a_folder_of_runs_is_no_run(segtrain, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    done = segtrain("evaluate", tmp_path)
    assert f"a folder of 2 runs, not a run\n  fix: name one of its runs: {tmp_path / 'one'}" in done.err
    (tmp_path / "sweep.json").touch()
    assert "is a sweep, not a run" in segtrain("evaluate", tmp_path).err


def test_of_few_images_one_is_for_validation(segtrain, tmp_path):
    for number in range(4):
        for folder, value in (("images", 99), ("masks", number % 2)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / folder / f"{number}.png")
    done = segtrain("check", tmp_path, "dataset.splits=ratio", "dataset.num_classes=2", "dataset.val_ratio=0.001")
    assert "3 images" in done.out
    assert "1 image" in done.out


def test_a_mistake_is_named_once(segtrain):
    done = segtrain("model=fpn", "model.decoder_channels=[8]", "~model.decoder_channels")
    assert (done.code, done.err.count("decoder_channels is a setting of model=unet, unetplusplus")) == (2, 1), done


@pytest.mark.parametrize(
    ("content", "what", "where"),
    [
        (b"_target_: segtrain.losses.Dice\n  x: y: z\n", "a file is not valid YAML: mapping values", "line 2"),
        (b"# Gr\xf6\xdfe\n_target_: segtrain.losses.Dice\n", "a file is not UTF-8", ""),
    ],
)
def test_a_file_that_is_no_yaml_is_named(segtrain, tmp_path, content, what, where):
    (tmp_path / "conf/loss").mkdir(parents=True)
    (tmp_path / "conf/loss/mine.yaml").write_bytes(content)
    done = segtrain("--config-dir", "conf", "loss=mine")
    assert done.code == 2, done
    assert what in done.err, done
    assert "conf/loss/mine.yaml" in done.err, done
    assert where in done.err, done


MODULE = "from torch import nn\nclass Own(nn.Module):\n"
OWN = [  # group, source of own.py, message
    (
        "dataset",
        "class Own:\n    def __init__(self, num_classes): ...\n",
        "dataset: own.Own is given 'split', which it does not take: name a class or function that does",
    ),
    (
        "loss",
        f"{MODULE}    def forward(self, logits, target): return logits.mean(dim=1)\n",
        "forward returns a tensor of [2, 64, 64]: it must return one number",
    ),
    (
        "loss",
        f"{MODULE}    def forward(self, logits): return logits.mean()\n",
        "with tensors of [2, 4, 64, 64] and [2, 64, 64] raises TypeError: Own.forward() takes 2 positional arguments",
    ),
    (
        "loss",
        f"{MODULE}    def __init__(self): self.part = nn.ReLU()\n    def forward(self, logits, target): ...\n",
        "own.Own cannot be built: AttributeError: cannot assign module before Module.__init__() call",
    ),
    ("weighting", "class Own:\n    def __call__(self, counts): return [1.0, 2.0]\n", "2 weights for 4 classes"),
    (
        "weighting",
        "class Own:\n    def __call__(self, counts): return [1.0, 2.0, -1.0, 0.0]\n",
        "weights of 1, 2, -1, 0: each must be a number, 0 or more",
    ),
    (
        "weighting",
        "class Own:\n    def __call__(self, counts): return {}['x']\n",
        "KeyError: 'x' (debug=true shows where)",
    ),
]


@pytest.mark.parametrize(("group", "source", "said"), OWN)
def test_a_class_of_ones_own_that_does_not_fit_is_named(segtrain, tmp_path, group, source, said):
    (tmp_path / f"conf/{group}").mkdir(parents=True)
    more = "num_classes: 4\nignore_index: 255\nbackground: 0\n" if group == "dataset" else ""
    (tmp_path / f"conf/{group}/own.yaml").write_text(f"_target_: own.Own\n{more}")
    (tmp_path / "own.py").write_text(source)
    small = ["dataset.train_images=4", "dataset.val_images=2"] if group != "dataset" else []
    done = segtrain("--config-dir", "conf", f"{group}=own", *small, "loader.workers=0", "hydra.run.dir=run")
    assert done.code == 2, done
    assert said in done.err, done
    assert "own.Own" in done.err, done


def test_the_folder_of_a_dataset_may_have_an_equals_sign(segtrain, tmp_path):
    dataset(tmp_path / "my data, v=2", (0, 1))
    done = segtrain("check", "my data, v=2")
    assert done.code == 0, done
    assert "taking dataset.num_classes=2" in done.out, done


def test_images_that_a_run_did_not_validate_are_named(tmp_path, caplog):
    """Folds of an earlier version hold other images, which the network may have seen."""
    write_arrays(tmp_path / "per_image.npz", {"names": np.array(["a", "b"])})
    warn_of_others(tmp_path, ["a", "b"], folds=True)
    warn_of_others(tmp_path, ["c", "d"], folds=False)
    assert not caplog.text
    warn_of_others(tmp_path, ["a", "c"], folds=False)
    assert "1 image of val not among those that the run validated (c): it may have been trained on them" in caplog.text
