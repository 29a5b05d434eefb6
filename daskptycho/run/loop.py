"""The loop of a run: one sweep after the other, what is known after each, and where the run stands.

The loop sees only scalars: images, frames and the values of the model stay where Dask keeps them.
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
from daskptycho.graph import Report, merge_images, sweep
from daskptycho.model.momentum import next_momentum
from daskptycho.model.probe import Probe, orthogonalise_modes
from daskptycho.run.memory import Needs
from daskptycho.run.options import RunOptions
from daskptycho.run.preview import Preview, make_preview
from daskptycho.run.result import assemble_canvas
from daskptycho.sync.options import Cadence
from daskptycho.tasks.layout import Layout
from daskptycho.tasks.spec import find_workers_of, task, values_in
from daskptycho.tasks.state import State, SweepSettings
from daskptycho.tasks.waiting import compute, persist
from daskptycho.tiling import Tiling, Window

__all__ = ["Loop", "Progress", "Standing", "SweepRecord"]


@dataclass
class Progress:
    """What a callback sees after each sweep.

    Attributes
    ----------
    sweep : int
        Sweeps done.
    residual : float
        R2 = ``sum (|Fz| - a)^2 / sum a^2`` of the waves that the sweep began with.
    consensus : float
        1 - lambda; NaN where the sweep did not synchronise.
    spread : float
        Root mean square of the phases found, radians; NaN likewise.
    seconds : float
        Time of this sweep.
    options : RunOptions
        Of the run, as checked.
    """

    sweep: int
    residual: float
    consensus: float
    spread: float
    seconds: float
    options: RunOptions = field(repr=False)
    _layout: Layout = field(repr=False)
    _state: State | None = field(repr=False)

    def object(self) -> NDArray[np.complex64]:
        """The current image on the whole canvas, computed now.

        Returns
        -------
        (y, x) complex64 array

        Raises
        ------
        RuntimeError
            The callback has returned already: the image of an older sweep is gone.
        """
        return assemble_canvas(self.tiling, merge_images(self._layout, self._current()))

    def preview(self, most: int = 600, window: Window | None = None) -> Preview:
        """The current image, thinned out beside the tiles, so that only what can be seen travels.

        Parameters
        ----------
        most : int
            Pixels along a side at most.
        window : Window, optional
            A part of the canvas; all of it unless given.

        Returns
        -------
        Preview
            ``image``, (y, x) complex64, and ``illumination``: means over blocks of ``step`` pixels a side.

        Raises
        ------
        RuntimeError
            As for `object`.
        """
        state = self._current()
        lit = [tile.illumination for tile in state.tiles]
        return make_preview(self.tiling, merge_images(self._layout, state), lit, most, window)

    @property
    def tiling(self) -> Tiling:
        """The tiles of the run and the canvas."""
        return self._layout.tiling

    def homes(self) -> list[str]:
        """Address of the worker that has the image of each tile; empty ones without a cluster."""
        return find_workers_of(list(values_in([tile.illumination for tile in self._current().tiles])))

    def probe(self) -> NDArray[np.complex64]:
        """The current probe in orthogonal modes of falling power.

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
        """Release the state: a later sweep has one of its own."""
        self._state = None


def _take(values: dict[str, Any], name: str) -> NDArray:
    found: NDArray = to_host(values[name])
    return found


class SweepRecord(NamedTuple):
    """What is known of a sweep for ever."""

    residual: float
    consensus: float
    spread: float
    seconds: float


@dataclass(frozen=True)
class Standing:
    """Where a run stands between two sweeps: all that the next sweep depends on.

    Attributes
    ----------
    state : State
    cadence : Cadence
    step : float or None
        Nesterov's t; None before his first step.
    history : tuple of SweepRecord
    """

    state: State
    cadence: Cadence
    step: float | None = None
    history: tuple[SweepRecord, ...] = ()

    @property
    def sweep(self) -> int:
        """Sweeps done."""
        return len(self.history)


@dataclass(frozen=True)
class Loop:
    """The sweeps of a run: what they have in common.

    Attributes
    ----------
    options : RunOptions
    layout : Layout
    needs : Needs
        What the layout takes of the workers.
    counts : float
        sum a^2 over all valid pixels.
    """

    options: RunOptions
    layout: Layout
    needs: Needs
    counts: float

    def finished(self, standing: Standing) -> bool:
        """Whether all sweeps are done or the residual has fallen below the tolerance."""
        history, tolerance = standing.history, self.options.tolerance
        if len(history) >= self.options.sweeps:
            return True
        return bool(history) and tolerance is not None and history[-1].residual < tolerance

    def settings(self, standing: Standing) -> tuple[SweepSettings, float | None]:
        """What the coming sweep does, and Nesterov's t after it."""
        options, history = self.options, standing.history
        opening = options.opening if standing.cadence.growing else None
        step = standing.step
        momentum = 0.0 if options.momentum == "nesterov" or opening else float(options.momentum)
        if options.momentum == "nesterov" and history and opening is None:
            step, momentum = next_momentum(step, [done.residual for done in history[-3:]])
        settings = SweepSettings(
            algorithm=opening or options.algorithm,
            how=standing.cadence.coming(),
            counts=self.counts,
            momentum=momentum,
            keeps_image=options.momentum != 0,
            due=self.layout.model.due(standing.sweep + 1),
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
        state, report = persist(sweep(self.layout, standing.state, settings))
        try:
            found: Report = compute(report)
        except BaseException:
            # A traceback would keep the sweep's tasks going, for which nobody waits any more.
            del state, report
            raise
        residual = found.misfit / self.counts
        if not np.isfinite(residual):
            raise ScanError(
                f"the residual of sweep {standing.sweep + 1} is not finite: the reconstruction diverged; "
                "check positions and probe, or try a smaller momentum"
            )
        if self.layout.residency.streamed:
            release_free_memory()
        seconds = time.perf_counter() - begun
        record = SweepRecord(residual, found.consensus, found.spread, seconds)
        cadence = standing.cadence.after(residual, found.spread, found.localisation)
        return Standing(state, cadence, step, (*standing.history, record))

    def progress(self, standing: Standing) -> Progress:
        """What a callback sees of a standing."""
        return Progress(standing.sweep, *standing.history[-1], self.options, self.layout, standing.state)
