"""The part of a sweep's graph for ``Sync("full")``: H over all frames, its eigenvector, and all phases.

Like `arrays`, it uses the dask arrays of `blockwise`. Here their chunks are the results of tasks of the
sweep.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import dask.core
import numpy as np
from dask.task_spec import DataNode, GraphNode, TaskRef
from numpy.typing import NDArray

from daskptycho.model.model import TileModel
from daskptycho.model.operators import overlap
from daskptycho.model.sweep import OverlapSum, TileSweep
from daskptycho.sync.gramian import GramianBlock
from daskptycho.sync.phases import Phases, keep_significant
from daskptycho.tasks.blockwise import Ground, find_phases, gramian_of_blocks
from daskptycho.tasks.chunks import chunk_objects
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.spec import Value, flatten, task
from daskptycho.tasks.state import State, SweepSettings, model_on_tiles
from daskptycho.tiling import Shape

__all__ = ["find_all_phases", "turn_frames"]

Array = Any


def _frames(swept: TileSweep) -> Array:
    return swept.left.frames


def _power(swept: TileSweep) -> Array:
    return swept.left.power


def _ground(data: TileData, illumination: Array, at: TileModel) -> Ground:
    return Ground(at.locate(data.tile).corner, at.inverse_illumination(illumination[...]))


def _bind(chunks: Sequence[Value]) -> tuple[Any, dict[Any, Value]]:
    """Make a dask array of placeholders for these values, which `_values_of` puts in their place."""
    # The tokens make its name unique, and with it the names of all arrays derived from it.
    array = chunk_objects([f"{uuid.uuid4().hex}-{number}" for number in range(len(chunks))])
    return array, dict(zip(dask.core.flatten(array.__dask_keys__()), chunks, strict=True))


def _values_of(array: Any, bound: Mapping[Any, Value]) -> list[Value]:
    """The chunks of a dask array as values, with the values of `_bind` in place of its placeholders."""
    graph = dict(array.__dask_graph__())
    dependencies = {key: dask.core.get_dependencies(graph, key) for key in graph}
    done: dict[Any, Value] = dict(bound)
    # One after the other: the steps of a solver are a chain longer than a function may call itself.
    for key in dask.core.toposort(graph, dependencies=dependencies):
        if key in done:
            continue
        node = graph[key]
        if (other := _alias_of(node, graph)) is not None:
            done[key] = done[other]
            continue
        needs = list(dependencies[key])
        values = [done[own] for own in needs]
        if isinstance(node, GraphNode):
            keys = {need: value.key for need, value in zip(needs, values, strict=True) if need != value.key}
            node = node.substitute(keys) if keys else node
        elif not needs:
            node = DataNode(key, node)
        # It runs at the home of the first tile that it needs, like other tasks.
        home = min((value.home for value in values if value.home is not None), default=None)
        done[key] = Value(key, node, tuple(values), home)
    return [done[key] for key in dask.core.flatten(array.__dask_keys__())]


def _alias_of(node: Any, graph: Mapping[Any, Any]) -> Any:
    """The key that a node of a dask array is an alias of, in any of Dask's notations; else None."""
    target = getattr(node, "target", None)
    target = target.key if isinstance(target, TaskRef) else target
    if isinstance(node, GraphNode) and target is not None:
        return target
    return node if isinstance(node, tuple) and not callable(node[0]) and node in graph else None


def _corners_on_canvas(data: TileData, at: TileModel) -> NDArray[np.int64]:
    tile = at.locate(data.tile)
    corner: NDArray[np.int64] = tile.corner + np.array([tile.window.y, tile.window.x])
    return corner


def _renew_offset(block: GramianBlock, rows: NDArray, columns: NDArray, period: Shape | None) -> GramianBlock:
    return block.at(rows, columns, period)


def _renew_offsets(layout: Layout, models: list[TileModel]) -> list[Value]:
    """The blocks of H with their pairs where frames are now; frames only move within their reach."""
    if not layout.model.moves_frames:
        return layout.blocks
    corners = [task(_corners_on_canvas, *of_tile) for of_tile in zip(layout.tiles, models, strict=True)]
    period = layout.tiling.period
    return [
        task(_renew_offset, pairs, corners[block.row], corners[block.column], period)
        for pairs, block in zip(layout.blocks, layout.outline, strict=True)
    ]


def find_all_phases(layout: Layout, swept: list[Value], after: State, settings: SweepSettings) -> Value:
    """Find the `Phases` of all frames from the weighted frames of a sweep.

    Parameters
    ----------
    layout : Layout
    swept : list of Value
        The `TileSweep` of each tile, which holds `Weighted` frames.
    after : State
        The model after the sweep, and its illumination.
    settings : SweepSettings
    """
    how = settings.how
    assert how.normalisation is not None
    models = model_on_tiles(layout, after.shared, [tile.own for tile in after.tiles])
    illuminations = [tile.illumination for tile in after.tiles]
    grounds = [task(_ground, *of_tile) for of_tile in zip(layout.tiles, illuminations, models, strict=True)]
    frames, bound_frames = _bind([task(_frames, of_tile) for of_tile in swept])
    ground, bound_grounds = _bind(grounds)
    power, bound_power = _bind([task(_power, of_tile) for of_tile in swept])
    blocks, bound_blocks = _bind(_renew_offsets(layout, models))
    meta = np.empty(0, dtype=np.complex128)
    h = gramian_of_blocks(frames, ground, power, blocks, layout.outline, meta, layout.parts)
    found = find_phases(h, how.sync, how.normalisation)
    (value,) = _values_of(found, {**bound_frames, **bound_grounds, **bound_power, **bound_blocks})
    return value


def _keep_significant(found: Phases, reports: list[Any], settings: SweepSettings) -> Phases:
    if not settings.how.only_significant:
        return found
    return keep_significant(found, sum(report.misfit for report in flatten(reports)) / settings.counts)


def _turn(data: TileData, swept: TileSweep, at: TileModel, found: Phases) -> TileSweep:
    tile, phase = at.locate(data.tile), found.phase[data.tile.frames].copy()
    turned = overlap(swept.left.frames, tile.corner, tile.window.shape, phase)
    return swept._replace(left=OverlapSum(turned, phase), sums={})


def turn_frames(
    layout: Layout,
    swept: list[Value],
    after: State,
    found: Value,
    reports: list[Value],
    settings: SweepSettings,
) -> tuple[list[Value], Value]:
    """Multiply frames by their phases, if these are significant, and compute the overlap sums.

    Parameters
    ----------
    layout : Layout
    swept : list of Value
        The `TileSweep` of each tile, which holds `Weighted` frames.
    after : State
        The model after the sweep.
    found : Value
        `Phases` of all frames.
    reports : list of Value
        Values with the ``misfit`` of each tile, which decides whether the phases are significant.
    settings : SweepSettings

    Returns
    -------
    swept : list of Value
        The `TileSweep` of each tile, which holds an `OverlapSum`.
    phases : Value
        The `Phases` found, or ones if they are not significant.
    """
    phases = task(_keep_significant, found, reports, settings)
    turn = layout.storing(_turn)
    models = model_on_tiles(layout, after.shared, [tile.own for tile in after.tiles])
    return [task(turn, *of_tile, phases) for of_tile in zip(layout.tiles, swept, models, strict=True)], phases
