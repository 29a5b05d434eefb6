"""Reconstruct a million frames on one machine: seconds, peak memory, errors, and a picture.

    python benchmarks/million.py                    # about half an hour; 3 GB of disk for the scan
    python benchmarks/million.py --workers --kill   # two worker processes, of which one is killed on the way
    python benchmarks/million.py --quick

With --folder the results stay, and a run with --kill is compared with those that nobody disturbed.

1000 x 1000 frames of 32x32 pixels with a step of 8, at positions that are off by up to a pixel, with Poisson
noise, are simulated tile by tile: the stack is never in memory. The specimen has islands of every size, down
to a few pixels. The probe is known. Errors are those of checkpoints, over the whole field. The picture shows
the whole field and four places far from one another.
"""

from __future__ import annotations

import math
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import dask
import numpy as np
import xarray as xr
from dask.callbacks import Callback
from distributed import Client, LocalCluster
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from peak_memory import PeakMemory
from rich.console import Console
from rich.table import Table
from scipy import fft

import daskptycho as dp
from daskptycho.cluster.client import STAY_AT_HOME

FRAME, STEP, JITTER = 32, 8, 1
PHOTONS = 1e6
CORES = 2
# Largest phase of the specimen in radians, and its smallest amplitude.
PHASE, AMPLITUDE = 1.5, 0.6
# Where the picture looks closer: fractions of the field, and pixels along a side.
PLACES = {"a": (0.12, 0.15), "b": (0.2, 0.85), "c": (0.55, 0.45), "d": (0.9, 0.75)}
DETAIL = 240
# Pixels along a side of the picture of the whole field.
FIELD = 1000


def make_specimen(side: int, seed: int = 3) -> NDArray[np.complex64]:
    """A (side, side) specimen of islands of every size: the level sets of two random fields."""
    rng = np.random.default_rng(seed)
    amplitude = AMPLITUDE + (1 - AMPLITUDE) * make_islands(side, rng)
    return (amplitude * np.exp(np.complex64(1j * PHASE) * make_islands(side, rng))).astype(np.complex64)


