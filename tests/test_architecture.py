"""The shape of the package: arrows between its modules run downwards only."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "daskptycho"

# What everyone may import.
GROUND = {"errors", "version", "tiling"}

# Each folder, and each module at the top level, with what else of the package it may import.
MAY_IMPORT: dict[str, set[str]] = {
    "cpu_matrix_kernels": set(),
    "cpu_detector_kernels": {"cpu_matrix_kernels"},
    "cpu_grid_kernels": {"cpu_matrix_kernels"},
    "cpu_kernels": {"cpu_detector_kernels", "cpu_grid_kernels", "cpu_matrix_kernels"},
    "cpu_image_kernels": {"cpu_matrix_kernels"},
    "gpu_kernels": set(),
    "fftw": set(),
    "backend": {"cpu_kernels", "cpu_image_kernels", "gpu_kernels", "fftw"},
    "storage": set(),
    "analysis": set(),
    "scan": {"storage"},
    "formats": {"scan", "storage"},
    "model": {"backend"},
    "sync": {"backend", "model"},
    "cluster": {"backend"},
    "arrays": {"backend", "model", "scan", "sync", "tasks"},
    "tasks": {"backend", "cluster", "model", "scan", "storage", "sync"},
    "graph": {"cluster", "model", "sync", "tasks"},
    "run": {"backend", "cluster", "graph", "model", "scan", "storage", "sync", "tasks"},
    "views": {"analysis", "scan", "storage"},
    "dashboard": {"cluster", "run", "scan", "tasks", "views"},
    "demo": {"analysis", "run", "scan", "sync", "views"},
    "cli": {
        *{"analysis", "backend", "cluster", "dashboard", "demo", "formats", "model", "run", "scan"},
        *{"storage", "sync", "tasks", "views"},
    },
    "__main__": {"cli"},
}

# One tile, eager: it knows arrays, and nothing of where they come from.
EAGER = {"model", "sync", "backend", "cpu_kernels", "cpu_image_kernels", "cpu_matrix_kernels"}
EAGER |= {"cpu_detector_kernels", "cpu_grid_kernels", "gpu_kernels", "fftw", "tiling"}
NOT_IN_EAGER = {"dask", "distributed", "xarray", "zarr", "matplotlib", "click", "rich"}

VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "core", "base"}
MOST_LINES = 400


def module_files() -> list[Path]:
    return sorted((ROOT / PACKAGE).rglob("*.py"))


def parts_of(path: Path) -> tuple[str, ...]:
    """The dotted name below the package: () for the package itself, ("formats", "npz") for a file."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def unit_of(parts: tuple[str, ...]) -> str:
    """What the table names: a module at the top level, or a folder as a whole."""
    return parts[0] if parts else "__init__"


def is_private(name: str) -> bool:
    """Whether a dotted name has a part that begins with one underscore."""
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def package_of(path: Path) -> tuple[str, ...]:
    """The package that relative imports of a module of this package start from."""
    package = (PACKAGE, *parts_of(path))
    return package if path.name == "__init__.py" else package[:-1]


def imported_modules(path: Path, package: tuple[str, ...] | None = None) -> set[str]:
    """Absolute names of everything that a file imports, inside functions too."""
    package = package_of(path) if package is None else package
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{prefix}.{alias.name}" for alias in node.names}
    return names


def imported_units(path: Path) -> set[str]:
    """Units of this package that a file imports; a name that is no module belongs to the package itself."""
    known = {unit_of(parts_of(other)) for other in module_files()}
    units = set()
    for name in imported_modules(path):
        root, *rest = name.split(".")
        if root == PACKAGE:
            units.add(rest[0] if rest and rest[0] in known else "__init__")
    return units


every_module = pytest.mark.parametrize(
    "path", module_files(), ids=lambda path: path.relative_to(ROOT).as_posix()
)


def test_rules_name_what_is_there() -> None:
    units = {unit_of(parts_of(path)) for path in module_files()} - {"__init__"}
    assert set(MAY_IMPORT) | GROUND == units


