"""Time every kernel, a sweep, the Gramian and the eigensolver on a GPU.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --quick

Each time is compared with the time that moving the bytes of the arrays takes at the bandwidth of a copy on
the same card. Every array is counted once for each kernel that reads or writes it; data that stays in caches
(image, probe, pixels that neighbours share) is not counted. Without a GPU, the script says so and ends with
exit code 2.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import daskptycho as dp
from daskptycho import gpu_kernels
from daskptycho.backend import array_module, inverse_transform, to_device, transform
from daskptycho.cluster.devices import require_gpu
from daskptycho.model.algorithms import AP
from daskptycho.model.amplitudes import prepare_amplitudes
from daskptycho.model.light import illuminate_tile
from daskptycho.model.model import Model, TileModel, move_tile
from daskptycho.model.operators import frame_blocks
from daskptycho.model.probe import Probe
from daskptycho.model.sweep import overlap_waves, sweep_tile
from daskptycho.scan.dataset import position_in_pixels
from daskptycho.sync.eigensolvers import lanczos, power
from daskptycho.sync.gramian import Border, block_matrix, block_values, block_within
from daskptycho.sync.options import Sync
from daskptycho.sync.phases import normalise
from daskptycho.tiling import Tile, make_tiling

# Bytes per pixel of a frame, for one mode: a complex number, a real number, a count.
WAVE, REAL, COUNT = 8, 4, 2
# A transform runs over the rows and then over the columns, and reads and writes each time.
FFT_PAIR = 2 * 4 * WAVE
# The counts are read; their roots are written and read; the waves are written, projected in place and read.
SWEEP = COUNT + 2 * REAL + WAVE + FFT_PAIR + 2 * WAVE + WAVE
# In addition, the correction of the waves is written and read for the probe, and the waves are read again.
WITH_PROBE = SWEEP + 2 * WAVE + 2 * WAVE
# Calls in a round of a measurement.
CALLS = 5


class Part(NamedTuple):
    """A part of a sweep to be timed, with the least number of bytes that it has to move."""

    name: str
    run: Callable[[], Any]
    bytes: float


class Card:
    """The GPU, with a timer for what runs on it."""

    def __init__(self, rounds: int) -> None:
        self.name = require_gpu().name
        self.cupy = importlib.import_module("cupy")
        self.rounds = rounds

    def seconds(self, run: Callable[[], Any]) -> float:
        """Seconds of a call in the fastest of several rounds, without the first, which compiles and plans.

        The calls of a round are queued one behind the other, so that the card does not wait for launches.
        """
        best = np.inf
        device = self.cupy.cuda.Device()
        for number in range(self.rounds + 1):
            device.synchronize()
            start = time.perf_counter()
            for _ in range(CALLS):
                run()
            device.synchronize()
            if number:
                best = min(best, (time.perf_counter() - start) / CALLS)
        return best

    def bandwidth(self, size: int) -> float:
        """Bytes per second that a copy reads and writes."""
        source = self.cupy.zeros(size // 4, dtype=np.float32)
        target = self.cupy.zeros(size // 4, dtype=np.float32)
        return 2 * source.nbytes / self.seconds(lambda: self.cupy.copyto(target, source))


def make_parts(folder: Path, frame_size: int, side: int) -> list[Part]:
    """Put a tile of side x side frames on the device and return the parts of its sweep."""
    scan = dp.simulate_scan(
        folder / f"{frame_size}.zarr",
        frames=(side, side),
        frame_size=frame_size,
        step=frame_size // 4,
        jitter=1,
        tile_frames=side**2,
    )
    tiling = make_tiling(position_in_pixels(scan), (frame_size, frame_size), (side**2,))
    tile = move_tile(tiling.tiles[0], "gpu")
    block = block_within(tiling.tiles[0], tiling.frame_shape, None)
    block = block.to("gpu")
    amplitude = prepare_amplitudes(to_device(scan["intensity"].values.astype(np.uint16), "gpu"))
    probe = to_device(scan["probe"].values, "gpu")
    at = TileModel(Model((Probe(),)), {"probe": probe}, {})
    due = at._replace(due=frozenset({"probe"}))
    # Not constant: a card takes less time for numbers that are all alike.
    phase = np.random.default_rng(0).random(tile.window.shape)
    image = to_device(np.exp(1j * phase).astype(np.complex64), "gpu")
    weight = at.inverse_illumination(illuminate_tile(tile, at))
    weighted = sweep_tile(AP(), at, tile, amplitude, image, leave="weighted frames").left
    waves = sweep_tile(AP(), due, tile, amplitude, image, leave="waves").left.waves

    def fft_pair() -> None:
        for some in frame_blocks(len(tile), probe):
            inverse_transform(transform(waves[some]))

    def with_probe() -> None:
        swept = sweep_tile(AP(), due, tile, amplitude, image, leave="waves")
        updated = Probe().update(probe, swept.sums["probe"])
        overlap_waves(tile, swept.left.waves, at._replace(shared={"probe": updated}))

    def gramian() -> Any:
        border = Border(weighted.frames, block.border)
        return block_values(block, weighted.frames, border, tile.corner, weight)

    h = block_matrix(block, gramian())
    normalised = normalise(h, weighted.power, "degree")
    start = normalised.consensus.astype(np.complex128)
    pixels = side**2 * frame_size**2
    offset = abs(block.offset.get())
    shared = (frame_size - offset).clip(0).prod(axis=1).sum()
    steps = Sync().steps(side**2)
    entries = 2 * len(block.pair) - side**2
    # A step reads the matrix and, twice, the previous vectors, which are half of the basis on average.
    eigensolver = steps * (entries * (16 + 4) + 4 * 16 * side**2 * steps / 2)
    return [
        *_kernels(tile, amplitude, probe, image, waves, weighted.frames, pixels),
        Part("FFT pair", fft_pair, pixels * FFT_PAIR),
        Part("sweep", lambda: sweep_tile(AP(), at, tile, amplitude, image), pixels * SWEEP),
        Part("sweep, probe recovered", with_probe, pixels * WITH_PROBE),
        Part("Gramian", gramian, float(shared) * 2 * WAVE),
        Part("H as a matrix", lambda: block_matrix(block, gramian()), float(shared) * 2 * WAVE),
        Part("normalisation of H", lambda: normalise(h, weighted.power, "degree"), entries * 32),
        Part(f"Lanczos, {steps} steps", lambda: lanczos(normalised.matrix, start, steps), eigensolver),
        Part("100 power steps", lambda: power(normalised.matrix, start, 100), 100 * entries * (16 + 4)),
    ]


def _kernels(
    tile: Tile, amplitude: Any, probe: Any, image: Any, waves: Any, weighted: Any, pixels: int
) -> list[Part]:
    """Each kernel of a sweep by itself, and the square root of the counts."""
    xp, frames, shape = array_module(image), len(tile), probe.shape[-2:]
    probes, everything = probe[None], slice(0, frames)
    overlap_sum, measured = xp.zeros_like(image), amplitude[everything]
    out, of_frame = xp.empty_like(weighted), xp.empty(frames)
    phase = xp.ones(frames, dtype=np.complex64)
    numerator, denominator = xp.zeros_like(probes), xp.zeros(shape, dtype=np.float32)
    corner = tile.corner
    runs: dict[str, tuple[Callable[[], Any], int]] = {
        "exit_waves": (lambda: gpu_kernels.exit_waves(image, probes, corner, waves), WAVE),
        "root of the counts": (lambda: amplitude.take(everything, measured), COUNT + REAL),
        "project_modulus": (
            lambda: gpu_kernels.project_modulus(waves, measured, 1 / shape[0] ** 2),
            2 * WAVE + REAL,
        ),
        "accumulate_waves": (lambda: gpu_kernels.accumulate_waves(waves, probes, corner, overlap_sum), WAVE),
        "weigh_frames": (lambda: gpu_kernels.weigh_frames(waves, probes, out, of_frame), 2 * WAVE),
        "accumulate_overlap": (
            lambda: gpu_kernels.accumulate_overlap(weighted, phase, corner, overlap_sum),
            WAVE,
        ),
        "accumulate_probe": (
            lambda: gpu_kernels.accumulate_probe(image, waves, corner, numerator, denominator),
            WAVE,
        ),
    }
    return [Part(name, run, pixels * each) for name, (run, each) in runs.items()]


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Small sizes, one round.")
def main(quick: bool) -> None:
    try:
        card = Card(rounds=1 if quick else 10)
    except dp.OptionError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    console = Console(width=110)
    bandwidth = card.bandwidth(2**16 if quick else 2**30)
    console.print(f"{card.name}: a copy moves {bandwidth / 1e9:.4g} GB/s")
    with tempfile.TemporaryDirectory() as folder:
        for size in (16,) if quick else (32, 64, 128, 256, 512):
            side = 3 if quick else max(8, 4096 // size)
            # A table for each size, so that a run that is cut off leaves what it had.
            table = Table(title=f"{side**2} frames of {size}x{size}")
            for name in ("part", "us per frame", "bytes only", "share of bandwidth"):
                table.add_column(name, justify="left" if name == "part" else "right")
            for part in make_parts(Path(folder), size, side):
                seconds, least = card.seconds(part.run), part.bytes / bandwidth
                times = (f"{1e6 * own / side**2:.3f}" for own in (seconds, least))
                table.add_row(part.name, *times, f"{100 * least / seconds:.0f} %")
            console.print(table)


if __name__ == "__main__":
    main()
