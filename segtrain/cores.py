"""How many processors there are for this process, and work cut into parts for them."""

import os
from collections.abc import Sequence


def cores() -> int:
    """Those it may run on, where the system can say; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_chunks(items: Sequence) -> list[Sequence]:
    """Tasks for a pool of threads: of 16, since one each costs a tenth of decoding a mask; of fewer when there are few
    items for each core."""
    size = min(max(len(items) // (4 * cores()), 1), 16)
    return [items[i : i + size] for i in range(0, len(items), size)]
