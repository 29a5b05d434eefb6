"""Processor time of one sweep relative to the pair of FFTs of the same frames, on one core.

    python benchmarks/sweep.py
    python benchmarks/sweep.py --quick

The FFT pair uses the same library as the sweep, in the same blocks and in place. Both are timed in turn; the
ratios are medians over rounds. The Gramian and the eigensolver are timed as well, and sweeps of three modes
and of fractional positions, in FFT pairs of as many waves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from timing import processor_seconds

import daskptycho as dp
from daskptycho.backend import inverse_transform, transform
from daskptycho.model.algorithms import AP, RAAR, Algorithm
from daskptycho.model.amplitudes import prepare_amplitudes
from daskptycho.model.light import illuminate_tile
from daskptycho.model.model import Model, TileModel
from daskptycho.model.operators import frame_blocks
from daskptycho.model.probe import Probe, prepare_probe
from daskptycho.model.sweep import Leave, overlap_waves, sweep_tile
from daskptycho.scan.dataset import position_in_pixels
from daskptycho.sync.coarse import are_linked, synchronise_coarsely
from daskptycho.sync.gramian import Border, GramianBlock, block_matrix, block_values, block_within
from daskptycho.sync.options import Sync, Synchronisation
from daskptycho.sync.phases import normalise, solve
from daskptycho.sync.two_level import TileSum, find_tile_phases, galerkin_row, synchronise_tile
from daskptycho.tiling import Tiling, make_tiling


def simulate(folder: Path, frame_size: int, frames: int, *, subpixel: bool) -> tuple[Any, Tiling]:
    """A scan of one tile."""
    scan = dp.simulate_scan(
        folder / f"{frame_size}-{subpixel}.zarr",
        frames=(frames, frames),
        frame_size=frame_size,
        step=frame_size // 4,
        jitter=1,
        subpixel=subpixel,
        tile_frames=frames * frames,
    )
    return scan, make_tiling(position_in_pixels(scan), (frame_size, frame_size), (frames * frames,))


def time_sweeps(scan: Any, tiling: Tiling, modes: int, rounds: int) -> tuple[float, dict[str, float]]:
    """Seconds of the FFT pair, and in units of it a sweep with the probe known and one that recovers it."""
    tile, probe = tiling.tiles[0], prepare_probe(scan, None, modes)
    amplitude = prepare_amplitudes(scan["intensity"].values)
    parameter = Probe(fractional=not tile.is_whole_pixel)
    at = TileModel(Model((parameter,)), {"probe": probe}, {})
    image = np.ones(tile.window.shape, dtype=np.complex64)

    def recover_probe() -> None:
        due = at._replace(due=frozenset({"probe"}))
        swept = sweep_tile(AP(), due, tile, amplitude, image, leave="waves")
        updated = parameter.update(probe, swept.sums["probe"])
        overlap_waves(tile, swept.left.waves, at._replace(shared={"probe": updated}))

    return time_in_pairs(
        (len(tile), *probe.shape),
        {
            "sweep": lambda: sweep_tile(AP(), at, tile, amplitude, image),
            "sweep, probe recovered": recover_probe,
        },
        rounds,
    )


def time_synchronisation(scan: Any, tiling: Tiling, rounds: int) -> dict[str, float]:
    """The parts of a synchronisation of a tile, in units of the FFT pair."""
    tile, probe = tiling.tiles[0], scan["probe"].values
    at = TileModel(Model((Probe(),)), {"probe": probe}, {})
    image = np.ones(tile.window.shape, dtype=np.complex64)
    lit = illuminate_tile(tile, at)
    weight = at.inverse_illumination(lit)
    amplitude = prepare_amplitudes(scan["intensity"].values)
    weighted = sweep_tile(AP(), at, tile, amplitude, image, leave="weighted frames").left
    overlapped = sweep_tile(AP(), at, tile, amplitude, image).left
    block = block_within(tile, tiling.frame_shape, None).to("cpu")
    # As long as few pairs are found near, all are.
    near = block.near or block

    def gramian(block: GramianBlock) -> Any:
        border = Border(weighted.frames, block.border)
        return block_matrix(block, block_values(block, weighted.frames, border, tile.corner, weight))

    def eigensolver(h: Any) -> None:
        solve(normalise(h, weighted.power, "degree"), Sync())

    def sweep(leave: Leave, algorithm: Algorithm | None = None) -> Any:
        return sweep_tile(algorithm or AP(), at, tile, amplitude, image, leave=leave)

    def strips(own: TileSum, how: Synchronisation) -> None:
        find_tile_phases([galerkin_row(0, own, [], [], weight)], how, 0.0)

    def synchronise_on_grid() -> None:
        assert block.grid is not None
        if not are_linked(block.grid, probe):
            raise ValueError("frames are linked by faint light only")
        own = synchronise_coarsely(tile, block.grid, overlapped, image, weight, probe, 0.0, lit)
        strips(
            TileSum(own.image_sum, own.found, own.power, agreement=own.agreement),
            Synchronisation(Sync(), "degree"),
        )

    def synchronise_near() -> None:
        how = Synchronisation(Sync(), "degree", near_pairs=True)
        strips(synchronise_tile(tile, weighted, block, weight, how, 0.0), how)

    h, h_near = gramian(block), gramian(near)
    _, ratios = time_in_pairs(
        (len(tile), *probe.shape),
        {
            "Gramian": lambda: gramian(block),
            "eigensolver": lambda: eigensolver(h),
            "Gramian, near pairs": lambda: gramian(near),
            "eigensolver, near pairs": lambda: eigensolver(h_near),
            "sweep that keeps frames": lambda: sweep("weighted frames"),
            "synchronisation, near pairs": synchronise_near,
            "synchronisation, coarse grid": synchronise_on_grid,
            "sweep of RAAR": lambda: sweep_tile(RAAR(), at, tile, amplitude, image),
            "sweep of RAAR with turns": lambda: sweep("overlap sum and turns", RAAR()),
        },
        rounds,
    )
    return ratios


def time_in_pairs(
    shape: tuple[int, ...], actions: dict[str, Callable[[], Any]], rounds: int
) -> tuple[float, dict[str, float]]:
    """Seconds of the FFT pair of waves of this shape, and actions in units of it: medians over rounds."""
    # Zeros, which repeated transforms without a factor leave unchanged.
    waves = np.zeros(shape, dtype=np.complex64)

    def fft_pair() -> None:
        for some in frame_blocks(len(waves), waves[0]):
            inverse_transform(transform(waves[some], unitary=False, overwrite=True), unitary=False)

    # One more, because the first round compiles and plans.
    seconds = processor_seconds({"FFT pair": fft_pair} | actions, rounds + 1)
    pair = np.array(seconds.pop("FFT pair")[1:])
    return float(np.median(pair)), {
        name: float(np.median(np.array(own[1:]) / pair)) for name, own in seconds.items()
    }


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Frames of 32x32, one round.")
def main(quick: bool) -> None:
    table = Table(title="Processor time in units of the FFT pair of the same waves, one core")
    for name in ("frame", "modes", "positions", "part", "us per frame", "of the FFT pair"):
        table.add_column(name, justify="left" if name in ("part", "positions") else "right")
    with tempfile.TemporaryDirectory() as folder:
        for size in (32,) if quick else (32, 64, 128):
            frames, rounds = 8 if quick else max(12, 1024 // size), 1 if quick else 15
            scans = [simulate(Path(folder), size, frames, subpixel=subpixel) for subpixel in (False, True)]
            for modes, subpixel in ((1, False), (3, False), (1, True)):
                scan, tiling = scans[subpixel]
                pair, ratios = time_sweeps(scan, tiling, modes, rounds)
                if modes == 1 and not subpixel:
                    ratios |= time_synchronisation(scan, tiling, rounds)
                for name, ratio in ({"FFT pair": 1.0} | ratios).items():
                    of = (f"{size}x{size}", str(modes), "fractional" if subpixel else "whole pixels")
                    table.add_row(*of, name, f"{1e6 * ratio * pair / frames**2:.1f}", f"{ratio:.2f}")
                table.add_section()
    console = Console(width=100)
    console.print(table)
    console.print(f"FFT library: {fft_library()}")


def fft_library() -> str:
    from daskptycho.backend import _host_fft

    return _host_fft().__name__


if __name__ == "__main__":
    main()
