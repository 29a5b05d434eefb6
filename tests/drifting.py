"""Scans with wrong positions, rendered from a continuous object by trigonometric sums.

Nothing is taken from the package: the object is a trigonometric series, evaluated where each frame really
lies, on a grid twice as fine as the frame's; the detector's part is cut out of its transform.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import xarray as xr
from numpy.typing import NDArray

PERIOD = 96


def soft_probe(size: int, defocus: float = 1.0) -> NDArray[np.complex64]:
    """A defocused zone plate with soft edges, whose tails do not reach past the frame."""
    q = np.fft.fftfreq(size)
    squared = q[:, None] ** 2 + q**2
    radius = np.sqrt(squared)
    pupil = 1 / (1 + np.exp((radius - 0.22) / 0.02)) / (1 + np.exp((0.06 - radius) / 0.013))
    probe = np.fft.ifft2(pupil * np.exp(1j * np.pi * defocus * squared * size))
    return np.fft.fftshift(probe).astype(np.complex64)


@cache
def series(seed: int, blur: float = 0.7) -> NDArray[np.complex128]:
    """Coefficients of the object: structure of all sizes with edges, alike everywhere."""
    random = np.random.default_rng(seed)
    fine = 4 * PERIOD
    k = np.fft.fftfreq(fine) * fine
    radius = np.hypot(k[:, None], k)

    def field() -> NDArray:
        spectrum = np.fft.fft2(random.normal(size=(fine, fine))) / np.maximum(radius, 4) ** 1.2
        smooth = np.fft.ifft2(spectrum * np.exp(-2 * (np.pi * 2.0 * radius / PERIOD) ** 2)).real
        edges = np.tanh(4 * smooth / smooth.std())
        blurred = np.fft.fft2(edges) * np.exp(-2 * (np.pi * blur * radius / PERIOD) ** 2)
        return np.fft.ifft2(blurred).real

    thing = (0.65 + 0.3 * field()) * np.exp(0.8j * field())
    return np.fft.fft2(thing) / thing.size


def render(seed: int, start: NDArray, step: float, count: int) -> NDArray[np.complex128]:
    """The object at ``start + step * (0 .. count - 1)`` pixels along both axes."""
    spectrum = series(seed)
    k = np.rint(np.fft.fftfreq(len(spectrum)) * len(spectrum))
    kept = abs(k) < PERIOD
    rows, columns = (
        np.exp(2j * np.pi * np.outer(first + step * np.arange(count), k[kept]) / PERIOD) for first in start
    )
    return rows @ spectrum[np.ix_(kept, kept)] @ columns.T


def wrong_by(kind: str, position: NDArray, side: int, random: np.random.Generator) -> NDArray[np.float64]:
    """True minus given positions for a kind of error, (frame, 2)."""
    centred, time = position - position.mean(axis=0), np.linspace(0, 1, len(position))[:, None]
    angle, shear = np.deg2rad(1.0), np.tan(np.deg2rad(0.5))
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = 1.01 * turned @ np.array([[1, 0], [shear, 1]]) - np.eye(2)
    drift = np.hstack([10 * (0.4 * time + 0.6 * time**2), 5 * np.sin(np.pi * time)])
    line = np.arange(len(position))[:, None] // side
    errors = {
        "exact": np.zeros_like(position),
        "white": random.normal(0, 1.07, position.shape),
        "affine": centred @ affine.T,
        "drift": drift,
        "backlash": np.hstack([0 * time, 0.75 * (-1.0) ** line]),
        "uniform 2": random.uniform(-2, 2, position.shape),
        "uniform 4": random.uniform(-4, 4, position.shape),
    }
    return errors[kind]


@dataclass(frozen=True)
class Drifting:
    """A scan with wrong positions, and the truth."""

    scan: xr.Dataset
    true: NDArray[np.float64]
    """(frame, 2) positions in pixels."""
    seed: int
    gain: NDArray[np.float64]
    """(frame,) factor of the amplitudes of each frame."""

    def gain_error(self, result: xr.Dataset) -> float:
        """Error of the logarithm of a result's gains, rms; their common factor does not count."""
        return float(np.log(result["gain"].values / self.gain[result["frame_number"].values]).std())

    def error(self, result: xr.Dataset) -> float:
        """Error of a result's positions, rms along an axis in pixels; their common shift does not count."""
        wrong = result["position"].values - self.true[result["frame_number"].values]
        return float(np.sqrt(((wrong - wrong.mean(axis=0)) ** 2).mean()))

    def truth(self, result: xr.Dataset) -> NDArray[np.complex128]:
        """The object on the canvas of a result."""
        window = result["object"]
        side = max(window.shape)
        start = np.array([window["y"].values[0], window["x"].values[0]])
        return render(self.seed, start, 1.0, side)[: window.shape[0], : window.shape[1]]


