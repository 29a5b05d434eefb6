"""The model of a run: forward propagation, likelihood, and all parameters other than the object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import Device, array_module, to_device
from daskptycho.model import operators
from daskptycho.model.background import Background
from daskptycho.model.forward import FarField, Forward
from daskptycho.model.gain import Gain
from daskptycho.model.likelihood import Amplitude, Likelihood
from daskptycho.model.parameter import Parameter, View
from daskptycho.model.positions import Positions
from daskptycho.model.probe import Probe
from daskptycho.model.probe_variation import ProbeVariation, ProbeWeight
from daskptycho.model.shifts import are_whole_pixels
from daskptycho.tiling import Tile

__all__ = ["PARAMETERS", "Model", "TileModel", "choose_model", "move_tile"]

Array = Any

# Every kind of parameter, in the order in which they are applied to the view of a frame.
PARAMETERS: tuple[type[Parameter], ...] = (Positions, Gain, ProbeVariation, ProbeWeight, Probe, Background)

# Damping of the object's step, relative to the probe's brightest pixel. Without it, the rim of a scan
# diverges where the probe is poor. While the probe is recovered, the rim needs more.
DAMPING = np.float32(1e-3)
DAMPING_RECOVERED = np.float32(1e-2)


@dataclass(frozen=True)
class Model:
    """How frames follow from the object and the other parameters.

    Attributes
    ----------
    parameters : tuple of Parameter
        All parameters except the object, which every model has; the probe is one of them.
    forward : Forward
    likelihood : Likelihood
    """

    parameters: tuple[Parameter, ...]
    forward: Forward = field(default_factory=FarField)
    likelihood: Likelihood = field(default_factory=Amplitude)

    @property
    def shared(self) -> tuple[Parameter, ...]:
        """The parameters that have one value for all frames."""
        return tuple(parameter for parameter in self.parameters if not parameter.per_frame)

    @property
    def per_frame(self) -> tuple[Parameter, ...]:
        """The parameters that have a value for each frame."""
        return tuple(parameter for parameter in self.parameters if parameter.per_frame)

    @property
    def between_sweeps(self) -> tuple[Parameter, ...]:
        """The parameters that are updated between two sweeps, for all frames together."""
        return tuple(parameter for parameter in self.parameters if parameter.between_sweeps)

    @property
    def moves_frames(self) -> bool:
        """Whether frames move in the course of a run."""
        return any(parameter.moves_frames for parameter in self.parameters)

    def reach(self, frame_shape: Sequence[int]) -> int:
        """The farthest that frames of this shape may move along each axis, in pixels; 0 if they do not."""
        return max((parameter.reach(frame_shape) for parameter in self.parameters), default=0)

    def due(self, sweep: int) -> frozenset[str]:
        """Names of the parameters that are updated in a sweep; sweeps are counted from one."""
        return frozenset(
            parameter.name
            for parameter in self.parameters
            if parameter.schedule is not None and parameter.schedule.due(sweep)
        )

    def to(self, device: Device) -> Model:
        """The same model with its arrays on a device."""
        return replace(self, forward=self.forward.to(device))


def choose_model(scan: Any, options: Mapping[str, Any], forward: Forward) -> tuple[Model, dict[str, NDArray]]:
    """Choose the model for a scan and the options of a run.

    Parameters
    ----------
    scan : xarray.Dataset
    options : mapping
        Each parameter reads the options that it needs; the probe reads ``update_probe``, ``probe``, ``modes``
        and ``fractional``.
    forward : Forward

    Returns
    -------
    model : Model
    first : dictionary
        First values of its parameters, by name.

    Raises
    ------
    OptionError, ScanError
        A first value, from the options or from the scan, is impossible.
    """
    chosen = [choice for kind in PARAMETERS if (choice := kind.choose(scan, options)) is not None]
    model = Model(tuple(parameter for parameter, _ in chosen), forward)
    return model, {parameter.name: first for parameter, first in chosen}


class TileModel(NamedTuple):
    """A model with the values of its parameters on one tile."""

    model: Model
    shared: dict[str, Array]
    """Values of the parameters that have one value for all frames, by name."""
    own: dict[str, Array]
    """Values for the tile's frames of the parameters that have a value for each frame, by name."""
    due: frozenset[str] = frozenset()
    """Names of the parameters that the sweep updates, and of what else it sums up; see `sweep_tile`."""
    in_place: bool = False
    """Whether tiles have their frames where the parameters put them; see `place`."""

    @property
    def probe(self) -> Array:
        """(mode, N, N) complex64 probe, before each frame's sub-pixel shift and gain."""
        return self.shared[Probe.name]

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood, with the background if there is one."""
        background = self.shared.get(Background.name)
        own = self.model.likelihood
        return own if background is None else own.above(self.model.forward.arrange(background))

    def value(self, parameter: Parameter) -> Array:
        """The value of a parameter on this tile."""
        return (self.own if parameter.per_frame else self.shared)[parameter.name]

    def place(self, tile: Tile) -> tuple[TileModel, Tile]:
        """The tile with its frames where they are, and the model for such tiles.

        Blocks of frames are then viewed without finding each time where they are.
        """
        return self._replace(in_place=True), self.locate(tile)

    def locate(self, tile: Tile) -> Tile:
        """The tile with its frames at the corners and fractions where the model's parameters put them."""
        if not self.model.moves_frames:
            return tile
        view = self.view_without_probe(tile, slice(None))
        return replace(tile, corner=view.corner, fraction=view.fraction)

    def view_without_probe(self, tile: Tile, frames: slice) -> View:
        """Positions and factors of some frames; the fractions of frames that move are on the host."""
        view = View(tile.corner[frames], tile.fraction[frames])
        for parameter in self.model.parameters:
            if not isinstance(parameter, Probe) and not (self.in_place and parameter.moves_frames):
                view = self._see(parameter, view, frames)
        return view

    def view(self, tile: Tile, frames: slice) -> View:
        """Positions and probes of some frames of the tile, with every parameter applied."""
        view = self.view_without_probe(tile, frames)
        if self.model.moves_frames and not are_whole_pixels(view.fraction):
            view = view._replace(fraction=array_module(self.probe).asarray(view.fraction))
        for parameter in self.model.parameters:
            if isinstance(parameter, Probe):
                view = self._see(parameter, view, frames)
        return view

    def _see(self, parameter: Parameter, view: View, frames: slice) -> View:
        value = self.value(parameter)
        return parameter.see(value[frames] if parameter.per_frame else value, view)

    def inverse_illumination(self, illumination: Array) -> Array:
        """``1 / N`` on the tile's window, (y, x) float32; zero where the illumination N is too weak."""
        return operators.inverse_illumination(illumination, self.probe)

    @property
    def damping(self) -> Array:
        """What is added to the illumination, to divide by the sum: float32 without axes; see `merge`."""
        recovered = any(isinstance(own, Probe) and own.recovered for own in self.model.parameters)
        return (DAMPING_RECOVERED if recovered else DAMPING) * operators.brightest(self.probe)


def move_tile(tile: Tile, device: Device) -> Tile:
    """Move a tile's fractional positions to a device, for the kernels.

    Corners, and fractions that are all zero, stay on the host.
    """
    return tile if tile.is_whole_pixel else replace(tile, fraction=to_device(tile.fraction, device))
