"""Every command block of README and docs runs, but those that are marked as not run."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, write_folder_dataset
from PIL import Image

from segtrain.config.compose import compose

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"(?P<mark><!-- not run: [^>]+ -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
TRAINED = [word for word in TINY if not word.startswith(("dataset.", "trainer.epochs"))]
SHAPES = [word for word in TINY if word.startswith("dataset.")]


GROUPS = [
    "loss",
    "model",
    "labels",
    "sampling",
    "weighting",
    "metric",
    "schedule",
    "optimizer",
    "augment",
    "dataset",
    "experiment",
]
SPAN = re.compile(r"`([^`\n]+)`")


@pytest.mark.parametrize("file", [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))], ids=lambda file: file.stem)
def test_settings_in_the_text_are_those_there_are(file):
    """Of `loss=ce_dice loss.alpha=3` and such, which begin with the option of a group, without a placeholder."""
    for text in SPAN.findall(file.read_text()):
        if re.match(rf"({'|'.join(GROUPS)})=\w", text) and not re.search(r"…|=[A-Z]{2}|\bN\b|\+", text):
            words = shlex.split(text)
            if all("=" in word for word in words):
                compose(words, sweep=True)


def commands_of(file: Path) -> list[str]:
    """The lines of all blocks that are run, without comments, continued lines joined."""
    found = BLOCK.finditer(file.read_text())
    blocks = [block["text"] for block in found if not block["mark"] and not block["kind"]]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip()]


def cut(words: list[str]) -> list[str]:
    """Of a sweep two jobs: two values of the first setting, one of each other."""
    found, swept = [], 0
    for word in words:
        key, _, values = word.partition("=")
        if "," in values and "[" not in values and "(" not in values:
            swept += 1
            word = f"{key}={','.join(values.split(',')[: 2 if swept == 1 else 1])}"
        found.append(word)
    return found if swept else [*found, "seed=0", "weighting=none"]  # of an experiment that sweeps


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def place(tmp_path_factory, server):
    """A folder with what the guides speak of: a dataset, a run on it, images, and a sweep."""
    folder = tmp_path_factory.mktemp("guides")
    write_folder_dataset(folder / "PATH")
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(
        folder / "PATH/val/masks/val0.png"
    )  # an image without foreground
    (folder / "IMAGES").mkdir()
    for number in range(2):
        Image.fromarray(np.full((40, 50, 3), 100 * number, np.uint8)).save(folder / f"IMAGES/{number}.png")
    data = ["dataset=folder", "dataset.root=PATH", "dataset.num_classes=3"]
    for words in (
        [*data, *TRAINED, "trainer.epochs=2", "hydra.run.dir=RUN"],
        ["-m", *TINY, "seed=0,1", "hydra.sweep.dir=SWEEP"],
    ):
        code, text = server.run(*words, cwd=folder)
        assert code == 0, text
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=lambda page: page.stem)
def test_the_commands_of_a_guide_run(page, place, server):
    shutil.rmtree(place / "predicted", ignore_errors=True)  # of another page, and of RUN before it was resumed there
    for block in BLOCK.finditer(page.read_text()):
        if named := re.match(r"# ([\w/]+\.(py|yaml))\n", block["text"]):  # a file of the reader's
            (place / named[1]).parent.mkdir(parents=True, exist_ok=True)
            (place / named[1]).write_text(block["text"])
    for line in commands_of(page):
        words = shlex.split(line, comments=True)
        assert words[0] in ("segtrain", "tensorboard", "make"), f"{line} is neither run nor marked"
        if words[0] != "segtrain":
            continue
        words = words[1:]
        trains = not words or words[0].startswith("-") or "=" in words[0] or words[0] in ("find", "train", "lr-find")
        if trains and "help" not in words:
            shapes = not any(word.startswith("dataset=folder") for word in words)
            words += TRAINED + (SHAPES if shapes else []) + ["trainer.epochs=1"]
        if "-m" in words:
            words = cut(words)
        code, text = server.run(*words, cwd=place)
        assert code == 0, f"{line}\n{text}"
