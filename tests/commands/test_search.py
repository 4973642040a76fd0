"""A search by Optuna: its space, its trials, and that it goes on after a kill as if there had been none."""

import signal

import pytest
from conftest import TINY

from segtrain.commands.compare import importances
from segtrain.config import internals
from segtrain.config.compose import compose
from segtrain.config.launch import _space
from segtrain.errors import ConfigError, DataError
from segtrain.files import read_json, write_json
from segtrain.runs.sweep import command_of, read_sweep

optuna = pytest.importorskip("optuna")
from segtrain.commands import search  # noqa: E402  after the check that optuna is there

SEARCH = ["-m", "hydra/sweeper=optuna"]


def space_of(*words: str):
    arguments = internals.parser().parse_args([*SEARCH, *words])
    settings, templates = _space(compose(arguments.overrides, sweep=True), arguments)
    return settings["space"], [job.overrides for job in templates]


def test_all_of_hydras_grammar_for_values_is_a_space():
    space, templates = space_of(
        "loss.alpha=interval(0,2)", "optimizer.lr=tag(log,interval(1e-4,1e-2))", "trainer.epochs=int(interval(4,20))",
        "seed=range(0,10,3)", "loader.batch_size=choice(2,4)", "weighting=none,log_ratio", "sampling=uniform,rare_classes",
    )  # fmt: skip
    assert space == {
        "loss.alpha": {"low": 0.0, "high": 2.0, "step": None, "log": False, "whole": False},
        "optimizer.lr": {"low": 1e-4, "high": 1e-2, "step": None, "log": True, "whole": False},
        "trainer.epochs": {"low": 4, "high": 20, "step": None, "log": False, "whole": True},
        "seed": {"low": 0.0, "high": 9.0, "step": 3.0, "log": False, "whole": True},
        "loader.batch_size": {"choices": ["2", "4"]},
    }
    assert templates == [
        [f"weighting={w}", f"sampling={s}"] for w in ("none", "log_ratio") for s in ("uniform", "rare_classes")
    ]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["loss.alpha=1"], "nothing to search"),
        (["loss=interval(0,1)"], "not a space to search"),
        (["loss.alpha=interval(0,2)", "loss=ce,ce_dice"], "has no key 'alpha'.* \\(with loss=ce\\)"),
        (["loss.alpah=interval(0,2)"], "no key 'alpah'"),
        (["weighting=none,log_ration"], "no option 'log_ration'"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(words, what):
    with pytest.raises(ConfigError, match=what):
        space_of(*words)


def quadratic(job) -> float:
    """The score of a trial without training: best at alpha 1.3 and weighting=log_ratio."""
    words = dict(word.split("=") for word in job.overrides)
    return 0.9 - (float(words["loss.alpha"]) - 1.3) ** 2 / 10 - 0.1 * (words["weighting"] == "none")


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """`begun(folder, n)` is a search of n trials, begun or continued, whose trainings are a known function; it is killed after
    `stop` of them."""
    arguments = internals.parser().parse_args([*SEARCH, "loss.alpha=interval(0,2)", "weighting=none,log_ratio"])
    settings, templates = _space(compose(arguments.overrides, sweep=True), arguments)

    def start(folder, trials: int, stop: int | None = None):
        def train(self, job, after_epoch):
            if stop is not None and len(self.jobs()) > stop:
                raise KeyboardInterrupt
            value = quadratic(job)
            best = {"epoch": 1, "monitor": "iou/mean", "value": value}
            write_json(job.folder / "result.json", {"status": "finished", "best": best, "scores": {"iou/mean": value}})

        monkeypatch.setattr(search.Search, "train", train)
        if folder.is_dir():
            search.go_on(folder, [])
        else:
            folder.mkdir()
            search.begin(lambda: folder, {**settings, "n_trials": trials}, templates)

    return start


def test_the_neighbourhood_of_the_optimum_is_found(begun, tmp_path, capsys):
    begun(tmp_path / "search", 40)
    best = max(read_sweep(tmp_path / "search"), key=lambda job: job.result.best["value"])
    assert "weighting=log_ratio" in best.overrides
    assert quadratic(best) > 0.895
    shown = capsys.readouterr().out
    assert "40 of 40 trials finished, 0 pruned" in shown
    assert "weighting" in shown.split("importance: ")[1]
    (line,) = importances([tmp_path / "search"])
    assert line in shown


def test_a_search_that_was_killed_makes_the_same_trials(begun, tmp_path):
    begun(tmp_path / "whole", 12)
    with pytest.raises(KeyboardInterrupt):
        begun(tmp_path / "killed", 12, stop=5)
    assert len(read_sweep(tmp_path / "killed")) == 6  # the last one was not finished
    begun(tmp_path / "killed", 12)
    whole, killed = (read_sweep(tmp_path / name) for name in ("whole", "killed"))
    assert [job.overrides for job in killed] == [job.overrides for job in whole]
    assert len({job.folder.name for job in killed}) == 12


def test_a_trial_that_cannot_be_started_is_tried_once(tmp_path, monkeypatch, capsys):
    arguments = internals.parser().parse_args([*SEARCH, "loss.alpha=interval(0,2)"])
    settings, templates = _space(compose(arguments.overrides, sweep=True), arguments)
    monkeypatch.setattr(search, "attempt", lambda *_, **how: ConfigError("refused"))
    assert search.begin(lambda: tmp_path, {**settings, "n_trials": 3}, templates) == ConfigError.exit_code
    assert len(read_sweep(tmp_path)) == 3
    assert "no trial of 3 finished" in capsys.readouterr().out
    assert search.go_on(tmp_path, []) == ConfigError.exit_code


def test_the_command_of_a_trial_has_what_was_fixed(tmp_path, monkeypatch):
    arguments = internals.parser().parse_args([*SEARCH, "loss.alpha=interval(0,2)", "trainer.epochs=3"])
    settings, templates = _space(compose(arguments.overrides, sweep=True), arguments)
    monkeypatch.setattr(search, "attempt", lambda *_, **how: DataError("no such file"))
    assert search.begin(lambda: tmp_path, {**settings, "n_trials": 1}, templates) == DataError.exit_code
    (job,) = read_sweep(tmp_path)
    command = command_of(job.folder)
    assert command.startswith("segtrain trainer.epochs=3 loss.alpha=")


@pytest.mark.parametrize("word", ["loss.alpha=range(3,1)", "seed=range(3,1)"])
def test_a_range_without_values_is_refused(word):
    with pytest.raises(ConfigError, match="no values"):
        space_of(word)


def test_ranges_downwards_and_of_small_numbers():
    space, _ = space_of("loss.alpha=range(3,1,-1)", "optimizer.lr=range(1e-5,3e-5,1e-5)")
    assert space["loss.alpha"] == {"low": 2.0, "high": 3.0, "step": 1.0, "log": False, "whole": True}
    assert (space["optimizer.lr"]["low"], space["optimizer.lr"]["whole"]) == (1e-5, False)


@pytest.mark.parametrize(
    "word", ["loss.alpha=interval(-1,2)", "loss.alpha=choice(0,-1.0)", "loss.alpha=range(-1.0,2.0)"]
)
def test_values_that_a_setting_may_not_have_are_refused_before_the_first_trial(word):
    with pytest.raises(ConfigError, match=r"loss.alpha=-1.0 must be a number >= 0"):
        space_of(word)


@pytest.mark.parametrize("word", ["loss.alpha=interval(2,0)", "optimizer.lr=tag(log,interval(0,1))"])
def test_an_interval_that_is_none_is_refused(word):
    with pytest.raises(ConfigError, match="not an interval"):
        space_of(word)


def test_a_search_goes_on_with_the_settings_it_has(segtrain, tmp_path):
    for name in ("search", "find"):
        write_json(tmp_path / f"{name}.json", {})
        done = segtrain("resume", tmp_path, "seed=1", "--allow", "seed")
        assert (done.code, "can only continue with its own settings" in done.err) == (2, True), done


def test_a_damaged_search_is_refused(tmp_path):
    write_json(tmp_path / "search.json", {"n_trials": "many"})
    with pytest.raises(ConfigError, match="not the settings of a search"):
        search.Search(tmp_path, [])


@pytest.mark.slow
def test_trials_are_trained_pruned_and_resumed(server, tmp_path):
    words = [*SEARCH, *TINY, "loss.alpha=interval(0,1)", "hydra.sweeper.n_trials=3", "hydra.sweep.dir=search"]
    command = server.start(*words, cwd=tmp_path)
    command.wait_for(tmp_path / "search/sweep.json")
    command.kill(signal.SIGKILL)
    command.wait()
    code, text = server.run("resume", "search", cwd=tmp_path)
    assert code == 0, text
    assert "of 3 trials finished" in text
    assert len(read_sweep(tmp_path / "search")) == 3
    assert {job.result.status for job in read_sweep(tmp_path / "search")} <= {"finished", "pruned"}
    assert read_json(tmp_path / "search/search.json")["objectives"] == {"iou/mean": [True, "%"]}
    code, text = server.run("compare", "search", cwd=tmp_path)
    assert code == 0, text


def test_several_scores_and_a_name_that_is_none(server, tmp_path):
    words = [*SEARCH, *TINY, "loss.alpha=interval(0,1)", "hydra.sweeper.n_trials=2"]
    code, text = server.run(*words, "hydra.sweeper.objectives=[iou/mean,accuracy]", "hydra.sweep.dir=two", cwd=tmp_path)
    assert code == 0, text
    assert "accuracy" in text
    code, text = server.run(*words, "hydra.sweeper.objectives=[iou/meen]", "hydra.sweep.dir=none", cwd=tmp_path)
    assert (code, "no score iou/meen" in text) == (2, True), text
    for wrong, what in (
        ("trainer.monitor=loss", "differ in loss.alpha"),
        ("hydra.sweeper.n_trials=many", "n_trials must be"),
    ):
        code, text = server.run(*words, wrong, "hydra.sweep.dir=none", cwd=tmp_path)
        assert (code, what in text) == (2, True), text
    assert not (tmp_path / "none").exists()
