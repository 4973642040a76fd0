"""The cache of class counts: each mask is counted once, by whichever process comes first.

A row is found by the content of its mask, so copies and other folders share it. When no file of a dataset has changed
in size or times, none is read, and all rows come from one file.
"""

import contextlib
import hashlib
import itertools
import logging
import os
import time
from operator import attrgetter
from pathlib import Path

import numpy as np

from segtrain.errors import DiskError, Preempted
from segtrain.files import whole
from segtrain.signals import leave_if_stopped

log = logging.getLogger("segtrain")

_STATE = attrgetter("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino")
_VERSION = 1  # raise it when files come to be read in another way
_SETTLED = 2 * 10**9  # nanoseconds: a file written a moment ago may be written again within one tick of its clock


def cached_rows(dataset, cache: Path, count, columns: int, kind: str) -> np.ndarray:
    """int64 [images, columns], from the folder `cache` where they are known, from `count(indices)` where not.

    Rows of another `kind` are kept apart. A dataset whose `mask_key` is None is counted anew. A cache that is damaged or
    cannot be written only costs time.
    """
    labels = f"{dataset.num_classes} {dataset.ignore_index} {dataset.multilabel}"
    rule = f"{_VERSION} {kind} {columns} {labels} {dataset.mask_rule()}"
    all_rows, state = _all_rows(dataset, cache, rule)
    rows = _read(all_rows, columns).get(state) if state else None
    if rows is not None and len(rows) == len(dataset.names):
        return rows
    texts = [dataset.mask_key(i) for i in range(len(dataset.names))]
    if None in texts:
        return count(range(len(texts)))
    file, keys = cache / f"counts-{_digest(rule)}.npz", [_digest(text) for text in texts]
    with _locked(file):
        known = _read(file, columns)
        missing = [i for i, key in enumerate(keys) if key not in known]
        if missing:
            counted = count(missing)
            known |= {keys[i]: row for i, row in zip(missing, counted, strict=True)}
            _write(file, known)  # other datasets of this rule keep their rows
        rows = np.stack([known[key] for key in keys])
        if state:
            _write(all_rows, {state: rows})
        return rows


@contextlib.contextmanager
def _locked(file: Path):
    """While another process counts these masks, wait; where no lock can be made, go on without."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{file}.lock")
    # Suppressed: a read-only folder, and a file system without locks. At worst two processes count to the same numbers.
    with contextlib.suppress(OSError, NotImplementedError):
        file.parent.mkdir(parents=True, exist_ok=True)
        for seconds in itertools.count():
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=1)
                break
            leave_if_stopped()
            if seconds == 1:
                log.info(f"waiting for another process that is counting these masks (it holds {file}.lock)")
    try:
        yield
    finally:
        lock.release()


def _all_rows(dataset, cache: Path, rule: str) -> tuple[Path, str | None]:
    """The file of all rows of a dataset, and the state of its files: None when it is not known."""
    files = dataset.files()
    file = cache / f"whole-{_digest(rule + str(files[:1]))}.npz"
    try:
        numbers = np.fromiter(itertools.chain.from_iterable(map(_STATE, map(os.stat, files))), np.int64).reshape(-1, 4)
    except OSError:
        return file, None
    if not files or time.time_ns() - numbers[:, 1:3].max() < _SETTLED:
        return file, None
    return file, _digest(rule + "\n".join(files), numbers)


def _read(file: Path, columns: int) -> dict[str, np.ndarray]:
    """Rows, or tables of them, by key; empty for a file that is missing or damaged."""
    try:
        with np.load(file, allow_pickle=False) as saved:
            keys, table = saved["keys"], saved["table"]
        fits = len(table) == len(keys) and table.shape[-1] == columns and table.dtype == np.int64
        return dict(zip(keys.tolist(), table, strict=True)) if fits else {}
    except Preempted:
        raise
    except Exception:  # a cache is only a cache: whatever is wrong with the file, count again
        return {}


def _write(file: Path, known: dict[str, np.ndarray]) -> None:
    with contextlib.suppress(DiskError), whole(file) as stream:
        np.savez(stream, keys=np.array(list(known)), table=np.stack(list(known.values())))


def _digest(text: str, numbers: np.ndarray | bytes = b"") -> str:
    digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16)
    digest.update(numbers)
    return digest.hexdigest()
