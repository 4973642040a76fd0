"""`segtrain find`: which loss, weighting and sampling to train with, within a budget of time."""

import math
import textwrap
import time
from argparse import Namespace
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from segtrain.commands import compare, parsers
from segtrain.commands.counting import check_counts, count
from segtrain.commands.resume import attempt
from segtrain.comparison.verdict import check_comparable
from segtrain.config.build import build_augment, build_dataset, build_loss
from segtrain.config.choices import choices_of, settings_of
from segtrain.config.compose import compose, folder_of
from segtrain.config.launch import Job, checked_config, composed
from segtrain.config.saved import load_saved, packages_of
from segtrain.config.schema import flat
from segtrain.errors import ConfigError, printable
from segtrain.files import read_json, read_rows, write_json
from segtrain.find.candidates import candidates
from segtrain.find.halving import Plan, plan, survivors
from segtrain.report.text import score_text, table
from segtrain.runs.claim import lock, make_run_folder, remove_run_folder
from segtrain.runs.environment import changed_settings, typed
from segtrain.runs.sweep import SweepJob, begin_sweep, read_sweep
from segtrain.signals import watched

FILE = "find.json"
WIDTH = 118
MOST_SEEDS = 10  # of a finalist, when there is time


def main(arguments: Namespace) -> int:
    started = time.monotonic()
    cfg, chosen = composed(arguments.overrides, arguments)
    if cfg.trainer.epochs < 2:
        what = "a search needs trainings of at least two epochs"
        raise ConfigError(what, "trainer.epochs", "leave it out, or raise it")
    check_comparable(["loss"], cfg.trainer.monitor, "trainer.monitor", "choose by a score, such as iou/mean")
    train_set = build_dataset(cfg, "train")
    counts = count(train_set)
    check_counts(counts)
    fixed = {word.partition("=")[0].partition(".")[0].lstrip("+~") for word in arguments.overrides}
    usual = compose([]).hydra.runtime.choices
    fixed |= {group for group, option in chosen.items() if option != usual.get(group)}  # by an experiment, too
    if counts.multilabel and "loss" not in fixed:  # the default is for one label per pixel
        print(
            "the dataset is multi-label: starting from loss=bce_dice, because the default loss is for one class per pixel"
        )
        arguments.overrides.append("loss=bce_dice")
        cfg = checked_config(arguments)
    build_loss(cfg, train_set)  # a mistake is told before a folder is made
    own, found = [word for word in arguments.overrides if not word.lstrip("+~").startswith("hydra")], {}
    for changed in candidates(counts, fixed, build_augment(cfg, train_set).crops):
        try:
            one, choices = composed([*arguments.overrides, *changed], arguments)
        except ConfigError:  # such as a weighting of a loss that takes none
            continue
        name = f"{len(found):02d}_{','.join(changed) or 'as_it_is'}"
        # A change may be what the config is already.
        found.setdefault(str(flat(one)), Job(name, [*own, *changed], one, choices))
    if len(found) < 2:
        chosen = [group for group in ("loss", "weighting", "sampling") if group in fixed]
        fix = "leave one of loss, weighting and sampling open"
        raise ConfigError(
            "nothing to choose from: only one setting suits the dataset", f"given: {', '.join(chosen) or 'none'}", fix
        )
    with_hydra = compose(arguments.overrides, arguments.config_dir, arguments.config_name, sweep=True)
    folder = make_run_folder(lambda: folder_of(with_hydra, "hydra.sweep.dir"))
    begin_sweep(folder, list(found.values()))
    state = {"command": typed(), "hours": arguments.hours, "epochs": cfg.trainer.epochs, "candidates": len(found)}
    write_json(folder / FILE, {**state, "used": time.monotonic() - started})
    return go_on(folder, packages_of(*(job.config for job in found.values())))


def go_on(folder: Path, trust: list[str]) -> int:
    """Begin a search, or continue one, to its answer."""
    lock(folder)
    with watched():
        found = Stages(folder, trust)
        finalists = found.run()
    stages = found.stages_table()
    print(f"\n{stages}\n")
    runs, out = [str(run.folder) for run in finalists], str(folder / "comparison")
    as_it_is = [str(run.folder) for run in by_setting(finalists)[0] if run.result.status == "finished"]
    baseline = ["--baseline", as_it_is[0]] if as_it_is else []
    trusted = [word for package in trust for word in ("--trust", package)]
    arguments = parsers.compare([*runs, *baseline, *trusted, "--out", out])
    code = compare.main(arguments, notes=stages)
    print(f"the best run of the best setting: `segtrain predict {best_run(finalists).folder} IMAGE … --out DIR`")
    return code


@dataclass
class Stage:
    """A stage that is done: the settings that were trained, by the number of their jobs, and those that go on.

    Attributes:
        epochs: of each, those of the stages before included.
        seconds: that it took.
    """

    epochs: int
    tried: list[int]
    kept: list[int]
    seconds: float


