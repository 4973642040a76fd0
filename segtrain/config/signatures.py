"""The signature behind a dotted name, read from the source without importing it.

Importing torch takes seconds; a typo in a config should be answered at once. What cannot be read from the
source (a C extension, a name made at run time) is imported after all.
"""

import ast
import builtins
import functools
import importlib.util
import inspect
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segtrain import arguments
from segtrain.errors import did_you_mean

_NAMESPACE = {**vars(builtins), **vars(typing), **vars(arguments)}


@dataclass(frozen=True)
class Signature:
    """Parameters by name, without self: annotation (Any when not known) and whether a value is required."""

    annotations: dict[str, Any]
    required: tuple[str, ...]
    open: bool  # takes **kwargs


def signature_of(target: str) -> Signature:
    """Signature of a class or function by its dotted name. Raises LookupError with a sentence for the user."""
    top = target.split(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise LookupError(f"no package {top!r} can be imported from here")
    roots = [Path(p) for p in spec.submodule_search_locations or []]
    file = roots[0] / "__init__.py" if roots else Path(spec.origin or "")
    found = _in_file(file, target.split(".")[1:], top)
    if isinstance(found, str):
        raise LookupError(found)
    return found if found is not None else _imported(target)


def _in_file(file: Path, path: list[str], module: str) -> Signature | str | None:
    """The signature of `path` below the module in `file`; a sentence when it is not there; None: import to know."""
    if not path:
        return f"{module} is a module, not a class"
    folder = file.parent if file.name == "__init__.py" else None
    name = path[0]
    if folder is not None:
        for candidate in (folder / f"{name}.py", folder / name / "__init__.py"):
            if candidate.is_file() and len(path) > 1:
                return _in_file(candidate, path[1:], f"{module}.{name}")
    if not file.is_file() or file.suffix != ".py":
        return None
    nodes, imports, _, dynamic = _definitions(file)
    if name in nodes:
        return _of_node(nodes[name], file, module) if len(path) == 1 else None
    if name in imports:
        source, original, level = imports[name]
        base = module if file.name == "__init__.py" else module.rpartition(".")[0]
        for _ in range(level - 1):
            base = base.rpartition(".")[0]
        full = ".".join(p for p in (base if level else "", source, original) if p)
        try:
            return signature_of(full) if len(path) == 1 else None
        except LookupError as error:
            return str(error)
    if folder is not None and ((folder / name).is_dir() or (folder / f"{name}.py").is_file()):
        return f"{module}.{name} is a module, not a class"
    if dynamic:
        return None
    return f"{module} has no {name!r}{did_you_mean(name, [*nodes, *imports])}"


@functools.cache
def _definitions(file: Path):
    """Classes and functions, `from … import` names, `NAME = expression` aliases; whether there may be more."""
    nodes, imports, aliases, dynamic = {}, {}, {}, False
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            nodes[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                dynamic |= alias.name == "*"
                imports[alias.asname or alias.name] = (node.module or "", alias.name, node.level)
        elif isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) for t in node.targets):
            aliases |= {t.id: node.value for t in node.targets}
        elif not isinstance(node, ast.Import | ast.Expr):
            dynamic = True
    return nodes, imports, aliases, dynamic


def _of_node(node, file: Path, module: str) -> Signature | str | None:
    if isinstance(node, ast.FunctionDef):
        return _of_arguments(node.args, 0, file)
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _of_arguments(item.args, 1, file)
    if node.decorator_list or len(node.bases) != 1 or not isinstance(node.bases[0], ast.Name):
        return None if node.bases or node.decorator_list else Signature({}, (), False)
    return _in_file(file, [node.bases[0].id], module)


def _of_arguments(args: ast.arguments, skip: int, file: Path) -> Signature:
    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    every = list(zip(positional, defaults, strict=True))[skip:] + list(
        zip(args.kwonlyargs, args.kw_defaults, strict=True)
    )
    return Signature(
        annotations={arg.arg: _evaluate(arg.annotation, file) for arg, _ in every},
        required=tuple(arg.arg for arg, default in every if default is None),
        open=args.kwarg is not None,
    )


def _evaluate(annotation: ast.expr | None, file: Path):
    """The annotation as a type. Any when it uses names other than Python's, typing's, segtrain.arguments' or the
    file's own aliases made of these."""
    if annotation is None:
        return Any
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    bound = {a.arg for n in ast.walk(annotation) if isinstance(n, ast.Lambda) for a in n.args.args}
    names = {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)} - bound
    aliases = _definitions(file)[2]
    own = {name: _evaluate(aliases[name], file) for name in names & aliases.keys()}
    calls = [n.func for n in ast.walk(annotation) if isinstance(n, ast.Call)]
    harmless = {"Range", "len", "min", "max", "all"}
    if (
        not all(isinstance(f, ast.Name) and f.id in harmless for f in calls)
        or not names <= _NAMESPACE.keys() | own.keys()
    ):
        return Any
    return eval(compile(ast.Expression(annotation), "<annotation>", "eval"), {**_NAMESPACE, **own})


def _imported(target: str) -> Signature:
    import pydoc

    try:
        found = pydoc.locate(target)
        parameters = inspect.signature(found).parameters.values() if found is not None else None
    except (pydoc.ErrorDuringImport, ValueError, TypeError) as error:
        raise LookupError(f"{target} cannot be imported: {error}") from error
    if parameters is None:
        raise LookupError(f"{target} cannot be found")
    kinds = inspect.Parameter
    named = [p for p in parameters if p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)]
    return Signature(
        annotations={p.name: p.annotation for p in named},
        required=tuple(p.name for p in named if p.default is kinds.empty),
        open=any(p.kind is kinds.VAR_KEYWORD for p in parameters),
    )
