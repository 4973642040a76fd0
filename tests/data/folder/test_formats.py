"""Kinds of image and mask files, and the layouts they come in."""

import os
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from conftest import SHARED, write_folder_dataset
from omegaconf import OmegaConf
from PIL import Image

from segtrain.class_counts import count_classes
from segtrain.config import compose as config
from segtrain.config import schema as config_check
from segtrain.config.build import build, build_dataset
from segtrain.data.folder import Folder
from segtrain.data.folder.colors import ColorMask
from segtrain.data.folder.images import image_size, naming, orientation, read_image, read_values
from segtrain.data.folder.masks import BinaryMask, ChannelMask, ClassFiles, IndexMask
from segtrain.data.folder.splits import equal_folds
from segtrain.data.resize import resize_image, resize_mask
from segtrain.dataset_check.findings import check_dataset
from segtrain.errors import ConfigError, DataError, Preempted
from segtrain.report.pictures import class_colours, colour_mask

VALUES = np.array([[0, 1, 2, 2], [1, 1, 0, 255]], np.uint8)
NAMES = ["a", "b", "c"]
INDEX = IndexMask(NAMES, 255, True)


def saved(path, values, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **kwargs)
    return path


def palette(path, values):
    image = Image.fromarray(values)
    image.putpalette(list(range(256)) * 3)
    image.save(path)


def tiff_16(path, values):
    tifffile.imwrite(path, values.astype(np.uint16))


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".png", saved),
        (".png", palette),
        (".png", lambda path, values: saved(path, values.astype(np.uint16))),
        (".png", lambda path, values: saved(path, np.stack([values] * 3, axis=2))),  # grey, saved as colour
        (".bmp", saved),
        (".gif", saved),
        (".pgm", saved),
        (".ppm", lambda path, values: saved(path, np.stack([values] * 3, axis=2))),
        (".tif", saved),
        (".tif", tiff_16),
        (".npy", lambda path, values: np.save(path, values.astype(np.int64))),
    ],
    ids=["png", "palette", "png16", "rgb", "bmp", "gif", "pgm", "ppm", "tif", "tif16", "npy"],
)
def test_index_masks(tmp_path, suffix, write):
    path = tmp_path / f"m{suffix}"
    write(path, VALUES)
    assert INDEX.read(path).tolist() == VALUES.tolist()


def test_remap_merges_and_ignores(tmp_path):
    path = saved(tmp_path / "m.png", VALUES)
    mask = IndexMask([*"abcdef"], 255, True, {1: 5, 2: 5}, [0])
    assert mask.read(path).tolist() == [[255, 5, 5, 5], [5, 5, 255, 255]]
    deep = saved(tmp_path / "d.png", np.array([[0, 1000, 2000]], np.uint16))
    assert IndexMask(NAMES, 255, True, {1000: 1}, [2000]).read(deep).tolist() == [[0, 1, 255]]
    with pytest.raises(DataError, match=r"mask value 2000 \(1 pixels\) is not from 0 to 255") as error:
        IndexMask(NAMES, 255, True, {1000: 1}).read(deep)
    assert "dataset.ignore_values=[2000]" in error.value.fix


