"""`segtrain -m hydra/sweeper=optuna key=interval(…) …`: trials that Optuna chooses, each a job of a sweep.

There is no storage but the sweep: the study is made anew from the trials' settings and results before each trial, and the
sampler is seeded by their number, so a search goes on after a kill as if there had been none.
"""

import shlex
from collections.abc import Callable
from pathlib import Path

from segtrain.arguments import NonNegativeInt, PositiveInt, mistake
from segtrain.commands.resume import attempt
from segtrain.comparison.verdict import check_comparable
from segtrain.config.build import build_dataset, build_scores
from segtrain.config.choices import choices_of
from segtrain.config.compose import job_name
from segtrain.config.launch import Job
from segtrain.config.saved import load_saved, packages_of
from segtrain.errors import ConfigError, Pruned, SegtrainError, printable
from segtrain.files import read_json, read_rows, write_json
from segtrain.metrics.records import all_records
from segtrain.report.text import score_text, table
from segtrain.runs.claim import lock
from segtrain.runs.environment import typed
from segtrain.runs.result import Result
from segtrain.runs.sweep import SweepJob, begin_sweep, read_sweep, write_job
from segtrain.signals import watched

FILE = "search.json"
SETTINGS = {"n_trials": PositiveInt, "seed": NonNegativeInt, "objectives": list[str] | None, "pruning": bool}
STARTUP = 5  # trials before one is pruned
SHOWN = 10  # trials in the last table


def begin(make_folder: Callable[[], Path], settings: dict, templates: list[Job]) -> int:
    """Write what the search is, and search; returns the exit code.

    Args:
        make_folder: makes the search's folder; called when there is no mistake.
        settings: n_trials, seed, objectives, pruning and space, as of configs/hydra/sweeper/optuna.yaml.
        templates: a job for each combination of options of groups.
    """
    optuna()
    if wrong := [f"{name} {text}" for name, kind in SETTINGS.items() if (text := mistake(settings[name], kind))]:
        raise ConfigError(
            ", ".join(wrong), "hydra.sweeper", "correct it; configs/hydra/sweeper/optuna.yaml explains them"
        )
    cfg = templates[0].config
    records = all_records(build_scores(cfg, build_dataset(cfg, "val")))
    objectives = [cfg.trainer.monitor] if settings["objectives"] is None else settings["objectives"]
    if not objectives or len(set(objectives)) < len(objectives):
        raise ConfigError(
            "no score is named, or one is named twice",
            f"hydra.sweeper.objectives={objectives}",
            "name scores, each once, or null",
        )
    if unknown := [name for name in objectives if name not in records]:
        fix = f"choose among {', '.join(records)}; another metric has more (`segtrain help scores`), such as metric=all"
        raise ConfigError(f"no score {', '.join(unknown)}", "hydra.sweeper.objectives, trainer.monitor", fix)
    searched = [*settings["space"], *(word.partition("=")[0] for job in templates for word in job.overrides)]
    fix = "choose by a score, such as iou/mean"
    check_comparable(dict.fromkeys(searched), "loss" if "loss" in objectives else "", "trainer.monitor", fix)
    folder = make_folder()
    for job in templates:
        write_job(folder / "templates" / job.name, job)
    kinds = {name: [records[name].higher_is_better, records[name].unit] for name in objectives}
    options = [job.overrides for job in templates]
    write_json(folder / FILE, {**settings, "command": typed(), "objectives": kinds, "options": options})
    return go_on(folder, packages_of(*(job.config for job in templates)))


def go_on(folder: Path, trust: list[str]) -> int:
    """The trials that are missing, and what was found; when none finished, the exit code of the first that failed."""
    lock(folder)
    search = Search(folder, trust)
    with watched():
        search.run()
    print(f"\n{search.summary()}")
    finished = any(job.result.status == "finished" for job in search.jobs())
    return 0 if finished else search.code or SegtrainError.exit_code


