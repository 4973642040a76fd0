"""What one would type first: --version, the word train, a folder without a key, and settings without effect."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import TINY, write_folder_dataset
from PIL import Image

import segtrain as package
from segtrain.cli import COMMANDS, run_command
from segtrain.commands import help
from segtrain.config.compose import compose, without_hydra
from segtrain.config.schema import flat
from segtrain.errors import ConfigError, DataError


def test_the_version(segtrain):
    done = segtrain("--version")
    assert (done.code, done.out.strip()) == (0, f"segtrain {package.__version__}")


def test_the_word_train_trains(segtrain):
    done = segtrain("train", *TINY, "hydra.run.dir=run")
    assert done.code == 0, done


def test_a_folder_named_alone_is_the_dataset(segtrain, tmp_path):
    write_folder_dataset(tmp_path / "my data")
    done = segtrain("check", "my data", "dataset.num_classes=3")
    assert done.code == 0, done
    assert "reading my data as dataset=folder dataset.root='my data'" in done.out


def test_one_folder_is_named(segtrain, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert "2 folders are given\n  where: one, two" in segtrain("check", "one", "two").err
    assert "one is a folder, not a command\n" in segtrain("one").err
    assert "metric=all is a setting: the folder of the run comes first" in segtrain("evaluate", "metric=all", "one").err


def test_binary_masks_have_two_classes_and_the_page_has_a_sweep_of_this_dataset(segtrain, tmp_path):
    write_folder_dataset(tmp_path / "data", classes=2)
    done = segtrain("check", "data", "dataset.mask_format=binary", "--out", "report")
    assert done.code == 0, done
    sweep = (
        "segtrain -m dataset=folder dataset.root=data dataset.mask_format=binary dataset.num_classes=2 weighting=none,"
    )
    assert sweep in (tmp_path / "report/check.html").read_text()


@pytest.mark.parametrize("setting", ["trainer.epochs=3", "optimizer.lr=1", "weighting.mu=2"])
def test_a_setting_that_does_not_matter_to_evaluate_is_refused(segtrain, trained, setting):
    refused = segtrain("evaluate", trained, setting)
    assert refused.code == 2
    assert "does not matter to evaluate" in refused.err


def test_help_of_a_group_lists_its_options_with_their_settings(segtrain):
    shown = segtrain("help", "loss")
    assert shown.code == 0, shown
    names = {file.stem for file in (Path(__file__).resolve().parents[2] / "configs/loss").glob("*.yaml")}
    assert names <= {line.partition(":")[0] for line in shown.out.splitlines()}
    assert "alpha: 1.0" in shown.out
    assert "    region.KEY: as loss=dice\n" in shown.out
    assert "    and those of loss=dice\n" in shown.out
    assert "_target_: segtrain.losses.PixelRegion" not in shown.out
    assert "did you mean 'loss'" in segtrain("help", "los").err


def test_help_gives_the_defaults_of_the_settings_that_are_changed_most():
    config = compose([])
    shown = dict(re.findall(r"^([a-z_]+(?:\.[a-z_]+)*)=(\S+)", help.overview(), re.MULTILINE))
    assert len(shown) == 14
    defaults, folder = (
        flat(without_hydra(config)),
        compose(["dataset=folder", "dataset.root=x", "dataset.num_classes=2"]),
    )
    del shown["hydra.run.dir"], shown["dataset.root"]
    assert shown.pop("dataset.resize") == "null"
    assert folder.dataset.resize is None
    assert {key: yaml.safe_load(value) for key, value in shown.items()} == {key: defaults[key] for key in shown}


def test_help_of_experiments_has_their_questions_and_answers(capsys):
    assert run_command("help", ["experiment"]) == 0
    out = capsys.readouterr().out
    assert "\nalpha_sweep: How much Dice should be added to cross-entropy?\n" in out
    assert "# Seen on shapes: " in out
    assert "\n    loss=ce_dice\n" in out
    assert "@package" not in out


@pytest.mark.parametrize(
    ("part", "shown"), [("trainer", "  epochs: 12\n"), ("inference", "  flips: []"), ("sweep", "  fail_fast")]
)
def test_help_of_a_part_lists_its_settings(part, shown, capsys):
    assert run_command("help", [part]) == 0
    out = capsys.readouterr().out
    assert shown in out
    assert ("\nepochs: passes over the training images.\n" in out) == (part == "trainer")
    assert "_target_" not in out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_command(command, ["--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert f"usage: segtrain {command}" in shown
    assert f"Example: segtrain {command} " in shown


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0, 1, 2], "the masks hold 0, 1, 2: taking dataset.num_classes=3"),
        ([1, 2, 3], "labels start at 1"),
        ([0, 255], "and 255 is class 1; or a sigmoid"),
        ([*range(200)], "for masks with grey edges: dataset.num_classes=2 dataset.mask_format=binary"),
        ([0, 9, 200], "is not set, and the masks hold 0, 9, 200"),
    ],
)
def test_a_folder_alone_is_checked_with_the_classes_of_its_masks(tmp_path, values, said, capsys):
    root = write_folder_dataset(tmp_path / "data", classes=len(values))
    for file in root.glob("*/masks/*.png"):
        Image.fromarray(np.array(values, np.uint8)[np.asarray(Image.open(file))]).save(file)
    try:
        run_command("check", [str(root)])
    except ConfigError as error:
        print(error)
    assert said in capsys.readouterr().out


def test_a_folder_without_a_mask_of_any_image_says_so(tmp_path):
    root = write_folder_dataset(tmp_path / "data")
    for file in root.glob("*/masks/*.png"):
        file.rename(file.with_suffix(".jpg"))
    with pytest.raises(DataError, match="images without a mask") as error:
        run_command("check", [str(root)])
    assert "the masks are JPEG" in error.value.fix


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("segtrain ev", "evaluate"),
        ("segtrain loss=ce weighting=no", "weighting=none"),
        ("segtrain check dataset=camv", "dataset=camvid"),
        ("segtrain predict outputs/x", ""),
        ("segtrain help sche", "schedule"),
        ("segtrain evaluate outputs/x --sp", ""),
    ],
)
def test_completion_of_the_shell(console_script, typed, found):
    done = console_script("-sc", "query=bash", env={"COMP_LINE": typed})
    assert (done.code, done.out.split(), done.err) == (0, found.split(), ""), done


def test_what_a_stranger_types_is_explained(segtrain, tmp_path):
    (tmp_path / "photos").mkdir()
    assert "`segtrain check photos`, `segtrain train photos" in segtrain("photos").err
    assert "no folder nowhere" in segtrain("check", "nowhere").err
    assert "give a setting several values" in segtrain("-m").err
    assert "reading photos as dataset=folder" in segtrain("train", "photos", "dataset.num_classes=2").out


@pytest.mark.parametrize(
    "mistake",
    [
        ["model.encoder=resnet19"],
        ["trainer.monitor=iou/crss"],
        ["model.encoder_weights=nowhere.pt"],
        ["trainer.device=cuda:9"],
        ["augment.size=[9000,9000]", "loader.batch_size=128"],  # memory
    ],
)
def test_a_mistake_that_is_found_after_the_start_leaves_no_folder(segtrain, tmp_path, mistake):
    done = segtrain(*mistake)
    assert done.code == (4 if "9000" in mistake[0] else 2), done
    assert not [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