def test_colour_masks(tmp_path):
    colours = [[0, 0, 0], [[255, 0, 0], [200, 0, 0]], [0, 0, 255]]
    mask = ColorMask(NAMES, 255, True, colours, [[255, 255, 255]])
    values = np.array([[[0, 0, 0], [255, 0, 0], [200, 0, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    assert mask.read(saved(tmp_path / "m.png", values)).tolist() == [[0, 1, 1, 2, 255]]
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.save(tmp_path / "p.png")
    assert mask.read(tmp_path / "p.png").tolist() == [[0, 2]]
    values[0, 3] = [0, 0, 250]
    with pytest.raises(
        DataError, match=r"1 colour without a class \(1 pixel\), most often \(0, 0, 250\), .* \(0, 0, 255\), c"
    ):
        mask.read(saved(tmp_path / "m.png", values))
    with pytest.raises(ConfigError, match="given twice"):
        ColorMask(["a", "b"], 255, True, [[0, 0, 0], [0, 0, 0]])
    with pytest.raises(ConfigError, match=r"\[0, 0\] is not a colour"):
        ColorMask(["a", "b"], 255, True, [[0, 0], [0, 0, 0]])


def test_binary_masks(tmp_path):
    assert BinaryMask(["a", "b"], 255, True, None).read(saved(tmp_path / "a.png", VALUES[:, :1] * 255)).tolist() == [
        [0],
        [1],
    ]
    grey = saved(tmp_path / "g.png", np.array([[0, 100, 200, 255]], np.uint8))
    assert BinaryMask(["a", "b"], 255, True, 127).read(grey).tolist() == [[0, 0, 1, 1]]
    assert BinaryMask(["a", "b"], 254, True, 127, [100]).read(grey).tolist() == [[0, 254, 1, 1]]
    white = VALUES[:, :1] > 0
    Image.fromarray(white).save(tmp_path / "w.png")
    np.save(tmp_path / "w.npy", white)
    for path in (tmp_path / "w.png", tmp_path / "w.npy"):
        assert BinaryMask(["a", "b"], 255, True, 127).read(path).tolist() == [[0], [1]]
        assert INDEX.read(path).tolist() == [[0], [1]]
    with pytest.raises(DataError, match=r"2 pixels between 0 and 255 \(2 values\)") as error:
        BinaryMask(["a", "b"], 255, True, None).read(grey)
    assert "dataset.threshold=127" in error.value.fix


def test_channels_and_files_give_the_same(tmp_path):
    planes = np.random.default_rng(0).integers(0, 2, (6, 7, 3)).astype(np.uint8) * 255
    rgb = saved(tmp_path / "m.png", planes)
    files = [saved(tmp_path / f"{c}.png", planes[..., c]) for c in range(3)]
    expected = (planes > 0).astype(np.uint8)
    assert np.array_equal(ChannelMask(NAMES, 255, True).read(rgb), expected)
    assert np.array_equal(ClassFiles(NAMES, 255, True).read(files), expected)
    expected[..., 1] = 0
    assert np.array_equal(ClassFiles(NAMES, 255, True).read([files[0], None, files[2]]), expected)
    np.save(tmp_path / "m.npy", planes[..., [0, 1, 2, 0, 1]])
    assert ChannelMask([*"abcde"], 255, True).read(tmp_path / "m.npy").shape == (6, 7, 5)


def test_images_of_every_depth_become_8_bits(tmp_path):
    deep = np.array([[0, 256, 65535]], np.uint16)
    assert read_image(saved(tmp_path / "d.png", deep))[..., 0].tolist() == [[0, 1, 255]]
    assert read_image(tmp_path / "d.png", value_range=(0, 256))[..., 0].tolist() == [[0, 255, 255]]
    tifffile.imwrite(tmp_path / "d.tif", deep)
    assert read_image(tmp_path / "d.tif")[..., 0].tolist() == [[0, 1, 255]]
    np.save(tmp_path / "f.npy", np.array([[0.0, 0.5, 1.0]]))
    assert read_image(tmp_path / "f.npy", value_range=(0, 1))[..., 0].tolist() == [[0, 128, 255]]
    with pytest.raises(DataError, match="float64 values from 0 to 1") as error:
        read_image(tmp_path / "f.npy")
    assert "dataset.image_range=[0,1]" in error.value.fix


def test_channels_come_last(tmp_path):
    np.save(tmp_path / "c.npy", np.zeros((6, 96, 112), np.uint8))
    for channels in (6, 3):
        with pytest.raises(DataError, match="channels come last"):
            read_image(tmp_path / "c.npy", channels)


def test_multi_label_masks_ignore_values(tmp_path):
    values = np.zeros((4, 4, 2), np.uint8)
    values[0, :, 0], values[1, :, 0] = 1, 255
    np.save(tmp_path / "m.npy", values)
    with pytest.raises(DataError, match="4 pixels between 0 and 255") as error:
        ChannelMask(["a", "b"], 255, True).read(tmp_path / "m.npy")
    assert error.value.fix.startswith("to ignore 255: dataset.ignore_values=[255]; or set where")
    mask = ChannelMask(["a", "b"], 255, True, ignore_values=[255]).read(tmp_path / "m.npy")
    assert mask[..., 0].tolist() == [[1] * 4, [255] * 4, [0] * 4, [0] * 4]
    assert not mask[..., 1].any()


def test_16_bit_colour_keeps_its_depth(tmp_path):
    import cv2

    values = np.random.default_rng(0).integers(0, 4096, (5, 6, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "c.png"), values[..., ::-1])
    expected = np.rint(values * (255 / 4095)).astype(np.uint8)
    assert np.array_equal(read_image(tmp_path / "c.png", value_range=(0, 4095)), expected)
    assert np.array_equal(read_image(tmp_path / "c.png"), (values >> 8).astype(np.uint8))
    whole = (tmp_path / "c.png").read_bytes()
    tags = Image.Exif()
    tags[0x0112] = 6
    turn = b"eXIf" + tags.tobytes().removeprefix(b"Exif\0\0")
    chunk = (len(turn) - 4).to_bytes(4, "big") + turn + zlib.crc32(turn).to_bytes(4, "big")
    (tmp_path / "t.png").write_bytes(whole[:33] + chunk + whole[33:])
    assert np.array_equal(read_values(tmp_path / "t.png"), np.rot90(values, -1))
    (tmp_path / "c.png").write_bytes(whole[:-60])
    with pytest.raises(DataError, match="cannot be decoded"):
        read_image(tmp_path / "c.png", value_range=(0, 4095))


def test_channels(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 255, (4, 5, 4)).astype(np.uint8)
    path = saved(tmp_path / "i.png", rgba)
    assert np.array_equal(read_image(path), rgba[..., :3])
    assert np.array_equal(read_image(path, channels=4), rgba)
    grey = saved(tmp_path / "g.png", rgba[..., 0])
    assert read_image(grey).shape == (4, 5, 3)
    assert np.array_equal(read_image(grey, channels=1)[..., 0], rgba[..., 0])
    bands = np.random.default_rng(0).integers(0, 255, (20, 30, 7)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "m.tif", bands, photometric="minisblack", planarconfig="contig")
    assert np.array_equal(read_image(tmp_path / "m.tif", channels=7), bands)
    tifffile.imwrite(tmp_path / "p.tif", np.moveaxis(bands, 2, 0), photometric="minisblack", planarconfig="separate")
    assert np.array_equal(read_image(tmp_path / "p.tif", channels=7), bands)
    assert image_size(tmp_path / "m.tif") == image_size(tmp_path / "p.tif") == (20, 30)
    with pytest.raises(DataError, match="7 channels, but dataset.channels=5"):
        read_image(tmp_path / "m.tif", channels=5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_applied_once(tmp_path, orientation):
    values = np.arange(24, dtype=np.uint8).reshape(4, 6)
    tags = Image.Exif()
    tags[0x0112] = orientation
    path = saved(tmp_path / "i.png", values, exif=tags)
    turned = {1: values, 2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1], 5: values.T,
              6: np.rot90(values, -1), 7: values[::-1, ::-1].T, 8: np.rot90(values)}[orientation]  # fmt: skip
    assert np.array_equal(read_image(path)[..., 0], turned)
    assert np.array_equal(INDEX.read(path), turned)
    assert np.array_equal(read_image(path, exif=False)[..., 0], values)
    assert image_size(path) == turned.shape
    assert image_size(path, exif=False) == (4, 6)


def image_and_mask(image, mask, seed=0, mask_values=VALUES):
    saved(image, np.random.default_rng(seed).integers(0, 255, (2, 4, 3), dtype=np.uint8))
    saved(mask, mask_values)


def test_masks_in_jpeg_are_read_with_a_threshold(tmp_path):
    disc = np.zeros((40, 48), np.uint8)
    cv2.circle(disc, (20, 20), 9, 255, -1)
    for name in "abc":
        image_and_mask(tmp_path / f"images/{name}.jpg", tmp_path / f"masks/{name}.jpg", mask_values=disc)
    with pytest.raises(DataError, match="without a mask") as error:
        Folder(str(tmp_path), "train", 2, mask_format="binary")
    assert "dataset.threshold=127" in error.value.fix
    with pytest.raises(DataError, match="masks in JPEG, which changes class values"):
        Folder(str(tmp_path), "train", 2, mask_format="binary", masks="../masks/{stem}.jpg")
    for masks in (None, "../masks/{stem}.jpg", "../masks/{stem}.*"):
        data = Folder(str(tmp_path), "train", 2, mask_format="binary", threshold=127, masks=masks)
        assert np.array_equal(data.mask(0), disc > 127)
    several = Folder(str(tmp_path), "train", 1, mask_format="channels", threshold=127, background=None)
    assert np.array_equal(several.mask(0)[..., 0], disc > 127)


def test_masks_by_pattern_beside_the_images(tmp_path):
    for name in ("a", "b"):
        image_and_mask(tmp_path / "images" / f"{name}.png", tmp_path / "images" / f"{name}_mask.png")
    data = Folder(str(tmp_path), "train", 3, splits="ratio", val_ratio=0.0, masks="{stem}_mask.png")
    assert data.names == ["a", "b"]
    image_and_mask(tmp_path / "c" / "x.jpg", tmp_path / "c" / "x.png")
    data = Folder(str(tmp_path), "train", 3, splits="ratio", val_ratio=0.0, images="c", masks="{stem}.png")
    assert data.names == ["x"]
    assert data.images[0].suffix == ".jpg"
    with pytest.raises(ConfigError, match="cannot be filled in"):
        Folder(str(tmp_path), "train", 3, splits="ratio", masks="{stem}_{what}.png")
    with pytest.raises(ConfigError, match=r"has no \{stem\}"):
        Folder(str(tmp_path), "train", 3, splits="ratio", masks="mask.png")


def test_kfold_parts_are_whole_disjoint_and_of_one_size(tmp_path):
    for i in range(31):
        image_and_mask(tmp_path / "images" / f"{i}.png", tmp_path / "masks" / f"{i}.png", i)

    def names(split, fold):
        return set(Folder(str(tmp_path), split, 3, splits="kfold", folds=3, fold=fold).names)

    parts = [names("val", fold) for fold in range(3)]
    assert set.union(*parts) == {str(i) for i in range(31)}
    assert [len(part) for part in parts] == [11, 10, 10]
    assert all(names("train", fold) == set.union(*parts) - parts[fold] for fold in range(3))
    with pytest.raises(ConfigError, match="fold=3 of folds=3"):
        names("val", 3)


def test_folds_of_few_groups_are_as_even_as_they_can_be():
    groups = [group for group, size in {"a": 9, "b": 3, "c": 3, "d": 2, "e": 1}.items() for _ in range(size)]
    folds = equal_folds(groups, 3)
    assert all(len({fold for fold, name in zip(folds, groups, strict=True) if name == group}) == 1 for group in "abcde")
    assert sorted(folds.count(fold) for fold in range(3)) == [4, 5, 9]
    assert equal_folds(groups[::-1], 3) == folds[::-1]


def preset(name, root, *overrides):
    cfg = config.without_hydra(config.compose([f"dataset={name}", f"dataset.root={root}", *overrides]))
    config_check.check_config(cfg)
    return cfg


def test_voc(tmp_path):
    image_and_mask(tmp_path / "JPEGImages/2007_1.jpg", tmp_path / "SegmentationClass/2007_1.png")
    image_and_mask(tmp_path / "JPEGImages/2007_2.jpg", tmp_path / "SegmentationClass/2007_2.png")
    saved(tmp_path / "JPEGImages/no_mask.jpg", VALUES)
    for split, name in (("train", "2007_1"), ("val", "2007_2")):
        (tmp_path / f"ImageSets/Segmentation/{split}.txt").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"ImageSets/Segmentation/{split}.txt").write_text(f"{name}\n")
        data = build_dataset(preset("voc", tmp_path), split)
        assert data.names == [name]
        assert data.mask(0).tolist() == VALUES.tolist()


def test_cityscapes(tmp_path):
    raw = np.array([[7, 8, 33, 0], [26, 24, 3, 11]], np.uint8)
    for split, city in (("train", "aachen"), ("val", "ulm")):
        stem = f"{city}_000000_000019"
        image_and_mask(
            tmp_path / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png",
            tmp_path / f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png",
            mask_values=raw,
        )
        data = build_dataset(preset("cityscapes", tmp_path), split)
        assert data.names == [f"{city}/{stem}"]
        assert data.mask(0).tolist() == [[0, 1, 18, 255], [13, 11, 255, 2]]


def test_ade20k(tmp_path):
    for split in ("training", "validation"):
        image_and_mask(
            tmp_path / f"images/{split}/a.jpg", tmp_path / f"annotations/{split}/a.png",
            mask_values=np.array([[0, 1, 150, 2], [3, 3, 3, 3]], np.uint8),
        )  # fmt: skip
    for split in ("train", "val"):
        data = build_dataset(preset("ade20k", tmp_path), split)
        assert data.mask(0).tolist() == [[255, 0, 149, 1], [2, 2, 2, 2]]
        assert data.class_names[149] == "flag"


def test_settings_a_format_does_not_read_are_refused(tmp_path):
    image_and_mask(tmp_path / "images/a.png", tmp_path / "masks/a.png")
    with pytest.raises(ConfigError, match="mask_format=index does not read threshold"):
        Folder(str(tmp_path), "train", 3, splits="ratio", threshold=127)
    with pytest.raises(ConfigError, match="0 colours for 3 classes"):
        Folder(str(tmp_path), "train", 3, splits="ratio", mask_format="color")


def test_changing_how_files_are_read_counts_again(tmp_path):
    image_and_mask(tmp_path / "images/a.png", tmp_path / "masks/a.png")
    plain = Folder(str(tmp_path), "train", 3, splits="ratio", val_ratio=0.0)
    merged = Folder(str(tmp_path), "train", 3, splits="ratio", val_ratio=0.0, remap={1: 2})
    assert count_classes(plain, cache=tmp_path / "c").pixels.tolist() == [2, 3, 2]
    assert count_classes(merged, cache=tmp_path / "c").pixels.tolist() == [2, 0, 5]


def multichannel(root, bands=5, size=(40, 40)):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(4):
            mask = np.zeros(size, np.uint8)
            mask[i * 5 : i * 5 + 9, 10:20], mask[30:35, 5:9] = 1, 2
            image = (rng.integers(0, 60, (*size, bands)) + mask[..., None] * 80).astype(np.uint8)
            (root / split / "images").mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(root / split / f"images/{i}.tif", image, photometric="minisblack", planarconfig="contig")
            saved(root / split / f"masks/{i}.png", mask)
    return root


@pytest.mark.long
def test_a_run_on_five_bands(tmp_path, segtrain):
    root = multichannel(tmp_path / "data")
    words = ["dataset=folder", f"dataset.root={root}", "dataset.num_classes=3", "trainer.epochs=1", "loader.workers=0"]
    done = segtrain(*words, "dataset.channels=5", "augment.size=[32,32]", "hydra.run.dir=run")
    assert done.code == 0, done
    done = segtrain("evaluate", "run")
    assert done.code == 0, done
    done = segtrain(*words, "dataset.channels=5", "augment.hue=0.1")
    assert done.code == 2
    assert "images with 5 channels have no saturation or hue" in done.err
    done = segtrain(*words)
    assert done.code == 3
    assert "the image has 5 channels, but dataset.channels=3" in done.err


def test_models_take_any_number_of_channels():
    cfg = config.without_hydra(
        config.compose(["dataset=folder", "dataset.root=x", "dataset.num_classes=3", "dataset.channels=2"])
    )
    assert build(cfg, "model").eval()(torch.zeros(1, 2, 32, 32, dtype=torch.uint8)).shape == (1, 3, 32, 32)
    cfg.model.mean = [0.5]
    with pytest.raises(ConfigError, match="1 means and 2 standard deviations for 2 channels"):
        build(cfg, "model")


@pytest.mark.skipif(not (SHARED / "data/camvid").is_dir(), reason="needs the CamVid images")
def test_camvid_as_colours_and_as_channels_counts_the_same(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (12, 3)).astype(np.uint8)
    source = Folder(str(SHARED / "data/camvid"), "val", 11, ignore_index=11, background=None)
    for i in range(5):
        mask, name = source.mask(i), source.names[i]
        for kind, values in (("color", colours[mask]), ("channels", np.eye(12, dtype=np.uint8)[mask][..., :11] * 255)):
            folder = tmp_path / kind / "masks"
            folder.mkdir(parents=True, exist_ok=True)
            saved(folder / f"{name}.png", values) if kind == "color" else np.save(folder / f"{name}.npy", values)
            saved(tmp_path / kind / "images" / f"{name}.png", source.image(i))
    settings = {"num_classes": 11, "background": None, "splits": "ratio", "val_ratio": 0.0}
    coloured = Folder(str(tmp_path / "color"), "train", mask_format="color", colors=colours[:11].tolist(),
                      ignore_colors=colours[11:].tolist(), **settings)  # fmt: skip
    several = Folder(str(tmp_path / "channels"), "train", mask_format="channels", **settings)
    plain = sum(np.bincount(source.mask(i).ravel(), minlength=12)[:11] for i in range(5))
    assert count_classes(coloured).pixels.tolist() == plain.tolist()
    assert count_classes(several).pixels.tolist() == plain.tolist()


def test_a_void_value_in_a_binary_mask_is_not_taken_for_the_class(tmp_path):
    path = saved(tmp_path / "m.png", np.array([[0, 1, 255]], np.uint8))
    with pytest.raises(DataError, match=r"1 pixels between 0 and 255 \(value 1\)") as error:
        BinaryMask(["a", "b"], 255, True, None).read(path)
    assert "dataset.ignore_values=[255]" in error.value.fix
    assert BinaryMask(["a", "b"], 255, True, None, [255]).read(path).tolist() == [[0, 1, 255]]


def test_pictures_have_the_colours_of_the_palette_of_colour_coded_masks_or_of_voc(tmp_path):
    image_and_mask(tmp_path / "images/a.png", tmp_path / "masks/a.png")
    given = {"splits": "ratio", "val_ratio": 0.0, "num_classes": 3}
    plain = Folder(str(tmp_path), "train", **given)
    assert class_colours(plain)[[0, 1, 2, 255]].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128] * 3]
    colors = [[0, 0, 9], [[7, 8, 9], [1, 2, 3]], [4, 5, 6]]
    coded = Folder(str(tmp_path), "train", **given, mask_format="color", colors=colors, ignore_colors=[[9, 9, 9]])
    assert class_colours(coded)[:4].tolist() == [[0, 0, 9], [7, 8, 9], [4, 5, 6], [128] * 3]
    painted = Folder(str(tmp_path), "train", **given, palette=[[1, 1, 1], [2, 2, 2], [3, 3, 3]])
    assert colour_mask(np.array([[2, 0, 255]], np.uint8), painted).tolist() == [[[3] * 3, [1] * 3, [128] * 3]]
    for palette, text in (([[1, 1, 1]], "1 colours for 3 classes"), ([[1, 1, 1], [2], [3] * 3], "is not a colour")):
        with pytest.raises(ConfigError, match=text) as error:
            Folder(str(tmp_path), "train", **given, palette=palette)
        assert "dataset.palette" in str(error.value)


@pytest.mark.parametrize("preset", ["camvid", "cityscapes", "ade20k", "voc", "magnetic_tile"])
def test_presets_have_a_name_and_a_colour_for_each_class(preset):
    settings = OmegaConf.load(Path(__file__).parents[3] / f"configs/dataset/{preset}.yaml")
    assert len(set(settings.class_names)) == settings.num_classes
    palette = settings.get("palette")
    assert palette is None or len(palette) == settings.num_classes


@pytest.mark.parametrize("suffix", ["tif", "npy"])
def test_a_mask_of_floats_holds_whole_numbers(tmp_path, suffix):
    file, reader = tmp_path / f"a.{suffix}", IndexMask(["a", "b"], 255, True)

    def read(values) -> list:
        values = np.array(values, np.float32)
        np.save(file, values) if suffix == "npy" else Image.fromarray(values).save(file)
        return reader.read(file).tolist()

    assert read([[0, 1, 255]]) == [[0, 1, 255]]
    for wrong in (0.5, np.nan, np.inf):
        with pytest.raises(DataError, match="a mask of float32 values, some of which are no whole numbers"):
            read([[0, wrong]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize(("bands", "kind"), [(2, "minisblack"), (3, "rgb"), (4, "rgb"), (4, "minisblack"), (5, "rgb")])
def test_tiffs_of_any_bands_depth_and_order_are_read_whole(dtype, planes, bands, kind, tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (8, 10, bands)).astype(dtype)
    more = {"extrasamples": [0] * (bands - 3)} if kind == "rgb" and bands > 3 else {}  # near infrared, not alpha
    file, written = tmp_path / "i.tif", values if planes == "contig" else np.moveaxis(values, 2, 0)
    tifffile.imwrite(file, written, photometric=kind, planarconfig=planes, **more)
    assert np.array_equal(read_values(file), values)
    assert image_size(file) == (8, 10)
    scale = None if dtype == np.uint8 else (0, 255)
    assert np.array_equal(read_image(file, channels=bands, value_range=scale), values.astype(np.uint8))


@pytest.mark.parametrize("turn", range(1, 9))
def test_tiffs_of_many_bands_are_turned_as_others_are(turn, tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (4, 6, 5), dtype=np.uint8)
    kind = {"photometric": "minisblack", "planarconfig": "contig", "extratags": [(274, "H", 1, turn, True)]}
    tifffile.imwrite(tmp_path / "i.tif", values, **kind)
    tags = Image.Exif()
    tags[0x0112] = turn
    plain = read_values(saved(tmp_path / "i.png", values[..., 0], exif=tags))
    assert np.array_equal(read_values(tmp_path / "i.tif")[..., 0], plain)
    assert image_size(tmp_path / "i.tif") == plain.shape


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16"])
def test_tiffs_that_are_not_compressed_are_turned_too(turn, mode, tmp_path):
    """Pillow maps such files, and scrambles them when they are turned by a quarter."""
    values = np.random.default_rng(0).integers(0, 255, (4, 6, 4), dtype=np.uint8)
    values = values if mode == "RGBA" else values[..., 0].astype(np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    image.save(tmp_path / "i.tif", tiffinfo={0x0112: turn})
    tags = Image.Exif()
    tags[0x0112] = turn
    image.save(tmp_path / "i.png", exif=tags)
    plain = read_values(tmp_path / "i.png")
    assert np.array_equal(read_values(tmp_path / "i.tif"), plain)
    assert image_size(tmp_path / "i.tif") == plain.shape[:2]
    assert orientation(tmp_path / "i.tif") == orientation(tmp_path / "i.png") == turn


def test_mask_tiffs_that_pillow_does_not_know(tmp_path):
    values = np.array([[0, 1, 1], [2, 2, 2]])
    tifffile.imwrite(tmp_path / "m.tif", values)  # int64
    assert INDEX.read(tmp_path / "m.tif").tolist() == values.tolist()
    with pytest.raises(DataError, match="this one has int64"):
        ColorMask(["a", "b"], 255, True, [[0, 0, 0], [9, 9, 9]]).read(tmp_path / "m.tif")


def test_alpha_does_not_hide_that_an_image_is_black(tmp_path):
    values = np.full((4, 5, 4), 65535, np.uint16)
    values[..., :3] = 100
    np.save(tmp_path / "i.npy", values)
    with pytest.raises(DataError, match="nothing but black"):
        read_image(tmp_path / "i.npy")


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, np.uint32])
def test_integers_that_would_become_black_are_refused(dtype, tmp_path):
    np.save(tmp_path / "i.npy", np.arange(120, dtype=dtype).reshape(10, 12))
    with pytest.raises(DataError, match="values from 0 to 119") as error:
        read_image(tmp_path / "i.npy")
    assert "dataset.image_range=[0,255]" in error.value.fix
    assert read_image(tmp_path / "i.npy", value_range=(0, 255)).max() == 119


def test_jpeg_by_another_name_is_no_mask_and_with_previews_one_image(tmp_path):
    values = np.random.default_rng(0).integers(0, 5, (16, 16), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "m.png", format="JPEG")
    for read in (INDEX.read, BinaryMask(["a", "b"], 255, True).read):
        with pytest.raises(DataError, match="a mask in JPEG"):
            read(tmp_path / "m.png")
    Image.fromarray(values).save(
        tmp_path / "i.jpg", format="MPO", save_all=True, append_images=[Image.new("L", (4, 4))]
    )
    assert read_image(tmp_path / "i.jpg").shape == (16, 16, 3)


def test_alpha_by_which_bands_were_multiplied_is_left_so(tmp_path):
    bands = np.random.default_rng(0).integers(0, 255, (20, 30, 4)).astype(np.uint8)
    for alpha in ("assocalpha", "unassalpha", "unspecified"):
        tifffile.imwrite(tmp_path / "i.tif", bands, photometric="rgb", extrasamples=[alpha])
        assert np.array_equal(read_image(tmp_path / "i.tif", channels=4), bands), alpha


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".tif", ".npy", ".bmp", ".jpg"])
def test_whatever_is_damaged_is_an_error_that_names_the_file(suffix, tmp_path):
    """Every library has errors of its own for broken files."""
    values = np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)
    path, places = tmp_path / f"m{suffix}", []
    if suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3) % rng.choice([150, len(whole)]):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        for read in (read_image, read_values, image_size, orientation):
            try:
                read(path)
            except DataError as error:
                places.append(error.where)
    assert set(places) == {str(path)}


