"""What a user reads after a mistake: what, where, what to do; the exit code; no traceback; fast, no torch."""

import errno
import pickle

import cv2
import numpy as np
import pytest
import torch
from conftest import write_folder_dataset
from PIL import Image

from segtrain.errors import DataError, OutOfMemory, did_you_mean, out_of_memory_explained


def test_an_error_is_three_lines_and_survives_pickling():
    error = pickle.loads(pickle.dumps(DataError("no mask", "a.png", "add it")))
    assert str(error) == "data error: no mask\n  where: a.png\n  fix: add it"
    assert error.exit_code == 3


def test_did_you_mean():
    assert did_you_mean("alhpa", ["alpha", "region"]) == ", did you mean 'alpha'?"
    assert did_you_mean("zzz", ["alpha"]) == ""


CONFIG_ERRORS = {
    "key": (["loss.alhpa=1"], "loss has no key 'alhpa', did you mean 'alpha'?"),
    "root key": (["lr=1"], "the config has no key 'lr', did you mean 'optimizer.lr'?"),
    "group option": (
        ["loss=cedice"],
        "loss has no option 'cedice', did you mean 'ce_dice'? (options: bce, bce_dice",
    ),
    "type": (["loss.alpha=abc"], "loss.alpha='abc' must be a number >= 0"),
    "range": (["loss.alpha=-1"], "loss.alpha=-1 must be a number >= 0"),
    "a run's folder": (
        ["labels=teacher", "labels.teacher=outputs/a"],
        "labels.teacher='outputs/a' must be a mapping with the folder of a trained run as `run`",
    ),
    "choice": (["loss.region.classes=presant"], "loss.region.classes='presant' must be one of present | all"),
    "added key": (["+loss.gama=2"], "loss: segtrain.losses.PixelRegion takes no 'gama'"),
    "an experiment's key of another option": (["experiment=street_scenes", "model=fpn"], "'~model.decoder_channels'"),
    "added root key": (["+trainr.epochs=2"], "there is no key 'trainr', did you mean 'trainer'?"),
    "missing value": (["dataset=folder"], "dataset.root is not set: give dataset.root=VALUE"),
    "not an override": (["loss.alpha=[1"], "'loss.alpha=[1' is not key=value"),
    "unread weighting": (
        ["loss=dice", "weighting=log_ratio"],
        "has no effect: the loss does not use ${class_weights}",
    ),
    "no key": (["=3"], "'=3' is not key=value"),
    "key of a dataset on disk": (
        ["dataset.root=photos"],
        "dataset.root is a setting of dataset=folder: add dataset=folder",
    ),
    "key of another option": (["optimizer.momentum=0.9"], "optimizer.momentum is a setting of optimizer=sgd: add"),
    "no option": (["weighting=null"], "weighting has no option 'null', did you mean 'none'? (options: "),
    "a config of a sweep": (["-m", "loss.alpha=0,1", "--cfg", "job"], "each job of a sweep has a config of its own"),
    "a pattern that fits no option": (["-m", "loss=glob(bad*)"], "a range or glob without values"),
    "no option, in a sweep": (["-m", "weighting=none,null"], "weighting has no option 'null', did you mean 'none'?"),
    "a number for an option": (["loss=1"], "loss has no option '1' (options: bce, "),
    "a list of options": (["dataset=[shapes,x]"], "dataset has no option 'x' (options: ade20k, "),
    "key of several options": (
        ["loss.class_weights=[1,2]"],
        "is a setting of loss=bce, ce, dice, focal: add one of them",
    ),
    "special characters in a list": (
        ["dataset.class_names=[car,tree & bush]"],
        """(quote words with special characters: 'dataset.class_names=[car,"tree & bush"]')""",
    ),
    "home": (
        ["dataset=folder", "dataset.root=~/x", "dataset.num_classes=2"],
        "(write $HOME for ~: dataset.root=$HOME/x)",
    ),
    "several values of what must be given": (
        ["dataset=folder", "dataset.root=a,b", "dataset.num_classes=2"],
        "dataset.root=a,b names several values",
    ),
    "a key that was removed": (["~seed"], "seed is missing"),
    "working directory": (["hydra.job.chdir=true"], "segtrain does not change the working directory"),
    "key below a key": (["optimizer.lr.x=1"], "optimizer.lr has no key 'x'"),
    "key not of the chosen option": (["sampling=uniform", "sampling.power=1"], "rare_classes, not of the one chosen"),
    "option whose keys are unknown": (["dataset=folders", "dataset.root=photos"], "did you mean 'folder'?"),
    "key, printed": (["loss.alhpa=1", "--cfg", "job"], "loss has no key 'alhpa', did you mean 'alpha'?"),
    "command": (["wieghts"], "no command 'wieghts', did you mean 'weights'?"),
    "target": (
        ["loss._target_=segtrain.losses.PixelRegoin"],
        "segtrain.losses has no 'PixelRegoin', did you mean 'PixelRegion'?",
    ),
    "package": (["loss._target_=nowhere.Loss"], "no package 'nowhere' can be imported from here"),
    "config dir": (["--config-dir", "nowhere"], "no folder nowhere"),
    "class that is not there": (["model.num_classes=7"], "model.num_classes=7, but dataset.num_classes=4"),
    "another ignore index": (["augment.ignore_index=7"], "augment.ignore_index=7, but dataset.ignore_index=255"),
    "weights nobody reads": (["loss=dice", "class_weights=[1,2,3,4]"], "class_weights have no effect"),
    "sweep": (["-m", "loss.alpha=0,x"], "loss.alpha='x' must be a number >= 0 (in the job loss.alpha=x)"),
}


