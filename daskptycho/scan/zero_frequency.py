"""Where the zero frequency lies in diffraction frames, told from their mean.

`findings` and ``daskptycho info`` call this module.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["doubt_zero_frequency"]

# A bright centre that is off the zero frequency by more than this part of the frame is doubted.
OFF_CENTRE = 0.1
# The zero frequency lies in the corner if this share of the counts near both candidates is near the corner.
DECISIVE_SHARE = 0.8


class _Bright(NamedTuple):
    """The bright part of a mean frame: its centre, and the distance of its counts from that, in frames."""

    centre: tuple[float, float]
    off: float
    spread: float


def doubt_zero_frequency(mean: NDArray[np.float64], *, decisive: bool = False) -> str | None:
    """A sentence if the zero frequency seems to lie elsewhere than at N//2; None if it seems to lie there.

    Both places where programs put it, the middle and the corner, are tried on the mean frame: it lies where
    the counts are together. The advice is what brings the bright centre to N//2.

    Parameters
    ----------
    mean : (qy, qx) array
        Mean frame, zero where pixels are not valid.
    decisive : bool
        Only doubt where nearly all counts are round the corner.
    """
    if not mean.any():
        return None
    here, corner = _find_bright(mean), _find_bright(np.fft.fftshift(mean))
    shape = f"{mean.shape[0] // 2}, {mean.shape[1] // 2}"
    if _is_round_corner(mean) and corner.spread < here.spread:
        if corner.off < OFF_CENTRE:
            return (
                f"the frames are brightest round the corner, but the zero frequency is assumed at {shape}: "
                "it seems to lie in the corner (import with --zero-frequency corner, or without it if it was "
                "given)"
            )
        return (
            f"the frames are bright round {corner.centre[0]:.1f}, {corner.centre[1]:.1f} once their halves "
            f"are exchanged, but the zero frequency is assumed at {shape} (import with --zero-frequency "
            f"corner, or without it if it was given, and with --centre {corner.centre[0]:.0f},"
            f"{corner.centre[1]:.0f})"
        )
    if decisive or here.off < OFF_CENTRE:
        return None
    y, x = (at - size // 2 for at, size in zip(here.centre, mean.shape, strict=True))
    return (
        f"the bright centre of the frames is at {here.centre[0]:.1f}, {here.centre[1]:.1f}, but the zero "
        f"frequency is assumed at {shape}: if that is where the direct beam lies, import with --centre "
        f"{here.centre[0]:.0f},{here.centre[1]:.0f} (or, where frames were cropped, with a centre "
        f"{y:.0f},{x:.0f} further than then)"
    )


def _is_round_corner(mean: NDArray[np.float64]) -> bool:
    """Whether most counts of both middle halves are round the corner."""
    middle = tuple(slice(n // 4, n // 4 + (n + 1) // 2) for n in mean.shape)
    near, far = mean[middle].sum(), np.fft.fftshift(mean)[middle].sum()
    return bool(far > DECISIVE_SHARE * (near + far) > 0)


def _find_bright(mean: NDArray[np.float64]) -> _Bright:
    # Single hot pixels have no weight in the centre of mass of the bright half.
    bright = np.minimum(mean, np.percentile(mean, 99)) if np.percentile(mean, 99) > 0 else mean
    bright = np.where(bright > 0.5 * bright.max(), bright, 0)
    sizes = np.array(mean.shape)
    places = [np.arange(n, dtype=float) for n in sizes]
    sums = [bright.sum(axis=1 - axis) for axis in (0, 1)]
    centre = [float(np.average(place, weights=weight)) for place, weight in zip(places, sums, strict=True)]
    variance = [
        float(np.average((place - middle) ** 2, weights=weight)) / size**2
        for place, middle, weight, size in zip(places, centre, sums, sizes, strict=True)
    ]
    off = max(abs(at - size // 2) / size for at, size in zip(centre, sizes.tolist(), strict=True))
    return _Bright((centre[0], centre[1]), off, float(np.sqrt(sum(variance))))
