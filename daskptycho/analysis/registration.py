"""Register one complex image to another: sub-pixel shift, linear phase ramp, phase and scale.

A ptychographic image is known only up to a constant factor, a shift and a linear phase ramp
(the probe takes up the opposite of each). This module works on whole NumPy arrays in memory; `metrics` calls
it and passes its public names on to everyone else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter, minimum_filter
from scipy.ndimage import shift as spline_shift
from scipy.signal.windows import tukey
from skimage.registration import phase_cross_correlation

from daskptycho.errors import OptionError

__all__ = ["Registration", "check_images", "register", "subtract_mean", "taper_window"]

# Largest side, in pixels, of the box in which the first guess is searched.
COARSE_SIZE = 1024
# Pixels this close to the border are ignored: interpolation lacks half of their neighbours.
MARGIN = 2
REFINEMENT_STEPS = 40
# Blur of the damping, in pixels: if it is much steeper it rings, if it is wider noise leaks.
DAMPING_WIDTH = 4.0
# Damping below this value is not undone: dividing by it would amplify noise only.
LEAST_DAMPING = 0.01
# Two guesses closer than this, in pixels, lead to the same result.
NEAR = 0.5


@dataclass(frozen=True)
class Registration:
    """An image registered to its reference.

    ``image[r] = scale * exp(1j * ramp . (r - centre)) * original[r - shift]`` with r the pixel
    ``[y, x]`` and centre ``(shape - 1) / 2``.

    Attributes
    ----------
    image : (y, x) complex array
        The registered copy. Pixels outside the original, and pixels that had no weight, hold a smooth
        extrapolation and have weight zero.
    weight : (y, x) float64 array
        The smaller of the weight of the pixel in the reference and the weight of the pixel that was moved
        there; zero where the registered copy has no pixel of its own.
    shift : (float, float)
        Pixels along y and x by which the original was moved.
    ramp : (float, float)
        Phase ramp that was added, in radians per pixel along y and x.
    scale : complex
        Complex factor that was applied.
    """

    image: NDArray
    weight: NDArray[np.float64]
    shift: tuple[float, float]
    ramp: tuple[float, float]
    scale: complex


def register(image: ArrayLike, reference: ArrayLike, weight: ArrayLike | None = None) -> Registration:
    """Register an image to its reference: sub-pixel shift, linear phase ramp, phase and scale.

    The first guess takes the shift and the ramp from the peaks of two cross-correlations, one of the images
    and one of their spectra. Because a shift hides a ramp and a ramp a shift, the two are found in turn, from
    three different starts. Gauss-Newton steps on the weighted squared difference then refine shift, ramp and
    scale.

    Parameters
    ----------
    image, reference : (y, x) arrays
        Complex or real, of the same shape.
    weight : (y, x) array, optional
        Weight of each pixel, zero or more; all pixels count alike if it is not given. The illumination is a
        good choice: it keeps a noisy rim from influencing the result.

    Returns
    -------
    Registration
        The registered image, its weight, and the shift, ramp and scale that were applied.

    Raises
    ------
    OptionError
        The shapes differ, the weight is negative or not finite, or an image is zero wherever the weight is
        positive.
    """
    a, b, w = check_images(image, reference, weight)
    a = _extrapolate(a, w)
    shift, ramp = _guess_shift_and_ramp(a, b, w)
    return _refine(a, b, w, shift, ramp)


def check_images(
    image: ArrayLike, reference: ArrayLike, weight: ArrayLike | None
) -> tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.float64]]:
    """Return both images in double precision and the weight, one everywhere if none is given.

    Raises
    ------
    OptionError
        As for `register`.
    """
    a, b = np.asarray(image, dtype=complex), np.asarray(reference, dtype=complex)
    if a.shape != b.shape or a.ndim != 2:
        raise OptionError(
            f"images are {a.shape} and {b.shape}; expected two images of one shape (see common_region)"
        )
    w = np.ones(a.shape) if weight is None else np.asarray(weight, dtype=float)
    if w.shape != a.shape:
        raise OptionError(f"weight is {w.shape}; expected {a.shape} like the images")
    if not (np.isfinite(w).all() and w.min() >= 0):
        raise OptionError(
            "weight has values that are negative or not finite; expected zero or more everywhere"
        )
    for name, values in (("image", a), ("reference", b)):
        if not np.isfinite(values).all():
            raise OptionError(f"{name} has values that are not finite; expected finite numbers everywhere")
        if not np.any(w * np.abs(values)):
            raise OptionError(f"{name} is zero wherever the weight is positive; there is nothing to compare")
    return a, b, w


def taper_window(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Make a Tukey window, which falls to zero at the edges and tapers half of each axis."""
    # Two points more than pixels, because the zeros at both ends would waste a pixel each.
    y, x = (tukey(size + 2, 0.5)[1:-1] for size in shape)
    return np.outer(y, x)


