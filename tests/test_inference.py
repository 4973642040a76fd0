"""Flips, scales and windows: equal to the plain pass where they must be, and worked out by hand where not."""

import contextlib
import json

import numpy as np
import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segtrain import models
from segtrain.data.resize import resize_image
from segtrain.inference import Inference, Predictor, window_starts

CPU = torch.device("cpu")


class Pointwise(nn.Module):
    """Logits of a pixel from that pixel alone."""

    def forward(self, images):
        x = images.float() / 255
        return torch.cat([x * 3, x[:, :1] - 1], dim=1)


def predictor(model=None, multilabel=False, **settings):
    return Predictor(model or Pointwise(), CPU, contextlib.nullcontext, multilabel, Inference(**settings))


def images(height=37, width=50, n=2, seed=0):
    return torch.randint(
        0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return models.unet(num_classes=3, decoder_channels=[16, 8, 8, 8, 8]).eval()


def test_by_default_the_network_is_asked_once_and_not_touched(unet):
    assert torch.equal(predictor(unet).logits(images()), unet(images()))


def test_where_the_image_fits_the_window_it_is_the_whole_pass_bit_for_bit(unet):
    for window in ([37, 50], [64, 64]):
        assert torch.equal(predictor(unet, window=window).logits(images()), unet(images()))


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(5, 60),
    width=st.integers(5, 60),
    window=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.8]),
)
def test_windows_of_a_pointwise_network_give_the_whole_pass(height, width, window, overlap):
    x = images(height, width, n=1)
    found = predictor(window=list(window), overlap=overlap).logits(x)
    torch.testing.assert_close(found, Pointwise()(x), rtol=1e-5, atol=1e-5)


def test_far_from_borders_of_windows_a_network_of_small_reach_sees_the_same():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))
    x = images(90, 120).float()
    whole, tiled = network(x), predictor(network, window=[48, 48], overlap=0.75).logits(x)
    # the padding at the border of a window reaches 3 pixels, where its weight is small
    assert (whole - tiled).abs().max() < 0.01 * whole.abs().max()


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 300), window=st.integers(1, 100), overlap=st.floats(0, 0.95))
def test_windows_cover_everything_and_overlap_enough(size, window, overlap):
    window = min(size, window)
    starts = window_starts(size, window, overlap)
    assert starts[0] == 0
    assert starts[-1] == size - window
    steps = np.diff(starts)
    assert all((steps > 0) & (steps <= max(1, round(window * (1 - overlap)) + 1)))


def test_flips_average_probabilities(unet):
    x = images()
    ways = [x, x.flip(-1), x.flip(-2), x.flip(-1, -2)]
    back = [(), (-1,), (-2,), (-1, -2)]
    expected = sum(unet(w).softmax(dim=1).flip(b) for w, b in zip(ways, back, strict=True)) / 4
    found = predictor(unet, flips=["horizontal", "vertical"]).logits(x)
    torch.testing.assert_close(found.softmax(dim=1), expected, rtol=1e-4, atol=1e-5)
    one = predictor(unet, flips=["horizontal"]).logits(x)
    torch.testing.assert_close(one.flip(-1), predictor(unet, flips=["horizontal"]).logits(x.flip(-1)))


def test_flips_average_within_each_window(unet):
    x = images(48, 80)
    settings = {"window": [32, 32], "overlap": 0.0}
    found = predictor(unet, flips=["horizontal"], **settings).logits(x[:, :, :32, :32].contiguous())
    of_windows = predictor(unet, flips=["horizontal"], **settings).logits(x[..., :32, :64])
    torch.testing.assert_close(of_windows[..., :32], found, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(of_windows, predictor(unet, **settings).logits(x[..., :32, :64]), atol=1e-2)


def test_several_labels_average_each_labels_probability():
    x = images()
    found = predictor(multilabel=True, flips=["horizontal"]).logits(x)
    torch.testing.assert_close(found.sigmoid(), Pointwise()(x).sigmoid(), rtol=1e-4, atol=1e-5)


def test_scales_are_averaged_at_the_images_own_size(unet):
    x = images(64, 96)
    found = predictor(unet, scales=[0.5, 1.0, 1.5]).logits(x)
    assert found.shape == (2, 3, 64, 96)
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(2, 64, 96), rtol=1e-4, atol=1e-4)
    flat = torch.full((1, 3, 40, 40), 77, dtype=torch.uint8)
    torch.testing.assert_close(
        predictor(scales=[0.5, 2.0]).logits(flat).softmax(dim=1), Pointwise()(flat).softmax(dim=1)
    )


