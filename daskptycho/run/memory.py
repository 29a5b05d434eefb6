"""What a run takes of its workers, told before anything is computed, and refused where it cannot fit.

`run` and the command line call this module. The bytes are those of the arrays that `graph` leaves between
tasks, tile by tile, and of those inside a task; benchmarks/memory.py measures them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import xarray as xr
from dask.utils import format_bytes

from daskptycho.backend import GPU_BATCHES, GPU_SHARE
from daskptycho.cluster.workers import Workers
from daskptycho.errors import OptionError
from daskptycho.graph import sweep
from daskptycho.model.algorithms import AP, RAAR
from daskptycho.run.start import uniform_start
from daskptycho.sync.phases import Sync
from daskptycho.tasks.plan import make_plan
from daskptycho.tasks.spec import count_tasks, current_client, place
from daskptycho.tiling import Strip, Tile, Tiling, overlapping_pairs

__all__ = ["Needs", "Recipe", "count_sweep_tasks", "estimate_needs"]

# What Python, its libraries and the compiled kernels take in a worker that has run a tiny scan: measured.
INTERPRETER = 320_000_000
# What CUDA and its libraries take of a GPU: estimated from their documentation, not measured.
GPU_CONTEXT = 800_000_000
# What a worker keeps of each task of a sweep: its name, its state, what it needs. Measured on two workers
# with 256 tiles and 20 000 tasks each.
BOOKKEEPING = 5_000
# The share of its memory from which a Dask worker begins to spill to disk.
FULL = 0.7

COMPLEX, FLOAT = 8, 4


@dataclass(frozen=True)
class Recipe:
    """What of a run's options decides about its memory."""

    modes: int = 1
    method: Literal["two-level", "full"] | None = "two-level"
    has_stack: bool = False
    momentum: bool = True
    update_probe: bool = True


@dataclass(frozen=True)
class Needs:
    """What a run takes: bytes of arrays.

    Attributes
    ----------
    workers : Workers
    tiles, frames, tile_frames : int
        Of the scan, and frames of the largest tile.
    amplitudes : int
        Of all measured amplitudes as float32, for comparison.
    waves_twice : bool
        Waves are computed a second time rather than wait for a new probe.
    streamed : bool
        The amplitudes stay in the store and are read by each task that needs them.
    images_on_disk : bool
        The tiles' images lie on disk from task to task.
    held : int
        On all workers from sweep to sweep: counts where they are held, images, illumination, stacks.
    on_disk : int
        Of images and illumination, where they are on disk: at most at a time, of all workers.
    disk_traffic : int
        Of them, written and read in a sweep that synchronises.
    waiting : int
        On all workers in the middle of a sweep: frames that wait for the probe, or for H.
    task : int
        In the largest task, with what it leaves.
    read : int
        Read from the store in a sweep, before decompression makes it this much.
    strips : int
        Of the strips that workers send each other in a sweep that synchronises.
    bookkeeping : int
        On all workers, of the tasks of a sweep.
    result : int
        The image and the illumination on the whole canvas, brought together at the end in the process that
        began the run.
    """

    workers: Workers
    tiles: int
    frames: int
    tile_frames: int
    amplitudes: int
    waves_twice: bool
    streamed: bool
    images_on_disk: bool
    held: int
    on_disk: int
    disk_traffic: int
    waiting: int
    task: int
    read: int
    strips: int
    bookkeeping: int
    result: int

    @property
    def worker(self) -> int:
        """Peak of one worker."""
        busiest = math.ceil(self.tiles / self.workers.count) / self.tiles
        on_gpu = self.workers.device == "gpu"
        shared = self.held + self.waiting + (0 if on_gpu else self.bookkeeping)
        fixed = GPU_CONTEXT if on_gpu else INTERPRETER
        swept = fixed + math.ceil(shared * busiest) + self.workers.threads * self.task
        # The process that began the run is taken to be its one worker.
        alone = self.workers.count == 1 and not on_gpu
        return max(swept, fixed + self.held + self.result) if alone else swept

    @property
    def largest(self) -> str:
        """What takes most of a worker's memory at a time, beside what is held."""
        tasks = self.workers.threads * self.task
        if self.workers.count == 1 and self.result > tasks + self.waiting:
            return f"{format_bytes(self.result)} in the result"
        return f"{format_bytes(tasks)} in the tasks of {self.workers.threads} threads"

    @property
    def grade(self) -> str:
        """What stays in memory from task to task, and what does not."""
        if self.images_on_disk:
            return f"amplitudes streamed, {format_bytes(self.on_disk)} of images on disk"
        if self.streamed:
            return "amplitudes streamed"
        return "amplitudes held, waves computed twice" if self.waves_twice else "amplitudes held"

    def told(self) -> str:
        """What was planned, for a run that took more, and what would take less."""
        limit = "" if self.workers.memory is None else f" of {format_bytes(self.workers.memory)}"
        return (
            f"{format_bytes(self.task)} were planned for its largest task, and {format_bytes(self.worker)}"
            f"{limit} for each of {self.workers.count} workers, {self.grade}; expected more memory for each, "
            f"or smaller tiles than the largest of {self.tile_frames} frames (tile_frames of the scan), or "
            "more workers"
        )

    @property
    def fits(self) -> bool:
        return self.workers.memory is None or self.worker <= FULL * self.workers.memory


