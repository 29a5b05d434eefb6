"""The memory that a run needs on its workers, estimated before the run, which is refused if it cannot fit.

The estimate adds up the arrays that exist between the tasks of `graph` and those inside tasks. It is checked
against measurements by benchmarks/memory.py.
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
from daskptycho.model.algorithms import AP, LBFGS, RAAR
from daskptycho.model.model import Model
from daskptycho.model.probe import Probe
from daskptycho.run.options import Recipe
from daskptycho.run.start import begin_uniform
from daskptycho.sync.gramian import block_within
from daskptycho.sync.options import Sync, Synchronisation
from daskptycho.tasks.layout import Residency, lay_out
from daskptycho.tasks.spec import count_tasks, place
from daskptycho.tasks.state import SweepSettings
from daskptycho.tiling import Strip, Tile, Tiling, assign_worker, overlapping_pairs

__all__ = ["Needs", "count_sweep_tasks", "estimate_needs"]

# Bytes of Python, its libraries and the compiled kernels in a worker, measured after a run of a tiny scan.
INTERPRETER = 320_000_000
# Bytes of CUDA and its libraries on a GPU: 552 MB on an H100 after a run, and room for other cards.
GPU_CONTEXT = 800_000_000
# Bytes that a worker keeps for each task of a sweep: its name, state and dependencies. Measured on two
# workers with 256 tiles and 20 000 tasks each.
BOOKKEEPING = 5_000
# The share of its memory at which a Dask worker begins to spill to disk.
FULL = 0.7

COMPLEX, FLOAT = 8, 4
# Bytes of a pair of frames: two numbers, an offset, and twice the place of an entry of H.
PAIR = 4 * 8 + 2 * (4 + 4 + 1)


@dataclass(frozen=True)
class Needs:
    """The estimated needs of a run. Sizes are in bytes.

    Attributes
    ----------
    workers : Workers
    tiles, frames, tile_frames : int
        Numbers of tiles and frames of the scan, and of frames of the largest tile.
    amplitudes : int
        All measured amplitudes as float32, for comparison.
    residency : Residency
        What is held in memory between tasks.
    held : int
        Arrays held by all workers from sweep to sweep: counts, images, illumination, stacks, as far as the
        residency keeps them in memory.
    on_disk : int
        The largest amount of images and illumination on the disks of all workers at a time; 0 if they are in
        memory.
    disk_traffic : int
        Images written to and read from disk in a sweep that synchronises.
    waiting : int
        Arrays on all workers in the middle of a sweep that wait for the update of the probe, or for H.
    task : int
        Arrays in the largest task, with its results.
    read : int
        Counts read from the scan's store in a sweep, after decompression.
    strips : int
        Strips that workers send each other in a sweep that synchronises.
    bookkeeping : int
        What all workers keep for the tasks of a sweep.
    result : int
        The image and the illumination on the whole canvas, assembled at the end in the process that started
        the run.
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
        """Peak memory of one worker, in bytes."""
        busiest = math.ceil(self.tiles / self.workers.count) / self.tiles
        on_gpu = self.workers.device == "gpu"
        shared = self.held + self.waiting + (0 if on_gpu else self.bookkeeping)
        fixed = GPU_CONTEXT if on_gpu else INTERPRETER
        swept = fixed + math.ceil(shared * busiest) + self.workers.threads * self.task
        # A single worker is taken to be the process that started the run, which also assembles the result.
        assembles = self.workers.count == 1 and not on_gpu
        return max(swept, fixed + self.held + self.result) if assembles else swept

    @property
    def largest(self) -> str:
        """What takes most of a worker's memory besides `held`, in words."""
        tasks = self.workers.threads * self.task
        if self.workers.count == 1 and self.result > tasks + self.waiting:
            return f"{format_bytes(self.result)} in the result"
        return f"{format_bytes(tasks)} in the tasks of {self.workers.threads} threads"

    @property
    def grade(self) -> str:
        """What is held in memory between tasks and what is not, in words."""
        if self.residency is Residency.ON_DISK:
            return f"amplitudes streamed, {format_bytes(self.on_disk)} of images on disk"
        return self.residency.value

    def explain(self) -> str:
        """A sentence for a run that ran out of memory: what was estimated, and what would need less."""
        limit = "" if self.workers.memory is None else f" of {format_bytes(self.workers.memory)}"
        return (
            f"{format_bytes(self.task)} were planned for its largest task, and {format_bytes(self.worker)}"
            f"{limit} for each of {self.workers.count} workers, {self.grade}; expected more memory for each, "
            f"or smaller tiles than the largest of {self.tile_frames} frames (tile_frames of the scan), or "
            "more workers"
        )

    @property
    def fits(self) -> bool:
        """Whether a worker has enough memory, so that Dask does not begin to spill."""
        return self.workers.memory is None or self.worker <= FULL * self.workers.memory