def test_a_second_plane_of_a_mask_is_not_dropped(tmp_path):
    planes = np.stack([np.zeros((4, 5), np.uint8), np.eye(4, 5, dtype=np.uint8)], axis=2)
    np.save(tmp_path / "m.npy", planes)
    with pytest.raises(DataError, match="a mask with 2 channels"):
        INDEX.read(tmp_path / "m.npy")
    Image.fromarray(np.stack([planes[..., 1], np.full((4, 5), 255, np.uint8)], axis=2)).save(tmp_path / "m.png")
    assert INDEX.read(tmp_path / "m.png").tolist() == planes[..., 1].tolist()


def test_a_colour_coded_mask_without_colours_may_be_saved_as_grey(tmp_path):
    mask = ColorMask(["a", "b", "c"], 255, True, [[0, 0, 0], [255, 255, 255], [255, 0, 0]])
    for mode in ("L", "1", "LA", "P", "RGB"):
        Image.fromarray(np.array([[0, 255, 0]], np.uint8)).convert(mode).save(tmp_path / "m.png")
        assert mask.read(tmp_path / "m.png").tolist() == [[0, 1, 0]], mode
    with pytest.raises(DataError, match="1 colour without a class") as error:
        mask.read(saved(tmp_path / "m.png", np.array([[0, 1, 1]], np.uint8)))
    assert "for masks whose values are the classes: dataset.mask_format=index" in error.value.fix


