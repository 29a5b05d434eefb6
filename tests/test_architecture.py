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

# From the top down: a module may import its own layer and every layer below it.
LAYERS: list[tuple[str, set[str]]] = [
    (
        "faces",
        {
            "__main__",
            "accessor",
            "cli",
            "cuda_cluster",
            "dashboard",
            "demo",
            "drawing",
            "facts",
            "panels",
            "plotting",
        },
    ),
    (
        "run",
        {
            "checkpoint",
            "checkpoint_history",
            "keeper",
            "loop",
            "preview",
            "resources",
            "result",
            "resumption",
            "run",
            "run_options",
            "workers",
        },
    ),
    (
        "graph",
        {
            "blockwise",
            "exchange",
            "graph",
            "phase_graph",
            "plan",
            "scratch",
            "start",
            "tasks",
            "two_level_graph",
            "waiting",
        },
    ),
    ("mathematics", {"algorithms", "eigensolvers", "gramian", "synchronise", "two_level"}),
    ("operators", {"operators"}),
    ("backend", {"backend"}),
    ("kernels", {"cpu_kernels", "fftw", "gpu_kernels"}),
]

# Beside the layers: what each may import. None of them knows a layer.
BESIDE: dict[str, set[str]] = {
    "allocator": set(),
    "bucket": {"errors", "location", "retrying"},
    "checkpoint_storage": {"bucket", "errors", "location", "object_store", "retrying"},
    "checkpoint_store": {"checkpoint_storage", "errors", "location", "object_store", "retrying"},
    "devices": {"errors"},
    "errors": set(),
    "folder": {"errors", "location"},
    "geometry": set(),
    "location": {"errors"},
    "metrics": {"errors", "registration"},
    "object_store": {"bucket", "errors", "location", "retrying"},
    "registration": {"errors"},
    "phantom": set(),
    "probe": {"errors"},
    "propagation": {"errors"},
    "radiation": set(),
    "retrying": {"errors"},
    "scan": {
        "errors",
        "geometry",
        "propagation",
        "radiation",
        "scan_check",
        "scan_geometry",
        "scan_store",
        "store",
    },
    "scan_check": {"errors", "scan_geometry"},
    "scan_geometry": {"errors", "propagation", "radiation"},
    "scan_store": {"scan_check", "store"},
    "sketch": set(),
    "simulate": {"errors", "geometry", "phantom", "propagation", "radiation", "scan", "scan_geometry"},
    "stopping": set(),
    "store": {"bucket", "errors", "folder", "location", "object_store", "retrying"},
    "formats": {"errors", "folder", "formats", "propagation", "radiation", "scan"},
}

# Who of the layers may import what stands beside them.
BESIDE_FOR = {
    "faces": set(BESIDE),
    "run": {
        "allocator",
        "checkpoint_store",
        "devices",
        "errors",
        "geometry",
        "probe",
        "retrying",
        "scan",
        "stopping",
        "store",
    },
    "graph": {"errors", "geometry", "retrying", "scan", "stopping"},
}
BESIDE_FOR_CORE = {"errors", "geometry"}

# The mathematics of one tile knows arrays and nothing of where they come from.
CORE = {"mathematics", "operators", "backend", "kernels"}
NOT_IN_CORE = {"dask", "distributed", "xarray", "zarr", "matplotlib", "click", "rich"}

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


def imported_modules(path: Path) -> set[str]:
    """Absolute names of everything that a file imports, inside functions too."""
    package = (PACKAGE, *parts_of(path))
    if path.name != "__init__.py":
        package = package[:-1]
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


def layer_of(unit: str) -> str | None:
    return next((layer for layer, units in LAYERS if unit in units), None)


def allowed_for(unit: str) -> set[str]:
    """Units that this one may import; the package itself is there for its version."""
    if unit in BESIDE:
        return BESIDE[unit] | {"__init__"}
    names = [layer for layer, _ in LAYERS]
    layer = layer_of(unit)
    assert layer is not None, f"{unit} has no place: put it into LAYERS or BESIDE of {Path(__file__).name}"
    below = set().union(*(units for _, units in LAYERS[names.index(layer) :]))
    return below | BESIDE_FOR.get(layer, BESIDE_FOR_CORE) | {"__init__"}


every_module = pytest.mark.parametrize(
    "path", module_files(), ids=lambda path: path.relative_to(ROOT).as_posix()
)


def test_tables_name_what_is_there() -> None:
    named = set(BESIDE).union(*BESIDE.values(), *BESIDE_FOR.values(), *(units for _, units in LAYERS))
    assert named == {unit_of(parts_of(path)) for path in module_files()} - {"__init__"}


@every_module
def test_imports_run_downwards(path: Path) -> None:
    unit = unit_of(parts_of(path))
    if unit == "__init__":
        return  # the package's front door may name anything
    wrong = imported_units(path) - allowed_for(unit)
    assert not wrong, f"{unit} imports {sorted(wrong)}, which stand above or apart from it"
    commands = imported_units(path) & {"cli"} if unit not in ("cli", "__main__") else set()
    assert not commands, f"{unit} imports the commands, which are for the command line alone"


@every_module
def test_the_mathematics_of_a_tile_knows_arrays_only(path: Path) -> None:
    if layer_of(unit_of(parts_of(path))) in CORE:
        foreign = {name.split(".")[0] for name in imported_modules(path)} & NOT_IN_CORE
        assert not foreign, f"{path.name} imports {sorted(foreign)}; that belongs into graph.py or above"


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
