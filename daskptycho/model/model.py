"""The model of a run: a forward, a likelihood, and the parameters beside the object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from numpy.typing import NDArray

from daskptycho.backend import Device, to_device
from daskptycho.model import operators
from daskptycho.model.forward import FarField, Forward
from daskptycho.model.gain import Gain
from daskptycho.model.likelihood import Amplitude, Likelihood
from daskptycho.model.parameter import Parameter, View
from daskptycho.model.probe import Probe
from daskptycho.tiling import Tile

__all__ = ["PARAMETERS", "Model", "TileModel", "choose_model", "move_tile"]

Array = Any

# Every kind of parameter, in the order in which they change the view of a frame.
PARAMETERS: tuple[type[Parameter], ...] = (Gain, Probe)


@dataclass(frozen=True)
class Model:
    """What a run takes frames to be, and what of it is recovered.

    Attributes
    ----------
    parameters : tuple of Parameter
        Beside the object, which every model has; the probe is one of them.
    forward : Forward
    likelihood : Likelihood
    """

    parameters: tuple[Parameter, ...]
    forward: Forward = field(default_factory=FarField)
    likelihood: Likelihood = field(default_factory=Amplitude)

    @property
    def shared(self) -> tuple[Parameter, ...]:
        """The parameters that have one value for all frames."""
        return tuple(own for own in self.parameters if not own.per_frame)

    @property
    def per_frame(self) -> tuple[Parameter, ...]:
        """The parameters that have a value for each frame."""
        return tuple(own for own in self.parameters if own.per_frame)

    @property
    def recovers(self) -> bool:
        """Whether any parameter is updated in the course of a run."""
        return any(own.schedule is not None for own in self.parameters)

    def due(self, sweep: int) -> frozenset[str]:
        """Names of the parameters that a sweep, counted from one, updates."""
        return frozenset(
            own.name for own in self.parameters if own.schedule is not None and own.schedule.due(sweep)
        )

    def to(self, device: Device) -> Model:
        """The same model with its arrays on a device."""
        return replace(self, forward=self.forward.to(device))


def choose_model(scan: Any, options: Mapping[str, Any], forward: Forward) -> tuple[Model, dict[str, NDArray]]:
    """The model for a scan and the options of a run, and the first values of its parameters by name.

    Parameters
    ----------
    scan : xarray.Dataset
    options : mapping
        Each parameter takes its own: ``update_probe``, ``probe``, ``modes``, ``fractional`` are the probe's.
    forward : Forward

    Raises
    ------
    OptionError, ScanError
        A first value that cannot be.
    """
    chosen = [own for kind in PARAMETERS if (own := kind.choose(scan, options)) is not None]
    model = Model(tuple(parameter for parameter, _ in chosen), forward)
    return model, {parameter.name: first for parameter, first in chosen}


class TileModel(NamedTuple):
    """A model with the values that its parameters have on one tile."""

    model: Model
    shared: dict[str, Array]
    own: dict[str, Array]
    """Of the parameters with a value for each frame: those of the tile."""
    due: frozenset[str] = frozenset()
    """Names of the parameters that the sweep updates."""

    @property
    def probe(self) -> Array:
        """(mode, N, N), as it would be at a whole pixel and with a gain of one."""
        return self.shared[Probe.name]

    def value(self, parameter: Parameter) -> Array:
        """The tile's value of a parameter."""
        return (self.own if parameter.per_frame else self.shared)[parameter.name]

    def view(self, tile: Tile, frames: slice) -> View:
        """How some frames of the tile see the object."""
        view = View(tile.corner[frames], tile.fraction[frames])
        for parameter in self.model.parameters:
            value = self.value(parameter)
            view = parameter.see(value[frames] if parameter.per_frame else value, view)
        return view

    def inverse_illumination(self, illumination: Array) -> Array:
        """``1 / N`` on the tile's window, (y, x) float32; zero where it is dark."""
        return operators.inverse_illumination(illumination, self.probe)


def move_tile(tile: Tile, device: Device) -> Tile:
    """The tile with what kernels need of it on a device.

    Corners and fractions of zero stay where they are.
    """
    return tile if tile.is_whole_pixel else replace(tile, fraction=to_device(tile.fraction, device))
