"""`segtrain export`: the file is what the run predicts, by onnxruntime alone; what is refused; a failed check leaves no file."""

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segtrain import exported
from segtrain.cli import run_command
from segtrain.errors import ConfigError
from segtrain.runs.trained import load

DOCS = Path(__file__).resolve().parents[2] / "docs/export.md"


def networks_prediction(run, image: Image.Image) -> np.ndarray:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    with torch.no_grad():
        return load(str(run)).network.eval()(pixels)[0].argmax(dim=0).numpy()


@pytest.mark.slow
def test_the_script_of_the_docs_predicts_with_onnxruntime_alone(segtrain, trained, tmp_path):
    done = segtrain("export", trained, "--out", "model.onnx")
    assert done.code == 0, done
    assert done.out.count("100.000") == 5
    script = re.search(r"```python\n(# predict_onnx.py.*?)```", DOCS.read_text(), re.S)[1]
    assert "torch" not in script
    assert "segtrain" not in script
    (tmp_path / "predict_onnx.py").write_text(script)
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((150, 111))
    image.save(tmp_path / "image.png")
    words = [sys.executable, "predict_onnx.py", "model.onnx", "image.png", "mask.png"]
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    mask, expected = np.asarray(Image.open(tmp_path / "mask.png")), networks_prediction(trained, image)
    assert (mask == expected).mean() >= 0.9999
    assert f"'background': {(mask == 0).sum()}" in ran.stdout


@pytest.mark.slow
def test_a_program_of_torch_export_with_the_classes_beside(trained, tmp_path, capsys):
    file = tmp_path / "model.pt2"
    assert (
        run_command("export", [str(trained), "--format", "torch_export", "--output", "classes", "--out", str(file)])
        == 0
    )
    files = {exported.ABOUT: ""}
    network = torch.export.load(io.BytesIO(file.read_bytes()), extra_files=files).module()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 33, 3), dtype=np.uint8))
    found = network(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])
    assert found.dtype == torch.uint8
    assert (found[0].numpy() == networks_prediction(trained, image)).mean() >= 0.9999
    assert '"class_names": ["background", "disc", "square", "cross"]' in files[exported.ABOUT]
    assert "not part of the file" not in capsys.readouterr().out


def test_large_logits_may_differ_by_their_rounding(monkeypatch):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.Conv2d(64, 4, 3), torch.nn.Flatten(2)).eval()

    class Large(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            return 1000 * self.network(images.to(self.network[0].weight.dtype)).unflatten(2, (images.shape[2] - 4, -1))

    made = exported.Exported(Large(), "logits", False, None)
    monkeypatch.setattr(exported, "SIZES", exported.SIZES[:1])

    def difference(error):
        file = lambda images: made(torch.from_numpy(images)).detach().numpy() + error  # noqa: E731
        monkeypatch.setattr(exported, "runner", lambda content, kind: file)
        return next(exported.compared(b"", "onnx", made, 3))

    rounded, wrong = difference(1e-2), difference(1.0)
    assert rounded.most > 1e-2 > exported.MAX_DIFFERENCE
    assert not rounded.failed
    assert wrong.failed


@pytest.mark.slow
def test_a_failed_check_leaves_no_file(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(exported, "MAX_DIFFERENCE", -1.0)
    monkeypatch.setattr(exported, "ROUNDING", -1.0)
    monkeypatch.setattr(exported, "SIZES", exported.SIZES[:1])
    with pytest.raises(ConfigError, match="no file is written"):
        run_command("export", [str(trained), "--format", "torch_export", "--out", str(tmp_path / "model.pt2")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["inference.flips=[horizontal]"], "inference.flips does not matter to export"),
        (["--out", "model.pt"], "ends in .onnx"),
        (["inference.threshold=0.4"], "threshold=0.4 for 4 classes"),
    ],
)
def test_what_is_refused(trained, words, what):
    with pytest.raises(ConfigError) as error:
        run_command("export", [str(trained), *words])
    assert what in str(error.value)
    assert not (trained / "model.onnx").exists()
