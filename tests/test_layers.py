"""The layer rule of CONTRIBUTING.md: what each folder and each file beside them may import of segtrain."""

import ast
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "segtrain"
GROUND = "errors arguments cpu signals protocols files ranks"
ALLOWED = {
    "errors": "",
    "arguments": "errors",
    "cpu": "",
    "signals": "errors",
    "protocols": "errors",
    "files": "errors",
    "ranks": "errors training",  # training.distributed, when there are several
    "data": GROUND,
    "class_counts": f"{GROUND} data",
    "weighting": f"{GROUND} class_counts",
    "schedules": GROUND,
    "optimizers": GROUND,
    "encoder_weights": GROUND,
    "models": f"{GROUND} encoder_weights",
    "losses": GROUND,
    "labels": f"{GROUND} losses",
    "metrics": f"{GROUND} losses",
    "proposals": f"{GROUND} data inference",
    "inference": f"{GROUND} data metrics",
    "exported": f"{GROUND} metrics",
    "dataset_check": f"{GROUND} data",
    "training": f"{GROUND} optimizers data losses labels metrics inference",
    "runs": f"{GROUND} config",
    "comparison": f"{GROUND} config runs",
    "find": f"{GROUND} data class_counts weighting",
    "report": f"{GROUND} data class_counts weighting losses metrics dataset_check runs comparison",
    "config": f"{GROUND} data losses metrics inference",
    "commands": f"{GROUND} models optimizers data class_counts weighting losses labels metrics inference exported dataset_check training"
    " runs comparison report find config",
    "python": f"{GROUND} data report runs config commands",
    "cli": "errors cpu signals ranks config runs report commands",
    "__main__": "cli",
}
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
def test_imports_only_what_its_folder_may(file):
    own = name_of(file)
    allowed = {own, *ALLOWED[own].split(), "__version__"}
    found = {name.split(".")[1] for name in imports(file) if name.startswith("segtrain.")}
    assert found <= allowed, f"{file.name} imports {sorted(found - allowed)}"


def test_the_table_names_what_there_is():
    assert set(ALLOWED) == {name_of(file) for file in MODULES}


@pytest.mark.parametrize("file", MODULES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_hydra_and_omegaconf_are_imported_by_config_alone(file):
    if name_of(file) != "config":
        assert not [name for name in imports(file) if name.split(".")[0] in ("hydra", "omegaconf")]


def test_only_build_calls_instantiate():
    assert [f.name for f in MODULES if "instantiate(" in f.read_text(encoding="utf-8")] == ["build.py"]


def test_a_wheel_holds_every_folder():
    packages = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    code = {".".join(file.relative_to(PACKAGE.parent).parent.parts) for file in [*MODULES, PACKAGE / "__init__.py"]}
    settings = {
        "segtrain." + ".".join(f.relative_to(PACKAGE.parent).parent.parts)
        for f in PACKAGE.parent.glob("configs/**/*.yaml")
    }
    templates = "segtrain.report.templates"
    assert set(packages) == code | settings | {templates}
