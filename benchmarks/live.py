"""Measure a scan that grows: how fast it is written, and how soon a tile that was written is in the image.

    python benchmarks/live.py                     # two minutes
    python benchmarks/live.py --quick
    python benchmarks/live.py --rate 100 --seconds 60 --frame-size 256

First a writer by itself, as fast as it can. Then the writer at a rate, in a process of its own, beside a run
that follows on one core. A tile is seen at the end of the first callback whose image has it; the table gives
the time from the last byte of the tile in the store until then, and that less the sweep over all tiles that
ended before. On a machine that is busy with other things both are longer, as the share of a core that the run
got tells.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import daskptycho as dp

# Frames that the writer sends again and again, and frames in a block that it hands over.
DIFFERENT, BLOCK = 256, 16


def make_frames(size: int) -> NDArray[np.uint16]:
    """Frames of a soft spot, with the noise of counting."""
    y, x = np.mgrid[:size, :size] - size / 2
    mean = 200 * np.exp(-(y**2 + x**2) / (2 * (size / 8) ** 2))
    return np.random.default_rng(0).poisson(mean, (DIFFERENT, size, size)).astype(np.uint16)


def lay_out(url: Path, frames: int, size: int, tile_frames: int) -> None:
    """A scan of bands of about sixteen rows, one after the other, so that tiles are complete one by one."""
    rows = max(1, int(np.sqrt(tile_frames)))
    across = -(-tile_frames // rows)
    number = np.arange(frames)
    tile, inside = np.divmod(number, tile_frames)
    band, column = np.divmod(tile, 16)
    position = np.stack([band * rows + inside // across, column * across + inside % across], axis=1)
    y, x = np.mgrid[:size, :size] - size / 2
    dp.create_scan(
        url,
        planned_position=position * (size / 8.0),
        frame_shape=(size, size),
        dtype="uint16",
        position_unit="pixel",
        probe=np.exp(-(y**2 + x**2) / (2 * (size / 8) ** 2)),
        tile_frames=tile_frames,
        overwrite=True,
    )


def write(url: Path, frames: int, size: int, rate: float | None, into: Any) -> None:
    """Write all frames at a rate, or as fast as it goes.

    Puts `into` a queue: seconds, processor seconds, and when each tile was there, with the frames until then.
    """
    # That frames come again is said once more.
    warnings.simplefilter("ignore")
    counts, log = make_frames(size), []
    with dp.ScanWriter(url) as writer:
        begun, used, written = time.monotonic(), time.process_time(), 0
        for first in range(0, frames, BLOCK):
            number = np.arange(first, min(first + BLOCK, frames))
            writer.write(counts[number % DIFFERENT], number)
            if writer.written > written:
                written = writer.written
                log.append((time.monotonic(), written))
            if rate is not None:
                time.sleep(max(0.0, begun + (first + BLOCK) / rate - time.monotonic()))
        into.put((time.monotonic() - begun, time.process_time() - used, log))


def follow(url: Path) -> list[tuple[float, int, float]]:
    """Follow a scan on one core: time, frames in the image and seconds of the sweep, at each callback."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    seen = []

    def callback(progress: dp.Progress) -> bool:
        # As the live page does.
        progress.preview()
        seen.append((time.monotonic(), progress.growth.taken_up, progress.seconds))
        return progress.growth.ended

    dp.reconstruct(dp.open_scan(url), follow=True, sweeps=1, callback=callback)
    return seen


def measure_waits(
    log: list[tuple[float, int]], seen: list[tuple[float, int, float]]
) -> tuple[list[float], list[float]]:
    """For each tile, the seconds until it was seen, and that less the seconds of the sweep before."""
    waits, beyond = [], []
    for there, written in log:
        at, _, sweep = next(of_one for of_one in seen if of_one[1] >= written)
        waits.append(at - there)
        beyond.append(at - there - sweep)
    return waits, beyond


def show_rates(size: int, tile_frames: int, rows: dict[str, tuple[int, float, float]]) -> Table:
    """Frames, seconds and processor seconds of each writer, as rates."""
    table = Table(title=f"Frames of {size}x{size} uint16 into a scan, tiles of {tile_frames}")
    for name in ("", "frames a second", "MB a second", "processor time of a frame"):
        table.add_column(name, justify="right")
    for name, (frames, seconds, busy) in rows.items():
        rate = frames / seconds
        table.add_row(name, f"{rate:.0f}", f"{rate * size**2 * 2e-6:.1f}", f"{busy / frames * 1e3:.2f} ms")
    return table


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Two seconds of small frames.")
@click.option("--seconds", default=60.0, show_default=True, help="For how long frames come.")
@click.option("--rate", default=1000.0, show_default=True, help="Frames a second.")
@click.option("--frame-size", "size", default=128, show_default=True, help="Pixels along a side.")
@click.option("--tile-frames", default=256, show_default=True, help="Frames in a tile.")
def main(quick: bool, seconds: float, rate: float, size: int, tile_frames: int) -> None:
    if quick:
        seconds, rate, size, tile_frames = 2.0, 200.0, 16, 32
    console, frames = Console(width=110), int(seconds * rate)
    few = min(frames, 20 * tile_frames)
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        url = Path(folder) / "scan.zarr"
        lay_out(url, few, size, tile_frames)
        writer = context.Process(target=write, args=(url, few, size, None, queue))
        writer.start()
        alone = queue.get()
        writer.join()
        lay_out(url, frames, size, tile_frames)
        writer = context.Process(target=write, args=(url, frames, size, rate, queue))
        writer.start()
        used = time.process_time()
        seen = follow(url)
        used = time.process_time() - used
        *beside, log = queue.get()
        writer.join()
    rows = {"writer by itself": (few, *alone[:2]), "writer beside a run": (frames, *beside)}
    console.print(show_rates(size, tile_frames, rows))
    waits, beyond = measure_waits(log, seen)
    table = Table(title="From the store to the image, seconds")
    for name in ("", "median", "most"):
        table.add_column(name, justify="right")
    columns = {"seen after": waits, "seen beyond a sweep": beyond, "sweep": [sweep for *_, sweep in seen]}
    for name, values in columns.items():
        table.add_row(name, f"{np.median(values):.2f}", f"{np.max(values):.2f}")
    console.print(table)
    share = used / (seen[-1][0] - log[0][0])
    console.print(f"{len(log)} tiles; the run got {share:.2f} of a core")


if __name__ == "__main__":
    main()
