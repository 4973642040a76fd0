"""Shared pieces of the tests: a console script that is run for real, and a small dataset on disk."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared"

# A training of a few seconds.
TINY = [
    "dataset.train_images=16",
    "dataset.val_images=8",
    "dataset.size=[32,32]",
    "trainer.epochs=1",
    "loader.workers=0",
    "loader.min_images=1",
    "model.encoder=tu-test_resnet",  # 0.5 million parameters: a run of 10 MB, not of 220
    "model.decoder_channels=[32,16,8,8,8]",
    "trainer.device=cpu",
]


@dataclass
class Result:
    code: int
    out: str
    err: str

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


@pytest.fixture
def segtrain(tmp_path, server):
    """`segtrain("loss=ce", …)` runs the command in an empty folder; returns code, out, err.

    A fork of a process that has imported all it needs: seconds less than the console script, for which there is
    `console_script`.
    """

    def run(*words, cwd=tmp_path, env=None) -> Result:
        environment = {"SEGTRAIN_CACHE": str(tmp_path / "cache"), "COLUMNS": "200", **(env or {})}
        command = server.start(*words, cwd=cwd, apart=True, **environment)
        return Result(command.wait(), command.text(), command.error_text())

    return run


@pytest.fixture
def console_script(tmp_path):
    """The same by the console script, where its start is what is tested."""

    def run(*words, cwd=tmp_path, env=None) -> Result:
        script = Path(sys.executable).with_name("segtrain")
        environment = {
            **os.environ,
            "SEGTRAIN_CACHE": str(tmp_path / "cache"),
            "COLUMNS": "200",
            **(env or {}),
        }
        environment.pop("HYDRA_FULL_ERROR", None)
        done = subprocess.run(
            [str(script), *map(str, words)],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory, server):
    """The folder of a finished run, of `loss=ce_dice weighting=median_frequency` and TINY: to read, not to change."""
    folder = tmp_path_factory.mktemp("trained")
    words = [*TINY, "weighting=median_frequency", "dataset.val_images=12", "hydra.run.dir=run"]
    code, text = server.run(*words, cwd=folder)
    assert code == 0, text
    return folder / "run"


@pytest.fixture
def trained_copy(trained, tmp_path):
    """A copy of it, `run` in the folder of the test."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def write_folder_dataset(root: Path, images: int = 6, classes: int = 3, size: tuple[int, int] = (40, 48)) -> Path:
    """root/{train,val}/{images,masks}: blocks of the classes on background."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True, exist_ok=True)
        for i in range(images):
            mask = np.zeros(size, dtype=np.uint8)
            for label in range(1, classes):
                y, x = rng.integers(0, size[0] - 12), rng.integers(0, size[1] - 12)
                mask[y : y + 12, x : x + 12] = label
            image = (mask[..., None] * 80 + rng.integers(0, 60, (*size, 3))).astype(np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"{split}{i}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{split}{i}.png")
    return root


@pytest.fixture
def folder_dataset(tmp_path) -> Path:
    return write_folder_dataset(tmp_path / "data")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server of segtrain processes, tests/processes.py."""
    from processes import Server

    found = Server(tmp_path_factory.mktemp("server"))
    yield found
    found.close()


@pytest.fixture
def figure(request):
    """`figure("kills", "200 of 200 equal")` adds a line to the table that is printed at the end."""

    def add(title: str, text: str) -> None:
        request.node.user_properties.append(("figure", f"{title}: {text}"))

    return add


def pytest_terminal_summary(terminalreporter) -> None:
    """The figures of the long tests."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    if lines := [text for report in reports for name, text in report.user_properties if name == "figure"]:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.line(line)
