"""Experiments that sweep: the jobs of each, what the command line changes, and what is refused."""

import re

import pytest

from segtrain.config import internals
from segtrain.config.compose import compose
from segtrain.config.launch import _checked_jobs, check_single
from segtrain.errors import ConfigError
from segtrain.report.html import TEMPLATES

CONFIGS = TEMPLATES.parents[1] / "configs/experiment"
SWEEPS = sorted(p.stem for p in CONFIGS.glob("*.yaml") if "sweeper:" in p.read_text())


def jobs_of(*words: str):
    arguments = internals.parser().parse_args(["-m", *words])
    return _checked_jobs(compose(arguments.overrides, sweep=True), arguments)


@pytest.mark.parametrize("name", SWEEPS)
def test_the_header_asks_a_question_and_says_how_many_trainings(name):
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    swept, jobs = jobs_of(f"experiment={name}")
    assert lines[1].endswith("?")
    assert f"segtrain -m experiment={name}" in lines[2]
    assert re.match(rf"# {len(jobs)} trainings", lines[3])
    assert "seed" in swept


def test_the_command_line_takes_the_place_of_what_the_experiment_sweeps():
    swept, jobs = jobs_of("experiment=alpha_sweep", "seed=5", "loss.alpha=0,1", "trainer.epochs=2")
    assert swept == {"loss.alpha"}
    assert [(cfg.loss.alpha, cfg.seed, cfg.trainer.epochs) for _, cfg, _ in jobs] == [(0, 5, 2), (1, 5, 2)]


def test_one_job_of_an_experiment_is_a_single_run():
    check_single(compose(["loss.alpha=0", "seed=0", "experiment=alpha_sweep"]))
    with pytest.raises(ConfigError, match="sweeps seed: a single run"):
        check_single(compose(["loss.alpha=0", "experiment=alpha_sweep"]))


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["experiment=alpha_sweep"], "add -m"),
        (["-m", "seed=0"], "nothing to sweep"),
        (["-m", "loss.alpha=range(3,1)"], "a range or glob without values"),
    ],
)
def test_a_sweep_needs_m_and_m_a_sweep(segtrain, words, what):
    refused = segtrain(*words)
    assert refused.code == 2
    assert what in refused.err
