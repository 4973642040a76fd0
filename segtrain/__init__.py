"""segtrain trains segmentation models on badly imbalanced classes, and shows which setting wins.

In Python: `segtrain.train(overrides, dataset=…)` and `segtrain.load(RUN)`, which give a `Run`; docs/python.md.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segtrain.python import Run, load, train

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "load", "train"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str):
    """What needs torch is imported when it is used: the command line starts without it."""
    if name in ("Run", "load", "train"):
        from segtrain import python

        return getattr(python, name)
    raise AttributeError(f"module 'segtrain' has no attribute {name!r}")