def make_drifting(
    kind: str,
    *,
    side: int = 16,
    size: int = 32,
    step: float = 6.0,
    photons: float | None = 1e6,
    seed: int = 0,
    tile_frames: int | None = None,
    defocus_of_guess: float = 1.0,
    jitter: float = 0.5,
    beam: str = "steady",
) -> Drifting:
    """Simulate a scan of side x side frames whose positions are wrong.

    Parameters
    ----------
    kind : str
        See `wrong_by`.
    side, size, step
        Frames along a side of the scan, pixels along a side of a frame, and pixels between frames.
    photons : float or None
        In a frame; None for no noise.
    seed : int
    tile_frames : int, optional
        Frames in a tile; all by default.
    defocus_of_guess : float
        Defocus of the probe in the scan, relative to that of the true probe.
    jitter : float
        Given positions are at random within this number of pixels of the raster.
    beam : str
        See `power_of`.
    """
    frames, given, true = photographed(kind, side, size, step, photons, seed, jitter, beam)
    dose = photons or 1e6
    guess = soft_probe(size, defocus_of_guess)
    guess = np.sqrt(dose) * guess / np.linalg.norm(guess)
    power = power_of(beam, len(true), seed)
    guess *= np.sqrt(np.exp(np.log(power).mean()))
    return Drifting(scan_of(frames, given, guess, tile_frames or len(true)), true, seed, np.sqrt(power))


def power_of(beam: str, frames: int, seed: int) -> NDArray[np.float64]:
    """The power of the beam at each frame: steady, a decay with flicker, or three frames in a dip."""
    time, random = np.linspace(0, 1, frames), np.random.default_rng((seed, frames))
    dip = np.ones(frames)
    dip[frames // 2 : frames // 2 + 3] = 0.1
    flicker = 1 + 0.05 * random.normal(size=frames)
    return {"steady": np.ones(frames), "decay": (1 - 0.3 * time) * flicker, "dip": dip}[beam]


@cache
def photographed(
    kind: str,
    side: int,
    size: int,
    step: float,
    photons: float | None,
    seed: int,
    jitter: float,
    beam: str,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Frames, (frame, N, N), and given and true positions, (frame, 2); see `make_drifting`."""
    random = np.random.default_rng(seed)
    y, x = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    given = np.stack([y.ravel(), x.ravel()], axis=1) * step
    given += random.uniform(-jitter, jitter, given.shape) if jitter else 0
    true = given + wrong_by(kind, given, side, random)
    probe = soft_probe(size)
    probe = np.sqrt(photons or 1e6) * probe / np.linalg.norm(probe)
    wide = np.zeros((2 * size, 2 * size), complex)
    cut = slice(size // 2, size // 2 + size)
    wide[cut, cut] = np.fft.fftshift(np.fft.fft2(probe))
    finer = np.fft.ifft2(np.fft.ifftshift(wide)) * 4
    frames = np.empty((len(true), size, size), np.float32)
    for frame, at, power in zip(frames, true, power_of(beam, len(true), seed), strict=True):
        wave = np.fft.fftshift(np.fft.fft2(finer * render(seed, at, 0.5, 2 * size), norm="ortho"))
        intensity = power * np.abs(wave[cut, cut] / 2) ** 2
        frame[:] = intensity if photons is None else random.poisson(intensity)
    return frames, given, true


def scan_of(frames: NDArray, given: NDArray, probe: NDArray, tile_frames: int) -> xr.Dataset:
    from daskptycho.tiling import compact_order

    order = compact_order(given, tile_frames)
    scan = xr.Dataset(
        {
            "intensity": (("frame", "qy", "qx"), frames[order]),
            "position": (("frame", "axis"), given[order], {"units": "pixel"}),
            "probe": (("mode", "y", "x"), probe[None].astype(np.complex64)),
            "frame_number": ("frame", order),
        },
        coords={"qy": np.arange(frames.shape[1]), "qx": np.arange(frames.shape[2])},
    )
    return scan.chunk({"frame": tile_frames})
