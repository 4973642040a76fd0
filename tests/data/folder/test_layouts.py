"""Folders of images and masks by the names that datasets have when they are downloaded."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import write_folder_dataset
from PIL import Image

from segtrain.class_counts import count_classes
from segtrain.data.folder import Folder
from segtrain.data.folder.splits import for_validation
from segtrain.errors import ConfigError, DataError, SegtrainError

NAMES = [
    ("images", "gt"),
    *(("images", "labels"), ("image", "label"), ("image", "mask"), ("img", "label"), ("imgs", "masks")),
    ("JPEGImages", "SegmentationClass"),
]


@pytest.fixture
def root(tmp_path):
    return write_folder_dataset(tmp_path / "data")


def moved(root, names):
    """root/{train,val}/{images,masks} with other names."""
    for split in ("train", "val"):
        for before, after in zip(("images", "masks"), names, strict=True):
            (root / split / before).rename(root / split / after)


@pytest.mark.parametrize("names", NAMES)
def test_usual_names_below_the_splits(root, names, caplog):
    expected = Folder(str(root), "train", 3).names
    moved(root, names)
    with caplog.at_level("INFO"):
        data = Folder(str(root), "train", 3)
    assert data.names == expected
    assert data.mask(0).max() > 0
    what = f"using images in {root / 'train' / names[0]}, masks in {root / 'train' / names[1]}"
    assert what in caplog.text
    assert [(finding.level, finding.what) for finding in data.findings] == [("note", what)]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("splits", ["folders", "ratio"])
def test_usual_names_above_the_splits(root, names, splits, tmp_path):
    for before, after in zip(("images", "masks"), names, strict=True):
        for split in ("train", "val"):
            to = tmp_path / "other" / after / (split if splits == "folders" else "")
            shutil.copytree(root / split / before, to, dirs_exist_ok=True)
    data = Folder(str(tmp_path / "other"), "train", 3, splits=splits)
    assert 0 < len(data.names) < 12
    assert data.mask(0).shape == (40, 48)


def test_camvid_as_it_is_downloaded(root, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(root / split / "images", tmp_path / "camvid" / split)
        shutil.copytree(root / split / "masks", tmp_path / "camvid" / f"{split}annot")
    for split in ("train", "val"):
        data = Folder(str(tmp_path / "camvid"), split, 3)
        assert data.names == Folder(str(root), split, 3).names
        assert str(data.masks[0][0]).startswith(str(tmp_path / "camvid" / f"{split}annot"))


@pytest.mark.parametrize(("train", "val"), [("training", "validation"), ("train", "valid")])
@pytest.mark.parametrize("above", [False, True])
def test_other_words_for_the_splits(root, tmp_path, train, val, above, caplog):
    for split, word in (("train", train), ("val", val)):
        for kind in ("images", "masks"):
            to = tmp_path / "other" / (f"{kind}/{word}" if above else f"{word}/{kind}")
            shutil.copytree(root / split / kind, to)
    with caplog.at_level("INFO"):
        data = Folder(str(tmp_path / "other"), "val", 3)
    assert data.names == Folder(str(root), "val", 3).names
    assert f"using {val} as val" in caplog.text
    named = Folder(str(tmp_path / "other"), "val", 3, split_names={"val": val})
    assert (named.images, named.findings) == (data.images, [])


@pytest.mark.parametrize(
    ("moves", "settings", "split", "fix"),
    [
        (
            {"train/images": "images", "train/masks": "labels"},
            {"splits": "folders"},
            "train",
            "dataset.splits=ratio takes 20% of the images",
        ),
        (
            {"train/images": "images", "train/masks": "masks", "list": "train.txt"},
            {"splits": "folders"},
            "train",
            "set dataset.splits=files, for train.txt",
        ),
        ({"train": "train"}, {"splits": "ratio"}, "train", "set dataset.splits=folders"),
        ({"train": "train"}, {}, "val", r"dataset.root=.*/other/train dataset.splits=ratio takes"),
        (
            {"train/images": ".", "pairs": "."},
            {},
            "train",
            r"dataset.images=\. 'dataset.masks=\"{stem}_gt.png\"' dataset.spl",
        ),
        (
            {"train/images": "train", "pairs": "train"},
            {},
            "train",
            r"dataset.images=train 'dataset.masks=\"{stem}_gt.png\"' dataset.splits=ratio",  # there is no val
        ),
        ({"train/images": "."}, {}, "train", "correct dataset.root, choose dataset.splits"),
        ({"train": "photos"}, {}, "train", "it is one folder deeper: dataset.root=.*/photos"),
        ({"train": "photos", "val": "more"}, {}, "train", "if more is train: 'dataset.split_names={train: more}'"),
        ({"train": "train", "val": "dev"}, {}, "val", "if dev is val: 'dataset.split_names={val: dev}'"),
        (
            {"train/images": "train/images", "train/masks": "train/seg"},
            {},
            "train",
            "dataset.images=train/images dataset.masks=seg dataset.splits=ratio",
        ),
        (
            {
                "train/images": "images/train",
                "train/masks": "seg/train",
                "val/images": "images/val",
                "val/masks": "seg/val",
            },
            {},
            "train",
            "if images/train holds images and seg/train their masks: dataset.masks=seg$",
        ),
        ({"train/images": "images"}, {"splits": "ratio", "images": "images"}, "train", "name the folder of the masks"),
        (
            {"train": "my data/train"},
            {"root": "my data"},
            "val",
            '\'dataset.root="[^"]*/my data/train"\' dataset.splits=ratio',
        ),
    ],
)
def test_what_would_fit_is_said(root, tmp_path, moves, settings, split, fix):
    (root / "list").mkdir()
    (root / "pairs").mkdir()
    for file in (root / "train/masks").iterdir():
        shutil.copy(file, root / f"pairs/{file.stem}_gt.png")
    for before, after in moves.items():
        shutil.copytree(root / before, tmp_path / "other" / after, dirs_exist_ok=True)
    if (file := tmp_path / "other/train.txt").is_dir():
        file.rmdir()
        file.write_text("a\n")
    with pytest.raises(ConfigError) as error:
        Folder(str(tmp_path / "other" / settings.pop("root", "")), split, 3, **settings)
    assert re.search(fix, error.value.fix)


def test_splits_are_found(root, tmp_path, caplog):
    for kind in ("images", "masks"):
        shutil.copytree(root / "train" / kind, tmp_path / "other" / kind)
    for name in ("train.log", "test.py"):  # which name no images
        (tmp_path / "other" / name).write_text("")
    caplog.set_level("INFO")
    data = {split: Folder(str(tmp_path / "other"), split, 3, val_ratio=0.4) for split in ("train", "val")}
    of_ratio = Folder(str(tmp_path / "other"), "val", 3, splits="ratio", val_ratio=0.4)
    assert data["val"].names == of_ratio.names
    assert sorted(data["train"].names + data["val"].names) == Folder(str(root), "train", 3).names
    assert [finding.what for finding in data["val"].findings] == [
        "no split folders: 40 % of the images, chosen by a hash of the name, are for validation"
    ]
    assert "no split folders: 40 % of the images" in caplog.text
    assert of_ratio.findings == []
    (tmp_path / "other/valid.txt").write_text("\n".join(data["train"].names[:1]))  # now there is a split
    assert Folder(str(tmp_path / "other"), "val", 3).names == data["train"].names[:1]
    with pytest.raises(ConfigError, match="no split file"):
        Folder(str(tmp_path / "other"), "train", 3)
    (tmp_path / "other/valid.txt").unlink()
    (tmp_path / "other/test").mkdir()  # the images may be those of train and val together, or of train alone
    with pytest.raises(ConfigError, match="dataset.splits=folders") as error:
        Folder(str(tmp_path / "other"), "train", 3)
    assert "dataset.splits=ratio" in error.value.fix


def test_masks_of_longer_names_are_recognised(root, caplog):
    expected = Folder(str(root), "train", 3).names
    moved(root, ("img", "label"))
    for file in [*root.glob("*/label/*")]:
        file.rename(file.with_stem(f"{file.stem}_gt"))
    with caplog.at_level("INFO"):
        data = Folder(str(root), "train", 3)
    assert data.names == expected
    assert [files[0].stem for files in data.masks] == [f"{name}_gt" for name in expected]
    what = f"using images in {root / 'train/img'}, masks in {root / 'train/label'}/{{stem}}_gt.png"
    assert what in caplog.text
    assert [(finding.level, finding.what) for finding in data.findings] == [("note", what)]
    assert Folder(str(root), "train", 3, masks="../label/{stem}_gt.png").names == expected
    first = next((root / "train/label").iterdir())
    first.rename(first.with_suffix(".tif"))  # of two formats
    data = Folder(str(root), "train", 3)
    assert data.names == expected
    assert "label/{stem}_gt.*" in data.findings[0].what


def test_masks_of_longer_names_of_which_some_fit_no_image_are_named(root):
    for file in [*root.glob("*/masks/*")]:
        file.rename(file.with_stem(f"{file.stem}_gt"))
    first = next((root / "train/masks").iterdir())
    shutil.copy(first, first.with_stem(f"{first.stem}_2"))  # a second mask of an image?
    with pytest.raises(DataError) as error:
        Folder(str(root), "train", 3)
    setting = "../masks/{stem}_gt.png"
    assert error.value.fix == f"if the masks have longer names: 'dataset.masks=\"{setting}\"'"
    assert len(Folder(str(root), "train", 3, masks=setting).names) > 0


def test_the_setting_for_longer_names_holds_for_every_split(root, tmp_path):
    for folder in ("images", "masks"):
        for split in ("train", "val"):
            shutil.copytree(root / split / folder, tmp_path / "other" / folder / split)
    for file in [*(tmp_path / "other").glob("masks/*/*")]:
        file.rename(file.with_stem(f"{file.stem}_gt"))
    for split in ("train", "val"):
        first = next((tmp_path / "other/masks" / split).iterdir())
        shutil.copy(first, first.with_stem(f"{first.stem}_2"))
    with pytest.raises(DataError) as error:
        Folder(str(tmp_path / "other"), "train", 3)
    setting = "../../masks/{split}/{stem}_gt.png"
    assert error.value.fix == f"if the masks have longer names: 'dataset.masks=\"{setting}\"'"
    for split in ("train", "val"):
        assert Folder(str(tmp_path / "other"), split, 3, masks=setting).names == Folder(str(root), split, 3).names


def test_our_own_names_come_first_and_others_are_named(root, caplog):
    (root / "train/labels").mkdir()
    (root / "train/labels/boxes.txt").touch()
    assert not Folder(str(root), "train", 3).findings  # no masks
    shutil.copytree(root / "train/masks", root / "train/labels", dirs_exist_ok=True)
    data = Folder(str(root), "train", 3)
    assert data.masks[0][0].parent.name == "masks"
    assert [(found.level, found.what) for found in data.findings] == [
        ("warning", "labels beside images and masks may hold images or masks, but is not read")
    ]
    assert data.findings[0].what in caplog.text
    assert not Folder(str(root), "train", 3, masks="masks").findings


def test_a_folder_of_masks_comes_before_one_of_other_files(root):
    (root / "train/masks").rename(root / "train/annotations")
    (root / "train/labels").mkdir()
    (root / "train/labels/train0.txt").write_text("0 0.5 0.5 0.1 0.1")
    assert Folder(str(root), "train", 3).masks[0][0].parent.name == "annotations"


def test_images_alone_are_answered_as_before(root):
    moved(root, ("images", "else"))
    with pytest.raises(ConfigError, match="there is no .*train/masks"):
        Folder(str(root), "train", 3)


@pytest.mark.parametrize(
    ("images", "masks", "settings"),
    [
        ("train/images", "train/gt", {"masks": "gt"}),
        ("train/img", "train/gt", {"masks": "gt"}),
        ("images/train", "gt/train", {"masks": "gt"}),
        ("images/train", "gt/train", {"masks": "gt/{split}"}),
        ("photos/train", "gt/train", {"images": "photos/{split}", "masks": "gt"}),
        ("photos/train", "gt/train", {"images": "photos", "masks": "gt"}),
        ("photos", "gt", {"images": "photos", "masks": "gt", "splits": "ratio"}),
        ("photos/all", "gt/all", {"images": "photos/all", "masks": "gt/all", "splits": "ratio"}),
    ],
)
def test_masks_by_the_name_of_their_folder(root, tmp_path, images, masks, settings):
    for before, after in (("images", images), ("masks", masks)):
        shutil.copytree(root / "train" / before, tmp_path / "other" / after)
    data = Folder(str(tmp_path / "other"), "train", 3, **settings)
    assert data.names
    assert data.masks[0][0].parent == tmp_path / "other" / masks
    assert bool(data.findings) == ("images" not in settings)  # what was assumed is reported


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_images_of_all_splits_together_are_refused(root, split):
    with pytest.raises(ConfigError, match=f"no {split} images .* expected .*train/images/{split}") as error:
        Folder(str(root), split, 3, images="train/images")
    assert ("dataset.splits=ratio" in error.value.fix) == (split != "test")


def test_the_word_of_a_split_below_the_folder_that_is_named(root, tmp_path):
    for kind, name in (("images", "photos"), ("masks", "gt")):
        for split, word in (("train", "train"), ("val", "valid")):
            shutil.copytree(root / split / kind, tmp_path / "other" / name / word)
    data = Folder(str(tmp_path / "other"), "val", 3, images="photos", masks="gt")
    assert data.names == Folder(str(root), "val", 3).names
    with pytest.raises(ConfigError, match="no test images"):
        Folder(str(tmp_path / "other"), "test", 3, images="photos", masks="gt")


def test_a_split_that_is_there_twice_is_said_and_an_empty_one_is_none(root, caplog):
    shutil.copytree(root / "val", root / "valid")
    data = Folder(str(root), "val", 3)
    assert "val is val; valid is there, too, but not read" in caplog.text
    assert [finding.level for finding in data.findings] == ["warning"]
    shutil.rmtree(root / "val")
    (root / "val").mkdir()
    (root / "val.txt").touch()
    assert Folder(str(root), "val", 3).names == data.names


def test_a_folder_of_masks_that_is_not_there(root):
    moved(root, ("img", "label"))
    with pytest.raises(ConfigError, match=r"there is no .*train/lable; expected .*train/img with .*train/lable"):
        Folder(str(root), "train", 3, masks="lable")


@pytest.mark.parametrize("idle", [{"val_ratio": 0.4}, {"fold": 1}, {"folds": 3}])
def test_settings_of_another_kind_of_split_are_refused(tmp_path, idle):
    write_folder_dataset(tmp_path)
    with pytest.raises(ConfigError, match="has no effect with dataset.splits=folders"):
        Folder(str(tmp_path), "train", 3, **idle)


def test_settings_of_splits_that_would_do_nothing(root, tmp_path):
    with pytest.raises(ConfigError, match="split_names has no 'valid'"):
        Folder(str(root), "train", 3, split_names={"valid": "dev"})
    with pytest.raises(ConfigError, match="dataset.splits=files"):  # of splits=auto, which would take the folders
        Folder(str(root), "train", 3, split_file="lists/{split}.txt")
    (root / "train").rename(root / "2019")
    assert Folder(str(root), "train", 3, split_names={"train": 2019}).names


def test_a_split_file_of_the_images_own_stems(root, tmp_path):
    for file in (root / "train/images").iterdir():
        file.rename(file.with_stem(f"{file.stem}_img"))
    names = [file.stem for file in (root / "train/images").iterdir()]
    for split in ("train", "val"):
        (root / f"train/{split}.txt").write_text("\n".join(names[:2]))
    data = Folder(str(root / "train"), "train", 3, stem_suffix="_img")
    assert data.names == [name.removesuffix("_img") for name in names[:2]]


def test_a_group_that_is_not_in_the_name_is_the_name(root):
    data = Folder(str(root), "train", 3, groups="^(scene_)?")
    assert data.group(0) == data.names[0]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("b/0002.png", "b/0002"),
        ("images/b/0002.png", "b/0002"),
        ("/elsewhere/images/b/0002.png", "b/0002"),
        ("images/0001", "0001"),
        ("data/0001", "0001"),
        ("c/0001", None),
        ("b/0001", None),
    ],
)
def test_paths_in_a_split_file(tmp_path, line, name):
    root = tmp_path / "data"
    for file in ("0001", "b/0002"):
        for folder in ("images", "masks"):
            (root / folder / file).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4)).save(root / folder / f"{file}.png")
    (root / "train.txt").write_text(line)
    if name:
        assert Folder(str(root), "train", 3, splits="files").names == [name]
    else:
        with pytest.raises(SegtrainError, match="without an image"):
            Folder(str(root), "train", 3, splits="files")


@pytest.mark.parametrize("between", [" ", "\t", ",", ", "])
def test_a_split_file_of_images_and_masks(root, between):
    lines = [f"images/train{i}.png{between}masks/train{i}.png" for i in (1, 3)]
    (root / "train/train.txt").write_text("\n".join(lines))
    assert Folder(str(root / "train"), "train", 3, splits="files").names == ["train1", "train3"]
    (root / "train/train.txt").write_text(f"{lines[0]}\nimages/train3.png{between}masks/train4.png")
    with pytest.raises(DataError, match="the split file names other masks than those of the images' names, train3.png"):
        Folder(str(root / "train"), "train", 3, splits="files")


def test_a_split_file_with_more_columns_and_one_with_spaces_in_names(root):
    (root / "train/train.txt").write_text("train1 -1\ntrain3 1")  # of images without a class, and with it
    with pytest.raises(DataError, match="2 names in the split file without an image"):
        Folder(str(root / "train"), "train", 3, splits="files")
    for name in ("train 1", "train"):
        for folder in ("images", "masks"):
            shutil.copy(root / f"train/{folder}/train2.png", root / f"train/{folder}/{name}.png")
    (root / "train/train.txt").write_text("train 1.png\ntrain0.png\nimages\\train3.png")
    assert Folder(str(root / "train"), "train", 3, splits="files").names == ["train 1", "train0", "train3"]
    for file in root.glob("train/*/train1.png"):
        file.rename(file.with_stem("train 1"))
    (root / "train/train.txt").write_text("train 1\nimages/train 1.png")
    with pytest.raises(DataError, match="repeats train 1"):
        Folder(str(root / "train"), "train", 3, splits="files")


def test_the_split_of_pascal_voc_is_found(root, tmp_path):
    for before, after in (("images", "JPEGImages"), ("masks", "SegmentationClass")):
        shutil.copytree(root / "train" / before, tmp_path / "voc" / after)
    lists = tmp_path / "voc/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("train0\ntrain2")
    (lists / "val.txt").write_text("train1")
    assert [Folder(str(tmp_path / "voc"), split, 3).names for split in ("train", "val")] == [
        ["train0", "train2"],
        ["train1"],
    ]


def test_images_in_folders_of_patients(root, tmp_path, caplog):
    for kind in ("images", "masks"):
        for i in range(6):
            to = tmp_path / "other" / kind / f"patient {i // 2}" / f"{i % 2}.png"
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / "train" / kind / f"train{i}.png", to)
    torn = Folder(str(tmp_path / "other"), "train", 3, val_ratio=0.4)
    assert "those of one folder may be in train and in val" in caplog.text
    fix = torn.findings[-1].fix.split("'")[1]
    key, _, pattern = fix.partition("=")
    assert (key, pattern) == ("dataset.groups", '"^(.*)/"')
    whole = [
        Folder(str(tmp_path / "other"), split, 3, val_ratio=0.4, groups=pattern[1:-1]) for split in ("train", "val")
    ]
    patients = [{whole[s].group(i) for i in range(len(whole[s].names))} for s in (0, 1)]
    assert patients[0] | patients[1] == {f"patient {i}" for i in range(3)}
    assert not patients[0] & patients[1]
    assert not any("folder" in finding.what and finding.level == "warning" for finding in whole[0].findings)


def test_images_without_a_mask_that_show_nothing(root):
    for i in (1, 4):
        (root / f"train/masks/train{i}.png").unlink()
    with pytest.raises(DataError, match="2 images without a mask") as error:
        Folder(str(root), "train", 3)
    assert "dataset.missing_masks=background" in error.value.fix
    data = Folder(str(root), "train", 3, missing_masks="background")
    assert data.names == [f"train{i}" for i in range(6)]
    assert [bool(data.mask(i).any()) for i in range(6)] == [True, False, True, True, False, True]
    assert data.mask(1).shape == data.size(1) == data.mask(0).shape
    assert [finding.what for finding in data.findings] == ["2 images of 6 without a mask: background"]
    other = Folder(str(root), "train", 3, missing_masks="background", background=2, resize=0.5)
    assert set(other.mask(4).ravel()) == {2}
    assert other.mask(4).shape == other.image(4).shape[:2]
    for settings in ({"background": None}, {"annotators": ["masks", "images"]}):
        with pytest.raises(ConfigError, match="dataset.missing_masks=background"):
            Folder(str(root), "train", 3, missing_masks="background", **settings)
    counts = [count_classes(Folder(str(root), "train", 3, missing_masks="background", background=b)) for b in (0, 2)]
    assert counts[0].pixels[2] < counts[1].pixels[2]
    Image.new("L", (48, 40)).save(root / "train/masks/train1.jpg")
    with pytest.raises(DataError, match="2 images without a mask") as error:  # one has a mask, which is not read
        Folder(str(root), "train", 3, missing_masks="background")
    assert "JPEG" in error.value.fix
    (root / "train/masks/train1.jpg").unlink()
    for file in root.glob("train/masks/*"):
        file.rename(file.with_stem(f"other {file.stem}"))
    with pytest.raises(DataError, match="6 images without a mask"):  # none fits: their names are wrong
        Folder(str(root), "train", 3, missing_masks="background")


def test_few_masks_of_longer_names(root):
    for i in range(6):
        file = root / f"train/masks/train{i}.png"
        file.rename(file.with_stem(f"train{i}_mask")) if i == 0 else file.unlink()
    with pytest.raises(DataError) as error:
        Folder(str(root), "train", 3)
    assert "'dataset.masks=\"../masks/{stem}_mask.png\"'" in error.value.fix
    assert "dataset.missing_masks=background" in error.value.fix
    (root / "train/masks/train1_seg.png").write_bytes((root / "train/masks/train0_mask.png").read_bytes())
    data = Folder(str(root), "train", 3, masks="../masks/{stem}_mask.png", missing_masks="background")
    assert [bool(data.mask(i).any()) for i in range(6)] == [True] + 5 * [False]
    assert "1 file beside the masks that belong to no image: train1_seg.png" in [f.what for f in data.findings]


def test_a_mask_of_several_images_is_a_warning(root):
    for i in range(2):
        (root / f"train/images/p{i}").mkdir()
        (root / f"train/images/train{i}.png").rename(root / f"train/images/p{i}/x.png")
        (root / f"train/masks/train{i}.png").unlink()
    shutil.copy(root / "train/masks/train2.png", root / "train/masks/x.png")
    found = Folder(str(root), "train", 3, masks=f"{root}/train/masks/{{stem}}.png", strict=False).findings
    assert ("warning", "1 mask of several images each: x.png") in [(finding.level, finding.what) for finding in found]


def test_a_pattern_finds_names_that_a_mac_spells_otherwise(root):
    for folder, name in (("images", "Bru\u0308cke.png"), ("masks", "Br\u00fccke_gt.png")):
        (root / "train" / folder / "train0.png").rename(root / "train" / folder / name)
    for i in range(1, 6):
        (root / f"train/masks/train{i}.png").rename(root / f"train/masks/train{i}_gt.png")
    data = Folder(str(root), "train", 3, masks="../masks/{stem}_gt.png")
    assert data.names[0] == "Br\u00fccke"


def test_a_split_file_that_calls_the_folder_of_all_images_otherwise(root):
    (root / "train/train.txt").write_text("JPEGImages/train0.png")
    assert Folder(str(root / "train"), "train", 3, splits="files").names == ["train0"]


def test_groups_of_which_none_is_below_the_ratio():
    groups = [f"scene {i % 3}" for i in range(90)]
    chosen = for_validation(groups, 1e-9)
    assert sum(chosen) == 30
    assert for_validation(["one"] * 5, 1e-9) == [False] * 5
    assert for_validation([], 0.2) == []


def test_a_pattern_that_finds_no_group_is_refused(root):
    with pytest.raises(ConfigError, match=r"'scene\(\.\*\)' finds no group in 6 names, such as train0"):
        Folder(str(root), "train", 3, groups="scene(.*)")


def test_predictions_among_the_images_are_no_images(root):
    names = Folder(str(root), "train", 3).names
    (root / "train/images/predicted/masks").mkdir(parents=True)
    (root / "train/images/predicted/predict.json").write_text("{}")
    shutil.copy(root / "train/masks/train0.png", root / "train/images/predicted/masks/train0.png")
    assert Folder(str(root), "train", 3).names == names


LAYOUTS = {  # as they are exported or downloaded: where image and mask of a split and a stem are, and the settings
    "mmsegmentation": (
        "img_dir/{split}/{stem}.png", "ann_dir/{split}/{stem}.png",
        "'dataset.images=\"img_dir/{split}\"' 'dataset.masks=\"ann_dir/{split}\"'"),
    "nnU-Net": ("Dataset1/imagesTr/{stem}_0000.png", "Dataset1/labelsTr/{stem}.png", "dataset.stem_suffix=_0000"),
    "Roboflow": (
        "{split}/{stem}.png", "{split}/{stem}_mask.png",
        "'dataset.images=\"{split}\"' 'dataset.masks=\"{stem}_mask.png\"'"),
    "Kaggle": ("train_images/{stem}.png", "train_masks/{stem}.png", "dataset.images=train_images dataset.masks=train_masks"),
    "CamVid": ("{split}/{stem}.png", "{split}_labels/{stem}_L.png", "'dataset.masks=\"../{split}_labels/{stem}_L.png\"'"),
    "ISIC": (
        "ISIC_{split}_Input/{stem}.png", "ISIC_{split}_GroundTruth/{stem}_segmentation.png",
        "'dataset.masks=\"../ISIC_{split}_GroundTruth/{stem}_segmentation.png\"'"),
    "LoveDA": (
        "{split}/town_{half}/images_png/{stem}.png", "{split}/town_{half}/masks_png/{stem}.png",
        "'dataset.images=\"{split}\"' 'dataset.masks=\"../masks_png/{stem}.*\"'"),
    "LGG": ("brain/p{half}/{stem}.tif", "brain/p{half}/{stem}_mask.tif", "dataset.images=. 'dataset.masks=\"{stem}_mask.tif\"'"),
    "DeepGlobe": ("{stem}_sat.jpg", "{stem}_mask.png", "'dataset.masks=\"{stem}_mask.png\"' dataset.splits=ratio dataset.stem_suffix=_sat"),
    "masks below the images": ("{stem}.png", "masks/{stem}.png", "dataset.images=. 'dataset.masks=\"masks/{stem}.*\"'"),
    "below those of a split": (
        "{split}/{stem}.png", "{split}/gt/{stem}.png", "'dataset.images=\"{split}\"' 'dataset.masks=\"gt/{stem}.*\"'"),
    "Oxford pets": ("images/{stem}.jpg", "annotations/trimaps/{stem}.png", "dataset.masks=annotations/trimaps"),
    "Supervisely": ("ds/img/{stem}.png", "ds/masks_machine/{stem}.png", "dataset.images=ds/img dataset.masks=masks_machine"),
    "a mask per class": (
        "images/{stem}.png", "masks/{stem}_road.png masks/{stem}_car.png",
        "'dataset.class_names=[car,road]' dataset.num_classes=2 dataset.background=null 'dataset.masks=\"../masks/{stem}_{class}.*\"'"),
    "a folder per class": (
        "images/{stem}.png", "masks/road/{stem}.png masks/car/{stem}.png", "'dataset.masks=\"../masks/{class}/{stem}.*\"'"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_other_programs_are_answered_with_settings_that_work(root, tmp_path, name):
    image, masks, settings = LAYOUTS[name]
    for split in ("train", "val"):
        for file in (root / split / "images").iterdir():
            words = {"split": split, "stem": file.stem, "half": int(file.stem[-1]) % 2}
            for before, after in [
                (file, image),
                *((root / split / "masks" / file.name, mask) for mask in masks.split()),
            ]:
                to = tmp_path / "other" / after.format(**words)
                to.parent.mkdir(parents=True, exist_ok=True)
                if to.suffix == file.suffix:
                    shutil.copy(before, to)
                else:
                    Image.open(before).save(to)
    with pytest.raises(SegtrainError) as error:
        Folder(str(tmp_path / "other"), "train", 3)
    assert settings in error.value.fix
    words = [word for word in shlex.split(error.value.fix) if word.startswith("dataset.")]
    given = yaml.safe_load("\n".join(word.rstrip(",").removeprefix("dataset.").replace("=", ": ", 1) for word in words))
    given |= {"threshold": 0} if "class_names" in given else {}
    data = {split: Folder(str(tmp_path / "other"), split, **{"num_classes": 3, **given}) for split in ("train", "val")}
    assert len(data["train"].names) + len(data["val"].names) == 12
    assert data["val"].mask(0).any()
    if "{split}" in image:
        assert all(Path(name).name.startswith("train") for name in data["train"].names)


def test_vessels_whose_mask_folder_holds_the_field_of_view(root, tmp_path, caplog):
    for file in (root / "train/images").iterdir():
        for to in (
            f"images/{file.stem}_training.tif",
            f"1st_manual/{file.stem}_manual1.gif",
            f"mask/{file.stem}_mask.gif",
        ):
            (tmp_path / "drive" / to).parent.mkdir(parents=True, exist_ok=True)
            Image.open(root / "train" / ("images" if "images" in to else "masks") / file.name).save(
                tmp_path / "drive" / to
            )
    with pytest.raises(SegtrainError) as error:
        Folder(str(tmp_path / "drive"), "train", 3, splits="ratio")
    assert (
        "'dataset.masks=\"../1st_manual/{stem}_manual1.gif\"' dataset.splits=ratio dataset.stem_suffix=_training"
        in (error.value.fix)
    )
    settings = {"masks": "../1st_manual/{stem}_manual1.gif", "stem_suffix": "_training", "splits": "ratio"}
    assert Folder(str(tmp_path / "drive"), "val", 3, **settings).mask(0).any()


@pytest.mark.parametrize(
    ("mask", "words", "pattern"),
    [
        ("{}_{}.png", ["1stHO", "2ndHO"], "{stem}_{annotator}.png"),  # CHASE_DB1
        ("../masks/{}/{}.png", ["car", "road"], "../masks/{stem}/{annotator}.png"),
        ("labels-{1}/{0}.{1}.ppm", ["ah", "vk"], "labels-{annotator}/{stem}.{annotator}.ppm"),  # STARE
    ],
)
def test_masks_of_several_annotators_or_classes_are_found(root, tmp_path, mask, words, pattern):
    photos = tmp_path / "eyes/photos" if ".." in mask else tmp_path / "eyes"
    for file in (root / "train/images").iterdir():
        for to in (f"{file.stem}.png", *(mask.format(file.stem, word) for word in words)):
            (photos / to).parent.mkdir(parents=True, exist_ok=True)
            kind = "images" if to == file.name else "masks"
            Image.open(root / "train" / kind / file.name).save(photos / to)
    with pytest.raises(SegtrainError) as error:
        Folder(str(tmp_path / "eyes"), "train", 3)
    named, images = ",".join(words), "photos" if ".." in mask else "."
    assert error.value.fix.startswith(
        f"if {', '.join(words)} are annotators: 'dataset.annotators=[{named}]' 'dataset.masks=\"{pattern}\"' "
        f"dataset.images={images} dataset.splits=ratio, "
    )
    assert f"are classes, each with masks of its own: dataset.mask_format=files 'dataset.class_names=[{named}]'" in (
        error.value.fix
    )
    data = Folder(str(tmp_path / "eyes"), "val", 3, annotators=words, masks=pattern, images=images, splits="ratio")
    assert data.annotated_mask(0).any(axis=(0, 1)).all()


@pytest.mark.parametrize("names", [["a", "a-1", "a-2", "a-3"], ["a", "a_x", "a_y_z", "b", "b_x", "b_y_z"], ["a", "b"]])
def test_numbered_images_are_no_masks_of_annotators(tmp_path, names):
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    with pytest.raises(SegtrainError) as error:
        Folder(str(tmp_path), "train", 3)
    assert "annotators" not in error.value.fix


@pytest.mark.parametrize(
    ("image", "mask", "more", "settings"),
    [
        ("case_{}/image.png", "case_{}/mask.png", None, "'dataset.images=\"*/image.png\"' dataset.masks=mask.png"),
        (
            "train/{}_json/img.png",
            "train/{}_json/label.png",
            "train/{}_json/label_viz.png",
            "'dataset.images=\"{split}/*/img.png\"' dataset.masks=label.png",
        ),
        (
            "images/{}.png",
            "masks/{}/mask.png",
            None,
            "'dataset.masks=\"../masks/{stem}/mask.png\"' dataset.images=images",
        ),
        (
            "first/{0}/images/{0}.png",
            "first/{0}/images/{0}_mask.png",
            "first/{0}/masks/1.png",
            "'dataset.images=\"first/*/images\"' 'dataset.masks=\"{stem}_mask.png\"'",
        ),
    ],
    ids=["case", "labelme_json", "a mask in a folder", "objects that are drawn"],
)
def test_a_folder_for_each_image(root, tmp_path, image, mask, more, settings):
    for split in ("train", "val"):
        for file in (root / split / "images").iterdir():
            for to, kind in ((image, "images"), (mask, "masks"), (more, "images")):
                if to is not None:
                    path = tmp_path / "own" / to.format(file.stem).replace("train/", f"{split}/")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(root / split / kind / file.name, path)
    with pytest.raises(SegtrainError) as error:
        Folder(str(tmp_path / "own"), "train", 3)
    by_ratio = "" if "{split}" in settings else " dataset.splits=ratio, which takes 20% of the images for validation"
    assert error.value.fix.partition(": ")[2] == settings + by_ratio
    given = dict(word.removeprefix("dataset.").split("=", 1) for word in shlex.split(settings))
    given = {key: value.strip('"') for key, value in given.items()}
    data = [
        Folder(str(tmp_path / "own"), split, 3, **given, splits="ratio" if by_ratio else "folders")
        for split in ("train", "val")
    ]
    assert sum(len(each.names) for each in data) == sum(
        len([*(root / split / "images").iterdir()]) for split in ("train", "val")
    )
    assert data[1].mask(0).any()


def test_a_folder_for_each_image_with_a_mask_of_each_class(root, tmp_path):
    for file in (root / "train/images").iterdir():
        for to, kind in (("image", "images"), ("organ", "masks"), ("tumor", "masks")):
            path = tmp_path / f"own/pat {file.stem}/{to}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / "train" / kind / file.name, path)
    with pytest.raises(SegtrainError) as error:
        Folder(str(tmp_path / "own"), "train", 3)
    assert error.value.fix.startswith(
        "if organ, tumor are classes, each with masks of its own: dataset.mask_format=files "
        "'dataset.class_names=[organ,tumor]' dataset.num_classes=2 dataset.background=null "
        "'dataset.masks=\"{class}.*\"' loss=bce_dice 'dataset.images=\"*/image.png\"' dataset.splits=ratio, which"
    )
    settings = {"mask_format": "files", "class_names": ["organ", "tumor"], "background": None, "threshold": 0}
    data = Folder(
        str(tmp_path / "own"), "train", 2, **settings, masks="{class}.*", images="*/image.png", splits="ratio"
    )
    assert data.mask(0).any(axis=(0, 1)).all()


def test_images_of_one_format_of_two(root):
    for split in ("train", "val"):
        for file in (root / split / "images").iterdir():
            Image.open(file).save(file.with_suffix(".jpg"))
    with pytest.raises(DataError, match="two files with the stem"):
        Folder(str(root), "train", 3)
    for images in ("{split}/images/*.png", "{split}/im*es/train?.png", "{split}/images/train*"):
        where = "../masks/{stem}.png"
        if "." in images:
            assert {file.suffix for file in Folder(str(root), "train", 3, images=images, masks=where).images} == {
                ".png"
            }
        else:
            with pytest.raises(DataError, match="two files with the stem"):
                Folder(str(root), "train", 3, images=images, masks=where)


def test_no_image_is_what_the_settings_say(root):
    with pytest.raises(ConfigError, match=r"no image below .*images is \*/a.png") as error:
        Folder(str(root), "train", 3, images="{split}/images/*/a.png", masks="mask.png")
    assert error.value.where == "dataset.images"
    with pytest.raises(ConfigError, match=r"the pattern 'mask.png' has no {stem}"):
        Folder(str(root), "train", 3, masks="mask.png")


def test_no_settings_are_found_that_leave_out_most_or_train_on_the_test_split(root, tmp_path):
    for split in ("train", "val", "test"):
        for kind in ("images", "seg"):
            shutil.copytree(
                root / ("val" if split == "val" else "train") / kind.replace("seg", "masks"),
                tmp_path / "a" / split / kind,
            )
    (tmp_path / "a/train/seg/train0.png").unlink()
    with pytest.raises(ConfigError) as error:
        Folder(str(tmp_path / "a"), "train", 3)
    assert error.value.fix.endswith("dataset.masks=seg")
    for i in range(6):  # patients
        for kind in ("images", "masks"):
            to = tmp_path / f"b/photos_{kind}/p{i}/x.png"
            to.parent.mkdir(parents=True)
            shutil.copy(root / "train" / kind / f"train{i}.png", to)
    with pytest.raises(ConfigError, match="no train images") as error:
        Folder(str(tmp_path / "b"), "train", 3)
    assert "dataset.images=photos_images dataset.masks=photos_masks dataset.splits=ratio" in error.value.fix
    for kind in ("img", "masks_colour", "masks_machine"):
        shutil.copytree(root / "train" / ("images" if kind == "img" else "masks"), tmp_path / "c/ds" / kind)
    with pytest.raises(ConfigError) as error:
        Folder(str(tmp_path / "c"), "train", 3)
    assert "dataset.images=ds/img dataset.masks=masks_" in error.value.fix
    for split in ("train", "test"):  # KolektorSDD2
        for kind, end in (("images", ""), ("masks", "_GT")):
            for file in (root / "train" / kind).iterdir():
                (tmp_path / "d" / split).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, tmp_path / "d" / split / f"{file.stem}{end}.png")
    with pytest.raises(ConfigError) as error:
        Folder(str(tmp_path / "d"), "train", 3)
    assert "dataset.images=train 'dataset.masks=\"{stem}_GT.png\"' dataset.splits=ratio" in error.value.fix


def test_settings_are_found_for_folders_far_below(root, tmp_path):
    for split in ("train", "val"):  # BDD100K
        for kind, to in (("images", "images/10k"), ("masks", "labels/sem_seg/masks")):
            shutil.copytree(root / split / kind, tmp_path / "bdd" / to / split)
    with pytest.raises(SegtrainError) as error:
        Folder(str(tmp_path / "bdd"), "train", 3)
    fix = "'dataset.images=\"images/10k/{split}\"' 'dataset.masks=\"labels/sem_seg/masks/{split}\"'"
    assert fix in error.value.fix


def test_settings_are_found_for_a_dataset_that_an_own_split_does_not_cover(root, tmp_path):
    shutil.copytree(root / "train/images", tmp_path / "other/__MACOSX/images")
    shutil.copytree(root / "train", tmp_path / "other/mine")
    with pytest.raises(ConfigError) as error:
        Folder(str(tmp_path / "other"), "train", 3)
    assert error.value.fix == f"it is one folder deeper: dataset.root={tmp_path}/other/mine"
    for file in (tmp_path / "other/mine/masks").iterdir():
        file.rename(file.with_stem(file.stem.upper()))
    with pytest.raises(DataError) as error:
        Folder(str(tmp_path / "other/mine"), "train", 3)
    assert error.value.fix.startswith("the names differ in upper and lower case")
