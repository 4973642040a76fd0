"""Datasets, image files, augmentation and loaders."""

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED, write_folder_dataset
from PIL import Image

from segtrain.class_counts import count_classes
from segtrain.data.augment import Augment
from segtrain.data.folder import Folder
from segtrain.data.folder.images import read_image
from segtrain.data.folder.values import with_channels
from segtrain.data.loader import Loader
from segtrain.data.sampling import Uniform
from segtrain.data.shapes import Shapes, ShapesMultilabel
from segtrain.data.views import decoded_size
from segtrain.errors import ConfigError, DataError


def test_damaged_images_are_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8)).save(tmp_path / "i.jpg")
    (tmp_path / "i.jpg").write_bytes((tmp_path / "i.jpg").read_bytes()[:700])
    with pytest.raises(DataError, match="cannot be decoded") as error:
        read_image(tmp_path / "i.jpg")
    assert "i.jpg" in error.value.where


def test_folder_layouts_give_the_same(tmp_path):
    root = write_folder_dataset(tmp_path / "a")
    other = tmp_path / "b"
    for split in ("train", "val"):
        for part in ("images", "masks"):
            (other / part).mkdir(parents=True, exist_ok=True)
            (root / split / part).rename(other / part / split)
    assert Folder(str(other), "val", num_classes=3).names == [f"val{i}" for i in range(6)]


def flat_folder(tmp_path, images=40):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        for i in range(images):
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / part / f"x{i}.png")
    return str(tmp_path)


def test_split_files(tmp_path):
    root = flat_folder(tmp_path)
    (tmp_path / "train.txt").write_text("x3\nx1.png\n\n")
    (tmp_path / "val.txt").write_text("x9\nxx\n")
    assert Folder(root, "train", num_classes=2, splits="files").names == ["x3", "x1"]
    with pytest.raises(DataError, match="name in the split file without an image: xx"):
        Folder(root, "val", num_classes=2, splits="files")
    (tmp_path / "val.txt").write_text("x9\nx9\n")
    with pytest.raises(DataError, match=r"val\.txt repeats x9"):
        Folder(root, "val", num_classes=2, splits="files")
    with pytest.raises(ConfigError, match="no split file"):
        Folder(root, "test", num_classes=2, splits="files")


def test_ratio_split_is_stable_when_files_are_added(tmp_path):
    root = flat_folder(tmp_path)
    train, val = (set(Folder(root, s, num_classes=2, splits="ratio").names) for s in ("train", "val"))
    assert train.isdisjoint(val)
    assert len(train | val) == 40
    assert 2 <= len(val) <= 14
    for part in ("images", "masks"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / part / "new.png")
    assert val <= set(Folder(root, "val", num_classes=2, splits="ratio").names)


def test_class_names_must_fit(tmp_path):
    root = str(write_folder_dataset(tmp_path))
    with pytest.raises(ConfigError, match="2 class names for num_classes=3"):
        Folder(root, "train", num_classes=3, class_names=["a", "b"])
    with pytest.raises(ConfigError, match="background=3 is not a class from 0 to 2"):
        Folder(root, "train", num_classes=3, background=3)
    with pytest.raises(ConfigError, match="'foreground' is reserved for scores"):
        Folder(root, "train", num_classes=3, class_names=["background", "foreground", "x"])
    assert Folder(root, "train", num_classes=2, class_names=["background", "foreground"]).num_classes == 2


def test_jpeg_masks_are_explained(tmp_path):
    root = write_folder_dataset(tmp_path)
    mask = root / "train/masks/train0.png"
    Image.open(mask).save(mask.with_suffix(".jpg"))
    mask.unlink()
    with pytest.raises(DataError, match="the masks are JPEG, which changes class values"):
        Folder(str(root), "train", num_classes=3)


@pytest.mark.parametrize("kind", [Shapes, ShapesMultilabel])
def test_shapes_are_a_function_of_seed_split_and_index(kind):
    one, same, other = kind("train", [64, 64]), kind("train", [64, 64]), kind("val", [64, 64])
    assert np.array_equal(one.image(5), same.image(5))
    assert np.array_equal(one.mask(5), same.mask(5))
    assert not np.array_equal(one.image(5), other.image(5))
    assert one.image(5).dtype == one.mask(5).dtype == np.uint8


IMAGE = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
MASK = np.random.default_rng(1).integers(0, 3, (40, 50), dtype=np.uint8)
STRONG = {
    "horizontal_flip": 0.5,
    "scale": 0.5,
    "rotate": 20,
    "brightness": 0.3,
    "hue": 0.2,
    "noise": 0.1,
    "blur": 0.3,
}


def test_augmentation_depends_on_the_seed_alone():
    augment = Augment(size=[32, 32], **STRONG)
    first = augment(IMAGE, MASK, (0, 1, 2))
    augment(IMAGE, MASK, (0, 1, 3))
    again = Augment(size=[32, 32], **STRONG)(IMAGE, MASK, (0, 1, 2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])


