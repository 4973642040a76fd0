"""Images under two settings: scores by hand, which are shown, pictures by the networks of real runs."""

import json
import re

import numpy as np
import pytest
from conftest import TINY, write_folder_dataset
from test_compare import make_run

from segtrain.comparison.images import _of, most_different


def test_the_score_of_an_image_by_hand():
    counts = np.zeros((3, 4, 3), int)  # image, (tp, fp, fn, valid), class
    counts[0, :3] = [[50, 6, 0], [2, 0, 0], [0, 2, 4]]  # IoU 6/8 and 0/4
    counts[1, :3] = [[60, 0, 0], [0, 0, 3], [3, 0, 0]]  # a clean image with a false alarm
    counts[2, :3] = [[60, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert _of(counts, np.array([False, True, True])).tolist() == [0.375, 0.0, 1.0]


def test_gains_come_before_losses():
    values = np.array([[0.5, 0.5, 0.5, 0.5, 0.5], [0.6, 0.9, 0.1, 0.5, 0.4]])
    assert most_different(values, 0, 1, 4) == [1, 0, 2, 4]
    assert most_different(values, 0, 1, 1) == [1]
    assert most_different(values, 0, 0, 4) == []


def test_the_page_draws_image_against_image(segtrain, tmp_path):
    for k in range(2):
        make_run(tmp_path / f"sweep/{k}", {"trainer": {"name": "</script>" * k}}, 0.5 + 0.1 * k)
    done = segtrain("compare", "sweep", "--out", "report")
    assert done.code == 0, done
    assert "no pictures on the page: " in done.out
    page = (tmp_path / "report/comparison.html").read_text()
    content = json.loads(re.search(r"const images = (.*);\n", page)[1])
    assert len(content["names"]) == len(content["values"][0]) == 40
    assert "</script>" not in page.split("<script>")[1].removesuffix("</script>\n</body></html>\n").rstrip()[:-20]


@pytest.mark.slow
def test_baseline_and_best_predict_the_same_images(segtrain, tmp_path):
    write_folder_dataset(tmp_path / "data", classes=2)
    words = [*(word for word in TINY if not word.startswith("dataset")), "dataset=folder", "dataset.root=data"]
    words += [
        "dataset.num_classes=2",
        "model.encoder=resnet18",
        "dataset.channels=1,3",
    ]  # each is shown the images it knows
    swept = segtrain("-m", *words, "hydra.sweep.dir=sweep")
    assert swept.code == 0, swept
    done = segtrain("compare", "sweep", "--out", "report", "--pictures", "2")
    assert done.code == 0, done
    assert "no pictures" not in done.out
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", (tmp_path / "report/comparison.html").read_text())
    assert 1 <= len(captions) <= 2
    assert all(re.fullmatch(r"\w+: IoU [\d.]+ → [\d.]+ %", caption) for caption in captions), captions