def estimate_needs(
    scan: xr.Dataset,
    tiling: Tiling,
    workers: Workers,
    recipe: Recipe,
    *,
    only: Residency | None = None,
) -> Needs:
    """Estimate the needs of a run, and choose the first residency with which it fits.

    The residencies are tried in the order of `Residency`. With a stack or with ``Sync("full")``, everything
    must be held. Otherwise waves can be computed twice if a parameter is updated, amplitudes can be streamed
    if the scan is in a store, and images can then be kept on disk unless they are on a GPU, or L-BFGS keeps
    pairs of them.

    Parameters
    ----------
    scan : xarray.Dataset
    tiling : Tiling
    workers : Workers
    recipe : Recipe
    only : Residency, optional
        The only residency to try.

    Returns
    -------
    Needs

    Raises
    ------
    OptionError
        The run does not fit with any residency; the message says what would help.
    """
    grades = [Residency.HELD]
    no_stack = recipe.method != "full" and not recipe.has_stack
    if no_stack and recipe.recovers:
        grades.append(Residency.WAVES_TWICE)
    if no_stack and hasattr(scan["intensity"].data, "__dask_graph__"):
        grades.append(Residency.STREAMED)
        if workers.device == "cpu" and not recipe.pairs:
            grades.append(Residency.ON_DISK)
    if only is not None:
        grades = [grade for grade in grades if grade is only]
    choices = [_needs(scan, tiling, workers, recipe, grade) for grade in grades]
    for choice in choices:
        if choice.fits:
            return choice
    raise OptionError(_refusal(choices, recipe, max(tiling.tiles, key=len)))


def _counts_itemsize(scan: xr.Dataset) -> int:
    """Bytes of a count as `amplitudes.prepare_amplitudes` keeps it."""
    dtype = scan["intensity"].dtype
    return dtype.itemsize if dtype in (np.uint8, np.uint16) else FLOAT


def _pair_bytes(tiling: Tiling, recipe: Recipe) -> int:
    """Bytes of all pairs of frames, with their entries' places. All tiles are taken to be the largest."""
    if recipe.method is None:
        return 0
    if recipe.method == "full":
        return PAIR * len(overlapping_pairs(tiling.corner, tiling.frame_shape, tiling.period))
    largest = max(tiling.tiles, key=len)
    block = block_within(largest, tiling.frame_shape, tiling.period)
    pairs = block.pairs + (0 if block.near is None else block.near.pairs)
    return PAIR * pairs * len(tiling.corner) // len(largest)


def _pixels(strip: Strip) -> int:
    return math.prod(part.stop - part.start for part in strip.to_target)


