"""The scripts that draw a dataset, and train on it as most do."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


def run(*words) -> str:
    done = subprocess.run([sys.executable, SCRIPTS / words[0], *map(str, words[1:])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_cells_are_drawn_checked_and_trained_on_by_hand(segtrain, tmp_path):
    run("make_cells.py", tmp_path, "--train", 4, "--val", 2)
    checked = segtrain("check", tmp_path, "dataset.image_range=[0,4095]")
    assert "taking dataset.num_classes=4" in checked.out, checked
    assert "0 errors, 0 warnings" in checked.out
    trained = run("plain_script.py", tmp_path, "--classes", 4, "--range", 4095, "--seconds", 0.1, "--dice")
    assert trained.startswith("epoch 1,")


@pytest.mark.slow
def test_boats_are_drawn_and_checked(segtrain, tmp_path):
    run("make_boats.py", tmp_path, "--train", 8, "--val", 4)
    checked = segtrain("check", tmp_path)
    assert "taking dataset.num_classes=3" in checked.out, checked
    assert "0 errors, 0 warnings" in checked.out
