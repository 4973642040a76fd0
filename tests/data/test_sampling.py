"""Which images and crops an epoch sees, and that loading them is a function of (seed, epoch, index) alone."""

import hashlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import write_folder_dataset
from PIL import Image
from torch.utils.data import DataLoader

from segtrain.class_counts import ClassCounts, count_classes
from segtrain.class_counts.count import LOCATIONS, find_locations
from segtrain.data.augment import Augment, crop_size
from segtrain.data.dataset import as_dataset
from segtrain.data.folder import Folder
from segtrain.data.loader import EpochOrder, Loader, _as_it_is, needs_locations
from segtrain.data.samples import TrainSamples
from segtrain.data.sampling import ForegroundCrops, RareClasses, Samples, Uniform
from segtrain.data.shapes import Shapes
from segtrain.errors import ConfigError, DataError
from segtrain.report.pictures import images_with_rare_classes


def counts_of(per_image, background=0):
    per_image = np.asarray(per_image)
    present = per_image > 0
    totals = per_image.sum(axis=1)
    classes = per_image.shape[1]
    return ClassCounts(
        class_names=[f"c{i}" for i in range(classes)],
        pixels=per_image.sum(axis=0),
        images=present.sum(axis=0),
        pixels_of_images=(present * totals[:, None]).sum(axis=0),
        valid_pixels=np.full(classes, totals.sum()),
        ignored_pixels=0,
        num_images=len(per_image),
        num_empty=0,
        per_image=per_image,
        background=background,
    )


class Sizes:
    """A dataset of which only the sizes are known."""

    def __init__(self, *sizes):
        self.sizes, self.names = sizes, [str(i) for i in range(len(sizes))]

    def size(self, index):
        return self.sizes[index]

    def image(self, index):
        return np.zeros((100, 300, 3), np.uint8)


@pytest.mark.parametrize(
    ("sizes", "crop"),
    [
        ([(64, 64)] * 3, None),
        ([(256, 256)] * 3, None),
        ([(512, 512)] * 3, [256, 256]),
        ([(360, 480), (480, 360), (360, 480)], [256, 256]),
        ([(100, 300)] * 3, [128, 256]),
        ([(60, 90), (61, 97), (62, 200)], [64, 128]),
        ([None] * 3, [128, 256]),
    ],
)
def test_the_automatic_crop_is_256_or_what_small_images_have(sizes, crop):
    assert crop_size(Sizes(*sizes)) == crop


def test_small_images_that_are_zoomed_have_a_crop_of_their_size():
    assert crop_size(Sizes(*[(64, 80)] * 3), zooms=True) == [64, 80]
    assert crop_size(Sizes(*[(512, 512)] * 3), zooms=True) == [256, 256]


def test_images_of_a_dataset_that_does_not_know_their_sizes_are_looked_at():
    dataset = Sizes(*[None] * 40)
    dataset.image = lambda index: np.zeros((60, 60 + index, 3), np.uint8)
    assert crop_size(dataset) == [64, 96]


def test_of_a_small_dataset_each_image_comes_several_times_an_epoch():
    counts = counts_of(TABLE[:30])
    order = EpochOrder(counts, 4, Uniform(), seed=0, min_images=128)
    order.epoch = 3
    samples = [sample for batch in order for sample in batch]
    assert len(samples) == order.length == 120
    assert len(order) == 30
    assert Counter(index for _, index, _, _ in samples) == dict.fromkeys(range(30), 4)
    assert {(index, repeat) for _, index, repeat, _ in samples} == {(i, r) for i in range(30) for r in range(4)}
    for each in range(4):  # pass after pass, in an order of its own
        assert sorted(index for _, index, _, _ in samples[30 * each : 30 * (each + 1)]) == list(range(30))
    assert EpochOrder(COUNTS, 4, Uniform(), seed=0, min_images=128).length == 100