def test_bands_as_pages_are_all_read(tmp_path):
    bands = np.random.default_rng(0).integers(0, 255, (5, 20, 30)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "i.tif", bands)
    assert np.array_equal(read_image(tmp_path / "i.tif", channels=5), np.moveaxis(bands, 0, 2))
    assert image_size(tmp_path / "i.tif") == (20, 30)
    with pytest.raises(DataError, match="the image has 5 channels, but dataset.channels=3"):
        read_image(tmp_path / "i.tif")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"remap": {1: 300}}, "1: 300 does not map a mask value"),
        ({"remap": {1: "a"}}, "1: 'a' does not map a mask value"),
        ({"mask_format": "color", "colors": [1, 2, 3]}, "1 is not a colour"),
        ({"mask_format": "color", "colors": [[0.5, 0, 0]] * 3}, r"\[0.5, 0, 0\] is not a colour"),
        ({"remap": {1: 0}, "ignore_values": [1]}, "value 1 is both in remap and in ignore_values"),
        ({"images": "{nope}"}, "the pattern '{nope}' cannot be filled in"),
        ({"mask_format": "binary"}, "a binary mask has 2 classes, but num_classes=3"),
        ({"mask_format": "channels", "ignore_index": 1}, "multi-label masks hold 0 and 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_words(tmp_path, settings, text):
    image_and_mask(tmp_path / "images/a.png", tmp_path / "masks/a.png")
    with pytest.raises(ConfigError, match=text):
        Folder(str(tmp_path), "train", 3, splits="ratio", **settings)


def test_split_files_of_windows(tmp_path):
    image_and_mask(tmp_path / "images/a.png", tmp_path / "masks/a.png")
    (tmp_path / "train.txt").write_text("a\r\n", encoding="utf-8-sig")
    assert Folder(str(tmp_path), "train", 3, splits="files").names == ["a"]
    (tmp_path / "train.txt").write_text("a\n", encoding="utf-16")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        Folder(str(tmp_path), "train", 3, splits="files")


def test_an_image_without_any_class_file_is_empty(tmp_path):
    image_and_mask(tmp_path / "images/a.png", tmp_path / "dent/a.png", mask_values=VALUES % 2)
    image_and_mask(tmp_path / "images/b.png", tmp_path / "other/b.png")
    (tmp_path / "hole").mkdir()
    names = {
        "class_names": ["dent", "hole"],
        "background": None,
        "mask_format": "files",
        "masks": "../{class}/{stem}.png",
    }
    data = Folder(str(tmp_path), "train", 2, splits="ratio", val_ratio=0.0, **names)
    assert data.mask(1).shape == (2, 4, 2)
    assert data.mask(1).max() == 0
    old = time.time() - 60  # of files so old it is known that they are as they were
    for file in data.files():
        os.utime(file, (old, old))
    assert count_classes(data, cache=tmp_path / "c").pixels.tolist() == [int((VALUES % 2).sum()), 0]
    names["class_names"] = ["hole", "dent"]
    data = Folder(str(tmp_path), "train", 2, splits="ratio", val_ratio=0.0, **names)
    assert count_classes(data, cache=tmp_path / "c").pixels.tolist() == [0, int((VALUES % 2).sum())]
    with pytest.raises(ConfigError, match="'hole' would be the background"):
        Folder(str(tmp_path), "train", 2, **names | {"background": 0})


def test_linked_folders_are_followed_once(tmp_path):
    image_and_mask(tmp_path / "elsewhere/images/x.png", tmp_path / "elsewhere/masks/x.png")
    image_and_mask(tmp_path / "d/images/a.png", tmp_path / "d/masks/a.png")
    for part in ("images", "masks"):
        (tmp_path / "d" / part / "more").symlink_to(tmp_path / "elsewhere" / part)
        (tmp_path / "d" / part / "loop").symlink_to(tmp_path / "d" / part)
    assert Folder(str(tmp_path / "d"), "train", 3, splits="ratio", val_ratio=0.0).names == ["a", "more/x"]


def test_names_that_are_no_utf_8(tmp_path, segtrain):
    name = b"na\xefve.png".decode(errors="surrogateescape")
    for split in ("train", "val"):
        image_and_mask(tmp_path / "d" / split / "images" / name, tmp_path / "d" / split / "masks" / name, len(split))
    words = ["dataset=folder", f"dataset.root={tmp_path}/d", "dataset.num_classes=3"]
    done = segtrain("weights", *words)
    assert done.code == 0, done
    done = segtrain("check", *words, "--out", tmp_path / "page")
    assert done.code == 0, done
    assert "cannot be printed" in done.out


def test_annotators_of_different_size_are_named(tmp_path):
    image_and_mask(tmp_path / "images/a.png", tmp_path / "anna/a.png")
    saved(tmp_path / "ben/a.png", np.zeros((3, 3), np.uint8))
    data = Folder(str(tmp_path), "train", 3, splits="ratio", val_ratio=0.0, annotators=["anna", "ben"])
    with pytest.raises(DataError, match="masks of one image differ in size: 4×2 and 3×3") as error:
        data.mask(0)
    assert "ben/a.png" in error.value.where


def test_a_dataset_as_it_is_downloaded_names_what_prepares_it(tmp_path):
    (tmp_path / "MT_Free").mkdir()
    with pytest.raises(ConfigError, match="no train images") as raised:
        Folder(str(tmp_path), "train", 2, prepare="python prepare.py RAW PREPARED")
    assert "run `python prepare.py RAW PREPARED`" in raised.value.fix


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.npy", "planes.tif"])
def test_images_of_more_pixels_than_are_read_are_refused_by_their_header(tmp_path, name, monkeypatch):
    if name == "planes.tif":
        tifffile.imwrite(tmp_path / name, np.zeros((5, 30, 40), np.uint8), planarconfig="separate")
    elif name == "a.npy":
        np.save(tmp_path / name, np.zeros((30, 40), np.uint8))
    else:
        Image.new("L", (40, 30)).save(tmp_path / name)
    if name != "planes.tif":  # which Pillow calls it for, to find out that it does not know it
        monkeypatch.setattr(Image.Image, "load", None)  # decoding would fail
    with pytest.raises(DataError, match="40×30 is 0 million pixels, more than dataset.max_pixels=1,199"):
        read_values(tmp_path / name, max_pixels=1199)


def test_a_dataset_refuses_large_masks(tmp_path):
    write_folder_dataset(tmp_path)
    with pytest.raises(DataError, match="more than dataset.max_pixels"):
        Folder(root=str(tmp_path), split="train", num_classes=3, max_pixels=100).mask(0)


def test_resized_masks_by_hand():
    mask = np.array([[0, 0, 1, 1], [0, 2, 1, 1], [3, 3, 0, 0], [3, 0, 0, 255]], np.uint8)
    assert resize_mask(mask, 0.5, "area").tolist() == [[0, 1], [3, 0]]
    assert resize_mask(mask, [2, 2], "nearest").tolist() == [[2, 1], [0, 255]]
    line = np.zeros((4, 4), np.uint8)
    line[1] = 1  # half of each new pixel: the rarer class has it
    assert resize_mask(line, 0.5, "area").tolist() == [[1, 1], [0, 0]]
    several = np.stack([line, 1 - line], axis=2)
    assert resize_mask(several, 0.5, "area")[..., 0].tolist() == [[1, 1], [0, 0]]
    assert resize_mask(mask, 2.0, "area").tolist() == resize_mask(mask, 2.0, "nearest").tolist()


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_resized_images_are_those_of_pillow(channels):
    image = np.random.default_rng(0).integers(0, 256, (37, 53, channels), np.uint8)
    found = resize_image(image, [16, 20])
    for band in range(channels):
        expected = np.asarray(Image.fromarray(image[..., band]).resize((20, 16), Image.Resampling.BILINEAR))
        assert abs(found[..., band].astype(int) - expected.astype(int)).max() <= 1


def test_a_resized_dataset(tmp_path):
    root = write_folder_dataset(tmp_path, size=(40, 48))
    dataset = Folder(root=str(root), split="train", num_classes=3, resize=0.5)
    assert dataset.size(0) == (20, 24) == dataset.image(0).shape[:2] == dataset.mask(0).shape
    assert count_classes(dataset).valid_pixels[0] == 6 * 20 * 24
    with pytest.raises(ValueError, match="resize=0"):
        Folder(root=str(root), split="train", num_classes=3, resize=0)


def test_groups_stay_together(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for scene in range(8):
        for frame in range(3):
            for part in ("images", "masks"):
                Image.new("L", (8, 8)).save(tmp_path / part / f"scene{scene}_{frame}.png")
    how = {"root": str(tmp_path), "num_classes": 2, "splits": "ratio", "val_ratio": 0.4, "groups": "^(.*)_"}
    train, val = (Folder(split=split, **how) for split in ("train", "val"))
    groups = [{dataset.group(i) for i in range(len(dataset.names))} for dataset in (train, val)]
    assert groups[0] | groups[1] == {f"scene{scene}" for scene in range(8)}
    assert not groups[0] & groups[1]
    assert len(val.names) % 3 == 0
    without = Folder(split="val", **how | {"groups": None})
    assert len({name.split("_")[0] for name in without.names}) > len(groups[1])
    reports = check_dataset({"train": train, "val": without}, None)
    assert not [f for f in reports[1].findings if "dataset.groups" in f.what]
    mixed = Folder(split="val", **how | {"splits": "kfold", "folds": 2, "val_ratio": 0.2})
    reports = check_dataset({"train": train, "val": mixed}, None)
    assert any("dataset.groups in train and val: scene" in f.what for r in reports for f in r.findings)
    with pytest.raises(ConfigError, match="finds no group"):
        Folder(split="val", **how | {"groups": "^.*_"})


@pytest.mark.parametrize("values", [np.array([["a"]]), np.zeros((2, 2), "datetime64[s]"), np.zeros((2, 2), complex)])
def test_arrays_of_no_numbers_are_refused(tmp_path, values):
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(DataError, match="an array of"):
        read_image(tmp_path / "x.npy", value_range=(0, 1))


@pytest.mark.parametrize("error", [MemoryError("572 MiB"), Preempted("stopped by SIGTERM")])
def test_want_of_memory_and_a_stop_are_no_damage(tmp_path, error):
    with pytest.raises(type(error)), naming(tmp_path / "x.png"):
        raise error


def test_alpha_of_masks(tmp_path):
    """Transparent black is the background of many drawing programs; other transparent pixels hide what they hold."""
    values = np.array([[0, 1, 2, 2], [1, 1, 0, 0]], np.uint8)
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)[values]
    form = ColorMask(NAMES, 255, True, [[0, 0, 0], [255, 0, 0], [0, 0, 255]])
    for alpha in (np.full((2, 4), 255), 255 * (values > 0), np.full((2, 4), 128)):
        file = saved(tmp_path / "mask.png", np.dstack([colours, alpha]).astype(np.uint8))
        assert (form.read(file) == values).all()
    grey = np.repeat(values[..., None], 3, axis=2)
    for alpha in (
        255 * (np.arange(8).reshape(2, 4) != 1),
        255 * (np.arange(8).reshape(2, 4) > 1),
    ):  # of one class, of two
        for form_of, pixels in ((form, colours), (INDEX, grey), (BinaryMask(NAMES[:2], 255, True), grey)):
            file = saved(tmp_path / "mask.png", np.dstack([pixels, alpha]).astype(np.uint8))
            with pytest.raises(DataError, match="a mask with [12] transparent pixel"):
                form_of.read(file)
