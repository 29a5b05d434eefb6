"""How close two complex images are: relative error, registration and Fourier ring correlation.

A ptychographic image is known only up to a constant factor, a shift and a linear phase ramp, so two images
are compared after `register`. This module works on whole images in memory and knows nothing of scans, tiles
or algorithms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from scipy.ndimage import distance_transform_edt

from daskptycho.analysis.registration import Registration, check_images, register, subtract_mean, taper_window
from daskptycho.errors import OptionError

__all__ = [
    "FRC",
    "Comparison",
    "Registration",
    "common_region",
    "compare_images",
    "fourier_ring_correlation",
    "register",
    "relative_error",
]

# Pixels darker than this fraction of the brightest are left out of a Fourier ring correlation.
DIM_SHARE = 0.1
# Rings of fewer independent pixels do not decide where the correlation ends.
FEWEST_IN_RING = 4


@dataclass(frozen=True)
class FRC:
    """Fourier ring correlation of two images.

    Attributes
    ----------
    frequency : (ring,) float64 array
        Spatial frequency in cycles per unit of the pixel size, up to the Nyquist frequency.
    correlation : (ring,) float64 array
        Correlation in each ring: 1 where both images agree, 0 where they share nothing.
    threshold : (ring,) float64 array
        Half-bit threshold of each ring.
    crossing : float or None
        Frequency at which the correlation first falls below the threshold; None if it stays above up to the
        Nyquist frequency.
    """

    frequency: NDArray[np.float64]
    correlation: NDArray[np.float64]
    threshold: NDArray[np.float64]
    crossing: float | None

    @property
    def resolution(self) -> float | None:
        """Full period at the crossing in the unit of the pixel size; None without a crossing."""
        return None if self.crossing is None else 1 / self.crossing


@dataclass(frozen=True)
class Comparison:
    """An image compared with its reference.

    Attributes
    ----------
    error : float
        Relative error after registration.
    registration : Registration
        The registered image, its weight, and the shift, ramp and scale that were applied.
    frc : FRC
        Fourier ring correlation of the registered image and the reference.
    """

    error: float
    registration: Registration
    frc: FRC


def relative_error(image: ArrayLike, reference: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Relative distance between two images, independent of their global phases.

    It is the minimum of ``norm(sqrt(w) (c image - reference)) / norm(sqrt(w) reference)`` over all factors
    ``|c| = 1``, with ``w`` the weight.

    Parameters
    ----------
    image, reference : (y, x) arrays
        Complex or real, of the same shape.
    weight : (y, x) array, optional
        Weight of each pixel, zero or more; all pixels count alike if it is not given.

    Returns
    -------
    float
        0 if the images are equal up to a global phase.

    Raises
    ------
    OptionError
        The shapes differ, the weight is negative or not finite, or an image is zero wherever the weight is
        positive.
    """
    a, b, w = check_images(image, reference, weight)
    inner = np.vdot(a, w * b)
    # The difference itself is summed: 1 - |<a, b>| would lose errors below 1e-8 to rounding.
    difference = np.exp(1j * np.angle(inner)) * a - b
    return float(np.sqrt(np.sum(w * np.abs(difference) ** 2) / np.sum(w * np.abs(b) ** 2)))


def fourier_ring_correlation(
    a: ArrayLike, b: ArrayLike, pixel_size: float = 1.0, window: ArrayLike | None = None
) -> FRC:
    """Correlate two registered images in rings of spatial frequency, with the half-bit threshold.

    Parameters
    ----------
    a, b : (y, x) arrays
        Registered images of the same shape; a global phase between them is removed.
    pixel_size : float
        Size of a pixel in any unit; frequencies are in cycles per that unit.
    window : (y, x) array, optional
        Window that falls to zero at the edges, which would otherwise correlate at all frequencies. If it is
        not given, a Tukey window that tapers half of each axis.

    Returns
    -------
    FRC
        Frequencies, correlation, threshold and the frequency at which they cross.

    Raises
    ------
    OptionError
        The shapes differ, or the pixel size is not positive.

    Notes ----- The threshold is the half-bit curve of M. van Heel and M. Schatz, "Fourier shell correlation
    threshold criteria", J. Struct. Biol. 151, 250 (2005), for n independent pixels in a ring. A window leaves
    fewer pixels independent: n is the number of pixels in the ring times ``(sum w^2)^2 / (size sum w^4)``.
    """
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape or first.ndim != 2:
        raise OptionError(f"images are {first.shape} and {second.shape}; expected two images of one shape")
    if not (np.isfinite(pixel_size) and pixel_size > 0):
        raise OptionError(f"pixel_size is {pixel_size}; expected a positive number")
    taper = taper_window(first.shape) if window is None else np.asarray(window, dtype=float)
    spectrum_a, spectrum_b = (_windowed_spectrum(image, taper) for image in (first, second))
    spectrum_a = spectrum_a * np.exp(1j * np.angle(np.vdot(spectrum_a, spectrum_b)))

    height, width = first.shape
    smallest = min(height, width)
    radius = np.hypot(fft.fftfreq(height)[:, None], fft.fftfreq(width)[None, :])
    ring = np.rint(radius * smallest).astype(int).ravel()
    rings = smallest // 2 + 1

    def ring_sum(values: NDArray) -> NDArray:
        return np.bincount(ring, values.ravel(), minlength=rings)[1:rings]

    cross = ring_sum((spectrum_a * spectrum_b.conj()).real)
    power = np.sqrt(ring_sum(np.abs(spectrum_a) ** 2) * ring_sum(np.abs(spectrum_b) ** 2))
    correlation = np.divide(cross, power, out=np.zeros_like(cross), where=power > 0)
    share = np.sum(taper**2) ** 2 / (taper.size * np.sum(taper**4))
    independent = np.maximum(ring_sum(np.ones(first.shape)) * share, 1.0)
    root = 1 / np.sqrt(independent)
    threshold = (0.2071 + 1.9102 * root) / (1.2071 + 0.9102 * root)
    frequency = np.arange(1, rings) / (smallest * pixel_size)
    crossing = _find_crossing(
        frequency, correlation - threshold, int(np.argmax(independent >= FEWEST_IN_RING))
    )
    return FRC(frequency, correlation, threshold, crossing)


