"""Reading many images or masks with threads: results in order, with a progress bar."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from segtrain.cpu import cores, in_chunks
from segtrain.errors import DataError
from segtrain.signals import leave_if_stopped


def in_threads(work: Callable[[int], Any], indices: Sequence[int], title: str, threads=None) -> Iterator:
    """The result of `work` for each index.

    Args:
        title: of the progress bar, which is drawn on a terminal only.
        threads: None uses every core this process may run on.

    Raises Preempted and such after a stop signal.
    """
    from tqdm import tqdm

    with ThreadPoolExecutor(threads or cores()) as pool:
        results = (result for part in pool.map(lambda part: [*map(work, part)], in_chunks(indices)) for result in part)
        try:
            for result in tqdm(results, title, len(indices), leave=False, unit="image", disable=None):
                leave_if_stopped()
                yield result
        finally:  # after an error, or a stop signal, what has not begun is left out
            pool.shutdown(cancel_futures=True)


def tried(read: Callable, *arguments):
    """What `read(*arguments)` returns, or the DataError it raises, as a value."""
    try:
        return read(*arguments)
    except DataError as error:
        return error
