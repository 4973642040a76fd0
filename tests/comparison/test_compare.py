"""`segtrain compare` on folders of runs that were made by hand: repeats, baselines, other images, damage, the page."""

import base64
import csv
import dataclasses
import itertools
import json
import shutil
import sys

import numpy as np
import pytest
import yaml

from segtrain.comparison import statistics
from segtrain.comparison.answer import answer
from segtrain.comparison.resampled import foreground_of
from segtrain.comparison.runs import find_runs, without_copies
from segtrain.comparison.settings import settings_from, varied_keys, without_parts
from segtrain.comparison.verdict import compare, direction_and_unit
from segtrain.config.choices import settings_of
from segtrain.errors import ConfigError
from segtrain.files import read_arrays, write_arrays, write_json
from segtrain.metrics.groups.presence import Presence
from segtrain.metrics.table import Classes, Table
from segtrain.report.comparison import comparison_table
from segtrain.report.pages.comparison import over_number
from segtrain.runs.environment import signature

CLASSES = ["background", "rare"]


def make_run(folder, settings, iou, seed=0, images=40, status="finished", names=None, error=None, group=None):
    """A run whose images have about this IoU of the rare class."""
    rng = np.random.default_rng([seed, int(1000 * iou)])
    truth = np.stack([np.full(images, 900), np.full(images, 100)], axis=1)
    shared = np.random.default_rng(5).normal(0, 0.1, images)
    right = np.clip(100 * (iou + shared + rng.normal(0, 0.02, images)), 1, 99).astype(int)
    tp = np.stack([np.full(images, 900), right], axis=1)
    fp = np.stack([100 - right, np.zeros(images, int)], axis=1)
    folder.mkdir(parents=True)
    names = names or [f"{i:03}" for i in range(images)]
    counts = {"tp": tp, "fp": fp, "fn": truth - tp, "valid": np.full((images, 2), 1000)}
    write_arrays(folder / "per_image.npz", {**counts, "names": np.array(names), "classes": np.array(CLASSES)})
    means = {f"iou/{n}": float(tp[:, c].sum() / (truth + fp)[:, c].sum()) for c, n in enumerate(CLASSES)}
    scores = {"iou/mean": sum(means.values()) / 2, **means, "accuracy": float(tp.sum() / truth.sum())}
    best = {"epoch": 3, "monitor": "iou/mean", "value": scores["iou/mean"]}
    write_json(folder / "result.json", {"status": status, "best": best, "scores": scores, "error": error})
    config = {"seed": seed, "dataset": {"background": 0, "palette": None}, "loss": {"_target_": "x"}, **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    content = {"command": f"segtrain {folder.name}", "signature": group or str(settings)}
    write_json(folder / "environment.json", content)
    return folder


@pytest.fixture
def sweep(tmp_path):
    for alpha, iou in ((0, 0.50), (0.5, 0.56), (1.0, 0.565)):
        for seed in (0, 1, 2):
            make_run(tmp_path / f"sweep/{alpha}_{seed}", {"trainer": {"alpha": alpha}}, iou + 0.003 * seed, seed)
    return tmp_path / "sweep"


def rows_of(folder):
    with (folder / "comparison.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_a_row_a_setting_and_the_answer_in_a_sentence(segtrain, sweep, tmp_path):
    done = segtrain("compare", "sweep", "--out", "report")
    assert done.code == 0, done
    first = done.out.splitlines()[0]
    assert first.startswith("alpha=1: +3.6")
    assert "iou/mean over alpha=0, 95 % interval" in first
    assert "3 seeds, 40 images; the gain is in rare" in first
    assert "The best cannot be told apart from alpha=0.5." in done.out
    rows = rows_of(tmp_path / "report")
    assert [row["trainer.alpha"] for row in rows] == ["1", "0.5", "0"]
    assert [row["seeds"] for row in rows] == ["3"] * 3
    assert rows[0]["real"] == "True"
    content = json.loads((tmp_path / "report/comparison.json").read_text())["comparisons"][0]
    assert content["answer"][0] == first
    assert len(content["settings"][0]["runs"]) == 3
    assert all(len(line) <= 120 for line in done.out.splitlines()[3:])


def test_the_page_needs_no_network_and_escapes_names(segtrain, tmp_path):
    for k, value in enumerate(("<script>alert(1)</script>", "plain", "\x1b[31mred")):
        make_run(tmp_path / f"sweep/{k}", {"trainer": {"name": value}}, 0.5 + 0.1 * k)
    done = segtrain("compare", "sweep", "--out", "report")
    assert done.code == 0, done
    assert "\x1b" not in done.out
    page = (tmp_path / "report/comparison.html").read_text()
    assert "<script>alert" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize("baseline", ["alpha=0.5", "trainer.alpha=0.5", "sweep/0.5_1", "./sweep/0.5_1/"])
def test_a_baseline_is_a_setting_or_a_run(segtrain, sweep, baseline):
    done = segtrain("compare", "sweep", "--baseline", baseline)
    assert done.code == 0, done
    assert "from alpha=0.5" in done.out.splitlines()[0]


def test_a_baseline_that_is_none_of_them_is_refused_with_what_there_is(segtrain, sweep):
    done = segtrain("compare", "sweep", "--baseline", "alpha=7")
    assert done.code == 2
    assert "one of: alpha=1; alpha=0.5; alpha=0" in done.err


def test_one_seed_speaks_of_other_images_only(tmp_path):
    for alpha, iou in ((0, 0.5), (1, 0.6)):
        make_run(tmp_path / f"{alpha}", {"trainer": {"alpha": alpha}}, iou)
    found = compare(settings_from(find_runs([tmp_path])[0]))
    assert "not for other trainings" in " ".join(answer(found))


def test_what_cannot_be_told_apart_is_said_with_what_it_would_take(tmp_path):
    for alpha, iou in ((0, 0.5), (1, 0.508)):
        for seed in (0, 1):
            make_run(tmp_path / f"{alpha}_{seed}", {"trainer": {"alpha": alpha}}, iou + 0.01 * seed, seed)
    text = answer(compare(settings_from(find_runs([tmp_path])[0])))[0]
    assert text.startswith("Cannot tell alpha=")
    assert "It would take about" in text


def test_other_images_are_compared_apart_and_failures_are_named(segtrain, sweep, tmp_path):
    make_run(tmp_path / "sweep/other", {"trainer": {"alpha": 9}}, 0.9, names=[f"x{i:03}" for i in range(40)])
    make_run(tmp_path / "sweep/elsewhere", {"trainer": {"alpha": 9}}, 0.9, names=[f"y{i:03}" for i in range(40)])
    make_run(tmp_path / "sweep/killed", {"trainer": {"alpha": 2}}, 0.9, status="preempted", error="stopped")
    make_run(tmp_path / "sweep/odd", {"trainer": {"alpha": 3}}, 0.9)
    write_arrays(
        tmp_path / "sweep/odd/per_image.npz",
        dict.fromkeys(("tp", "fp", "fn", "valid", "names", "classes"), np.zeros(3)),
    )
    (tmp_path / "sweep/damaged").mkdir()
    (tmp_path / "sweep/damaged/result.json").write_text("{")
    done = segtrain("compare", "sweep", "--out", "report")
    assert done.code == 0, done
    assert "3 groups of runs with different images or classes" in done.out
    assert "1 setting; 2 classes; 40 images with other names; such as sweep/other" in done.out
    assert "not compared, preempted: sweep/killed: stopped" in done.out
    assert "sweep/damaged: not JSON" in done.out
    assert "sweep/odd: not the counts of a run" in done.out
    assert (tmp_path / "report/comparison2.html").is_file()


def test_only_finished_trainings_count_each_of_them_once(segtrain, sweep, tmp_path):
    first = segtrain("compare", "sweep").out
    for status in ("running", "failed", "preempted", "pruned"):
        make_run(tmp_path / f"sweep/{status}", {"trainer": {"alpha": 0}}, 0.1, seed=3, status=status)
    shutil.copytree(sweep / "1.0_0", sweep / "1.0_0_repeat")
    jobs = [{"folder": name, "overrides": ["loss.alpha=0", "x=[1,2]"], "config": ""} for name in ("0_0", "never")]
    write_json(sweep / "sweep.json", {"jobs": jobs})
    done = segtrain("compare", "sweep", "sweep/", "--out", "report")
    assert done.out.startswith(first.split("\n\n")[0]), done
    for line in (
        "not compared, running or killed: sweep/running",
        "not compared, pruned: sweep/pruned",
        "not counted again: sweep/1.0_0_repeat, because sweep/1.0_0 has the same settings and seed",
        "1 of 2 jobs of sweep were not started",
    ):
        assert done.out.count(line) >= 1, line
        assert line in (tmp_path / "report/comparison.html").read_text()
    content = json.loads((tmp_path / "report/comparison.json").read_text())
    commands = [setting["command"] for setting in content["comparisons"][0]["settings"]]
    assert commands[-1] == "segtrain loss.alpha=0 'x=[1,2]'", "that of a job, not that of the sweep"


def test_of_a_search_the_final_trainings_are_compared(tmp_path):
    above, tmp_path = tmp_path, tmp_path / "found"
    names = ["00_as_it_is", "01_alpha=1", "02_seed=1,as_it_is", "03_seed=1,alpha=1"]
    jobs = [{"folder": name, "overrides": [], "config": ""} for name in names]
    write_json(tmp_path / "sweep.json", {"jobs": jobs})
    write_json(tmp_path / "find.json", {"candidates": 2})
    for number, name in enumerate(names[:2]):
        make_run(tmp_path / name, {"trainer": {"alpha": number, "epochs": 1}}, 0.3)
    assert len(find_runs([tmp_path])[0]) == 2  # it is not that far
    for number, name in enumerate(names[2:]):
        make_run(tmp_path / name, {"trainer": {"alpha": number, "epochs": 9}}, 0.5, seed=1)
    for folder in (tmp_path, above):
        runs, left_out = find_runs([folder])
        assert [run.path.name for run in runs] == names[2:]
    assert len(find_runs([tmp_path / names[0]])[0]) == 1, "it is named itself"
    assert left_out == [f"{tmp_path}: 2 shorter trainings from the stages of the search are left out"]


def test_runs_on_other_training_images_are_no_repeats(tmp_path):
    for number, (root, fingerprint) in enumerate((("a", "1"), ("b", "1"), ("c", "2"))):
        run = make_run(tmp_path / root, {"dataset": {"root": root}}, 0.5 + 0.05 * number, seed=number, group="same")
        write_json(run / "environment.json", {"signature": "same", "dataset_fingerprint": fingerprint})
    settings = settings_from(find_runs([tmp_path])[0])
    assert [(setting.label, len(setting.repeats)) for setting in settings] == [("root=a", 2), ("root=c", 1)]


def test_a_run_of_an_unknown_dataset_is_a_repeat(tmp_path):
    for seed, more in enumerate(({}, {"dataset_fingerprint": "1"})):  # the first of an earlier version
        run = make_run(tmp_path / str(seed), {}, 0.5, seed=seed, group="same")
        write_json(run / "environment.json", {"signature": "same", **more})
    assert [len(setting.repeats) for setting in settings_from(find_runs([tmp_path])[0])] == [2]


def test_folders_that_a_sweep_varies_are_settings(tmp_path):
    jobs = [{"folder": root, "overrides": [f"dataset.root={root}"], "config": ""} for root in ("a", "b")]
    write_json(tmp_path / "sweep.json", {"jobs": jobs})
    for root in ("a", "b"):
        run = make_run(tmp_path / root, {"dataset": {"root": root}}, 0.5, group="same")
        write_json(run / "environment.json", {"signature": "same", "dataset_fingerprint": "1"})
    alone = make_run(tmp_path / "alone/run", {"dataset": {"root": "a"}}, 0.5, seed=1, group="same")
    write_json(alone / "environment.json", {"signature": "same", "dataset_fingerprint": "1"})
    runs, _ = find_runs([tmp_path])
    assert without_copies(runs)[1] == []
    assert {s.label: len(s.repeats) for s in settings_from(runs)} == {"root=a": 2, "root=b": 1}


def test_a_damaged_search_is_left_out(tmp_path):
    make_run(tmp_path / "search/00_as_it_is", {}, 0.5)
    write_json(tmp_path / "search/find.json", {})
    make_run(tmp_path / "run", {}, 0.5)
    runs, unread = find_runs([tmp_path])
    assert len(runs) == 2
    assert unread == [f"{tmp_path / 'search'}: not the state of a search"]


def test_a_run_with_changed_settings_is_one_that_was_started_with_them(tmp_path):
    keys = []
    for name, epochs, changed in (("whole", 4, {}), ("longer", 2, {"trainer.epochs": 4})):
        settings = {"trainer": {"epochs": epochs}, "class_weights": [1, 2], "loss": {"class_weights": [1, 2]}}
        run = make_run(tmp_path / name, settings, 0.5)
        config = {"dataset": {"background": 0, "palette": None}, "trainer": {"epochs": epochs}}
        config["loss"] = {"class_weights": None}
        content = {"signature": signature(config), "resumes": [{"changed": changed}]}
        write_json(run / "environment.json", content)
        keys.append(find_runs([run])[0][0].key)
    assert keys[0] == keys[1]


@pytest.mark.parametrize(("values", "drawn"), [((0, 0.5), True), ((False, True), False), (("a", "b"), False)])
def test_the_score_is_drawn_over_a_number(tmp_path, values, drawn):
    for number, value in enumerate(values):
        make_run(tmp_path / f"{number}", {"trainer": {"alpha": value}}, 0.5)
    chart = over_number(compare(settings_from(find_runs([tmp_path])[0])))
    text = base64.b64decode(chart.partition(",")[2]).decode()
    assert ("iou/mean over alpha" in text, "%" in text) == (drawn, drawn)


def test_images_of_one_group_say_nothing_of_others(sweep):
    for file in sweep.glob("*/per_image.npz"):
        write_arrays(file, {**read_arrays(file), "groups": np.full(40, "drive")})
    runs = find_runs([sweep])[0]
    assert "All images belong to one group (dataset.groups)" in " ".join(answer(compare(settings_from(runs))))
    alone = " ".join(answer(compare(settings_from([run for run in runs if run.seed == 0]))))
    assert alone.startswith("Cannot tell alpha=1 from alpha=0")
    assert "interval" not in alone
    assert "One training each: this holds for these images alone" in alone


def test_runs_without_counts_are_compared_by_their_scores(sweep):
    for file in sweep.glob("1.0_*/per_image.npz"):
        file.unlink()
    found = compare(settings_from(find_runs([sweep])[0]))
    assert (found.images, found.class_gains) == (0, {})
    assert found.settings[0].label == "alpha=1"
    told = " ".join(answer(found))
    assert "3 seeds" in told
    assert "images" not in told.partition(".")[0]
    assert "There are no counts of single images: this holds for these images only." in told


def test_a_class_of_a_single_image_is_never_really_better(sweep):
    for file in sweep.glob("*/per_image.npz"):
        counts = read_arrays(file)
        counts["tp"][1:, 1] = counts["fn"][1:, 1] = 0
        write_arrays(file, counts)
    settings = settings_from(find_runs([sweep])[0])
    found = compare(settings, "accuracy")
    assert "rare" not in found.class_gains
    assert "rare is in a single image: the intervals say nothing about others." in answer(found)
    alone = compare([setting for setting in settings if setting.label != "alpha=0.5"], "iou/rare")
    assert alone.scores.groups == 1
    assert "A single image decides iou/rare: this holds for these images only." in answer(alone)


def test_groups_that_only_some_runs_know_count_for_all(tmp_path):
    runs = [make_run(tmp_path / f"{alpha}", {"trainer": {"alpha": alpha}}, 0.5 + alpha / 10) for alpha in (0, 1)]
    file = runs[1] / "per_image.npz"
    write_arrays(file, {**read_arrays(file), "groups": np.repeat([*"abcdefgh"], 5)})
    found = compare(settings_from(find_runs([tmp_path])[0]))
    assert (found.images, found.groups) == (40, 8)


def test_without_a_background_every_class_is_foreground(tmp_path):
    make_run(tmp_path / "0", {"dataset": {"background": None, "palette": None}}, 0.5)
    (setting,) = settings_from(find_runs([tmp_path])[0])
    assert foreground_of(setting).tolist() == [True, True]


def test_a_class_in_two_images_is_in_every_draw(tmp_path):
    for alpha in (0, 1):
        run = make_run(tmp_path / f"{alpha}", {"trainer": {"alpha": alpha}}, 0.5)
        arrays = read_arrays(run / "per_image.npz")
        arrays["tp"][:], arrays["fp"][:], arrays["fn"][:] = [100, 0], [0, 10 * alpha], 0
        arrays["fn"][:2, 1] = 10  # never found
        write_arrays(run / "per_image.npz", arrays)
    found = compare(settings_from(find_runs([tmp_path])[0]), by="iou/mean")
    assert all((draws == 0.5).all() for draws in found.scores.draws)
    assert found.pixels.tolist() == [100 * 40, 10 * 2]


def test_a_class_in_a_single_image_says_nothing_of_others(tmp_path):
    for alpha, iou in ((0, 0.5), (1, 0.7)):
        run = make_run(tmp_path / f"{alpha}", {"trainer": {"alpha": alpha}}, iou)
        arrays = read_arrays(run / "per_image.npz")
        for name in ("tp", "fp", "fn"):
            arrays[name][1:, 1] = 0
        write_arrays(run / "per_image.npz", arrays)
    settings = settings_from(find_runs([tmp_path])[0])
    found = compare(settings, by="iou/rare")
    assert not found.real.any()
    text = " ".join(answer(found))
    assert "A single image decides iou/rare: this holds for these images only." in text
    assert "interval" not in text.partition(".")[0]
    found = compare(settings)
    assert "rare" not in found.class_gains
    assert "; the gain is in background (+2.0), perhaps also in rare (+16.0)" in answer(found)[0]
    assert "rare is in a single image: the intervals say nothing about others." in answer(found)


def test_seeds_that_differ_more_than_those_of_others_are_named(tmp_path):
    for alpha, ious in enumerate([(0.3, 0.5, 0.7), *[(0.50 + k / 100, 0.51, 0.52) for k in range(5)]]):
        for seed, iou in enumerate(ious):
            make_run(tmp_path / f"{alpha}_{seed}", {"trainer": {"alpha": alpha}}, iou, seed)
    text = " ".join(answer(compare(settings_from(find_runs([tmp_path])[0]))))
    assert text.count("differ by more than those of the others (± ") == 1
    assert "The seeds of alpha=0 differ" in text


def test_a_score_and_a_setting_of_one_name_have_a_column_each(segtrain, tmp_path):
    for name, iou in (("ce", 0.5), ("ce_dice", 0.6)):
        make_run(tmp_path / f"sweep/{name}", {"loss": name}, iou)
        result = json.loads((tmp_path / f"sweep/{name}/result.json").read_text())
        result["scores"]["loss"] = iou
        result.pop("checksum")
        write_json(tmp_path / f"sweep/{name}/result.json", result)
    done = segtrain("compare", "sweep", "--out", "report")
    assert done.code == 0, done
    assert [(row["loss"], row["score/loss"]) for row in rows_of(tmp_path / "report")] == [
        ("ce_dice", "0.6"),
        ("ce", "0.5"),
    ]


def test_a_table_of_many_settings_fits(tmp_path):
    long = {name: f"{name} of a long option" for name in ("loss", "weighting", "sampling", "optimizer", "schedule")}
    for alpha, iou in ((0, 0.5), (1, 0.6)):
        settings = {key: f"{value} {alpha}" for key, value in long.items()}
        make_run(tmp_path / f"{alpha}", {**settings, "augment": dict(settings), "labels": dict(settings)}, iou)
    text = comparison_table(compare(settings_from(find_runs([tmp_path])[0])))
    assert max(map(len, text.splitlines())) <= 120


def test_runs_below_a_folder_of_any_name(tmp_path):
    make_run(tmp_path / "evaluation/one", {"loss": "ce"}, 0.5)
    assert len(find_runs([tmp_path / "evaluation"])[0]) == 1


def test_a_setting_is_a_baseline_by_its_label(sweep):
    settings = settings_from(find_runs([sweep])[0])
    label = next(setting.label for setting in settings if setting.varied["trainer.alpha"] == 0.5)
    found = compare(settings, baseline=label)
    assert found.settings[found.baseline].label == label


def test_a_seed_of_which_a_fold_is_missing_is_left_out(tmp_path):
    for alpha, folds in ((0, (0, 1)), (1, (0,)), (2, (0, 1))):
        for fold in folds:
            settings = {"trainer": {"alpha": alpha}, "dataset": {"splits": "kfold", "fold": fold, "background": 0}}
            names = [f"{fold}-{i}" for i in range(10)]
            make_run(tmp_path / f"{alpha}_{fold}", settings, 0.5, images=10, names=names)
    settings, lines = without_parts(settings_from(find_runs([tmp_path])[0]))
    assert [setting.varied["trainer.alpha"] for setting in settings] == [0, 2]
    assert lines == [f"left out: {tmp_path / '1_0'}, because other folds of it are missing"]
    assert compare(settings).images == 20


def test_folds_are_ordered_by_what_they_score_together(tmp_path):
    """The mean over the folds is another score where they show a class in unlike amounts, or not at all."""
    quality = {0: (0.6, 0.6), 1: (0.9, 0.5), 2: (0.4, 0.7)}  # of a fold with small objects, and one with large ones
    for alpha, fold in itertools.product(quality, (0, 1)):
        make_fold(tmp_path / f"{alpha}_{fold}", alpha, fold, quality[alpha][fold])
    settings, lines = without_parts(settings_from(find_runs([tmp_path])[0]))
    found = compare(settings, by="iou/rare")
    assert not lines
    assert [setting.varied["trainer.alpha"] for setting in found.settings] == [2, 0, 1]
    assert found.scores.means.tolist() == sorted(found.scores.means, reverse=True)


def test_a_class_that_is_not_in_every_fold_is_compared(tmp_path):
    for alpha, fold in itertools.product((0, 1), (0, 1)):
        make_fold(tmp_path / f"{alpha}_{fold}", alpha, fold, 0.5 + 0.2 * alpha, pixels=(0, 2000))
    found = compare(settings_from(find_runs([tmp_path])[0]), by="iou/rare")
    assert found.scores.means == pytest.approx([0.7, 0.5])


def make_fold(folder, alpha, fold, quality, pixels=(50, 2000)):
    """A run of one of two folds that finds such a share of the rare class."""
    dataset = {"splits": "kfold", "fold": fold, "folds": 2, "background": 0, "root": "data"}
    names = [f"{fold}-{i}" for i in range(10)]
    make_run(folder, {"trainer": {"alpha": alpha}, "dataset": dataset}, 0.5, images=10, names=names)
    truth = np.stack([np.full(10, 10000), np.full(10, pixels[fold])], axis=1)
    tp = (truth * [1, quality]).round().astype(int)
    missed = truth - tp
    counts = {"tp": tp, "fp": missed[:, ::-1] * [1, 0], "fn": missed, "valid": np.repeat(truth.sum(1)[:, None], 2, 1)}
    write_arrays(folder / "per_image.npz", {**counts, "names": np.array(names), "classes": np.array(CLASSES)})
    result = json.loads((folder / "result.json").read_text())
    result["scores"]["iou/rare"] = quality if pixels[fold] else None
    result.pop("checksum")
    write_json(folder / "result.json", result)


def test_folds_of_two_datasets_are_compared_apart(segtrain, tmp_path):
    for alpha, fold, root in itertools.product((0, 1), (0, 1), ("one", "two")):
        dataset = {"splits": "kfold", "fold": fold, "folds": 3, "background": 0, "root": root}
        names = [f"{root}-{fold}-{i}" for i in range(10)]
        settings = {"trainer": {"alpha": alpha}, "dataset": dataset}
        make_run(tmp_path / f"sweep/{root}_{alpha}_{fold}", settings, 0.5 + 0.1 * alpha, images=10, names=names)
    done = segtrain("compare", "sweep", "--out", "report")
    assert done.code == 0, done
    assert "2 groups of runs" in done.out
    assert "left out" not in done.out
    assert "dataset.root=two; such as sweep/two_" in done.out
    assert "iou/mean" not in (tmp_path / "report/comparison.csv").read_text(), (
        "a mean of folds is no score of all images"
    )
    assert "no run of 1 of the 3 folds" in done.out


def test_weights_given_by_hand_are_settings_and_computed_ones_are_not(tmp_path):
    for fold, given in itertools.product((0, 1), ([1, 1], [1, 50])):
        dataset = {"splits": "kfold", "fold": fold, "folds": 2, "background": 0}
        loss = {"_target_": "x", "class_weights": given}
        names = [f"{fold}-{i}" for i in range(10)]
        for weighting in ("none", "log_ratio"):
            config = {"loss": loss, "dataset": dataset, "class_weights": [*given], "weighting": {"_target_": weighting}}
            folder = make_run(tmp_path / f"{weighting}{given}{fold}", config, 0.5, names=names, images=10)
            write_json(folder / "environment.json", {"command": "segtrain", "options": {"weighting": weighting}})
    settings = settings_from(find_runs([tmp_path])[0])
    by_hand = [setting.varied["loss.class_weights"] for setting in settings if setting.varied["weighting"] == "none"]
    assert by_hand == [[1, 1], [1, 50]]
    assert len(settings) == 3


def test_weights_of_an_experiment_are_settings_beside_those_that_are_computed(tmp_path):
    for weight in (3, 30):
        config = {"loss": {"pos_weight": [weight]}, "class_weights": [1, 9], "weighting": {"_target_": "enet"}}
        folder = make_run(tmp_path / f"{weight}", config, 0.5)
        write_json(
            folder / "environment.json", {"command": "segtrain experiment=own", "options": {"weighting": "enet"}}
        )
    assert len(settings_from(find_runs([tmp_path])[0])) == 2


def test_a_baseline_and_a_score_that_one_group_of_runs_has(segtrain, tmp_path):
    for alpha in (0, 1):
        make_run(tmp_path / f"sweep/a{alpha}", {"trainer": {"alpha": alpha}}, 0.5 + 0.1 * alpha)
        folder = make_run(tmp_path / f"sweep/b{alpha}", {"trainer": {"beta": alpha}}, 0.5, images=20)
        result = json.loads((folder / "result.json").read_text())
        result["best"]["monitor"], result["scores"]["precision/rare"] = "precision/rare", None
        result.pop("checksum")
        write_json(folder / "result.json", result)
    done = segtrain("compare", "sweep", "--baseline", "alpha=1")
    assert done.code == 0, done
    assert "2 groups of runs" in done.out
    assert "alpha=1, the baseline, is the best" in done.out
    assert "no setting is alpha=1 among the settings of sweep/b0: comparing with the plainest" in done.out
    assert segtrain("compare", "sweep", "--baseline", "gamma=1").code == 2


def test_what_is_scored_besides_makes_no_setting(tmp_path):
    for seed, metric in enumerate(("standard", "all", "all")):
        settings = {"trainer": {"alpha": 1}, "metric": {"groups": metric}}
        make_run(tmp_path / f"{seed}", settings, 0.5, seed, group=f"signature of {metric}")
    settings = settings_from(find_runs([tmp_path])[0])
    assert [len(setting.repeats) for setting in settings] == [3]
    make_run(tmp_path / "again", {"trainer": {"alpha": 1}, "metric": {"groups": "standard"}}, 0.5, 2, group="another")
    result = json.loads((tmp_path / "again/result.json").read_text())
    result["scores"]["boundary/mean"] = 0.5
    result.pop("checksum")
    write_json(tmp_path / "again/result.json", result)
    runs, lines = without_copies(find_runs([tmp_path])[0])
    assert (len(runs), len(lines)) == (3, 1)
    assert tmp_path / "again" in [run.path for run in runs]  # it has more scores


def test_a_dataset_that_was_moved_is_the_same(segtrain, tmp_path):
    for alpha, fold in itertools.product((0, 1), (0, 1)):
        dataset = {
            "splits": "kfold",
            "fold": fold,
            "folds": 2,
            "background": 0,
            "root": f"{'./' * alpha}elsewhere{alpha}",
        }
        names = [f"{fold}-{i}" for i in range(10)]
        make_run(
            tmp_path / f"sweep/{alpha}_{fold}",
            {"trainer": {"alpha": alpha}, "dataset": dataset},
            0.5,
            images=10,
            names=names,
        )
    done = segtrain("compare", "sweep")
    assert (done.code, "groups of runs" in done.out, "20 images" in done.out) == (0, False, True), done


def test_nothing_is_said_of_chance_where_nothing_is_known(tmp_path):
    for alpha, seed in itertools.product((0, 1), (0, 1)):  # seeds that score the same, as coarse scores often do
        make_run(tmp_path / f"{alpha}_{seed}", {"trainer": {"alpha": alpha}}, 0.5, seed)
        result = json.loads((tmp_path / f"{alpha}_{seed}/result.json").read_text())
        result["scores"]["presence_recall/mean"] = 0.5 + 0.05 * alpha
        result.pop("checksum")
        write_json(tmp_path / f"{alpha}_{seed}/result.json", result)
    found = compare(settings_from(find_runs([tmp_path])[0]), by="presence_recall/mean")
    assert not found.real.any()
    assert np.isnan(found.ranks.best).all()
    assert (found.ranks.low.tolist(), found.ranks.high.tolist()) == ([1, 1], [2, 2])


def test_folds_are_put_together(tmp_path):
    for alpha, iou in ((0, 0.5), (1, 0.6)):
        for fold in range(4):
            settings = {"trainer": {"alpha": alpha}, "dataset": {"splits": "kfold", "fold": fold, "background": 0}}
            names = [f"{fold}-{i}" for i in range(10)]
            make_run(tmp_path / f"{alpha}_{fold}", settings, iou, images=10, names=names)
    found = compare(settings_from(find_runs([tmp_path])[0]))
    assert (found.images, [len(s.repeats) for s in found.settings]) == (40, [1, 1])


def test_scores_that_are_better_low_and_scores_without_counts(tmp_path):
    for alpha, ece in ((0, 0.3), (1, 0.1)):
        make_run(tmp_path / f"{alpha}", {"trainer": {"alpha": alpha}}, 0.5)
        result = json.loads((tmp_path / f"{alpha}/result.json").read_text())
        result["scores"]["ece"], result["lower"] = ece, ["ece"]
        result.pop("checksum")
        write_json(tmp_path / f"{alpha}/result.json", result)
    found = compare(settings_from(find_runs([tmp_path])[0]), by="ece")
    assert [s.varied["trainer.alpha"] for s in found.settings] == [1, 0]
    assert "these images only" in " ".join(answer(found))
    with pytest.raises(ConfigError, match="not all runs have the score dice/mean"):
        compare(settings_from(find_runs([tmp_path])[0]), by="dice/mean")


def test_a_score_of_ones_own_has_the_unit_and_direction_that_the_runs_monitored(tmp_path):
    for alpha, distance in ((0, 31.5), (1, 12.0)):
        run = make_run(tmp_path / f"{alpha}", {"trainer": {"alpha": alpha}}, 0.5)
        result = json.loads((run / "result.json").read_text())
        result["scores"]["distance"] = distance
        own = {"best": {"epoch": 3, "monitor": "distance", "value": distance}, "lower_is_better": True, "unit": "px"}
        write_json(run / "result.json", {k: v for k, v in (result | own).items() if k != "checksum"})
    found = compare(settings_from(find_runs([tmp_path])[0]))
    assert (found.by, found.unit, found.settings[0].varied["trainer.alpha"]) == ("distance", "px", 1)
    assert "-19.5 distance" in " ".join(answer(found)).replace("−", "-")


def test_columns_are_settings_that_tell_runs_apart():
    configs = [
        {"loss": "ce", "loss.alpha": None, "model.encoder": "a", "model.encoder_weights": "x", "dataset.palette": 1},
        {
            "loss": "ce_dice",
            "loss.alpha": 1.0,
            "model.encoder": "a",
            "model.encoder_weights": "x",
            "dataset.palette": 2,
        },
        {
            "loss": "ce_dice",
            "loss.alpha": 0.5,
            "model.encoder": "b",
            "model.encoder_weights": "y",
            "dataset.palette": 3,
        },
    ]
    varied, named = varied_keys(configs)
    assert varied == ["loss", "loss.alpha", "model.encoder"]
    assert named == ["loss", "loss.alpha"]


def test_settings_that_come_with_an_option_are_no_columns():
    configs = [
        {"weighting": "none", "weighting.mu": None, "loss.alpha": 0},
        {"weighting": "log_ratio", "weighting.mu": 0.15, "loss.alpha": 0},
        {"weighting": "median", "weighting.mu": None, "loss.alpha": 1},
    ]
    assert varied_keys(configs)[0] == ["weighting", "loss.alpha"]


def test_a_search_over_two_numbers_shows_both():
    configs = [{"loss.alpha": k / 7, "optimizer.lr": k / 700, "optimizer.half": k / 1400} for k in range(1, 5)]
    varied, named = varied_keys(configs, frozenset({"loss.alpha", "optimizer.lr"}))
    assert varied == named == ["loss.alpha", "optimizer.lr"]


def test_a_number_is_the_same_setting_however_it_is_written(tmp_path):
    for seed, alpha in enumerate((1, 1.0, 1)):
        run = make_run(tmp_path / str(seed), {"loss": {"alpha": alpha}}, 0.5, seed)
        write_json(run / "environment.json", {"command": "", "signature": signature(settings_of(run))})
    make_run(tmp_path / "other", {"loss": {"alpha": 0.5}}, 0.4)
    settings = settings_from(find_runs([tmp_path])[0])
    assert [(setting.label, len(setting.repeats)) for setting in settings] == [("alpha=1", 3), ("alpha=0.5", 1)]
    assert compare(settings, baseline="loss.alpha=1.0").baseline == 0


@pytest.mark.parametrize("wanted", ["size=[1,2],alpha=0", "augment.size=[1, 2],alpha=0", "alpha=0,size=[1,2]"])
def test_a_list_is_the_same_setting_with_and_without_spaces(tmp_path, wanted):
    for size, alpha in (([1, 2], 0), ([1, 2], 1), ([1, 2, 3], 0)):
        settings = {"augment": {"size": size}, "loss": {"alpha": alpha}}
        make_run(tmp_path / f"{len(size)}_{alpha}", settings, 0.5 + alpha / 10)
    found = compare(settings_from(find_runs([tmp_path])[0]), baseline=wanted)
    assert found.settings[found.baseline].label == "alpha=0 size=[1,2]"


@pytest.mark.parametrize(
    ("wanted", "plain", "other"),
    [("decay=null", None, 0.9), ("decay=false", False, True), ("decay=False", False, True)],
)
def test_values_of_a_baseline_are_as_typed(tmp_path, wanted, plain, other):
    make_run(tmp_path / "plain", {"trainer": {"decay": plain}}, 0.5)
    make_run(tmp_path / "other", {"trainer": {"decay": other}}, 0.6)
    settings = settings_from(find_runs([tmp_path])[0])
    for found in (compare(settings, baseline=wanted), compare(settings)):  # which is the plainest, too
        assert found.settings[found.baseline].runs[0].path.name == "plain"


def test_a_class_of_the_name_of_a_column_has_one_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "CLASSES", ["rank", "seeds"])
    for alpha, iou in ((0, 0.5), (1, 0.6)):
        for seed in (0, 1):
            make_run(tmp_path / f"{alpha}_{seed}", {"loss": {"alpha": alpha}}, iou, seed)
    head = comparison_table(compare(settings_from(find_runs([tmp_path])[0]))).splitlines()[2]
    assert all(f" {name} " in f"{head} " for name in ("rank", "seeds", "class seeds")), head


def test_a_setting_that_a_loss_does_not_have_is_not_named(tmp_path):
    make_run(tmp_path / "ce", {"loss": "ce"}, 0.5)
    for alpha in (0.5, 1):
        make_run(tmp_path / f"{alpha}", {"loss": "dice", "loss.alpha": alpha}, 0.6 + 0.1 * alpha)
    found = compare(settings_from(find_runs([tmp_path])[0]))
    assert [setting.label for setting in found.settings] == ["loss=dice alpha=1", "loss=dice alpha=0.5", "loss=ce"]
    assert " – " in comparison_table(found)
    assert found.settings[compare([*found.settings], baseline="loss=ce").baseline].label == "loss=ce"


@pytest.mark.parametrize(
    "by", ["presence_recall/rare", "presence_precision/rare", "presence_recall/mean", "specificity"]
)
def test_presence_of_folds_is_that_of_all_images_together(tmp_path, by):
    rng, expected = np.random.default_rng(0), {}
    for loss, hit in (("a", 0.9), ("b", 0.6)):
        tables = []
        for fold, images in enumerate((30, 10)):
            run = make_run(tmp_path / f"{loss}{fold}", {"loss": loss, "metric": {"min_area": 3}}, 0.5, images=images,
                           names=[f"{fold}_{i:02}" for i in range(images)])  # fmt: skip
            config = yaml.safe_load((run / "config.yaml").read_text())
            config["dataset"] |= {"splits": "kfold", "folds": 2, "fold": fold}
            (run / "config.yaml").write_text(yaml.safe_dump(config))
            arrays = read_arrays(run / "per_image.npz")
            there, found = rng.random(images) < 0.5, rng.random(images) < hit
            arrays["tp"][:, 1], arrays["fn"][:, 1] = 5 * (there & found), 5 * (there & ~found)
            arrays["fp"][:, 1] = np.where(there, 0, np.where(found, 2, 3))  # two pixels are none
            write_arrays(run / "per_image.npz", arrays)
            result = json.loads((run / "result.json").read_text())
            result.pop("checksum")
            write_json(run / "result.json", {**result, "scores": {**result["scores"], by: 0.5}})
            tables.append({name: arrays[name] for name in ("tp", "fp", "fn", "valid")})
        together = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        expected[loss] = Presence(Classes(CLASSES), 3).scores(Table(together))[by]
    found = compare(settings_from(find_runs([tmp_path])[0]), by=by)
    assert {s.varied["loss"]: e.value for s, e in zip(found.settings, found.estimates, strict=True)} == pytest.approx(
        expected
    )
    assert all(one.low < one.value < one.high or one.value in (0, 1) for one in found.estimates)
    text = " ".join(answer(found))
    assert "One seed each" in text
    assert found.settings[0].command == "segtrain -m a0 dataset.fold=0,1"
    assert "test split" not in text


def test_the_interval_of_a_share_ends_at_0(tmp_path):
    for seed, iou in enumerate((0.01, 0.01, 0.3)):
        make_run(tmp_path / str(seed), {}, iou, seed)
    one = compare(settings_from(find_runs([tmp_path])[0]), by="iou/rare").estimates[0]
    assert one.low == 0.0 < one.value < one.high


def test_of_another_split_the_best_is_that_of_val(tmp_path):
    """The winner on val is compared on test, even where another is better there: choosing by test would flatter."""
    for alpha, on_val, on_test in ((0, 0.5, 0.50), (1, 0.7, 0.56), (2, 0.6, 0.60)):
        run = make_run(tmp_path / str(alpha), {"loss": {"alpha": alpha}}, on_val)
        on_test = make_run(tmp_path / "elsewhere" / str(alpha), {"loss": {"alpha": alpha}}, on_test)
        (run / "evaluation" / "test").mkdir(parents=True)
        shutil.copy(on_test / "per_image.npz", run / "evaluation" / "test")
        scores = json.loads((on_test / "result.json").read_text())["scores"]
        write_json(run / "evaluation" / "test" / "scores.json", {"scores": scores, "per_class": []})
    runs = find_runs([tmp_path / name for name in "012"], "test")[0]
    lines = answer(compare(settings_from(runs), split="test"))
    assert lines[0].startswith("alpha=1, the best on val of those scored on test: +3."), lines
    assert "iou/mean on test over alpha=0" in lines[0]
    assert not any("better than it is" in line for line in lines)


def test_a_class_that_is_only_predicted_counts_as_in_the_scores_of_a_run(tmp_path):
    """The order of the settings, by the runs' scores, is that of their counts."""
    names = np.array([f"{i:02}" for i in range(20)])
    for loss, wrong, iou in (("careful", 0, 0.8), ("careless", 1, 0.9)):
        right = np.stack([np.full(20, 900), np.full(20, int(100 * iou)), np.zeros(20, int)], axis=1)
        missed = np.array([900, 100, 0]) - right
        extra = np.zeros((20, 3), int)
        extra[0, 2] = wrong
        counts = {"tp": right, "fp": extra, "fn": missed, "valid": np.full((20, 3), 1000)}
        run = make_run(tmp_path / loss, {"loss": {"kind": loss}}, iou)
        write_arrays(run / "per_image.npz", {**counts, "names": names, "classes": np.array(["none", "a", "b"])})
        mean = np.nanmean([1.0, iou, 0.0 if wrong else np.nan])
        best = {"epoch": 1, "monitor": "iou/mean", "value": mean}
        scores = {"iou/mean": mean, "iou/b": 0.0 if wrong else None}
        write_json(run / "result.json", {"status": "finished", "best": best, "scores": scores})
    found = compare(settings_from(find_runs([tmp_path])[0]))
    assert [setting.label for setting in found.settings] == ["kind=careful", "kind=careless"]
    assert found.estimates[1].value == pytest.approx((1 + 0.9 + 0) / 3, abs=1e-6)
    with pytest.raises(ConfigError, match="iou/b is not defined for all runs"):
        compare(settings_from(find_runs([tmp_path])[0]), by="iou/b")


def test_the_baseline_is_the_plainest_by_its_options(tmp_path):
    for loss, weighting, own, iou in (("ce", "none", None, 0.6), ("ce_lovasz", "inverse", 0.0, 0.5)):
        settings = {"loss": {"kind": loss, "smoothing": own, "tolerance": own}, "weighting": {"kind": weighting}}
        make_run(tmp_path / loss, settings, iou)
        (tmp_path / loss / ".hydra").mkdir()
        choices = {"hydra": {"runtime": {"choices": {"loss": loss, "weighting": weighting}}}}
        (tmp_path / loss / ".hydra/hydra.yaml").write_text(yaml.safe_dump(choices))
    found = compare(settings_from(find_runs([tmp_path])[0]))
    assert found.settings[found.baseline].label == "loss=ce weighting=none"


def test_options_of_two_names_that_are_the_same_are_one_setting(tmp_path):
    for seed, loss in enumerate(("ce_dice", "my_copy_of_it")):
        run = make_run(tmp_path / loss, {"loss": {"alpha": 0.5}}, 0.5, seed)
        write_json(run / "environment.json", {"command": "segtrain", "options": {"loss": loss}})
    (setting,) = settings_from(find_runs([tmp_path])[0])
    assert len(setting.repeats) == 2


def test_of_equally_plain_settings_the_default_is_the_baseline(tmp_path):
    for batch_size, iou in ((2, 0.5), (4, 0.6), (8, 0.55)):
        make_run(tmp_path / str(batch_size), {"loader": {"batch_size": batch_size}}, iou)
    found = compare(settings_from(find_runs([tmp_path])[0]))
    assert (found.baseline, found.settings[0].label) == (0, "batch_size=4")


def test_the_baseline_is_not_chosen_by_its_score(tmp_path):
    for number, (rate, iou) in enumerate(((0.05, 0.6), (0.06, 0.4), (0.07, 0.5))):
        make_run(tmp_path / f"{number:02d}_lr", {"optimizer": {"lr": rate}}, iou)
    found = compare(settings_from(find_runs([tmp_path])[0]))
    assert found.settings[found.baseline].label == "lr=0.05"


def test_the_best_of_many_is_told_apart_at_a_level_shared_by_all_pairs(monkeypatch, tmp_path):
    for number in range(6):
        make_run(tmp_path / f"{number}", {"trainer": {"alpha": number}}, 0.5 + 0.001 * number)

    def compared(p: float):
        found = statistics.Estimate(0.01, 0.001, 0.02, p, 1e-6, 0.0)
        for module in ("verdict", "resampled", "statistics"):
            monkeypatch.setattr(f"segtrain.comparison.{module}.estimate", lambda *_: found)
        return compare(settings_from(find_runs([tmp_path])[0]))

    assert not compared(0.0034).against_best.any()  # of 15 pairs
    assert compared(0.0033).against_best[1:].all()
    assert not compared(0.0051).class_gains  # of 5 settings and 2 classes
    assert compared(0.0049).class_gains.keys() == set(CLASSES)


def test_losses_of_settings_that_train_with_others_are_not_compared(tmp_path):
    for alpha in (0, 1):
        run = make_run(tmp_path / f"{alpha}", {"loss": {"alpha": alpha}}, 0.5)
        result = json.loads((run / "result.json").read_text())
        result["scores"]["loss"] = 0.5 - alpha / 10
        write_json(run / "result.json", {k: v for k, v in result.items() if k != "checksum"})
    with pytest.raises(ConfigError, match="the settings differ in loss.alpha"):
        compare(settings_from(find_runs([tmp_path])[0]), by="loss")


def test_images_with_another_ground_truth_are_compared_apart(segtrain, sweep):
    for run in sweep.glob("1.0_*"):
        counts = read_arrays(run / "per_image.npz")
        for name in ("tp", "fp", "fn"):
            counts[name] = counts[name][:, ::-1]
        write_arrays(run / "per_image.npz", counts)
    done = segtrain("compare", sweep)
    assert "2 groups of runs with different images or classes, compared separately" in done.out
    assert "with other sizes or masks" in done.out


def test_a_difference_that_is_real_for_a_pair_alone_says_so(sweep):
    found = compare(settings_from(find_runs([sweep])[0]))
    corrected = dataclasses.replace(found, corrected=np.array([0.2, 0.2, np.nan]))
    first = answer(corrected)[0]
    assert first.startswith("Cannot tell alpha=1 from alpha=0: +3.6")
    assert first.endswith(
        "3 seeds, 40 images. That is this pair alone: among 2 differences one as large may be chance."
    )


def test_every_option_that_differs_names_a_setting():
    configs = [
        {"loss": "ce_dice", "loss.alpha": 1, "weighting": "none", "sampling": "uniform"},
        {"loss": "ce_dice", "loss.alpha": 1, "weighting": "none", "sampling": "rare_classes"},
        {"loss": "ce_lovasz", "loss.alpha": 2, "weighting": "log_ratio", "sampling": "uniform"},
    ]
    assert varied_keys(configs) == (["loss", "weighting", "sampling"],) * 2


def test_whether_a_score_is_better_low_is_known_of_all(tmp_path):
    """As that of a metric of the user's, which is in pixels and was not monitored."""
    for number, distance in enumerate((40.0, 3.0)):
        run = make_run(tmp_path / str(number), {"loss": {"alpha": number}}, 0.5)
        result = json.loads((run / "result.json").read_text())
        result["scores"]["hausdorff"] = distance
        result.pop("checksum")
        write_json(run / "result.json", result | {"lower": ["hausdorff"], "units": {"hausdorff": "px"}})
    settings = settings_from(find_runs([tmp_path])[0])
    found = [direction_and_unit(name, settings) for name in ("hausdorff", "loss", "accuracy")]
    assert found == [(True, "px"), (True, ""), (False, "%")]
    lines = answer(compare(settings, by="hausdorff"))
    assert "alpha=1" in lines[0], lines
    assert "−37 hausdorff" in lines[0], lines
