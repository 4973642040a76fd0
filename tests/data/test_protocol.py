"""The protocols of data: a user's own class derives, or has what is required and no more."""

import pickle

import numpy as np
import pytest

from segtrain.class_counts import count_classes
from segtrain.data.augment import Augment, as_augment
from segtrain.data.dataset import SegmentationDataset, as_dataset
from segtrain.data.loader import Loader
from segtrain.data.sampling import RareClasses, Uniform, as_sampling
from segtrain.dataset_check.findings import check_dataset
from segtrain.errors import ConfigError


class Plain:
    """What is required, and nothing else."""

    num_classes, class_names, ignore_index, background, multilabel = 2, ["a", "b"], 255, 0, False

    def __init__(self, images=6):
        self.names = [f"image {i}" for i in range(images)]

    def image(self, index):
        return np.random.default_rng(index).integers(0, 256, (24, 32, 3), dtype=np.uint8)

    def mask(self, index):
        return self.image(index)[..., 0] // 128


class Derived(SegmentationDataset):
    """The same, derived: what is optional has its default."""

    num_classes, class_names, ignore_index, background, multilabel = 2, ["a", "b"], 255, 0, False
    names, image, mask = Plain().names, Plain.image, Plain.mask


@pytest.mark.parametrize("kind", [Plain, Derived])
@pytest.mark.parametrize("locations", [False, True])
def test_a_dataset_with_what_is_required_works_everywhere(kind, locations, tmp_path):
    data = kind()
    counts = count_classes(data, cache=tmp_path, locations=locations)
    pixels = np.bincount(np.stack([data.mask(i) for i in range(6)]).ravel())
    assert counts.pixels.tolist() == pixels.tolist()
    sampling = RareClasses(foreground_share=0.5 * locations)
    for workers, cache in ((0, "none"), (1, "ram")):
        loader = Loader(batch_size=3, workers=workers, cache=cache, min_images=1)
        seen = [images.shape for images, _, _ in loader.train(data, Augment([16, 16]), sampling, counts, 0).epoch(0)]
        assert seen == [(3, 3, 16, 16)] * 2
        assert [i for _, _, indices in loader.evaluation(data) for i in indices] == list(range(6))
    (report,) = check_dataset({"train": data}, None)
    assert report.pixels.tolist() == pixels.tolist()
    assert not report.findings
    assert not list(tmp_path.glob("*.npz")), "without a key nothing is cached"


def test_a_wrapped_dataset_survives_pickling_and_uses_only_what_is_required():
    plain = Plain()
    plain.size = "what is optional is used only of classes that derive"
    data = pickle.loads(pickle.dumps(as_dataset(plain)))
    assert np.array_equal(data.image(3), plain.image(3))
    assert (data.size(0), data.mask_key(0), data.files(), data.channels) == (None, None, [], 3)
    assert as_dataset(data) is data


def test_groups_of_a_class_that_does_not_derive_are_said_to_be_left_out(caplog):
    class Grouped(Plain):
        def group(self, index):
            return "one"

    assert as_dataset(Grouped()).group(0) == "image 0"
    assert "Grouped.group is not used: derive the class" in caplog.text


def test_what_a_dataset_lacks_is_named():
    class Lacking:
        num_classes, ignore_index, background, multilabel, names = 2, 255, 0, False, ["x"]

        def image(self, index):
            return np.zeros((4, 4, 3), np.uint8)

    with pytest.raises(ConfigError, match="the dataset class has no class_names, mask") as error:
        as_dataset(Lacking())
    assert "Lacking" in error.value.where

    class Half(SegmentationDataset):
        num_classes, class_names, ignore_index, background, multilabel, names = 2, ["a", "b"], 255, 0, False, ["x"]

    with pytest.raises(ConfigError, match="the dataset class has no image, mask"):
        as_dataset(Half())
    with pytest.raises(ConfigError, match="the dataset class has no num_classes"):
        as_dataset(SegmentationDataset())


def test_samplings_and_augmentations_are_wrapped_when_they_are_plain():
    assert as_sampling(Uniform()).foreground_share == 0.0
    plain = as_sampling(lambda counts, seed, epoch: Uniform()(counts, seed, epoch))
    assert (plain.foreground_share, plain.summary(None)) == (0.0, "")
    assert as_augment(Augment([8, 8])).crops
    assert not as_augment(lambda image, mask, seed: (image, mask)).crops
    for wrap, what in ((as_sampling, "sampling"), (as_augment, "augment")):
        with pytest.raises(ConfigError, match=f"the {what} class has no __call__"):
            wrap(object())
