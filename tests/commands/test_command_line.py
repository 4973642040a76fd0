"""What one would type first: --version, the word train, a folder without a key, and settings without effect."""

from pathlib import Path

import pytest
from conftest import TINY, write_folder_dataset

import segtrain as package


def test_the_version(segtrain):
    done = segtrain("--version")
    assert (done.code, done.out.strip()) == (0, f"segtrain {package.__version__}")


@pytest.mark.slow
def test_the_word_train_trains(segtrain):
    done = segtrain("train", *TINY, "hydra.run.dir=run")
    assert done.code == 0, done


def test_a_folder_named_alone_is_the_dataset(segtrain, tmp_path):
    write_folder_dataset(tmp_path / "my data")
    done = segtrain("check", "my data", "dataset.num_classes=3")
    assert done.code == 0, done
    assert "reading my data as dataset=folder dataset.root='my data'" in done.out


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
    assert "_target_: segtrain.losses.PixelRegion" not in shown.out
    assert "did you mean 'loss'" in segtrain("help", "los").err