def estimate_needs(scan: xr.Dataset, tiling: Tiling, workers: Workers, recipe: Recipe) -> Needs:
    """What a run of these options takes of these workers.

    Parameters
    ----------
    scan : xarray.Dataset
    tiling : Tiling
    workers : Workers
    recipe : Recipe

    Returns
    -------
    Needs
        With the amplitudes held, and waves that wait for a new probe; with waves computed twice where they do
        not fit; streamed where the amplitudes do not; with the images on disk where those do not fit either.

    Raises
    ------
    OptionError
        They do not fit, with what would.
    """
    no_stack = recipe.method != "full" and not recipe.has_stack
    choices = [_needs(scan, tiling, workers, recipe)]
    if no_stack and recipe.update_probe:
        choices.append(_needs(scan, tiling, workers, recipe, waves_twice=True))
    if no_stack and hasattr(scan["intensity"].data, "to_delayed"):
        choices.append(_needs(scan, tiling, workers, recipe, streamed=True))
        if workers.device == "cpu":
            choices.append(_with_images_on_disk(choices[-1], tiling, recipe))
    for choice in choices:
        if choice.fits:
            return choice
    raise OptionError(_refusal(choices, recipe, max(tiling.tiles, key=len)))


def _counts_itemsize(scan: xr.Dataset) -> int:
    """Bytes of a count as `operators.measured_amplitudes` keeps it."""
    dtype = scan["intensity"].dtype
    return dtype.itemsize if "background" not in scan and dtype in (np.uint8, np.uint16) else FLOAT


def _pair_bytes(tiling: Tiling, recipe: Recipe) -> int:
    """Of the pairs of frames, two numbers and an offset each; all tiles are taken to be like the largest."""
    if recipe.method is None:
        return 0
    if recipe.method == "full":
        return 32 * len(overlapping_pairs(tiling.corner, tiling.frame_shape, tiling.period))
    largest = max(tiling.tiles, key=len)
    pairs = overlapping_pairs(largest.corner, tiling.frame_shape, tiling.period)
    return 32 * len(pairs) * len(tiling.corner) // len(largest)


def _pixels(strip: Strip) -> int:
    return math.prod(part.stop - part.start for part in strip.to_target)


def _refusal(choices: list[Needs], recipe: Recipe, tile: Tile) -> str:
    least = min(choices, key=lambda needs: needs.worker)
    workers = least.workers
    assert workers.memory is not None
    fixed = GPU_CONTEXT if workers.device == "gpu" else INTERPRETER
    room = FULL * workers.memory - fixed - workers.threads * least.task
    said = (
        f"the run needs {format_bytes(least.worker)} on each of {workers.count} workers, {least.grade}, of "
        f"which {least.largest}; they have {format_bytes(workers.memory)}, {100 * FULL:.0f} % of it before "
        "Dask spills"
    )
    changes = []
    if room > 0:
        count = math.ceil((least.held + least.waiting + least.bookkeeping) / room)
        changes.append(f"{max(count, workers.count + 1)} workers or more")
    else:
        changes.append(f"smaller tiles than the largest of {len(tile)} frames (tile_frames of the scan)")
    if recipe.has_stack:
        changes.append("algorithm 'ap', which keeps no stack of frames")
    if recipe.method == "full":
        changes.append("sync 'two-level', whose frames need not wait for each other")
    return f"{said}; expected {', or '.join(changes)}, or more memory"


