"""AP, RAAR and the difference map: one sweep over one tile as a pure function, and momentum.

`graph` calls this module, and so may anyone who wants to drive a reconstruction by hand; it calls
`operators`. A sweep takes the tile's image and gives the weighted frames; summing them over tiles and
dividing by the illumination, which makes the next image, is the caller's part (`merge`).

Every algorithm is told by two formulas around the data projection ``p = P_a z``. With the *model*
``m_i = P_i . psi[x_i + r]`` and the stack ``s`` that RAAR and the difference map carry from sweep to sweep:

===============  ======================  ==============================  ====================
algorithm        z                       the frames to overlap           the next stack
===============  ======================  ==============================  ====================
AP               m                       p                               none
RAAR             s + beta m              2 p - z                         beta z + (1 - 2 beta) p
difference map   2 m - s                 s + p - m                       s + p - m
===============  ======================  ==============================  ====================

RAAR after Luke, Inverse Problems 21, 37 (2005), with ``x' = [beta/2 (R_Q R_a + 1) + (1 - beta) P_a] x``
split where the overlap needs all tiles: the stack holds what does not wait for it. The difference map
after Thibault et al., Ultramicroscopy 109, 338 (2009), with beta = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np

from daskptycho.backend import array_module
from daskptycho.errors import OptionError
from daskptycho.model.operators import (
    add_probe_terms,
    amplitude_of,
    frame_blocks,
    illuminate,
    inverse_illumination,
    kernel_of,
    project_data,
    shift_probe,
    split,
    unsplit,
    weigh,
)
from daskptycho.tiling import Tile

__all__ = [
    "AP",
    "RAAR",
    "Algorithm",
    "DifferenceMap",
    "TileSweep",
    "Weighted",
    "extrapolate",
    "illuminate_tile",
    "merge",
    "next_momentum",
    "overlap_waves",
    "parse_algorithm",
    "sweep_tile",
    "updated_probe",
    "weigh_tile",
]

Array = Any


@dataclass(frozen=True)
class AP:
    """Alternating projections; with momentum the default of the package. Keeps the object alone as state.

    Each sweep overlaps the data projections ``p = P_a m`` of the model ``m_i = P_i . psi[x_i + r]``.
    """

    name: ClassVar[str] = "ap"
    has_stack: ClassVar[bool] = False

    def before(self, model: Array, stack: Array | None) -> Array:
        return model

    def after(
        self, model: Array, z: Array, projected: Array, stack: Array | None
    ) -> tuple[Array, Array | None]:
        return projected, None


@dataclass(frozen=True)
class RAAR:
    """Relaxed averaged alternating reflections (Luke, Inverse Problems 21, 37 (2005)).

    ``x' = [beta/2 (R_Q R_a + 1) + (1 - beta) P_a] x`` with the reflections ``R = 2 P - 1`` at overlap and
    data. Keeps the exit waves of all frames from sweep to sweep.
    """

    beta: float = 0.75
    """Relaxation, above 0 and up to 1."""

    name: ClassVar[str] = "raar"
    has_stack: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.beta <= 1:
            raise OptionError(f"RAAR's beta is {self.beta}; expected above 0 and at most 1")
        # A NumPy number would not be written with a result's options.
        object.__setattr__(self, "beta", float(self.beta))

    def before(self, model: Array, stack: Array | None) -> Array:
        return model if stack is None else stack + np.float32(self.beta) * model

    def after(
        self, model: Array, z: Array, projected: Array, stack: Array | None
    ) -> tuple[Array, Array | None]:
        beta = np.float32(self.beta)
        return 2 * projected - z, beta * z + (1 - 2 * beta) * projected


@dataclass(frozen=True)
class DifferenceMap:
    """The difference map with beta = 1 (Thibault et al., Ultramicroscopy 109, 338 (2009)).

    ``x' = x + P_a (2 P_Q - 1) x - P_Q x``. It explores rather than settles: for hard starts. Keeps the exit
    waves of all frames from sweep to sweep.
    """

    name: ClassVar[str] = "dm"
    has_stack: ClassVar[bool] = True

    def before(self, model: Array, stack: Array | None) -> Array:
        return model if stack is None else 2 * model - stack

    def after(
        self, model: Array, z: Array, projected: Array, stack: Array | None
    ) -> tuple[Array, Array | None]:
        following = projected if stack is None else stack + projected - model
        return following, following


Algorithm = AP | RAAR | DifferenceMap
_NAMED: dict[str, type[AP] | type[RAAR] | type[DifferenceMap]] = {
    kind.name: kind for kind in (AP, RAAR, DifferenceMap)
}


def parse_algorithm(algorithm: str | Algorithm) -> Algorithm:
    """The algorithm of this name with its usual parameters; an algorithm is returned as it is."""
    if isinstance(algorithm, str):
        if algorithm not in _NAMED:
            raise OptionError(f"algorithm is {algorithm!r}; expected one of {', '.join(_NAMED)}")
        return _NAMED[algorithm]()
    if not isinstance(algorithm, AP | RAAR | DifferenceMap):
        raise OptionError(f"algorithm is {algorithm!r}; expected AP(), RAAR(), DifferenceMap() or a name")
    return algorithm


class Weighted(NamedTuple):
    """The weighted frames of a tile."""

    frames: Array
    """(frame, N, N) u_i."""
    power: Array
    """(frame,) |z_i|^2."""


class TileSweep(NamedTuple):
    """What one sweep over one tile leaves. A tuple, so that dask sees how large it is.

    Of `waves`, `weighted`, `image_sum` and `synchronised` at most one is there, and the others are None.
    """

    misfit: float
    """sum (|Fz| - a)^2 over the tile's valid pixels."""
    waves: Array | None
    """(frame, mode, N, N) frames to overlap, where the probe is updated and has to weigh them anew."""
    weighted: Weighted | None
    """The weighted frames, where they wait for a synchronisation."""
    image_sum: Array | None
    """(y, x) their overlap sum."""
    stack: Array | None
    """(frame, mode, N, N), for algorithms that have one."""
    probe_sums: tuple[Array, Array] | None
    """Numerator and denominator of the probe update."""
    synchronised: Any = None
    """A `two_level.TileSum`, where the tile was synchronised in the same task."""


