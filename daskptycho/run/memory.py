"""What a run needs of its workers, estimated before anything is computed, and refused where it cannot fit.

The bytes are those of the arrays that `graph` leaves between tasks, tile by tile, and of those inside a task;
benchmarks/memory.py measures them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr
from dask.utils import format_bytes

from daskptycho.backend import GPU_BATCHES, GPU_SHARE
from daskptycho.cluster.client import current_client
from daskptycho.cluster.workers import Workers
from daskptycho.errors import OptionError
from daskptycho.graph import sweep
from daskptycho.model.algorithms import AP, RAAR
from daskptycho.model.model import Model
from daskptycho.model.probe import Probe
from daskptycho.run.options import Recipe
from daskptycho.run.start import begin_uniform
from daskptycho.sync.options import Sync, Synchronisation
from daskptycho.tasks.layout import Residency, lay_out
from daskptycho.tasks.spec import count_tasks, place
from daskptycho.tasks.state import SweepSettings
from daskptycho.tiling import Strip, Tile, Tiling, assign_worker, overlapping_pairs

__all__ = ["Needs", "count_sweep_tasks", "estimate_needs"]

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
class Needs:
    """What a run takes: bytes of arrays.

    Attributes
    ----------
    workers : Workers
    tiles, frames, tile_frames : int
        Of the scan, and frames of the largest tile.
    amplitudes : int
        Of all measured amplitudes as float32, for comparison.
    residency : Residency
        What stays in memory from task to task.
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
    residency: Residency
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
        """What stays in memory from task to task, and what does not, in words."""
        if self.residency is Residency.ON_DISK:
            return f"amplitudes streamed, {format_bytes(self.on_disk)} of images on disk"
        return self.residency.value

    def explain(self) -> str:
        """What was estimated, for a run that took more, and what would take less."""
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
    grades = [Residency.HELD]
    no_stack = recipe.method != "full" and not recipe.has_stack
    if no_stack and recipe.recovers:
        grades.append(Residency.WAVES_TWICE)
    if no_stack and hasattr(scan["intensity"].data, "__dask_graph__"):
        grades.append(Residency.STREAMED)
        if workers.device == "cpu":
            grades.append(Residency.ON_DISK)
    choices = [_needs(scan, tiling, workers, recipe, grade) for grade in grades]
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


def _needs(scan: xr.Dataset, tiling: Tiling, workers: Workers, recipe: Recipe, residency: Residency) -> Needs:
    streamed = residency.streamed
    counts = _counts_itemsize(scan)
    frame = math.prod(tiling.frame_shape)
    pixels = [len(tile) * frame for tile in tiling.tiles]
    windows = [math.prod(tile.window.shape) for tile in tiling.tiles]
    wave = COMPLEX * recipe.modes
    passes = 2 if recipe.recovers else 1
    travelling = tiling.strips_between_workers(workers.count)
    images = sum(windows) * _image_bytes(recipe)
    held = 0 if residency.images_on_disk else images
    held += sum(own.nbytes(len(tile)) for own in recipe.parameters for tile in tiling.tiles)
    if not streamed or workers.device == "gpu":
        held += _pair_bytes(tiling, recipe)
    # A sweep leaves a stack while the one before still stands.
    held += sum(pixels) * ((0 if streamed else counts) + (2 * wave if recipe.has_stack else 0))
    # An update of the model waits for all tiles.
    wait = recipe.recovers and not residency.waves_twice
    waiting = sum(pixels) * (wave if wait else COMPLEX if recipe.method == "full" else 0)
    inside = (COMPLEX if recipe.method is not None else 0) + (wave if wait else 0)
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
        residency=residency,
        held=held,
        # A new illumination is on disk twice: of a tile's own frames, and with its neighbours'.
        on_disk=images + (sum(windows) * FLOAT if recipe.recovers else 0) if residency.images_on_disk else 0,
        disk_traffic=_disk_traffic(tiling, recipe) if residency.images_on_disk else 0,
        waiting=waiting,
        task=max(pixels) * inside + batch + 4 * COMPLEX * max(windows),
        read=sum(pixels) * scan["intensity"].dtype.itemsize * (passes if streamed else 0),
        strips=sum(map(_pixels, travelling)) * (COMPLEX + (FLOAT if recipe.recovers else 0)),
        # Those of a sweep and of the one before; a strip that travels is cut in a task of its own.
        bookkeeping=2 * BOOKKEEPING * (passes * len(travelling) + (4 * passes - 2) * len(tiling.tiles)),
        result=math.prod(tiling.window.shape) * (COMPLEX + FLOAT),
    )