def optuna():
    """The package. Raises ConfigError when it is not there."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "optuna is not installed", "hydra/sweeper=optuna", "pip install 'segtrain[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Search:
    """A search in the folder of its sweep.

    Args:
        trust: packages of the user's whose classes may be built.

    Raises ConfigError for a damaged search.json.
    """

    def __init__(self, folder: Path, trust: list[str]):
        self.folder, self.trust, self.optuna = folder, trust, optuna()
        self.refused: set[Path] = set()  # trials that could not be started
        self.code = 0  # exit code of the first trial that failed
        state = read_json(folder / FILE)
        try:
            self.trials, self.seed, self.pruning = int(state["n_trials"]), int(state["seed"]), bool(state["pruning"])
            self.objectives = list(state["objectives"])
            self.units = {name: str(unit) for name, (_, unit) in state["objectives"].items()}
            self.directions = ["maximize" if higher else "minimize" for higher, _ in state["objectives"].values()]
            self.options = [" ".join(map(str, words)) for words in state["options"]]
            self.fixed = [str(word) for word in state["fixed"]]
            self.space = {str(key): self._distribution(**values) for key, values in state["space"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError("not the settings of a search", str(folder / FILE), "restore the file") from error
        if len(self.options) > 1:
            self.space["options"] = self.optuna.distributions.CategoricalDistribution(self.options)

    def _distribution(self, choices=None, low=0.0, high=0.0, step=None, log=False, whole=False):
        found = self.optuna.distributions
        if choices is not None:
            return found.CategoricalDistribution(list(map(str, choices)))
        if whole:
            return found.IntDistribution(int(low), int(high), log=log, step=int(step or 1))
        return found.FloatDistribution(low, high, log=log, step=step)

    def jobs(self) -> list[SweepJob]:
        return read_sweep(self.folder) if (self.folder / "sweep.json").is_file() else []

    def run(self) -> None:
        """Trial after trial; first the one that was interrupted."""
        while True:
            jobs = self.jobs()
            unfinished = [job for job in jobs if job.result.status in ("", "running", "preempted")]
            if job := next((job for job in unfinished if job.folder not in self.refused), None):
                others = self.study([other for other in jobs if other is not job])
                others.enqueue_trial(self.params(job))
                self.train(job, self.reporting(others.ask(self.space)))
            elif len(jobs) < self.trials:
                self.add(len(jobs), self.study(jobs).ask(self.space).params)
            else:
                return

    def study(self, jobs: list[SweepJob]):
        """The study that these trials make."""
        sampler = self.optuna.samplers.TPESampler(seed=self.seed + len(jobs))
        pruner = self.optuna.pruners.MedianPruner(n_startup_trials=STARTUP)
        found = self.optuna.create_study(directions=self.directions, sampler=sampler, pruner=pruner)
        for job in jobs:
            found.add_trial(self.trial(job))
        return found

    def trial(self, job: SweepJob):
        """A trial that is over, as Optuna has them."""
        states = self.optuna.trial.TrialState
        values = [job.result.scores.get(name) for name in self.objectives]
        state = {"finished": states.COMPLETE, "pruned": states.PRUNED}.get(job.result.status, states.FAIL)
        if state == states.COMPLETE and None in values:
            state = states.FAIL
        epochs = read_rows(job.folder / "metrics.csv") if len(self.objectives) == 1 else []
        seen = {int(row["epoch"]): row.get(f"val/{self.objectives[0]}") for row in epochs}
        return self.optuna.trial.create_trial(
            state=state,
            values=values if state == states.COMPLETE else None,
            params=self.params(job),
            distributions=self.space,
            intermediate_values={epoch: float(value) for epoch, value in seen.items() if value},
        )

    def params(self, job: SweepJob) -> dict[str, object]:
        """The values that were chosen, from the words of the job."""
        words = dict(word.split("=", 1) for word in job.overrides if "=" in word)
        found = {}
        for key, distribution in self.space.items():
            if key == "options":
                own = [o for o in self.options if all(word in job.overrides for word in o.split(" "))]
                found[key] = own[0] if own else self.options[0]
            elif isinstance(distribution, self.optuna.distributions.CategoricalDistribution):
                found[key] = words[key]
            else:
                found[key] = distribution.to_external_repr(float(words[key]))
        return found

    def add(self, number: int, chosen: dict[str, object]) -> None:
        """A job for the values that were chosen."""
        options = str(chosen.get("options", self.options[0]))
        template = self.folder / "templates" / f"{self.options.index(options):03d}"
        values = {key: value for key, value in chosen.items() if key != "options"}
        words = [f"{key}={value}" for key, value in values.items()]
        cfg = load_saved(template / "config.yaml", words, self.trust)
        shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in values.items()}
        short = [f"{key.rpartition('.')[2]}={value}" for key, value in shown.items()]
        name = job_name(number, ",".join([*options.split(), *short]))
        begin_sweep(self.folder, [Job(name, [*self.fixed, *options.split(), *words], cfg, choices_of(template))])

    def reporting(self, trial) -> Callable:
        """What is called after each epoch: it ends a trial that is worse than others were."""

        def after(epoch) -> None:
            value = epoch.scores.get(self.objectives[0])
            if value is None or not self.pruning or len(self.objectives) > 1:
                return
            trial.report(value, epoch.number)
            if trial.should_prune():
                raise Pruned(f"after {epoch.number} epochs, worse than the median of the trials before")

        return after

    def train(self, job: SweepJob, after_epoch: Callable) -> None:
        """Start or continue a trial; a failure leaves the others to go on."""
        print(printable(f"{job.folder.name}: "), end="", flush=True)
        try:
            error = attempt(job, [], [], self.trust, only_warnings=True, after_epoch=after_epoch)
        except Pruned as pruned:
            print(f"pruned {pruned.what}", flush=True)
            return
        result = Result.read(job.folder)
        if error is None:
            print(", ".join(f"{name} {self.text(result, name)}" for name in self.objectives), flush=True)
            return
        self.code = self.code or error.exit_code
        if result.status != "failed":
            self.refused.add(job.folder)

    def text(self, result, name: str) -> str:
        value = result.scores.get(name)
        return "" if value is None else score_text(value, self.units[name])

    def summary(self) -> str:
        """The best trials, the importance of what was searched, and what to do next."""
        jobs = self.jobs()
        study = self.study(jobs)
        done = [(trial, job) for trial, job in zip(study.trials, jobs, strict=True) if trial.values]
        if not done:
            return f"no trial of {len(jobs)} finished"
        sign = 1 if self.directions[0] == "minimize" else -1
        best = sorted(done, key=lambda pair: sign * pair[0].values[0])
        if len(self.objectives) > 1:  # those that no other beats in all scores
            front = {trial.number for trial in study.best_trials}
            best = [pair for pair in best if pair[0].number in front]
        rows = [
            [job.folder.name, *(self.text(job.result, name) for name in self.objectives)] for _, job in best[:SHOWN]
        ]
        pruned = sum(job.result.status == "pruned" for job in jobs)
        what = "the best" if len(self.objectives) == 1 else "those that no other beats in all scores"
        shown = f", {SHOWN} of {len(best)}" * (len(best) > SHOWN)
        title = f"{len(done)} of {len(jobs)} trials finished, {pruned} pruned, in {self.folder}; {what}{shown}"
        lines = [table(["trial", *self.objectives], rows, title)]
        lines += [line] if (line := self.importance(study)) else []
        lines.append(
            f"`segtrain compare {shlex.quote(str(self.folder))} --out report`; each trial has one seed: train the best again with seed=1,2,3 before you trust it"
        )
        return printable("\n".join(lines))

    def importance(self, study=None) -> str:
        """How much each setting that was searched matters for the score; empty for fewer than four finished trials or equal
        ones, a single setting, or several scores."""
        study = study or self.study(self.jobs())
        values = [trial.values[0] for trial in study.trials if trial.values]
        if len(self.objectives) > 1 or len(values) < 4 or len(set(values)) == 1 or len(self.space) < 2:
            return ""
        evaluator = self.optuna.importance.PedAnovaImportanceEvaluator()
        found = self.optuna.importance.get_param_importances(study, evaluator=evaluator)
        groups = " and ".join(word.partition("=")[0] for word in self.options[0].split())
        named = [f"{groups if key == 'options' else key} {100 * share:.0f} %" for key, share in found.items()]
        return f"importance: {', '.join(named)}"
