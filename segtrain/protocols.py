"""What a class of the user's own must have: read from its source by `check_config`, and checked when it is built."""

import contextlib
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass

from segtrain.errors import ConfigError


@dataclass(frozen=True)
class Protocol:
    """A kind of part that a user may replace.

    Attributes:
        base: the class that describes it, with a default for what is optional.
        required: attributes and methods; of `a or b` one is enough.
    """

    base: str
    required: tuple[str, ...]

    def lacking(self, names: Collection[str]) -> list[str]:
        """What is required and not among `names`."""
        return [entry for entry in self.required if not any(name in names for name in entry.split(" or "))]


PROTOCOLS = {
    "dataset": Protocol(
        "segtrain.data.dataset.SegmentationDataset",
        ("num_classes", "class_names", "ignore_index", "background", "multilabel", "names", "image", "mask"),
    ),
    "augment": Protocol("segtrain.data.augment.Augmentation", ("__call__",)),
    "sampling": Protocol("segtrain.data.sampling.Sampling", ("__call__",)),
    "loss": Protocol("segtrain.losses.loss.Loss", ("forward or from_sums",)),
    "metric": Protocol("segtrain.metrics.metric.Metric", ("reset", "update", "compute")),
}


def adopted(part, kind: str, base: type, wrap: Callable, above: type = object):
    """`part` when it derives from `base`, else `wrap(part)`, which gives the defaults of `base` to what is optional.

    Args:
        above: another class whose attributes and methods do not count as the user's.

    Raises ConfigError that names what the class lacks.
    """
    kinds = type(part).__mro__
    own = kinds[: min(kinds.index(each) for each in (base, above, object) if each in kinds)]
    names = {name for each in own for name in vars(each)} | set(vars(part) if "__dict__" in dir(part) else ())
    if lacking := PROTOCOLS[kind].lacking(names):
        where = f"{type(part).__module__}.{type(part).__qualname__}"
        raise ConfigError(f"the {kind} class has no {', '.join(lacking)}", where, f"see {PROTOCOLS[kind].base}")
    return part if isinstance(part, base) else wrap(part)


def check_call(function: Callable, arguments: tuple, called: str, kind: str) -> None:
    """Raise ConfigError, which says how it is `called`, when a user's function does not take the arguments."""
    with contextlib.suppress(ValueError):  # of a callable that shows no signature
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError as error:
            raise ConfigError(f"{called}: {error}", kind, "give it these arguments") from error
