"""The part of a sweep's graph that fits a varying probe: sums of each tile, then one task for all."""

from __future__ import annotations

from typing import Any

from daskptycho.backend import to_device_of, to_host
from daskptycho.model.model import TileModel
from daskptycho.model.probe import Probe
from daskptycho.model.probe_variation import ProbeVariation, ProbeWeight
from daskptycho.model.sweep import TileSweep
from daskptycho.sync.frame_graph import Frames
from daskptycho.sync.variation import Modes, TileWeightSums, Variation, find_variation
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.positions import count_lit
from daskptycho.tasks.spec import Value, task
from daskptycho.tasks.state import State, SweepSettings

__all__ = ["refine_weights"]

Array = Any


def _sums(
    data: TileData, swept: TileSweep, at: TileModel, before: dict[str, Array], illumination: Array
) -> TileWeightSums:
    force, matrix = (to_host(of) for of in swept.sums[ProbeWeight.name])
    lit = count_lit(data, at.inverse_illumination(illumination[...]) > 0)
    values = at.own[ProbeWeight.name], before[ProbeWeight.name][:, 0]
    return TileWeightSums(*values, force, matrix, swept.misfit, lit)


def _find(
    shared: tuple[dict[str, Array], ...],
    sums: list[TileWeightSums],
    frames: Frames,
    smooth: float | None,
    holds_mean: bool,
    opens_above: float,
) -> Variation:
    modes = Modes(*(to_host(values[ProbeVariation.name][0]) for values in shared))
    probe = to_host(shared[-1][Probe.name][0])
    how: dict[str, Any] = {"smooth": smooth, "holds_mean": holds_mean, "opens_above": opens_above}
    return find_variation(sums, probe, modes, frames, **how)


def _take_modes(shared: dict[str, Array], found: Variation) -> dict[str, Array]:
    return shared | {ProbeVariation.name: to_device_of(found.modes, shared[ProbeVariation.name])}


def _take_weights(data: TileData, own: dict[str, Array], found: Variation) -> dict[str, Array]:
    return own | {ProbeWeight.name: found.weights[data.tile.frames]}


def refine_weights(
    layout: Layout,
    before: State,
    shared: Value,
    swept: list[Value],
    models: list[TileModel],
    settings: SweepSettings,
) -> tuple[Value, list[Value], Value]:
    """Fit the weights of a varying probe, before the frames of a sweep are weighed with it.

    Parameters
    ----------
    layout : Layout
    before : State
        The state before the sweep.
    shared : Value
        The shared parameters, updated by the sweep.
    swept : list of Value
        The `TileSweep` of each tile, with the sums of `ProbeWeight`.
    models : list of TileModel
        The models of the sweep.
    settings : SweepSettings

    Returns
    -------
    shared : Value
        The same with the modes in their order.
    own : list of Value
        For each tile a dictionary of the values of its frames.
    found : Value
        The `Variation`.
    """
    (variation,) = (own for own in layout.model.parameters if isinstance(own, ProbeVariation))
    (probe,) = (own for own in layout.model.parameters if isinstance(own, Probe))
    illuminations = [tile.illumination for tile in before.tiles]
    own = [tile.own for tile in before.tiles]
    inputs = zip(layout.tiles, swept, models, own, illuminations, strict=True)
    sums = [task(_sums, *of_tile) for of_tile in inputs]
    values = before.shared, models[0].shared, shared
    how = variation.smooth, probe.recovered, settings.variation_opens_above
    found = task(_find, values, sums, layout.frames, *how)
    own = [task(_take_weights, data, at.own, found) for data, at in zip(layout.tiles, models, strict=True)]
    return task(_take_modes, shared, found), own, found
