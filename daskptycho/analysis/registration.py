"""Laying one complex image over another: sub-pixel shift, linear phase ramp, phase and scale.

A ptychographic image is known only up to a constant factor, a shift and a linear phase ramp
(the probe takes up the opposite of each). Pure NumPy and SciPy on whole images in memory;
`metrics` calls it, and gives its public names to everyone else.
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

__all__ = ["Registration", "centred", "checked_images", "register", "tapered"]

# The first guess is looked for in a box of at most this many pixels a side.
COARSE_SIZE = 1024
# Interpolation beside the border knows only half of its neighbours.
MARGIN = 2
REFINEMENT_STEPS = 40
# Blur of the damping, in pixels: much steeper, and its own ringing is seen; wider, and noise leaks.
TRUST_WIDTH = 4.0
# Where less than this is left of a damped pixel, dividing would bring back nothing but noise.
LEAST_TRUST = 0.01
# Two guesses this near to each other, in pixels, lead to the same place.
NEAR = 0.5


@dataclass(frozen=True)
class Registration:
    """An image laid over its reference.

    ``image[r] = scale * exp(1j * ramp . (r - centre)) * original[r - shift]`` with r the pixel
    ``[y, x]`` and centre ``(shape - 1) / 2``.

    Attributes
    ----------
    image : (y, x) complex array
        The registered copy. What lies outside it, and what had no weight, is a smooth guess of
        weight zero.
    weight : (y, x) float64 array
        The weight asked for or, where that is less, the one of the pixel that was moved there;
        zero where the registered copy has no pixel of its own.
    shift : (float, float)
        Pixels along y and x by which the image was moved.
    ramp : (float, float)
        Radians a pixel along y and x that were added to its phase.
    scale : complex
        Factor that was applied.
    """

    image: NDArray
    weight: NDArray[np.float64]
    shift: tuple[float, float]
    ramp: tuple[float, float]
    scale: complex


def register(image: ArrayLike, reference: ArrayLike, weight: ArrayLike | None = None) -> Registration:
    """Lay an image over its reference: sub-pixel shift, linear phase ramp, phase and scale.

    The first guess takes the shift and the ramp as peaks of two cross-correlations, of the
    images and of their spectra, in turns and from three starts, because each hides the other;
    Gauss-Newton steps on the weighted squared difference do the rest.

    Parameters
    ----------
    image, reference : (y, x) arrays
    weight : (y, x) array, optional
        Not negative: the illumination, say, so that a noisy rim has no say.

    Raises
    ------
    OptionError
        Shapes that differ, a weight that is negative or not finite, a reference of zero.
    """
    a, b, w = checked_images(image, reference, weight)
    a = _continued(a, w)
    shift, ramp = _coarse(a, b, w)
    return _refined(a, b, w, shift, ramp)


def checked_images(
    image: ArrayLike, reference: ArrayLike, weight: ArrayLike | None
) -> tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.float64]]:
    """Both images in double precision and a weight that makes sense."""
    a, b = np.asarray(image, dtype=complex), np.asarray(reference, dtype=complex)
    if a.shape != b.shape or a.ndim != 2:
        raise OptionError(
            f"images are {a.shape} and {b.shape}; expected two images of one shape (see common_region)"
        )
    w = np.ones(a.shape) if weight is None else np.asarray(weight, dtype=float)
    if w.shape != a.shape:
        raise OptionError(f"weight is {w.shape}; expected {a.shape} like the images")
    if not (np.isfinite(w).all() and w.min() >= 0):
        raise OptionError("weight has negative or not finite values; expected zero or more everywhere")
    for name, values in (("image", a), ("reference", b)):
        if not np.isfinite(values).all():
            raise OptionError(f"{name} holds values that are not finite; expected complex numbers everywhere")
        if not np.any(w * np.abs(values)):
            raise OptionError(f"{name} is zero wherever the weight is positive; there is nothing to compare")
    return a, b, w


def tapered(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Window that falls to zero at the edges over half of each axis (Tukey)."""
    # Two more points than pixels: the window's own zeros at both ends would waste a pixel each.
    y, x = (tukey(size + 2, 0.5)[1:-1] for size in shape)
    return np.outer(y, x)