def compare_images(
    image: ArrayLike, reference: ArrayLike, weight: ArrayLike | None = None, pixel_size: float = 1.0
) -> Comparison:
    """Register an image to its reference and measure how close it comes.

    Parameters
    ----------
    image, reference : (y, x) arrays
        Complex or real, of the same shape.
    weight : (y, x) array, optional
        Weight of each pixel, zero or more; all pixels count alike if it is not given. The Fourier ring
        correlation uses the pixels whose weight exceeds a tenth of its 99th percentile, with soft edges.
    pixel_size : float
        Size of a pixel in any unit; the frequencies of the Fourier ring correlation are in cycles per that
        unit.

    Returns
    -------
    Comparison
        ``error`` is the `relative_error` after registration. ``registration`` has the shift in pixels, the
        ramp in radians per pixel, the scale and the registered image. ``frc`` has the frequencies, the
        correlation, the half-bit threshold and the resolution at which they cross.

    Raises
    ------
    OptionError
        The shapes differ, the weight is negative or not finite, an image is zero wherever the weight is
        positive, or the pixel size is not positive.
    """
    registration = register(image, reference, weight)
    target = np.asarray(reference)
    error = relative_error(registration.image, target, registration.weight)
    window = _soft_window(registration.weight)
    inside = np.ix_(window.any(axis=1), window.any(axis=0))
    frc = fourier_ring_correlation(registration.image[inside], target[inside], pixel_size, window[inside])
    return Comparison(error, registration, frc)


def common_region(a: xr.DataArray, b: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Crop two images to the coordinates that both cover.

    Grids that are offset by a fraction of a pixel are paired by their nearest pixels; `compare_images` finds
    the fraction.

    Parameters
    ----------
    a, b : DataArray (y, x)
        Images with evenly spaced coordinates ``y`` and ``x`` in the same unit.

    Returns
    -------
    tuple of DataArray
        Both images, cropped to the same shape.

    Raises
    ------
    OptionError
        The units or the pixel sizes differ, or the images do not overlap.
    """
    for axis in ("y", "x"):
        units = [image[axis].attrs.get("units") for image in (a, b)]
        if units[0] != units[1]:
            raise OptionError(f"coordinate {axis} is in {units[0]} and in {units[1]}; expected one unit")
        starts = [float(image[axis][0]) for image in (a, b)]
        step, other = (
            float(image[axis][-1] - image[axis][0]) / max(image.sizes[axis] - 1, 1) for image in (a, b)
        )
        if abs(step - other) * max(a.sizes[axis], b.sizes[axis]) > 0.5 * abs(step):
            raise OptionError(f"pixels along {axis} are {step:g} and {other:g}; expected the same pixel size")
        offset = round((starts[1] - starts[0]) / step) if step else 0
        size = min(a.sizes[axis] - max(offset, 0), b.sizes[axis] - max(-offset, 0))
        if size < 1:
            raise OptionError(
                f"the images have no coordinates along {axis} in common; compare overlapping images"
            )
        a = a.isel({axis: slice(max(offset, 0), max(offset, 0) + size)})
        b = b.isel({axis: slice(max(-offset, 0), max(-offset, 0) + size)})
    return a, b


def _soft_window(weight: NDArray) -> NDArray[np.float64]:
    """Window that is one inside the bright part and falls to zero at its edge over half of its depth."""
    bright = weight > DIM_SHARE * np.percentile(weight[weight > 0], 99)
    depth = distance_transform_edt(np.pad(bright, 1))[1:-1, 1:-1]
    return np.sin(np.pi / 2 * np.clip(depth / (0.5 * depth.max()), 0, 1)) ** 2


def _windowed_spectrum(image: NDArray, window: NDArray) -> NDArray:
    """Spectrum of a windowed image without its mean, which would leak into every ring."""
    return fft.fft2(window * subtract_mean(image, window))


def _find_crossing(frequency: NDArray, excess: NDArray, first: int) -> float | None:
    """Frequency at which `excess` first becomes negative, interpolated between rings; None if never."""
    below = np.flatnonzero(excess[first:] < 0)
    if not below.size:
        return None
    ring = first + int(below[0])
    if ring == first:
        return float(frequency[ring])
    over, under = excess[ring - 1], excess[ring]
    return float(frequency[ring - 1] + (frequency[ring] - frequency[ring - 1]) * over / (over - under))