def _refusal(choices: list[Needs], recipe: Recipe, tile: Tile) -> str:
    least = min(choices, key=lambda needs: needs.worker)
    workers = least.workers
    assert workers.memory is not None
    fixed = GPU_CONTEXT if workers.device == "gpu" else INTERPRETER
    room = FULL * workers.memory - fixed - workers.threads * least.task
    finding = (
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
    return f"{finding}; expected {', or '.join(changes)}, or more memory"


def _needs(scan: xr.Dataset, tiling: Tiling, workers: Workers, recipe: Recipe, residency: Residency) -> Needs:
    streamed, merges = residency.streamed, residency.merges_at_once
    counts = _counts_itemsize(scan)
    frame = math.prod(tiling.frame_shape)
    pixels = [len(tile) * frame for tile in tiling.tiles]
    windows = [math.prod(tile.window.shape) for tile in tiling.tiles]
    wave = COMPLEX * recipe.modes
    passes = 2 if recipe.recovers else 1
    travelling = tiling.strips_between_workers(workers.count)
    images = sum(windows) * _image_bytes(recipe, residency)
    held = 0 if residency.images_on_disk else images
    held += sum(parameter.nbytes(len(tile)) for parameter in recipe.parameters for tile in tiling.tiles)
    if not streamed or workers.device == "gpu":
        held += _pair_bytes(tiling, recipe)
    # A sweep leaves a stack while the one before still stands.
    held += sum(pixels) * ((0 if streamed else counts) + (2 * wave if recipe.has_stack else 0))
    # An update of the model waits for all tiles.
    wait = recipe.recovers and not residency.waves_twice
    waiting = sum(pixels) * (wave if wait else COMPLEX if recipe.method == "full" else 0)
    waiting += len(pixels) * sum(
        parameter.sum_bytes(frame, recipe.modes)
        for parameter in recipe.parameters
        if parameter.schedule is not None
    )
    inside = (COMPLEX if recipe.method is not None else 0) + (wave if wait else 0)
    if streamed:
        # Counts as read, and a copy in the order of the forward; then this copy and the weighted frames.
        inside = counts + max(counts, inside)
    batch = 0
    if workers.device == "gpu" and workers.memory is not None:
        # Exit waves of a batch of frames; on a CPU they fit into the cache.
        batches = GPU_BATCHES + sum(parameter.batches for parameter in recipe.parameters)
        batch = batches * min(max(pixels) * wave, int(GPU_SHARE * workers.memory))
    # Images inside a task; more where it measures products of the pairs of L-BFGS.
    inner_images = (3 if merges else 4) + (5 if recipe.pairs else 0)
    return Needs(
        workers=workers,
        tiles=len(tiling.tiles),
        frames=len(tiling.corner),
        tile_frames=max(map(len, tiling.tiles)),
        amplitudes=FLOAT * sum(pixels),
        residency=residency,
        held=held,
        # Overlap sums lie there until their tile and its neighbours are merged.
        on_disk=images + sum(windows) * COMPLEX if residency.images_on_disk else 0,
        disk_traffic=_disk_traffic(tiling, recipe) if residency.images_on_disk else 0,
        waiting=waiting,
        task=max(pixels) * inside + batch + inner_images * COMPLEX * max(windows),
        read=sum(pixels) * scan["intensity"].dtype.itemsize * (passes if streamed else 0),
        strips=sum(map(_pixels, travelling)) * (COMPLEX + (FLOAT if recipe.recovers else 0)),
        # Tasks of a sweep and of the one before: two for each tile, six if the model is updated, one more if
        # images are merged by tasks of their own, and one for all strips from one worker to another.
        bookkeeping=2
        * BOOKKEEPING
        * (passes * _count_ways(tiling, workers.count) + (4 * passes - 2 + merges) * len(tiling.tiles)),
        result=math.prod(tiling.window.shape) * (COMPLEX + FLOAT),
    )


def _image_bytes(recipe: Recipe, residency: Residency) -> int:
    """Bytes for a pixel of a tile's window: overlap sums or images, and illuminations, of two sweeps."""
    # A merge needs the image that its sweep began with, and momentum an earlier one besides. Overlap sums
    # keep both for each of the two sweeps.
    sweeps = 1 if residency.merges_at_once else 2
    images = 2 + sweeps * (1 + recipe.momentum)
    if recipe.pairs:
        # The pairs, and the object and its change of each of two sweeps; a sweep adds its sums, with and
        # without phases, and the newest pair before the oldest is dropped.
        images = 2 * recipe.pairs + 10 + residency.merges_at_once
    # One more, to go back to if the run diverges.
    return (images + 1) * COMPLEX + (2 if recipe.recovers else 1) * FLOAT


def _disk_traffic(tiling: Tiling, recipe: Recipe) -> int:
    """Bytes of images that are written and read in a sweep that synchronises, if they are on disk."""
    pixels = sum(math.prod(tile.window.shape) for tile in tiling.tiles)
    # For a strip, whole rows of the neighbour's image are read.
    cut = sum(
        (strip.from_source[0].stop - strip.from_source[0].start) * tiling.tiles[strip.source].window.width
        for strip in tiling.strips
    )
    passes = 2 if recipe.recovers else 1
    # The overlap sum, the start of the sweep and the merged image are written. Each pass over frames reads
    # the image and, with momentum, the one before. The Gramian, G and the merge read the illumination, the
    # latter two the overlap sums with their strips, and the merge the start.
    of_pixel = 6 * COMPLEX + passes * (2 if recipe.momentum else 1) * COMPLEX + 3 * FLOAT
    of_strip = 2 * COMPLEX
    if recipe.recovers:
        # The new illumination is written, read with its strips, and written with the sum.
        of_pixel += 3 * FLOAT
        of_strip += FLOAT
    return pixels * of_pixel + cut * of_strip


def count_sweep_tasks(
    scan: xr.Dataset,
    tiling: Tiling,
    recipe: Recipe,
    *,
    residency: Residency = Residency.HELD,
    workers: int = 1,
) -> int:
    """Count the tasks of a sweep that synchronises, with those that cut strips for other workers."""
    model = Model(recipe.parameters)
    layout = lay_out(scan, tiling, model, recipe.method, residency=residency)
    shared = place({Probe.name: np.ones((recipe.modes, *tiling.frame_shape), dtype=np.complex64)})
    state = begin_uniform(layout, shared, [{} for _ in tiling.tiles], None)
    how = Synchronisation(Sync(recipe.method), None if recipe.method is None else "degree")
    settings = SweepSettings(
        algorithm=LBFGS(recipe.pairs) if recipe.pairs else RAAR() if recipe.has_stack else AP(),
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
    """Tasks of a sweep in which workers cut what they send each other: strips, reports to the first."""
    cuts = _count_ways(tiling, workers) * (2 if recipe.recovers else 1)
    away = min(workers, len(tiling.tiles)) - 1
    if recipe.pairs:
        # What each tile measured for the step of L-BFGS.
        return cuts + away * (1 + (recipe.method == "full"))
    return cuts + away * (recipe.recovers + (recipe.method != "two-level"))


def _count_ways(tiling: Tiling, workers: int) -> int:
    """Number of ways from one worker to another that strips take."""
    tiles = len(tiling.tiles)
    return len(
        {
            tuple(assign_worker(tile, tiles, workers) for tile in (strip.source, strip.target))
            for strip in tiling.strips_between_workers(workers)
        }
    )