@pytest.mark.parametrize("name", CONFIG_ERRORS)
def test_config_errors(segtrain, tmp_path, name):
    words, text = CONFIG_ERRORS[name]
    result = segtrain(*words)
    assert result.code == 2, result
    assert text in result.err
    assert "Traceback" not in result.err
    assert "fix:" in result.err
    assert not (tmp_path / "outputs").exists(), "a mistake must not leave a folder"


def test_all_mistakes_come_at_once(segtrain):
    result = segtrain("loss.alhpa=1", "loss=cedice", "trainer.epocs=3")
    assert "3 mistakes" in result.err
    for word in ("alhpa", "cedice", "epocs"):
        assert word in result.err
    result = segtrain("dataset.ignore_index=300")  # which others follow
    assert "mistakes" not in result.err
    assert "dataset.ignore_index=300 must be" in result.err
    result = segtrain("trainer.epoch=3", "loss.alpha=abc", "trainer.accumulate=0")
    for text in ("did you mean 'epochs'", "loss.alpha='abc' must be", "trainer.accumulate=0 must be"):
        assert text in result.err


def test_config_errors_do_not_import_torch(console_script):
    result = console_script("loss.alpha=-1", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert "loss.alpha=-1" in result.err
    imported = {line.rpartition("|")[2].strip() for line in result.err.splitlines() if line.startswith("import time")}
    assert "hydra" in imported
    assert not imported & {"torch", "albumentations", "segmentation_models_pytorch", "cv2", "scipy"}


FOLDER = ["dataset=folder", "dataset.num_classes=3", "trainer.device=cpu", "loader.workers=0"]


def remove_a_mask(root):
    (root / "train/masks/train0.png").unlink()


def remove_an_image(root):
    (root / "train/images/train0.png").unlink()


def shrink_a_mask(root):
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(root / "train/masks/train2.png")


def wrong_value(root):
    mask = np.zeros((40, 48), np.uint8)
    mask[0, :7] = 9
    Image.fromarray(mask).save(root / "val/masks/val1.png")


def truncate_a_mask(root):
    file = root / "train/masks/train3.png"
    file.write_bytes(file.read_bytes()[:60])


def empty_file(root):
    (root / "train/masks/train3.png").write_bytes(b"")


def colour_mask(root):
    Image.new("RGB", (48, 40), (0, 0, 200)).save(root / "train/masks/train1.png")


def grey_255_is_foreground(root):
    for file in root.glob("*/masks/*.png"):
        Image.fromarray((np.asarray(Image.open(file)) > 0).astype(np.uint8) * 255).save(file)


def five_channels(root):
    (root / "train/images/train0.png").unlink()
    np.save(root / "train/images/train0.npy", np.zeros((40, 48, 5), np.uint8))


def no_val_images(root):
    for file in (root / "val").glob("*/*.png"):
        file.unlink()


DATA_ERRORS = {
    remove_a_mask: "data error: 1 image without a mask: train0",
    remove_an_image: "data error: 1 mask without an image: train0",
    shrink_a_mask: "data error: image is 48×40, its mask is 10×10 (width × height)",
    wrong_value: "data error: mask values outside the classes 0 to 2 and ignore_index=255: 9 (7 pixels)",
    truncate_a_mask: "data error: cannot be decoded:",
    empty_file: "data error: the file is empty (0 bytes)",
    colour_mask: "data error: a mask with 3 channels, but one channel of class indices is needed",
    grey_255_is_foreground: "data error: the training masks hold 1 class (class 0) and",
    five_channels: "data error: the image has 5 channels, but dataset.channels=3",
    no_val_images: "data error: the val split is empty",
}


@pytest.mark.parametrize("damage", DATA_ERRORS, ids=lambda f: f.__name__)
def test_data_errors_come_before_training(segtrain, tmp_path, damage):
    root = write_folder_dataset(tmp_path / "data")
    damage(root)
    result = segtrain(*FOLDER, f"dataset.root={root}")
    assert result.code == 3, result
    assert DATA_ERRORS[damage] in result.err
    assert str(root) in result.err or damage is grey_255_is_foreground, "the error must name the file"
    assert "fix:" in result.err
    assert "Traceback" not in result.err
    assert "epoch" not in result.out


def test_missing_root(segtrain, tmp_path):
    result = segtrain(*FOLDER, "dataset.root=nowhere")
    assert result.code == 2
    assert "no folder nowhere" in result.err
    assert "dataset.root" in result.err


def test_wrong_layout_says_what_was_expected(segtrain, tmp_path):
    (tmp_path / "data/images").mkdir(parents=True)
    result = segtrain(*FOLDER, f"dataset.root={tmp_path / 'data'}")
    assert result.code == 2
    assert "expected" in result.err
    assert "dataset.splits=folders|files|ratio" in result.err


MODEL_ERRORS = {
    "encoder": (["model.encoder=resnet19"], "no encoder 'resnet19', did you mean 'resnet18'?"),
    "cuda": (["trainer.device=cuda:7"], "device 'cuda:7', but"),
    "monitor": (["trainer.monitor=iou/crss"], "no score 'iou/crss', did you mean 'iou/cross'?"),
    "label kind": (["loss=bce"], "the loss is for multi-label masks, but the dataset has one label per pixel"),
    "manual weights": (["weighting=manual", "weighting.weights=[1,2]"], "Manual: 2 weights for 4 classes"),
    "region classes": (["loss.region.classes=[7]"], "classes=[7], but there are 4 classes, counted from 0"),
    "betas": (["optimizer.betas=[0.9]"], "must be two numbers >= 0 and < 1"),
    "encoder weights": (["model.encoder_weights=nowhere.pt"], "no file nowhere.pt"),
    "precision": (["trainer.precision=float12"], "no precision 'float12', did you mean 'float32'?"),
}


@pytest.mark.parametrize("name", MODEL_ERRORS)
def test_errors_that_need_torch_come_before_the_first_step(segtrain, name):
    words, text = MODEL_ERRORS[name]
    result = segtrain(*words)
    assert result.code == 2, result
    assert text in result.err
    assert "Traceback" not in result.err
    assert "Error executing job" not in result.err


CAUGHT = 'Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File "x"\n'


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"), "CUDA out of memory"),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"), "CUDA error: out of memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "CUBLAS_STATUS"),
        (MemoryError(), "memory ran out"),
        (MemoryError(f"{CAUGHT}MemoryError: Unable to allocate 3 GiB"), "Unable to allocate 3 GiB"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
        (lambda: torch.empty(1 << 55), "can't allocate memory"),
        (lambda: np.empty(1 << 55), "Unable to allocate"),
        (lambda: cv2.resize(np.zeros((9, 9), np.uint8), (30_000_000, 30_000_000)), "nsufficient memory"),
    ],
)
def test_every_kind_of_out_of_memory(error, text):
    with pytest.raises(OutOfMemory) as found, out_of_memory_explained(lambda: ("epoch 3", "lower it")):  # noqa: PT012
        if callable(error):
            error()
        raise error
    assert text in found.value.what
    assert "\n" not in found.value.what
    assert (found.value.where, found.value.fix, found.value.exit_code) == ("epoch 3", "lower it", 4)


