"""Fits the options of a run into memory: without room, the opening and the pairs of L-BFGS shrink."""

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
from daskptycho.tasks.layout import Residency
from daskptycho.tiling import Tiling

__all__ = ["describe_method", "fit_options"]


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