def _needs(
    scan: xr.Dataset,
    tiling: Tiling,
    workers: Workers,
    recipe: Recipe,
    *,
    waves_twice: bool = False,
    streamed: bool = False,
) -> Needs:
    waves_twice = recipe.update_probe and (waves_twice or streamed)
    counts = _counts_itemsize(scan)
    frame = math.prod(tiling.frame_shape)
    pixels = [len(tile) * frame for tile in tiling.tiles]
    windows = [math.prod(tile.window.shape) for tile in tiling.tiles]
    wave = COMPLEX * recipe.modes
    lit = 2 if recipe.update_probe else 1
    travelling = tiling.strips_between_workers(workers.count)
    held = sum(windows) * _image_bytes(recipe)
    if not streamed or workers.device == "gpu":
        held += _pair_bytes(tiling, recipe)
    held += sum(pixels) * ((0 if streamed else counts) + (wave if recipe.has_stack else 0))
    # The new probe waits for all tiles.
    wait_for_probe = recipe.update_probe and not waves_twice
    waiting = sum(pixels) * (wave if wait_for_probe else COMPLEX if recipe.method == "full" else 0)
    inside = (COMPLEX if recipe.method is not None else 0) + (wave if wait_for_probe else 0)
    if streamed:
        # Frames as they are read, and moved to the corner; then these and the weighted ones.
        inside = counts + max(counts, inside)
    batch = 0
    if workers.device == "gpu" and workers.memory is not None:
        # Frames at work: on a CPU they stay in a core's cache.
        batch = GPU_BATCHES * min(max(pixels) * wave, int(GPU_SHARE * workers.memory))
    return Needs(
        workers=workers,
        tiles=len(tiling.tiles),
        frames=len(tiling.corner),
        tile_frames=max(map(len, tiling.tiles)),
        amplitudes=FLOAT * sum(pixels),
        waves_twice=waves_twice,
        streamed=streamed,
        images_on_disk=False,
        held=held,
        on_disk=0,
        disk_traffic=0,
        waiting=waiting,
        task=max(pixels) * inside + batch + 3 * COMPLEX * max(windows),
        read=sum(pixels) * scan["intensity"].dtype.itemsize * (lit if streamed else 0),
        strips=sum(map(_pixels, travelling)) * (COMPLEX + (FLOAT if recipe.update_probe else 0)),
        # Those of a sweep and of the one before; a strip that travels is cut in a task of its own.
        bookkeeping=2 * BOOKKEEPING * (lit * len(travelling) + (4 * lit + 1) * len(tiling.tiles)),
        result=math.prod(tiling.window.shape) * (COMPLEX + FLOAT),
    )


def _image_bytes(recipe: Recipe) -> int:
    """Of a pixel of a tile's window: its image now, the next and the one before, and what shone on it."""
    return (3 if recipe.momentum else 2) * COMPLEX + (2 if recipe.update_probe else 1) * FLOAT


def _with_images_on_disk(streamed: Needs, tiling: Tiling, recipe: Recipe) -> Needs:
    pixels = sum(math.prod(tile.window.shape) for tile in tiling.tiles)
    # Whole rows of the neighbour's image are read.
    cut = sum(
        (strip.from_source[0].stop - strip.from_source[0].start) * tiling.tiles[strip.source].window.width
        for strip in tiling.strips
    )
    passes = 2 if recipe.update_probe else 1
    # The overlap sum and the merged image are written. Each pass over the frames reads the image and the one
    # before; the Gramian, G and the merge the illumination, the latter two overlap sums with their strips.
    of_pixel = 4 * COMPLEX + passes * (2 if recipe.momentum else 1) * COMPLEX + 3 * FLOAT
    of_strip = 2 * COMPLEX
    if recipe.update_probe:
        # A new illumination: written, read with its strips, written.
        of_pixel += 3 * FLOAT
        of_strip += FLOAT
    images = pixels * _image_bytes(recipe)
    return replace(
        streamed,
        images_on_disk=True,
        held=streamed.held - images,
        on_disk=images,
        disk_traffic=pixels * of_pixel + cut * of_strip,
    )


def count_sweep_tasks(
    scan: xr.Dataset, tiling: Tiling, recipe: Recipe, *, waves_twice: bool = False, workers: int = 1
) -> int:
    """Tasks of a sweep that synchronises, counted in its graph, and those that cut what workers send."""
    plan = make_plan(scan, tiling, recipe.method, waves_twice=waves_twice)
    probe = place(np.ones((recipe.modes, *tiling.frame_shape), dtype=np.complex64))
    state = uniform_start(plan, probe, None)
    following, report = sweep(
        plan,
        state,
        RAAR() if recipe.has_stack else AP(),
        counts=1.0,
        sync=Sync(recipe.method),
        normalisation=None if recipe.method is None else "degree",
        momentum=0.5 if recipe.momentum else 0.0,
        update_probe=recipe.update_probe,
    )
    # A graph that is made for a cluster in use has them already.
    passes = 0 if current_client() else 2 if recipe.update_probe else 1
    cut = len(tiling.strips_between_workers(workers)) * passes
    return count_tasks([following, report], given=[plan, state]) + cut