@every_module
def test_imports_run_downwards(path: Path) -> None:
    unit = unit_of(parts_of(path))
    if unit == "__init__":
        return  # the package's front door may name anything
    allowed = GROUND if unit not in GROUND else set()
    wrong = imported_units(path) - allowed - MAY_IMPORT.get(unit, set()) - {unit}
    assert not wrong, f"{unit} imports {sorted(wrong)}, which stand above or apart from it"


@every_module
def test_one_tile_knows_arrays_only(path: Path) -> None:
    if unit_of(parts_of(path)) in EAGER:
        foreign = {name.split(".")[0] for name in imported_modules(path)} & NOT_IN_EAGER
        assert not foreign, f"{path.name} imports {sorted(foreign)}; that belongs into tasks/ or above"


@every_module
def test_underscored_names_stay_in_their_module(path: Path) -> None:
    private = {name for name in imported_modules(path) if is_private(name)}
    assert not private, f"{path.name} imports {sorted(private)}, which their owners may change at any time"


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in ("benchmarks", "docs", "tests", "workflows")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "standin" not in path.parts
    ],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_only_public_modules_of_dependencies_are_imported(path: Path) -> None:
    names = imported_modules(path, package=())
    private = {name for name in names if is_private(name) and name.split(".")[0] != PACKAGE}
    assert not private, f"{path.name} imports {sorted(private)}, which their owners may change at any time"


@every_module
def test_module_can_be_held_in_the_head(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES, f"{path.name} has {lines} lines; more than {MOST_LINES} are two modules"


@every_module
def test_module_says_what_it_is(path: Path) -> None:
    assert not set(parts_of(path)) & VAGUE_NAMES, f"{path.name}: name it after what is in it"
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, f"{path.name} has no docstring: say what it is and who may call it"


def test_no_module_imports_itself_on_a_way_round() -> None:
    arrows: dict[str, set[str]] = {}
    for path in module_files():
        unit = unit_of(parts_of(path))
        arrows.setdefault(unit, set()).update(imported_units(path) - {unit, "__init__"})
    arrows.pop("__init__", None)
    tuple(graphlib.TopologicalSorter(arrows).static_order())


def test_import_of_the_package_is_light() -> None:
    heavy = {"dask", "distributed", "matplotlib", "numba", "scipy", "skimage", "xarray", "zarr"}
    code = f"import sys, {PACKAGE}; print(*({heavy!r} & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not loaded, f"import {PACKAGE} loads {loaded}; import them where a function needs them"


# Where the method is: what a reader has to follow step by step.
METHOD = {"model", "sync", "tasks", "graph"}
MOST_CODE, MOST_PARAMETERS = 60, 8


def functions_of(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def lines_of_code(function: ast.AST, source: list[str]) -> int:
    """Lines of a function that hold code, its docstring left out."""
    documented = ast.get_docstring(function) is not None  # type: ignore[arg-type]
    first = function.body[0]  # type: ignore[attr-defined]
    skipped = set(range(first.lineno, first.end_lineno + 1)) if documented else set()
    lines = range(function.lineno, function.end_lineno + 1)  # type: ignore[attr-defined]
    code = [source[number - 1].strip() for number in lines if number not in skipped]
    return sum(bool(line) and not line.startswith("#") for line in code)


@pytest.mark.parametrize(
    "path",
    [path for path in module_files() if unit_of(parts_of(path)) in METHOD],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_functions_of_the_method_are_short(path: Path) -> None:
    source = path.read_text().splitlines()
    for function in functions_of(path):
        code = lines_of_code(function, source)
        assert code <= MOST_CODE, f"{path.name}: {function.name} has {code} lines of code"
        given = function.args
        names = [own.arg for own in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        parameters = [name for name in names if name not in ("self", "cls")]
        assert len(parameters) <= MOST_PARAMETERS, f"{path.name}: {function.name} takes {len(parameters)}"
