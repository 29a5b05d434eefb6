"""Models, layouts, states and sweeps of the small scans of `tests.plain`, in the package's own functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.graph import sweep
from daskptycho.model.algorithms import AP, RAAR, Algorithm, DifferenceMap
from daskptycho.model.forward import FarField
from daskptycho.model.model import Model, TileModel, choose_model
from daskptycho.model.sweep import OverlapSum
from daskptycho.run.result import assemble_canvas, show_lit
from daskptycho.run.start import RandomPhases, begin_random, begin_uniform, place_values
from daskptycho.sync.options import Normalisation, Sync, Synchronisation
from daskptycho.tasks.frames import total_counts
from daskptycho.tasks.layout import Layout, Method, Residency, lay_out
from daskptycho.tasks.reports import Report
from daskptycho.tasks.spec import Value, task, values_in
from daskptycho.tasks.state import State, Stepped, SweepSettings, Unmerged, merge_images
from daskptycho.tasks.waiting import compute, persist
from daskptycho.tiling import Tile
from tests import plain

# Eigenvectors to the last digit, so that nothing depends on where a solver stopped.
FULL = Sync("full", iterations=300, every=1)
PROBE = frozenset({"probe"})
ALGORITHMS: list[Algorithm] = [AP(), RAAR(), RAAR(beta=0.5), RAAR(beta=1.0), DifferenceMap()]


# The model on a tile


class Chosen(NamedTuple):
    """A model, and the first values of its parameters by name."""

    model: Model
    first: dict[str, NDArray]


def choose(ds: xr.Dataset, *, update_probe: bool = False, probe: NDArray | None = None) -> Chosen:
    """The model of a scan in the far field."""
    fractional = not plain.tiling_of(ds).tiles[0].is_whole_pixel
    options = {"update_probe": update_probe, "probe": probe, "fractional": fractional}
    return Chosen(*choose_model(ds, options, FarField()))


def on_tile(
    ds: xr.Dataset, tile: Tile, *, due: Iterable[str] = (), probe: NDArray | None = None
) -> TileModel:
    """The model of a scan with its first values on one tile; `due` names those whose sums are taken."""
    model, first = choose(ds, update_probe=bool(due), probe=probe)
    shared = {own.name: first[own.name] for own in model.shared}
    of_frames = {own.name: first[own.name][tile.frames] for own in model.per_frame}
    return TileModel(model, shared, of_frames, frozenset(due))


# Layouts and states


def lay_out_scan(
    ds: xr.Dataset,
    chunks: tuple[int, ...],
    method: Method = "full",
    *,
    residency: Residency = Residency.HELD,
    update_probe: bool = False,
) -> Layout:
    """The layout of a scan in tiles of these numbers of frames, computed."""
    model = choose(ds, update_probe=update_probe).model
    lazy, tiling = ds.chunk({"frame": chunks}), plain.tiling_of(ds, chunks)
    return persist(lay_out(lazy, tiling, model, method, residency=residency))


def place_first_values(
    layout: Layout, ds: xr.Dataset, probe: NDArray | None = None
) -> tuple[Value, list[Any]]:
    """The first values of the shared parameters, and of those that each tile has for its frames."""
    return place_values(layout, choose(ds, probe=probe).first)


def begin(
    layout: Layout, ds: xr.Dataset, image: NDArray | None = None, probe: NDArray | None = None
) -> State:
    """The state before the first sweep, from ones or from an object on the canvas; not computed yet."""
    return begin_uniform(layout, *place_first_values(layout, ds, probe), image)


def begin_with_random_phases(
    layout: Layout, ds: xr.Dataset, how: Synchronisation, *, seed: int = 5, numbers: NDArray | None = None
) -> tuple[State, Value]:
    """The state of a random start, and its report; not computed yet."""
    numbers = np.arange(ds.sizes["frame"]) if numbers is None else numbers
    phases = RandomPhases(seed, [numbers[tile.frames] for tile in layout.tiling.tiles])
    return begin_random(layout, *place_first_values(layout, ds), phases, how)


def images_on_canvas(layout: Layout, state: State) -> NDArray:
    """The object of a state on the whole canvas, where it is lit."""
    illuminations = [tile.illumination for tile in state.tiles]
    return assemble_canvas(layout.tiling, show_lit(merge_images(layout, state), illuminations, state.shared))


# Sweeps


def choose_settings(
    layout: Layout,
    algorithm: Algorithm = AP(),  # noqa: B008
    *,
    sync: Sync = FULL,
    normalisation: Normalisation | None = "degree",
    momentum: float = 0.0,
    update_probe: bool = False,
    **options: Any,
) -> SweepSettings:
    """What a sweep does; it synchronises by degrees unless told otherwise."""
    given: dict[str, Any] = {
        "algorithm": algorithm,
        "how": Synchronisation(sync, normalisation if sync.method else None),
        "counts": sum(compute([task(total_counts, own) for own in layout.amplitudes])),
        "momentum": momentum,
        "keeps_image": momentum != 0,
        "due": PROBE if update_probe else frozenset(),
    }
    return SweepSettings(**given | options)


@dataclass
class Swept:
    """What some sweeps over a scan have found."""

    image: NDArray
    illumination: NDArray
    probe: NDArray
    reports: list[Report]
    phases: NDArray | None
    """Of all frames, where the last sweep synchronised them exactly."""


def sweep_scan(
    ds: xr.Dataset,
    chunks: tuple[int, ...],
    sweeps: int = 2,
    algorithm: Algorithm = AP(),  # noqa: B008
    *,
    start: str = "ones",
    probe: NDArray | None = None,
    sync: Sync = FULL,
    residency: Residency = Residency.HELD,
    **options: Any,
) -> Swept:
    """Some sweeps over the tiles of a scan."""
    updates = options.get("update_probe", False)
    layout = lay_out_scan(ds, chunks, sync.method, residency=residency, update_probe=updates)
    settings = choose_settings(layout, algorithm, sync=sync, **options)
    reports = []
    if start == "random":
        state, report = persist(begin_with_random_phases(layout, ds, settings.how))
        reports.append(compute(report))
    else:
        state = persist(begin(layout, ds, probe=probe))
    for _ in range(sweeps):
        state, report = persist(sweep(layout, state, settings))
        reports.append(compute(report))
    return Swept(
        images_on_canvas(layout, state),
        assemble_canvas(layout.tiling, [tile.illumination for tile in state.tiles]),
        compute(state.shared)["probe"],
        reports,
        phases_of_frames(state),
    )


def phases_of_frames(state: State) -> NDArray | None:
    """The phases by which an exact synchronisation turned each frame in the last sweep."""
    images = [own.image.turned if isinstance(own.image, Stepped) else own.image for own in state.tiles]
    swept = [own.swept for own in images if isinstance(own, Unmerged)]
    left = [own.left for own in compute(swept)]
    phases = [own.phase for own in left if isinstance(own, OverlapSum) and own.phase is not None]
    return np.concatenate(phases) if phases else None


# Graphs


def new_tasks(content: Any, given: Any) -> dict[str, Any]:
    """The tasks that the values in `content` need and those in `given` do not, by key."""
    known = _values_needed(given)
    return {key: value.node for key, value in _values_needed(content).items() if key not in known}


def _values_needed(content: Any) -> dict[str, Value]:
    found: dict[str, Value] = {}
    pending = list(values_in(content))
    while pending:
        value = pending.pop()
        if value.key not in found:
            found[value.key] = value
            pending.extend(value.needs)
    return found