def test_padding_and_rotation_corners_are_ignored_pixels():
    _, mask = Augment(size=[64, 64], ignore_index=11)(IMAGE, np.zeros((40, 50), np.uint8), (0, 0, 0))
    assert mask.shape == (64, 64)
    assert (mask == 11).sum() == 64 * 64 - 40 * 50
    masks = [Augment(rotate=45, ignore_index=11)(IMAGE, np.zeros((40, 50), np.uint8), (0, 0, i))[1] for i in range(9)]
    assert any((m == 11).any() for m in masks)
    assert all(set(np.unique(m)) <= {0, 11} for m in masks)


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_light_by_hand(bands):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, bands), dtype=np.uint8)
    before, relit = image.copy(), 0
    for seed in range(20):
        found, _ = Augment(brightness=0.5, contrast=0.5)(image, MASK, (seed,))
        rng = np.random.default_rng((seed,))
        rng.random(), rng.random()  # the flips
        if rng.random() < 0.8:
            gain, contrast = 1 + rng.uniform(-0.5, 0.5), 1 + rng.uniform(-0.5, 0.5)
            bright = gain * image.astype(float)
            expected = np.clip(bright.mean() + contrast * (bright - bright.mean()), 0, 255)
            assert np.abs(found - expected).max() <= 1
            relit += 1
        else:
            assert np.array_equal(found, image)
    assert relit > 10
    assert np.array_equal(image, before), "what is kept in memory stays as it was"


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_flips_of_any_number_of_channels(channels):
    image = np.random.default_rng(0).integers(0, 256, (7, 9, channels), dtype=np.uint8)
    for kwargs, flipped in (({"horizontal_flip": 1}, image[:, ::-1]), ({"vertical_flip": 1}, image[::-1])):
        found, mask = Augment(**kwargs)(image, image, (0,))
        assert np.array_equal(found, flipped)
        assert np.array_equal(mask, flipped)


def test_augmentation_moves_image_and_mask_together():
    image = np.repeat(MASK[..., None] * 100, 3, axis=2)
    for i in range(9):
        moved, mask = Augment(size=[24, 24], horizontal_flip=0.5, vertical_flip=0.5, rotate_90=0.5)(image, MASK, (0, i))
        assert np.array_equal(moved[..., 0], mask * 100)


def streams(workers, epochs=2):
    loader = Loader(batch_size=4, workers=workers, min_images=1)
    data = Shapes("train", [32, 32], train_images=10)
    batches = loader.train(data, Augment(size=[32, 32], **STRONG), Uniform(), count_classes(data), seed=3)
    digests = []
    for epoch in range(epochs):
        for images, targets, indices in batches.epoch(epoch):
            digests += [
                (i, hashlib.md5(x.numpy().tobytes() + t.numpy().tobytes()).hexdigest())
                for i, x, t in zip(indices, images, targets, strict=True)
            ]
    return digests


def test_workers_do_not_change_what_is_trained_on():
    alone, with_workers = streams(0), streams(2)
    assert alone == with_workers
    assert len(set(alone)) == 20, "every draw is another"
    assert {i for i, _ in alone[:10]} == set(range(10)), "an epoch sees every image"


def test_an_epoch_can_go_on_in_the_middle():
    data = Shapes("train", [32, 32], train_images=10)
    batches = Loader(batch_size=4, workers=0, min_images=1).train(data, Augment(), Uniform(), count_classes(data), 0)
    whole = [i for _, _, i in batches.epoch(1)]
    assert [i for _, _, i in batches.epoch(1, first_batch=1)] == whole[1:]
    assert len(batches) == 3


def test_a_last_batch_of_one_joins_the_batch_before_it():
    def sizes(images, batch_size):
        data = Shapes("train", [32, 32], train_images=images)
        batches = Loader(batch_size=batch_size, workers=0, min_images=1).train(
            data, Augment(), Uniform(), count_classes(data), 0
        )
        found = [len(i) for _, _, i in batches.epoch(0)]
        assert len(batches) == len(found)
        return found

    assert sizes(9, 4) == [4, 5]
    assert sizes(10, 4) == [4, 4, 2]
    assert sizes(3, 1) == [1, 1, 1]
    assert sizes(1, 4) == [1]


def test_evaluation_keeps_every_image_at_its_own_size(tmp_path):
    root = write_folder_dataset(tmp_path, size=(20, 24))
    for part, mode in (("images", "RGB"), ("masks", "L")):
        Image.new(mode, (30, 18)).save(root / "val" / part / "odd.png")
    dataset = Folder(str(root), "val", num_classes=3)
    sizes = [tuple(images.shape[-2:]) for images, _, _ in Loader(batch_size=4, workers=0).evaluation(dataset)]
    assert sorted(sizes) == [(18, 30), (20, 24), (20, 24)]


