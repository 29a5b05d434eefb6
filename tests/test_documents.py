"""The code blocks of the README and of docs/ run, one after the other, as a reader would type them.

The blocks of a page share one empty folder, and its Python blocks share one namespace. The language of the
fence decides what happens:

- ``python`` is executed here;
- ``console``, ``bash`` or no language is a shell script for the installed command. If some lines begin with
  ``$ ``, these are run and the others are output. Lines that call make or pip are not run, but compared with
  the Makefile and pyproject.toml;
- ``text``, data formats and MyST's directives in braces do not run. What needs a GPU, a bucket or a batch
  system is fenced as ``text``.

A page that names a file of `GIVEN` finds that file in its folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

import daskptycho as dp

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]

SHELL = {"", "bash", "console"}
NOT_RUN = {"text", "json", "toml", "yaml"}
# Commands that a shell block may run.
COMMANDS = {"daskptycho", "export"}


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    content: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page except MyST's directives."""
    tokens = MarkdownIt().parse(page.read_text())
    return [
        Block(page, token.map[0] + 1, token.info.strip(), token.content)
        for token in tokens
        if token.type == "fence" and token.map is not None and not token.info.startswith("{")
    ]


def commands_of(block: Block) -> list[str]:
    """The command lines of a shell block; a line continued after a backslash is one command."""
    lines = block.content.replace("\\\n", " ").splitlines()
    typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")] or lines
    return [line for line in typed if line.strip() and not line.startswith("#")]


def write_measurement(path: Path) -> None:
    """Write a user's measurement: frames and positions [y, x] in pixels."""
    with tempfile.TemporaryDirectory() as folder:
        scan = dp.simulate_scan(f"{folder}/scan.zarr", (6, 6), 32, step=6, jitter=1, photons=1e5)
        np.savez(
            path,
            intensity=np.fft.ifftshift(scan["intensity"].values, axes=(1, 2)),
            position=scan["position"].values,
        )


GIVEN: dict[str, Callable[[Path], Any]] = {"measured.npz": write_measurement}


def run(block: Block, folder: Path, namespace: dict[str, Any]) -> None:
    """Run one block in a page's folder."""
    if block.language == "python":
        # Empty lines before the code, so that a traceback gives the line of the page.
        code = "\n" * block.line + block.content
        exec(compile(code, str(block.page), "exec"), namespace)
    elif block.language in SHELL:
        script = "\n".join(line for line in commands_of(block) if line.split()[0] in COMMANDS)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block} ended with {done.returncode}:\n{script}\n{done.stderr}"


# The README runs with the short tests; the other pages take longer and run with the long tests.
EACH_PAGE = [
    pytest.param(page, id=page.stem, marks=() if page == README else pytest.mark.long)
    for page in PAGES
    if any(block.language in {"python", *SHELL} for block in blocks_of(page))
]


