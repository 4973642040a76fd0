"""Read the signature and the docstring of a class from its source: importing torch to inspect it would take seconds."""

import ast
import builtins
import contextlib
import functools
import importlib.util
import inspect
import typing
from collections.abc import Collection
from dataclasses import dataclass, field
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


@dataclass
class _Module:
    """What a source file defines at its top level."""

    name: str
    nodes: dict[str, ast.ClassDef | ast.FunctionDef] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)  # by local name, the dotted name
    aliases: dict[str, ast.expr] = field(default_factory=dict)
    complete: bool = True  # no star import, no definition under a condition

    def dotted(self, node: ast.expr) -> str:
        """The dotted name that an expression such as `nn.Module` stands for in this file."""
        first, *rest = ast.unparse(node).split(".")
        own = first in self.nodes or first in self.aliases
        owner = f"{self.name}." if own else "builtins." if first in vars(builtins) else ""
        return ".".join([self.imports.get(first, owner + first), *rest])


@functools.cache
def signature_of(target: str) -> Signature:
    """Signature of a class or function by its dotted name. Raises LookupError with a sentence for the user."""
    found = _definition(target)
    return _imported(target) if found is None else _of_node(*found)


def is_function(target: str) -> bool:
    """Whether a dotted name is a function by its source, and no class."""
    found = _definition(target)
    return found is not None and isinstance(found[0], ast.FunctionDef)


def docstring_of(target: str) -> str:
    """The docstring of a class or function; empty when there is none, or only an import can tell."""
    found = _definition(target)
    return (found and ast.get_docstring(found[0])) or ""


def members_of(target: str, without: Collection[str]) -> set[str] | None:
    """The names that a class and its bases define, or set on self; None when the source leaves some open.

    Args:
        without: dotted names of bases that do not count.
    """
    if target in without:
        return set()
    try:
        node, module = _definition(target) or (None, None)
    except LookupError:
        return None
    if not isinstance(node, ast.ClassDef) or node.decorator_list or node.keywords:
        return None
    if f"{module.name}.{node.name}" in without:
        return set()
    below = [members_of(module.dotted(base), without) for base in node.bases]
    every = [n for n in ast.walk(node) if isinstance(n, ast.Attribute | ast.Name)]
    used = {n.attr if isinstance(n, ast.Attribute) else n.id for n in every}
    names = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
    calls = [n for n in ast.walk(node) if isinstance(n, ast.Call) and ast.unparse(n.func) != "super"]
    given = [argument for call in calls for argument in (*call.args, *(k.value for k in call.keywords))]
    handed_on = any(isinstance(argument, ast.Name) and argument.id == "self" for argument in given)  # and set there
    if None in below or handed_on or used & {"setattr", "vars", "__dict__"} or "__getattr__" in names:
        return None
    assigned = [target for part in node.body if isinstance(part, ast.Assign) for target in part.targets]
    assigned += [part.target for part in node.body if isinstance(part, ast.AnnAssign) and part.value is not None]
    names |= {n.id for target in assigned for n in ast.walk(target) if isinstance(n, ast.Name)}
    names |= {n.attr for n in every if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    return names.union(*below)


def _definition(target: str) -> tuple[ast.ClassDef | ast.FunctionDef, _Module] | None:
    """The class or function of a dotted name, and where it is defined; None when only an import can tell.

    Raises LookupError when it is not there.
    """
    module, path = _found(target)
    if module is None:
        return None
    if not path:
        raise LookupError(f"{target} is a module, not a class")
    name = path[0]
    if len(path) == 1 and name in module.imports:
        return _definition(module.imports[name])
    if len(path) == 1 and name in module.nodes:
        return module.nodes[name], module
    if name in module.nodes or name in module.imports or not module.complete:
        return None
    if len(path) == 1 and (value := module.aliases.get(name)) is not None:
        if isinstance(value, ast.Name | ast.Attribute):
            return _definition(module.dotted(value))
        raise LookupError(f"{target} is a value, not a class: write a class")
    raise LookupError(f"{module.name} has no {name!r}{did_you_mean(name, [*module.nodes, *module.imports])}")


def _found(target: str) -> tuple[_Module | None, list[str]]:
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


def _of_node(node: ast.ClassDef | ast.FunctionDef, module: _Module) -> Signature:
    if isinstance(node, ast.FunctionDef):
        return _of_arguments(node.args, 0, module)
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    own = _of_arguments(init.args, 1, module) if init else Signature({}, (), bool(node.bases or node.decorator_list))
    if not own.open or not (node.bases or node.decorator_list):
        return own
    if len(node.bases) == 1 and not node.decorator_list:  # what it does not name goes to its base
        with contextlib.suppress(LookupError):
            base = signature_of(module.dotted(node.bases[0]))
            takes_any = base.open or bool(init and not base.annotations)
            required = tuple(dict.fromkeys((*own.required, *base.required)))
            return Signature({**own.annotations, **base.annotations}, required, takes_any)
    return own if init else _imported(f"{module.name}.{node.name}")


def _of_arguments(args: ast.arguments, skip: int, module: _Module) -> Signature:
    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    every = [*zip(positional, defaults, strict=True)][skip:]
    every += zip(args.kwonlyargs, args.kw_defaults, strict=True)
    annotations = {arg.arg: _annotation(arg.annotation, module) for arg, _ in every}
    required = tuple(arg.arg for arg, default in every if default is None)
    more = args.kwarg and args.kwarg.annotation  # Unpack[a TypedDict of this file]
    fields = module.nodes.get(ast.unparse(more.slice)) if isinstance(more, ast.Subscript) else None
    if fields is None:
        return Signature(annotations, required, args.kwarg is not None)
    annotated = [field for field in fields.body if isinstance(field, ast.AnnAssign)]
    return Signature(annotations | {f.target.id: _annotation(f.annotation, module) for f in annotated}, required)


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
        module = self.module
        if module.imports.get(name, "").startswith(module.name.split(".")[0]):
            module, path = _found(module.imports[name])
            name = path[0] if path else name
        found = _annotation(module.aliases.get(name), module)
        if found is Any:
            raise NameError(name)
        return found


@functools.cache
def _module(name: str, file: Path) -> _Module:
    module = _Module(name)
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except SyntaxError as error:
        raise LookupError(f"{file}, line {error.lineno}: {error.msg}") from error
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            module.nodes[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            module.imports |= {alias.asname or alias.name: f"{origin}.{alias.name}" for alias in node.names}
            module.complete &= node.names[0].name != "*"
        elif isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) for t in node.targets):
            module.aliases |= {t.id: node.value for t in node.targets}
        elif isinstance(node, ast.Import):
            module.imports |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif not isinstance(node, ast.Expr):
            module.complete = False
    return module


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
