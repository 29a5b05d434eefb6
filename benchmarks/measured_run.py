"""One reconstruction of a simulated scan, with its error after each sweep and where its time went."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from dask.diagnostics import Profiler

import daskptycho as dp

# Tasks by the start of their keys (daskptycho/phase_graph.py).
EIGENSOLVER = ("solve-assembled", "row", "first-vector", "power-step", "collect-vector")
GRAMIAN = ("border-frames", "block")


@dataclass(frozen=True)
class MeasuredRun:
    """Errors after each sweep, and seconds."""

    error: np.ndarray
    weighted_error: np.ndarray
    seconds: float
    eigensolver: float
    gramian: float

    def sweeps_to(self, target: float, *, weighted: bool = False) -> int | None:
        """First sweep whose error is at most `target`."""
        error = self.weighted_error if weighted else self.error
        below = np.flatnonzero(error <= target)
        return int(below[0]) + 1 if len(below) else None

    @property
    def eigensolver_share(self) -> float:
        return self.eigensolver / self.seconds

    @property
    def gramian_share(self) -> float:
        return self.gramian / self.seconds


def measured_run(scan: xr.Dataset, sweeps: int, *, stop_at: float = 0.0, **options: Any) -> MeasuredRun:
    """Reconstruct with the probe known; stop once the plain error is at most `stop_at`."""
    truth = scan["truth_object"].values
    once = dp.reconstruct(scan, sweeps=1, update_probe=False, sync=dp.Sync(method=None))
    weight = once["illumination"].values
    error, weighted = [], []

    def note(progress: dp.Progress) -> bool:
        image = progress.object()
        error.append(dp.relative_error(image, truth))
        weighted.append(dp.relative_error(image, truth, weight))
        return bool(min(error[-1], weighted[-1]) <= stop_at)

    with Profiler() as profiler:
        result = dp.reconstruct(scan, sweeps=sweeps, update_probe=False, callback=note, **options)
    spent: dict[str, float] = defaultdict(float)
    for task in profiler.results:
        spent[str(task.key).rsplit("-", 1)[0]] += task.end_time - task.start_time
    return MeasuredRun(
        np.array(error),
        np.array(weighted),
        float(result["seconds"].sum()),
        sum(spent[name] for name in EIGENSOLVER),
        sum(spent[name] for name in GRAMIAN),
    )
