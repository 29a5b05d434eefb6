"""Scans seen by a probe that varies from frame to frame, rendered as in `drifting`, without the package."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tests.drifting import Drifting, render, scan_of, soft_probe

__all__ = ["Varying", "make_varying"]


@dataclass(frozen=True)
class Varying(Drifting):
    """A scan whose probe varies, and the truth."""

    probe: NDArray[np.complex64]
    """(N, N) the mean probe."""
    modes: NDArray[np.complex64]
    """(variation, N, N) by which it varies, orthogonal to it and to each other, with its power."""
    weight: NDArray[np.complex64]
    """(frame, variation) in the order of acquisition."""

    def image_error(self, result: xr.Dataset, margin: float = 0.3) -> float:
        """Relative error of the image where there is light, up to a factor, and a linear phase."""
        lit = (result["illumination"] > margin * result["illumination"].max()).values
        y, x = (place[lit] for place in np.meshgrid(result["y"], result["x"], indexing="ij"))
        found, true = result["object"].values[lit], self.truth(result)[lit]
        # A linear phase and growth of the image can be taken up by the probe.
        for _ in range(5):
            ratio = found / true
            weight = np.abs(true)
            basis = np.stack([np.ones(len(y)), y - y.mean(), x - x.mean()], axis=1)
            turned = np.exp(-1j * np.angle(ratio.mean()))
            found = found * turned
            logs = np.log(np.maximum(np.abs(found / true), 1e-6)) + 1j * np.angle(found / true)
            fit = np.linalg.lstsq(basis * weight[:, None], logs * weight, rcond=None)[0]
            found = found * np.exp(-basis @ fit)
        factor = np.vdot(true, found) / np.vdot(true, true)
        return float(np.linalg.norm(found - factor * true) / np.linalg.norm(factor * true))

    def probe_errors(self, result: xr.Dataset) -> NDArray[np.float64]:
        """Relative error of each frame's probe, up to a factor of each."""
        order = result["frame_number"].values
        true = self.probe + np.tensordot(self.weight[order], self.modes, 1)
        found = result["probe"].values[0] + np.tensordot(
            result["probe_weight"].values, result["probe_variation"].values, 1
        )
        true, found = (of.reshape(len(of), -1) for of in (true, found))
        common = (true.conj() * found).sum(axis=1) / (np.abs(true) ** 2).sum(axis=1)
        rest = np.linalg.norm(found - common[:, None] * true, axis=1)
        return rest / np.linalg.norm(common[:, None] * true, axis=1)

    def correlations(self, result: xr.Dataset) -> NDArray[np.float64]:
        """Of each true weight with the best combination of the weights found, over all frames."""
        order = result["frame_number"].values
        found = result["probe_weight"].values
        basis = np.concatenate([np.ones((len(found), 1)), found], axis=1)
        out = []
        for true in self.weight[order].T:
            centred = true - true.mean()
            fitted = basis @ np.linalg.lstsq(basis, true, rcond=None)[0]
            out.append(np.sqrt(1 - np.linalg.norm(true - fitted) ** 2 / np.linalg.norm(centred) ** 2))
        return np.array(out)


def make_varying(
    *,
    share: float = 0.1,
    side: int = 16,
    size: int = 32,
    step: float = 6.0,
    photons: float | None = 1e6,
    seed: int = 0,
    tile_frames: int | None = None,
    jitter: float = 0.5,
    defocus_of_guess: float | None = None,
    white: bool = True,
) -> Varying:
    """Simulate a scan of side x side frames whose probe varies in two modes, slowly and at random.

    Parameters
    ----------
    share : float
        Power of both modes together, relative to that of the mean probe.
    side, size, step, photons, seed, tile_frames, jitter
        See `drifting.make_drifting`.
    defocus_of_guess : float, optional
        Defocus of the probe in the scan, relative to that of the mean probe; the mean probe by default.
    white : bool
        Whether the second mode varies at random; otherwise there is only the first one.
    """
    frames, given, probe, modes, weight = _photograph(share, side, size, step, photons, seed, jitter, white)
    guess = probe if defocus_of_guess is None else soft_probe(size, defocus_of_guess)
    guess = guess * np.linalg.norm(probe) / np.linalg.norm(guess)
    scan = scan_of(frames, given, guess, tile_frames or len(given))
    return Varying(scan, given, seed, np.ones(len(given)), probe, modes, weight)


@cache
@cache
def _photograph(
    share: float,
    side: int,
    size: int,
    step: float,
    photons: float | None,
    seed: int,
    jitter: float,
    white: bool,
) -> tuple[NDArray, ...]:
    random = np.random.default_rng((seed, 77))
    y, x = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    given = np.stack([y.ravel(), x.ravel()], axis=1) * step
    given += random.uniform(-jitter, jitter, given.shape) if jitter else 0
    probe = soft_probe(size).astype(complex)
    probe *= np.sqrt(photons or 1e6) / np.linalg.norm(probe)
    # The pupil is lit unevenly, and aberrated a little.
    q = np.fft.fftfreq(size) / 0.22
    pupil = np.fft.fft2(np.fft.ifftshift(probe))
    random_screens = random.normal(size=(2, 2, size, size))
    cells = np.exp(-((q[:, None] ** 2 + q**2) / 0.5**2) / 2)
    smooth = np.fft.ifft2(np.fft.fft2(random_screens) * np.fft.fft2(cells)).real
    smooth /= smooth.std()
    changes = [real + 1j * imaginary for real, imaginary in smooth]
    modes = []
    for change in changes:
        mode = np.fft.fftshift(np.fft.ifft2(pupil * change))
        for other in [probe, *modes]:
            mode = mode - other * np.vdot(other, mode) / np.vdot(other, other)
        modes.append(mode * np.linalg.norm(probe) / np.linalg.norm(mode))
    time = np.linspace(0, 1, len(given))
    slow = np.sin(2 * np.pi * (1.3 * time + random.uniform())) + 0.7 * time
    weight = np.stack([slow, random.normal(size=len(given))], axis=1)[:, : 1 + white].astype(complex)
    weight -= weight.mean(axis=0)
    weight *= np.sqrt(share / weight.shape[1] / (np.abs(weight) ** 2).mean(axis=0))
    modes = modes[: 1 + white]
    frames = np.empty((len(given), size, size), np.float32)
    cut = slice(size // 2, size // 2 + size)
    for frame, at, own in zip(frames, given, weight, strict=True):
        wide = np.zeros((2 * size, 2 * size), complex)
        wide[cut, cut] = np.fft.fftshift(np.fft.fft2(probe + np.tensordot(own, np.array(modes), 1)))
        finer = np.fft.ifft2(np.fft.ifftshift(wide)) * 4
        wave = np.fft.fftshift(np.fft.fft2(finer * render(seed, at, 0.5, 2 * size), norm="ortho"))
        intensity = np.abs(wave[cut, cut] / 2) ** 2
        frame[:] = intensity if photons is None else random.poisson(intensity)
    return frames, given, probe.astype(np.complex64), np.array(modes, np.complex64), weight