def _image_bytes(recipe: Recipe) -> int:
    """Bytes for a pixel of a tile's window: overlap sums and illuminations of two sweeps, and images."""
    # Momentum needs the images that both sweeps began with. That of a second pass goes as it is swept.
    return (4 if recipe.momentum else 2) * COMPLEX + (2 if recipe.recovers else 1) * FLOAT


def _disk_traffic(tiling: Tiling, recipe: Recipe) -> int:
    """Bytes of images written and read in a sweep that synchronises, where they lie on disk."""
    pixels = sum(math.prod(tile.window.shape) for tile in tiling.tiles)
    # Whole rows of the neighbour's image are read.
    cut = sum(
        (strip.from_source[0].stop - strip.from_source[0].start) * tiling.tiles[strip.source].window.width
        for strip in tiling.strips
    )
    # The overlap sum is written, and read for G and for the merge; so is the illumination, and for the
    # Gramian.
    of_pixel, of_strip = 3 * COMPLEX + 3 * FLOAT, 2 * COMPLEX
    if recipe.recovers:
        # A new illumination: written, read with its strips, written. The second pass reads the merged image.
        of_pixel += 3 * FLOAT + COMPLEX
        of_strip += FLOAT
    if recipe.momentum:
        # Each pass over the frames reads the image before.
        of_pixel += (2 if recipe.recovers else 1) * COMPLEX
    if recipe.momentum or recipe.recovers:
        # The merged image is written.
        of_pixel += COMPLEX
    return pixels * of_pixel + cut * of_strip


def count_sweep_tasks(
    scan: xr.Dataset,
    tiling: Tiling,
    recipe: Recipe,
    *,
    residency: Residency = Residency.HELD,
    workers: int = 1,
) -> int:
    """Tasks of a sweep that synchronises, counted in its graph, and those for what workers send."""
    model = Model(recipe.parameters)
    layout = lay_out(scan, tiling, model, recipe.method, residency=residency)
    shared = place({Probe.name: np.ones((recipe.modes, *tiling.frame_shape), dtype=np.complex64)})
    state = begin_uniform(layout, shared, [{} for _ in tiling.tiles], None)
    how = Synchronisation(Sync(recipe.method), None if recipe.method is None else "degree")
    settings = SweepSettings(
        algorithm=RAAR() if recipe.has_stack else AP(),
        how=how,
        momentum=0.5 if recipe.momentum else 0.0,
        keeps_image=recipe.momentum,
        due=model.due(10**6),
    )
    # The second sweep: the first one begins with merged images.
    state, _ = sweep(layout, state, settings)
    following, report = sweep(layout, state, settings)
    counted = count_tasks([following, report], given=[layout, state])
    # A graph that is made for a cluster in use has them already.
    return counted if current_client() else counted + _tasks_between(tiling, recipe, workers)


def _tasks_between(tiling: Tiling, recipe: Recipe, workers: int) -> int:
    """Tasks of a sweep for what workers send each other: strips, and reports to the first of them."""
    tiles = len(tiling.tiles)
    cuts = len(tiling.strips_between_workers(workers)) * (2 if recipe.recovers else 1)
    away = sum(assign_worker(tile, tiles, workers) > 0 for tile in range(tiles))
    return cuts + away * (recipe.recovers + (recipe.method != "two-level"))
