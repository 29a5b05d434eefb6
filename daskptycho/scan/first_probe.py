"""First guesses of a probe, from the mean frame and what is known of the beam.

Behind a lens or a condenser the mean frame shows the pupil: the probe is the inverse transform of its root,
defocused. An aperture of known convergence angle may take the place of that root. Behind a pinhole the probe
is a disc on the sample, whose radius the frames determine: the inverse transform of a frame is the
autocorrelation of its exit wave, and the part that is left when the mean frame is subtracted comes from the
structure of the sample. The mean of its squared modulus over many frames is the autocorrelation of
``abs(P)^2``, and the mean square distance of that is R^2 for a disc of radius R.

Which of the guesses is right, only the frames can tell: `run.probe_trials` tries them. Arrays are in
detector order, and probes are centred at N//2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import OptionError
from daskptycho.scan.optics import PHOTON, energy_to_wavelength

__all__ = ["Beam", "Pupil", "estimate_disc_radius", "find_object_pixel", "find_wavelength", "make_disc"]

# Radii of the smallest and the largest disc, as shares of a frame: a smaller one would not overlap with its
# neighbours, a larger one would not be sampled sufficiently.
SMALLEST, LARGEST = 0.05, 0.45

# Width of a disc's edge, on the sample and in the pupil, in pixels.
EDGE = 2.0


@dataclass(frozen=True)
class Beam:
    """What a user knows of the beam.

    Attributes
    ----------
    diameter : float, optional
        Of a disc of light on the sample, in pixels of the object; where they are not square, in the smaller
        of their sides.
    defocus_m : float, optional
        Distance in metres from the focus to the sample along the beam. Above zero the focus lies before the
        sample and the beam diverges on it (in electron microscopy, overfocus); below zero it lies behind.
    convergence_angle_mrad : float, optional
        Semi-angle of convergence.
    """

    diameter: float | None = None
    defocus_m: float | None = None
    convergence_angle_mrad: float | None = None

    def __post_init__(self) -> None:
        for name, unit in (("diameter", "pixels"), ("convergence_angle_mrad", "mrad")):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise OptionError(f"{name} of the probe is {value}; expected {unit}, above 0")
        if self.defocus_m is not None and not np.isfinite(self.defocus_m):
            raise OptionError(f"defocus_m of the probe is {self.defocus_m}; expected metres")
        if self.diameter is not None and self.convergence_angle_mrad is not None:
            raise OptionError("diameter and convergence_angle_mrad of the probe are given; expected one")

    def known(self) -> dict[str, float]:
        """What is known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Pupil:
    """The amplitude of a beam in the plane of its lens, on the pixels of the detector.

    Attributes
    ----------
    amplitude : (qy, qx) array
        Complex where the wave is not in focus.
    pixel : (2,) array
        Size of an object pixel along [y, x], in metres or in any other unit; all lengths are in this unit.
    """

    amplitude: NDArray[Any]
    pixel: NDArray[np.float64]

    @classmethod
    def from_mean_frame(cls, mean: NDArray[np.float64], pixel: NDArray[np.float64]) -> Pupil:
        """The root of the mean frame."""
        return cls(np.sqrt(np.maximum(mean, 0)), pixel)

    @classmethod
    def from_convergence_angle(
        cls, angle_rad: float, wavelength_m: float, pixel_m: NDArray[np.float64], shape: tuple[int, ...]
    ) -> Pupil:
        """A round aperture that is lit evenly, of this semi-angle of convergence.

        Raises
        ------
        OptionError
            The aperture is smaller than a pixel of the detector, or larger than the detector.
        """
        step = 1 / (np.array(shape) * pixel_m)
        radius = angle_rad / wavelength_m
        if not step.max() < radius < 0.5 / pixel_m.max():
            raise OptionError(
                f"a convergence angle of {1e3 * angle_rad:.4g} mrad is an aperture with a radius of "
                f"{radius / step.max():.3g} pixels; expected from 1 to {min(shape) // 2}, as on the "
                "detector: the angle (a semi-angle, in mrad), the energy or the pixel size is wrong"
            )
        y, x = ((np.arange(n) - n // 2) * step[axis] for axis, n in enumerate(shape))
        off = (np.hypot(y[:, None], x) - radius) / step.min()
        return cls(0.5 * (1 - np.tanh(2 * off / EDGE)), pixel_m)

    @property
    def _square(self) -> NDArray[np.float64]:
        """Square of the spatial frequency, in cycles per unit of length."""
        frequencies = [
            (np.arange(n) - n // 2) / (n * step)
            for n, step in zip(self.amplitude.shape, self.pixel, strict=True)
        ]
        return np.add.outer(frequencies[0] ** 2, frequencies[1] ** 2)

    def spread_to(self, radius: float) -> float:
        """The defocus that spreads the beam to this root mean square radius on the sample.

        A ray of the spatial frequency q meets the sample at a distance of the defocus times q from the axis.
        """
        power = np.abs(self.amplitude) ** 2
        return radius / float(np.sqrt((power * self._square).sum() / power.sum()))

    def probe(self, defocus: float = 0.0) -> NDArray[np.complex64]:
        """The beam at a distance behind its focus, (y, x).

        Parameters
        ----------
        defocus : float
            Wavelength times distance. Above zero the focus lies before the sample and the beam diverges on
            it; below zero it lies behind the sample.
        """
        wave = self.amplitude * np.exp(-1j * np.pi * defocus * self._square)
        return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(wave), norm="ortho")).astype(np.complex64)


def make_disc(
    shape: tuple[int, ...], radius: float, pixel: NDArray[np.float64], defocus: float = 0.0
) -> NDArray[np.complex64]:
    """A disc of even light, round in metres, or the beam at a distance behind it, (y, x).

    Parameters
    ----------
    shape : (int, int)
    radius : float
    pixel, defocus
        As for `Pupil`.
    """
    y, x = ((np.arange(n) - n // 2) * pixel[axis] for axis, n in enumerate(shape))
    disc = 0.5 * (1 - np.tanh((np.hypot(y[:, None], x) - radius) / (EDGE * pixel.min())))
    if not defocus:
        return disc.astype(np.complex64)
    wave = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(disc), norm="ortho"))
    return Pupil(wave, pixel).probe(defocus)


def find_object_pixel(geometry: Mapping[str, Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Size of an object pixel along [y, x] in metres; in units of the smaller one where it is unknown."""
    size = geometry.get("pixel_size_m")
    if size is not None:
        return np.broadcast_to(np.asarray(size, dtype=float), (2,))
    detector = geometry.get("detector_pixel_size_m")
    # As long as nothing else is known, pixels of the detector are square.
    pair = 1 / (np.array(shape) * np.broadcast_to(1.0 if detector is None else detector, (2,)))
    return pair / pair.min()


def find_wavelength(geometry: Mapping[str, Any]) -> float | None:
    """The wavelength in metres, from the scan's attributes; None if it is unknown."""
    if geometry.get("wavelength_m") is not None:
        return float(geometry["wavelength_m"])
    if geometry.get("energy_eV") is None:
        return None
    return energy_to_wavelength(float(geometry["energy_eV"]), geometry.get("radiation", PHOTON))


def estimate_disc_radius(frames: NDArray[np.float64], pixel: NDArray[np.float64]) -> float:
    """Radius of a disc of light on the sample, in the unit of the pixels.

    Parameters
    ----------
    frames : (frame, qy, qx) array
        Spread over the scan, zero where pixels are not valid.
    pixel : (2,) array
        As for `Pupil`.
    """
    height, width = frames.shape[1:]
    power = np.zeros((height, width))
    # What all frames share depends on the phase of the probe; the differences show the size of the speckles.
    share = frames.sum(axis=(1, 2), keepdims=True)
    frames = frames - frames.mean(axis=0) * (share / max(share.mean(), 1e-30))
    for frame in frames:
        power += np.abs(np.fft.ifft2(frame)) ** 2
    power = np.fft.fftshift(power)
    y, x = np.arange(height) - height // 2, np.arange(width) - width // 2
    square = (pixel[0] * y[:, None]) ** 2.0 + (pixel[1] * x) ** 2.0
    field = float(min(pixel * frames.shape[1:]))
    # Photon noise is white and adds a constant; unscattered light adds a peak in the middle.
    power = np.maximum(power - np.median(power[square > (0.45 * field) ** 2]), 0)
    power[y[:, None] ** 2 + x**2 < 2] = 0
    total = power.sum()
    radius = float(np.sqrt((power * square).sum() / total)) if total > 0 else 0.0
    return float(np.clip(radius, SMALLEST * field, LARGEST * field))
