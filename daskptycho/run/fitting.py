"""Fits a run into memory: without room, tiles stay as they are stored, the opening and L-BFGS shrink."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import xarray as xr

from daskptycho.cluster.workers import Workers
from daskptycho.errors import OptionError
from daskptycho.model.algorithms import AP, LBFGS
from daskptycho.model.parameter import Parameter
from daskptycho.run.memory import Needs, estimate_needs
from daskptycho.run.options import RunOptions
from daskptycho.scan.tiles import join_consecutive, lay_out_tiles
from daskptycho.tasks.layout import Residency
from daskptycho.tiling import Tiling

__all__ = ["describe_method", "fit_options", "fit_tiles"]

# Detector pixels of a tile that is joined from stored ones, times the modes of the probe: two seconds of a
# core for a sweep. The smaller ones are tried where memory has no room.
JOINED_PIXELS = (2**26, 2**25, 2**24)
# Least numbers of tiles that are left, in all and for each thread, so that all have about equal shares.
LEAST_TILES, LEAST_OF_THREAD = 16, 4


def _smaller(options: RunOptions, *, recovers: bool) -> Iterator[RunOptions]:
    """The options, and what needs less and less memory: no opening, fewer pairs, no L-BFGS.

    L-BFGS is for the object alone: where the model recovers other parameters, momentum takes its place. The
    likelihood of counts needs L-BFGS.
    """
    without = replace(options, algorithm=AP(), momentum="nesterov", opening_sweeps=0, polish_sweeps=0)
    if isinstance(options.algorithm, LBFGS) and recovers:
        yield without
        return
    yield options
    if options.opening_sweeps and options.opening is not None and options.opening.has_stack:
        options = replace(options, opening_sweeps=0)
        yield options
    if isinstance(options.algorithm, LBFGS):
        for pairs in range(options.algorithm.pairs - 1, 0, -1):
            yield replace(options, algorithm=LBFGS(pairs))
        if options.likelihood == "amplitude":
            yield without


def fit_options(
    scan: xr.Dataset,
    tiling: Tiling,
    workers: Workers,
    options: RunOptions,
    parameters: tuple[Parameter, ...],
    modes: int,
) -> tuple[RunOptions, Needs]:
    """Fit the options of a run into memory, and estimate what it then needs.

    Everything in memory with fewer pairs is better than more pairs with frames that are read in each sweep.

    Raises
    ------
    OptionError
        The run does not fit with the least of these options.
    """
    refused: OptionError | None = None
    recovers = options.recipe(modes, parameters).recovers
    for most in (Residency.HELD, None):
        for smaller in _smaller(options, recovers=recovers):
            recipe = smaller.recipe(modes, parameters)
            try:
                return smaller, estimate_needs(scan, tiling, workers, recipe, only=most)
            except OptionError as error:
                refused = error
    assert refused is not None
    raise refused


def fit_tiles(
    scan: xr.Dataset,
    tiling: Tiling,
    workers: Workers,
    options: RunOptions,
    parameters: tuple[Parameter, ...],
    modes: int,
) -> Tiling:
    """Join the tiles of a scan into larger ones, so that a sweep has few tasks, as far as memory allows.

    Nothing else may suffer: the run has no less of its options in memory than with the tiles of the scan, and
    each thread has its share. The number of workers and threads does not matter up to four.
    """
    least = max(LEAST_TILES, LEAST_OF_THREAD * workers.count * workers.threads)
    if len(tiling.tiles) <= least:
        return tiling

    def rank(own: Tiling) -> tuple[int, ...]:
        """The less the run has in memory, the larger."""
        try:
            fitted, needs = fit_options(scan, own, workers, options, parameters, modes)
        except OptionError:
            return (2,)
        recovers = options.recipe(modes, parameters).recovers
        kept = list(_smaller(options, recovers=recovers)).index(fitted)
        return needs.residency is not Residency.HELD, kept, list(Residency).index(needs.residency)

    pixels, most_rank = tiling.frame_shape[0] * tiling.frame_shape[1], rank(tiling)
    for most in JOINED_PIXELS:
        chunks = join_consecutive(tiling, most // (pixels * modes), least)
        if len(chunks) == len(tiling.tiles):
            break
        whole, margin = not options.subpixel, options.margin(tiling.frame_shape)
        joined = lay_out_tiles(scan, chunks, whole_pixel=whole, margin=margin)
        if rank(joined) <= most_rank:
            return joined
    return tiling


def describe_method(fitted: RunOptions, asked: RunOptions) -> str:
    """The algorithm of a run and its opening in words, and what memory has no room for."""
    algorithm = fitted.algorithm
    opens = fitted.opening is not None and fitted.opening_sweeps
    words = algorithm.name
    if isinstance(algorithm, LBFGS):
        words = f"L-BFGS with {algorithm.pairs} {'pair' if algorithm.pairs == 1 else 'pairs'}"
        if opens and fitted.opening is not None:
            words += f", after {fitted.opening_sweeps} sweeps of {fitted.opening.name} at most"
    elif fitted.momentum:
        words += " with momentum"
    missing = []
    if asked.opening_sweeps and not fitted.opening_sweeps:
        missing.append("an opening")
    if isinstance(asked.algorithm, LBFGS) and fitted.algorithm != asked.algorithm:
        missing.append(f"{asked.algorithm.pairs} pairs of L-BFGS")
    return f"{words}; no room for {' and '.join(missing)}" if missing else words
