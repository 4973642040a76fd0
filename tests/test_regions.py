"""Windows that a coarse network finds worth a look."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from segtrain.errors import ConfigError
from segtrain.inference import Inference, Predictor, window_starts
from segtrain.inference.regions import CERTAIN, Foreground, Regions, spans, threshold_for
from segtrain.proposals import Proposals
from segtrain.runs.trained import Classes


class Bright(nn.Module):
    """Class 1 where the first channel is bright, with a probability that grows with it."""

    def __init__(self, classes=2):
        super().__init__()
        self.classes, self.forwards = classes, []

    def forward(self, images):
        self.forwards.append(tuple(images.shape))
        value = images[:, :1].float() / 25.5 - 5
        return torch.cat([-value, value, *[torch.full_like(value, -9)] * (self.classes - 2)], dim=1)


def predictor(threshold=0.5, multilabel=False, classes=2, **settings):
    inference = Inference(window=[8, 8], overlap=0.5, **settings)
    background = None if multilabel else 0
    foreground = Foreground(Bright(), None, False, 0)
    regions = Regions(foreground, contextlib.nullcontext, classes, background, threshold)
    return Predictor(
        Bright(classes), torch.device("cpu"), contextlib.nullcontext, multilabel, inference, background, regions
    )


@given(st.integers(1, 200), st.integers(1, 64), st.floats(0, 0.9))
def test_each_pixel_belongs_to_the_window_it_is_nearest_to(size, window, overlap):
    window = min(size, window)
    starts = window_starts(size, window, overlap)
    own = spans(starts, window, size)
    assert [first for first, _ in own] == [0, *(last for _, last in own[:-1])]
    assert own[-1][1] == size
    for pixel in range(size):
        (owner,) = [i for i, (first, last) in enumerate(own) if first <= pixel < last]
        distances = [abs(pixel + 0.5 - start - window / 2) for start in starts]
        assert distances[owner] <= min(distances) + 0.5
        assert starts[owner] <= pixel < starts[owner] + window


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(0, 50)), min_size=1, max_size=60), st.floats(0.01, 1))
def test_the_threshold_is_the_largest_that_keeps_the_recall(windows, recall):
    values, pixels = (np.array(column) for column in zip(*windows, strict=True))
    threshold = threshold_for(values, pixels, recall)
    if pixels.sum() == 0:
        assert threshold == 0
        return
    kept = [t for t in [0.0, *values] if pixels[values >= t].sum() >= recall * pixels.sum() * (1 - 1e-12)]
    assert threshold == pytest.approx(max(kept))


def test_only_windows_with_foreground_are_predicted_and_the_rest_is_background():
    image = np.zeros((40, 48, 3), np.uint8)
    image[4:7, 30:33] = 255  # one object
    found = predictor()
    mask = found.image(image).mask
    assert mask.sum() == 9
    np.testing.assert_array_equal(mask, image[:, :, 0] > 0)
    assert 1 <= len(found.model.forwards) <= 4  # of 9 × 11 windows
    logits = found.logits(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert (logits[0, 0, 20:] == CERTAIN).all()
    assert (logits[0, 1, 20:] == -CERTAIN).all()


def test_a_threshold_of_zero_is_what_all_windows_give():
    image = np.random.default_rng(0).integers(0, 256, (33, 29, 3), dtype=np.uint8)
    images = torch.from_numpy(image).permute(2, 0, 1)[None]
    everywhere, plain = predictor(0.0, flips=["horizontal"]), predictor(0.0, flips=["horizontal"])
    plain.regions = None
    assert torch.equal(everywhere.logits(images), plain.logits(images))


def test_each_image_of_a_batch_has_windows_of_its_own():
    images = torch.zeros(3, 3, 24, 24, dtype=torch.uint8)
    images[0, :, 2:4, 2:4] = 255
    images[2, :, 20:22, 18:20] = 255
    found = predictor()
    masks = found.decide(found.logits(images))
    assert torch.equal(masks.bool(), images[:, 0] > 0)
    assert 2 <= sum(shape[0] for shape in found.model.forwards) <= 8


def test_an_image_without_a_sign_of_foreground_costs_no_forward_pass():
    found = predictor()
    assert not found.image(np.zeros((30, 30, 3), np.uint8)).mask.any()
    assert found.model.forwards == []


def test_multilabel_is_nothing_outside():
    image = np.zeros((24, 24, 3), np.uint8)
    image[2:4, 2:4] = 255
    found = predictor(multilabel=True, classes=3)
    mask = found.image(image).mask
    assert mask.shape == (3, 24, 24)
    np.testing.assert_array_equal(mask[1], image[:, :, 0] > 0)
    assert not mask[:, 16:].any()


def test_a_coarse_network_sees_resized_images():
    image = np.zeros((40, 48, 3), np.uint8)
    image[4:12, 30:38] = 255
    found = predictor()
    found.regions.foreground.resize = 0.25
    mask = found.image(image).mask
    assert found.regions.foreground.network.forwards == [(1, 3, 10, 12)]
    np.testing.assert_array_equal(mask, image[:, :, 0] > 0)


def test_regions_need_windows():
    with pytest.raises(ValueError, match=r"inference.window"):
        Inference(regions="RUN")


def test_evaluate_and_predict_look_where_another_run_sees_foreground(server, trained_copy, tmp_path):
    words = [f"inference.regions={trained_copy}", "inference.window=[16,16]", "inference.region_recall=0.9"]
    code, text = server.run("evaluate", str(trained_copy), *words, cwd=tmp_path)
    assert code == 0, text
    assert "regions: only windows where the coarse network" in text
    code, text = server.run("evaluate", str(trained_copy), *words, "inference.resize=2.0", cwd=tmp_path)
    assert code == 0, text  # of images four times as large, in nine times as many windows
    from PIL import Image

    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "image.png")
    code, text = server.run("predict", str(trained_copy), "image.png", *words, "--out", "out", cwd=tmp_path)
    assert code == 0, text
    assert (tmp_path / "out/masks/image.png").is_file()
    code, text = server.run(*words[:2], "trainer.epochs=1", cwd=tmp_path)
    assert (code, "regions need a trained network" in text) == (2, True), text


def test_a_run_is_trained_where_another_sees_foreground(server, trained_copy, tmp_path):
    words = [*TINY, "sampling=proposals", f"sampling.coarse.run={trained_copy}", "sampling.threshold=0.01"]
    code, text = server.run(*words, "augment.size=[16,16]", "hydra.run.dir=fine", cwd=tmp_path)
    assert code == 0, text
    assert "predicts foreground in 1" in text
    code, text = server.run("resume", "fine", "trainer.epochs=2", "--allow", "trainer.epochs", cwd=tmp_path)
    assert code == 0, text
    code, text = server.run(*words, "augment.size=null", cwd=tmp_path)
    assert (code, "there is no crop to centre" in text) == (2, True), text


class Coarse:
    """A run whose network is Bright, on images of half the size."""

    run = "RUN"
    network = Bright()
    config = SimpleNamespace(dataset={"resize": 0.5})
    classes = Classes(["background", "bright"], 0, False, None)


def test_proposals_are_where_the_coarse_network_sees_foreground():
    images = np.zeros((3, 40, 48, 3), np.uint8)
    images[0, 8:12, 20:28] = images[2, 30:34, 2:6] = 255
    data = SimpleNamespace(names=["a", "b", "c"], image=lambda index: images[index], multilabel=False)
    counts = SimpleNamespace(num_images=3)
    sampling = Proposals(Coarse(), share=1.0, threshold=0.9)
    sampling.prepare(data, torch.device("cpu"))
    epochs = [sampling(counts, seed=0, epoch=number) for number in range(20)]
    for epoch in epochs:
        assert sorted(epoch.indices) == [0, 1, 2]
        for index, centre in zip(epoch.indices, epoch.centres, strict=True):
            assert (centre == -1) == (index == 1)
            assert index == 1 or images[index].reshape(-1, 3)[centre, 0] == 255
    assert len({tuple(epoch.centres) for epoch in epochs}) > 10
    assert (
        sampling.summary(counts)
        == "RUN predicts foreground in 2 of 3 training images: 100 % of their crops are taken there"
    )


def test_the_factor_of_the_coarse_run_is_of_images_as_they_are():
    def foreground(resize, given):
        config = SimpleNamespace(dataset={"resize": resize})
        classes = SimpleNamespace(check_foreground=lambda run: None, multilabel=False, background=0)
        run = SimpleNamespace(run="coarse", config=config, classes=classes, network=Bright())
        return Foreground.of_run(run, torch.device("cpu"), given)

    image = torch.zeros(1, 3, 20, 40, dtype=torch.uint8)
    assert foreground(0.25, None)(image).shape[1:] == (5, 10)
    assert foreground(0.25, 0.5)(image).shape[1:] == (10, 20)
    assert foreground([6, 8], 0.5)(image).shape[1:] == (6, 8)
    assert foreground(None, 0.5)(image).shape[1:] == foreground(1.0, 0.5)(image).shape[1:] == (40, 80)
    with pytest.raises(ConfigError, match="a factor, but this training has a size"):
        foreground(0.25, [20, 40])


def test_a_multilabel_background_is_no_foreground():
    """Nor are ignored pixels."""
    found = Foreground(Bright(classes=3), None, multilabel=True, background=1)
    assert found(torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)).max() < 0.01
    found.background = None
    assert found(torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)).min() > 0.99
