"""Start segtrain many times a minute: a process that has imported all it needs forks one for each command."""

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from segtrain.cpu import importing


@dataclass
class Command:
    """A running or ended command, of which only the processes it has are ours to kill."""

    server: "Server"
    pid: int
    log: Path
    error_log: Path

    def kill(self, number: int = signal.SIGKILL, group: bool = False) -> None:
        """A signal to the process, or to its group as a terminal or a scheduler sends it."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def wait(self) -> int:
        """The exit code; minus the signal that ended it."""
        return self.server.ask({"wait": self.pid})

    def wait_for(self, file: Path) -> None:
        """Until it has written a file."""
        while not file.is_file():
            assert _state(self.pid) != "Z", self.text()
            time.sleep(0.01)

    def text(self) -> str:
        """What it printed."""
        return self.log.read_text(errors="replace")

    def error_text(self) -> str:
        """What it printed to stderr, if that is apart."""
        return self.error_log.read_text(errors="replace")


class Server:
    """`start("loss=ce", cwd=folder)` runs `segtrain loss=ce`; `run` waits for it, too, and returns (code, text)."""

    def __init__(self, folder: Path):
        self.folder, self.number = folder, 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "SEGTRAIN_CACHE": str(folder / "cache")}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, request: dict) -> int:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, *words, cwd: Path, apart: bool = False, **environment: str) -> Command:
        """Stdout and stderr go to one file, or to two, apart."""
        self.number += 1
        log = self.folder / f"{self.number}.log"
        error_log = log.with_suffix(".err") if apart else log
        request = {
            "words": [str(word) for word in words],
            "cwd": str(cwd),
            "logs": [str(log), str(error_log)],
            "environment": environment,
        }
        return Command(self, self.ask(request), log, error_log)

    def run(self, *words, cwd: Path, **environment: str) -> tuple[int, str]:
        command = self.start(*words, cwd=cwd, **environment)
        return command.wait(), command.text()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def children(pid: int) -> list[int]:
    """Processes that descend from one."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [below for child in found for below in children(child)]


def alive(pids: list[int], within: float = 10) -> list[int]:
    """Those that are still there after some seconds."""
    end = time.monotonic() + within
    while pids and time.monotonic() < end:
        pids = [pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in _state(pid)]
        time.sleep(0.02)
    return pids


def _state(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


IMPORTED = (
    "albumentations segmentation_models_pytorch hydra._internal.instantiate._instantiate2 torch.utils.tensorboard "
    "matplotlib.figure matplotlib.backends.backend_agg segtrain.commands.evaluate segtrain.commands.resume segtrain.commands.repeat"
)


def serve() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    with importing():  # frozen: a search for garbage in a fork would copy most of the memory
        for name in IMPORTED.split():
            importlib.import_module(name)
    from segtrain import cli

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        os.setpgid(0, 0)
        for stream, log in zip((1, 2), request["logs"], strict=True):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        sys.argv = ["segtrain", *request["words"]]
        _leave(cli.main)


def _leave(main) -> NoReturn:
    """Run it and end the process as Python does, but for the search for garbage: in a fork it copies the memory, in 2 s."""
    code = 1
    try:
        main()
    except SystemExit as done:
        code = done.code
    except BaseException:
        traceback.print_exc()
    threading._shutdown()
    atexit.unregister(gc.unfreeze)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
