"""`segtrain predict`: equal to evaluate, windows, damaged files, repeated calls, names, what is refused."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from omegaconf import OmegaConf
from PIL import Image

from segtrain.cli import run_command
from segtrain.commands import large_images, predict
from segtrain.commands.scoring import at_original_size
from segtrain.config.saved import load_saved
from segtrain.data import inputs
from segtrain.data.inputs import find_images, without_masks
from segtrain.data.shapes import Shapes
from segtrain.errors import ConfigError, Preempted
from segtrain.files import read_arrays
from segtrain.inference import Inference, Predictor
from segtrain.runs.claim import lock, unlock
from segtrain.runs.trained import load


def rows_of(folder):
    with (folder / "predictions.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def images(tmp_path, trained):
    """The validation images of the trained run, as files."""
    cfg = load_saved(trained / "config.yaml", [], [])
    data = Shapes("val", list(cfg.dataset.size), val_images=cfg.dataset.val_images)
    (tmp_path / "images").mkdir()
    for index, name in enumerate(data.names):
        Image.fromarray(data.image(index)).save(tmp_path / f"images/{name}.png")
    return data


def test_predictions_are_those_of_evaluate(segtrain, trained, images, tmp_path):
    done = segtrain("predict", trained, "images", "--out", "out", "--probabilities")
    assert done.code == 0, done
    saved = read_arrays(trained / "per_image.npz")
    for index, name in enumerate(images.names):
        mask = np.asarray(Image.open(tmp_path / f"out/masks/{name}.png"))
        position = saved["names"].tolist().index(name)
        for label in range(images.num_classes):
            found, truth = mask == label, images.mask(index) == label
            counts = [saved[key][position, label] for key in ("tp", "fp", "fn")]
            assert [int(n.sum()) for n in (found & truth, found & ~truth, truth & ~found)] == counts
        probabilities = read_arrays(tmp_path / f"out/probabilities/{name}.npz")["probabilities"]
        assert probabilities.dtype == np.float16
        assert (probabilities.argmax(axis=0) == mask).mean() > 0.99  # of two classes as probable float16 says less
    rows = rows_of(tmp_path / "out")
    assert [row["name"] for row in rows] == images.names
    assert (
        int(rows[0]["pixels/background"]) == (np.asarray(Image.open(tmp_path / "out/masks/val_00000.png")) == 0).sum()
    )
    assert len(list((tmp_path / "out/overlays").iterdir())) == len(images.names)


def test_damaged_files_are_named_and_a_second_call_goes_on(segtrain, trained, images, tmp_path):
    (tmp_path / "images/broken.png").write_bytes((tmp_path / "images/val_00000.png").read_bytes()[:200])
    words = ["predict", trained, "images", "--out", "out", "--no-overlays"]
    first = segtrain(*words)
    assert (first.code, first.err.count("broken.png")) == (3, 1), first
    rows = rows_of(tmp_path / "out")
    assert len(rows) == len(images.names)
    assert not (tmp_path / "out/overlays").exists()
    assert "1 left out" in first.out
    (tmp_path / "images/broken.png").unlink()
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out/masks").iterdir()}
    again = segtrain(*words)
    assert again.code == 0, again
    assert f"{len(rows)} of {len(rows)} images done before" in again.err
    assert rows_of(tmp_path / "out") == rows
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out/masks").iterdir()} == before
    other = segtrain(*words, "inference.flips=[horizontal]")
    assert (other.code, "of other settings (inference.flips)" in other.err) == (2, True), other


@pytest.mark.slow
def test_a_stopped_call_goes_on(segtrain, trained, images, tmp_path):
    code = (
        "import sys; from segtrain import signals; from segtrain.cli import run_command; from segtrain.commands import predict\n"
        "from segtrain.errors import Preempted\n"
        "seen = []\n"
        "def leave():\n"
        "    seen.append(1)\n"
        "    if len(seen) == 7: raise Preempted('stopped')\n"  # before and after each image
        "predict.leave_if_stopped = leave\n"
        "run_command('predict', sys.argv[1:])"
    )
    words = [str(trained), "images", "--out", "out"]
    stopped = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
    assert "Preempted" in stopped.stderr
    assert len(rows_of(tmp_path / "out")) == 3
    done = segtrain("predict", *words)
    assert done.code == 0, done
    assert f"3 of {len(images.names)} images done before" in done.err
    assert len(rows_of(tmp_path / "out")) == len(images.names)


def test_200_images_of_which_5_are_damaged_after_a_kill(server, trained, tmp_path):
    (tmp_path / "images").mkdir()
    shapes = Shapes("val", [32, 32], val_images=200)
    for index, name in enumerate(shapes.names):
        Image.fromarray(shapes.image(index)).save(tmp_path / f"images/{name}.png")
    broken = shapes.names[7::40]
    for name in broken:
        file = tmp_path / f"images/{name}.png"
        file.write_bytes(file.read_bytes()[:-20])
    command = server.start("predict", trained, "images", "--out", "out", cwd=tmp_path)
    command.wait_for(tmp_path / f"out/masks/{shapes.names[60]}.png")
    command.kill()
    command.wait()
    (tmp_path / "out/masks/x.png.1.part").touch()  # as a kill may leave it
    code, text = server.run("predict", trained, "images", "--out", "out", cwd=tmp_path)
    assert code == 3, text
    assert [text.count(f"/{name}.png") for name in broken] == [1] * 5
    good = [name for name in shapes.names if name not in broken]
    assert [row["name"] for row in rows_of(tmp_path / "out")] == good
    assert sorted(file.name for file in (tmp_path / "out/masks").iterdir()) == [f"{name}.png" for name in good]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["images", "trainer.epochs=3", "--out", "out"], "trainer.epochs does not matter to predict"),
        (["nowhere/*.png", "--out", "out"], "no such file, folder or pattern"),
        (["seed=1.png", "--out", "out"], "no such file, folder or pattern"),
        (["out/masks", "--out", "out"], "is in a folder where predictions are written"),
        (["images", "--out", "out"], "it holds masks, which segtrain predict did not write"),
        (["images", "--out", "images/val_00000.png"], "is a file"),
    ],
)
def test_what_is_refused(segtrain, trained, images, tmp_path, words, what):
    (tmp_path / "out/masks").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "out/masks/a.png")
    refused = segtrain("predict", trained, *words)
    assert refused.code == 2, refused
    assert what in refused.err
    assert not (tmp_path / "out/predictions.csv").exists()


def test_what_changed_is_predicted_again_and_other_rows_stay(segtrain, trained, images, tmp_path):
    def rows():
        return {row["name"]: row for row in rows_of(tmp_path / "out")}

    names = images.names[:3]
    words = [f"images/{name}.png" for name in names]
    assert segtrain("predict", trained, *words, "--out", "out").code == 0
    first = rows()
    changed, deleted, kept = names
    Image.fromarray(images.image(5)).save(tmp_path / f"images/{changed}.png")
    (tmp_path / f"out/masks/{deleted}.png").unlink()
    again = segtrain("predict", trained, *words[:2], "--out", "out")
    assert (again.code, "done before" in again.err) == (0, False), again
    assert (tmp_path / f"out/masks/{deleted}.png").is_file()
    second = rows()
    table = tmp_path / "out/predictions.csv"
    table.write_text(table.read_text().replace(second[deleted]["modified"], "1.7E+18"))  # as a spreadsheet may
    (tmp_path / f"out/overlays/{kept}.jpg").unlink()
    whole = table.read_text()
    table.write_text(whole.replace(",", ";"))
    assert "done before" not in segtrain("predict", trained, *words[:1], "--out", "out").err
    table.write_text(whole)
    assert "1 of 3 images done before" in segtrain("predict", trained, *words, "--out", "out", "trainer.device=cpu").err
    assert (tmp_path / f"out/overlays/{kept}.jpg").is_file()
    assert rows() == second
    assert second.keys() == first.keys()
    assert second[kept] == first[kept]
    assert segtrain("predict", trained, *words, "--out", "out", "--probabilities").code == 0
    assert sorted(file.stem for file in (tmp_path / "out/probabilities").iterdir()) == sorted(names)
    assert rows() == second
    Image.fromarray(images.image(4)).save(tmp_path / f"images/{changed}.png")
    assert "2 of 3 images done before" in segtrain("predict", trained, *words, "--out", "out").err
    assert not (tmp_path / f"out/probabilities/{changed}.npz").exists()  # of the image before
    assert second[deleted] == first[deleted]
    assert second[changed] != first[changed]

    (tmp_path / "other").mkdir()
    Image.fromarray(images.image(4)).save(tmp_path / f"other/{kept}.png")
    other = segtrain("predict", trained, f"other/{kept}.png", "--out", "out")
    assert (other.code, f"images/{kept}.png, which has the same name as other" in other.err) == (2, True), other
    inside = [segtrain("predict", trained, "other", "--out", "other/predicted") for _ in range(2)]
    assert [(one.code, "1 image: " in one.out) for one in inside] == [(0, True)] * 2, inside


def test_what_a_call_does_not_ask_for_stays(segtrain, trained, images, tmp_path):
    """Of an image that has not changed since."""
    words = ["predict", trained, "images", "--out", "out"]
    for more in ([], ["--probabilities", "--no-overlays"], []):
        assert segtrain(*words, *more).code == 0
    for kind in ("masks", "overlays", "probabilities"):
        assert len(list((tmp_path / "out" / kind).iterdir())) == len(images.names), kind


def test_a_folder_that_another_call_writes_into_is_refused(segtrain, trained, images, tmp_path):
    (tmp_path / "out").mkdir()
    lock(tmp_path / "out")  # by this process
    try:
        done = segtrain("predict", trained, "images", "--out", "out")
    finally:
        unlock(tmp_path / "out")
    assert done.code == 2, done
    assert "another process is writing into this folder" in done.err


def test_presence_is_chosen_at_the_size_that_is_predicted(trained):
    """Not at that of the training: areas are pixels."""
    sizes = [(None, 0.5, 0.5), (0.5, 0.5, 0.25), ([8, 8], 0.5, [8, 8]), (0.5, [20, 30], [10, 15]), (None, None, None)]
    for given, dataset, expected in sizes:
        cfg = OmegaConf.create({"inference": {"resize": given}, "dataset": {"resize": dataset}})
        at_original_size(cfg)
        assert (cfg.inference.resize, cfg.dataset.resize) == (expected, None)


def test_linked_folders_are_predicted(tmp_path):
    for name in ("a/x.png", "elsewhere/y.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "a/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "a")
    assert list(find_images([str(tmp_path / "a")])) == ["link/y", "x"]


def test_the_folder_that_a_call_is_made_from_does_not_matter(segtrain, trained, images, tmp_path):
    name = images.names[0]
    assert segtrain("predict", trained, f"images/{name}.png", "--out", "out").code == 0
    Image.fromarray(images.image(3)).save(tmp_path / f"images/{name}.png")
    (tmp_path / "below").mkdir()
    words = ["predict", trained, tmp_path / f"images/{name}.png", "--out", tmp_path / "out"]
    again = segtrain(*words, cwd=tmp_path / "below")
    assert again.code == 0, again


def test_an_image_that_gets_another_name_has_one_row(segtrain, trained, images, tmp_path):
    name = images.names[0]
    assert segtrain("predict", trained, f"images/{name}.png", "--out", "out").code == 0
    Image.fromarray(images.image(1)).save(tmp_path / f"images/{name}.tif")
    both = [f"images/{name}.png", f"images/{name}.tif", f"./images/{name}.tif"]
    assert segtrain("predict", trained, *both, "--out", "out").code == 0
    assert [row["name"] for row in rows_of(tmp_path / "out")] == [f"{name}.png", f"{name}.tif"]
    assert sorted(file.name for file in (tmp_path / "out/masks").iterdir()) == [f"{name}.png.png", f"{name}.tif.png"]
    (tmp_path / "all").mkdir()
    (tmp_path / "images").rename(tmp_path / "all/images")
    assert segtrain("predict", trained, "all", "--out", "by_folder").code == 0
    before = rows_of(tmp_path / "by_folder")
    assert segtrain("predict", trained, f"all/images/{name}.png", "--out", "by_folder").code == 0
    assert [row for row in rows_of(tmp_path / "by_folder") if row["name"].startswith("images/")] == before
    assert (tmp_path / f"by_folder/masks/images/{name}.png.png").is_file(), "of another call"


def test_presence_needs_a_background(segtrain, trained, images, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    file = run / "config.yaml"
    file.write_text(re.sub(r"^  background: 0$", "  background: null", file.read_text(), count=1, flags=re.MULTILINE))
    words = ["predict", "run", f"images/{images.names[0]}.png", "--out", "out", "inference.presence=best"]
    done = segtrain(*words)
    assert done.code == 2, done
    assert "Traceback" not in done.err


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, caplog):
    for name in ("open", "closed"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / name / f"{name}.png")
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [*find_images([str(tmp_path / "images")])] == ["open/open"]
    assert f"left out, because it cannot be read: {tmp_path / 'images/closed'} (Permission denied)" in caplog.text


def test_hidden_files_and_what_was_written_before_are_no_images_of_a_folder(tmp_path):
    for name in ("a/x.png", "a/._x.png", "a/.thumbs/x.png", "a/out/masks/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert list(find_images([str(tmp_path / "a")])) == ["out/masks/x", "x"]
    (tmp_path / "a/out/predict.json").write_text("{}")
    assert list(find_images([str(tmp_path / "a")])) == ["x"]


def test_names_of_files_folders_and_patterns(tmp_path):
    for name in ("a/x.png", "a/b/x.png", "a/b/y.jpg", "a/b/y.png", "c/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert list(find_images([str(tmp_path / "a")])) == ["b/x", "b/y.jpg", "b/y.png", "x"]
    assert list(find_images([str(tmp_path / "a/b/*.png")])) == ["x", "y"]
    assert list(find_images([str(tmp_path / "c/x.png")])) == ["x"]
    assert sorted(find_images([str(tmp_path / "a/*")])) == ["b/x", "b/y.jpg", "b/y.png", "x"]
    assert sorted(find_images([str(tmp_path / "?")])) == ["a/b/x", "a/b/y.jpg", "a/b/y.png", "a/x", "c/x"]
    with pytest.raises(ConfigError, match="2 images have the name x"):
        find_images([str(tmp_path / "a/x.png"), str(tmp_path / "c/x.png")])


def test_masks_beside_the_images_are_not_predicted(caplog):
    files = {name: Path(f"test/{name}.png") for name in ("a", "a_mask", "b", "c_mask")} | {
        "d": Path("other/a_mask.jpg")
    }
    caplog.set_level("INFO")
    assert [*without_masks(files, "{stem}_mask.png")] == ["a", "b", "c_mask", "d"]
    assert "1 file left out, masks by the run's dataset.masks={stem}_mask.png" in caplog.text
    for pattern in ("", "label", "{stem}.png", "../masks/{stem}_mask.png", "{stem}_{class}.png"):
        assert without_masks(files, pattern) == files


def test_what_is_no_image_is_said(tmp_path, caplog):
    for name in ("a/x.png", "a/y.tga", "b/z.tga"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    for word in ("a", "a/*"):
        assert list(find_images([str(tmp_path / word)])) == ["x"]
    assert caplog.text.count("1 file left out, because their formats are not read: ") == 2
    for word, what in (("b", "no image in it"), ("b/*", "no image in it"), ("c", "no such file, folder or pattern")):
        with pytest.raises(ConfigError, match=what):
            find_images([str(tmp_path / word)])


class Plain(torch.nn.Module):
    """Logits that depend on the pixels around, and so on the border of a window."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(3, 3, 5, padding=2)

    def forward(self, images):
        return self.layer(images.float() / 255)


