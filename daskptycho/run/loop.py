"""The loop of a run: one sweep after the other, the standing between sweeps, and the progress for callbacks.

The loop itself handles only scalars. Images, frames and the values of the model stay on the workers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import to_host
from daskptycho.cluster.allocator import release_free_memory
from daskptycho.errors import ScanError
from daskptycho.graph import MovingReport, Report, merge_images, sweep
from daskptycho.model.momentum import next_momentum
from daskptycho.model.probe import Probe, orthogonalise_modes
from daskptycho.run.memory import Needs
from daskptycho.run.options import RunOptions
from daskptycho.run.preview import Preview, make_preview
from daskptycho.run.result import assemble_canvas
from daskptycho.sync.options import Cadence
from daskptycho.sync.positions import Pace
from daskptycho.tasks.layout import Layout
from daskptycho.tasks.spec import find_workers_of, task, values_in
from daskptycho.tasks.state import State, SweepSettings
from daskptycho.tasks.waiting import compute, persist
from daskptycho.tiling import Tiling, Window

__all__ = ["Loop", "Progress", "Standing", "SweepRecord"]


@dataclass
class Progress:
    """The progress of a run after a sweep, which `reconstruct` and `resume` pass to their callback.

    Its methods can be called only inside the callback, since the run replaces the image in its next sweep.

    Attributes
    ----------
    sweep : int
        Number of sweeps done.
    residual : float
        R2 = ``sum (|Fz| - a)^2 / sum a^2`` of the waves at the start of the sweep.
    disagreement : float
        1 - lambda, where lambda is the largest eigenvalue of the normalised Gramian: zero if all frames
        agree. NaN if the sweep did not synchronise.
    spread : float
        Root mean square of the phases found, in radians. NaN if the sweep did not synchronise.
    seconds : float
        Time that the sweep took.
    options : RunOptions
        The options of the run, with defaults resolved.
    """

    sweep: int
    residual: float
    disagreement: float
    spread: float
    seconds: float
    options: RunOptions = field(repr=False)
    _layout: Layout = field(repr=False)
    _state: State | None = field(repr=False)

    def object(self) -> NDArray[np.complex64]:
        """Compute the current object on the whole canvas.

        Returns
        -------
        (y, x) complex64 array

        Raises
        ------
        RuntimeError
            The callback has returned already, and the image of its sweep is gone.
        """
        return assemble_canvas(self.tiling, merge_images(self._layout, self._current()))

    def preview(self, most: int = 600, window: Window | None = None) -> Preview:
        """Compute the current object with fewer pixels. Workers send only means over blocks of pixels.

        Parameters
        ----------
        most : int
            Most pixels along a side of the preview.
        window : Window, optional
            A part of the canvas; all of it by default.

        Returns
        -------
        Preview
            ``image``, (y, x) complex64, and ``illumination``, (y, x) float32: means over blocks of
            ``step`` x ``step`` pixels.

        Raises
        ------
        RuntimeError
            As for `object`.
        """
        state = self._current()
        illuminations = [tile.illumination for tile in state.tiles]
        return make_preview(self.tiling, merge_images(self._layout, state), illuminations, most, window)

    @property
    def tiling(self) -> Tiling:
        """The canvas and the tiles of the run."""
        return self._layout.tiling

    def homes(self) -> list[str]:
        """Address of a worker that holds the data of each tile; empty strings without a cluster."""
        return find_workers_of(list(values_in([tile.illumination for tile in self._current().tiles])))

    def probe(self) -> NDArray[np.complex64]:
        """Fetch the current probe, in orthogonal modes of decreasing power.

        Returns
        -------
        (mode, y, x) complex64 array

        Raises
        ------
        RuntimeError
            As for `object`.
        """
        return orthogonalise_modes(compute(task(_take, self._current().shared, Probe.name)))

    def _current(self) -> State:
        if self._state is None:
            raise RuntimeError(f"the image of sweep {self.sweep} is gone; ask for it inside the callback")
        return self._state

    def expire(self) -> None:
        """Release the state, once the run continues after the callback."""
        self._state = None


def _take(values: dict[str, Any], name: str) -> NDArray:
    value: NDArray = to_host(values[name])
    return value


class SweepRecord(NamedTuple):
    """The scalars of a sweep that are kept in the history of a run; see `Progress`."""

    residual: float
    disagreement: float
    spread: float
    seconds: float
    significance: float = np.nan
    """T of the positions; NaN if the sweep did not test them. See `sync.positions.Moves`."""
    moved: float = 0.0
    """How far frames moved after the sweep: root mean square along an axis, in pixels."""


@dataclass(frozen=True)
class Standing:
    """The standing of a run between two sweeps: all that the next sweep depends on.

    Attributes
    ----------
    state : State
        Image, probe and all other data on the workers.
    cadence : Cadence
        When to synchronise next.
    step : float or None
        t of Nesterov's sequence; None before its first step.
    history : tuple of SweepRecord
        One record for each sweep done.
    pace : Pace or None
        When to update positions next; None if they are not refined.
    """

    state: State
    cadence: Cadence
    step: float | None = None
    history: tuple[SweepRecord, ...] = ()
    pace: Pace | None = None

    @property
    def sweep(self) -> int:
        """Number of sweeps done."""
        return len(self.history)


@dataclass(frozen=True)
class Loop:
    """The loop over the sweeps of a run, with all that does not change from sweep to sweep.

    Attributes
    ----------
    options : RunOptions
    layout : Layout
    needs : Needs
        The estimate of the memory that the run needs.
    counts : float
        ``sum a^2`` over all valid pixels of all frames.
    """

    options: RunOptions
    layout: Layout
    needs: Needs
    counts: float

    def finished(self, standing: Standing) -> bool:
        """Whether all sweeps are done or the residual is below the tolerance."""
        history, tolerance = standing.history, self.options.tolerance
        if len(history) >= self.options.sweeps:
            return True
        return bool(history) and tolerance is not None and history[-1].residual < tolerance

    def settings(self, standing: Standing) -> tuple[SweepSettings, float | None]:
        """The settings of the coming sweep, and t of Nesterov's sequence after it."""
        options, history, pace = self.options, standing.history, standing.pace
        opening = options.opening if standing.cadence.growing else None
        step = standing.step
        momentum = 0.0 if options.momentum == "nesterov" or opening else float(options.momentum)
        if options.momentum == "nesterov" and history and opening is None:
            # A slow drift of the frames looks like rest. Momentum does not pause while they move.
            last = 2 if standing.pace is not None and standing.pace.moving else 3
            step, momentum = next_momentum(step, [done.residual for done in history[-last:]])
        settings = SweepSettings(
            algorithm=opening or options.algorithm,
            how=standing.cadence.coming(),
            counts=self.counts,
            momentum=momentum,
            keeps_image=options.momentum != 0,
            due=self.layout.model.due(standing.sweep + 1),
            pace=pace if pace is not None and pace.due() and opening is None else None,
        )
        return settings, step

    def advance(self, standing: Standing) -> Standing:
        """The standing after one more sweep.

        Raises
        ------
        ScanError
            The residual is not finite.
        """
        begun = time.perf_counter()
        settings, step = self.settings(standing)
        state, pending = persist(sweep(self.layout, standing.state, settings))
        try:
            report: Report | MovingReport = compute(pending)
        except BaseException:
            # A traceback would keep references to them, so that their tasks would go on running in vain.
            del state, pending
            raise
        residual = report.misfit / self.counts
        if not np.isfinite(residual):
            raise ScanError(
                f"the residual of sweep {standing.sweep + 1} is not finite: the reconstruction diverged; "
                "check positions and probe, or try a smaller momentum"
            )
        if self.layout.residency.streamed:
            release_free_memory()
        seconds = time.perf_counter() - begun
        moves = (report.significance, report.moved) if isinstance(report, MovingReport) else ()
        record = SweepRecord(residual, report.disagreement, report.spread, seconds, *moves)
        cadence = standing.cadence.after(residual, report.spread, report.localisation)
        history, pace = (*standing.history, record), standing.pace
        if pace is not None:
            pace = pace.after([done.residual for done in history[-2:]], record.significance)
        return Standing(state, cadence, step, history, pace)

    def progress(self, standing: Standing) -> Progress:
        """The progress of a run at a standing, for its callback."""
        done = standing.history[-1]
        return Progress(
            *(standing.sweep, done.residual, done.disagreement, done.spread, done.seconds),
            *(self.options, self.layout, standing.state),
        )