# 100 images: all have background, 50 have class 1, 4 have class 2 (and class 1)
TABLE = np.zeros((100, 3), int)
TABLE[:, 0], TABLE[:50, 1], TABLE[:4, 2] = 100, 10, 1
# the locations of class c are pixels 10 c to 10 c + 3
CODES = [[256 * (10 * c + k) + c for c in (1, 2) if row[c] for k in range(4)] for row in TABLE]
COUNTS = replace(counts_of(TABLE), locations=np.array([codes + [-1] * (LOCATIONS - len(codes)) for codes in CODES]))


def test_uniform_is_every_image_once_in_another_order_each_epoch():
    epochs = [Uniform()(COUNTS, seed=1, epoch=e) for e in range(3)]
    assert all(sorted(e.indices.tolist()) == list(range(100)) for e in epochs)
    assert epochs[0].indices.tolist() != epochs[1].indices.tolist()
    assert (epochs[0].centres == -1).all()


@pytest.mark.parametrize("sampling", [Uniform(), RareClasses(), RareClasses(1.0, 0.5), ForegroundCrops()])
def test_an_epoch_is_a_function_of_seed_and_epoch(sampling):
    one, same, other = (sampling(COUNTS, s, e) for s, e in ((1, 2), (1, 2), (2, 2)))
    assert np.array_equal(one.indices, same.indices)
    assert np.array_equal(one.centres, same.centres)
    assert not np.array_equal(one.indices, other.indices)


def test_rare_classes_by_hand():
    """f = 1, 0.5, 0.04: weights 1, sqrt(2), 5 at power 0.5."""
    weights = RareClasses(power=0.5).weights(COUNTS)
    relative = weights / weights[-1]
    assert relative[[0, 10, 99]] == pytest.approx([5, 2**0.5, 1])
    drawn = Counter(np.concatenate([RareClasses()(COUNTS, 0, e).indices for e in range(200)]).tolist())
    expected = 200 * 100 * weights
    assert max(abs(drawn[i] - expected[i]) / expected[i] for i in range(100)) < 0.25
    for epoch in range(20):  # systematic: floor or ceiling of the expected number, in every epoch
        found = np.bincount(RareClasses()(COUNTS, 0, epoch).indices, minlength=100)
        assert (np.abs(found - 100 * weights) < 1).all()


def test_only_classes_below_the_threshold_come_more_often():
    """f = 1, 0.5, 0.04, threshold 0.25: weights 1, 1, 0.25 / 0.04 at power 1."""
    weights = RareClasses(power=1.0, threshold=0.25).weights(COUNTS)
    assert (weights / weights[-1])[[0, 10, 99]] == pytest.approx([6.25, 1, 1])


@pytest.mark.parametrize("how", [{"power": 0.0}, {"threshold": 0.04}])
def test_equal_weights_are_uniform(how):
    assert np.array_equal(RareClasses(**how)(COUNTS, 1, 2).indices, Uniform()(COUNTS, 1, 2).indices)
    located = count_classes(Shapes("train", [32, 32], train_images=8), locations=True)
    found, plain = RareClasses(0.0, 0.5)(located, 1, 2), ForegroundCrops(0.5)(located, 1, 2)
    assert np.array_equal(found.centres, plain.centres)


def test_repeats_are_counted():
    samples = [sample for batch in EpochOrder(COUNTS, 8, RareClasses(power=2.0), 0) for sample in batch]
    assert [index for _, index, _, _ in samples] == RareClasses(power=2.0)(COUNTS, 0, 0).indices.tolist()
    pairs = [(index, repeat) for _, index, repeat, _ in samples]
    assert len(set(pairs)) == len(pairs)
    assert max(repeat for _, repeat in pairs) >= 1


def test_the_summary_says_what_changes():
    assert RareClasses().summary(COUNTS).startswith("sampling: c1 in 50 → 6")
    assert Uniform().summary(COUNTS) == ""


def test_the_summary_says_what_share_of_all_crops_is_centred():
    """Half of the images have foreground."""
    centred = "foreground oversampling for 50 % of the crops of images with foreground (25 % of all crops)"
    assert ForegroundCrops(share=0.5).summary(COUNTS).startswith(centred)
    assert RareClasses(power=0.0, foreground_share=0.5).summary(COUNTS).startswith(centred)


