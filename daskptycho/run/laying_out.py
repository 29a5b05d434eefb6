"""The setting of a run, and from it the estimate of memory, the layout on the workers and the first state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from daskptycho.cluster.allocator import release_memory_at_once
from daskptycho.cluster.client import current_client
from daskptycho.cluster.workers import Workers
from daskptycho.errors import FaultError, OptionError, ScanError
from daskptycho.model.background import Background
from daskptycho.model.forward import choose_forward
from daskptycho.model.model import Model, choose_model
from daskptycho.run.fitting import fit_options, fit_tiles
from daskptycho.run.loop import Loop
from daskptycho.run.memory import Needs
from daskptycho.run.options import RunOptions
from daskptycho.run.standing import Standing
from daskptycho.run.start import RandomPhases, begin_random, begin_uniform, place_values
from daskptycho.scan.dataset import frame_numbers, fresnel_kernel
from daskptycho.scan.parts import has_parts
from daskptycho.sync.options import Cadence, Synchronisation
from daskptycho.tasks.frames import measure_counts
from daskptycho.tasks.layout import confirm_layout, lay_out
from daskptycho.tasks.reports import Report
from daskptycho.tasks.spec import task
from daskptycho.tasks.waiting import OutOfMemory, compute, persist
from daskptycho.tiling import Tiling

__all__ = ["Setting", "choose_setting"]

# The R2 that counting leaves above which gains are not refined.
MOST_NOISE_OF_GAINS = 0.05
# The R2 that counting leaves above which a run has no opening from a constant object, but a polish of counts.
NOISY = 1e-3


@dataclass(frozen=True)
class Setting:
    """All that a run is laid out from. If workers are lost, it is laid out from it again.

    Attributes
    ----------
    scan : xarray.Dataset
    tiling : Tiling
    options : RunOptions
    workers : Workers
    model : Model
    first : dictionary
        First values of the model's parameters, by name.
    image : (y, x) array or None
        The object to begin with, on the canvas; None for ones or for random phases.
    """

    scan: xr.Dataset
    tiling: Tiling
    options: RunOptions
    workers: Workers
    model: Model
    first: dict[str, NDArray]
    image: NDArray | None = None

    def join_tiles(self) -> Setting:
        """The same setting, with tiles that are joined as far as memory allows."""
        given = (self.scan, self.tiling, self.workers, self.options, self.model.parameters, self.modes)
        return replace(self, tiling=fit_tiles(*given))

    def lay_out(self, earlier: Loop | None = None, same: Mapping[int, int] | None = None) -> Loop:
        """Lay out the run on the workers, and make its loop.

        Parameters
        ----------
        earlier : Loop, optional
            The loop of a run with fewer frames of the same scan.
        same : dictionary, optional
            For tiles that are the same as in `earlier`, their numbers there.

        Raises
        ------
        OptionError
            The run does not fit into the memory of the workers, or Poisson's likelihood is asked for without
            counts.
        ScanError
            All counts are zero, or some are negative or not finite.
        FaultError
            A worker or this process ran out of memory.
        """
        options, needs = fit_options(
            *(self.scan, self.tiling, self.workers, self.options, self.model.parameters, self.modes)
        )
        try:
            return self._make_loop(options, needs, earlier, same)
        except OutOfMemory as error:
            raise FaultError(f"{error}; {needs.explain()}") from error

    def _make_loop(
        self, options: RunOptions, needs: Needs, earlier: Loop | None, same: Mapping[int, int] | None
    ) -> Loop:
        if needs.residency.streamed and current_client() is None:
            release_memory_at_once()
        if earlier is None or same is None or earlier.layout.residency is not needs.residency:
            same = {}
        known = {} if earlier is None else {tile: earlier.layout.tiles[old] for tile, old in same.items()}
        layout = persist(
            lay_out(
                *(self.scan, self.tiling, self.model, options.sync.method),
                residency=needs.residency,
                device=self.workers.device,
                earlier=known,
            )
        )
        counted = {} if earlier is None else {tile: earlier.measured[old] for tile, old in same.items()}
        new = [index for index in range(len(self.tiling.tiles)) if index not in counted]
        found = compute([task(measure_counts, layout.amplitudes[index]) for index in new])
        counted |= dict(zip(new, found, strict=True))
        measured = [counted[index] for index in range(len(self.tiling.tiles))]
        of_tiles, expected = ([of_tile[part] for of_tile in measured] for part in (0, 1))
        counts = float(sum(of_tiles))
        if not counts > 0 or not np.isfinite(counts):
            found = "no counts at all" if counts == 0 else "NaN, infinity or negative counts"
            raise ScanError(f"intensity holds {found}; expected diffraction frames")
        in_parts = options.sync.method == "two-level" and has_parts(self.tiling)
        of_counts = None if np.isnan(expected).any() else sum(expected) / counts
        if of_counts is None and options.likelihood == "poisson":
            raise OptionError(
                "likelihood is 'poisson', and the frames hold fractions; expected counts, or 'amplitude'"
            )
        noisy = of_counts is not None and of_counts > NOISY
        if noisy:
            # Reflections would find an image that fits the noise.
            options = replace(options, opening_sweeps=0)
        if options.polish == "auto" and options.likelihood == "amplitude" and not noisy:
            # With less noise than that, the prior of the polish blurs fine detail and gains nothing.
            options = replace(options, polish_sweeps=0)
        confirmed = persist(confirm_layout(layout, of_tiles))
        return Loop(options, confirmed, needs, counts, in_parts, of_counts, measured)

    @property
    def modes(self) -> int:
        """Number of probe modes, and of exit waves of each frame."""
        return len(self.first["probe"])

    def first_values(self, loop: Loop) -> dict[str, NDArray]:
        """The values of the model's parameters for the first sweep, by name."""
        frames = len(self.tiling.corner)
        # What the sample has sent.
        light = loop.counts - frames * float(self.first.get(Background.name, np.zeros(1)).sum(dtype=float))
        if not light > 0:
            raise ScanError(
                f"background has {(loop.counts - light) / frames:.3g} counts in a frame, where frames have "
                f"{loop.counts / frames:.3g} on average; expected less"
            )
        return {
            parameter.name: parameter.begin(self.first[parameter.name], light, frames)
            for parameter in self.model.parameters
        }

    def begin(self, loop: Loop) -> Standing:
        """Make the standing before the first sweep."""
        layout, options = loop.layout, self.options
        shared, own = place_values(layout, self.first_values(loop))
        # Where counting leaves so much of R2, it would pass for an unsteady beam.
        gains = options.gain_pace() if (loop.expected or 0) < MOST_NOISE_OF_GAINS else None
        growing = options.start == "random" and options.sync.method is not None
        cadence = Cadence.begin(options.sync, growing=growing)
        if options.start != "random":
            state = persist(begin_uniform(layout, shared, own, self.image))
            return Standing(state, cadence, pace=options.pace(), gain_pace=gains)
        numbers = frame_numbers(self.scan)
        phases = RandomPhases(options.seed, [numbers[tile.frames] for tile in self.tiling.tiles])
        how = Synchronisation(options.sync, cadence.normalisation if growing else None)
        state, pending = persist(begin_random(layout, shared, own, phases, how))
        report: Report = compute(pending)
        if growing:
            cadence = cadence.after(1.0, report.spread, report.localisation)
        return Standing(state, cadence, pace=options.pace(), gain_pace=gains)


def choose_setting(
    scan: xr.Dataset,
    tiling: Tiling,
    options: RunOptions,
    workers: Workers,
    *,
    probe: ArrayLike | None = None,
    modes: Any = None,
    image: NDArray | None = None,
) -> Setting:
    """Choose the model of a run and its first values.

    Parameters
    ----------
    scan : xarray.Dataset
    tiling : Tiling
    options : RunOptions
    workers : Workers
    probe, modes
        See `reconstruct`.
    image : (y, x) array, optional
        The object to begin with, on the canvas.

    Raises
    ------
    OptionError, ScanError
        A first value of a parameter is impossible.
    """
    forward = choose_forward(fresnel_kernel(scan.attrs, tiling.frame_shape))
    model_options = {
        "update_probe": options.update_probe,
        "probe": probe,
        "modes": modes,
        "fractional": options.positions is not None or not all(tile.is_whole_pixel for tile in tiling.tiles),
        "refine": options.refine,
    }
    model, first = choose_model(scan, model_options, forward)
    return Setting(scan, tiling, options, workers, model, first, image)