def centred(image: NDArray, w: NDArray) -> NDArray:
    """Image less its weighted mean."""
    return image - np.sum(w * image) / np.sum(w)


def _flattened(image: NDArray, w: NDArray) -> NDArray:
    """Image less its weighted plane: that has no place, and only draws a peak towards zero."""
    planes = [np.ones(image.shape), *np.broadcast_arrays(*_coordinates(image.shape))]
    normal = np.array([[np.sum(w * p * q) for q in planes] for p in planes])
    right = np.array([np.sum(w * p * image) for p in planes])
    flat = image
    for plane, factor in zip(planes, np.linalg.lstsq(normal, right)[0], strict=True):
        flat = flat - factor * plane
    # An image that is a plane leaves rounding errors, and they have no place either.
    return flat if np.abs(flat).max() > 1e-12 * np.abs(image).max() else np.zeros_like(flat)


def _coarse(a: NDArray, b: NDArray, w: NDArray) -> tuple[NDArray, NDArray]:
    """Shift and ramp to a fraction of a pixel and of a period over the field, from three starts."""
    box = _brightest_box(w)
    a, b, w = a[box], b[box], np.sqrt(w[box]) * tapered(w[box].shape)
    r = _coordinates(a.shape)
    target = w * _flattened(b, w)

    def whole(shift: NDArray) -> NDArray:
        # By whole pixels no noise leaks from a wild rim, and the first guess needs no more.
        return _shifted(a, np.rint(shift))[0]

    def ramp_after(shift: NDArray) -> NDArray:
        # A product of images peaks in Fourier space at the ramp between them; the origin has to
        # lie in the corner for a fraction of a period to be seen.
        pair = [fft.ifftshift(w * image) for image in (b, whole(shift))]
        bins = phase_cross_correlation(*pair, space="fourier", upsample_factor=100, normalization=None)[0]
        return -2 * np.pi * bins / a.shape

    def shift_after(ramp: NDArray) -> NDArray:
        return _peak(target, w * _flattened(a * np.exp(1j * _dot(ramp, r)), w))

    def agreement_of(shift: NDArray, ramp: NDArray) -> float:
        inside = _shared(w, np.rint(shift))
        if not inside.any():
            return 0.0
        turned = whole(shift) * np.exp(1j * _dot(ramp, r))
        p, q = (inside * _flattened(image, inside) for image in (turned, b))
        return float(np.abs(np.vdot(p, q)) / (np.linalg.norm(p) * np.linalg.norm(q) + 1e-300))

    spectra = [np.abs(fft.fftshift(fft.fft2(w * image))) for image in (b, a)]
    starts = [
        np.zeros(2),
        _peak(*(w * _flattened(np.abs(image), w) for image in (b, a))),
        # Magnitudes of spectra do not know the shift, so they give the ramp first.
        shift_after(2 * np.pi * _peak(*(values - values.mean() for values in spectra)) / a.shape),
    ]
    best, found = -1.0, (np.zeros(2), np.zeros(2))
    visited: list[NDArray] = []
    for shift in starts:
        for _ in range(3):
            if any(np.abs(shift - other).max() < NEAR for other in visited):
                break
            visited.append(shift)
            ramp = ramp_after(shift)
            agreement = agreement_of(shift, ramp)
            if agreement > best:
                best, found = agreement, (shift, ramp)
            shift = shift_after(ramp)
    return found


def _refined(a: NDArray, b: NDArray, w: NDArray, shift: NDArray, ramp: NDArray) -> Registration:
    """Gauss-Newton on shift, ramp and complex scale; a step that does not help is halved."""
    r = _coordinates(a.shape)
    half = np.array(a.shape) / 2
    trust = _trust(w)
    inside = _shared(w, shift)
    if not inside.any():
        shift, inside = np.zeros(2), _shared(w, np.zeros(2))
    # The mask stays while the shift moves, or the cost would follow the mask and not the images.
    total = np.sum(inside * np.abs(b) ** 2)
    best = None
    step = np.zeros(4)
    for _ in range(REFINEMENT_STEPS):
        trial_shift, trial_ramp = shift + step[:2], ramp + step[2:]
        turned = np.exp(1j * _dot(trial_ramp, r))
        moved, slope_y, slope_x = (values * turned for values in _shifted_by_trust(a, trust, trial_shift))
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
        _shared(w, shift),
        (float(shift[0]), float(shift[1])),
        (float(ramp[0]), float(ramp[1])),
        complex(scale),
    )


