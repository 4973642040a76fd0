"""Types of keyword arguments that carry their range, and the check of a value against a type.

One declaration serves twice: `@checked` refuses a bad value when the class is built from a notebook, and
`segtrain.config.schema` reads the same annotation from the source before any class is imported.
"""

import contextlib
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union

from segtrain.errors import did_you_mean


@dataclass(frozen=True)
class Range:
    """A range a value must lie in, with the words for it."""

    text: str
    test: Callable[[Any], bool] = field(repr=False)


NonNegative = Annotated[float, Range("a number >= 0", lambda v: v >= 0)]
Positive = Annotated[float, Range("a number > 0", lambda v: v > 0)]
Fraction = Annotated[float, Range("a number from 0 to 1", lambda v: 0 <= v <= 1)]
FractionBelowOne = Annotated[float, Range("a number >= 0 and < 1", lambda v: 0 <= v < 1)]
PositiveInt = Annotated[int, Range("a whole number >= 1", lambda v: v >= 1)]
NonNegativeInt = Annotated[int, Range("a whole number >= 0", lambda v: v >= 0)]
OddInt = Annotated[int, Range("an odd number >= 1", lambda v: v >= 1 and v % 2 == 1)]
Label = Annotated[int, Range("a mask value from 0 to 255", lambda v: 0 <= v <= 255)]
Size = Annotated[list[int], Range("[height, width], both >= 1", lambda v: len(v) == 2 and min(v) >= 1)]
Weights = Annotated[
    Sequence[float],
    Range("finite numbers >= 0, not all 0", lambda v: min(map(float, v), default=0) >= 0 and any(map(float, v))),
]

TrainedRun = Annotated[  # a network, or segtrain.runs.trained.Trained
    Any, Range("a mapping with the folder of a trained run as `run`", lambda v: not isinstance(v, str | int | None))
]

_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}


def mistake(value, annotation) -> str | None:
    """Why `value` does not fit `annotation`, in words, or None when it fits (or the type is not known here)."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (Any, inspect.Parameter.empty) or isinstance(annotation, str):
        return None
    if origin is Annotated:
        limits = [a for a in inner[1:] if isinstance(a, Range)]
        found = mistake(value, inner[0])
        if found is None and not all(limit.test(value) for limit in limits):
            found = f"must be {limits[0].text}"
        return found and (f"must be {limits[0].text}" if limits else found)
    if origin in (Union, types.UnionType):
        found = [mistake(value, option) for option in inner]
        if None in found:
            return None
        return "must be " + " or ".join(
            dict.fromkeys(text.removeprefix("must be ").split(", did you")[0] for text in found)
        )
    if origin is Literal:
        if any(value == option and type(value) is type(option) for option in inner):
            return None
        return f"must be one of {' | '.join(map(str, inner))}{did_you_mean(value, inner)}"
    if origin in (list, Sequence, tuple):
        if isinstance(value, str | bytes | dict) or not isinstance(value, Sized):
            return f"must be a list{f', [{value}]' if isinstance(value, str) else ''}"
        of = inner[0] if inner else Any
        if origin is Sequence and not isinstance(value, list | tuple):
            with contextlib.suppress(TypeError, ValueError):
                value = [*map(float, value)]  # those of a tensor are tensors
        return next(
            (f"must be a list, each {m.removeprefix('must be ')}" for v in value if (m := mistake(v, of))),
            None,
        )
    if origin is dict or annotation is dict:
        return None if isinstance(value, dict) else "must be a mapping"
    if annotation is None or annotation is type(None):
        return None if value is None else "must be null"
    if annotation is float:
        fits = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    elif annotation is int:
        fits = isinstance(value, Integral) and not isinstance(value, bool)
    elif annotation in (bool, str):
        fits = isinstance(value, annotation)
    else:
        return None
    return None if fits else f"must be {_WORDS[annotation]}"


def checked(function):
    """Decorate an `__init__` or a factory: every argument is checked against its annotation.

    Raises ValueError that names the argument, its value and what is allowed.
    """
    signature = inspect.signature(function)
    annotations = {name: p.annotation for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD}
    for more in (p.annotation for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD):
        for fields in typing.get_args(more):  # the TypedDict of Unpack
            annotations |= typing.get_type_hints(fields, include_extras=True)

    @functools.wraps(function)
    def with_check(*args, **kwargs):
        for name, value in (signature.bind(*args, **kwargs).arguments | kwargs).items():
            if name in annotations and (found := mistake(value, annotations[name])):
                owner = type(args[0]).__name__ if function.__name__ == "__init__" else function.__name__
                raise ValueError(f"{owner}: {name}={value!r} {found}")
        return function(*args, **kwargs)

    return with_check