def sweep_tile(
    algorithm: Algorithm,
    tile: Tile,
    amplitude: Array,
    image: Array,
    probe: Array,
    *,
    stack: Array | None = None,
    phase: Array | None = None,
    keep_frames: bool = False,
    update_probe: bool = False,
    keep_waves: bool = True,
    following_probe: Array | None = None,
) -> TileSweep:
    """One sweep over the frames of a tile: split, data projection, weighted frames.

    Parameters
    ----------
    algorithm : Algorithm
    tile : Tile
    amplitude : Amplitudes or (frame, N, N) float32 array
        From `operators.measured_amplitudes`.
    image : (y, x) complex64 array
        The object on the tile's window.
    probe : (mode, N, N) complex64 array
    stack : (frame, mode, N, N) complex64 array, optional
        From the sweep before; absent in the first.
    phase : (frame,) complex64 array, optional
        Phases found by the last synchronisation, for a stack that has not seen them.
    keep_frames : bool
        Leave the weighted frames (for a synchronisation) rather than their overlap sum.
    update_probe : bool
        Sum up the terms of the probe update, and leave the frames for `weigh_tile` or `overlap_waves`
        to weigh with the new probe. Object and probe fitted to the same frames at once, rather
        than one after the other, would take twice the correction that the data ask for.
    keep_waves : bool
        False: leave the terms of the probe update alone. Frames that find no room until the new probe is
        known are computed a second time then.
    following_probe : (mode, N, N) complex64 array, optional
        The new probe, in that second time: the frames are swept with `probe` and weighed with this.
    """
    xp = array_module(image)
    frame_shape = probe.shape[-2:]
    stack_shape = (len(tile), *probe.shape)
    following = xp.empty(stack_shape, dtype=np.complex64) if algorithm.has_stack else None
    waves = xp.empty(stack_shape, dtype=np.complex64) if update_probe and keep_waves else None
    weighted = image_sum = None
    if not update_probe and keep_frames:
        weighted = _empty_weighted(tile, frame_shape, xp)
    elif not update_probe:
        image_sum = xp.zeros(tile.window.shape, dtype=np.complex64)
    numerator = xp.zeros(probe.shape, dtype=np.complex64)
    denominator = xp.zeros(frame_shape, dtype=np.float32)
    kernel = kernel_of(amplitude)
    misfit: Any = 0.0
    blocks = list(frame_blocks(len(tile), probe))
    # The same memory for all blocks: fresh pages cost as much as the arithmetic where an allocator gives them
    # back at once, as Dask has it do on its workers.
    most = max(own.stop - own.start for own in blocks)
    shape = (most, *probe.shape)
    room = xp.empty(shape, dtype=np.complex64)
    measured = xp.empty((most, *frame_shape), dtype=np.float32)
    # Only alternating projections with a known probe need the model no more once it is projected.
    again = xp.empty(shape, dtype=np.complex64) if algorithm.has_stack or update_probe else room
    for frames in blocks:
        count = frames.stop - frames.start
        corner, fraction = tile.corner[frames], tile.fraction[frames]
        own_probe = shift_probe(probe, fraction)
        model = split(image, own_probe, corner, out=room[:count])
        own_stack = None
        if stack is not None:
            own_stack = stack[frames] if phase is None else stack[frames] * phase[frames, None, None, None]
        z = algorithm.before(model, own_stack)
        own_amplitude = amplitude_of(amplitude, frames, measured[:count])
        projected, block_misfit = project_data(
            z, own_amplitude, kernel, out=z if again is room else again[:count]
        )
        misfit += block_misfit
        to_overlap, block_stack = algorithm.after(model, z, projected, own_stack)
        if following is not None:
            following[frames] = block_stack
        if update_probe:
            # Nobody needs the model any more: the change is written over it.
            change = xp.subtract(projected, model, out=model)
            add_probe_terms(image, change, corner, fraction, numerator, denominator)
            if waves is not None:
                waves[frames] = to_overlap
            continue
        if following_probe is not None:
            own_probe = shift_probe(following_probe, fraction)
        if weighted is not None:
            weigh(to_overlap, own_probe, out=(weighted.frames[frames], weighted.power[frames]))
        else:
            unsplit(to_overlap, own_probe, corner, image_sum)
    probe_sums = (numerator, denominator) if update_probe else None
    # Read from a GPU once a sweep: each reading waits for all that was asked of it before.
    return TileSweep(float(misfit), waves, weighted, image_sum, following, probe_sums)