def _shifted(image: NDArray, shift: NDArray, slopes: bool = False) -> list[NDArray]:
    """Image moved by `shift` pixels and, if asked for, its slopes along y and x there.

    Each axis is continued by its mirror image, so that the Fourier series sees no jump.
    """
    moved = [image]
    for axis, by in enumerate(shift):
        size = image.shape[axis]
        omega = 2 * np.pi * fft.fftfreq(2 * size)
        # Nyquist has no sign: the real part of its factor is what a shift leaves of it.
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


def _shifted_by_trust(image: NDArray, trust: NDArray, shift: NDArray) -> list[NDArray]:
    """Image moved by `shift` and its slopes, where a wild rim must not leak into what is trusted.

    A sub-pixel shift carries each pixel's noise far along its row, so the image is damped where
    nothing shone, moved, and divided by the damping moved alike.
    """
    if trust.min() == trust.max():
        return _shifted(image, shift, slopes=True)
    moved, *slopes = _shifted(trust * image, shift, slopes=True)
    damping = np.maximum(spline_shift(trust, shift, mode="reflect"), LEAST_TRUST)
    image = moved / damping
    bends = np.gradient(damping)
    return [image, *((slope - image * bend) / damping for slope, bend in zip(slopes, bends, strict=True))]


def _continued(image: NDArray, w: NDArray) -> NDArray:
    """Image continued smoothly over the pixels without weight, whatever they hold."""
    if w.min() > 0:
        return image
    share = gaussian_filter(w / w.max(), TRUST_WIDTH)
    blurred = gaussian_filter(image * (w / w.max()), TRUST_WIDTH)
    return np.where(w > 0, image, blurred / np.maximum(share, LEAST_TRUST))


def _trust(w: NDArray) -> NDArray[np.float64]:
    """Makes the noise even, where it goes as one over the weight's root; smooth, or it would ring."""
    return gaussian_filter(np.sqrt(w / w.max()), TRUST_WIDTH)


def _shared(w: NDArray, shift: NDArray) -> NDArray[np.float64]:
    """Weight that a pixel has both in the reference and in the image moved over it."""
    margin = min(MARGIN, min(w.shape) // 8)
    own = minimum_filter(w, 2 * margin + 1, mode="constant")
    return np.minimum(w, spline_shift(own, shift, order=1))


def _coordinates(shape: tuple[int, ...]) -> tuple[NDArray, NDArray]:
    """Pixels along y and x from the centre, ready to broadcast."""
    y, x = (np.arange(size) - (size - 1) / 2 for size in shape)
    return y[:, None], x[None, :]


def _dot(ramp: NDArray, r: tuple[NDArray, NDArray]) -> NDArray:
    return ramp[0] * r[0] + ramp[1] * r[1]


def _peak(reference: NDArray, moving: NDArray) -> NDArray:
    """Shift that lays `moving` over `reference`, to a tenth of a pixel; none for an empty image."""
    if not (reference.any() and moving.any()):
        return np.zeros(2)
    return np.asarray(phase_cross_correlation(reference, moving, upsample_factor=10, normalization=None)[0])


def _brightest_box(w: NDArray) -> tuple[slice, slice]:
    """The box of at most `COARSE_SIZE` pixels a side around the weight's centre of mass."""
    slices = []
    for axis, size in enumerate(w.shape):
        profile = w.sum(axis=1 - axis)
        centre = int(np.sum(np.arange(size) * profile) / np.sum(profile))
        width = min(size, COARSE_SIZE)
        start = min(max(centre - width // 2, 0), size - width)
        slices.append(slice(start, start + width))
    return slices[0], slices[1]
