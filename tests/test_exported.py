"""A network as a file: onnxruntime and torch.export equal PyTorch, for any size, with what is known of the classes."""

import io
import json

import numpy as np
import pytest
import torch

from segtrain import exported, models
from segtrain.errors import ConfigError
from segtrain.exported import Exported, compared, content_of, runner

ABOUT = {"class_names": ["background", "scratch"], "background": 0, "thresholds": None}


def small(classes: int = 3, channels: int = 3, seed: int = 0) -> models.SegmentationModel:
    """Two convolutions of stride 2 and the way back: sizes are padded to a multiple of 4."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(channels, 8, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, classes, 3, stride=2, padding=1),
        torch.nn.Upsample(scale_factor=4, mode="bilinear"),
    )
    return models.SegmentationModel(network, [0.5] * channels, [0.25] * channels, stride=4)


@pytest.mark.parametrize("kind", ["onnx", pytest.param("torch_export", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("output", "multilabel", "classes", "threshold"),
    [
        ("logits", False, 3, None),
        ("classes", False, 3, None),
        ("classes", False, 2, 0.3),
        ("classes", True, 3, [0.2, 0.5, 0.7]),
        ("classes", True, 1, None),
    ],
)
def test_the_file_gives_what_the_network_gives(kind, output, multilabel, classes, threshold):
    network = Exported(small(classes, channels=4), output, multilabel, threshold).eval()
    content = content_of(network, 4, kind, ABOUT)
    assert not any(c.failed for c in compared(content, kind, network, 4))
    images = np.random.default_rng(1).integers(0, 256, (2, 4, 19, 30), dtype=np.uint8)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    found = runner(content, kind)(images)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "torch_export"])
def test_what_is_known_of_the_classes_is_in_the_file(kind):
    content = content_of(Exported(small(), "logits", False, None), 3, kind, ABOUT)
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(content)
        metadata = session.get_modelmeta().custom_metadata_map
        assert {key: json.loads(value) for key, value in metadata.items()} == ABOUT
        ends = [session.get_inputs()[0], session.get_outputs()[0]]
        assert [(end.name, end.type) for end in ends] == [("images", "tensor(uint8)"), ("logits", "tensor(float)")]
        assert ends[0].shape == ["batch", 3, "height", "width"]
        return
    files = {exported.ABOUT: ""}
    torch.export.load(io.BytesIO(content), extra_files=files)
    assert json.loads(files[exported.ABOUT]) == ABOUT


@pytest.mark.long
@pytest.mark.parametrize("name", ["unet", "unetplusplus", "fpn", "deeplabv3plus", "segformer"])
@pytest.mark.parametrize("kind", ["onnx", "torch_export"])
def test_networks_of_the_package(kind, name):
    if (kind, name) == ("torch_export", "segformer"):
        pytest.skip("refuses a batch of one image: docs/export.md says so")
    network = Exported(getattr(models, name)(3), "logits", False, None).eval()
    assert not any(c.failed for c in compared(content_of(network, 3, kind, ABOUT), kind, network, 3))


def test_another_network_fails_the_comparison():
    content = content_of(Exported(small(seed=1), "logits", False, None), 3, "torch_export", ABOUT)
    found = list(compared(content, "torch_export", Exported(small(seed=2), "logits", False, None).eval(), 3))
    assert all(c.failed for c in found)
    assert len(found) == 5


class BranchesOnPixels(torch.nn.Module):
    def forward(self, images):
        return images.float() if images.sum() > 5 else images.float() * 2


def test_a_network_that_cannot_be_exported_is_named():
    with pytest.raises(ConfigError, match="the exported network cannot be made"):
        content_of(Exported(BranchesOnPixels(), "logits", False, None), 3, "torch_export", ABOUT)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(exported.NEEDED, "onnx", ("onnx", "no_such_package"))
    with pytest.raises(ConfigError) as error:
        exported.check_packages("onnx")
    assert error.value.fix == "pip install no_such_package"
