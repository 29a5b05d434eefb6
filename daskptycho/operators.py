"""Split, overlap, data projection and weighted frames: the operators of the method, on one tile.

Every function is eager, takes NumPy or CuPy arrays and knows nothing of dask. `algorithms` and
`graph` call this module; it calls `backend`.

Arrays: an image is ``(y, x)`` complex64 on a tile's window; exit waves are ``(frame, mode, N, N)``
complex64; a probe is ``(copy, mode, N, N)`` with one copy for all frames, or one for each frame
where positions are fractional; an amplitude is ``(frame, N, N)`` float32 with the zero frequency in
the corner and -1 where a pixel is not valid; corners are ``(frame, 2)`` in the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from daskptycho.backend import array_module, inverse_transform, kernels, transform

__all__ = [
    "Amplitudes",
    "frame_blocks",
    "illuminate",
    "inverse_illumination",
    "measured_amplitudes",
    "overlap",
    "probe_terms",
    "project_data",
    "shift_probe",
    "split",
    "unshift_probe_sum",
    "weigh",
]

Array = Any

# Pixels of exit waves in flight: 256 KiB of complex64, which stays in a core's second-level cache.
BLOCK_PIXELS = 2**15


def frame_blocks(frames: int, pixels_per_frame: int) -> Iterator[slice]:
    """Slices over the frames of a tile, each small enough that its exit waves stay in cache."""
    step = max(1, BLOCK_PIXELS // pixels_per_frame)
    for start in range(0, frames, step):
        yield slice(start, min(start + step, frames))


@dataclass(frozen=True)
class Amplitudes:
    """Measured amplitudes of a tile, kept as its counts.

    ``amplitudes[frames]``, of a slice, is a ``(frame, N, N)`` float32 array with the zero frequency in the
    corner and -1 where a pixel is not valid. The root is taken anew for each block of frames: it costs a
    sweep a few per cent, and counts of 16 bits are half as large as what they become.

    Attributes
    ----------
    counts : (frame, N, N) uint8, uint16 or float32 array
        Zero frequency in the corner, zero where not valid.
    invalid : (N, N) bool array or None
    """

    counts: Array
    invalid: Array | None = None

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, frames: slice) -> Array:
        xp = array_module(self.counts)
        amplitude = xp.sqrt(self.counts[frames], dtype=np.float32)
        if self.invalid is not None:
            xp.copyto(amplitude, np.float32(-1), where=self.invalid)
        return amplitude

    def __sizeof__(self) -> int:
        return self.counts.nbytes

    def total(self) -> float:
        """Sum of the counts, ``sum a^2`` over the valid pixels; NaN where one of them has no root."""
        if self.counts.dtype == np.float32 and (self.counts < 0).any():
            return np.nan
        return float(self.counts.sum(dtype=np.float64))


def measured_amplitudes(
    intensity: Array, valid: Array | None = None, background: Array | None = None
) -> Amplitudes:
    """Amplitudes from counts: background taken off, zero frequency moved to the corner.

    Parameters
    ----------
    intensity : (frame, qy, qx) array
        Counts in detector order (zero frequency at N//2).
    valid : (qy, qx) bool array, optional
    background : (qy, qx) array, optional
        Mean counts that do not come from the sample.
    """
    xp = array_module(intensity)
    small = background is None and intensity.dtype in (np.uint8, np.uint16)
    counts = xp.fft.ifftshift(intensity if small else intensity.astype(np.float32), axes=(-2, -1))
    invalid = None
    if valid is not None:
        invalid = xp.fft.ifftshift(~xp.asarray(valid, dtype=bool))
        # Whatever stands there, NaN too, is not looked at.
        xp.copyto(counts, counts.dtype.type(0), where=invalid)
    if background is not None:
        counts -= xp.fft.ifftshift(xp.asarray(background, dtype=np.float32))
        # Counts below the background carry no amplitude.
        xp.maximum(counts, 0, out=counts)
        if invalid is not None:
            xp.copyto(counts, np.float32(0), where=invalid)
    return Amplitudes(counts, invalid)


def _ramps(fraction: Array, shape: tuple[int, int], xp: Any) -> Array:
    """Fourier factor ``exp(-2 pi i q . fraction)`` that shifts by a fraction of a pixel, (frame, 1, N, N)."""
    fraction = xp.asarray(fraction)
    qy, qx = xp.fft.fftfreq(shape[0]), xp.fft.fftfreq(shape[1])
    along_y = xp.exp(-2j * np.pi * fraction[:, 0, None] * qy)
    along_x = xp.exp(-2j * np.pi * fraction[:, 1, None] * qx)
    return (along_y[:, None, :, None] * along_x[:, None, None, :]).astype(np.complex64)


def shift_probe(probe: Array, fraction: Array) -> Array:
    """The probe as each frame sees it: moved by the sub-pixel part of the frame's position.

    Parameters
    ----------
    probe : (mode, N, N) complex64 array
    fraction : (frame, 2) array
        In pixels.

    Returns
    -------
    (frame, mode, N, N) complex64 array
        Or ``(1, mode, N, N)`` where all positions are whole pixels.
    """
    xp = array_module(probe)
    if not fraction.any():
        return probe[None]
    return inverse_transform(transform(probe)[None] * _ramps(fraction, probe.shape[-2:], xp))


def unshift_probe_sum(moved: Array, fraction: Array) -> Array:
    """Adjoint of `shift_probe`: the sum over frames, each moved back by its fraction, (mode, N, N)."""
    xp = array_module(moved)
    if not fraction.any():
        return moved.sum(axis=0)
    back = transform(moved) * _ramps(fraction, moved.shape[-2:], xp).conj()
    return inverse_transform(back.sum(axis=0))


def split(image: Array, probe: Array, corner: Array) -> Array:
    """Exit waves ``z_i = P_i . psi[x_i + r]``: the operator Q.

    Returns
    -------
    (frame, mode, N, N) complex64 array
    """
    waves = array_module(image).empty((len(corner), *probe.shape[1:]), dtype=np.complex64)
    kernels(image).exit_waves(image, probe, corner, waves)
    return waves


def weigh(waves: Array, probe: Array) -> tuple[Array, Array]:
    """Weighted frames ``u_i = sum_m conj(P_m) . z_im`` and the power ``|z_i|^2``.

    Returns
    -------
    weighted : (frame, N, N) complex64 array
    power : (frame,) float64 array
    """
    xp = array_module(waves)
    weighted = xp.empty((waves.shape[0], *waves.shape[2:]), dtype=np.complex64)
    power = xp.empty(waves.shape[0], dtype=np.float64)
    kernels(waves).weigh_frames(waves, probe, weighted, power)
    return weighted, power


def overlap(
    weighted: Array,
    corner: Array,
    shape: tuple[int, int],
    phase: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Overlap sum ``sum_i omega_i u_i(r - x_i)`` on a window: with `weigh`, the adjoint of `split`.

    Parameters
    ----------
    weighted : (frame, N, N) complex64 array
    corner : (frame, 2) array
    shape : (int, int)
        Of the window.
    phase : (frame,) complex64 array, optional
        omega, ones where absent.
    out : (y, x) complex64 array, optional
        Added to, where given.
    """
    xp = array_module(weighted)
    if out is None:
        out = xp.zeros(shape, dtype=np.complex64)
    if phase is None:
        phase = xp.ones(len(corner), dtype=np.complex64)
    kernels(weighted).accumulate_overlap(weighted, phase, corner, out)
    return out


def illuminate(probe: Array, corner: Array, shape: tuple[int, int], out: Array | None = None) -> Array:
    """Illumination ``N = sum_i sum_m |P_im(r - x_i)|^2`` on a window, (y, x) float32."""
    if out is None:
        out = array_module(probe).zeros(shape, dtype=np.float32)
    kernels(probe).accumulate_illumination(probe, corner, out)
    return out


def inverse_illumination(illumination: Array, probe: Array) -> Array:
    """``1 / N``, zero where nothing shone, (y, x) float32.

    What counts as dark is told by the probe, which is the same for all tiles: a thousandth of its
    brightest pixel. Divided by less, the rim of a measured scan blows up while its probe is recovered.
    """
    xp = array_module(illumination)
    dark = illumination <= 1e-3 * (xp.abs(probe) ** 2).sum(axis=0).max()
    return xp.where(dark, 0, 1 / xp.where(dark, 1, illumination)).astype(np.float32)


def project_data(waves: Array, amplitude: Array) -> tuple[Array, float]:
    """Data projection ``F* (a . Fz / |Fz|)``: the nearest waves that have the measured amplitudes.

    With several modes ``|Fz|^2`` is summed over them. Pixels that are not valid stay as they are.

    Returns
    -------
    waves : (frame, mode, N, N) complex64 array
    misfit : float
        ``sum (|Fz| - a)^2`` over the valid pixels.
    """
    spectrum = transform(waves)
    misfit = kernels(waves).project_modulus(spectrum, amplitude)
    return inverse_transform(spectrum), misfit


def probe_terms(image: Array, waves: Array, corner: Array, fraction: Array) -> tuple[Array, Array]:
    """Numerator and denominator of the probe update ``sum conj(psi_i) z_i / sum |psi_i|^2``.

    Returns
    -------
    numerator : (mode, N, N) complex64 array
        Each frame's share moved back by its fraction.
    denominator : (N, N) float32 array
        Of the whole pixels.
    """
    xp = array_module(waves)
    copies = len(corner) if fraction.any() else 1
    numerator = xp.zeros((copies, *waves.shape[1:]), dtype=np.complex64)
    denominator = xp.zeros(waves.shape[2:], dtype=np.float32)
    kernels(image).accumulate_probe(image, waves, corner, numerator, denominator)
    return unshift_probe_sum(numerator, fraction), denominator
