"""Arrays that the processes of a training on one machine share: one copy of each, whichever process made it."""

import math
import mmap
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from segtrain.errors import ConfigError
from segtrain.ranks import Processes

ALIGNED = 64  # bytes, as of NumPy's own arrays


def on_this_machine(processes: Processes) -> list[int]:
    """The numbers of the processes that share this one's memory. Every process calls this."""
    if sys.platform != "linux":
        return [processes.rank.number]
    # By the start of the system, since names of machines may be equal, and by what process numbers are counted in.
    machine = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    return [number for number, other in enumerate(processes.gathered(machine)) if other == machine]


def shared_among(
    samples: Iterable[tuple[np.ndarray, ...]], numbers: list[int], processes: Processes
) -> list[list[tuple[np.ndarray, ...]]]:
    """The samples of each of the processes `numbers`, in shared memory: a change of one is seen by nobody else.

    Every process calls this, with its own samples. Raises ConfigError where a process cannot reach another one's memory.
    """
    memory = os.memfd_create("segtrain")  # stays open: it has no name, and goes with the last process that maps it
    layout = []
    with open(memory, "wb", closefd=False) as stream:
        for sample in samples:
            layout.append([])
            for array in sample:
                stream.write(bytes(-stream.tell() % ALIGNED))
                layout[-1].append((stream.tell(), array.shape, array.dtype.str))
                stream.write(np.ascontiguousarray(array))
    everyone = processes.gathered((os.getpid(), memory, layout))
    return [_mapped(*everyone[number]) for number in numbers]


def _mapped(process: int, memory: int, layout: list) -> list[tuple[np.ndarray, ...]]:
    if not layout:
        return []
    try:
        with open(f"/proc/{process}/fd/{memory}", "rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        what = f"the memory of another process of this machine cannot be read: {error.strerror}"
        raise ConfigError(what, "loader.cache", "set loader.cache=none") from error
    return [
        tuple(np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape) for offset, shape, dtype in sample)
        for sample in layout
    ]
