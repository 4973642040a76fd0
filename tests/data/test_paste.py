"""Pasting of rare classes: which pixels change, how often each class is drawn, the same for the same seed."""

import numpy as np
import pytest

from segtrain.class_counts import count_classes
from segtrain.data.augment import Augment
from segtrain.data.loader import Loader, needs_locations
from segtrain.data.paste import Paste, pasted
from segtrain.data.sampling import Uniform
from segtrain.data.shapes import Shapes
from segtrain.errors import ConfigError


def test_only_pixels_of_the_class_are_taken():
    image, mask = np.zeros((2, 3, 1), np.uint8), np.array([[0, 1, 255], [0, 1, 2]], np.uint8)
    donor_image, donor_mask = np.full((2, 3, 1), 9, np.uint8), np.array([[2, 2, 2], [1, 0, 0]], np.uint8)
    new_image, new_mask = pasted(image, mask, donor_image, donor_mask, 2)
    assert new_image[..., 0].tolist() == [[9, 9, 9], [0, 0, 0]]
    assert new_mask.tolist() == [[2, 2, 2], [0, 1, 2]]
    assert mask.tolist() == [[0, 1, 255], [0, 1, 2]]


def test_multi_label_pixels_bring_all_their_labels():
    mask = np.array([[[1, 0], [1, 0]]], np.uint8)
    donor = np.array([[[1, 1], [1, 0]]], np.uint8)
    _, new_mask = pasted(np.zeros((1, 2, 3), np.uint8), mask, np.ones((1, 2, 3), np.uint8), donor, 1)
    assert new_mask.tolist() == [[[1, 1], [1, 0]]]


@pytest.fixture(scope="module")
def data():
    return Shapes("train", train_images=24, size=[64, 64])


@pytest.fixture(scope="module")
def counts(data):
    return count_classes(data, locations=True)


def test_classes_are_drawn_by_the_inverse_root_of_their_pixels(counts):
    paste = Paste(0.5, counts)
    donors = [paste.donor((0, 0, i)) for i in range(4000)]
    found = [donor for donor in donors if donor is not None]
    assert abs(len(found) / len(donors) - 0.5) < 0.03
    drawn = np.bincount([donor.label for donor in found], minlength=len(counts.pixels)) / len(found)
    expected = np.append(0, counts.pixels[1:] ** -0.5) / (counts.pixels[1:] ** -0.5).sum()
    np.testing.assert_allclose(drawn, expected, atol=0.03)
    assert all(counts.per_image[donor.index, donor.label] for donor in found)


def test_the_centre_is_a_pixel_of_the_class(data, counts):
    for i in range(50):
        donor = Paste(1.0, counts).donor((0, 0, i))
        assert data.mask(donor.index).flat[donor.centre] == donor.label


def test_nothing_to_paste_without_foreground(counts):
    from dataclasses import replace

    nothing = replace(counts, pixels=np.where(np.arange(len(counts.pixels)) == 0, counts.pixels, 0))
    assert Paste(1.0, nothing).donor((0,)) is None


def batches(data, counts, workers, paste):
    augment = Augment(size=[48, 48], horizontal_flip=0.5, paste=paste)
    loader = Loader(batch_size=4, workers=workers, min_images=1).train(data, augment, Uniform(), counts, 0)
    return [(images.numpy().copy(), masks.numpy().copy()) for images, masks, _ in loader.epoch(1)]


def test_samples_are_the_same_in_any_process(data, counts):
    alone = batches(data, counts, 0, 0.7)
    for other in (batches(data, counts, 0, 0.7), batches(data, counts, 2, 0.7)):
        assert all(
            np.array_equal(a, b) for one, two in zip(alone, other, strict=True) for a, b in zip(one, two, strict=True)
        )


def test_rare_classes_are_seen_more_often_and_nothing_else_changes(data, counts):
    plain, more = batches(data, counts, 0, 0.0), batches(data, counts, 0, 1.0)
    rarest = int(np.argmin(counts.pixels))

    def share(of):
        return np.mean(np.concatenate([(masks == rarest).reshape(len(masks), -1).any(1) for _, masks in of]))

    assert share(more) > share(plain)
    for (images, masks), (pasted_images, pasted_masks) in zip(plain, more, strict=True):
        kept = (masks == pasted_masks)[:, None].repeat(3, 1) & (images != pasted_images)
        # What was pasted over a pixel of the same class may look different, the rest may not.
        assert not (kept & (masks == 0)[:, None]).any()


def test_what_it_needs(data, counts):
    assert needs_locations(Augment(size=[32, 32], paste=0.5), Uniform())
    assert not needs_locations(Augment(paste=0.5), Uniform())
    with pytest.raises(ConfigError, match="several annotators"):
        Loader(min_images=1).train(data, Augment(paste=0.5), Uniform(), counts, 0, annotated=True)