def test_what_is_refused():
    with pytest.raises(ValueError, match="scales is empty"):
        Inference(scales=[])
    with pytest.raises(ValueError, match="overlap=1.0 must be"):
        Inference(overlap=1.0)
    with pytest.raises(ValueError, match="flips=.* must be a list, each one of horizontal"):
        Inference(flips=["diagonal"])
    with pytest.raises(ValueError, match="threshold=1.5 must be"):
        Inference(threshold=1.5)


@pytest.mark.slow
def test_from_the_command_line(segtrain, tmp_path):
    assert segtrain(*TINY, "hydra.run.dir=run", "inference.flips=[horizontal]").code == 0
    for words in (
        ["inference.flips=[horizontal,vertical]", "inference.scales=[0.75,1,1.25]"],
        ["inference.window=[32,32]", "inference.flips=[]"],
    ):
        assert segtrain("evaluate", "run", *words, "--bootstrap", "0").code == 0
    saved = [json.loads(file.read_text()) for file in tmp_path.glob("run/evaluation/*/scores.json")]
    assert len({scores["scores"]["loss"] for scores in saved}) == 2
    refused = segtrain(*TINY, "inference.threshold=0.3")
    assert refused.code == 2
    assert "threshold=0.3 for 4 classes, one per pixel" in refused.err


def test_a_run_with_several_labels_keeps_its_best_thresholds_and_evaluate_uses_them(segtrain, tmp_path):
    done = segtrain(*TINY, "dataset=shapes_multilabel", "loss=bce", "trainer.epochs=2", "hydra.run.dir=run")
    assert done.code == 0, done
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["thresholds"].keys() <= {"disc", "square", "cross"}
    assert "best thresholds on these images: disc" in done.out
    tuned = segtrain("evaluate", "run", "--bootstrap", "0")
    assert "using the thresholds that maximised Dice on val" in tuned.err
    plain = segtrain("evaluate", "run", "inference.threshold=0.5", "--bootstrap", "0")
    assert "using the thresholds" not in plain.err
    tuned, plain = (
        json.loads((tmp_path / f"run/evaluation/{name}/scores.json").read_text())["scores"]
        for name in ("val", "val_inference.threshold=0.5")
    )
    assert plain["dice/mean"] == result["scores"]["dice/mean"]
    for name in result["thresholds"]:
        assert tuned[f"dice/{name}"] >= plain[f"dice/{name}"]


def test_a_network_that_is_not_finite_is_not_scored(segtrain, trained_copy, tmp_path):
    file = tmp_path / "run/checkpoints/best.pt"
    content = torch.load(file, weights_only=True)
    content["model"]["network.segmentation_head.0.bias"][0] = float("nan")
    torch.save(content, file)
    done = segtrain("evaluate", "run")
    assert done.code == 6
    assert "non-finite logits in 12 of 12 images" in done.err


def test_logits_of_resized_images_come_back_at_the_image_s_size():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 24, 32), dtype=torch.uint8)
    seen = []

    class Network(torch.nn.Module):
        def forward(self, pixels):
            seen.append(pixels)
            return pixels.float()

    predictor = Predictor(Network(), torch.device("cpu"), contextlib.nullcontext, False, Inference(resize=0.5))
    logits = predictor.logits(images)
    assert logits.shape == (2, 3, 24, 32)
    expected = [resize_image(image.permute(1, 2, 0).numpy(), 0.5) for image in images]
    assert np.array_equal(seen[0].permute(0, 2, 3, 1).numpy(), np.stack(expected))


