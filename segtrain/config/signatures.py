"""Read the signature of a class from its source: importing torch to inspect it would take seconds."""

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


@dataclass(frozen=True)
class Signature:
    """The parameters of a class or function.

    Attributes:
        annotations: by name, without self; Any where there is none or it is not understood.
        required: names without a default.
        open: whether any keyword is taken.
    """

    annotations: dict[str, Any]
    required: tuple[str, ...]
    open: bool = False


@dataclass(frozen=True)
class _Module:
    """What a source file defines at its top level."""

    name: str
    file: Path
    nodes: dict[str, ast.ClassDef | ast.FunctionDef]
    imports: dict[str, str]  # by local name, the dotted name
    aliases: dict[str, ast.expr]
    complete: bool  # no star import, no definition under a condition

    @property
    def is_package(self) -> bool:
        return self.file.name == "__init__.py"


@functools.cache
def signature_of(target: str) -> Signature:
    """Signature of a class or function by its dotted name. Raises LookupError with a sentence for the user."""
    module, path = _found(target)
    if module is None:
        return _imported(target)
    if not path:
        raise LookupError(f"{target} is a module, not a class")
    return _defined(module, path)


def _found(target: str) -> tuple["_Module | None", list[str]]:
    """The module that a dotted name begins with, None when there is no source, and the rest of the name."""
    top, *path = target.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise LookupError(f"no package {top!r} can be imported from here")
    folder = next(iter(spec.submodule_search_locations or []), None)
    file = Path(folder, "__init__.py") if folder else Path(spec.origin or "")
    while path:
        below = [file.parent / f"{path[0]}.py", file.parent / path[0] / "__init__.py"]
        found = next((f for f in below if file.name == "__init__.py" and f.is_file()), None)
        if found is None:
            break
        top, file, path = f"{top}.{path[0]}", found, path[1:]
    return (_module(top, file) if file.suffix == ".py" and file.is_file() else None), path


def _defined(module: _Module, path: list[str]) -> Signature:
    name = path[0]
    if name in module.imports and len(path) == 1:
        return signature_of(module.imports[name])
    if name in module.nodes and len(path) == 1:
        return _of_node(module.nodes[name], module)
    if name in module.nodes or name in module.imports or not module.complete:
        return _imported(".".join([module.name, *path]))
    raise LookupError(f"{module.name} has no {name!r}{did_you_mean(name, [*module.nodes, *module.imports])}")


def _of_node(node: ast.ClassDef | ast.FunctionDef, module: _Module) -> Signature:
    if isinstance(node, ast.FunctionDef):
        return _of_arguments(node.args, 0, module)
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if not node.bases and not node.decorator_list:
        return _of_arguments(init.args, 1, module) if init else Signature({}, ())
    own = _of_arguments(init.args, 1, module) if init else None
    if own is not None and not own.open:
        return own
    if node.decorator_list or len(node.bases) != 1 or not isinstance(node.bases[0], ast.Name):
        return own or _imported(f"{module.name}.{node.name}")
    base = _defined(module, [node.bases[0].id])  # what it does not name goes to its base
    own = own or Signature({}, ())
    return Signature({**own.annotations, **base.annotations}, (*own.required, *base.required), base.open)


def _of_arguments(args: ast.arguments, skip: int, module: _Module) -> Signature:
    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    every = [*zip(positional, defaults, strict=True)][skip:]
    every += zip(args.kwonlyargs, args.kw_defaults, strict=True)
    annotations = {arg.arg: _annotation(arg.annotation, module) for arg, _ in every}
    return Signature(annotations, tuple(a.arg for a, default in every if default is None), args.kwarg is not None)


def _annotation(node: ast.expr | None, module: _Module):
    """The annotation as a type; Any when there is none, or it has names that only an import would know."""
    if node is None:
        return Any
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.parse(node.value, mode="eval").body
    try:
        return eval(compile(ast.Expression(node), "<annotation>", "eval"), {}, _Names(module))
    except (NameError, AttributeError, TypeError):
        return Any


class _Names(dict):
    """What names in an annotation mean: an alias of the file, or of segtrain.arguments, typing or Python."""

    def __init__(self, module: _Module):
        super().__init__({**vars(builtins), **vars(typing), **vars(arguments)})
        self.module = module

    def __missing__(self, name: str):
        module, node = self.module, self.module.aliases.get(name)
        if name in module.imports and module.imports[name].startswith(module.name.split(".")[0]):
            module, path = _found(module.imports[name])
            node = module.aliases.get(path[0]) if module is not None and len(path) == 1 else None
        found = _annotation(node, module)
        if found is Any:
            raise NameError(name)
        return found


@functools.cache
def _module(name: str, file: Path) -> _Module:
    module = _Module(name, file, {}, {}, {}, True)
    complete = True
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            module.nodes[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".")
            base = parts[: len(parts) - node.level + module.is_package] if node.level else []
            for alias in node.names:
                complete &= alias.name != "*"
                module.imports[alias.asname or alias.name] = ".".join([*base, *filter(None, [node.module]), alias.name])
        elif isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) for t in node.targets):
            module.aliases.update({t.id: node.value for t in node.targets})
        elif not isinstance(node, ast.Import | ast.Expr):
            complete = False
    return module if complete else _Module(name, file, module.nodes, module.imports, module.aliases, False)


def _imported(target: str) -> Signature:
    """The signature of what cannot be read from the source, such as a C extension."""
    import pydoc

    try:
        found = pydoc.locate(target)
        parameters = inspect.signature(found).parameters.values() if found is not None else None
    except (pydoc.ErrorDuringImport, ValueError, TypeError) as error:
        raise LookupError(f"{target} cannot be imported: {error}") from error
    if parameters is None:
        raise LookupError(f"{target} cannot be found")
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return Signature(
        {p.name: p.annotation for p in named},
        tuple(p.name for p in named if p.default is p.empty),
        any(p.kind is p.VAR_KEYWORD for p in parameters),
    )
