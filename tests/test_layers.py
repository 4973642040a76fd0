"""The layer rule of CONTRIBUTING.md: a module imports lower rows only; hydra stays at the top."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "segtrain"
ROWS = [
    "errors cores memory arguments signatures tables panels charts signals devices ema models optimizers schedules weighting class_counts class_places count_cache losses labels pages data_samples smallest_objects data_check metrics inference data advice",
    "config config_check run_folder checkpoint logbook",
    "evaluation",
    "trainer",
    "build",
    "commands",
    "__main__ cli",
]
ROW = {name: number for number, row in enumerate(ROWS) for name in row.split()}
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def name_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(file: Path):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "segtrain" else []
            yield from names or [node.module or ""]


@pytest.mark.parametrize("file", MODULES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_only_lower_rows(file):
    own = ROW[name_of(file)]
    for name in imports(file):
        words = name.split(".")
        if words[0] == "segtrain" and len(words) > 1 and words[1] != name_of(file):
            assert ROW[words[1]] <= own, f"{file.name} (row {own}) imports {name} (row {ROW[words[1]]})"


@pytest.mark.parametrize("file", MODULES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_hydra_and_omegaconf_stay_at_the_top(file):
    if name_of(file) in ("config", "config_check", "build", "cli", "commands", "run_folder"):
        return
    assert not [name for name in imports(file) if name.split(".")[0] in ("hydra", "omegaconf")]


def test_only_build_calls_instantiate():
    users = [
        f.name for f in MODULES if "instantiate" in f.read_text(encoding="utf-8").replace("instantiate_sweeper", "")
    ]
    assert users == ["build.py"]
