"""A run's folder belongs to one process: it is made once, locked, and leads nowhere else."""

import contextlib
import fcntl
import logging
import os
import shlex
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from segtrain.errors import ConfigError, DiskError

log = logging.getLogger("segtrain")

FOLDERS = ("checkpoints", "evaluation", "failed", "plots", "tensorboard", ".hydra")
FILES = (".lock", "config.yaml", "environment.json", "metrics.csv", "page.html", "result.json", "segtrain.log")

_held: dict[Path, int] = {}
_made_above: list[Path] = []  # the folders that this process has made for those of its runs


def lock(folder: Path) -> None:
    """Hold a folder until `unlock` or the end of this process. Raises ConfigError while another process holds it.

    Record locks, since worker processes do not inherit them: one that outlives a killed run for some seconds does not
    keep it from being resumed.
    """
    folder = folder.resolve()
    if folder in _held:
        return
    try:
        file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise DiskError(
            f"cannot be locked: {error.strerror}", str(folder / ".lock"), "make the folder writable"
        ) from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        os.close(file)
        raise ConfigError(
            "another process is writing into this folder", str(folder), "wait until it ends, or name another folder"
        ) from error
    except OSError as error:  # a disk without locks
        os.close(file)
        log.warning(f"{folder} cannot be locked ({error.strerror}): make sure that no other process writes into it")
        return
    _held[folder] = file


def is_held(folder: Path) -> bool:
    """Whether a process trains in a folder; this one, too."""
    if folder.resolve() in _held:
        return True
    try:
        lock(folder)
    except ConfigError:
        return True
    unlock(folder)
    return False


def unlock(folder: Path) -> None:
    """Let go of a folder that this process holds."""
    with contextlib.suppress(KeyError):
        os.close(_held.pop(folder.resolve()))


def make_run_folder(name: Callable[[], Path]) -> Path:
    """Make and lock the folder of a new run; `name` is asked again when another run has just taken the name it made up.

    A run that ended before its first checkpoint may be started again in its folder, and a job that Slurm has queued
    again goes on in it. Raises ConfigError when the folder holds a run, DiskError when it cannot be made.
    """
    folder = name()
    try:
        while not _made(folder) and (other := name()) != folder:
            folder = other
        lock(folder)
        held = any((folder / file).exists() for file in ("checkpoints", "metrics.csv", "multirun.yaml"))
        if held and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":  # else Slurm has started this job before
            unlock(folder)
            kind = "sweep" if (folder / "multirun.yaml").exists() else "run"
            fix = f"name another folder, or `segtrain resume {shlex.quote(str(folder))}`"
            raise ConfigError(f"the folder holds a {kind} already", str(folder), fix)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise DiskError(
            f"the output folder cannot be written: {error.strerror}",
            str(folder),
            "set hydra.run.dir (with -m: hydra.sweep.dir; of a repeat --out)",
        ) from error
    return folder


def _made(folder: Path) -> bool:
    """Make a folder; False when it is there."""
    _made_above.extend(above for above in folder.parents if not above.exists())
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def remove_run_folder(folder: Path) -> None:
    """Remove a folder, and those above it that were made for it and hold nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    for above in folder.parents:
        if above in _made_above:
            with contextlib.suppress(OSError):  # it holds another run
                above.rmdir()


def refuse_links(path: Path) -> None:
    """Raise ConfigError when something in a run's folder is neither file nor folder, or one in place of the other.

    What is written to a link would be written elsewhere, and a pipe is waited for.
    """
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            entry = os.path.join(folder, name)
            try:
                mode = os.lstat(entry).st_mode
            except FileNotFoundError:  # a part that another process has finished meanwhile
                continue
            if stat.S_ISLNK(mode):
                what = f"the run folder holds a link to {os.readlink(entry)}"
                raise ConfigError(what, entry, "replace it by what it leads to")
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise ConfigError("neither a file nor a folder", entry, "remove it")
            if folder == str(path) and stat.S_ISDIR(mode) != (name in FOLDERS) and name in (*FOLDERS, *FILES):
                raise ConfigError(f"not a {'folder' if name in FOLDERS else 'file'}", entry, "remove it")
