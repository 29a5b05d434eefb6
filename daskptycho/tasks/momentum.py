"""The part of a sweep's graph that extrapolates parameters of the model, in a sweep with momentum."""

from __future__ import annotations

from typing import Any

from daskptycho.model.parameter import Parameter
from daskptycho.tasks.layout import Layout
from daskptycho.tasks.spec import Value, task
from daskptycho.tasks.state import State, SweepSettings

__all__ = ["extrapolate_values"]

Array = Any


def _extrapolate(
    parameters: tuple[Parameter, ...],
    values: dict[str, Array],
    previous: dict[str, Array],
    settings: SweepSettings,
) -> dict[str, Array]:
    return values | {
        own.name: own.extrapolate(values[own.name], previous.get(own.name), settings.momentum)
        for own in parameters
        if own.name in settings.due
    }


def extrapolate_values(
    layout: Layout, state: State, placed: Value, settings: SweepSettings
) -> tuple[Value, list[Any]]:
    """The values that a sweep with momentum starts from: shared ones, and those of each tile's frames."""
    model, own = layout.model, [tile.own for tile in state.tiles]
    shared = task(_extrapolate, model.shared, state.shared, state.previous_shared, placed)
    if any(parameter.name in settings.due for parameter in model.per_frame):
        own = [task(_extrapolate, model.per_frame, of_tile, {}, placed) for of_tile in own]
    return shared, own