class Stages:
    """A search in its folder. What it has decided is in find.json, so it goes on wherever it was killed.

    Args:
        folder: of a sweep, whose first jobs are the candidates.
        trust: packages of the user's whose classes may be built.

    Raises ConfigError for a damaged find.json.
    """

    def __init__(self, folder: Path, trust: list[str]):
        self.folder, self.trust, self.file, self.state = folder, trust, folder / FILE, read_json(folder / FILE)
        self.started = time.monotonic()
        try:
            self.before = max(float(self.state["used"]), sum(job.result.seconds for job in self.jobs()))
            self.seconds, self.epochs = 3600 * float(self.state["hours"]), int(self.state["epochs"])
            self.candidates = list(range(int(self.state["candidates"])))
            self.stages = [Stage(**stage) for stage in self.state.get("stages", [])]
            self.plan = Plan(**self.state["plan"]) if "plan" in self.state else None
            named = {*self.candidates, *(n for stage in self.stages for n in (*stage.tried, *stage.kept))}
            if not self.candidates or not named <= {*range(len(self.jobs()))}:
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError("not the state of a search", str(self.file), "restore the file") from error

    def jobs(self) -> list[SweepJob]:
        return read_sweep(self.folder)

    def run(self) -> list[SweepJob]:
        """Every stage that is not done; returns the finalists' trainings, first those of the config as it is."""
        self.train(0, 1)  # to know how long an epoch takes
        chosen = self.plan or self.choose_plan()
        left = self.candidates[: chosen.candidates]
        for number, epochs in enumerate(chosen.rungs):
            left = self.stages[number].kept if number < len(self.stages) else self.stage(left, epochs, chosen)
        return self.finals(left)

    def choose_plan(self) -> Plan:
        """Made when an epoch of the first candidate has been timed."""
        first = self.jobs()[0]
        if first.result.status != "finished":
            raise ConfigError(
                "the unchanged config cannot be trained", str(first.folder), "fix the error printed above"
            )
        row = read_rows(first.folder / "metrics.csv")[0]
        epoch = float(row["seconds"]) + float(row["validation_seconds"])
        around = first.result.seconds - epoch
        left = self.seconds - self.used()
        self.plan = plan(left, epoch, around, self.epochs, len(self.candidates))
        if self.plan is None:
            remove_run_folder(self.folder)  # as after other mistakes: there is nothing to go on with
            what = f"a training of one epoch takes {epoch + around:.1f} s: {self.seconds / 60:g} minutes are not enough for a search"
            while not plan(left, epoch, around, self.epochs, len(self.candidates)):
                left = 1.1 * max(left, epoch)
            fix = f"give it at least {(left + self.used()) / 3600:.2g} hours, or smaller images (dataset.resize, augment.size)"
            raise ConfigError(what, "--hours", fix)
        self.save()
        return self.plan

    def stage(self, tried: list[int], epochs: int, chosen: Plan) -> list[int]:
        """Train settings to so many epochs; returns those that go on."""
        for number in tried:
            self.train(number, epochs)
        jobs = self.jobs()
        ranked = sorted(tried, key=lambda number: worth(jobs[number]), reverse=True)
        kept = survivors(ranked, last=epochs == chosen.rungs[-1])
        seconds = self.used() - sum(stage.seconds for stage in self.stages)
        self.stages.append(Stage(epochs, tried, kept, round(seconds, 1)))
        self.save()
        for number in {*tried} - {0, *kept}:  # the largest of what it leaves, and nothing goes on from it
            (jobs[number].folder / "checkpoints" / "last.pt").unlink(missing_ok=True)
        return kept

    def finals(self, finalists: list[int]) -> list[SweepJob]:
        """The finalists trained anew, seed after seed, and more seeds while there is time for one of each."""
        jobs, done = self.jobs(), len(self.candidates)
        if len(jobs) == done:
            self.fit_finals(len(finalists))
        seed = int(settings_of(jobs[0].folder)["seed"])
        found, took = [], 0.0
        for repeat in range(1, MOST_SEEDS + 1):
            numbers = [done + (repeat - 1) * len(finalists) + i for i in range(len(finalists))]
            known = len(self.jobs())
            if numbers[0] >= known:
                if repeat > self.plan.seeds and self.used() + took > self.seconds:
                    break
                self.add(numbers, finalists, seed + repeat)
            before = self.used()
            for number in numbers:
                self.train(number, self.plan.epochs)
            found += [self.jobs()[number] for number in numbers]
            trainings = sum(run.result.seconds for run in found[-len(finalists) :])  # before a kill, too
            took = max(self.used() - before, trainings)
        return found

    def fit_finals(self, finalists: int) -> None:
        """Fewer epochs, or fewer seeds, when the stages took longer than was planned."""
        last, before = self.stages[-1], self.stages[-2].epochs if len(self.stages) > 1 else 0
        per_epoch = last.seconds / len(last.tried) / (last.epochs - before)
        for seeds in range(self.plan.seeds, 1, -1):
            epochs = min(self.plan.epochs, int((self.seconds - self.used()) / (finalists * seeds * per_epoch)))
            if epochs >= self.plan.epochs / 2:
                break
        self.plan = replace(self.plan, epochs=max(epochs, 1), seeds=seeds)
        self.save()

    def add(self, numbers: list[int], finalists: list[int], seed: int) -> None:
        """Jobs of these numbers, which train the finalists anew."""
        jobs, added, settings = self.jobs(), [], [f"seed={seed}", f"trainer.epochs={self.plan.epochs}"]
        for number, of in zip(numbers, finalists, strict=True):
            run = jobs[of].folder
            cfg = load_saved(run / "config.yaml", settings, self.trust)
            name = f"{number:02d}_seed={seed},{run.name[3:]}"
            added.append(Job(name, [*jobs[of].overrides, *settings], cfg, choices_of(run)))
        begin_sweep(self.folder, added)

    def train(self, number: int, epochs: int) -> None:
        """Train a job to so many epochs, unless it has done so; a failure leaves the others to go on."""
        job = self.jobs()[number]
        if job.result.status == "finished":
            settings = settings_of(job.folder) | changed_settings(read_json(job.folder / "environment.json"))
            if int(settings["trainer.epochs"]) >= epochs:  # to which it was last started
                return
        used = f"{self.used() / 60:.1f} of {self.seconds / 60:g} min"
        print(printable(f"{used}  {job.folder.name}, {epochs} epoch{'s' * (epochs > 1)}: "), end="", flush=True)
        if not attempt(job, [f"trainer.epochs={epochs}"], ["trainer.epochs"], self.trust, only_warnings=True):
            job = self.jobs()[number]
            print(f"{score_of(job)} {job.result.best['monitor']}", flush=True)
        self.save()

    def used(self) -> float:
        """Seconds that the search has taken so far, but those in which it was not running."""
        return self.before + time.monotonic() - self.started

    def save(self) -> None:
        self.state["used"] = round(self.used(), 1)
        if self.plan:
            self.state["plan"] = asdict(self.plan)
        write_json(self.file, {**self.state, "stages": [asdict(stage) for stage in self.stages]})

    def stages_table(self) -> str:
        """What each stage tried, what it took, and what was dropped."""
        jobs, rows, lines = self.jobs(), [], []
        for number, stage in enumerate(self.stages):
            name = f"stage {number + 1}"
            left = sorted(set(stage.tried) - {0, *stage.kept})  # 0, the config as it is, is always in the finals
            dropped = [f"{jobs[n].folder.name[3:]} ({score_of(jobs[n])})" for n in left]
            took = f"{stage.seconds / 60:.1f} min"
            rows.append([name, str(len(stage.tried)), str(stage.epochs), took])
            said = f"dropped after {name}: {'; '.join(dropped) or 'none'}"
            lines += textwrap.wrap(said, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
            if len(stage.tried) > 1 and len({score_of(jobs[n]) for n in stage.tried}) == 1:
                lines.append(
                    f"{name} decided nothing, because all settings scored the same. Give the search more hours, or more epochs"
                )
        finals = jobs[len(self.candidates) :]
        took = f"{(self.used() - sum(stage.seconds for stage in self.stages)) / 60:.1f} min"
        rows.append(["finals", f"{len(finals)} trainings", str(self.plan.epochs), took])
        untried = len(self.candidates) - self.plan.candidates
        title = f"{self.used() / 60:.1f} of {self.seconds / 60:.3g} minutes"
        title += f"; {untried} settings not tried for lack of time" * bool(untried)
        return "\n".join([table(["", "settings", "epochs", "time"], rows, title), "", *lines])


def worth(job: SweepJob) -> float:
    """The score of a job, the larger the better; that of one without a score is minus infinity."""
    result = job.result
    if result.status != "finished" or result.best is None or result.best["value"] is None:
        return -math.inf
    return -result.best["value"] if result.lower_is_better else result.best["value"]


def best_run(finalists: list[SweepJob]) -> SweepJob:
    """The best run of the setting whose mean over the seeds is the best."""
    best = max(by_setting(finalists), key=lambda jobs: sum(map(worth, jobs)) / len(jobs))
    return max(best, key=worth)


def by_setting(finalists: list[SweepJob]) -> list[list[SweepJob]]:
    """The trainings of each finalist, in the order of the finalists."""
    found: dict[tuple, list[SweepJob]] = {}
    for job in finalists:
        found.setdefault(tuple(word for word in job.overrides if not word.startswith("seed=")), []).append(job)
    return list(found.values())


def score_of(job: SweepJob) -> str:
    """As text; n/a for a job without one."""
    best = job.result.best
    return "n/a" if best is None else score_text(best["value"], job.result.unit)
