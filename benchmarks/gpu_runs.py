"""Time whole runs on a GPU: the poster's example, the host's share, sizes of tiles, memory, two workers.

    python benchmarks/gpu_runs.py
    python benchmarks/gpu_runs.py --quick
    python benchmarks/gpu_runs.py --part poster --part memory

Each part prints what it found as it finds it, so that a run that is cut off leaves what it had. A part that
fails says why, and the next one begins; the exit code is then 1. Without a GPU, the script says so and ends
with exit code 2.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import xarray as xr

import daskptycho as dp
from daskptycho.cluster.devices import require_gpu
from daskptycho.run import memory as run_memory

# Seconds on the GPU of the poster: 16384 frames of 32x32, 100 sweeps with 100 power steps each.
POSTER_SECONDS = 4.36

Finding = tuple[str, float, str]
"""What was measured, the value and its unit."""


class Trial(NamedTuple):
    """Where the parts keep their scans, and whether they are to be small."""

    folder: Path
    quick: bool

    def scan(self, frames: tuple[int, int], size: int, step: int, **options: Any) -> xr.Dataset:
        """Simulate a scan."""
        url = self.folder / f"{len(list(self.folder.iterdir()))}.zarr"
        return dp.simulate_scan(url, frames=frames, frame_size=size, step=step, **options)


def sweep_milliseconds(scan: xr.Dataset, sweeps: int, **options: Any) -> float:
    """Milliseconds of the median sweep; the first two compile kernels and plan transforms."""
    result = dp.reconstruct(scan, sweeps=sweeps, **options)
    return 1e3 * float(np.median(result["seconds"][2:]))


def time_poster_example(trial: Trial) -> Iterator[Finding]:
    """16384 frames of 32x32 on about 637x637 pixels: by the poster's method, and by the default."""
    side, size, step, steps = (8, 8, 2, 5) if trial.quick else (128, 32, 5, 100)
    scan = trial.scan((side, side), size, step, tile_frames=side**2)
    plain: dict[str, Any] = {"momentum": 0, "opening": None}

    def synchronised(**options: Any) -> dict[str, Any]:
        return plain | {"sync": dp.Sync("full", every=1, normalisation="frame", **options)}

    ways = {
        "no sync": plain | {"sync": dp.Sync(None)},
        "1 power step": synchronised(eigensolver="power", iterations=1),
        f"{steps} power steps": synchronised(eigensolver="power", iterations=steps),
        "Lanczos": synchronised(),
        "default": {},
    }
    for name, options in ways.items():
        count = 4 if trial.quick else 30
        found = sweep_milliseconds(scan, count, device="gpu", start="random", update_probe=False, **options)
        yield f"poster's example, {name}", found, "ms per sweep"
        if name.endswith("power steps"):
            yield "the same, 100 sweeps", found / 10, f"s (the poster's GPU: {POSTER_SECONDS} s)"


def time_host(trial: Trial) -> Iterator[Finding]:
    """Sweeps over so few pixels that only Python, CuPy and launches take time."""
    for tiles, frames in ((1, 64), (16, 4)):
        scan = trial.scan((8, 8), 8, 2, jitter=1, tile_frames=frames)
        for name, options in {
            "no sync": {"sync": dp.Sync(None), "update_probe": False},
            "sync in every sweep": {"sync": dp.Sync(every=1), "update_probe": False},
            "probe recovered": {"sync": dp.Sync(None), "update_probe": True},
        }.items():
            sweeps = 4 if trial.quick else 20
            found = sweep_milliseconds(scan, sweeps, device="gpu", **options)
            yield f"next to no pixels, {tiles} tiles, {name}", found, "ms per sweep"


def time_tiles(trial: Trial) -> Iterator[Finding]:
    """Tiles of the default size, larger ones, and the CPU beside them."""
    size, side = (16, 4) if trial.quick else (128, 64)
    for frames in (None, side**2 // 4, side**2):
        options = {} if frames is None else {"tile_frames": frames}
        scan = trial.scan((side, side), size, size // 4, jitter=1, **options)
        for device in ("gpu", "cpu") if frames is None else ("gpu",):
            sweeps = 4 if device == "cpu" or trial.quick else 12
            found = sweep_milliseconds(scan, sweeps, device=device)
            name = "default tiles" if frames is None else f"tiles of {frames} frames"
            yield f"{side**2} frames of {size}x{size}, {name}, {device}", found, "ms per sweep"


def compare_memory(trial: Trial) -> Iterator[Finding]:
    """The peak of CuPy's pool beside what was planned for the arrays of the run."""
    cupy = importlib.import_module("cupy")
    side, size = (4, 16) if trial.quick else (32, 256)
    planned: list[run_memory.Needs] = []
    estimate = run_memory.estimate_needs

    def remember(*arguments: Any) -> run_memory.Needs:
        planned.append(estimate(*arguments))
        return planned[-1]

    laying_out = importlib.import_module("daskptycho.run.laying_out")
    free, total = cupy.cuda.runtime.memGetInfo()
    pool = cupy.get_default_memory_pool()
    yield "CUDA's context and libraries", (total - free - pool.total_bytes()) / 1e6, "MB"
    ways: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "default": ({}, {}),
        "fractional, RAAR": ({"subpixel": True}, {"algorithm": "raar", "sync": dp.Sync(every=1)}),
    }
    laying_out.estimate_needs = remember
    try:
        for name, (simulated, options) in ways.items():
            scan = trial.scan((side, side), size, size // 4, jitter=1, tile_frames=side**2, **simulated)
            pool.free_all_blocks()
            before = pool.total_bytes()
            dp.reconstruct(scan, device="gpu", sweeps=3, **options)
            yield f"memory, {name}, pool", (pool.total_bytes() - before) / 1e6, "MB"
            yield f"memory, {name}, planned", (planned[-1].worker - run_memory.GPU_CONTEXT) / 1e6, "MB"
    finally:
        laying_out.estimate_needs = estimate


def compare_workers(trial: Trial) -> Iterator[Finding]:
    """Two workers on one card, whose strips pass through TCP, against one process."""
    distributed = importlib.import_module("distributed")
    scan = trial.scan((6, 6), 16, 4, jitter=1, tile_frames=9)
    canvas = dp.reconstruct(scan, sweeps=1)["object"].shape
    options: dict[str, Any] = {
        "sweeps": 4,
        "start": np.exp(1j * np.random.default_rng(0).random(canvas)),
        "device": "gpu",
        "sync": dp.Sync(every=1),
    }
    alone = dp.reconstruct(scan, **options)["object"].values
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    with cluster, distributed.Client(cluster):
        both = dp.reconstruct(scan, **options)["object"].values
    yield "two workers against one process", float(abs(both - alone).max()), "in the worst pixel"


PARTS: dict[str, Callable[[Trial], Iterator[Finding]]] = {
    "poster": time_poster_example,
    "host": time_host,
    "memory": compare_memory,
    "workers": compare_workers,
    "tiles": time_tiles,
}


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Small sizes, few sweeps.")
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="Only these parts.")
def main(quick: bool, parts: tuple[str, ...]) -> None:
    try:
        click.echo(f"card: {require_gpu().name}")
    except dp.OptionError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    failed = False
    for name in parts or PARTS:
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                for what, value, unit in PARTS[name](Trial(Path(folder), quick)):
                    click.echo(f"{what}: {value:.4g} {unit}")
            except Exception:
                failed = True
                click.echo(f"{name} failed: {traceback.format_exc(limit=-5)}")
        click.echo(f"({name} took {time.perf_counter() - begun:.0f} s)")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
