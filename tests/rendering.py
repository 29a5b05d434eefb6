"""Frames of a scan from the laws of optics, by integrals in metres: nothing here is taken from the package.

A beam is fixed in the laboratory, and a specimen is moved through it. Beam and specimen are smooth functions
of metres, known everywhere, so that a position may lie anywhere between pixels. The exit wave is sampled
several times finer than the package's pixels, and each detector pixel is a sum over all of it: the Fresnel
integral ``1 / (i lambda z) sum w(r) exp(i pi |X - r|^2 / (lambda z))`` in real space, or that of Fraunhofer.
There is no Fourier transform, no pixel shift and no wrapping round. Waves move along +z as ``exp(+i k z)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

__all__ = ["Beam", "Bench", "Blobs", "Scene", "Specimen", "make_scene"]

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
    absorption: float = 0.12
    phase: float = 0.5

    def __call__(self, y: NDArray, x: NDArray) -> NDArray[np.complex128]:
        return np.exp(-self.absorption * self.thick(y, x) + 1j * self.phase * self.shifting(y, x))


@dataclass(frozen=True)
class Beam:
    """A Gaussian beam behind a diffuser, on the specimen, without the curvature of a point source."""

    diffuser: Blobs
    radius: Pair
    """Standard deviation of its amplitude along [y, x]."""
    focal: float = np.inf
    """Wavelength times distance to the focus behind the specimen; negative for a focus before it."""
    roughness: float = 0.6
    """Factor of the diffuser's phase."""
    tilt: Pair = (0.0, 0.0)
    """Slope of its phase along [y, x], in radians per metre: it travels that way."""

    def __call__(self, y: NDArray, x: NDArray) -> NDArray[np.complex128]:
        square = [place**2 / (4 * radius**2) for place, radius in zip((y, x), self.radius, strict=True)]
        curved = np.pi * np.add.outer(y**2, x**2) / self.focal
        tilted = np.add.outer(self.tilt[0] * y, self.tilt[1] * x)
        phase = self.roughness * self.diffuser(y, x) - curved + tilted
        return np.exp(-np.add.outer(*square) + 1j * phase)


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

    def frames(self, specimen: Specimen, modes: Sequence[Beam], position: NDArray) -> NDArray[np.float64]:
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

    def probe(self, modes: Sequence[Beam]) -> NDArray[np.complex128]:
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


@dataclass(frozen=True)
class Scene:
    """A specimen in a beam, and where the optical axis goes on it."""

    bench: Bench
    specimen: Specimen
    modes: tuple[Beam, ...]
    position: NDArray[np.float64]
    """(frame, 2) [y, x] in metres."""

    @cached_property
    def frames(self) -> NDArray[np.float64]:
        return self.bench.frames(self.specimen, self.modes, self.position)

    @cached_property
    def probe(self) -> NDArray[np.complex128]:
        return self.bench.probe(self.modes)

    @property
    def corner(self) -> NDArray[np.float64]:
        """(frame, 2) where on the specimen the first pixel of each frame lies."""
        first = np.array([self.bench.places(axis)[0] for axis in (0, 1)])
        return self.position + first

    def error(self, image: NDArray, y: NDArray, x: NDArray, light: NDArray) -> float:
        """Distance of an image at these places to the specimen, but for one phase, where the light is.

        Neither shift nor scale is free: places are metres on the specimen.
        """
        truth = self.specimen(y, x)
        turned = image * np.exp(1j * np.angle(np.vdot(image, light * truth)))
        return _distance(turned, truth, light)

    def error_with_recovered_probe(self, image: NDArray, y: NDArray, x: NDArray, light: NDArray) -> float:
        """As `error`, but for what a probe can take over: a shift, a linear phase and a factor."""
        pixel = np.array(self.bench.pixel)

        def compare(free: NDArray) -> tuple[NDArray, NDArray]:
            dy, dx, slope_y, slope_x, growth, phase = free
            plane = np.add.outer(slope_y * (y - y.mean()) / np.ptp(y), slope_x * (x - x.mean()) / np.ptp(x))
            truth = self.specimen(y + dy * pixel[0], x + dx * pixel[1])
            return image * np.exp(growth + 1j * (phase + plane)), truth

        def misfit(free: NDArray) -> NDArray[np.float64]:
            found, truth = compare(free)
            return (np.sqrt(light) * (found - truth)).view(np.float64).ravel()

        start = np.zeros(6)
        start[5] = np.angle(np.vdot(image, light * self.specimen(y, x)))
        return _distance(*compare(least_squares(misfit, start).x), light)


def _distance(found: NDArray, truth: NDArray, light: NDArray) -> float:
    square = [(light * abs(part) ** 2).sum() for part in (found - truth, truth)]
    return float(np.sqrt(square[0] / square[1]))


def make_scene(
    bench: Bench,
    *,
    frames: tuple[int, int] = (6, 6),
    step: float = 5.3,
    radius: float = 0.11,
    modes: int = 1,
    focal: float = np.inf,
    seed: int = 0,
) -> Scene:
    """A scene of random blobs, a few pixels wide, at positions between pixels.

    Parameters
    ----------
    bench : Bench
    frames : (int, int)
        Along y and x.
    step : float
        Between neighbours, in pixels of the object; each position is up to 1.5 pixels off.
    radius : float
        Standard deviation of the beam's amplitude, as a share of the frame: what is there of it at the
        frame's edge is lost.
    modes, focal, seed : int, float, int
    """
    random = np.random.default_rng(seed)
    pixel = np.array(bench.pixel)
    grid = np.stack(np.meshgrid(*map(np.arange, frames), indexing="ij"), axis=-1).reshape(-1, 2)
    position = (grid * step + random.uniform(-1.5, 1.5, grid.shape)) * pixel
    low = -np.array(bench.shape) / 2 * pixel
    high = position.max(axis=0) - low

    def blobs(number: int, spacing: float, width: float, end: NDArray) -> Blobs:
        count = int(np.prod((end - low) / (spacing * pixel)))
        return Blobs.scatter(seed + number, count, tuple(low), tuple(end), tuple(width * pixel))

    beams = []
    for mode in range(modes):
        diffuser = blobs(10 + mode, 2.5, 2.5, -low)
        beams.append(Beam(diffuser, tuple(radius * np.array(bench.shape) * pixel), focal, 0.6))
    specimen = Specimen(blobs(1, 4.0, 1.6, high), blobs(2, 4.0, 1.6, high))
    return Scene(bench, specimen, tuple(beams), position)