def _empty_weighted(tile: Tile, frame_shape: tuple[int, int], xp: Any) -> Weighted:
    return Weighted(
        xp.empty((len(tile), *frame_shape), dtype=np.complex64), xp.empty(len(tile), dtype=np.float64)
    )


def weigh_tile(tile: Tile, waves: Array, probe: Array) -> Weighted:
    """Weighted frames of a tile from its exit waves, (frame, mode, N, N), and the probe, (mode, N, N)."""
    weighted = _empty_weighted(tile, probe.shape[-2:], array_module(waves))
    for frames in frame_blocks(len(tile), probe):
        own_probe = shift_probe(probe, tile.fraction[frames])
        weigh(waves[frames], own_probe, out=(weighted.frames[frames], weighted.power[frames]))
    return weighted


def overlap_waves(tile: Tile, waves: Array, probe: Array) -> Array:
    """Overlap sum of `weigh_tile` without keeping the weighted frames, (y, x)."""
    image_sum = array_module(waves).zeros(tile.window.shape, dtype=np.complex64)
    for frames in frame_blocks(len(tile), probe):
        own_probe = shift_probe(probe, tile.fraction[frames])
        unsplit(waves[frames], own_probe, tile.corner[frames], image_sum)
    return image_sum


def illuminate_tile(tile: Tile, probe: Array) -> Array:
    """Illumination of a tile's own frames on its window, (y, x) float32."""
    out = None
    # Each frame at a fraction of a pixel has its own copy of the probe: not all at once.
    for frames in frame_blocks(len(tile), probe):
        own_probe = shift_probe(probe, tile.fraction[frames])
        out = illuminate(own_probe, tile.corner[frames], tile.window.shape, out)
    return out