def test_foreground_crops_choose_a_pixel_of_a_class_of_the_image():
    chosen = [ForegroundCrops(share=0.5)(COUNTS, 0, e) for e in range(200)]
    centres, indices = (np.concatenate([getattr(e, n) for e in chosen]) for n in ("centres", "indices"))
    assert (centres[indices >= 50] == -1).all()  # no foreground there
    assert 0.45 < (centres[indices < 50] >= 0).mean() < 0.55
    assert set(centres[(indices >= 4) & (indices < 50)].tolist()) == {-1, 10, 11, 12, 13}
    rare = centres[(indices < 4) & (centres >= 0)]
    assert 0.35 < (rare >= 20).mean() < 0.65  # one of its two classes, at random
    assert set(rare.tolist()) == {10, 11, 12, 13, 20, 21, 22, 23}
    with pytest.raises(ValueError, match="locations=True"):
        ForegroundCrops()(counts_of(TABLE), 0, 0)


def test_locations_are_spread_over_the_pixels_of_each_class():
    mask = np.zeros((60, 80), np.uint8)
    mask[10:50, 5:70], mask[3, 7] = 1, 2
    found = find_locations(mask, [1, 2])
    pixels, classes = found[found >= 0] // 256, found[found >= 0] % 256
    assert np.array_equal(mask.ravel()[pixels], classes)
    assert np.bincount(classes).tolist() == [0, LOCATIONS - 1, 1]
    assert len(set(pixels)) == len(pixels)
    rows = pixels[classes == 1] // 80
    assert np.bincount(rows, minlength=60)[10:50].min() >= 1, "every row of the large object has some"
    for shape in ((512, 512), (512, 1024), (256, 256)):
        columns = find_locations(np.ones(shape, np.uint8), [1]) // 256 % shape[1]
        assert len(np.unique(columns)) > 150, "at even steps they would stand below each other"
        assert 0.4 < columns.mean() / shape[1] < 0.6
    assert np.array_equal(find_locations(mask, [1, 2]), found)


def test_cached_locations_are_of_the_foreground_that_is_asked_for(tmp_path):
    for i in range(3):
        save_pair(tmp_path / "data", str(i), np.eye(20, 30, dtype=np.uint8))
    for background in (0, 1, None):
        data = Folder(str(tmp_path / "data"), "train", 2, background=background)
        cached, fresh = (count_classes(data, cache=c, locations=True).locations for c in (tmp_path / "cache", None))
        assert np.array_equal(cached, fresh)