# What is guessed is said, and that a run of few sweeps with a guess fits badly, as it does for a reader.
@pytest.mark.filterwarnings("error::FutureWarning", "error::DeprecationWarning:__main__")
@pytest.mark.filterwarnings("ignore:the scan has no probe")
@pytest.mark.filterwarnings("ignore:R2 is .* where counting photons would leave")
@pytest.mark.parametrize("page", EACH_PAGE)
def test_page_runs_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of(page)
    for name, make in GIVEN.items():
        if any(name in block.content for block in blocks):
            make(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    # The name of a script, so that the functions of a page can be sent to other processes.
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        run(block, tmp_path, namespace)


def test_the_oldest_dask_of_the_makefile_is_the_oldest_allowed() -> None:
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    oldest = re.findall(r"^(?:dask\[array\]|distributed)>=([\d.]+)$", "\n".join(allowed), flags=re.MULTILINE)
    tested = re.search(r"^OLDEST_DASK := ([\d.]+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert tested is not None
    assert [f"{version}.0" for version in oldest] == [tested[1]] * 2


def test_the_oldest_and_the_newest_python_of_the_makefile_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [
        found[1]
        for entry in project["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", entry))
    ]
    makefile = (ROOT / "Makefile").read_text()
    tested = re.findall(r"^(?:OLDEST|NEWEST)_PYTHON := (.*)$", makefile, flags=re.MULTILINE)
    assert tested == [named[0], named[-1]]
    assert project["requires-python"] == f">={named[0]}"


def test_citation_names_the_version_and_the_licence_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = dict(re.findall(r"^([\w-]+): (\S.*)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE))
    for name, key in (("title", "name"), ("version", "version"), ("license", "license")):
        assert cited[name] == project[key]


def test_no_block_is_skipped_silently() -> None:
    for block in (block for page in PAGES for block in blocks_of(page)):
        assert block.language in {"python", *SHELL, *NOT_RUN}, f"{block}: no test runs {block.language!r}"
        if block.language in SHELL:
            for command in commands_of(block):
                first = command.split()[0]
                assert first in {*COMMANDS, "make", "pip"}, f"{block}: fence {command!r} as text, or test it"


def test_targets_and_extras_named_on_the_pages_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    seen = set()
    for block in (block for page in PAGES for block in blocks_of(page) if block.language in SHELL):
        for command in commands_of(block):
            words = command.split("#")[0].split()
            seen.add(words[0])
            if words[0] == "make":
                assert {word for word in words[1:] if "=" not in word} <= targets, f"{block}: {command}"
            for extras in re.findall(r"\.\[([\w,-]+)\]", command) if words[0] == "pip" else ():
                assert set(extras.split(",")) <= set(project["optional-dependencies"]), f"{block}: {command}"
    assert seen >= {"make", "pip", "daskptycho"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_package_is_installed_from_its_sources(page: Path) -> None:
    # It is in no registry.
    assert not re.findall("pip install ['\"]?daskptycho", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_linked_files_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not re.match(r"\w+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_api_page_has_every_public_name() -> None:
    listed = re.findall(r"^\.\. auto\w+:: (\w+)", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(set(dp.__all__) - {"__version__"})


def test_stores_page_has_every_name_in_a_store(tmp_path: Path) -> None:
    scan = dp.simulate_scan(tmp_path / "simulated.zarr", (3, 3), frame_size=16, step=8)
    geometry = {"energy_eV": 7200, "detector_distance_m": 2, "detector_pixel_size_m": 1e-3}
    frame = np.ones(scan["intensity"].shape[1:])
    arrays = {"valid": frame > 0, "background": 0 * frame, "probe": scan["probe"].values}
    counts, pixels = scan["intensity"], scan["position"].values
    full = dp.create_scan(tmp_path / "full.zarr", counts, pixels * 1e-8, **arrays, **geometry)
    near_field = {"propagation": "near-field", "source_distance_m": 1, "radiation": "electron"}
    whole = {"position_unit": "pixel", "period": (64, 64)}
    near = dp.create_scan(tmp_path / "near.zarr", counts, pixels, **whole, **near_field, **geometry)
    result = dp.reconstruct(full, tmp_path / "result.zarr", sweeps=2)
    text = (ROOT / "docs" / "store.md").read_text()
    for name in {name for store in (scan, full, near, result) for name in (*store.variables, *store.attrs)}:
        assert f"`{name}`" in text, f"docs/store.md does not describe {name}"


@pytest.mark.long
def test_pictures_of_the_pages_are_drawn(tmp_path: Path) -> None:
    for script in ("pictures.py", "troubles.py"):
        subprocess.run([sys.executable, ROOT / "docs" / script, tmp_path], check=True)
    shown = {name for page in PAGES for name in re.findall(r"pictures/([\w-]+\.png)\)", page.read_text())}
    assert shown
    assert {path.name for path in tmp_path.iterdir()} >= shown


@pytest.mark.long
def test_faults_leave_the_residuals_that_the_page_says(tmp_path: Path) -> None:
    script = str(ROOT / "docs" / "troubles.py")
    drawn = subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True, text=True)
    times = {}
    for line in drawn.stdout.splitlines():
        fault, found, expected = re.fullmatch(r"(.*): ([\d.]+) of ([\d.]+)", line).groups()  # type: ignore[union-attr]
        times[fault] = float(found) / float(expected)
    assert times.pop("nothing wrong") < 1.1
    assert times.pop("too little overlap") < 0.2
    assert len(times) == 6
    assert min(times.values()) > 3
    assert times["one axis reversed"] > 20


def test_laptop_workflow_writes_its_picture(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "workflows" / "laptop.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "sweep 40" in done.stdout
    assert (tmp_path / "result.png").stat().st_size > 10_000