def test_other_errors_are_not_out_of_memory():
    for error in (
        RuntimeError("CUDA error: device-side assert triggered"),
        DataError("out of memory"),
        OSError(2, "x"),
    ):
        with pytest.raises(type(error)), out_of_memory_explained():
            raise error


def test_too_large_images_end_with_exit_code_4(segtrain, tmp_path):
    (tmp_path / "mine").mkdir()
    folder = "hydra.run.dir=mine/new/run"
    result = segtrain("dataset.size=[2000000,2000000]", folder, "trainer.device=cpu", "loader.workers=0")
    assert result.code == 4, result
    assert "out of memory: Unable to allocate" in result.err
    assert "Traceback" not in result.err
    assert [*(tmp_path / "mine").iterdir()] == []


def test_unwritable_output_folder(segtrain, tmp_path):
    (tmp_path / "file").touch()
    result = segtrain(f"hydra.run.dir={tmp_path / 'file' / 'run'}")
    assert result.code == 5, result
    assert "the output folder cannot be written" in result.err


def test_a_folder_that_holds_a_run_is_refused(segtrain, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.csv").touch()
    result = segtrain("hydra.run.dir=run")
    assert result.code == 2
    assert "the folder holds a run already" in result.err
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".lock", "metrics.csv"]


def test_a_mistake_elsewhere_does_not_make_keys_without_a_value_wrong(segtrain):
    result = segtrain("dataset=folder", "dataset.root=x", "dataset.num_classes=2", "labels=smoth")
    assert result.code == 2
    assert "labels has no option 'smoth', did you mean 'smooth'?" in result.err
    assert "root" not in result.err
    assert "num_classes" not in result.err
