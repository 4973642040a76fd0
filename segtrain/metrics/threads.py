"""Work on the images of a batch, by all cores."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

from segtrain.cores import cores


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
