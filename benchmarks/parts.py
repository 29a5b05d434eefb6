"""Compare the error with and without sync of scans that fall into parts, over doses, tiles and methods.

    python benchmarks/parts.py --frames 36
    python benchmarks/parts.py --shapes
    python benchmarks/parts.py --quick

The scans are two islands of 1, 5, 36 or 500 frames of 32x32 pixels and step 5, or an island and a parked
frame, a comb, a U and a ring. The renderer is that of the tests, which shares no code with the package. Each
part has a factor of its own in the error. A ratio is the error with sync divided by that without, at the same
dose, probe and start.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import daskptycho as dp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import islands

DOSES = (1e3, 1e4, 1e6, None)
SHAPES = {
    "parked": islands.parked(36),
    "U": islands.comb(teeth=2),
    "comb": islands.comb(),
    "ring": islands.ring(),
}


def measure(scan: xr.Dataset, sweeps: int, sync: dp.Sync, known: bool, start: str) -> float:
    """The error at the end of a run."""
    result = dp.reconstruct(scan, sweeps=sweeps, sync=sync, update_probe=not known, start=start)
    return islands.measure_error(result, ramp=not known)


def compare(
    folder: Path, corner: NDArray, photons: float | None, sweeps: int, tiles: tuple[int, ...]
) -> Iterator[tuple[str, str, float, dict[str, float]]]:
    """For each probe and start: the error without sync, and the errors with it by method and tiles."""
    scans = {
        size: islands.simulate(folder / f"{size}.zarr", corner, photons, size)
        for size in (*(size for size in tiles if size < len(corner)), len(corner))
    }
    for known, start in itertools.product((True, False), ("ones", "random")):
        without = measure(scans[len(corner)], sweeps, dp.Sync(None), known, start)
        found = {
            f"two-level, {'one' if size == len(corner) else size}": measure(
                scan, sweeps, dp.Sync(), known, start
            )
            for size, scan in scans.items()
        }
        found["full"] = measure(scans[min(scans)], sweeps, dp.Sync("full"), known, start)
        yield "known" if known else "recovered", start, without, found


@click.command(help=__doc__)
@click.option("--frames", type=int, multiple=True, default=(1, 5, 36), help="Frames of each island.")
@click.option("--shapes", is_flag=True, help="A parked frame, a U, a comb and a ring in place of islands.")
@click.option("--sweeps", default=60)
@click.option("--tiles", type=int, multiple=True, default=(16,), help="Frames of a tile, beside all in one.")
@click.option("--quick", is_flag=True, help="Islands of five frames, one dose, few sweeps.")
def main(frames: tuple[int, ...], shapes: bool, sweeps: int, tiles: tuple[int, ...], quick: bool) -> None:
    doses: tuple[float | None, ...] = (1e4,) if quick else DOSES
    scans = {f"2 x {count}": islands.islands(count) for count in ((5,) if quick else frames)}
    ratios = []
    table = Table(title="Error without sync, and ratio of the error with sync to it")
    for name in ("scan", "photons", "probe", "start", "without", "two-level, tiles", "one tile", "full"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="synchronous"):
        for (name, corner), photons in itertools.product((SHAPES if shapes else scans).items(), doses):
            for probe, start, without, found in compare(
                Path(folder), corner, photons, 5 if quick else sweeps, tiles
            ):
                shown: dict[str, list[str]] = {"tiles": [], "one": [], "full": []}
                for kind, error in found.items():
                    column = kind if kind in shown else "one" if kind.endswith("one") else "tiles"
                    shown[column].append(f"{error / without:.3f}")
                    ratios.append(error / without)
                dose = "none" if photons is None else f"{photons:.0e}"
                columns: list[Any] = [name, dose, probe, start, f"{without:.4f}"]
                table.add_row(*columns, *(" ".join(values) for values in shown.values()))
                print(*columns, *(" ".join(values) for values in shown.values()), file=sys.stderr, flush=True)
    Console(width=110).print(table)
    print(f"largest ratio {max(ratios):.3f}; {np.mean(np.array(ratios) > 1.01):.0%} above 1.01")


if __name__ == "__main__":
    main()
