"""The console script, run for real: train, sweep, evaluate, compare, resume, a user's own parts, the wheel."""

import csv
import html
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import TINY, write_folder_dataset
from PIL import Image

from segtrain.commands.repeat import TIMES
from segtrain.cpu import cores
from segtrain.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]


def only_run(folder: Path) -> Path:
    found = sorted(file.parent for file in folder.glob("outputs/**/result.json"))
    assert len(found) == 1, found
    return found[0]


def result_of(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


def hparams_of(events) -> tuple[set[str], set[str], dict]:
    """TensorBoard's HPARAMS page: the columns shown first, the scores, and the settings of the run."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    first, scored, session = set(), set(), {}
    for content in events.summary_metadata.values():
        data = HParamsPluginData.FromString(content.plugin_data.content)
        first |= {info.name for info in data.experiment.hparam_infos if info.differs}
        scored |= {info.name.tag for info in data.experiment.metric_infos}
        session |= dict(data.session_start_info.hparams)
    return first, scored, session


def test_train_evaluate_and_the_run_folder(console_script, tmp_path):
    trained = console_script("loss=ce_dice", "weighting=median_frequency", *TINY)
    assert trained.code == 0, trained
    for text in (
        "class",
        "share",
        "weight",
        "epoch   1/1",
        "best epoch 1",
        "run folder: ",
        "tensorboard --logdir",
    ):
        assert text in trained.out + trained.err, text
    run = only_run(tmp_path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{4}", run.name)
    assert {p.name for p in run.iterdir()} == {
        ".hydra",
        ".lock",
        "config.yaml",
        "environment.json",
        "class_counts.json",
        "class_weights.json",
        "metrics.csv",
        "per_image.npz",
        "checkpoints",
        "tensorboard",
        "segtrain.log",
        "plots",
        "result.json",
        "page.html",
    }
    config = yaml.safe_load((run / "config.yaml").read_text())
    weights = json.loads((run / "class_weights.json").read_text())
    assert (
        config["class_weights"] == [c["weight"] for c in weights["classes"]] == config["loss"]["pixel"]["class_weights"]
    )
    assert weights["scheme"] == "median_frequency"
    environment = json.loads((run / "environment.json").read_text())
    assert environment["command"] == shlex.join(["segtrain", "loss=ce_dice", "weighting=median_frequency", *TINY])
    assert yaml.safe_load((run / ".hydra/overrides.yaml").read_text())[0] == "loss=ce_dice"
    assert {
        "command",
        "git_commit",
        "versions",
        "hardware",
        "world_size",
        "seed",
        "dataset_fingerprint",
        "signature",
    } <= set(environment)
    result = result_of(run)
    assert result["status"] == "finished"
    assert result["best"] == {"epoch": 1, "monitor": "iou/mean", "value": result["scores"]["iou/mean"]}
    assert set(result["per_class"][0]) == {"index", "name", "iou", "dice", "precision", "recall", "support", "images"}

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert set(tags["images"]) == {"confusion matrix", "image | ground truth | prediction"}
    assert {"loss/train", "means/iou_mean", "means/kappa", "iou/cross", "recall/cross"} <= set(tags["scalars"])
    best = {name: events.Scalars(f"best/{name}")[-1].value for name in ("iou/mean", "iou/foreground", "iou/cross")}
    assert best == {name: pytest.approx(result["scores"][name]) for name in best}
    first, scored, session = hparams_of(events)
    assert first == {"loss", "loss.alpha", "weighting", "sampling", "seed"}
    assert scored >= {"best/iou/cross", "best/iou/mean"}
    assert (session["loss"].string_value, session["weighting"].string_value) == ("ce_dice", "median_frequency")
    assert session["trainer.epochs"].number_value == 1  # as it was given
    assert (session["loss.alpha"].number_value, session["loss.pixel"].string_value) == (1.0, "CrossEntropy")

    page = (run / "page.html").read_text()
    assert "loss=ce_dice weighting=median_frequency dataset=shapes model=unet" in page
    assert environment["command"] in html.unescape(page)
    assert '<td><code>trainer.epochs</code></td><td class="left">1</td><td class="left dim">12</td>' in page

    evaluated = console_script("evaluate", run, "loader.batch_size=3")
    assert evaluated.code == 0, evaluated
    again = json.loads((run / "evaluation/val/scores.json").read_text())
    assert again["per_class"] == result["per_class"]
    for name, value in result["scores"].items():
        # the loss is that of the whole split, whatever the batches; convolutions differ in the last digit
        assert again["scores"][name] == (pytest.approx(value, rel=1e-5) if name == "loss" else value), name

    assert console_script("resume", run).code == 2
    refused = console_script(*TINY, f"hydra.run.dir={run}")
    assert refused.code == 2
    assert "holds a run already" in refused.err
    assert console_script("evaluate", tmp_path / "nowhere").code == 2


@pytest.mark.long
def test_alpha_0_is_cross_entropy_bit_for_bit(segtrain, tmp_path):
    """The same losses, scores and weights in a whole run."""
    rows = {}
    for name, loss in {"ce": ["loss=ce"], "alpha0": ["loss=ce_dice", "loss.alpha=0"]}.items():
        assert segtrain(*TINY, *loss, "weighting=log_ratio", f"hydra.run.dir={name}").code == 0
        with (tmp_path / name / "metrics.csv").open() as stream:
            rows[name] = next(csv.DictReader(stream))
    for column in rows["ce"]:
        if column not in TIMES:
            assert rows["ce"][column] == rows["alpha0"][column], column


def test_a_sweep_gives_readable_folders_and_one_count(segtrain, tmp_path):
    swept = segtrain("-m", "loss.alpha=0,0.25", "weighting=none,log_ratio", *TINY)
    assert swept.code == 0, swept
    (sweep,) = (tmp_path / "outputs/shapes/sweeps").iterdir()
    jobs = sorted(p.name for p in sweep.iterdir() if p.is_dir())
    assert jobs == [
        "00_alpha=0,weighting=none",
        "01_alpha=0,weighting=log_ratio",
        "02_alpha=0.25,weighting=none",
        "03_alpha=0.25,weighting=log_ratio",
    ]
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 2, "one count of train, one of val"
    signatures = {json.loads((sweep / job / "environment.json").read_text())["signature"] for job in jobs}
    assert len(signatures) == 4

    compared = segtrain("compare", sweep, "--out", tmp_path / "report")
    assert compared.code == 0, compared
    header = next(line for line in compared.out.splitlines() if "over baseline" in line)
    assert header.split()[:2] == ["weighting", "alpha"]
    assert "One training each" in compared.out
    with (tmp_path / "report/comparison.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    means = [float(row["iou/mean"]) for row in rows]
    assert len(rows) == 4
    assert means == sorted(means, reverse=True)
    assert segtrain("compare", tmp_path / "report").code == 2


def test_a_failing_job_keeps_its_traceback_and_the_others_finish(segtrain, tmp_path):
    swept = segtrain("-m", *TINY, "model.encoder=nonet,tu-test_resnet", "hydra.sweep.dir=sweep")
    assert swept.code == 2, swept
    assert "no encoder 'nonet'" in swept.err
    bad, good = tmp_path / "sweep/00_encoder=nonet", tmp_path / "sweep/01_encoder=tu-test_resnet"
    assert result_of(bad)["status"] == "failed"
    assert "Traceback" in (bad / "segtrain.log").read_text()
    assert "no encoder 'nonet'" in (bad / "segtrain.log").read_text()
    assert result_of(good)["status"] == "finished"
    assert "failed" in segtrain("compare", "sweep").out


@pytest.mark.slow
def test_sigterm_saves_and_resume_goes_on(segtrain, tmp_path):
    script = Path(sys.executable).with_name("segtrain")
    words = [*TINY, "trainer.epochs=40", "hydra.run.dir=run"]
    environment = {**os.environ, "SEGTRAIN_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen([script, *words], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run/metrics.csv").exists():
        time.sleep(0.1)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "segtrain resume" in err
    run = tmp_path / "run"
    assert result_of(run)["status"] == "preempted"
    config = run / "config.yaml"
    before, started = config.read_text(), read_json(run / "environment.json")
    resumed = segtrain("resume", run, "trainer.epochs=4", "--allow", "trainer.epochs")
    assert resumed.code == 0, resumed
    assert "WARNING" not in resumed.err
    assert config.read_text() == before, "written once"
    environment = read_json(run / "environment.json")
    assert environment | {"resumes": []} == started
    command = f"segtrain resume {run} trainer.epochs=4 --allow trainer.epochs"
    assert [resume["command"] for resume in environment["resumes"]] == [command]
    assert result_of(run)["status"] == "finished"
    with (run / "metrics.csv").open() as stream:
        epochs = [int(row["epoch"]) for row in csv.DictReader(stream)]
    assert epochs == list(range(1, len(epochs) + 1))


OWN_PACKAGE = '''
import numpy as np
from torch import nn


class Squared(nn.Module):
    def __init__(self, class_weights: list[float] | None = None, power: float = 2.0):
        super().__init__()
        self.class_weights, self.power = class_weights, power

    def forward(self, logits, target):
        wrong = 1 - logits.softmax(dim=1).gather(1, target.long()[:, None].clamp_max(1))
        return (wrong ** self.power).mean()


class Halves:
    """The left half is dark and class 0, the right half bright and class 1."""

    ignore_index, background, multilabel = 255, 0, False

    def __init__(self, split: str, num_classes: int = 2, images: int = 8):
        self.num_classes, self.class_names = num_classes, ["dark", "bright"]
        self.names = [f"{split} {i}" for i in range(images)]

    def image(self, index):
        return np.repeat(self.mask(index)[..., None] * 200, 3, axis=2)

    def mask(self, index):
        return np.repeat([[0] * 16 + [1] * 16], 32, axis=0).astype(np.uint8)
'''


def own_parts(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine/__init__.py").write_text(OWN_PACKAGE)
    for group, text in {
        "loss": "_target_: mine.Squared\nclass_weights: ${class_weights}\npower: 2.0\n",
        "dataset": "_target_: mine.Halves\nnum_classes: 2\nimages: 8\nignore_index: 255\nbackground: 0\n",
    }.items():
        (folder / "conf" / group).mkdir(parents=True)
        (folder / "conf" / group / "mine.yaml").write_text(text)


@pytest.mark.slow
def test_a_users_own_loss_and_dataset(console_script, tmp_path):
    own_parts(tmp_path)
    words = ["--config-dir", "conf", "loss=mine", "dataset=mine", "weighting=enet"]
    words += [w for w in TINY if not w.startswith("dataset.")]
    wrong = console_script(*words, "loss.power=high", "+loss.powr=1")
    assert wrong.code == 2, wrong
    assert "loss.power='high' must be a number" in wrong.err
    assert "mine.Squared takes no 'powr', did you mean 'power'?" in wrong.err
    assert "mine.Halves takes no 'ignore_index'" in wrong.err
    file = tmp_path / "conf/dataset/mine.yaml"
    (tmp_path / "mine/__init__.py").write_text(
        OWN_PACKAGE.replace("images: int = 8):", "images: int = 8, ignore_index: int = 255, background: int = 0):")
    )
    trained = console_script(*words)
    assert trained.code == 0, trained
    assert "bright" in trained.out + trained.err
    run = only_run(tmp_path)
    assert console_script("evaluate", run).code == 2, "a stranger's package is not run without a word"
    assert console_script("evaluate", run, "--trust", "mine").code == 0
    assert file.exists()


def test_a_users_dataset_is_checked_before_training(segtrain, tmp_path):
    own_parts(tmp_path)
    package = tmp_path / "mine/__init__.py"
    right = OWN_PACKAGE.replace("images: int = 8):", "images: int = 8, ignore_index: int = 255, background: int = 0):")
    words = ["--config-dir", "conf", "dataset=mine", "trainer.device=cpu", "loader.workers=0"]
    for wrong, code, text in (
        (right.replace("* 200, 3, axis=2)", "* 200.0, 3, axis=2)"), 3, "image is float64 [32, 32, 3]"),
        (right.replace("astype(np.uint8)", "astype(np.int64)"), 3, "mask is int64 [32, 32]"),
        (right.replace("range(images)", "range(0)"), 3, "the train split is empty"),
        (
            right.replace('["dark", "bright"]', "['a', 'b']; del self.class_names"),
            2,
            "the dataset class has no class_names",
        ),
    ):
        package.write_text(wrong.replace("[..., None] * 200", "[..., None].astype(np.uint8) * 200"))
        result = segtrain(*words)
        assert result.code == code, result
        assert text in result.err
        assert "Traceback" not in result.err


@pytest.mark.long
def test_multilabel_from_the_command_line(segtrain, tmp_path):
    words = ["dataset=shapes_multilabel", "loss=bce_dice", "weighting=neg_pos_ratio", *TINY]
    trained = segtrain(*words)
    assert trained.code == 0, trained
    assert [row["name"] for row in result_of(only_run(tmp_path))["per_class"]] == ["disc", "square", "cross"]


@pytest.mark.slow
def test_a_run_on_remapped_masks_is_evaluated_and_resumed(server, tmp_path):
    root = write_folder_dataset(tmp_path / "data")
    words = ["dataset=folder", f"dataset.root={root}", "dataset.num_classes=2", "dataset.remap={2:1}"]
    words += [w for w in TINY if not w.startswith("dataset.")]
    for command in (
        [*words, "hydra.run.dir=run"],
        ["evaluate", "run"],
        ["resume", "run", "trainer.epochs=2", "--allow", "trainer.epochs"],
        ["compare", "run"],
    ):
        code, text = server.run(*command, cwd=tmp_path)
        assert code == 0, text


@pytest.mark.long
def test_folder_dataset_of_different_sizes(segtrain, tmp_path):
    from PIL import Image

    root = write_folder_dataset(tmp_path / "data")
    for split in ("train", "val"):
        for part, mode in (("images", "RGB"), ("masks", "L")):
            Image.new(mode, (61, 33)).save(root / split / part / "odd.png")
    words = ["dataset=folder", f"dataset.root={root}", "dataset.num_classes=3", "augment=strong"]
    words += [w for w in TINY if not w.startswith("dataset.")]
    assert "with whole images: they would differ in size" in segtrain(*words, "augment.size=null").err
    assert "training images differ in size" in segtrain(*words, "augment.size=null", "augment.scale=0").err
    trained = segtrain(*words)
    assert trained.code == 0, trained


def test_weights_prints_every_scheme(segtrain):
    shown = segtrain("weights", "dataset=shapes")
    assert shown.code == 0, shown
    for text in ("inverse_frequency", "median_frequency", "log_ratio", "cross", "max/min"):
        assert text in shown.out
    assert segtrain("weights", "datset=shapes").code == 2


def test_help_lists_commands_and_groups(segtrain):
    for words in (["--help"], ["help"], ["help", "train"]):
        shown = segtrain(*words)
        assert shown.code == 0, shown
        for text in (
            "segtrain weights",
            "segtrain evaluate",
            "segtrain compare",
            "segtrain resume",
            "ce_dice",
            "trainer.epochs=12",
        ):
            assert text in shown.out, text
        assert len(shown.out.splitlines()) < 60
    composed = segtrain("--cfg", "job", "loss.alpha=0.25")
    assert yaml.safe_load(composed.out)["loss"]["alpha"] == 0.25


@pytest.mark.slow
def test_a_parallel_sweep(segtrain, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    swept = segtrain("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1", *TINY)
    assert swept.code == 0, swept
    (sweep,) = (tmp_path / "outputs/shapes/sweeps").iterdir()
    assert sorted(p.name for p in sweep.iterdir() if p.is_dir()) == ["00_seed=0", "01_seed=1"]
    found = [json.loads(f.read_text()) for f in sweep.glob("*/environment.json")]
    assert len({one["signature"] for one in found}) == 1, "repeats of one setting"
    assert all(one["hardware"]["threads"] <= max(1, cores() // 2) for one in found)


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)  # which may name this checkout
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # modules that were moved would be in the wheel
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    shipped = {n for n in zipfile.ZipFile(wheel).namelist() if "dist-info" not in n}
    own = {f"segtrain/{f.relative_to(ROOT)}" for f in (ROOT / "configs").glob("**/*.*") if "__pycache__" not in f.parts}
    own |= {str(f.relative_to(ROOT)) for f in (ROOT / "segtrain").glob("**/*.*") if "__pycache__" not in f.parts}
    assert shipped == own
    # a fresh environment that sees the heavy packages of this one, but not this checkout
    venv.create(tmp_path / "venv", with_pip=False)
    site = next((tmp_path / "venv/lib").glob("python3*/site-packages"))
    here = next(p for p in sys.path if p.endswith("site-packages"))
    (site / "heavy.pth").write_text(f"{here}\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel], check=True
    )
    python = tmp_path / "venv/bin/python"
    where = subprocess.run(
        [python, "-c", "import segtrain; print(segtrain.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert str(site) in where
    done = subprocess.run([python, "-m", "segtrain", *TINY], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert result_of(only_run(tmp_path))["status"] == "finished"


@pytest.mark.long
def test_a_fresh_environment_trains_evaluates_predicts_and_exports(tmp_path, monkeypatch):
    """The wheel with what pip installs for it: nothing of this environment, as after `pip install segtrain`."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv/bin"
    subprocess.run([programs / "pip", "install", "--quiet", f"{wheel}[export,parallel,slurm,search]"], check=True)
    subprocess.run([programs / "pip", "check"], check=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "image.png")

    def run(*words: str) -> str:
        done = subprocess.run([programs / words[0], *words[1:]], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    assert "segtrain predict" in run("segtrain", "--help")
    run("segtrain", *TINY, "hydra.run.dir=run")
    for words in (
        "check dataset=shapes",
        "weights dataset=shapes",
        "evaluate run metric=all --bootstrap 0",
        "predict run image.png --out predicted",
        "export run",
        "compare run",
        "repeat run",
        "help scores",
    ):
        run("segtrain", *words.split())
    code = "import numpy, segtrain; print(segtrain.load('run').predict(numpy.zeros((33, 40, 3), 'uint8')).shape)"
    assert run("python", "-c", code).strip() == "(33, 40)"
    assert (tmp_path / "predicted/masks/image.png").is_file()


@pytest.mark.long
def test_sigterm_ends_a_whole_sweep(tmp_path):
    script = Path(sys.executable).with_name("segtrain")
    words = ["-m", "seed=0,1", *TINY, "trainer.epochs=200", "hydra.sweep.dir=sweep"]
    environment = {**os.environ, "SEGTRAIN_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen([script, *words], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "sweep/00_seed=0/metrics.csv").exists():
        time.sleep(0.1)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert result_of(tmp_path / "sweep/00_seed=0")["status"] == "preempted"
    assert not (tmp_path / "sweep/01_seed=1/result.json").exists()


def test_a_run_without_a_checkpoint_is_resumed_from_the_start(segtrain, trained, trained_copy):
    shutil.rmtree(trained_copy / "checkpoints")
    result = read_json(trained_copy / "result.json")
    write_json(trained_copy / "result.json", {**result, "status": "preempted"})
    resumed = segtrain("resume", trained_copy)
    assert resumed.code == 0, resumed
    assert result_of(trained_copy)["scores"] == result_of(trained)["scores"]


def test_a_phased_run_is_evaluated_with_the_loss_of_its_best_epoch(segtrain, tmp_path):
    words = [*TINY, "trainer.epochs=2", "loss=phased", "loss.starts=[0,1]", "hydra.run.dir=run"]
    assert "cannot be compared" in segtrain(*words, "trainer.monitor=loss").err
    assert segtrain(*words).code == 0
    run = tmp_path / "run"
    assert segtrain("evaluate", run, "--bootstrap", "0").code == 0
    found = json.loads((run / "evaluation/val/scores.json").read_text())["scores"]["loss"]
    assert found == pytest.approx(result_of(run)["scores"]["loss"], rel=1e-5)


@pytest.mark.slow
def test_the_script_that_draws_predictions(trained, tmp_path):
    script = ROOT / "scripts/draw_predictions.py"
    subprocess.run([sys.executable, script, trained, trained, "--out", tmp_path / "x.png"], check=True)
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_help_scores(segtrain):
    shown = segtrain("help", "scores")
    assert shown.code == 0, shown
    rows = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert "iou mean foreground <class> higher intersection over union, TP / (TP + FP + FN)" in rows
    assert "worst_5 worst 5 % of the images, at least one" in rows
    assert any(row.startswith("loss lower") for row in rows)
    assert "did you mean 'scores'" in segtrain("help", "score").err