def subtract_mean(image: NDArray, w: NDArray) -> NDArray:
    """Subtract the weighted mean from an image."""
    return image - np.sum(w * image) / np.sum(w)


def _subtract_plane(image: NDArray, w: NDArray) -> NDArray:
    """Subtract the weighted least-squares plane from an image.

    A plane looks the same everywhere and would draw the peak of a correlation towards zero shift.
    """
    planes = [np.ones(image.shape), *np.broadcast_arrays(*_coordinates(image.shape))]
    normal = np.array([[np.sum(w * p * q) for q in planes] for p in planes])
    right = np.array([np.sum(w * p * image) for p in planes])
    flat = image
    for plane, factor in zip(planes, np.linalg.lstsq(normal, right)[0], strict=True):
        flat = flat - factor * plane
    # What is left of an image that is a plane is rounding error, which must not be correlated.
    return flat if np.abs(flat).max() > 1e-12 * np.abs(image).max() else np.zeros_like(flat)


def _guess_shift_and_ramp(a: NDArray, b: NDArray, w: NDArray) -> tuple[NDArray, NDArray]:
    """Find shift and ramp to a fraction of a pixel and of a period over the field, from three starts."""
    box = _brightest_box(w)
    a, b, w = a[box], b[box], np.sqrt(w[box]) * taper_window(w[box].shape)
    r = _coordinates(a.shape)
    target = w * _subtract_plane(b, w)

    def move(shift: NDArray) -> NDArray:
        # A shift by whole pixels leaks no noise from the rim, and the first guess needs no more.
        return _shift_image(a, np.rint(shift))[0]

    def find_ramp(shift: NDArray) -> NDArray:
        # The product of two images peaks in Fourier space at the ramp between them. The origin has to lie
        # in the corner for fractions of a period to be resolved.
        pair = [fft.ifftshift(w * image) for image in (b, move(shift))]
        bins = phase_cross_correlation(*pair, space="fourier", upsample_factor=100, normalization=None)[0]
        return -2 * np.pi * bins / a.shape

    def find_shift(ramp: NDArray) -> NDArray:
        return _find_shift(target, w * _subtract_plane(a * np.exp(1j * _ramp_phase(ramp, r)), w))

    def correlate(shift: NDArray, ramp: NDArray) -> float:
        inside = _common_weight(w, np.rint(shift))
        if not inside.any():
            return 0.0
        ramped = move(shift) * np.exp(1j * _ramp_phase(ramp, r))
        p, q = (inside * _subtract_plane(image, inside) for image in (ramped, b))
        return float(np.abs(np.vdot(p, q)) / (np.linalg.norm(p) * np.linalg.norm(q) + 1e-300))

    spectra = [np.abs(fft.fftshift(fft.fft2(w * image))) for image in (b, a)]
    starts = [
        np.zeros(2),
        _find_shift(*(w * _subtract_plane(np.abs(image), w) for image in (b, a))),
        # The magnitude of a spectrum does not depend on the shift, so it gives the ramp first.
        find_shift(2 * np.pi * _find_shift(*(values - values.mean() for values in spectra)) / a.shape),
    ]
    best, found = -1.0, (np.zeros(2), np.zeros(2))
    visited: list[NDArray] = []
    for shift in starts:
        for _ in range(3):
            if any(np.abs(shift - other).max() < NEAR for other in visited):
                break
            visited.append(shift)
            ramp = find_ramp(shift)
            agreement = correlate(shift, ramp)
            if agreement > best:
                best, found = agreement, (shift, ramp)
            shift = find_shift(ramp)
    return found


