"""What a parameter of the model is: something that is recovered, or held, beside the object.

A parameter says how it starts, how frames see it, what each tile sums for it, how sums are added, how it is
updated and when, what it takes in memory, and what of it stands in the result. `graph`, checkpoints, the
estimate of memory and the result go through the parameters of a `model.Model` and know none of them by name.
A new one is a file beside `probe` and a name in `model.PARAMETERS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

from numpy.typing import NDArray

__all__ = ["Parameter", "Schedule", "Sums", "Variable", "View"]

Array = Any
Sums = tuple[Array, ...]
"""What a tile sums for a parameter."""
Variable = tuple[tuple[str, ...], NDArray, dict[str, str]]
"""Dimensions, values and attributes, as xarray takes them."""


@dataclass(frozen=True)
class Schedule:
    """In which sweeps a parameter is updated: from `start`, before `stop`, in each `every`-th of them."""

    start: int = 1
    stop: int | None = None
    every: int = 1

    def due(self, sweep: int) -> bool:
        """Whether the parameter is updated in this sweep, counted from one."""
        return (
            sweep >= self.start
            and (self.stop is None or sweep < self.stop)
            and (sweep - self.start) % self.every == 0
        )


class View(NamedTuple):
    """How some frames of a tile see the object; each parameter in turn may change it."""

    corner: Array
    """(frame, 2) whole pixels in the tile's window."""
    fraction: Array
    """(frame, 2) remaining fractions of a pixel."""
    factor: Array | None = None
    """(frame,) float32 numbers by which each frame's probe is multiplied; None for ones."""
    probe: Array = None
    """(copy, mode, N, N) complex64 probe of each frame, or one copy for all of them."""


class Parameter(ABC):
    """What a parameter has to offer: a frozen dataclass without arrays, so that it can be sent anywhere.

    Attributes
    ----------
    name : str
        Of its value in the state, in checkpoints, and among the options.
    per_frame : bool
        A value for each frame, which lies beside the frame's tile; otherwise one value for all frames.
    has_momentum : bool
        A sweep with momentum extrapolates it.
    """

    name: ClassVar[str]
    per_frame: ClassVar[bool] = False
    has_momentum: ClassVar[bool] = False

    @property
    def schedule(self) -> Schedule | None:
        """When it is updated; None where it is held fixed."""
        return None

    @classmethod
    @abstractmethod
    def choose(cls, scan: Any, options: Mapping[str, Any]) -> tuple[Self, NDArray] | None:
        """The parameter and its first value for a scan and the options of a run; None where it plays no part.

        The first value is one array, or with `per_frame` a ``(frame, ...)`` array in the scan's order.
        """

    @abstractmethod
    def see(self, value: Array, view: View) -> View:
        """The view of some frames with this parameter in it; `value` is theirs with `per_frame`."""

    @abstractmethod
    def describe(self, shape: Sequence[int]) -> str:
        """In a few words: what it is, and whether it is recovered, with a value of this shape."""

    @classmethod
    @abstractmethod
    def result(cls, value: NDArray) -> dict[str, Variable]:
        """What stands in the result, by name; with `per_frame` the value of all frames."""

    def begin(self, first: NDArray, counts: float, frames: int) -> NDArray:
        """The value that the first sweep uses, once the counts of all frames and their number are known."""
        return first

    def new_sums(self, value: Array) -> Sums:
        """Zeros, to which `accumulate` adds; `value` is the tile's with `per_frame`."""
        return ()

    def accumulate(self, sums: Sums, frames: slice, image: Array, change: Array, view: View) -> None:
        """Add what some frames say, in place.

        Parameters
        ----------
        sums : Sums
        frames : slice
            Which frames of the tile they are.
        image : (y, x) complex64 array
            On the tile's window.
        change : (frame, mode, N, N) complex64 array
            The data projection minus the waves of the model.
        view : View
        """
        return

    def add(self, first: Sums, second: Sums) -> Sums:
        """The sums of two tiles together: associative."""
        return tuple(own + other for own, other in zip(first, second, strict=True))

    def update(self, value: Array, sums: Sums) -> Array:
        """The next value, from the sums of all tiles, or with `per_frame` from the tile's own."""
        return value

    def nbytes(self, frames: int) -> int:
        """Bytes that its values take beside a tile with this number of frames, from sweep to sweep."""
        return 0
