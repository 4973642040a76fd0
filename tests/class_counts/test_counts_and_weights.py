"""Class counts against plain NumPy, their cache, and class weights worked out by hand."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pytest
from conftest import write_folder_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segtrain import weighting
from segtrain.class_counts import ClassCounts, count_classes
from segtrain.class_counts import cache as count_cache
from segtrain.class_counts import count as class_counts
from segtrain.data.folder import Folder
from segtrain.data.mask_values import value_counts
from segtrain.data.shapes import Shapes, ShapesMultilabel
from segtrain.errors import DataError
from segtrain.report.weights import recommendation


class Masks:
    """A dataset that is a list of masks."""

    def __init__(self, masks, num_classes=3, background=0, ignore_index=255, multilabel=False):
        self.masks, self.num_classes, self.background = masks, num_classes, background
        self.ignore_index, self.multilabel = ignore_index, multilabel
        self.class_names = [f"class {i}" for i in range(num_classes)]
        self.names = [f"mask {i}" for i in range(len(masks))]

    def image(self, index):
        return np.zeros((*self.masks[index].shape[:2], 3), np.uint8)

    def mask(self, index):
        return self.masks[index]


def by_hand() -> ClassCounts:
    # image 0: 4 of class 0, 2 of class 1, 2 ignored; image 1: 8 of class 0
    first = np.array([[0, 0, 0, 0], [1, 1, 255, 255]], np.uint8)
    return count_classes(Masks([first, np.zeros((2, 4), np.uint8)]))


def test_counts_by_hand():
    counts = by_hand()
    assert counts.pixels.tolist() == [12, 2, 0]
    assert counts.images.tolist() == [2, 1, 0]
    assert counts.pixels_of_images.tolist() == [14, 6, 0]
    assert counts.valid_pixels.tolist() == [14, 14, 14]
    assert (counts.ignored_pixels, counts.num_images, counts.num_empty) == (2, 2, 1)
    json.dumps(counts.to_dict())


def test_multilabel_counts_each_channel_by_itself():
    mask = np.array([[[1, 1], [0, 1]], [[255, 0], [0, 255]]], np.uint8)  # [H, W, C]
    counts = count_classes(Masks([mask], num_classes=2, background=None, multilabel=True))
    assert counts.pixels.tolist() == [1, 2]
    assert counts.valid_pixels.tolist() == [3, 3]


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    classes=st.integers(1, 6),
    images=st.integers(1, 5),
    ignore=st.sampled_from([255, 0, 2]),
)
def test_counts_equal_plain_numpy(seed, classes, images, ignore):
    rng = np.random.default_rng(seed)
    masks = [rng.integers(0, classes, rng.integers(1, 9, 2)).astype(np.uint8) for _ in range(images)]
    for mask in masks:
        mask[rng.random(mask.shape) < 0.2] = ignore
    counts = count_classes(
        Masks(masks, num_classes=max(classes, ignore + 1 if ignore < 255 else 0), ignore_index=ignore)
    )
    for label in range(len(counts.pixels)):
        of_label = [(m == label) & (m != ignore) for m in masks]
        assert counts.pixels[label] == sum(x.sum() for x in of_label)
        assert counts.images[label] == sum(x.any() for x in of_label)
        assert counts.pixels_of_images[label] == sum(
            (m != ignore).sum() for m, x in zip(masks, of_label, strict=True) if x.any()
        )


@given(
    st.lists(st.integers(0, 7) | st.integers(0, 255), min_size=1, max_size=6),
    st.integers(0, 40),
    st.integers(1, 40),
)
@settings(max_examples=300, deadline=None)
def test_values_are_counted_as_by_bincount(values, height, width):
    mask = np.random.default_rng(height).choice(np.array(values, np.uint8), (height, width))
    assert np.array_equal(value_counts(mask), np.bincount(mask.ravel(), minlength=256))


def test_a_wrong_value_is_named():
    mask = np.array([[0, 7, 7]], np.uint8)
    with pytest.raises(DataError, match=r"outside the classes 0 to 2 and ignore_index=255: 7 \(2 pixels\)"):
        count_classes(Masks([mask]))


def test_all_wrong_masks_are_counted_in_one_error():
    with pytest.raises(DataError, match=r"7 \(3 pixels\) in 3 masks; all masks together hold 0, 1, 7"):
        count_classes(Masks([np.array([[0, 7]], np.uint8)] * 3 + [np.array([[1]], np.uint8)]))


@pytest.mark.parametrize(
    ("values", "start", "fix"),
    [
        ([1, 2, 3], "labels start at 1", "'dataset.remap={1: 0, 2: 1, 3: 2}', with dataset.background=null unless"),
        (
            [0, 1, 3],
            "mask values outside",
            "where 3 means unlabelled (void), dataset.ignore_index=3; where it is a class, dataset.num_classes=4; where 0 means",
        ),
        ([0, 255], "mask values outside", "255 is class 1; or a sigmoid of one class, dataset.num_classes=1"),
    ],
)
def test_what_all_masks_together_say_of_their_values(values, start, fix):
    """No single mask says it: each holds one value."""
    masks = Masks([np.full((2, 2), value, np.uint8) for value in values])
    masks.ignore_index = 254
    with pytest.raises(DataError, match=start) as error:
        count_classes(masks)
    assert fix in error.value.fix


def folder(root, **more):
    return Folder(str(root), "train", num_classes=3, **more)


def test_the_cache_counts_once_and_recounts_what_was_touched(tmp_path, monkeypatch):
    root = write_folder_dataset(tmp_path / "data")
    counted = []
    read = Folder.mask
    monkeypatch.setattr(Folder, "mask", lambda self, i: counted.append(i) or read(self, i))
    first = count_classes(folder(root), cache=tmp_path / "cache")
    assert sorted(counted) == [0, 1, 2, 3, 4, 5]
    again = count_classes(folder(root), cache=tmp_path / "cache")
    assert len(counted) == 6
    assert first.pixels.tolist() == again.pixels.tolist()
    for index in (4, 0):
        mask = np.asarray(Image.open(root / f"train/masks/train{index}.png")).copy()
        mask[0, :3] = 2
        Image.fromarray(mask).save(root / f"train/masks/train{index}.png")
        count_classes(folder(root), cache=tmp_path / "cache")
    assert counted[6:] == [4, 0]
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    count_classes(folder(tmp_path / "copy"), cache=tmp_path / "cache")
    assert len(counted) == 8, "the same content elsewhere, with other times, is not counted again"
    count_classes(folder(root, ignore_index=2), cache=tmp_path / "cache")
    assert len(counted) == 14, "another ignore index is another count"
    for part in ("images", "masks"):
        shutil.copy(root / f"train/{part}/train5.png", root / f"train/{part}/a.png")
    mask[:] = 2
    Image.fromarray(mask).save(root / "train/masks/a.png")
    count_classes(folder(root), cache=tmp_path / "cache")
    assert counted[14:] == [0], "one that sorts first"


def test_while_no_file_changes_none_is_read(tmp_path, monkeypatch):
    root = write_folder_dataset(tmp_path / "data")
    keyed = []
    mask_key = Folder.mask_key
    monkeypatch.setattr(Folder, "mask_key", lambda self, i: keyed.append(i) or mask_key(self, i))
    for _ in range(2):
        count_classes(folder(root), cache=tmp_path / "cache")
    assert len(keyed) == 12, "files of a moment ago may change without a change of their time"
    monkeypatch.setattr(count_cache, "_SETTLED", 0)
    for _ in range(3):
        counts = count_classes(folder(root), cache=tmp_path / "cache")
    assert len(keyed) == 18
    assert counts.pixels.tolist() == count_classes(folder(root)).pixels.tolist()
    file = root / "train/masks/train3.png"
    mask = np.asarray(Image.open(file)).copy()
    mask[:] = 1
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    Image.fromarray(mask).save(file)
    os.utime(file, ns=times)
    changed = count_classes(folder(root), cache=tmp_path / "cache")
    assert changed.pixels.tolist() == count_classes(folder(root)).pixels.tolist() != counts.pixels.tolist()
    file.write_bytes(b"damaged")
    with pytest.raises(DataError):
        count_classes(folder(root), cache=tmp_path / "cache")


def test_a_damaged_or_unusable_cache_is_survived(tmp_path):
    root = write_folder_dataset(tmp_path / "data")
    expected = count_classes(folder(root)).pixels.tolist()
    count_classes(folder(root), cache=tmp_path / "cache")
    for file in (tmp_path / "cache").glob("*.npz"):
        file.write_bytes(b"damaged")
    assert count_classes(folder(root), cache=tmp_path / "cache").pixels.tolist() == expected
    for file in (tmp_path / "cache").glob("*.npz"):
        np.savez(file, keys=np.array(5), table=np.array(7))
    assert count_classes(folder(root), cache=tmp_path / "cache").pixels.tolist() == expected
    (tmp_path / "file").touch()
    assert count_classes(folder(root), cache=tmp_path / "file" / "cache").pixels.tolist() == expected


def test_where_no_lock_can_be_made_what_is_known_is_still_read(tmp_path, monkeypatch):
    root = write_folder_dataset(tmp_path / "data")
    expected = count_classes(folder(root), cache=tmp_path / "cache").pixels.tolist()
    for lock in (tmp_path / "cache").glob("*.lock"):
        lock.unlink()
    for counts in (tmp_path / "cache").glob("counts-*.npz"):
        Path(f"{counts}.lock").mkdir()
    monkeypatch.setattr(class_counts, "_count", lambda *_: pytest.fail("counted again"))
    assert count_classes(folder(root), cache=tmp_path / "cache").pixels.tolist() == expected


def test_a_file_system_without_locks_costs_no_count(tmp_path, monkeypatch):
    def acquire(*_, **__):
        raise NotImplementedError("no flock here")

    root = write_folder_dataset(tmp_path / "data")
    expected = count_classes(folder(root)).pixels.tolist()
    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    assert count_classes(folder(root), cache=tmp_path / "cache").pixels.tolist() == expected
    monkeypatch.setattr(class_counts, "_count", lambda *_: pytest.fail("counted again"))
    assert count_classes(folder(root), cache=tmp_path / "cache").pixels.tolist() == expected


def test_shapes_are_as_imbalanced_as_promised():
    counts = count_classes(Shapes("train", [64, 64], train_images=300))
    assert counts.share[0] >= 0.96
    assert 0 < counts.share[3] < 0.003
    assert counts.num_empty / counts.num_images == pytest.approx(0.25, abs=0.06)
    labels = ShapesMultilabel("train", [64, 64], train_images=40)
    assert any((labels.mask(i).sum(axis=2) > 1).any() for i in range(40)), "labels overlap"


# Worked out from by_hand(): n = (12, 2, 0), m = (14, 6, 0), N = 14, C = 2.
@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (weighting.NoWeighting(), [1, 1, 1]),
        (weighting.InverseFrequency(), [14 / 24, 14 / 4, 0]),
        (weighting.InverseSqrt(), [np.sqrt(14 / 24), np.sqrt(14 / 4), 0]),
        (weighting.LogRatio(), [1, np.log(7), 0]),
        (weighting.LogRatio(mu=10, floor=0), [np.log(140 / 12), np.log(70), 0]),
        # f = (12/14, 2/6), median 25/42
        (weighting.MedianFrequency(), [25 / 42 * 14 / 12, 25 / 42 * 3, 0]),
        (weighting.Enet(), [1 / np.log(1.02 + 12 / 14), 1 / np.log(1.02 + 2 / 14), 0]),
        # (1 - 0.5) / (1 - 0.5^n): 0.5 / (1 - 2^-12) and 0.5 / 0.75, scaled to sum 2
        (weighting.EffectiveNumber(beta=0.5), None),
        (weighting.NegPosRatio(), [2 / 12, 12 / 2, 0]),
        (weighting.Manual([1.0, 2.0, 3.0]), [1, 2, 0]),
        (weighting.Manual({"class 0": 1, "class 2": 3, "class 1": 2}), [1, 2, 0]),
        (weighting.InverseFrequency(max_ratio=2), [14 / 24, 14 / 12, 0]),
        (weighting.InverseFrequency(normalize="max"), [1 / 6, 1, 0]),
        (weighting.InverseFrequency(normalize="mean"), [2 / 7, 12 / 7, 0]),
    ],
    ids=lambda v: type(v).__name__ if callable(v) else "",
)
def test_weights_by_hand(scheme, expected):
    weights = scheme(by_hand())
    if expected is None:
        raw = np.array([0.5 / (1 - 2.0**-12), 0.5 / 0.75])
        expected = [*(2 * raw / raw.sum()), 0]
    assert weights.dtype == np.float64
    np.testing.assert_allclose(weights, expected, rtol=1e-12)


def test_inverse_frequency_is_scikit_learns_balanced():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    counts = count_classes(Masks([labels[None].astype(np.uint8)]))
    balanced = len(labels) / (3 * np.bincount(labels))  # the formula in its documentation
    np.testing.assert_allclose(weighting.InverseFrequency()(counts), balanced)


def test_effective_number_keeps_its_digits_for_a_beta_close_to_1():
    counts = replace(by_hand(), pixels=np.array([10**9, 10**3, 0]))
    few = weighting.EffectiveNumber()(counts)
    # for n << 1/(1-beta), (1-beta)/(1-beta^n) is 1/n; for n >> it is 1-beta
    assert few[1] / few[0] == pytest.approx((1 / 1e3) / 1e-7, rel=1e-4)


def test_manual_weights_must_fit_the_classes():
    with pytest.raises(ValueError, match="2 weights for 3 classes"):
        weighting.Manual([1.0, 2.0])(by_hand())
    with pytest.raises(ValueError, match=r"weights for \['sky'\], but the classes are"):
        weighting.Manual({"sky": 1})(by_hand())
    with pytest.raises(ValueError, match="Manual: the weights must be"):
        weighting.Manual({"class 0": -1.0})


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"MedianFrequency: normalize='men' must be one of none \| mean \| max"):
        weighting.MedianFrequency(normalize="men")
    with pytest.raises(ValueError, match="max_ratio=0.5 must be a number >= 1"):
        weighting.Enet(max_ratio=0.5)


@pytest.mark.parametrize(
    ("per_image", "words"),
    [
        ([[50, 50]], "Weights change nothing here."),
        (
            [[9700, 300]],
            "in the cross-entropy: none 3 %, inverse_sqrt 15.0 %, log_ratio 9.8 %, median_frequency 50.0 %",
        ),
        ([[9700, 300]], "inverse_frequency is the same as median_frequency here, up to a constant factor."),
        (
            [[9700, 300], [1000, 0]],
            "segtrain -m weighting=none,inverse_sqrt,log_ratio,median_frequency,inverse_frequency",
        ),
        ([[100, 0]], "There is only one class"),
    ],
)
def test_the_recommendation_says_what_the_counts_say(per_image, words):
    class Masks:
        num_classes, ignore_index, multilabel, background, class_names = 2, 255, False, 0, ("a", "b")
        names = range(len(per_image))

        def image(self, index):
            return np.zeros((1, sum(per_image[index]), 3), np.uint8)

        def mask(self, index):
            return np.repeat(np.arange(2), per_image[index]).astype(np.uint8)[None]

    assert words in recommendation(count_classes(Masks()))
    pattern = "'dataset.masks=\"{stem}_mask.png\"'"
    assert len(per_image[0]) == 1 or "{stem}" in recommendation(count_classes(Masks()), pattern) + pattern


def test_weights_shows_the_weighting_as_it_is_set_and_names_absent_classes(segtrain, tmp_path):
    root = write_folder_dataset(tmp_path / "data")
    words = ("dataset=folder", f"dataset.root={root}", "dataset.num_classes=5")
    done = segtrain("weights", *words, "weighting=neg_pos_ratio", "weighting.max_ratio=3")
    assert done.code == 0, done
    assert next(line for line in done.out.splitlines() if line.startswith(" max/min")).split()[-1] == "3"
    assert "class 4: such a class cannot be learned" in done.out


def test_weights_shows_the_effect_of_the_sampling(segtrain):
    done = segtrain("weights", "sampling=rare_classes")
    assert done.code == 0, done
    sweep = "segtrain -m sampling=rare_classes weighting=none,inverse_sqrt,log_ratio,median_frequency,inverse_frequency"
    assert sweep in done.out
    assert "sampling: disc in 73 → 81 %" in done.out
    assert "█" in done.out