def test_images_of_other_sizes_are_pointed_out(segtrain, trained_copy):
    done = segtrain("evaluate", "run", "dataset.size=[64,64]", "--bootstrap", "0")
    assert done.code == 0, done
    assert "the images are 64×64 (height × width), those of the training 32×32" in done.err
    assert "objects are 2 times as large" in done.err
    done = segtrain("evaluate", "run", "dataset.size=[64,64]", "inference.resize=[32,32]", "--bootstrap", "0")
    assert done.code == 0, done
    assert "those of the training" not in done.err


def test_a_class_with_too_few_sure_pixels_is_predicted_nowhere():
    logits = torch.zeros(2, 3, 4, 4)
    logits[:, 0] = 2.0
    logits[0, 1, 0, :3] = logits[1, 1, 0, :2] = 6.0  # three sure pixels; two
    logits[:, 2, 3, 3] = 9.0
    settings = {"presence": {"area": [9, 3, 1], "confidence": 0.9}}
    built = Predictor(Pointwise(), CPU, contextlib.nullcontext, False, Inference(**settings), background=0)
    found = built.decide(logits)
    assert found.dtype == torch.uint8
    assert (found == 1).flatten(1).sum(dim=1).tolist() == [3, 0]
    assert (found[:, 3, 3] == 2).all()
    several = predictor(multilabel=True, presence={"area": 3, "confidence": 0.9}).decide(logits)
    assert several[:, 1].flatten(1).sum(dim=1).tolist() == [3, 0]
    with pytest.raises(ValueError, match="give area and confidence"):
        Inference(presence={"area": 3})
    for wrong in ({"false_alarms": 5}, {"area": "many", "confidence": 0.8}, {"area": [3, -1], "confidence": 0.8}):
        with pytest.raises(ValueError, match=r"presence\.(false_alarms|area)=.* must be a "):
            Inference(presence=wrong)


def test_evaluate_chooses_presence_on_val_and_scores_it_on_other_images(segtrain, trained_copy, tmp_path):
    done = segtrain("evaluate", "run", "inference.presence=best", "--bootstrap", "0")
    assert done.code == 0, done
    assert "least evidence for a class to be present in an image, chosen on val:" in done.out
    assert "chosen on other images (cross-fitted): iou/foreground" in done.out
    saved = json.loads((tmp_path / "run/evaluation/val_inference.presence=best/scores.json").read_text())
    assert len(saved["presence.area"]) == len(saved["presence.confidence"]) == 4
    assert {"iou/foreground", "specificity"} <= saved["cross_fitted"].keys()
    done = segtrain("evaluate", "run", "inference.presence={false_alarms: 0}", "metric=detection", "--bootstrap", "0")
    assert done.code == 0, done
    assert (
        "val images without foreground: at most 0.0 % with a false alarm were requested; with presence chosen on other images"
        in done.out
    )
    (folder,) = (tmp_path / "run/evaluation").glob("*false_alarms*")
    assert json.loads((folder / "scores.json").read_text())["scores"]["specificity"] == 1
    done = segtrain(*TINY, "inference.presence=best")
    assert (done.code, "chosen on val, after the training" in done.err) == (2, True), done


def test_thresholds_of_several_labels_are_scored_on_other_images(segtrain, tmp_path):
    words = [*TINY, "dataset=shapes_multilabel", "loss=bce_dice", "metric=standard", "hydra.run.dir=run"]
    done = segtrain(*words)
    assert done.code == 0, done
    assert "; chosen on other images (cross-fitted): iou/foreground" in done.out
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert 0 <= result["cross_fitted"]["dice/foreground"] <= 1
    done = segtrain("evaluate", "run", "inference.presence=best", "--bootstrap", "0")
    assert done.code == 0, done
    assert "which makes their scores too good; chosen on other images (cross-fitted)" in done.out
