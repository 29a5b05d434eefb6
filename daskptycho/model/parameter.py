"""The interface of a parameter of the model: a quantity besides the object, recovered or held fixed.

A parameter defines its first value, how it changes what a frame sees, the sums that each tile computes for
it, how sums are added, how and when it is updated, the memory that it needs, and its variables in the result.
`graph`, checkpoints, the estimate of memory and the result loop over the parameters of a `model.Model`
without knowing any of them by name. A new parameter needs a module beside `probe` and an entry in
`model.PARAMETERS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

from numpy.typing import NDArray

from daskptycho.model.forward import Forward
from daskptycho.model.likelihood import Likelihood
from daskptycho.model.momentum import extrapolate

__all__ = ["Parameter", "Schedule", "Sums", "Variable", "View"]

Array = Any
Sums = tuple[Array, ...]
"""The sums that a tile computes for the update of a parameter."""
Variable = tuple[tuple[str, ...], NDArray, dict[str, str]]
"""Dimensions, values and attributes of a variable, in xarray's order."""


@dataclass(frozen=True)
class Schedule:
    """The sweeps in which a parameter is updated: every `every`-th from `start` on, none from `stop` on."""

    start: int = 1
    stop: int | None = None
    every: int = 1

    def due(self, sweep: int) -> bool:
        """Whether the parameter is updated in this sweep; sweeps are counted from one."""
        return (
            sweep >= self.start
            and (self.stop is None or sweep < self.stop)
            and (sweep - self.start) % self.every == 0
        )


class View(NamedTuple):
    """Positions and probes of some frames of a tile. Each parameter of the model may change them in turn."""

    corner: Array
    """(frame, 2) corner [y, x] of each frame in the tile's window, in whole pixels."""
    fraction: Array
    """(frame, 2) the remaining fraction of a pixel of each position."""
    factor: Array | None = None
    """(frame,) float32 factor of each frame's probe; None stands for ones."""
    probe: Array = None
    """(copy, mode, N, N) complex64 probe: one copy for each frame, or one for all of them."""
    variation: Array | None = None
    """(variation, N, N) complex64 E_k, by which the first mode of the probe varies; None if it does not."""
    weight: Array | None = None
    """(frame, 2, variation) complex64 on the host: see `probe_variation.ProbeWeight`."""


class Parameter(ABC):
    """Base class of the parameters of the model.

    A parameter is a frozen dataclass without arrays, so that it can be sent to any worker. Its value is
    passed to each method.

    Attributes
    ----------
    name : str
        Name of its value in the state and in checkpoints.
    per_frame : bool
        True where each frame has its own value, stored with the frame's tile; otherwise all frames share one
        value.
    has_momentum : bool
        Whether a sweep with momentum extrapolates it.
    moves_frames : bool
        Whether it moves frames.
    on_host : bool
        Whether its values stay on the host, also where tiles are on a GPU.
    fits_reflections : bool
        Whether it can be updated from the waves of an algorithm with a stack, which are not the model's.
    batches : int
        Arrays of the size of a batch's exit waves that it needs besides those of any sweep.
    weighs_frames : bool
        Whether the weights of frames depend on it: an update then comes before frames are weighed. The object
        is updated together with any other parameter.
    takes_projection : bool
        Whether `accumulate` is given the data projection itself, in place of the change that it makes: the
        exit waves of the model then need not be kept.
    """

    name: ClassVar[str]
    per_frame: ClassVar[bool] = False
    has_momentum: ClassVar[bool] = False
    moves_frames: ClassVar[bool] = False
    on_host: ClassVar[bool] = False
    fits_reflections: ClassVar[bool] = True
    batches: ClassVar[int] = 0
    weighs_frames: ClassVar[bool] = True
    takes_projection: ClassVar[bool] = False

    @property
    def between_sweeps(self) -> bool:
        """Whether it is updated between two sweeps, for all frames together."""
        return False

    @property
    def schedule(self) -> Schedule | None:
        """The sweeps in which it is updated; None where it is held fixed."""
        return None

    @classmethod
    def asked(cls, options: Mapping[str, Any]) -> Self | None:
        """What `refine` holds of this kind; None if it is not to be found along."""
        return next((one for one in options.get("refine", ()) if isinstance(one, cls)), None)

    @classmethod
    @abstractmethod
    def choose(cls, scan: Any, options: Mapping[str, Any]) -> tuple[Self, NDArray] | None:
        """Choose the parameter and its first value for a scan and the options of a run.

        Returns
        -------
        (Parameter, array) or None
            The first value is one array, or with `per_frame` a ``(frame, ...)`` array in the scan's order.
            None where the model of this scan has no such parameter.
        """

    @abstractmethod
    def see(self, value: Array, view: View) -> View:
        """Apply the parameter to the view of some frames; with `per_frame`, `value` holds their values."""

    @abstractmethod
    def describe(self, shape: Sequence[int]) -> str:
        """Describe the parameter, with a value of this shape, in a few words, and whether it is recovered."""

    @classmethod
    @abstractmethod
    def result(cls, value: NDArray) -> dict[str, Variable]:
        """The variables of the result, by name; with `per_frame`, `value` holds the values of all frames."""

    def begin(self, first: NDArray, counts: float, frames: int) -> NDArray:
        """The value for the first sweep, given the sum of all counts and the number of all frames."""
        return first

    def new_sums(self, value: Array, image: Array) -> Sums:
        """Zeros for `accumulate` to add to; with `per_frame`, `value` holds those of the tile's frames.

        `image` is the object on the tile's window that the sweep starts from.
        """
        return ()

    def accumulate(self, sums: Sums, frames: slice, image: Array, change: Array, view: View) -> None:
        """Add the contribution of some frames to the sums, in place.

        Parameters
        ----------
        sums : Sums
        frames : slice
            Numbers of these frames in the tile.
        image : (y, x) complex64 array
            The object on the tile's window.
        change : (frame, mode, N, N) complex64 array
            The data projection minus the exit waves of the model; with `takes_projection`, the projection.
        view : View
        """
        return

    def watch(self, value: Array, likelihood: Likelihood, forward: Forward, sums: Sums) -> Likelihood:
        """The likelihood of a sweep that updates the parameter; it may add to the sums what it sees."""
        return likelihood

    def add(self, first: Sums, second: Sums) -> Sums:
        """Add the sums of two tiles; the operation has to be associative."""
        return tuple(one + other for one, other in zip(first, second, strict=True))

    def update(self, value: Array, sums: Sums) -> Array:
        """The next value, from the sums of all tiles, or with `per_frame` of the frames' own tile."""
        return value

    def extrapolate(self, value: Array, previous: Array | None, momentum: float) -> Array:
        """The value that a sweep with momentum starts from.

        `previous` is that of the sweep before, None for values of frames.
        """
        return extrapolate(value, previous, momentum) if self.has_momentum else value

    def sum_bytes(self, pixels: int, modes: int) -> int:
        """Bytes of the sums of a tile with frames of this number of pixels."""
        return 0

    def reach(self, frame_shape: Sequence[int]) -> int:
        """The farthest that it moves frames of this shape along each axis, in pixels."""
        return 0

    def nbytes(self, frames: int) -> int:
        """Bytes that its values occupy, from sweep to sweep, for a tile with this number of frames."""
        return 0
