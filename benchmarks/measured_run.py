"""Measure one reconstruction of a simulated scan: its error after each sweep, and what took its time."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import xarray as xr
from dask.diagnostics import Profiler
from dask.utils import key_split

import daskptycho as dp
from daskptycho.sync import parts, two_level

# Tasks by the beginning of their keys (daskptycho/tasks/blockwise.py and exact.py), if H is over all tiles.
# The eigenproblem is one task, or steps on blocks.
EIGENSOLVER_TASKS = (
    *("solve", "row_sums", "locate", "begin", "multiply", "advance", "conclude", "extract_phases"),
)
GRAMIAN_TASKS = ("border", "ground", "block_values", "block_matrix")
# Functions inside the task of a tile, if each tile has its own H (daskptycho/sync/parts.py and two_level.py).
EIGENSOLVER_WITHIN = ("normalise", "solve")
GRAMIAN_WITHIN = ("block_values",)


@dataclass(frozen=True)
class MeasuredRun:
    """Errors after each sweep, and the seconds spent."""

    error: np.ndarray
    weighted_error: np.ndarray
    seconds: float
    """Seconds of the sweeps."""
    tasks: float
    """Seconds of all tasks; more than `seconds` if several ran at once."""
    eigensolver: float
    gramian: float

    def sweeps_to(self, target: float, *, weighted: bool = False) -> int | None:
        """First sweep whose error is at most `target`; None if there is none."""
        error = self.weighted_error if weighted else self.error
        below = np.flatnonzero(error <= target)
        return int(below[0]) + 1 if len(below) else None

    @property
    def eigensolver_share(self) -> float:
        return self.eigensolver / self.tasks

    @property
    def gramian_share(self) -> float:
        return self.gramian / self.tasks


@contextmanager
def _time_functions(spent: dict[str, float]) -> Iterator[None]:
    """Add up the seconds of functions that are part of the task of a tile."""

    def time_calls(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent[name] += time.perf_counter() - start

        return call

    with ExitStack() as stack:
        for module, names in ((parts, EIGENSOLVER_WITHIN), (two_level, GRAMIAN_WITHIN)):
            for name in names:
                replacement = time_calls(name, getattr(module, name))
                stack.enter_context(mock.patch.object(module, name, replacement))
        yield


def measure_run(
    scan: xr.Dataset,
    sweeps: int,
    *,
    stop_at: float = 0.0,
    weighted: bool = False,
    well_lit: bool = False,
    **options: Any,
) -> MeasuredRun:
    """Reconstruct with a known probe; stop when the error, plain or weighted, is at most `stop_at`.

    With `well_lit`, the plain error is that of the pixels that get a tenth of the most light.
    """
    truth = scan["truth_object"].values
    once = dp.reconstruct(scan, sweeps=1, update_probe=False, sync=dp.Sync(method=None))
    weight = once["illumination"].values
    bright = weight >= 0.1 * weight.max() if well_lit else np.ones_like(weight)
    error: list[float] = []
    weighted_error: list[float] = []

    def keep_errors(progress: dp.Progress) -> bool:
        image = progress.object()
        error.append(dp.relative_error(image, truth, bright))
        weighted_error.append(dp.relative_error(image, truth, weight))
        return (weighted_error if weighted else error)[-1] <= stop_at

    spent: dict[str, float] = defaultdict(float)
    with Profiler() as profiler, _time_functions(spent):
        result = dp.reconstruct(scan, sweeps=sweeps, update_probe=False, callback=keep_errors, **options)
    of_tasks: dict[str, float] = defaultdict(float)
    for task in profiler.results:
        of_tasks[key_split(task.key)] += task.end_time - task.start_time
    return MeasuredRun(
        np.array(error),
        np.array(weighted_error),
        float(result["seconds"].sum()),
        sum(of_tasks.values()),
        sum(of_tasks[name] for name in EIGENSOLVER_TASKS) + sum(spent[name] for name in EIGENSOLVER_WITHIN),
        sum(of_tasks[name] for name in GRAMIAN_TASKS) + sum(spent[name] for name in GRAMIAN_WITHIN),
    )