@pytest.mark.parametrize("kind", ["index", "channels"])
def test_locations_come_from_the_count_and_its_cache(kind, tmp_path):
    masks = {f"{i}": np.zeros((20, 30) if kind == "index" else (20, 30, 3), np.uint8) for i in range(3)}
    for i, mask in enumerate(masks.values()):
        mask[i + 2, 3:9] = 1
    root = tmp_path / "data"
    for name, mask in masks.items():
        save_pair(root, name, mask)
    data = Folder(str(root), "train", 3, mask_format=kind, threshold=None if kind == "index" else 0, background=None)
    plain, cache = count_classes(data), tmp_path / "cache"
    for _ in range(2):
        counts = count_classes(data, cache=cache, locations=True)
        assert np.array_equal(counts.per_image, plain.per_image)
        assert counts.num_empty == plain.num_empty
        for codes, mask in zip(counts.locations, masks.values(), strict=True):
            for code in codes[codes >= 0].tolist():
                row, column = divmod(code // 256, 30)
                assert mask[row, column] == code % 256 if kind == "index" else mask[row, column, code % 256]
        for label in np.flatnonzero(counts.pixels):
            assert (counts.locations % 256 == label).any()
    assert count_classes(data, cache=cache).locations is None


def test_a_centred_crop_shows_the_pixel_in_its_middle():
    mask = np.zeros((100, 120), np.uint8)
    mask[97, 118], mask[2, 3], mask[50, 60] = 2, 1, 3
    image = np.repeat(mask[..., None], 3, axis=2)
    augment = Augment(size=[20, 30])
    for seed in range(20):
        _, crop = augment(image, mask, (seed,), centre=97 * 120 + 118)
        assert crop.shape == (20, 30)
        assert np.argwhere(crop == 2).tolist() == [[17, 28]]  # as near to the middle as the border allows
        assert np.argwhere(augment(image, mask, (seed,), centre=2 * 120 + 3)[1] == 1).tolist() == [[2, 3]]
    assert augment(image, mask, (0,), centre=50 * 120 + 60)[1][10, 15] == 3


def test_a_crop_is_centred_after_zoom_and_rotation():
    mask = np.zeros((100, 120), np.uint8)
    mask[28:33, 38:43] = 1
    image = np.repeat(mask[..., None], 3, axis=2)
    for seed in range(30):
        _, crop = Augment(size=[20, 20], scale=0.5, rotate=30)(image, mask, (seed,), centre=30 * 120 + 40)
        row, column = np.argwhere(crop == 1).mean(axis=0)
        assert abs(row - 10) <= 2
        assert abs(column - 10) <= 2


def test_uniform_crops_go_everywhere():
    mask = np.arange(36, dtype=np.uint8).reshape(6, 6)
    corners = {int(Augment(size=[4, 4])(np.zeros((6, 6, 3), np.uint8), mask, (s,))[1][0, 0]) for s in range(300)}
    assert corners == {0, 1, 2, 6, 7, 8, 12, 13, 14}


SAMPLES, EPOCHS = 1000, 5
COUNTS_1000 = counts_of(np.ones((SAMPLES, 2), int))


def save_pair(root, name, mask):
    for folder, values in (("images", np.zeros((*mask.shape[:2], 3), np.uint8)), ("masks", mask)):
        (root / "train" / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(root / "train" / folder / f"{name}.png")


class Numbered:
    """1,000 images of noise; pickled to spawned workers."""

    num_classes, ignore_index, multilabel, background, names = 2, 255, False, 0, range(SAMPLES)
    class_names = ("a", "b")

    def image(self, index):
        return np.random.default_rng(index).integers(0, 255, (64, 64, 3), dtype=np.uint8)

    def mask(self, index):
        return self.image(index)[..., 0] // 128


def stream(workers, method, persistent):
    """Digests of the batches of 5 epochs."""
    order = EpochOrder(COUNTS_1000, 50, Uniform(), 0)
    augment = Augment(size=[8, 8], horizontal_flip=0.5, brightness=0.3, contrast=0.3)
    loader = DataLoader(
        TrainSamples(as_dataset(Numbered()), augment, 0),
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_as_it_is,
        persistent_workers=persistent,
        multiprocessing_context=method,
    )
    found = []
    for epoch in range(EPOCHS):
        order.epoch = epoch
        for batches in loader:
            for images, masks, _ in batches:
                found += [
                    hashlib.blake2b(i.numpy().tobytes() + m.numpy().tobytes(), digest_size=8).hexdigest()
                    for i, m in zip(images, masks, strict=True)
                ]
    return found


EVERY = [(workers, method, kept) for workers in (1, 4) for method in ("fork", "spawn") for kept in (True, False)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [[(1, "fork", True), (4, "fork", False), (2, "spawn", True)], pytest.param(EVERY, marks=pytest.mark.long)],
)
def test_the_stream_of_samples_does_not_depend_on_the_workers(settings):
    """1,000 samples, 5 epochs, 0 to 4 workers, forked or spawned, kept or not: 5,000 distinct draws, all equal."""
    alone = stream(0, None, False)
    assert len(alone) == len(set(alone)) == SAMPLES * EPOCHS
    for workers, method, persistent in settings:
        assert stream(workers, method, persistent) == alone, (workers, method, persistent)


def test_memory_and_disk_give_the_same(tmp_path):
    data = Folder(str(write_folder_dataset(tmp_path)), "train", 3)
    augment = Augment(size=[32, 32], horizontal_flip=0.5)
    streams = []
    for cache in ("none", "ram"):
        batches = Loader(batch_size=2, workers=1, cache=cache, min_images=1).train(
            data, augment, Uniform(), count_classes(data), 0
        )
        streams.append([images for images, _, _ in batches.epoch(1)])
    assert all(torch.equal(a, b) for a, b in zip(*streams, strict=True))


@pytest.fixture
def big_folder(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / "train" / part).mkdir(parents=True)
        for i in range(150):
            values = np.random.default_rng(i).integers(0, 2, (8, 8)).astype(np.uint8)
            Image.fromarray(values).save(tmp_path / "train" / part / f"{i:03d}.png")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "ram"])
