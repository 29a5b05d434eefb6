"""Each benchmark runs once with small sizes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import STANDIN

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("poster", ["no sync", "default", "eigensolver"]),
        ("raster", ["8x8", "default", "no sync"]),
        ("noise", ["3 000", "default"]),
        ("background", ["found smooth", "flat"]),
        ("peers", ["8x8", "recovered", "daskptycho"]),
        ("parts", ["2 x 5", "two-level", "largest ratio"]),
        ("memory", ["probe recovered", "images on disk", "of the amplitudes"]),
        ("sweep", ["FFT pair", "Gramian", "FFT library"]),
        ("larger_than_memory", ["amplitudes over", "workers lost: 0"]),
        ("million", ["576 frames", "relative error", "outside of tasks"]),
        ("object_store", ["read bucket", "of the disk's"]),
        ("live", ["writer by itself", "seen after", "of a core"]),
        ("live_faults", ["writer and follower", "error of the image"]),
        ("scale", ["strong", "received per sweep", "Modelled"]),
        ("many_sweeps", ["tasks now"]),
        ("scheduler", ["2,500", "busiest worker"]),
    ],
)
def test_benchmark_runs(name: str, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for word in words:
        assert word in done.stdout


def run_gpu_benchmark(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), "--quick"],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed: it would run")
def test_benchmark_of_gpus_says_that_there_is_none() -> None:
    done = run_gpu_benchmark()
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: no GPU can be used here: CuPy is not installed")


@pytest.mark.long
@pytest.mark.usefixtures("standin")
def test_benchmark_of_gpus_runs_on_the_stand_in() -> None:
    done = run_gpu_benchmark(PYTHONPATH=os.pathsep.join([str(STANDIN), str(ROOT)]))
    assert done.returncode == 0, done.stderr
    for word in ("GB/s", "FFT pair", "Gramian", "Lanczos", "power steps"):
        assert word in done.stdout
