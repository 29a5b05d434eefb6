"""The loop of a run: one sweep after the other, what is known after each, and where the run stands.

`run` and `resume` drive it, `checkpoint` keeps where it stands. The loop sees scalars alone:
images, frames and probes stay where Dask keeps them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import to_host
from daskptycho.cluster.allocator import give_back
from daskptycho.errors import ScanError
from daskptycho.graph import Report, State, sweep
from daskptycho.model.algorithms import next_momentum
from daskptycho.model.probe import orthogonal_modes
from daskptycho.run.memory import Needs
from daskptycho.run.options import RunOptions
from daskptycho.run.preview import Preview, make_preview
from daskptycho.run.result import assemble
from daskptycho.sync.phases import Cadence
from daskptycho.tasks.plan import Plan
from daskptycho.tasks.spec import homes, task
from daskptycho.tasks.waiting import computed, persisted
from daskptycho.tiling import Tiling, Window

__all__ = ["Loop", "Progress", "Standing"]

# Sweeps before the probe begins to follow: the object's first guess would spoil a fair probe.
PROBE_WAIT = 1


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
    _tiling: Tiling = field(repr=False)
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
        return assemble(self._tiling, self._current().images)

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
            As of `object`.
        """
        state = self._current()
        return make_preview(self._tiling, state.images, state.illuminations, most, window)

    @property
    def tiling(self) -> Tiling:
        """The tiles of the run and the canvas."""
        return self._tiling

    def homes(self) -> list[str]:
        """Address of the worker that has the image of each tile; empty ones without a cluster."""
        return homes(self._current().images)

    def probe(self) -> NDArray[np.complex64]:
        """The current probe in orthogonal modes of falling power.

        Returns
        -------
        (mode, y, x) complex64 array

        Raises
        ------
        RuntimeError
            As of `object`.
        """
        return orthogonal_modes(computed(task(to_host, self._current().probe)))

    def _current(self) -> State:
        if self._state is None:
            raise RuntimeError(f"the image of sweep {self.sweep} is gone; ask for it inside the callback")
        return self._state


@dataclass(frozen=True)
class Standing:
    """Where a run stands between two sweeps: all that the next sweep depends on.

    Attributes
    ----------
    state : State or None
        None while its values are on their way back from a store.
    cadence : Cadence
    step : float or None
        Nesterov's t; None before his first step.
    history : tuple of Progress
    """

    state: State | None
    cadence: Cadence
    step: float | None = None
    history: tuple[Progress, ...] = ()

    @property
    def sweep(self) -> int:
        """Sweeps done."""
        return len(self.history)

    def moved(self, state: State | None) -> Standing:
        """The same standing with its values in another place."""
        if self.history:
            self.history[-1]._state = state
        return replace(self, state=state)


class Loop:
    """The sweeps of a run.

    Parameters
    ----------
    options : RunOptions
    plan : Plan
    needs : Needs
        What the plan takes of the workers.
    counts : float
        sum a^2 over all valid pixels.
    standing : Standing
        Where to begin. It is replaced as a whole after each sweep, so that whoever interrupts
        a sweep finds the standing before it.
    """

    def __init__(
        self, options: RunOptions, plan: Plan, needs: Needs, counts: float, standing: Standing
    ) -> None:
        self.options = options
        self.plan = plan
        self.needs = needs
        self.counts = counts
        self.standing = standing

    def finished(self) -> bool:
        """Whether all sweeps are done or the residual has fallen below the tolerance."""
        history, tolerance = self.standing.history, self.options.tolerance
        if len(history) >= self.options.sweeps:
            return True
        return bool(history) and tolerance is not None and history[-1].residual < tolerance

    def drive(self, callback: Callable[[Progress], Any] | None, between: Callable[[], Any]) -> None:
        """Sweep until finished or the callback returns True; call `between` between two sweeps."""
        while not self.finished():
            self.advance()
            if callback is not None and callback(self.standing.history[-1]):
                return
            if not self.finished():
                between()

    def advance(self) -> None:
        """One sweep.

        Raises
        ------
        ScanError
            The residual is not finite.
        """
        options, standing = self.options, self.standing
        assert standing.state is not None
        begun = time.perf_counter()
        history = standing.history
        cadence = copy.copy(standing.cadence)
        opening = options.opening if cadence.growing else None
        step = standing.step
        momentum = 0.0 if options.momentum == "nesterov" or opening else float(options.momentum)
        if options.momentum == "nesterov" and history and opening is None:
            step, momentum = next_momentum(step, [done.residual for done in history[-3:]])
        number = standing.sweep + 1
        state, report = persisted(
            sweep(
                self.plan,
                standing.state,
                opening or options.algorithm,
                counts=self.counts,
                sync=options.sync,
                normalisation=cadence.normalisation if cadence.due() else None,
                momentum=momentum,
                update_probe=options.update_probe and number > PROBE_WAIT,
            )
        )
        try:
            found: Report = computed(report)
        except BaseException:
            # A traceback would keep the sweep's tasks going, for which nobody waits any more.
            del state, report
            raise
        residual = found.misfit / self.counts
        if not np.isfinite(residual):
            raise ScanError(
                f"the residual of sweep {number} is not finite: the reconstruction diverged; "
                "check positions and probe, or try a smaller momentum"
            )
        cadence.swept(residual, found.spread, found.localisation)
        seconds = time.perf_counter() - begun
        known = (number, residual, found.consensus, found.spread, seconds)
        progress = Progress(*known, options, self.plan.tiling, state)
        self.standing = Standing(state, cadence, step, (*history, progress))
        if history:
            # An older state is nobody's any more: let go of its images.
            history[-1]._state = None
        if self.plan.streamed:
            give_back()