@pytest.mark.parametrize("presence", [None, {"area": 900, "confidence": 0.34}])
@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize(("window", "overlap"), [(None, 0.5), ([16, 24], 0.5), ([16, 16], 0.7), ([64, 8], 0.0)])
def test_an_image_in_bands_is_the_image_at_once(window, overlap, multilabel, presence):
    image = np.random.default_rng(0).integers(0, 256, (53, 61, 3)).astype(np.uint8)
    inference = Inference(window=window, overlap=overlap, presence=presence)
    predictor = Predictor(Plain(), torch.device("cpu"), torch.no_grad, multilabel, inference, background=0)
    logits = predictor.logits(torch.from_numpy(image).permute(2, 0, 1)[None])
    found = predictor.image(image, keep_probabilities=True)
    assert np.array_equal(found.mask, predictor.decide(logits)[0].numpy())
    probability = predictor.probabilities(logits)[0]
    assert np.array_equal(found.confidence, probability.amax(dim=(1, 2)).numpy())
    assert np.array_equal(found.probabilities, probability.half().numpy())


@pytest.mark.parametrize(("flips", "scales"), [([], [1.0]), (["horizontal"], [1.0, 0.5])])
@pytest.mark.parametrize("resize", [[24, 31], 0.4, 1.6])
def test_a_large_image_that_is_resized_in_strips_is_the_image_at_once(resize, flips, scales, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (53, 61, 3)).astype(np.uint8)
    inference = Inference(resize=resize, flips=flips, scales=scales)
    predictor = Predictor(Plain(), torch.device("cpu"), torch.no_grad, False, inference)
    whole = predictor.image(image, keep_probabilities=True)
    monkeypatch.setattr("segtrain.inference.predictor.LARGE", 1000)
    monkeypatch.setattr("segtrain.inference.predictor.STRIP", 7)
    strips = predictor.image(image, keep_probabilities=True)
    assert np.abs(strips.probabilities.astype(float) - whole.probabilities).max() <= 2e-3  # float16
    assert (strips.mask == whole.mask).mean() > 0.999


