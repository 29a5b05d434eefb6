"""Positions of the frames as a parameter of the model: offsets from the given positions, found along.

Its value is a ``(frame, 2, 2)`` float64 array: how far each frame lies from its given position, and its last
move, which the image follows, both [y, x] in pixels. Each tile computes the derivatives of the misfit by the
offsets of its own frames. An offset changes the image under all frames that overlap, so that the offsets of
all frames are found together from these derivatives (`sync.positions`), and change between two sweeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import array_module, kernels
from daskptycho.errors import OptionError
from daskptycho.model.operators import unsplit
from daskptycho.model.parameter import Parameter, Sums, Variable, View
from daskptycho.tiling import Tile, split_position

__all__ = ["Derivatives", "Positions"]

Array = Any


class Derivatives(NamedTuple):
    """Derivatives of a tile's misfit by the offsets of its frames, with the image held fixed."""

    force: Array
    """(frame, 2) float64 ``b0_ia = Re sum conj(P_i D_a y) chi_i``."""
    curvature: Array
    """(frame, 3) float64 ``H_iab = Re sum |P_i|^2 conj(D_a y) D_b y`` for yy, yx and xx."""
    change: Array
    """(y, x) complex64 ``sum_i conj(P_i) chi_i`` on the tile's window: the change that frames ask for."""
    image: Array
    """(y, x) complex64 y, the image that the sweep started from, with its momentum."""
    misfit: Array
    """(frame,) float64 ``sum |chi_i|^2``."""

    def with_images(self, convert: Any) -> Derivatives:
        """The same derivatives with `convert` applied to each (y, x) array."""
        return self._replace(change=convert(self.change), image=convert(self.image))


# Parts of the moves, from fewest to most numbers.
PARTS = ("affine", "drift", "lines")


@dataclass(frozen=True)
class Positions(Parameter):
    """Refinement of the positions, through the graph of overlapping frames.

    Raises
    ------
    OptionError
        A number or a word is impossible, or lines are asked for without `line`.
    """

    start: int | None = None
    """First sweep after which positions are tested, and refined if that is significant. By default 10 while
    the probe is recovered, which wrong positions would spoil, and else 20."""
    every: int | None = None
    """Sweeps from one update to the next; by default 1 while the probe is recovered, and else 2."""
    moves: str = "free"
    """Which moves are possible. ``"free"``: any. ``"affine"``: a linear map of the positions. ``"drift"``: a
    smooth curve in the order of acquisition. ``"lines"``: one shift for each line of `line` frames. What is
    known to be smooth is found more exactly."""
    hold: str | None = "auto"
    """A part that is taken off all moves: ``"affine"``, ``"drift"`` or ``"lines"``. ``"auto"``: the affine
    part while the probe is recovered, whose size can then hardly be told from the scale of the positions.
    None: only the common shift."""
    line: int | None = None
    """Frames in a line, in the order of acquisition."""
    limit: int | None = None
    """Farthest that a frame may move from its given position along each axis, in pixels; by default a quarter
    of a frame. Windows of tiles have a margin of this width."""
    name: ClassVar[str] = "positions"
    per_frame: ClassVar[bool] = True
    moves_frames: ClassVar[bool] = True
    on_host: ClassVar[bool] = True

    @property
    def between_sweeps(self) -> bool:
        return True

    def __post_init__(self) -> None:
        for name in ("start", "every", "line", "limit"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise OptionError(f"{name} of Positions is {value!r}; expected a whole number, 1 or more")
        if self.moves not in ("free", *PARTS):
            raise OptionError(f"moves of Positions is {self.moves!r}; expected 'free' or one of {PARTS}")
        if self.hold not in ("auto", None, *PARTS):
            raise OptionError(f"hold of Positions is {self.hold!r}; expected 'auto', None or one of {PARTS}")
        if "lines" in (self.moves, self.hold) and self.line is None:
            raise OptionError("Positions has lines and no line; expected the number of frames in a line")
        if self.moves != "free" and self.moves == self.hold:
            raise OptionError(f"Positions moves and holds {self.moves!r}; expected different parts")

    def resolve(self, *, update_probe: bool) -> Positions:
        """The same with its defaults for a probe that is recovered, or held fixed."""
        hold = self.hold
        if hold == "auto":
            hold = "affine" if update_probe and self.moves != "affine" else None
        start, every = (10, 1) if update_probe else (20, 2)
        return replace(self, start=self.start or start, every=self.every or every, hold=hold)

    def reach(self, frame_shape: Sequence[int]) -> int:
        return max(1, min(frame_shape) // 4) if self.limit is None else self.limit

    @classmethod
    def choose(cls, scan: Any, options: Mapping[str, Any]) -> tuple[Self, NDArray] | None:
        chosen = cls.asked(options)
        return None if chosen is None else (chosen, np.zeros((scan.sizes["frame"], 2, 2)))

    def see(self, value: Array, view: View) -> View:
        corner, fraction = split_position(view.corner + view.fraction + value[:, 0])
        return view._replace(corner=corner, fraction=fraction)

    def describe(self, shape: Sequence[int]) -> str:
        return "positions (refined)"

    def nbytes(self, frames: int) -> int:
        return 32 * frames

    @classmethod
    def result(cls, value: NDArray) -> dict[str, Variable]:
        # The result holds given and refined positions in the scan's unit: see `run.result`.
        return {}

    def move(
        self, value: NDArray, step: NDArray, tile: Tile, frame_shape: Sequence[int]
    ) -> NDArray[np.float64]:
        """The value after a move.

        Parameters
        ----------
        value : (frame, 2, 2) array
        step : (frame, 2) array
            Move of the tile's frames, in pixels.
        tile : Tile
            With its frames at the given positions.
        frame_shape : (int, int)
        """
        reach = self.reach(frame_shape)
        # A frame has to stay in its tile's window.
        offset = np.clip(value[:, 0] + step, -reach - tile.fraction, reach - tile.fraction)
        return np.stack([offset, offset - value[:, 0]], axis=1)

    def new_sums(self, value: Array, image: Array) -> Sums:
        xp, frames = array_module(image), len(value)
        force, curvature = xp.zeros((frames, 2)), xp.zeros((frames, 3))
        return Derivatives(force, curvature, xp.zeros_like(image), image, xp.zeros(frames))

    def accumulate(self, sums: Sums, frames: slice, image: Array, change: Array, view: View) -> None:
        force, curvature, total, _, misfit = sums
        misfit[frames] = (change.real**2 + change.imag**2).sum(axis=(1, 2, 3))
        kernels(image).displacement_terms(
            image, change, view.probe, view.corner, force[frames], curvature[frames]
        )
        unsplit(change, view.probe, view.corner, total)