def _refine(a: NDArray, b: NDArray, w: NDArray, shift: NDArray, ramp: NDArray) -> Registration:
    """Refine shift, ramp and complex scale by Gauss-Newton steps; a step that does not help is halved."""
    r = _coordinates(a.shape)
    half = np.array(a.shape) / 2
    damping = _damping(w)
    inside = _common_weight(w, shift)
    if not inside.any():
        shift, inside = np.zeros(2), _common_weight(w, np.zeros(2))
    # The mask stays fixed while the shift changes; otherwise the cost would follow the mask.
    total = np.sum(inside * np.abs(b) ** 2)
    best = None
    step = np.zeros(4)
    for _ in range(REFINEMENT_STEPS):
        trial_shift, trial_ramp = shift + step[:2], ramp + step[2:]
        ramped = np.exp(1j * _ramp_phase(trial_ramp, r))
        moved, slope_y, slope_x = (values * ramped for values in _shift_damped(a, damping, trial_shift))
        size = np.sum(inside * np.abs(moved) ** 2)
        scale = np.vdot(moved, inside * b) / size if size > 0 else 0j
        rest = b - scale * moved
        cost = np.sum(inside * np.abs(rest) ** 2) / total
        if best is not None and cost >= best[0]:
            step = step / 2
            if max(np.abs(step[:2]).max(), np.abs(step[2:] * half).max()) < 1e-5:
                break
            continue
        gained = np.inf if best is None else best[0] - cost
        best = (cost, scale, moved)
        shift, ramp = trial_shift, trial_ramp
        if gained < 1e-12 * cost or cost < 1e-20:
            break
        columns = [-scale * slope_y, -scale * slope_x, 1j * r[0] * scale * moved, 1j * r[1] * scale * moved]
        columns += [moved, 1j * moved]
        normal = np.array([[np.vdot(p, inside * q).real for q in columns] for p in columns])
        right = np.array([np.vdot(p, inside * rest).real for p in columns])
        unit = 1 / np.sqrt(np.maximum(np.diag(normal), 1e-300))
        step = (unit * np.linalg.lstsq(normal * np.outer(unit, unit), right * unit, rcond=1e-9)[0])[:4]
    assert best is not None
    _, scale, moved = best
    return Registration(
        scale * moved,
        _common_weight(w, shift),
        (float(shift[0]), float(shift[1])),
        (float(ramp[0]), float(ramp[1])),
        complex(scale),
    )


def _shift_image(image: NDArray, shift: NDArray, slopes: bool = False) -> list[NDArray]:
    """Move an image by `shift` pixels; with `slopes`, return its slopes along y and x as well.

    Each axis is extended by its mirror image, so that the Fourier series has no jump.
    """
    moved = [image]
    for axis, by in enumerate(shift):
        size = image.shape[axis]
        omega = 2 * np.pi * fft.fftfreq(2 * size)
        # The Nyquist frequency has no sign, so only the real part of its factor applies.
        factor = np.exp(-1j * omega * by)
        factor[size] = factor[size].real
        derivative = 1j * omega * factor
        derivative[size] = 0
        new = []
        for number, values in enumerate(moved):
            if by == 0 and not slopes:
                new.append(values)
                continue
            mirrored = np.concatenate([values, np.flip(values, axis)], axis)
            spectrum = np.moveaxis(fft.fft(mirrored, axis=axis, workers=-1), axis, -1)
            wanted = [factor, derivative] if slopes and number == 0 else [factor]
            for multiplier in wanted:
                back = fft.ifft(spectrum * multiplier, axis=-1, workers=-1)[..., :size]
                new.append(np.moveaxis(back, -1, axis))
        # The image comes first, then the slope along y, then the one along x.
        moved = new if len(new) < 3 else [new[0], new[2], new[1]]
    return moved


