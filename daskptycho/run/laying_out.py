"""What a run is laid out from, and how: its memory estimated, its layout on the workers, its first state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from daskptycho.cluster.allocator import release_memory_at_once
from daskptycho.cluster.client import current_client
from daskptycho.cluster.workers import Workers
from daskptycho.errors import ScanError
from daskptycho.graph import Report
from daskptycho.model.forward import choose_forward
from daskptycho.model.model import Model, choose_model
from daskptycho.run.loop import Loop, Standing
from daskptycho.run.memory import estimate_needs
from daskptycho.run.options import RunOptions
from daskptycho.run.start import RandomPhases, begin_random, begin_uniform, place_values
from daskptycho.scan.dataset import frame_numbers, fresnel_kernel
from daskptycho.sync.options import Cadence, Synchronisation
from daskptycho.tasks.frames import total_counts
from daskptycho.tasks.layout import confirm_layout, lay_out
from daskptycho.tasks.spec import task
from daskptycho.tasks.waiting import compute, persist
from daskptycho.tiling import Tiling

__all__ = ["Setting", "choose_setting"]


@dataclass(frozen=True)
class Setting:
    """What a run is laid out from, again wherever all workers were lost.

    Attributes
    ----------
    scan : xarray.Dataset
    tiling : Tiling
    options : RunOptions
    workers : Workers
    model : Model
    first : dictionary
        First values of the model's parameters.
    image : (y, x) array or None
        The object to begin with, on the canvas; ones, or random phases, without it.
    """

    scan: xr.Dataset
    tiling: Tiling
    options: RunOptions
    workers: Workers
    model: Model
    first: dict[str, NDArray]
    image: NDArray | None = None

    def lay_out(self) -> Loop:
        """The loop of the run, its layout on the workers.

        Raises
        ------
        OptionError
            It does not fit there.
        ScanError
            There are no counts, or some that cannot be.
        """
        options, device = self.options, self.workers.device
        recipe = options.recipe(self.modes, self.model.parameters)
        needs = estimate_needs(self.scan, self.tiling, self.workers, recipe)
        if needs.residency.streamed and current_client() is None:
            release_memory_at_once()
        layout = persist(
            lay_out(
                *(self.scan, self.tiling, self.model, options.sync.method),
                residency=needs.residency,
                device=device,
            )
        )
        of_tiles = compute([task(total_counts, of_tile) for of_tile in layout.amplitudes])
        counts = float(sum(of_tiles))
        if not counts > 0 or not np.isfinite(counts):
            found = "no counts at all" if counts == 0 else "NaN, infinity or negative counts"
            raise ScanError(f"intensity holds {found}; expected diffraction frames")
        return Loop(options, persist(confirm_layout(layout, of_tiles)), needs, counts)

    @property
    def modes(self) -> int:
        """Waves of each frame: one for each mode of the probe."""
        return len(self.first["probe"])

    def begin(self, loop: Loop) -> Standing:
        """Where the run begins, no sweep done."""
        layout, options = loop.layout, self.options
        frames = len(self.tiling.corner)
        first = {
            own.name: own.begin(self.first[own.name], loop.counts, frames) for own in self.model.parameters
        }
        shared, own = place_values(layout, first)
        growing = options.start == "random" and options.sync.method is not None
        cadence = Cadence.begin(options.sync, growing=growing)
        if options.start != "random":
            return Standing(persist(begin_uniform(layout, shared, own, self.image)), cadence)
        numbers = frame_numbers(self.scan)
        phases = RandomPhases(options.seed, [numbers[tile.frames] for tile in self.tiling.tiles])
        how = Synchronisation(options.sync, cadence.normalisation if growing else None)
        state, report = persist(begin_random(layout, shared, own, phases, how))
        found: Report = compute(report)
        return Standing(state, cadence.after(1.0, found.spread, found.localisation) if growing else cadence)


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
    """What a run of these options is laid out from.

    Raises
    ------
    OptionError, ScanError
        First values of the model's parameters that cannot be.
    """
    forward = choose_forward(fresnel_kernel(scan.attrs, tiling.frame_shape))
    given = {
        "update_probe": options.update_probe,
        "probe": probe,
        "modes": modes,
        "fractional": not all(tile.is_whole_pixel for tile in tiling.tiles),
    }
    model, first = choose_model(scan, given, forward)
    return Setting(scan, tiling, options, workers, model, first, image)