def test_a_file_damaged_after_the_check_stops_with_its_name(big_folder, cache):
    data = Folder(str(big_folder), "train", 2)
    counts = count_classes(data)
    damaged = big_folder / "train/images/007.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    loader = Loader(batch_size=16, workers=1, cache=cache, min_images=1)
    with pytest.raises(DataError) as error:
        list(loader.train(data, Augment([8, 8]), Uniform(), counts, 0).epoch(0))
    assert "007.png" in error.value.where


def mask_of_another_size(root):
    Image.new("L", (9, 8)).save(root / "train/masks/007.png")


def mask_with_a_wrong_value(root):
    Image.new("L", (8, 8), 9).save(root / "train/masks/007.png")


def damaged_image(root):
    (root / "train/images/007.png").write_bytes((root / "train/images/007.png").read_bytes()[:60])


REASONS = {
    damaged_image: "cannot be decoded",
    mask_of_another_size: "image is 8×8, its mask is 9×8",
    mask_with_a_wrong_value: "mask values outside the classes 0 to 1 and ignore_index=255: 9 (64 pixels)",
}


@pytest.mark.parametrize("spoil", REASONS, ids=lambda f: f.__name__)
def test_skip_leaves_an_image_out_once_for_everything_after(big_folder, tmp_path, spoil, caplog):
    spoil(big_folder)
    data = Folder(str(big_folder), "train", 2, on_error="skip")
    assert f"skipped 007: {REASONS[spoil]}" in caplog.text
    caplog.clear()
    assert len(data.names) == len(data.images) == len(data.masks) == 149
    assert "007" not in data.names
    counts = count_classes(data, cache=tmp_path / "cache")
    assert (counts.num_images, counts.num_empty) == (149, 0)
    batches = Loader(batch_size=16, workers=0, min_images=1).train(data, Augment(), Uniform(), counts, 0)
    seen = [data.names[i] for _, _, indices in batches.epoch(0) for i in indices]
    assert sorted(seen) == sorted(data.names)
    assert sum(len(i) for _, _, i in Loader(workers=0).evaluation(data)) == 149
    assert len(images_with_rare_classes(data, 4, sample=149)) == 4
    assert not caplog.text, "nothing is left to skip"


def test_skip_leaves_out_one_of_few(tmp_path):
    root = write_folder_dataset(tmp_path, images=6)
    (root / "train/images/train2.png").write_bytes(b"")
    assert len(Folder(str(root), "train", 3, on_error="skip").names) == 5
    for file in [*(root / "train/images").glob("*"), *(root / "train/masks").glob("*")]:
        file.unlink() if file.stem != "train2" else None
    with pytest.raises(DataError, match="1 image of the split cannot be read"):
        Folder(str(root), "train", 3, on_error="skip")


def test_skip_stops_at_more_than_one_in_a_hundred(big_folder):
    for name in ("007", "008"):
        (big_folder / f"train/images/{name}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 images of the split cannot be read, more than 1 %") as error:
        Folder(str(big_folder), "train", 2, on_error="skip")
    assert error.value.where.endswith("007.png")
    assert len(Folder(str(big_folder), "train", 2, on_error="skip", strict=False).names) == 150, "as check reads it"


