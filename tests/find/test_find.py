"""What a search tries, and how it divides its time."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TINY, write_folder_dataset
from hypothesis import given
from hypothesis import strategies as st

from segtrain.class_counts import count_classes
from segtrain.commands import compare, find, parsers
from segtrain.commands.find import best_run, worth
from segtrain.config.compose import compose
from segtrain.data.shapes import Shapes, ShapesMultilabel
from segtrain.files import read_json
from segtrain.find.candidates import RARE, candidates
from segtrain.find.halving import FINALISTS, plan, survivors
from segtrain.runs.result import Result
from segtrain.runs.sweep import SweepJob, read_sweep


@pytest.fixture(scope="module")
def counts():
    return count_classes(Shapes("train", [64, 64], train_images=32))


def test_candidates_are_the_config_itself_then_what_differs_in_one_group_then_in_more(counts):
    found = candidates(counts, set(), crops=False)
    large = {"weighting=median_frequency", "weighting=inverse_frequency"}  # which count as two changes
    groups = [{word.partition("=")[0].partition(".")[0] for word in words} for words in found]
    changes = [len(one) + bool(large & {*words}) for one, words in zip(groups, found, strict=True)]
    assert found[0] == []
    assert changes == sorted(changes)
    assert ["loss=ce_dice", "loss.alpha=0.25"] in found
    assert ["loss=ce", "weighting=median_frequency", "sampling=rare_classes"] in found
    assert len({tuple(words) for words in found}) == len(found)


def test_what_the_user_has_chosen_stays(counts):
    for words in candidates(counts, {"loss", "sampling"}, crops=True):
        assert all(word.startswith("weighting=") for word in words)


def test_crops_on_the_foreground_are_tried_where_there_are_crops(counts):
    assert not any("sampling=uniform" in words for words in candidates(counts, set(), crops=False))
    with_crops = candidates(counts, set(), crops=True)
    assert any("sampling=uniform" in words for words in with_crops)
    assert ["sampling=rare_classes", "sampling.foreground_share=0.33"] in with_crops


def test_uniform_is_tried_where_images_of_rare_classes_come_more_often():
    counts = count_classes(Shapes("train", [32, 32], train_images=8))
    rare = replace(counts, images=counts.images // [1, 1, 1, counts.images[3]])  # the last class is in one image
    assert not any("sampling=uniform" in words for words in candidates(counts, set(), crops=False))
    assert any("sampling=uniform" in words for words in candidates(rare, set(), crops=False))
    assert compose(["sampling=auto"]).sampling.threshold == RARE


def test_multilabel_classes_have_losses_and_weights_of_their_own():
    counts = count_classes(ShapesMultilabel("train", [64, 64], train_images=32))
    words = {word for words in candidates(counts, set(), crops=False) for word in words}
    assert {"loss=bce", "weighting=neg_pos_ratio"} <= words
    assert not any("ce_dice" in word and "bce" not in word for word in words)


def test_a_plan_by_hand():
    # 3600 s, 10 s an epoch, nothing around: the finals have 216 epochs, 24 for each of 9 trainings, 14 are asked.
    # Stages of 5 and 14 epochs: a candidate takes 50 s, a third of them 90 s more: 80 s; 1440 s are 18 of them.
    found = plan(3600, 10, 0, 14, 100)
    assert (found.candidates, found.rungs, found.epochs, found.seeds) == (18, [5, 14], 14, 3)
    assert plan(3600, 10, 0, 14, 10).candidates == 10
    # 900 s: 54 epochs are 6 for each of 9 trainings, fewer than half of 14; of 6 trainings 9 each
    assert (plan(900, 10, 0, 14, 100).epochs, plan(900, 10, 0, 14, 100).seeds) == (9, 2)
    assert plan(100, 10, 0, 14, 100) is None


@given(st.floats(60, 1e6), st.floats(0.1, 1000), st.floats(0, 30), st.integers(1, 300), st.integers(2, 60))
def test_a_plan_keeps_to_its_time(seconds, per_epoch, around, epochs, candidates):
    found = plan(seconds, per_epoch, around, epochs, candidates)
    if found is None:
        return
    assert 2 <= found.candidates <= candidates
    assert found.epochs <= epochs
    assert found.rungs == sorted(found.rungs)
    left, used, before = list(range(found.candidates)), 0.0, 0
    for rung in found.rungs:
        used += len(left) * (around + (rung - before) * per_epoch)
        left, before = survivors(left, last=rung == found.rungs[-1]), rung
    finals = min(FINALISTS, found.candidates) * found.seeds * (around + found.epochs * per_epoch)
    assert finals <= 0.6001 * seconds
    # a stage has no fewer settings than there are finalists, which may be more than a third
    assert used <= 0.4001 * seconds + FINALISTS * (around * 3 + found.rungs[-1] * per_epoch)


def test_a_third_goes_on_but_no_fewer_than_the_finalists():
    assert survivors(list(range(18)), last=False) == [0, 1, 2, 3, 4, 5]
    assert survivors(list(range(5)), last=False) == [0, 1, 2]
    assert survivors(list(range(18)), last=True) == [0, 1, 2]
    assert survivors([7, 8, 9], last=True) == [0, 7, 8], "the config as it is is always among them"
    assert survivors([7, 0], last=True) == [0, 7]


WORDS = [
    "find",
    *TINY,
    "trainer.epochs=2",
    "weighting=none",
    "sampling=uniform",
    "--hours",
    "0.03",
    "hydra.sweep.dir=found",
]


@pytest.mark.long
def test_a_search_that_is_killed_goes_on_to_its_answer(server, tmp_path):
    command = server.start(*WORDS, cwd=tmp_path)
    command.wait_for(tmp_path / "found/01_loss=ce/metrics.csv")
    command.kill(signal.SIGKILL)
    command.wait()
    code, text = server.run("resume", "found", cwd=tmp_path)
    assert code == 0, text
    state = read_json(tmp_path / "found/find.json")
    assert [stage["epochs"] for stage in state["stages"]] == state["plan"]["rungs"]
    answer = json.loads((tmp_path / "found/comparison/comparison.json").read_text())["comparisons"]
    assert len(answer) == 1
    assert "segtrain predict found/" in text
    dropped = {*state["stages"][0]["tried"]} - {0, *state["stages"][0]["kept"]}
    kept = {int(file.parts[-3][:2]) for file in (tmp_path / "found").glob("*/checkpoints/last.pt")}
    assert not dropped & kept, "the largest of what a dropped setting leaves"
    finals = sorted(folder.name for folder in (tmp_path / "found").glob("*seed=*"))
    assert len(finals) >= 2 * state["plan"]["seeds"]
    assert all(read_json(tmp_path / "found" / name / "result.json")["status"] == "finished" for name in finals)
    assert np.ptp([len(list((tmp_path / "found").glob(f"*seed={seed},*"))) for seed in (1, 2)]) == 0
    code, text = server.run("resume", "found", cwd=tmp_path)
    assert (code, text.count("epoch  ")) == (0, 0), "nothing is left to do"
    code, text = server.run("compare", "found", "--out", "again", "--pictures", "0", cwd=tmp_path)
    assert (code, "from the stages of the search are left out" in text) == (0, True), text
    again = json.loads((tmp_path / "again/comparison.json").read_text())["comparisons"]
    assert [(s["varied"], s["seeds"]) for s in again[0]["settings"]] == [
        (s["varied"], s["seeds"]) for s in answer[0]["settings"]
    ]
    assert again[0]["baseline"] == answer[0]["baseline"]


def test_mistakes_are_told_before_anything_is_trained(segtrain, tmp_path):
    for words, what in (
        (["--hours", "0"], "--hours 0"),
        (["--hours", "1", "loss=ce", "weighting=none", "sampling=uniform"], "nothing to choose from"),
        (["--hours", "1", "loss=cee"], "did you mean"),
        (["--hours", "1", "trainer.epochs=1"], "trainings of at least two epochs"),
    ):
        done = segtrain("find", *TINY, "trainer.epochs=2", *words)
        assert done.code == 2, done
        assert what in done.err
    assert not (tmp_path / "outputs").exists()


def job_of(folder, words: str, value: float | None, status="finished") -> SweepJob:
    return SweepJob(folder, words.split(), Result(status, {"epoch": 1, "monitor": "iou/rare", "value": value}), "")


def test_trainings_without_a_score_come_last(tmp_path):
    jobs = [job_of(tmp_path, "", value) for value in (0.2, None, 0.5)] + [SweepJob(tmp_path, [], Result("failed"), "")]
    assert sorted(range(4), key=lambda i: worth(jobs[i]), reverse=True)[:2] == [2, 0]


def test_the_best_run_is_one_of_the_best_setting(tmp_path):
    words = {"loss=ce seed=1": 0.5, "seed=1": 0.6, "loss=ce seed=2": 0.9, "seed=2": 0.85}
    jobs = [job_of(tmp_path, *pair) for pair in words.items()]
    assert best_run(jobs) is jobs[3]  # 0.725 on average, and 0.7 of loss=ce


def test_the_baseline_is_a_training_that_finished(tmp_path, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(compare, "main", lambda arguments, notes: given.append(arguments.baseline) or 0)

    def baseline(**status: str) -> str | None:
        jobs = [
            job_of(tmp_path / f"{name}_{seed}", f"{words}seed={seed}", 0.5, status.get(f"{name}_{seed}", "finished"))
            for seed in (1, 2)
            for name, words in (("as_it_is", ""), ("ce", "loss=ce "))
        ]
        monkeypatch.setattr(find, "Stages", lambda *_: SimpleNamespace(run=lambda: jobs, stages_table=str))
        find.go_on(tmp_path, [])
        return given[-1]

    assert baseline() == str(tmp_path / "as_it_is_1")
    assert baseline(as_it_is_1="failed") == str(tmp_path / "as_it_is_2")
    assert baseline(as_it_is_1="failed", as_it_is_2="failed") is None


def test_losses_of_candidates_are_not_compared(segtrain):
    refused = segtrain("find", "dataset=shapes", "trainer.monitor=loss", "--hours", "1")
    assert (refused.code, "their losses cannot be compared" in refused.err) == (2, True), refused


@pytest.mark.parametrize(
    ("words", "tried", "left_out"),
    [
        (["dataset=shapes_multilabel"], "loss=bce_jaccard", "loss=ce"),
        (["dataset=shapes", "loss=focal", "loss.gamma=1"], "weighting=", "loss=ce"),
        (
            ["dataset=shapes", "loss=jaccard", "augment.size=[32,32]"],
            "sampling=uniform",
            "weighting=",
        ),  # which it takes none of
        (["experiment=thin_structures", "dataset.root=data"], "weighting=", "sampling="),
    ],
)
def test_what_is_tried_suits_the_config(tmp_path, monkeypatch, words, tried, left_out):
    write_folder_dataset(tmp_path / "data", classes=2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(find, "go_on", lambda *_: 0)
    assert find.main(parsers.find([*words, "--hours", "1", "hydra.sweep.dir=found"])) == 0
    names = [job.folder.name for job in read_sweep(Path("found"))]
    assert any(tried in name for name in names), names
    assert not any(left_out in name for name in names), names
