"""Each benchmark runs once, small, so that it cannot rot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("poster", ["no sync", "default", "eigensolver"]),
        ("raster", ["8x8", "default", "none"]),
        ("noise", ["3 000", "default"]),
        ("memory", ["probe recovered", "of the amplitudes"]),
        ("sweep", ["FFT pair", "Gramian", "FFT library"]),
        ("larger_than_memory", ["amplitudes over", "workers lost: 0"]),
        ("scale", ["strong", "received a sweep", "Modelled"]),
        pytest.param("many_sweeps", ["tasks now"], marks=pytest.mark.long),
    ],
)
def test_benchmark_runs(name: str, said: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for word in said:
        assert word in done.stdout
