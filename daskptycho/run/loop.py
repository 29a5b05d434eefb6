"""The loop of a run: one sweep after the other, and the progress for callbacks.

The loop itself handles only scalars. Images, frames and the values of the model stay on the workers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import to_host
from daskptycho.cluster.allocator import release_free_memory
from daskptycho.errors import ScanError
from daskptycho.graph import sweep
from daskptycho.model.algorithms import Algorithm
from daskptycho.model.likelihood import Likelihood, Poisson, Stabilised
from daskptycho.model.momentum import next_momentum
from daskptycho.model.probe import Probe, orthogonalise_modes
from daskptycho.run.growth import Growth
from daskptycho.run.guard import ANCHOR_SWEEPS, Guard, drop_anchor, go_back, warn_of_return
from daskptycho.run.memory import Needs
from daskptycho.run.options import RunOptions
from daskptycho.run.preview import Preview, make_preview
from daskptycho.run.restart import begin_anew, has_to_begin_anew
from daskptycho.run.result import assemble_canvas, show_lit
from daskptycho.run.standing import Standing, SweepRecord
from daskptycho.sync.variation import opening_level
from daskptycho.tasks.layout import Layout
from daskptycho.tasks.reports import Report
from daskptycho.tasks.spec import Value, find_workers_of, task
from daskptycho.tasks.state import State, SweepSettings, light_tiles, merge_images
from daskptycho.tasks.waiting import compute, persist
from daskptycho.tiling import Tiling, Window

__all__ = ["Loop", "Progress"]

# The likelihood in a polish, by the option of the run.
POLISHES: dict[str, Likelihood] = {"amplitude": Stabilised(), "poisson": Poisson()}
# Weight of the penalty on differences of neighbouring pixels at the beginning of an opening.
SMOOTHING = 0.1

# A run is at rest if the least R2 fell by less than this share in this number of sweeps, and the object
# changes by less than this share a sweep, or less than counting allows to know.
REST_SWEEPS, REST_GAIN = 5, 1e-3
REST_CHANGE = 1e-6


@dataclass
class Progress:
    """The progress of a run after a sweep, which `reconstruct` and `resume` pass to their callback.

    In a run that follows a scan there is one more each time that tiles were taken up: with the numbers of the
    sweep before, and the image in which the new tiles are.

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
    growth : Growth or None
        How far the scan has grown, in a run that follows it.
    """

    sweep: int
    residual: float
    disagreement: float
    spread: float
    seconds: float
    options: RunOptions = field(repr=False)
    _layout: Layout = field(repr=False)
    _state: State | None = field(repr=False)
    growth: Growth | None = None

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
        return assemble_canvas(self.tiling, self._images())

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
        illuminations = [tile.illumination for tile in self._lit().tiles]
        return make_preview(self.tiling, self._images(), illuminations, most, window)

    def _images(self) -> list[Value]:
        state = self._lit()
        illuminations = [tile.illumination for tile in state.tiles]
        return show_lit(merge_images(self._layout, state), illuminations, state.shared)

    @property
    def tiling(self) -> Tiling:
        """The canvas and the tiles of the run."""
        return self._layout.tiling

    @property
    def total(self) -> int:
        """Number of sweeps of the whole run, if no more frames come."""
        return self.options.sweeps + (0 if self.growth is None else self.growth.stage)

    def homes(self) -> list[str]:
        """Address of a worker that holds the data of each tile; empty strings without a cluster."""
        # Where frames have moved, images are merged already, and the illumination is not known yet.
        tiles = self._current().tiles
        return find_workers_of(
            [tile.image if tile.illumination is None else tile.illumination for tile in tiles]
        )

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

    def _lit(self) -> State:
        if self._state is not None:
            self._state = light_tiles(self._layout, self._state)
        return self._current()

    def expire(self) -> None:
        """Release the state, once the run continues after the callback."""
        self._state = None


def _take(values: dict[str, Any], name: str) -> NDArray:
    value: NDArray = to_host(values[name])
    return value


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
    in_parts : bool
        Whether the frames of the scan or of a tile fall into parts.
    expected : float or None
        R2 that is expected with the true waves, from Poisson counts; None if the frames hold no counts.
    measured : sequence of (float, float)
        `measure_counts` of each tile.
    growth : Growth or None
        How far the scan has grown, in a run that follows it.
    """

    options: RunOptions
    layout: Layout
    needs: Needs
    counts: float
    in_parts: bool = False
    expected: float | None = None
    measured: Sequence[tuple[float, float]] = ()
    growth: Growth | None = None

    @property
    def is_last(self) -> bool:
        """Whether no more frames will come."""
        return self.growth is None or self.growth.ended

    def finished(self, standing: Standing) -> str | None:
        """What ends the run: "sweeps", "tolerance" or "divergence", if it came too often; None if nothing."""
        if not self.is_last:
            return None
        if standing.guard.exhausted:
            return "divergence"
        if len(standing.recent) >= self.options.sweeps:
            return "sweeps"
        if self.options.tolerance is None:
            return None
        polishes = self.options.polish_sweeps > 0
        reached = self._polished(standing) if polishes else self._within_tolerance(standing)
        return "tolerance" if reached else None

    def _polished(self, standing: Standing) -> bool:
        """Whether a polish is over; another one may follow if the run is continued with more sweeps."""
        begun = standing.polished_from
        return begun is not None and standing.sweep - begun >= self.options.polish_sweeps

    def _within_tolerance(self, standing: Standing) -> bool:
        history, tolerance = standing.recent, self.options.tolerance
        if not history or tolerance is None:
            return False
        if tolerance != "auto":
            return history[-1].residual < tolerance
        residuals = [done.residual for done in history[self.options.opening_sweeps :]]
        if len(residuals) < 2 * REST_SWEEPS or standing.cadence.growing or standing.waits:
            return False
        gained = min(residuals[-REST_SWEEPS:]) < (1 - REST_GAIN) * min(residuals[:-REST_SWEEPS])
        # Far less than the error that counting leaves.
        moves = standing.change > max(REST_CHANGE, 1e-2 * np.sqrt(self.expected or 0.0))
        return not gained and not moves

    def _polished_from(self, standing: Standing) -> int | None:
        """The number of sweeps after which the polish begins, if that is known."""
        options, begun = self.options, standing.polished_from
        if not options.polish_sweeps or standing.state.joined is None or not self.is_last:
            return None
        if begun is not None and (options.tolerance is not None or not self._polished(standing)):
            return begun
        last = options.sweeps - options.polish_sweeps <= len(standing.recent) < options.sweeps
        return standing.sweep if last or self._within_tolerance(standing) else begun

    def _due(self, standing: Standing, algorithm: Algorithm) -> frozenset[str]:
        """Names of the parameters that the coming sweep updates."""
        due = self.layout.model.due(standing.sweep + 1)
        if not algorithm.has_stack:
            return due
        # With reflections, what is compared with the frames are not the waves of the model.
        return due - {own.name for own in self.layout.model.parameters if not own.fits_reflections}

    def settings(self, standing: Standing) -> tuple[SweepSettings, float | None]:
        """The settings of the coming sweep, and t of Nesterov's sequence after it."""
        options, history, guard = self.options, standing.recent, standing.guard
        pace, gains = standing.pace, standing.gain_pace
        fades = len(history) < options.opening_sweeps
        opening = options.opening if standing.cadence.growing or fades else None
        fading = 1 - len(history) / options.opening_sweeps if fades else 0.0
        step = standing.step
        momentum = 0.0 if options.momentum == "nesterov" or opening else float(options.momentum)
        if options.momentum == "nesterov" and history and opening is None:
            # A slow drift looks like rest. Momentum does not pause while frames move or gains change.
            last = 2 if standing.drifts else 3
            step, momentum = next_momentum(step, [done.residual for done in history[-last:]])
        settings = SweepSettings(
            algorithm=guard.choose_algorithm(opening or options.algorithm),
            how=replace(standing.cadence.coming(), in_parts=self.in_parts),
            counts=self.counts,
            momentum=momentum * guard.share,
            keeps_image=options.momentum != 0,
            due=self._due(standing, opening or options.algorithm),
            smoothing=SMOOTHING * fading**2,
            measures_change=options.tolerance == "auto",
            share=guard.share,
            pace=pace if pace is not None and pace.due() and opening is None else None,
            gain_pace=gains if gains is not None and gains.due() and opening is None else None,
            variation_opens_above=opening_level([done.variation_significance for done in history]),
        )
        begun = standing.polished_from
        if begun is not None and not self._polished(standing):
            # Phases found in noise would spoil the polish.
            how = replace(settings.how, normalisation=None)
            settings = replace(settings, how=how, polish=POLISHES[options.likelihood])
        # What is made small is another, so that earlier steps do not tell anything.
        anew = begun is not None and standing.sweep in (begun, begun + options.polish_sweeps)
        measures = options.polish_sweeps > 0 and settings.polish is None
        settings = replace(settings, begins_anew=anew, measures_roughness=measures)
        return settings, step

    def advance(self, standing: Standing) -> Standing:
        """The standing after one more sweep; if that has diverged, a standing at the anchor.

        Raises
        ------
        ScanError
            The residual of the first guesses is not finite.
        """
        begun = time.perf_counter()
        settings, step = self.settings(standing)
        state, pending = persist(sweep(self.layout, standing.state, settings))
        try:
            report: Report = compute(pending)
        except BaseException:
            # A traceback would keep references to them, so that their tasks would go on running in vain.
            del state, pending
            raise
        residual = report.misfit / self.counts
        if self.layout.residency.streamed:
            release_free_memory()
        seconds = time.perf_counter() - begun
        # What was not tested has not moved.
        moved, changed = (0.0 if np.isnan(size) else size for size in (report.moved, report.gain_changed))
        varied = (report.variation_significance, report.variation_share)
        found = (report.significance, moved, report.gain_significance, changed, *varied)
        record = SweepRecord(residual, report.disagreement, report.spread, seconds, *found)
        # L-BFGS takes back steps that R2 rises by, and frames that move shorten theirs.
        reflects = settings.algorithm.has_stack or standing.cadence.growing or settings.pairs > 0
        history = (*standing.history, record)
        if standing.guard.has_diverged(
            len(history) - standing.stage, residual, reflects=reflects or standing.drifts
        ):
            return self._return(standing, history)
        cadence = standing.cadence.after(residual, report.spread, report.localisation)
        anchor, guard = standing.anchor, standing.guard.after(residual)
        if anchor is None or (standing.sweep % ANCHOR_SWEEPS == 0 and guard.is_calm(residual)):
            # The image that this sweep began with: R2 of the image that it leaves is not known yet.
            anchor = drop_anchor(self.layout, standing.state, standing.sweep)
        following = replace(
            standing, state=state, cadence=cadence, step=step, history=history, change=report.change
        )
        following = replace(following, guard=guard, anchor=anchor)
        if standing.pace is not None:
            pace = standing.pace.after([done.residual for done in history[-2:]], record.significance)
            following = replace(following, pace=pace)
        if standing.gain_pace is not None:
            following = replace(following, gain_pace=standing.gain_pace.after(record.gain_significance))
        if has_to_begin_anew(standing, following, self.options):
            following = begin_anew(self.layout, following, self.options)
        return replace(following, polished_from=self._polished_from(following))

    def _return(self, standing: Standing, history: tuple[SweepRecord, ...]) -> Standing:
        """The standing at the anchor, after a sweep that has diverged; the user is told."""
        residual, anchor = history[-1].residual, standing.anchor
        if anchor is None:
            raise ScanError(
                f"the residual of sweep {len(history)} is not finite: the first guesses cannot be compared "
                "with the frames; expected a finite probe and start of moderate size"
            )
        guard = Guard(returns=standing.guard.returns + 1)
        warn_of_return(len(history), residual, guard, anchor, is_last=self.is_last)
        state = go_back(self.layout, anchor)
        anew = Standing(state, standing.cadence, None, history, stage=standing.stage)
        pace, gains = standing.pace, standing.gain_pace
        return replace(
            anew,
            guard=guard,
            anchor=anchor,
            pace=None if pace is None else pace.after_return(),
            gain_pace=None if gains is None else gains.after_return(),
        )

    def progress(self, standing: Standing) -> Progress:
        """The progress of a run at a standing, for its callback."""
        done = standing.history[-1]
        return Progress(
            *(standing.sweep, done.residual, done.disagreement, done.spread, done.seconds),
            *(self.options, self.layout, standing.state),
            growth=None if self.growth is None else self.growth._replace(stage=standing.stage),
        )