def make_islands(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A (side, side) field from 0 to 1, mostly near to either, whose spectrum falls with the frequency."""
    spectrum = fft.rfft2(rng.standard_normal((side, side), dtype=np.float32))
    y, x = fft.fftfreq(side)[:, None], fft.rfftfreq(side)
    # Nothing finer than about four pixels: a probe of this size hardly resolves more.
    spectrum *= ((y**2 + x**2 + side**-2.0) ** -0.6 * np.exp(-4 * (y**2 + x**2) / 0.25**2)).astype(np.float32)
    islands = fft.irfft2(spectrum, s=(side, side))
    return np.float32(0.5) + np.float32(0.5) * np.tanh(islands * np.float32(1.5 / islands.std()))


def simulate(path: Path, side: int, console: Console) -> None:
    """Simulate the scan and print the seconds that it took."""
    start = time.perf_counter()
    specimen = make_specimen((side - 1) * STEP + FRAME + 2 * JITTER)
    dp.simulate_scan(
        path,
        frames=(side, side),
        frame_size=FRAME,
        step=STEP,
        jitter=JITTER,
        photons=PHOTONS,
        object=specimen,
    )
    console.print(f"simulated in {time.perf_counter() - start:.0f} s")


@dataclass
class Measured:
    """What one run took."""

    seconds: list[float] = field(default_factory=list)
    """Of each sweep."""
    peak: int = 0
    whole: float = 0.0
    """Seconds from the call to the result."""
    in_tasks: float | None = None
    """Seconds of all tasks, if they ran in this process."""


class TaskSeconds(Callback):
    """The seconds of all tasks. Dask's profiler would keep the tasks too, and with them their images."""

    def __init__(self) -> None:
        self.total = 0.0
        self._begun: dict[Any, float] = {}
        super().__init__(pretask=self._begin, posttask=self._end)

    def _begin(self, key: Any, *_: Any) -> None:
        self._begun[key] = time.perf_counter()

    def _end(self, key: Any, *_: Any) -> None:
        self.total += time.perf_counter() - self._begun.pop(key)


@contextmanager
def schedule_on_threads(found: Measured) -> Iterator[None]:
    """Threads of this process, which add up the seconds of their tasks."""
    with dask.config.set(scheduler="threads", num_workers=CORES), TaskSeconds() as tasks:
        yield
        found.in_tasks = tasks.total


@contextmanager
def start_workers() -> Iterator[Client]:
    """Two worker processes of one thread each."""
    options: dict[str, Any] = {"threads_per_worker": 1, "processes": True, "dashboard_address": "127.0.0.1:0"}
    with (
        dask.config.set(STAY_AT_HOME),
        LocalCluster(n_workers=CORES, **options) as cluster,
        Client(cluster) as client,
    ):
        yield client


def reconstruct(
    scan: xr.Dataset, out: Path, sweeps: int, memory: str, *, workers: bool, kill: bool, console: Console
) -> Measured:
    """Reconstruct with threads or two worker processes, of which one may be killed after the fifth sweep."""
    found = Measured()
    with (
        PeakMemory([os.getpid()], with_children=True) as watch,
        start_workers() if workers else schedule_on_threads(found) as client,
    ):

        def follow(progress: dp.Progress) -> None:
            found.seconds.append(progress.seconds)
            console.print(f"sweep {progress.sweep}: R2 {progress.residual:.3g}, {progress.seconds:.1f} s")
            if kill and client is not None and len(found.seconds) == 5:
                os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

        start = time.perf_counter()
        dp.reconstruct(
            *(scan, out),
            sweeps=sweeps,
            update_probe=False,
            memory=memory,
            checkpoint_every=5,
            callback=follow,
            overwrite=True,
        )
        found.whole = time.perf_counter() - start
    found.peak = watch.peak[os.getpid()]
    return found


def measure_error(image: xr.DataArray, scan: xr.Dataset, light: NDArray[np.float32]) -> float:
    """`dp.relative_error` to the truth, weighted by the light and computed some rows at a time."""
    truth = scan["truth_object"]
    inner, power, difference = 0j, 0.0, 0.0
    rows = [slice(start, start + 512) for start in range(0, len(truth), 512)]
    for some in rows:
        a, b, w = image[some].values, truth[some].values, light[some]
        inner += np.vdot(a, w * b)
        power += float(np.sum(w * np.abs(b) ** 2, dtype=np.float64))
    turn = np.complex64(np.exp(1j * np.angle(inner)))
    for some in rows:
        change = turn * image[some].values - truth[some].values
        difference += float(np.sum(light[some] * np.abs(change) ** 2, dtype=np.float64))
    return math.sqrt(difference / power)


def compare(one: xr.Dataset, other: xr.Dataset) -> str:
    """How far the images of two runs are apart, where the light is."""
    if one.sizes != other.sizes:
        return "another scan, or another number of sweeps"
    a, b, light = (values.values for values in (one["object"], other["object"], one["illumination"]))
    if np.array_equal(a, b):
        return "the same bits"
    difference = np.sum(light * np.abs(a - b) ** 2, dtype=np.float64)
    return f"{math.sqrt(difference / np.sum(light * np.abs(a) ** 2, dtype=np.float64)):.1e}"


def draw(image: NDArray[np.complex64], found: str, path: Path) -> None:
    """Draw the phase of the whole field, and of four places of it."""
    height, width = image.shape
    details = {name: (round(y * height), round(x * width)) for name, (y, x) in PLACES.items()}
    side = min(DETAIL, height // 4)
    figure = Figure(figsize=(11, 7.6), layout="constrained")
    axes = figure.subplot_mosaic(
        [["field", "field", "a", "b"], ["field", "field", "c", "d"]], width_ratios=(1, 1, 1, 1)
    )
    step = max(1, height // FIELD)
    inside = image[: height // step * step, : width // step * step]
    average = inside.reshape(height // step, step, width // step, step).mean(axis=(1, 3))
    # The mean phase of the field is free; every panel has the same colours.
    turn = np.conj(average.mean() / abs(average.mean()))
    low, high = np.percentile(np.angle(average * turn), (0.5, 99.5))
    colours: dict[str, Any] = {"cmap": "gray", "vmin": low, "vmax": high}
    shown = axes["field"].imshow(np.angle(average * turn), extent=(0, width, height, 0), **colours)
    axes["field"].set_title(found, fontsize=10)
    for name, (y, x) in details.items():
        top, left = min(max(0, y - side // 2), height - side), min(max(0, x - side // 2), width - side)
        part = image[top : top + side, left : left + side]
        axes[name].imshow(np.angle(part * turn), **colours)
        axes[name].set_title(f"{name}: {side} pixels", fontsize=10)
        axes[name].set_axis_off()
        frame = Rectangle((left, top), side, side, fill=False, edgecolor="w")
        axes["field"].add_patch(frame)
        axes["field"].annotate(name, (left + side, top), xytext=(3, 3), textcoords="offset points", color="w")
    figure.colorbar(shown, ax=axes["field"], location="bottom", shrink=0.5, label="phase (rad)")
    figure.savefig(path, dpi=110)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="A small scan, to check that the script runs.")
@click.option("--side", default=1000, show_default=True, help="Frames along each side.")
@click.option("--sweeps", default=20, show_default=True, help="Number of sweeps.")
@click.option("--memory", default="8GiB", show_default=True, help="Memory of the run, or of each worker.")
@click.option("--workers", is_flag=True, help="Two worker processes in place of two threads.")
@click.option("--kill", is_flag=True, help="Kill one of the workers after the fifth sweep.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Keep scan and results there; use the scan again."
)
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the phase into this PNG file.")
def main(
    quick: bool,
    side: int,
    sweeps: int,
    memory: str,
    workers: bool,
    kill: bool,
    folder: Path | None,
    picture: Path | None,
) -> None:
    if quick:
        side, sweeps = 24, 6
    console = Console(width=100)
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kind = "killed" if workers and kill else "workers" if workers else "threads"
        path, out = folder / f"{side}.zarr", folder / f"{kind}.zarr"
        if not path.exists():
            simulate(path, side, console)
        scan = dp.open_scan(path)
        found = reconstruct(scan, out, sweeps, memory, workers=workers, kill=kill, console=console)
        result = dp.open_result(out)
        light = result["illumination"].values
        table = Table(
            title=f"{scan.sizes['frame']} frames in {len(scan['intensity'].chunksizes['frame'])} tiles"
        )
        for name in ("after sweep", "relative error"):
            table.add_column(name, justify="right")
        for checkpoint in dp.checkpoints(out):
            kept = dp.open_checkpoint(out, checkpoint.sweep)["object"]
            table.add_row(str(checkpoint.sweep), f"{measure_error(kept, scan, light):.2g}")
        error = measure_error(result["object"], scan, light)
        table.add_row(f"{result.sizes['sweep']}, result", f"{error:.2g}")
        console.print(table)
        console.print(
            f"{found.whole:.0f} s in all, sweeps {np.median(found.seconds):.1f} s (median); "
            f"peak {found.peak / 2**30:.2f} GiB"
        )
        if found.in_tasks is not None:
            outside = 1 - found.in_tasks / (CORES * found.whole)
            console.print(f"time of the cores outside of tasks: {100 * outside:.0f} %")
        if kind == "killed":
            for other in ("workers", "threads"):
                if (folder / f"{other}.zarr").exists():
                    apart = compare(result, dp.open_result(folder / f"{other}.zarr"))
                    console.print(f"apart from the run with {other} that nobody disturbed: {apart}")
        if picture is not None:
            said = f"{scan.sizes['frame']:,} frames, {len(found.seconds)} sweeps, relative error {error:.1e}"
            draw(result["object"].values, said, picture)


if __name__ == "__main__":
    main()
