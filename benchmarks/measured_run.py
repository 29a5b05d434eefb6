"""One reconstruction of a simulated scan, with its error after each sweep and where its time went."""

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
from daskptycho.sync import two_level

# Tasks by the start of their keys (daskptycho/tasks/blockwise.py and exact.py), where H is over all tiles: its
# eigenproblem is one task, or steps on blocks.
EIGENSOLVER_TASKS = (
    *("solve", "row_sums", "pair_up", "begin", "multiply", "advance", "conclude", "extract_phases"),
)
GRAMIAN_TASKS = ("border", "ground", "block_values", "block_matrix")
# Functions inside a tile's own task, where each tile has its own H (daskptycho/sync/two_level.py).
EIGENSOLVER_WITHIN = ("normalise", "solve")
GRAMIAN_WITHIN = ("block_values",)


@dataclass(frozen=True)
class MeasuredRun:
    """Errors after each sweep, and seconds."""

    error: np.ndarray
    weighted_error: np.ndarray
    seconds: float
    """Of the sweeps."""
    tasks: float
    """Of all tasks; above `seconds` where several ran at once."""
    eigensolver: float
    gramian: float

    def sweeps_to(self, target: float, *, weighted: bool = False) -> int | None:
        """First sweep whose error is at most `target`."""
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
def _timed_within(spent: dict[str, float]) -> Iterator[None]:
    """Note the seconds of functions that are part of a tile's task."""

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent[name] += time.perf_counter() - begun

        return call

    with ExitStack() as stack:
        for name in (*EIGENSOLVER_WITHIN, *GRAMIAN_WITHIN):
            own = timed(name, getattr(two_level, name))
            stack.enter_context(mock.patch.object(two_level, name, own))
        yield


def measured_run(
    scan: xr.Dataset, sweeps: int, *, stop_at: float = 0.0, weighted: bool = False, **options: Any
) -> MeasuredRun:
    """Reconstruct with the probe known; stop once the error, plain or weighted, is at most `stop_at`."""
    truth = scan["truth_object"].values
    once = dp.reconstruct(scan, sweeps=1, update_probe=False, sync=dp.Sync(method=None))
    weight = once["illumination"].values
    error: list[float] = []
    weighted_error: list[float] = []

    def note(progress: dp.Progress) -> bool:
        image = progress.object()
        error.append(dp.relative_error(image, truth))
        weighted_error.append(dp.relative_error(image, truth, weight))
        return (weighted_error if weighted else error)[-1] <= stop_at

    spent: dict[str, float] = defaultdict(float)
    with Profiler() as profiler, _timed_within(spent):
        result = dp.reconstruct(scan, sweeps=sweeps, update_probe=False, callback=note, **options)
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
