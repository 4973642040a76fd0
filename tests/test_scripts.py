"""The scripts that draw a dataset, and train on it as most do."""

import base64
import io
import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.data.folder import Folder
from segtrain.errors import SegtrainError

SCRIPTS = Path(__file__).parents[1] / "scripts"


def run(*words) -> str:
    done = subprocess.run([sys.executable, SCRIPTS / words[0], *map(str, words[1:])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_cells_are_drawn_checked_and_trained_on_by_hand(segtrain, tmp_path):
    run("make_cells.py", tmp_path, "--train", 4, "--val", 2)
    checked = segtrain("check", tmp_path, "dataset.image_range=[0,4095]")
    assert "taking dataset.num_classes=4" in checked.out, checked
    assert "0 errors, 0 warnings" in checked.out
    trained = run("plain_script.py", tmp_path, "--classes", 4, "--range", 4095, "--seconds", 0.1, "--dice")
    assert trained.startswith("epoch 1,")


@pytest.mark.slow
@pytest.mark.parametrize(("script", "images"), [("make_boats.py", 8), ("make_steel.py", 20)])
def test_a_dataset_is_drawn_and_checked(segtrain, tmp_path, script, images):
    run(script, tmp_path, "--train", images, "--val", images // 2)
    checked = segtrain("check", tmp_path)
    assert "taking dataset.num_classes=3" in checked.out, checked
    assert "0 errors, 0 warnings" in checked.out


OUTLINE = [[2, 3], [11, 3], [11, 7], [2, 7]]  # 10 × 5 pixels
FLAT = [float(number) for point in OUTLINE for number in point]
COCO = {
    "images": [{"id": 7, "file_name": "a.jpg", "width": 20, "height": 16}],
    "categories": [{"id": 3, "name": "car"}, {"id": 4, "name": "bus"}],
    "annotations": [
        {"image_id": 7, "category_id": 4, "segmentation": {"counts": [4 * 16 + 4, 2, 15 * 16 + 10]}},
        {"image_id": 7, "category_id": 3, "segmentation": [FLAT]},
    ],
}
LABELME = {
    "imageWidth": 20,
    "imageHeight": 16,
    "shapes": [
        {"label": "car", "points": OUTLINE},
        {"label": "bus", "points": [[4, 4], [4, 5]], "shape_type": "rectangle"},
    ],
}
RELATIVE = " ".join(f"{number / size}" for point in OUTLINE for number, size in zip(point, (20, 16), strict=True))


PNG = io.BytesIO()
Image.fromarray(np.full((2, 1), 255, np.uint8)).save(PNG, "PNG")
BITMAP = {"data": base64.b64encode(zlib.compress(PNG.getvalue())).decode(), "origin": [4, 4]}
SUPERVISELY = {
    "size": {"height": 16, "width": 20},
    "objects": [
        {"classTitle": "car", "geometryType": "polygon", "points": {"exterior": OUTLINE, "interior": []}},
        {"classTitle": "bus", "geometryType": "bitmap", "bitmap": BITMAP},
    ],
}
REGIONS = [
    {
        "shape_attributes": {
            "name": "polygon",
            "all_points_x": [x for x, _ in points],
            "all_points_y": [y for _, y in points],
        },
        "region_attributes": {"kind": kind},
    }
    for kind, points in (("car", OUTLINE), ("bus", [[4, 4], [4, 4], [4, 5]]))
]
VIA = {"a.jpg123": {"filename": "a.jpg", "regions": REGIONS}}
CVAT = f"""<annotations><image id="0" name="a.jpg" width="20" height="16">
<polygon label="car" points="{";".join(f"{x},{y}" for x, y in OUTLINE)}"></polygon>
<mask label="bus" rle="1, 1, 1, 1" left="3" top="4" width="2" height="2"></mask>
</image></annotations>"""


@pytest.mark.parametrize(
    ("image", "file", "content"),
    [
        ("train/a.jpg", "train/_annotations.coco.json", json.dumps(COCO)),
        ("train/img/a.jpg", "train/ann/a.jpg.json", json.dumps(SUPERVISELY)),
        ("train/a.jpg", "train/via_region_data.json", json.dumps(VIA)),
        ("train/a.jpg", "train/via_project.json", json.dumps({"_via_settings": {}, "_via_img_metadata": VIA})),
        ("train/a.jpg", "train/annotations.xml", CVAT),
        ("train/a.jpg", "train/a.json", json.dumps(LABELME)),
        ("images/train/a.jpg", "labels/train/a.txt", f"1 {RELATIVE}\n0 0.2 0.25 0.2 0.3 0.2 0.3125\n"),
    ],
    ids=["COCO", "Supervisely", "VIA", "project of VIA", "CVAT", "LabelMe", "YOLO"],
)
def test_masks_are_drawn_of_outlines(tmp_path, image, file, content):
    for split in ("train", "val"):
        for path in (image, file):
            (tmp_path / path.replace("train", split)).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16)).save(tmp_path / image.replace("train", split))
        (tmp_path / file.replace("train", split)).write_text(content)
    with pytest.raises(SegtrainError, match="no train images|without a mask") as error:
        Folder(str(tmp_path), "train", 3)
    assert f"{file} holds outlines, not a mask" in error.value.fix
    printed = run("draw_masks.py", tmp_path)
    assert "dataset.num_classes=3 'dataset.class_names=[background," in printed
    mask = np.asarray(Image.open((tmp_path / file).with_name("a_mask.png")))
    expected = np.zeros((16, 20), np.uint8)
    car, bus = (2, 1) if "[background,bus,car]" in printed or "[background,0,1]" in printed else (1, 2)
    expected[3:8, 2:12] = car
    expected[4:6, 4] = bus
    assert mask.tolist() == expected.tolist()


# Columns of 16: of rows 3 to 7 in columns 2 to 11, and of rows 4 and 5 in column 4; counted from 1.
CAR, BUS = " ".join(f"{16 * column + 4} 5" for column in range(2, 12)), f"{16 * 4 + 5} 2"


@pytest.mark.parametrize(
    "table",
    [
        f"ImageId,ClassId,EncodedPixels\na.jpg,1,{CAR}\na.jpg,2,{BUS}\n",  # Severstal steel
        f"ImageId_ClassId,EncodedPixels\na.jpg_1,{CAR}\na.jpg_2,{BUS}\na.jpg_3,\nb.jpg_1,\n",
        f"Image_Label,EncodedPixels\na.jpg_1,{CAR}\na.jpg_2,{BUS}\nb.jpg_1,-1\n",
        f"id,class,rle\na,1,{CAR}\na,2,{BUS}\nb,1,nan\n",
    ],
)
def test_masks_are_drawn_of_run_lengths(tmp_path, table):
    for name in "abcdefgh":
        (tmp_path / "train_images").mkdir(exist_ok=True)
        Image.new("RGB", (20, 16)).save(tmp_path / f"train_images/{name}.jpg")
    (tmp_path / "train.csv").write_text(table)
    with pytest.raises(SegtrainError, match="no train images") as error:
        Folder(str(tmp_path), "train", 3)
    assert "train.csv holds run lengths, not a mask" in error.value.fix
    printed = run("draw_masks.py", tmp_path)
    assert "8 masks of the classes background, 1, 2" in printed
    expected = np.zeros((16, 20), np.uint8)
    expected[3:8, 2:12], expected[4:6, 4] = 1, 2
    with pytest.raises(SegtrainError, match="no train images") as error:
        Folder(str(tmp_path), "train", 3)
    assert "dataset.images=train_images 'dataset.masks=\"{stem}_mask.png\"'" in error.value.fix
    splits = [
        Folder(str(tmp_path), split, 3, images="train_images", masks="{stem}_mask.png", splits="ratio")
        for split in ("train", "val")
    ]
    masks = {name: data.mask(i) for data in splits for i, name in enumerate(data.names)}
    assert masks["a"].tolist() == expected.tolist()
    assert not any(mask.any() for name, mask in masks.items() if name != "a")


def test_of_run_lengths_in_a_text(tmp_path):
    """As pycocotools 2.0.10 packs them: of mask[5:30, 10:40], without [12:20, 15:22], and with each fifth pixel turned."""
    text = (
        "016000000000n40RK000000000n40PK1M400000K404h0600000KXOJ1M21M30L50K4046O37MI37MI37MI32GJ1M21M30L50K4046O37?0000KXOJ1M400000"
        "K404h0600000KXOJ1M400000K404h0600000KXOJ1M400000K404h0600000KXOL000000000n40RK000000000^2"
    )
    coco = {**COCO, "images": [{"id": 7, "file_name": "a.jpg", "width": 48, "height": 40}]}
    coco["annotations"] = [{"image_id": 7, "category_id": 3, "segmentation": {"size": [40, 48], "counts": text}}]
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    run("draw_masks.py", tmp_path)
    expected = np.zeros((40, 48), np.uint8)
    expected[5:30, 10:40], expected[12:20, 15:22] = 1, 0
    expected[::7, ::5] ^= 1
    assert np.asarray(Image.open(tmp_path / "a_mask.png")).tolist() == expected.tolist()


@pytest.mark.parametrize("names", ["[bus, car]", "{0: bus, 1: car}"])
def test_classes_of_yolo_are_named(tmp_path, names):
    Image.new("RGB", (20, 16)).save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text(f"1 {RELATIVE}\n0 0.2 0.25 0.2 0.3 0.2 0.3125\n")
    (tmp_path / "data.yaml").write_text(f"path: .\nnames: {names}\n")
    assert "'dataset.class_names=[background,bus,car]'" in run("draw_masks.py", tmp_path)


def test_images_of_one_name_in_two_folders(tmp_path):
    images = [{"id": i, "file_name": f"{camera}/a.jpg", "width": 20, "height": 16} for i, camera in enumerate("xy")]
    annotations = [{"image_id": 1, "category_id": 3, "segmentation": [FLAT]}]
    (tmp_path / "coco.json").write_text(json.dumps({**COCO, "images": images, "annotations": annotations}))
    done = subprocess.run([sys.executable, SCRIPTS / "draw_masks.py", tmp_path], capture_output=True, text=True)
    assert (done.returncode, "a_mask.png would be the mask of two images" in done.stderr) == (1, True)
    for camera in "xy":
        (tmp_path / camera).mkdir()
        Image.new("RGB", (20, 16)).save(tmp_path / camera / "a.jpg")
    run("draw_masks.py", tmp_path)
    assert [np.asarray(Image.open(tmp_path / camera / "a_mask.png")).any() for camera in "xy"] == [False, True]


def test_holes_are_left_out_and_masks_of_objects_are_one(tmp_path):
    holes = {"exterior": OUTLINE, "interior": [[[4, 4], [6, 4], [6, 6], [4, 6]]]}
    content = {**SUPERVISELY, "objects": [{"classTitle": "car", "geometryType": "polygon", "points": holes}]}
    (tmp_path / "a.png.json").write_text(json.dumps(content))
    Image.new("RGB", (20, 16)).save(tmp_path / "a.png")
    for name in ("first", "second", "third"):
        for kind, number in (("images", 1), ("masks", 2)):
            (tmp_path / name / kind).mkdir(parents=True)
            for each in range(number):
                drawn = np.zeros((16, 20), np.uint8)
                drawn[4 * each + 1 : 4 * each + 3, 5:9] = 255
                Image.fromarray(drawn).save(tmp_path / name / kind / f"{name}{each if kind == 'masks' else ''}.png")
    assert "4 masks of the classes background, car, object" in run("draw_masks.py", tmp_path)
    expected = np.zeros((16, 20), np.uint8)
    expected[3:8, 2:12], expected[4:7, 4:7] = 1, 0
    assert np.asarray(Image.open(tmp_path / "a_mask.png")).tolist() == expected.tolist()
    expected[:] = 0
    expected[[1, 2, 5, 6], 5:9] = 2
    assert np.asarray(Image.open(tmp_path / "second/images/second_mask.png")).tolist() == expected.tolist()


BOXES = {**COCO, "annotations": [{"id": 5, "image_id": 7, "category_id": 3, "bbox": [2, 3, 9, 4], "segmentation": []}]}


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [
        ("coco.json", json.dumps(BOXES), "annotation 5 has no outline"),
        ("a.txt", "0 0.5 0.5 0.2 0.1\n", "is a box, not an outline"),
        ("a.json", json.dumps(LABELME), "a_mask.png is there already"),
        (
            "a.xml",
            '<annotations><image name="a.jpg" width="9" height="9"><box/></image></annotations>',
            "a box cannot be",
        ),
    ],
)
def test_no_mask_is_drawn_of_a_box_or_over_another(tmp_path, file, content, what):
    Image.new("RGB", (20, 16)).save(tmp_path / "a.jpg")
    (tmp_path / file).write_text(content)
    if "already" in what:
        Image.new("L", (20, 16), 7).save(tmp_path / "a_mask.png")
    done = subprocess.run([sys.executable, SCRIPTS / "draw_masks.py", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert what in done.stderr
    assert [path.name for path in tmp_path.glob("*.png")] == (["a_mask.png"] if "already" in what else [])