def count_in_process(root, cache):
    reads = []
    data = Folder(root, "train", 2)
    plain = data.mask
    data.mask = lambda index: reads.append(index) or plain(index)
    return count_classes(data, cache=cache, threads=1).pixels.tolist(), len(reads)


def test_32_processes_at_once_count_once(big_folder, tmp_path):
    import multiprocessing

    with ProcessPoolExecutor(32, mp_context=multiprocessing.get_context("fork")) as pool:
        jobs = [pool.submit(count_in_process, str(big_folder), tmp_path / "cache") for _ in range(32)]
        results = [job.result() for job in jobs]
    assert len({str(pixels) for pixels, _ in results}) == 1
    assert sum(reads for _, reads in results) == 150


def test_a_touched_mask_recounts_only_itself(big_folder, tmp_path):
    _, first = count_in_process(str(big_folder), tmp_path / "cache")
    mask = big_folder / "train/masks/033.png"
    Image.fromarray(np.ones((8, 8), np.uint8)).save(mask)
    pixels, second = count_in_process(str(big_folder), tmp_path / "cache")
    assert (first, second) == (150, 1)
    assert pixels == count_in_process(str(big_folder), tmp_path / "other")[0]


def test_1000_random_sets_of_masks_are_counted_exactly(tmp_path):
    class Masks(Shapes):
        def __init__(self, seed):
            rng = np.random.default_rng(seed)
            self.num_classes = int(rng.integers(2, 9))
            self.ignore_index = int(rng.choice([255, self.num_classes, 0]))
            self.class_names = [str(i) for i in range(self.num_classes)]
            self.multilabel, self.background, self.names = False, None, list(range(int(rng.integers(1, 5))))
            values = [*range(self.num_classes), self.ignore_index]
            self.stack = [rng.choice(values, tuple(rng.integers(1, 9, 2))).astype(np.uint8) for _ in self.names]

        def mask(self, index):
            return self.stack[index]

    for seed in range(1000):
        data = Masks(seed)
        found = count_classes(data, threads=1)
        flat = np.concatenate([m.ravel() for m in data.stack])
        valid = flat[flat != data.ignore_index]
        expected = [int((valid == c).sum()) for c in range(data.num_classes)]
        assert found.pixels.tolist() == expected
        assert found.images.tolist() == [
            sum((m == c).any() and c != data.ignore_index for m in data.stack) for c in range(data.num_classes)
        ]
        assert found.ignored_pixels == len(flat) - len(valid)
        assert found.per_image.sum(axis=0).tolist() == expected


def test_flips_are_independent_of_each_other():
    """albumentations' set_random_seed would give both the same draws."""
    mask = np.array([[0, 1], [2, 3]], np.uint8)
    augment = Augment(horizontal_flip=0.5, vertical_flip=0.5)
    seen = Counter(int(augment(np.zeros((2, 2, 3), np.uint8), mask, (s,))[1][0, 0]) for s in range(400))
    assert min(seen[v] for v in range(4)) > 60


def test_a_plain_sampling_and_augmentation_need_not_know_of_centres():
    class Own:
        def __call__(self, counts, seed, epoch):
            return Uniform()(counts, seed, epoch)

    class Plain:
        def __init__(self, kind):
            self.kind = kind

        def __call__(self, image, mask, seed):
            return image[:16, :16].astype(self.kind), mask[:16, :16]

    data = Shapes("train", [32, 32], train_images=4)
    batches = Loader(workers=0, min_images=1).train(data, Plain(np.uint8), Own(), count_classes(data), 0)
    assert next(iter(batches.epoch(0)))[0].shape[2:] == (16, 16)
    with pytest.raises(ConfigError, match="image of float32 and a mask of uint8"):
        next(
            iter(Loader(workers=0, min_images=1).train(data, Plain(np.float32), Own(), count_classes(data), 0).epoch(0))
        )
    with pytest.raises(ConfigError, match="there is no crop to centre"):
        Loader(workers=0, min_images=1).train(data, Plain(np.uint8), ForegroundCrops(), count_classes(data), 0)