def _shift_damped(image: NDArray, damping: NDArray, shift: NDArray) -> list[NDArray]:
    """Move an image by `shift` and return it with its slopes, without leaking noise from the rim.

    A sub-pixel shift spreads the noise of each pixel far along its row. The image is therefore damped where
    the weight is low, moved, and divided by the damping moved in the same way.
    """
    if damping.min() == damping.max():
        return _shift_image(image, shift, slopes=True)
    moved, *slopes = _shift_image(damping * image, shift, slopes=True)
    moved_damping = np.maximum(spline_shift(damping, shift, mode="reflect"), LEAST_DAMPING)
    image = moved / moved_damping
    bends = np.gradient(moved_damping)
    return [
        image,
        *((slope - image * bend) / moved_damping for slope, bend in zip(slopes, bends, strict=True)),
    ]


def _extrapolate(image: NDArray, w: NDArray) -> NDArray:
    """Replace pixels without weight by a smooth extrapolation of the others."""
    if w.min() > 0:
        return image
    share = gaussian_filter(w / w.max(), DAMPING_WIDTH)
    blurred = gaussian_filter(image * (w / w.max()), DAMPING_WIDTH)
    return np.where(w > 0, image, blurred / np.maximum(share, LEAST_DAMPING))


def _damping(w: NDArray) -> NDArray[np.float64]:
    """Factor that evens out noise of standard deviation one over the root of the weight.

    It is blurred so that a shifted image does not ring.
    """
    return gaussian_filter(np.sqrt(w / w.max()), DAMPING_WIDTH)


def _common_weight(w: NDArray, shift: NDArray) -> NDArray[np.float64]:
    """The smaller of the weights that a pixel has in the reference and in the image moved over it."""
    margin = min(MARGIN, min(w.shape) // 8)
    own = minimum_filter(w, 2 * margin + 1, mode="constant")
    return np.minimum(w, spline_shift(own, shift, order=1))


def _coordinates(shape: tuple[int, ...]) -> tuple[NDArray, NDArray]:
    """Distance of each pixel from the centre along y and x, in arrays that broadcast."""
    y, x = (np.arange(size) - (size - 1) / 2 for size in shape)
    return y[:, None], x[None, :]


def _ramp_phase(ramp: NDArray, r: tuple[NDArray, NDArray]) -> NDArray:
    """Phase of a linear ramp at each pixel."""
    return ramp[0] * r[0] + ramp[1] * r[1]


def _find_shift(reference: NDArray, moving: NDArray) -> NDArray:
    """Shift that lays `moving` over `reference`, to a tenth of a pixel; zero if either image is zero."""
    if not (reference.any() and moving.any()):
        return np.zeros(2)
    return np.asarray(phase_cross_correlation(reference, moving, upsample_factor=10, normalization=None)[0])


def _brightest_box(w: NDArray) -> tuple[slice, slice]:
    """Box of at most `COARSE_SIZE` pixels per side around the centre of mass of the weight."""
    slices = []
    for axis, size in enumerate(w.shape):
        profile = w.sum(axis=1 - axis)
        centre = int(np.sum(np.arange(size) * profile) / np.sum(profile))
        width = min(size, COARSE_SIZE)
        start = min(max(centre - width // 2, 0), size - width)
        slices.append(slice(start, start + width))
    return slices[0], slices[1]