def merge(image_sum: Array, illumination: Array, probe: Array) -> Array:
    """The image ``psi = sum_i u_i / N``, zero where nothing shone."""
    return image_sum * inverse_illumination(illumination, probe)


# Share of the mean denominator that damps the probe's step where positions are fractional: the shifts carry
# a pixel's correction to neighbours that saw less light, where it is too large. With none of it a poor first
# probe and momentum run away together; measured on a scan whose first probe was a disc a tenth too wide.
DAMPING = np.float32(0.2)


def updated_probe(probe: Array, sums: list[tuple[Array, Array]], fractional: bool = False) -> Array:
    """Probe update ``P + sum_i conj(psi_i) (p_i - m_i) / sum_i |psi_i|^2``, summed over tiles.

    For whole-pixel positions that is the least-squares fit ``sum_i conj(psi_i) p_i / sum_i |psi_i|^2``.
    Where they are fractional, the shifts mix the probe's pixels and the quotient is a step towards the
    fit, not the fit; written as a step it vanishes where the frames agree.

    Parameters
    ----------
    probe : (mode, N, N) complex64 array
        The one that the sweep used.
    sums : list of (numerator, denominator)
        One for each tile, from `sweep_tile`.
    fractional : bool
        Positions are fractions of pixels.
    """
    numerator = sum(own for own, _ in sums)
    denominator = sum(own for _, own in sums)
    # Where the object let little through, the probe stays rather than divide by nothing.
    damping = (DAMPING if fractional else np.float32(1e-3)) * denominator.mean()
    return (probe + numerator / (denominator + damping)).astype(np.complex64)


def extrapolate(current: Array, previous: Array | None, momentum: float) -> Array:
    """``x + momentum (x - x_previous)``: the point that a sweep with momentum starts from."""
    if previous is None or momentum == 0:
        return current
    further = current - previous
    further *= np.float32(momentum)
    further += current
    return further


# Nesterov's sequence is entered here rather than at 1: measured on the two problems of
# benchmarks/poster.py and benchmarks/raster.py, earlier costs sweeps in the first, later in the second.
FIRST_MOMENTUM = 2.0

# A residual that moves by a smaller share of itself is at rest: what is left of it is noise. Clean scans move
# by per cents until the end, the measured one of docs/benchmarks.md by 3e-4 after 100 sweeps.
REST = 1e-4


def next_momentum(t: float | None, residuals: Sequence[float]) -> tuple[float, float]:
    """Nesterov's sequence ``t' = (1 + sqrt(1 + 4 t^2)) / 2``, momentum ``(t - 1) / t'``.

    It begins anew where the residual rises (O'Donoghue and Candès, Found. Comput. Math. 15, 715 (2015)), and
    pauses where the residual is at rest: further along the directions that the data hardly
    tell, momentum would carry the image to where the noise wants it.

    Parameters
    ----------
    t : float or None
        None before the first step.
    residuals : sequence of float
        R2 of the sweeps so far, at least of the last three.

    Returns
    -------
    t, momentum : float
    """
    changes = [later - earlier for earlier, later in pairwise(residuals[-3:])]
    # Twice: where a residual turns from falling to rising, it stands still for one sweep.
    if len(changes) == 2 and max(map(abs, changes)) < REST * residuals[-1]:
        return FIRST_MOMENTUM, 0.0
    if t is None or (changes and changes[-1] > 0):
        t = FIRST_MOMENTUM
    following = (1 + math.sqrt(1 + 4 * t * t)) / 2
    return following, (t - 1) / following