def test_parts_of_ones_own_that_do_not_fit_are_named():
    class Half:
        def __call__(self, counts, seed, epoch):
            found = Uniform()(counts, seed, epoch)
            return Samples(found.indices[:2], found.centres[:2])

    def outside(counts, seed, epoch):
        return Samples(np.arange(1, 5), np.full(4, -1))

    def crop_of_the_image(image, mask, seed):
        return image[:16, :16], mask

    data = Shapes("train", [32, 32], train_images=4)
    for augment, sampling, what in (
        (Augment(), Half(), "2 samples for 4 images"),
        (Augment(), outside, "indices outside of the 4 images"),
        (Augment(), lambda counts, seed, epoch: [0, 1, 2, 3], "returns list, not segtrain.data.sampling.Samples"),
        (Augment(), lambda counts, seed: None, r"called as sampling\(counts, seed, epoch\): too many positional"),
        (crop_of_the_image, Uniform(), r"an image of \[16, 16\] and a mask of \[32, 32\]"),
    ):
        with pytest.raises(ConfigError, match=what):
            next(iter(Loader(workers=0, min_images=1).train(data, augment, sampling, count_classes(data), 0).epoch(0)))


def test_an_augmentation_that_works_in_place_leaves_the_cache_as_it_is():
    def darker(image, mask, seed):
        image //= 2
        return image, mask

    data = Shapes("train", [32, 32], train_images=4)
    batches = Loader(workers=0, cache="ram", min_images=1).train(data, darker, Uniform(), count_classes(data), 0)
    first, second = (torch.cat([images for images, *_ in batches.epoch(epoch)]) for epoch in (0, 1))
    assert first.float().mean() == second.float().mean()


@pytest.mark.parametrize("setting", [{"rotate_90": 0.5}, {"scale": 0.5}])
def test_whole_images_do_not_change_their_size(setting):
    with pytest.raises(ConfigError, match="differ in size"):
        Augment(**setting)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_batch_of_several_sizes_is_an_error(workers):
    data = Shapes("train", [32, 32], train_images=4)
    batches = Loader(batch_size=4, workers=workers, min_images=1).train(data, uneven, Uniform(), count_classes(data), 0)
    sizes = r"differ in size: train_0000\d is \[32, 1[67]\], train_0000\d is \[32, 1[67]\]"
    with pytest.raises(ConfigError, match=sizes) as error:
        list(batches.epoch(0))
    assert "augment.size=[256,256]" in error.value.fix


def uneven(image, mask, seed):
    width = 16 + seed[2] % 2
    return image[:, :width], mask[:, :width]


def test_quarter_turns_of_crops():
    _, mask = Augment(size=[8, 12], rotate_90=1.0)(np.zeros((30, 20, 3), np.uint8), np.zeros((30, 20), np.uint8), (1,))
    assert mask.shape == (8, 12)


def test_foreground_oversampling_of_whole_images_is_refused():
    data = Shapes("train", [32, 32], train_images=4)
    for sampling in (ForegroundCrops(), RareClasses(foreground_share=0.5)):
        with pytest.raises(ConfigError, match="foreground oversampling needs crops"):
            Loader(workers=0, min_images=1).train(data, Augment(), sampling, count_classes(data), 0)


def test_auto_centres_crops_and_is_uniform_without():
    data = Shapes("train", [32, 32], train_images=8)
    auto, plain = RareClasses(0.5, 0.5, threshold=0.25, needs_crops=False), count_classes(data)
    assert not needs_locations(Augment(), auto)
    assert np.array_equal(auto(plain, 1, 2).indices, Uniform()(plain, 1, 2).indices)
    assert (auto(plain, 1, 2).centres == -1).all()
    assert auto.summary(plain) == ""
    Loader(workers=0, min_images=1).train(data, Augment(), auto, plain, 0)
    assert needs_locations(Augment(size=[16, 16]), auto)
    located = count_classes(data, locations=True)
    assert (auto(located, 1, 2).centres >= 0).any()
    assert "50 %" in auto.summary(located)
