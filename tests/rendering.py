"""Frames of a scan from the laws of optics, by integrals in metres: nothing here is taken from the package.

A beam is fixed in the laboratory, and a specimen is moved through it. Beam and specimen are smooth functions
of metres, known everywhere, so that a position may lie anywhere between pixels. The exit wave is sampled
several times finer than the package's pixels, and each detector pixel is a sum over all of it: the Fresnel
integral ``1 / (i lambda z) sum w(r) exp(i pi |X - r|^2 / (lambda z))`` in real space, or that of Fraunhofer.
There is no Fourier transform, no pixel shift and no wrapping round. Waves move along +z as ``exp(+i k z)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Beam", "Bench", "Blobs", "Specimen"]

Pair = tuple[float, float]


@dataclass(frozen=True)
class Blobs:
    """A sum of Gaussian blobs on a plane, as a function of metres."""

    centre: NDArray[np.float64]
    """(blob, 2) [y, x]"""
    height: NDArray[np.float64]
    width: Pair
    """Standard deviation along [y, x]."""

    @staticmethod
    def scatter(seed: int, number: int, low: Pair, high: Pair, width: Pair) -> Blobs:
        """Blobs anywhere in a rectangle, of random heights of variance one."""
        random = np.random.default_rng(seed)
        return Blobs(random.uniform(low, high, (number, 2)), random.normal(size=number), width)

    def __call__(self, y: NDArray, x: NDArray) -> NDArray[np.float64]:
        rows, columns = (
            np.exp(-((place[:, None] - self.centre[:, axis]) ** 2) / (2 * self.width[axis] ** 2))
            for axis, place in enumerate((y, x))
        )
        return (rows * self.height) @ columns.T


@dataclass(frozen=True)
class Specimen:
    """Transmission ``exp(-absorption b + i phase b')`` of two sets of blobs, which do not look alike."""

    thick: Blobs
    shifting: Blobs
    absorption: float = 0.15
    phase: float = 0.4

    def __call__(self, y: NDArray, x: NDArray) -> NDArray[np.complex128]:
        return np.exp(-self.absorption * self.thick(y, x) + 1j * self.phase * self.shifting(y, x))


@dataclass(frozen=True)
class Beam:
    """A Gaussian beam behind a diffuser, in the plane of the specimen, without the curvature of its source."""

    diffuser: Blobs
    radius: Pair
    """Standard deviation of its amplitude along [y, x]."""
    focal: float = np.inf
    """Distance in wavelengths-times-metres squared, ``lambda z``: it converges to a focus that far behind."""

    def __call__(self, y: NDArray, x: NDArray) -> NDArray[np.complex128]:
        square = [place**2 / (4 * radius**2) for place, radius in zip((y, x), self.radius, strict=True)]
        curved = np.pi * np.add.outer(y**2, x**2) / self.focal
        return np.exp(-np.add.outer(*square) + 1j * (self.diffuser(y, x) - curved))


@dataclass(frozen=True)
class Bench:
    """Source, specimen and detector.

    Lengths are in metres. The optical axis meets the detector in the middle of pixel ``N // 2``.
    """

    shape: tuple[int, int]
    wavelength: float
    distance: float
    """From the specimen to the detector."""
    detector_pixel: Pair
    near: bool = True
    source: float | None = None
    """From a point source to the specimen; None for a parallel beam."""
    oversampling: int = 8

    @property
    def magnification(self) -> float:
        return 1.0 if self.source is None else (self.source + self.distance) / self.source

    @property
    def pixel(self) -> Pair:
        """Of the object that the package should find."""
        y, x = self.detector_pixel
        if self.near:
            return y / self.magnification, x / self.magnification
        rows, columns = self.shape
        return self.wavelength * self.distance / (rows * y), self.wavelength * self.distance / (columns * x)

    def places(self, axis: int) -> NDArray[np.float64]:
        """Coordinates of the middles of the object's pixels under a frame."""
        return (np.arange(self.shape[axis]) - self.shape[axis] // 2) * self.pixel[axis]

    def _fine(self, axis: int) -> NDArray[np.float64]:
        step = self.pixel[axis] / self.oversampling
        count = self.shape[axis] * self.oversampling
        return self.places(axis)[0] - self.pixel[axis] / 2 + (np.arange(count) + 0.5) * step

    def _integral(self, axis: int) -> NDArray[np.complex128]:
        """(detector pixel, fine place): the factor of the integral along one axis."""
        seen = (np.arange(self.shape[axis]) - self.shape[axis] // 2) * self.detector_pixel[axis]
        fine, zone = self._fine(axis), self.wavelength * self.distance
        if self.near:
            phase = np.pi * (seen[:, None] - fine) ** 2 / zone
            if self.source is not None:
                phase = phase + np.pi * fine**2 / (self.wavelength * self.source)
        else:
            phase = -2 * np.pi * seen[:, None] * fine / zone
        return np.exp(1j * phase) * (self.pixel[axis] / self.oversampling) / np.sqrt(zone)

    @cached_property
    def _integrals(self) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        return self._integral(0), self._integral(1)

    def frames(self, specimen: Any, modes: list[Any], position: NDArray) -> NDArray[np.float64]:
        """Frames (frame, qy, qx); `position` (frame, 2) is where on the specimen the optical axis goes.

        A frame holds ``sum |P psi|^2`` over the pixels of the object, if no light misses the detector.
        """
        fine_y, fine_x = self._fine(0), self._fine(1)
        beams = [mode(fine_y, fine_x) for mode in modes]
        rows, columns = self._integrals
        share = np.prod(self.detector_pixel) / np.prod(self.pixel)
        out = np.empty((len(position), *self.shape))
        for frame, (y, x) in zip(out, position, strict=True):
            under = specimen(y + fine_y, x + fine_x)
            frame[...] = sum(abs(rows @ (beam * under) @ columns.T) ** 2 for beam in beams) * share
        return out

    def probe(self, modes: list[Any]) -> NDArray[np.complex128]:
        """(mode, y, x): the beam at the middles of the object's pixels."""
        return np.stack([mode(self.places(0), self.places(1)) for mode in modes])

    def geometry(self) -> dict[str, Any]:
        """What the package is told."""
        told: dict[str, Any] = {
            "wavelength_m": self.wavelength,
            "detector_distance_m": self.distance,
            "detector_pixel_size_m": self.detector_pixel,
            "propagation": "near-field" if self.near else "far-field",
        }
        return told if self.source is None else told | {"source_distance_m": self.source}