@pytest.fixture
def small_is_large(monkeypatch):
    """Images of more than 2,000 pixels count as large."""
    for module in (predict, inputs, large_images):
        monkeypatch.setattr(module, "LARGE", 2000)
    monkeypatch.setattr(large_images, "SMALLEST_WINDOW", 32)
    large_images.say_once.cache_clear()
    monkeypatch.setattr(predict, "log_to_screen", lambda: None)


def write_large(folder):
    """An image of 75 × 90 pixels: as PNG, and as TIFF in tiles and strips."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (75, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    tifffile.imwrite(folder / "tiles.tif", pixels, tile=(32, 32), photometric="rgb", compression="zlib")
    tifffile.imwrite(folder / "strips.tif", pixels, rowsperstrip=8, photometric="rgb", compression="zlib")


def test_large_images_are_read_and_predicted_a_few_rows_at_a_time(trained, tmp_path, small_is_large, caplog):
    write_large(tmp_path / "large")
    with caplog.at_level("INFO"):
        assert run_command("predict", [str(trained), str(tmp_path / "large"), "--out", str(tmp_path / "out")]) == 0
    assert caplog.text.count("are predicted in windows of [32, 32]") == 1
    masks = [np.asarray(Image.open(file)) for file in sorted((tmp_path / "out/masks").iterdir())]
    assert len(masks) == 3
    assert all(np.array_equal(mask, masks[0]) for mask in masks)
    overlays = [file.read_bytes() for file in (tmp_path / "out/overlays").iterdir()]
    assert set(overlays) == {overlays[0]}
    pixels = np.asarray(Image.open(tmp_path / "large/picture.png"))
    run = load(str(trained), overrides=["inference.window=[32,32]"])
    assert np.array_equal(predict.prepared(run).image(pixels).mask, masks[0])


def test_a_stop_signal_does_not_wait_for_the_end_of_a_large_image(trained, tmp_path, small_is_large, monkeypatch):
    write_large(tmp_path / "large")
    rows = []

    def leave():
        rows.append(1)
        if len(rows) == 4:
            raise Preempted("stopped")

    monkeypatch.setattr(predict, "leave_if_stopped", leave)
    with pytest.raises(Preempted):
        run_command("predict", [str(trained), str(tmp_path / "large"), "--out", str(tmp_path / "out")])
    assert rows_of(tmp_path / "out") == []


def test_an_image_whose_probabilities_are_more_than_the_memory_is_left_out(
    trained, tmp_path, small_is_large, monkeypatch, caplog
):
    write_large(tmp_path / "large")
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(tmp_path / "large/small.png")
    monkeypatch.setattr(large_images, "free_memory", lambda device: 90_000)
    words = [str(trained), str(tmp_path / "large"), "--out", str(tmp_path / "out")]
    assert run_command("predict", [*words, "--probabilities"]) == 3
    assert [row["name"] for row in rows_of(tmp_path / "out")] == ["small"]
    assert "75×90 pixels with --probabilities take at least 0.0 GB" in caplog.text
    assert "1 image with no value above 16 of 255 (small). If they have 10 or 12 bits" in caplog.text


def test_damage_at_the_end_of_a_large_tiff_is_named(trained, tmp_path, small_is_large, caplog):
    write_large(tmp_path / "large")
    with tifffile.TiffFile(tmp_path / "large/strips.tif") as tiff:
        place = tiff.pages[0].dataoffsets[-1]
    with (tmp_path / "large/strips.tif").open("r+b") as stream:
        stream.seek(place)
        stream.write(bytes(40))
    assert run_command("predict", [str(trained), str(tmp_path / "large"), "--out", str(tmp_path / "out")]) == 3
    assert "strips.tif" in caplog.text
    assert [row["name"] for row in rows_of(tmp_path / "out")] == ["picture", "tiles"]
    assert not (tmp_path / "out/masks/strips.png").exists()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["tif", "png", "jpg"])
def test_an_image_of_12000_by_12000_pixels_takes_less_than_2_gb(trained, tmp_path, figure, kind):
    row = np.random.default_rng(0).integers(0, 256, (1, 24 * 512, 3), dtype=np.uint8)  # of whole tiles
    tifffile.imwrite(
        tmp_path / "image.tif",
        (np.repeat(row, 512, axis=0)[:, i : i + 512] for _ in range(24) for i in range(0, 12000, 512)),
        shape=(12000, 12000, 3),
        dtype=np.uint8,
        tile=(512, 512),
        photometric="rgb",
        compression="zlib",
    )
    if kind != "tif":
        picture = Image.fromarray(tifffile.imread(tmp_path / "image.tif"))
        picture.save(tmp_path / f"image.{kind}")
        del picture
    code = (
        "import sys; from segtrain.cpu import keep_memory; keep_memory()\n"
        "from segtrain.cli import run_command; assert run_command('predict', sys.argv[1:]) == 0\n"
        # not ru_maxrss, which begins with the memory of the process that started this one
        "print('peak', open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    words = [str(trained), f"image.{kind}", "--out", "out", "inference.overlap=0"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split("peak ")[1]) * 1024
    figure(f"12,000 × 12,000 pixels, {kind}", f"{peak / 1e9:.2f} GB")
    assert peak < 2e9


def test_a_prediction_that_cannot_be_written_is_an_error(segtrain, trained, images, tmp_path):
    words = ["predict", trained, f"images/{images.names[0]}.png", "--out", "out"]
    assert segtrain(*words).code == 0
    shutil.rmtree(tmp_path / "out/masks")
    (tmp_path / "out/masks").write_text("in the way")
    done = segtrain(*words)
    assert done.code == 5, done
