"""`daskptycho.guess_probe`: a first guess of the probe for a scan that comes without one.

`reconstruct` calls it where neither the scan nor the user has a probe. The formulas are in
`scan.first_probe`; which of several guesses is right is found by trying them (`probe_trials`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.errors import OptionError, warn_caller
from daskptycho.run.probe_trials import BEST, MORE_SWEEPS, Part, Trial, take_part, try_probes
from daskptycho.scan.dataset import position_in_pixels, take_used
from daskptycho.scan.first_probe import (
    Beam,
    Pupil,
    estimate_disc_radius,
    find_object_pixel,
    find_wavelength,
    make_disc,
)
from daskptycho.scan.optics import is_near_field
from daskptycho.scan.overlap import describe_sparse, measure_overlap

__all__ = ["guess_probe"]

# Radii of the beam on the sample that are tried on both sides of the focus, as shares of a frame, and the
# steps by which the best of them is refined. The guess fits within about a tenth of the right defocus.
RADII = tuple(0.012 * 1.27**n for n in range(15))
FINER = (1.08, 1.17, 1 / 1.08, 1 / 1.17)
# Discs that are tried, as multiples of the radius that the frames show.
DISCS = (0.7, 0.8, 0.9, 1.0, 1.2, 1.4)
# Further sweeps where ten do not tell which guess is right.
LONG = 37
# The sign of a defocus is doubted if the other one leaves so much less of R2.
OTHER_SIGN = 0.8
# A guess is decisive if it leaves so much less than the next best of another kind. Otherwise other axes of
# the positions are tried, and said if they leave so much less.
DECISIVE, OTHER_AXES = 0.8, 0.7


class _Guess(NamedTuple):
    """A disc or a pupil, with its defocus."""

    defocus: float
    disc: float | None = None
    """Radius, in the unit of the pixels."""


@dataclass(frozen=True)
class _Optics:
    """How guesses become probes on frames of one size."""

    pupil: Pupil

    def make(self, guess: _Guess) -> NDArray[np.complex64]:
        if guess.disc is None:
            return self.pupil.probe(guess.defocus)
        return make_disc(self.pupil.amplitude.shape, guess.disc, self.pupil.pixel, guess.defocus)


def guess_probe(
    scan: xr.Dataset,
    *,
    diameter: float | None = None,
    defocus_m: float | None = None,
    convergence_angle_mrad: float | None = None,
) -> NDArray[np.complex64]:
    """Guess the probe of a scan from its frames.

    In the far field the root of the mean frame is taken as the beam in the plane of its lens; transformed
    back, it is the focus. The focus, distances on both sides of it, and discs as behind a pinhole are tried:
    the guess that has the lowest R2 after some sweeps over frames in the middle of the scan is returned. In
    the near field, where the beam fills the frame, the guess is constant.

    Parameters
    ----------
    scan : xarray.Dataset
        From `open_scan`.
    diameter : float, optional
        Diameter of a disc of light on the sample, in pixels of the object: nothing else is tried. It and what
        follows are by default what the scan says of its beam (`create_scan`).
    defocus_m : float, optional
        Distance in metres from the focus to the sample along the beam, which is then not looked for. Above
        zero the focus lies before the sample and the beam diverges on it (in electron microscopy,
        overfocus); below zero it lies behind the sample. It needs the pixel size and the wavelength.
    convergence_angle_mrad : float, optional
        Semi-angle of convergence of the beam: an evenly lit aperture takes the place of the root of the mean
        frame. It needs the pixel size and the wavelength.

    Returns
    -------
    (1, y, x) complex64 array
        Its power is the mean count of a frame.

    Warns
    -----
    UserWarning
        Says which guess was chosen, and how well it fits.

    Raises
    ------
    OptionError
        Something known of the beam is impossible, or needs a geometry that the scan lacks.
    """
    given = Beam(diameter, defocus_m, convergence_angle_mrad)
    beam = Beam(**{**scan.attrs.get("beam", {}), **given.known()})
    shape = (scan.sizes["qy"], scan.sizes["qx"])
    if is_near_field(scan.attrs):
        if beam.known():
            raise OptionError(
                f"{', '.join(beam.known())} of the beam is given for a near field; expected none"
            )
        warn_caller(
            "the scan has no probe: the first guess is an even beam (to give another: probe, --probe)"
        )
        return np.ones((1, *shape), dtype=np.complex64)
    part = take_part(scan)
    pixel, wavelength = find_object_pixel(scan.attrs, shape), find_wavelength(scan.attrs)
    if (beam.defocus_m is not None or beam.convergence_angle_mrad is not None) and (
        wavelength is None or "pixel_size_m" not in scan.attrs
    ):
        raise OptionError(
            "the defocus or the convergence angle of the probe is given, but the scan has no wavelength or "
            "no pixel size; expected a scan with both (import with --energy-eV and --pixel-size-m, or with "
            "the distance and the pixel size of the detector), or neither of these options"
        )
    metres = wavelength is not None and "pixel_size_m" in scan.attrs
    optics, whole = (
        _Optics(_find_pupil(beam, mean, own, wavelength))
        for mean, own in ((part.mean, pixel * part.larger), (part.whole_mean, pixel))
    )
    defocus = None if beam.defocus_m is None else beam.defocus_m * (wavelength or 0)
    choice = _choose(beam, defocus, part, optics, pixel)
    # Where one guess fits far better than those of another kind, it is right, and so are the positions.
    doubt = None
    if not beam.known() and choice.residual > DECISIVE * choice.other_residual:
        doubt = _doubt_axes(choice, part, optics)
    warn_caller(_describe(choice, beam, part, pixel, wavelength if metres else None))
    probe = whole.make(choice.guess)[None]
    # A guess that does not fit says nothing of the width of the beam.
    sparse = None if doubt else describe_sparse(measure_overlap(position_in_pixels(take_used(scan)), probe))
    if sparse is not None:
        doubt = f"if this guess is right, {sparse}"
    if doubt is not None:
        warn_caller(doubt)
    return np.asarray(
        probe * (np.sqrt(part.counts / len(part.tile)) / np.linalg.norm(probe)), dtype=np.complex64
    )


def _find_pupil(
    beam: Beam, mean: NDArray[np.float64], pixel: NDArray[np.float64], wavelength: float | None
) -> Pupil:
    if beam.convergence_angle_mrad is None or wavelength is None:
        return Pupil.from_mean_frame(mean, pixel)
    return Pupil.from_convergence_angle(1e-3 * beam.convergence_angle_mrad, wavelength, pixel, mean.shape)


class _Choice(NamedTuple):
    """The guess that is taken, its R2, and the next best of another kind with its own."""

    guess: _Guess
    residual: float
    other: _Guess | None = None
    other_residual: float = np.inf
    early: float = np.inf
    """R2 after as few sweeps as other axes are tried with."""


def _choose(
    beam: Beam, defocus: float | None, part: Part, optics: _Optics, pixel: NDArray[np.float64]
) -> _Choice:
    """Choose among the guesses that are left open by what the user knows."""
    if beam.diameter is not None:
        guesses = [_Guess(defocus or 0.0, beam.diameter / 2 * float(pixel.min()))]
    elif defocus is not None:
        guesses = [_Guess(defocus), _Guess(-defocus)] if defocus else [_Guess(0.0)]
    else:
        guesses = _open_guesses(part, optics, discs=beam.convergence_angle_mrad is None)
    tried = _try(guesses, part, optics)
    if defocus is not None or beam.diameter is not None:
        (own,) = (choice for choice in tried if choice[0] == guesses[0])
        others = [choice for choice in tried if choice is not own]
        return _Choice(*own, *(others[0] if others else ()))
    best, other, early = tried[0], _best_of_another_kind(tried), dict(tried)
    if best[1] > DECISIVE * other[1]:
        # Ten sweeps do not tell: a disc needs more than a pupil that is nearly right.
        discs = [guess for guess in guesses if guess.disc is not None]
        tried = _try([best[0], other[0], *discs], part, optics, LONG)
        best, other = tried[0], _best_of_another_kind(tried)
    elif best[0].defocus:
        finer = [best[0]._replace(defocus=best[0].defocus * factor) for factor in FINER]
        best = min([best, *_try(finer, part, optics)], key=lambda choice: choice[1])
    return _Choice(*best, *other, early.get(best[0], best[1]))


def _doubt_axes(choice: _Choice, part: Part, optics: _Optics) -> str | None:
    """A sentence if the frames fit far better with the axes of the positions arranged in another way.

    Reversing both axes gives the mirror twin, which fits as well with a defocus of the other sign.
    """
    ways = {"with y or x reversed (y-x)": (True, False)}
    if np.ptp(optics.pupil.pixel) == 0 and len(set(part.mean.shape)) == 1:
        ways |= {"with y and x exchanged (xy)": (False, True), "with both of that (x-y)": (True, True)}
    guesses = _open_guesses(part, optics, discs=True)
    found = {}
    for way, (reverse, exchange) in ways.items():
        arranged = part.arrange(reverse=reverse, exchange=exchange)
        found[way] = _try(guesses, arranged, optics)[0][1]
    best = min(found, key=lambda way: found[way])
    if not found[best] < OTHER_AXES * choice.early:
        return None
    return (
        f"the frames fit better with the positions {best}: R2 {found[best]:.3g} instead of "
        f"{choice.early:.3g} after some sweeps (import with another --position-axes)"
    )


def _open_guesses(part: Part, optics: _Optics, *, discs: bool) -> list[_Guess]:
    """The guesses for a beam of which nothing is known."""
    field = float((optics.pupil.pixel * part.mean.shape).min())
    spreads = [sign * optics.pupil.spread_to(radius * field) for radius in RADII for sign in (1, -1)]
    guesses = [_Guess(0.0), *(_Guess(spread) for spread in spreads)]
    if discs:
        radius = estimate_disc_radius(part.frames, optics.pupil.pixel)
        guesses += [_Guess(0.0, factor * radius) for factor in DISCS]
    return guesses


def _best_of_another_kind(tried: Sequence[tuple[_Guess, float]]) -> tuple[_Guess, float]:
    """The best guess that is no neighbour of the first one on the same side of the focus."""
    best = tried[0][0]
    others = (own for own in tried[1:] if own[0].defocus * best.defocus <= 0 or own[0].disc != best.disc)
    return next(others, tried[1])


def _try(
    guesses: Sequence[_Guess], part: Part, optics: _Optics, more: int = MORE_SWEEPS
) -> list[tuple[_Guess, float]]:
    """Each guess with its R2 after some sweeps, the best first."""
    keep = BEST if more == MORE_SWEEPS else len(guesses)
    trials: list[Trial] = try_probes(part, [optics.make(guess) for guess in guesses], more, keep)
    return [(guesses[trial.number], trial.residual) for trial in trials]


def _describe(
    choice: _Choice, beam: Beam, part: Part, pixel: NDArray[np.float64], wavelength: float | None
) -> str:
    """Say what the first guess is, how well it fits, and what gives another."""

    def name(guess: _Guess) -> str:
        if guess.disc is not None:
            return f"a disc of {2 * guess.disc / pixel.min():.0f} pixels"
        lens = "the root of the mean frame" if beam.convergence_angle_mrad is None else "the aperture"
        if not guess.defocus:
            return f"{lens} in focus"
        side = "before" if guess.defocus > 0 else "behind"
        if wavelength is not None:
            distance = guess.defocus / wavelength
            return f"{lens}, its focus {side} the sample (defocus {distance:.3g} m)"
        return f"{lens}, its focus {side} the sample"

    after = f"R2 {choice.residual:.3g} after some sweeps of {len(part.tile)} frames"
    said = f"the scan has no probe: the first guess is {name(choice.guess)}, {after}"
    if choice.other is not None:
        said += f"; {name(choice.other)}: {choice.other_residual:.3g}"
    if beam.defocus_m and choice.other_residual < OTHER_SIGN * choice.residual:
        return f"{said}: the other sign of the defocus fits better (defocus_m, --probe-defocus-m)"
    return f"{said} (to give another: probe, --probe, or defocus_m, --probe-defocus-m)"
