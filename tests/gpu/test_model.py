"""The model of a GPU in docs/gpu.md is what its script finds. Long: it needs NVIDIA's compiler."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda import emulation, nvrtc

ROOT = Path(__file__).resolve().parents[2]

_missing = emulation.compiler_missing() or nvrtc.compiler_missing()

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(_missing is not None, reason=str(_missing)),
]


def test_the_page_has_what_the_model_finds(tmp_path: Path) -> None:
    page = ROOT / "docs" / "gpu.md"
    copy = tmp_path / "gpu.md"
    copy.write_text(page.read_text())
    script = ROOT / "benchmarks" / "gpu_model.py"
    done = subprocess.run(
        [sys.executable, str(script), "--write", str(copy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "| `gramian` |" in copy.read_text()
    assert copy.read_text() == page.read_text(), "run python benchmarks/gpu_model.py --write docs/gpu.md"
