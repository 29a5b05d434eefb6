"""Beams of lenses and pinholes as functions of metres, by integrals: nothing is taken from the package.

They are for the bench of `tests.rendering`, and follow its laws: waves move along +z as ``exp(+i k z)``, so
that a beam of the transverse frequency q has gained the phase ``-pi lambda z q^2`` at a distance z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.rendering import Bench, Scene, Specimen, make_scene

__all__ = ["SCANS", "Lens", "Pinhole", "scan_with"]


@dataclass(frozen=True)
class Lens:
    """The beam at a distance behind the focus of a lens with a round aperture, which may have a stop."""

    angle: float
    """Semi-angle of convergence in radians."""
    wavelength: float
    defocus: float
    """Metres from the focus to the specimen along the beam."""
    stop: float = 0.0
    """Radius of a central stop as a share of the aperture's."""

    def __call__(self, y: NDArray, x: NDArray) -> NDArray[np.complex128]:
        edge = self.angle / self.wavelength
        # Finer than the beam's own width resolves.
        q = np.linspace(-edge, edge, 161)
        distance = np.hypot(q[:, None], q)
        lit = (distance <= edge) & (distance >= self.stop * edge)
        wave = lit * np.exp(-1j * np.pi * self.wavelength * self.defocus * distance**2)
        rows, columns = (np.exp(2j * np.pi * np.outer(place, q)) for place in (y, x))
        return rows @ wave @ columns.T * (q[1] - q[0]) ** 2


@dataclass(frozen=True)
class Pinhole:
    """A round hole directly before the specimen, with an edge of a tenth of its radius."""

    radius: float

    def __call__(self, y: NDArray, x: NDArray) -> NDArray[np.complex128]:
        off = np.hypot(y[:, None], x) / self.radius - 1
        return (0.5 * (1 - np.tanh(off / 0.1))).astype(np.complex128)


def scan_with(bench: Bench, beam: Any, step: float, frames: int = 8, seed: int = 0) -> Scene:
    """A scene of strong blobs with this beam; the step is in pixels of the object."""
    scene = make_scene(bench, frames=(frames, frames), step=step, seed=seed)
    specimen = Specimen(scene.specimen.thick, scene.specimen.shifting, absorption=0.1, phase=0.5)
    return Scene(bench, specimen, (beam,), scene.position)


X_RAY, ELECTRON = 1.54980e-10, 1.96875e-12
"""Wavelengths at 8 keV and of electrons of 300 keV."""


def _far(wavelength: float, pixel: float, size: int = 64) -> Bench:
    """A detector in the far field whose object pixels have this size."""
    distance, detector = 2.0, wavelength * 2.0 / (size * pixel)
    return Bench((size, size), wavelength, distance, (detector, detector), near=False, oversampling=2)


SCANS = {
    "zone plate 600 um behind its focus": (_far(X_RAY, 40e-9), Lens(1e-3, X_RAY, 600e-6, 0.4), 5.0),
    "zone plate 600 um before its focus": (_far(X_RAY, 40e-9), Lens(1e-3, X_RAY, -600e-6, 0.4), 5.0),
    "microscope 50 nm overfocus": (_far(ELECTRON, 0.4e-10), Lens(15e-3, ELECTRON, 50e-9), 5.0),
    "microscope 50 nm underfocus": (_far(ELECTRON, 0.4e-10), Lens(15e-3, ELECTRON, -50e-9), 5.0),
    "pinhole": (_far(X_RAY, 40e-9), Pinhole(0.5e-6), 5.0),
}
"""Bench, beam and step of some scans."""
