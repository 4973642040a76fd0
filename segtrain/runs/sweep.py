"""A sweep's folder: sweep.json, written before the first job, and a folder with config.yaml for each job."""

import hashlib
import json
import shlex
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from segtrain.config.saved import content_of, settings_in
from segtrain.config.schema import CLASS_WEIGHTS, as_text, flat, replaced
from segtrain.errors import ConfigError
from segtrain.files import read_json, write_json, write_text
from segtrain.runs.environment import signature, typed
from segtrain.runs.result import Result

FILE = "sweep.json"


@dataclass
class SweepJob:
    """A job of a sweep.

    Attributes:
        folder: of its run, which may not have been started.
        overrides: as on the command line.
        result: status, scores and reason of its end; without status when it was not started.
        digest: of the settings in its config.yaml as it was written.
    """

    folder: Path
    overrides: list[str]
    result: Result
    digest: str

    def check_unchanged(self) -> None:
        """Raise ConfigError when the config of a job without a checkpoint has changed; a checkpoint knows its own.

        It may differ from the sweep's when the job was started with other settings: environment.json knows those.
        """
        file = self.folder / "config.yaml"
        if (self.folder / "checkpoints" / "last.pt").is_file() or not file.is_file():
            return
        settings = flat(content_of(file))
        started, seed = read_json(self.folder / "environment.json"), settings.get("seed")
        if "signature" in started:
            now = [(signature(each), seed) for each in (settings, without_weights(settings))]
            same = (started["signature"], started.get("seed")) in now
        else:
            same = _digest(settings) == self.digest
        if not same:
            raise ConfigError(
                "changed since the sweep was started", str(file), "restore the file, or start a new sweep"
            )


def begin_sweep(folder: Path, jobs: list) -> None:
    """Write sweep.json and the jobs' config.yaml; nothing for a sweeper that chooses its jobs on the way.

    To a sweep that is there the jobs are added.

    Args:
        jobs: of segtrain.config.launch, each with the name of its folder, overrides, config and choices.
    """
    if not jobs:
        return
    before = read_json(folder / FILE)
    content = before.get("jobs", [])
    for number, job in enumerate(jobs, start=len(content)):
        digest = _digest(settings_in(write_job(folder / job.name, job), str(folder / job.name)))
        content.append({"number": number, "overrides": job.overrides, "folder": job.name, "config": digest})
    write_json(folder / FILE, {"command": before.get("command", typed()), "jobs": content})


def write_job(folder: Path, job) -> str:
    """The files from which a job is started later: its config, and as Hydra would write them its choices. Returns the config."""
    text = as_text(job.config, weights_known=False)
    write_text(folder / "config.yaml", text)
    write_text(folder / ".hydra" / "hydra.yaml", as_text({"hydra": {"runtime": {"choices": job.choices}}}))
    return text


def read_sweep(folder: Path) -> list[SweepJob]:
    """The jobs of a sweep. Raises ConfigError for a damaged sweep.json."""
    file = folder / FILE
    jobs = _listed(file)
    for name, _, _ in jobs:
        if Path(name).name != name or name in ("", ".", "..") or (folder / name).is_symlink():
            raise ConfigError(f"{name!r} is not a folder of the sweep", str(file), "restore the file and the folder")
    return [SweepJob(folder / name, words, Result.read(folder / name), digest) for name, words, digest in jobs]


def not_started(folder: Path) -> tuple[int, int]:
    """How many jobs of a sweep have no result yet, and how many there are; of another folder 0 and 0."""
    jobs = _listed(folder / FILE) if (folder / FILE).is_file() else []
    return sum(not (folder / name / "result.json").is_file() for name, _, _ in jobs), len(jobs)


def command_of(run: Path) -> str:
    """What trains a run alone: of a job of a sweep its own settings, of others the command as it was typed."""
    command, file = str(read_json(run / "environment.json").get("command", "")), run.parent / FILE
    overrides = _overrides(file, file.stat().st_mtime_ns) if file.is_file() else {}
    if run.name not in overrides:
        return command
    words = words_of(command)
    given = [i for i, word in enumerate(words) if word in ("--config-dir", "-cd")]
    place = words[given[0] : given[0] + 2] if given else [word for word in words if word.startswith("--config-dir=")]
    return shlex.join(["segtrain", *place, *overrides[run.name]])


def swept(run: Path, key: str) -> bool:
    """Whether the jobs of a run's sweep were given several values of a setting."""
    file = run.parent / FILE
    overrides = _overrides(file, file.stat().st_mtime_ns) if file.is_file() else {}
    return len({word for words in overrides.values() for word in words if word.partition("=")[0] == key}) > 1


def words_of(command: str) -> list[str]:
    """The words of a command as it was typed; none of one that a hand has changed and no shell reads."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def given_in(command: str) -> frozenset[str]:
    """The keys of the settings in a command."""
    return frozenset(word.partition("=")[0].lstrip("+") for word in words_of(command) if "=" in word)


@lru_cache(maxsize=16)
def _overrides(file: Path, modified: int) -> dict[str, list[str]]:
    """Of each job by its folder; read once for a thousand runs, as long as the file is not `modified`."""
    return {name: words for name, words, _ in _listed(file)}


def _listed(file: Path) -> list[tuple[str, list[str], str]]:
    """Folder, overrides and digest of each job in a sweep.json."""
    try:
        return [
            (str(job["folder"]), [str(word) for word in job["overrides"]], str(job["config"]))
            for job in read_json(file)["jobs"]
        ]
    except (KeyError, TypeError) as error:
        raise ConfigError("it lists no jobs", str(file), "restore the file, or resume its runs one by one") from error


def without_weights(settings: dict[str, object]) -> dict[str, object]:
    """Settings by dotted key, the same before and after the class weights are filled in."""
    others = {key: value for key, value in settings.items() if key != "class_weights"}
    return replaced(replaced(others, settings.get("class_weights"), None), CLASS_WEIGHTS, None)


def _digest(settings: dict[str, object]) -> str:
    text = json.dumps(without_weights(settings), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
