"""Time one sweep relative to the pair of FFTs of the same frames, on one core.

    python benchmarks/sweep.py
    python benchmarks/sweep.py --quick

The FFT pair uses the same library as the sweep, in the same blocks and in place. Both are timed in turn, and
the fastest of several rounds counts. The Gramian and the eigensolver are timed as well.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from timing import fastest_seconds

import daskptycho as dp
from daskptycho.backend import inverse_transform, transform
from daskptycho.model.algorithms import AP
from daskptycho.model.amplitudes import prepare_amplitudes
from daskptycho.model.light import illuminate_tile
from daskptycho.model.model import Model, TileModel
from daskptycho.model.operators import frame_blocks
from daskptycho.model.probe import Probe
from daskptycho.model.sweep import overlap_waves, sweep_tile
from daskptycho.scan.dataset import position_in_pixels
from daskptycho.sync.gramian import Border, GramianBlock, block_matrix, block_values, block_within
from daskptycho.sync.options import Sync
from daskptycho.sync.phases import normalise, solve
from daskptycho.tiling import make_tiling


def measure(folder: Path, frame_size: int, frames: int, rounds: int) -> dict[str, float]:
    scan = dp.simulate_scan(
        folder / f"{frame_size}.zarr",
        frames=(frames, frames),
        frame_size=frame_size,
        step=frame_size // 4,
        jitter=1,
        tile_frames=frames * frames,
    )
    tiling = make_tiling(position_in_pixels(scan), (frame_size, frame_size), (frames * frames,))
    tile = tiling.tiles[0]
    amplitude = prepare_amplitudes(scan["intensity"].values)
    probe = scan["probe"].values
    at = TileModel(Model((Probe(),)), {"probe": probe}, {})
    image = np.ones(tile.window.shape, dtype=np.complex64)
    weight = at.inverse_illumination(illuminate_tile(tile, at))
    weighted = sweep_tile(AP(), at, tile, amplitude, image, leave="weighted frames").left
    block = block_within(tile, tiling.frame_shape, None).to("cpu")
    # As long as few pairs are found near, all are.
    near = block.near or block
    # Zeros, which repeated transforms without a factor leave unchanged.
    waves = np.zeros((len(tile), *probe.shape), dtype=np.complex64)

    def fft_pair() -> None:
        for some in frame_blocks(len(tile), probe):
            inverse_transform(transform(waves[some], unitary=False, overwrite=True), unitary=False)

    def with_probe() -> None:
        due = at._replace(due=frozenset({"probe"}))
        swept = sweep_tile(AP(), due, tile, amplitude, image, leave="waves")
        updated = Probe().update(probe, swept.sums["probe"])
        overlap_waves(tile, swept.left.waves, at._replace(shared={"probe": updated}))

    def gramian(block: GramianBlock) -> Any:
        border = Border(weighted.frames, block.border)
        return block_matrix(block, block_values(block, weighted.frames, border, tile.corner, weight))

    def eigensolver(h: Any) -> None:
        solve(normalise(h, weighted.power, "degree"), Sync())

    h, h_near = gramian(block), gramian(near)
    return fastest_seconds(
        {
            "FFT pair": fft_pair,
            "sweep": lambda: sweep_tile(AP(), at, tile, amplitude, image),
            "sweep, probe recovered": with_probe,
            "Gramian": lambda: gramian(block),
            "eigensolver": lambda: eigensolver(h),
            "Gramian, near pairs": lambda: gramian(near),
            "eigensolver, near pairs": lambda: eigensolver(h_near),
        },
        # One more, because the first round compiles and plans.
        rounds + 1,
    )


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Frames of 32x32, one round.")
def main(quick: bool) -> None:
    table = Table(title="One sweep relative to the FFT pair of the same frames, one core")
    for name in ("frame", "part", "us per frame", "of the FFT pair"):
        table.add_column(name, justify="left" if name == "part" else "right")
    with tempfile.TemporaryDirectory() as folder:
        for size in (32,) if quick else (32, 64, 128):
            frames = 6 if quick else max(12, 1024 // size)
            found = measure(Path(folder), size, frames, 1 if quick else 7)
            for name, seconds in found.items():
                ratio = seconds / found["FFT pair"]
                table.add_row(f"{size}x{size}", name, f"{1e6 * seconds / frames**2:.1f}", f"{ratio:.2f}")
            table.add_section()
    console = Console(width=100)
    console.print(table)
    console.print(f"FFT library: {fft_library()}")


def fft_library() -> str:
    from daskptycho.backend import _host_fft

    return _host_fft().__name__


if __name__ == "__main__":
    main()