def test_training_on_different_sizes_needs_a_crop(tmp_path):
    root = write_folder_dataset(tmp_path, size=(20, 24))
    for part, mode in (("images", "RGB"), ("masks", "L")):
        Image.new(mode, (30, 18)).save(root / "train" / part / "odd.png")
    dataset = Folder(str(root), "train", num_classes=3)
    with pytest.raises(ConfigError, match=r"training images differ in size: odd is (?s:.*)set a crop"):
        Loader(workers=0, min_images=1).train(dataset, Augment(), Uniform(), count_classes(dataset), 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_damaged_after_the_count_is_named_from_a_worker_too(tmp_path, workers):
    root = write_folder_dataset(tmp_path)
    dataset = Folder(str(root), "train", num_classes=3)
    counts = count_classes(dataset)
    (root / "train/images/train2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="not an image file") as error:
        list(Loader(workers=workers, min_images=1).train(dataset, Augment([32, 32]), Uniform(), counts, 0).epoch(0))
    assert error.value.where.endswith("train2.png")


def test_cache_in_memory_gives_the_same():
    dataset = Shapes("val", [32, 32], val_images=5)
    plain, cached = (list(Loader(workers=0, cache=c).evaluation(dataset)) for c in ("none", "ram"))
    for (a, b, _), (c, d, _) in zip(plain, cached, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


class CountsReads(Shapes):
    reads = 0

    def image(self, index):
        self.reads += 1
        return super().image(index)


@pytest.mark.parametrize(
    ("cache", "limit", "repeated", "reads"),
    [
        ("auto", 80, True, 5),
        ("auto", 79, True, 10),
        ("auto", 80, False, 10),
        ("ram", 0, False, 5),
        ("none", 80, True, 10),
    ],
)
def test_few_images_that_are_read_again_and_again_are_kept(monkeypatch, cache, limit, repeated, reads):
    """Five images of 32×32 with three channels and a mask are 20 kB."""
    monkeypatch.setattr("segtrain.data.loader.SMALL", 256 * limit)
    monkeypatch.setattr("segtrain.data.loader.free_memory", lambda: None)
    dataset = CountsReads("val", [32, 32], val_images=5)
    batches = Loader(5, workers=0, cache=cache).evaluation(dataset, repeated=repeated)
    for _ in range(2):
        assert len(list(batches)) == 1
    assert dataset.reads == reads


@pytest.mark.parametrize(("free", "jobs", "reads"), [(10 * 20_480, 1, 5), (10 * 20_480, 2, 10), (10 * 20_479, 1, 10)])
def test_a_tenth_of_the_free_memory_is_kept_by_each_job(monkeypatch, free, jobs, reads):
    monkeypatch.setattr("segtrain.data.loader.SMALL", 0)
    monkeypatch.setattr("segtrain.data.loader.free_memory", lambda: free)
    monkeypatch.setenv("SEGTRAIN_JOBS", str(jobs))
    dataset = CountsReads("val", [32, 32], val_images=5)
    batches = Loader(workers=0).evaluation(dataset, repeated=True)
    for _ in range(2):
        list(batches)
    assert dataset.reads == reads


def test_a_cache_is_advised_where_there_is_none(monkeypatch):
    monkeypatch.setattr("segtrain.data.loader.free_memory", lambda: None)
    dataset = Shapes("train", [32, 32], train_images=5)
    for limit, advised in ((0, True), (10**6, False)):
        monkeypatch.setattr("segtrain.data.loader.SMALL", limit)
        loader = Loader(workers=0, min_images=1)
        loader.train(dataset, Augment(), Uniform(), count_classes(dataset), 0)
        assert ("loader.cache=ram" in loader.advice()) == advised


def test_images_of_unknown_size_are_not_kept_unasked():
    dataset = CountsReads("val", [32, 32], val_images=5)
    dataset.size = lambda index: None
    assert len(list(Loader(5, workers=0).evaluation(dataset, repeated=True))) == 1
    assert decoded_size(dataset, 10**9) == math.inf


@pytest.mark.skipif(not (SHARED / "data/camvid").is_dir(), reason="the real images are not here")
def test_real_camvid_counts():
    from segtrain.class_counts import count_classes

    root = str(SHARED / "data/camvid")
    counts = count_classes(Folder(root, "train", num_classes=11, ignore_index=11, background=None))
    assert counts.num_images == 367
    assert counts.pixels[10] == 184967
    assert counts.valid_pixels[0] + counts.ignored_pixels == 367 * 480 * 360


@pytest.mark.parametrize("shape", [(1, 40), (7, 1), (1, 1)])
def test_images_of_one_row_are_zoomed(shape):
    augment = Augment(size=[16, 16], scale=1.5)
    for seed in range(20):
        image, mask = augment(np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8), seed=(seed,))
        assert image.shape[:2] == mask.shape == (16, 16)


def test_grey_of_colours_is_pillows():
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(values).convert("L"))
    np.testing.assert_array_equal(with_channels(values, 1, Path("x"))[..., 0], grey)
