"""Results that do not depend on the order in which they are computed."""

import contextlib

import torch


@contextlib.contextmanager
def in_any_order():
    """Within this, deterministic algorithms are off: for counts, whose sums are exact, and where each place is written once.

    On CUDA the deterministic scatter sorts its indices first, of every pixel, which takes many times as long and memory.
    """
    if not torch.are_deterministic_algorithms_enabled():
        yield
        return
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=warns)
