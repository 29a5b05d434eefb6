"""What the README and the workflows promise runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

ROOT = Path(__file__).resolve().parents[1]


def test_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert xr.open_zarr(tmp_path / "result.zarr").sizes["sweep"] == 30


def test_commands_of_the_readme_exist() -> None:
    from daskptycho.cli import daskptycho

    named = re.findall(r"^daskptycho (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert named
    assert set(named) <= set(daskptycho.commands)


def test_laptop_workflow_leaves_its_picture(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "workflows" / "laptop.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "sweep 40" in done.stdout
    assert (tmp_path / "result.png").stat().st_size > 10_000
