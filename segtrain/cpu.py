"""The processors and the memory of this process."""

import atexit
import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path

SPINS = "1000"  # times that a thread looks whether another is done, before it sleeps


def cores() -> int:
    """Number of processors this process may run on (on systems other than Linux, of all), of several jobs its share."""
    found = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, found // jobs())


def jobs() -> int:
    """How many jobs of a sweep run at the same time on this machine, each in a process of its own."""
    return int(os.environ.get("SEGTRAIN_JOBS", 1))


def share_cores(jobs: int) -> None:
    """Let the processes that this one starts share the processors, `jobs` at a time.

    A thread of OpenMP that waits for others spins, unless it is told not to: two trainings with as many threads as there
    are cores slow each other down many times over.
    """
    os.environ["SEGTRAIN_JOBS"] = str(jobs)
    os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
    if os.environ.get("GOMP_SPINCOUNT") == SPINS:
        del os.environ["GOMP_SPINCOUNT"]  # which comes before the policy
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def let_waiting_threads_sleep() -> None:
    """Let threads of OpenMP sleep soon when they wait for others, unless the environment says how they wait.

    By default those of GNU's OpenMP, which PyTorch has on Linux, spin for milliseconds: on cores that another process uses, too,
    they keep the threads that they wait for from running. To be called before torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def free_memory() -> int | None:
    """Bytes that this process may still take, no more than its control group allows. None: not known, not Linux."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = [1024 * int(lines["MemAvailable"].split()[0])]
    except (OSError, KeyError, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    for folder, limit, used, cached in (
        (group, "memory.max", "memory.current", "inactive_file"),
        (group / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            counted = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            taken = int((folder / used).read_text()) - int(counted[cached])  # files that were read are let go of
            free.append(int((folder / limit).read_text()) - taken)
        except (OSError, ValueError, KeyError):  # no such file, or no limit
            continue
    return max(min(free), 0)


def in_chunks(items: Sequence) -> list[Sequence]:
    """Tasks for a pool of threads: of 16, since one each costs a tenth of decoding a mask; of fewer when there are few
    items for each core."""
    size = min(max(len(items) // (4 * cores()), 1), 16)
    return [items[i : i + size] for i in range(0, len(items), size)]


def on_all_cores(work: Callable[[range], None], count: int) -> None:
    """Call `work` with as many parts of range(count) as there are cores, each by a thread; this one takes a part, too."""
    parts = max(1, min(count, cores()))
    ends = [count * k // parts for k in range(parts + 1)]
    others = [_pool(os.getpid()).submit(work, range(ends[k], ends[k + 1])) for k in range(1, parts)]
    try:
        work(range(ends[0], ends[1]))
    finally:
        wait(others)
    for other in others:
        other.result()  # raises what it raised


@cache
def _pool(_process: int) -> ThreadPoolExecutor:
    """Kept, since starting threads takes as long as counting a batch; but by process: a fork has no threads."""
    return ThreadPoolExecutor(cores())


@contextlib.contextmanager
def importing():
    """Within this, Python does not look for garbage: among millions of objects that stay, it would take a tenth of the
    start of a training. What is there at the end of the first time is left out of later searches, too, until the process
    ends; later times there may be garbage, such as the network of a sweep's last job."""
    if gc.get_freeze_count():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # extensions, such as Triton's, print what is left at the end as leaked
        gc.enable()


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_memory() -> None:
    """Let this process keep the memory it frees. Linux with glibc; elsewhere it does nothing.

    Large tensors come and go in every step. Given back to the system and paged in again each time, they cost a training
    on the CPU a seventh of its time.
    """
    _set_thresholds(1 << 30, (1 << 31) - 1)


def give_memory_back(kept: int = 1 << 17) -> None:
    """Let this process return what it frees, but for `kept` bytes: where little memory is worth more than time."""
    _set_thresholds(kept, kept)


def _set_thresholds(mmap: int, trim: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_MMAP_THRESHOLD, mmap)
    mallopt(_TRIM_THRESHOLD, trim)
