"""Split, overlap, data projection and weighted frames: the operators of the method, on one tile.

Every function is eager, takes NumPy or CuPy arrays and knows nothing of dask. `algorithms` and
`graph` call this module; it calls `backend`.

Arrays: an image is ``(y, x)`` complex64 on a tile's window; exit waves are ``(frame, mode, N, N)``
complex64; a probe is ``(copy, mode, N, N)`` with one copy for all frames, or one for each frame
where positions are fractional; an amplitude is ``(frame, N, N)`` float32 with the zero frequency in
the corner and -1 where a pixel is not valid; corners are ``(frame, 2)`` in the window. All arrays of a
call are NumPy's, or all are CuPy's but corners, of which `gpu_kernels` keeps what it needs on the device, and
fractions that are all zero.

The detector stands in the far field, where F is one transform, or, with a Fresnel kernel, in the near
field, where F is a convolution and an amplitude is an image, its first pixel first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from daskptycho.backend import array_module, inverse_transform, kernels, pixels_in_flight, transform

__all__ = [
    "Amplitudes",
    "add_probe_terms",
    "amplitude_of",
    "detector_scale",
    "frame_blocks",
    "from_detector",
    "illuminate",
    "inverse_illumination",
    "kernel_of",
    "measured_amplitudes",
    "overlap",
    "project_data",
    "shift_probe",
    "split",
    "to_detector",
    "unshift_probe_sum",
    "unsplit",
    "weigh",
]

Array = Any


def frame_blocks(frames: int, probe: Array) -> Iterator[slice]:
    """Slices over the frames of a tile, each small enough for its exit waves to be worked on at once.

    They are as equal as can be: the plans of an FFT library are made for one number of frames.

    Parameters
    ----------
    frames : int
    probe : (mode, N, N) array
        An exit wave is as large; where it lives tells how much is worked on at once.
    """
    most = max(1, pixels_in_flight(probe) // math.prod(probe.shape))
    blocks = -(-frames // most)
    for number in range(blocks):
        yield slice(number * frames // blocks, (number + 1) * frames // blocks)


@dataclass(frozen=True)
class Amplitudes:
    """Measured amplitudes of a tile, kept as its counts, and how waves get to where they were measured.

    ``amplitudes[frames]``, of a slice, is a ``(frame, N, N)`` float32 array with the zero frequency in the
    corner and -1 where a pixel is not valid. The root is taken anew for each block of frames: it costs a
    sweep a few per cent, and counts of 16 bits are half as large as what they become.

    Attributes
    ----------
    counts : (frame, N, N) uint8, uint16 or float32 array
        Zero frequency in the corner, zero where not valid.
    invalid : (N, N) bool array or None
    kernel : (N, N) complex64 array or None
        Of the near field, as `to_detector` takes it.
    """

    counts: Array
    invalid: Array | None = None
    kernel: Array | None = None

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, frames: slice) -> Array:
        return self.taken(frames)

    def taken(self, frames: slice, out: Array | None = None) -> Array:
        """``self[frames]``, put into the (frame, N, N) float32 array `out` where that is given."""
        xp = array_module(self.counts)
        amplitude = xp.sqrt(self.counts[frames], dtype=np.float32, out=out)
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
    intensity: Array,
    valid: Array | None = None,
    background: Array | None = None,
    kernel: Array | None = None,
) -> Amplitudes:
    """Amplitudes from counts: background taken off, the far field's zero frequency moved to the corner.

    Parameters
    ----------
    intensity : (frame, qy, qx) array
        Counts in detector order (zero frequency at N//2).
    valid : (qy, qx) bool array, optional
    background : (qy, qx) array, optional
        Mean counts that do not come from the sample.
    kernel : (N, N) complex64 array, optional
        Of the near field, where frames are images and stay as they are.
    """
    xp = array_module(intensity)
    small = background is None and intensity.dtype in (np.uint8, np.uint16)
    counts = _as_transformed(intensity if small else intensity.astype(np.float32), kernel)
    invalid = None
    if valid is not None:
        invalid = _as_transformed(~xp.asarray(valid, dtype=bool), kernel)
        # Whatever stands there, NaN too, is not looked at.
        xp.copyto(counts, counts.dtype.type(0), where=invalid)
    if background is not None:
        counts -= _as_transformed(xp.asarray(background, dtype=np.float32), kernel)
        # Counts below the background carry no amplitude.
        xp.maximum(counts, 0, out=counts)
        if invalid is not None:
            xp.copyto(counts, np.float32(0), where=invalid)
    return Amplitudes(counts, invalid, None if kernel is None else xp.asarray(kernel))


def _as_transformed(frames: Array, kernel: Array | None) -> Array:
    """A copy in the order of `to_detector`: a far field's zero frequency in the corner, an image as it is."""
    return frames.copy() if kernel is not None else array_module(frames).fft.ifftshift(frames, axes=(-2, -1))


def amplitude_of(amplitude: Array, frames: slice, out: Array) -> Array:
    """Measured amplitudes of some frames; in `out` where they are kept as counts."""
    return amplitude.taken(frames, out) if isinstance(amplitude, Amplitudes) else amplitude[frames]


def kernel_of(amplitude: Array) -> Array | None:
    """The near field's kernel that goes with measured amplitudes; a plain array of them has none."""
    return amplitude.kernel if isinstance(amplitude, Amplitudes) else None


def _ramps(fraction: Array, shape: tuple[int, int], xp: Any) -> Array:
    """Fourier factor ``exp(-2 pi i q . fraction)`` that shifts by a fraction of a pixel, (frame, 1, N, N)."""
    qy, qx = xp.fft.fftfreq(shape[0]), xp.fft.fftfreq(shape[1])
    along_y = xp.exp(-2j * np.pi * fraction[:, 0, None] * qy).astype(np.complex64)
    along_x = xp.exp(-2j * np.pi * fraction[:, 1, None] * qx).astype(np.complex64)
    return along_y[:, None, :, None] * along_x[:, None, None, :]


def _whole(fraction: Array) -> bool:
    """Whether these positions are known to be whole pixels; to ask a GPU would be to wait for it."""
    return isinstance(fraction, np.ndarray) and not fraction.any()


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
    if _whole(fraction):
        return probe[None]
    return inverse_transform(transform(probe)[None] * _ramps(fraction, probe.shape[-2:], xp))


def unshift_probe_sum(moved: Array, fraction: Array) -> Array:
    """Adjoint of `shift_probe`: the sum over frames, each moved back by its fraction, (mode, N, N)."""
    xp = array_module(moved)
    if _whole(fraction):
        return moved.sum(axis=0)
    back = transform(moved) * _ramps(fraction, moved.shape[-2:], xp).conj()
    return inverse_transform(back.sum(axis=0))


def split(image: Array, probe: Array, corner: Array, out: Array | None = None) -> Array:
    """Exit waves ``z_i = P_i . psi[x_i + r]``: the operator Q.

    Returns
    -------
    (frame, mode, N, N) complex64 array
        `out`, where that is given.
    """
    if out is None:
        out = array_module(image).empty((len(corner), *probe.shape[1:]), dtype=np.complex64)
    kernels(image).exit_waves(image, probe, corner, out)
    return out


def weigh(waves: Array, probe: Array, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """Weighted frames ``u_i = sum_m conj(P_m) . z_im`` and the power ``|z_i|^2``.

    Returns
    -------
    weighted : (frame, N, N) complex64 array
    power : (frame,) float64 array
        Both those of `out`, where that is given.
    """
    xp = array_module(waves)
    if out is None:
        weighted = xp.empty((waves.shape[0], *waves.shape[2:]), dtype=np.complex64)
        out = weighted, xp.empty(waves.shape[0], dtype=np.float64)
    kernels(waves).weigh_frames(waves, probe, *out)
    return out


def overlap(
    weighted: Array,
    corner: Array,
    shape: tuple[int, int],
    phase: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Overlap sum ``sum_i omega_i u_i(r - x_i)`` of weighted frames on a window.

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


def unsplit(waves: Array, probe: Array, corner: Array, out: Array) -> None:
    """Add ``sum_i sum_m conj(P_im) . z_im`` to the window `out`, (y, x) complex64: the adjoint of `split`.

    `weigh` and `overlap` in one pass, for where the weighted frames themselves are not wanted.
    """
    kernels(waves).accumulate_waves(waves, probe, corner, out)


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
    level = 1e-3 * (xp.abs(probe) ** 2).sum(axis=0).max()
    level = xp.maximum(level, np.finfo(np.float32).tiny).astype(np.float32)
    inverse = 1 / xp.maximum(illumination, level)
    inverse *= illumination > level
    return inverse


def detector_scale(shape: tuple[int, ...], kernel: Array | None) -> float:
    """The factor that `to_detector` leaves out, squared, for frames of this shape.

    A far field's ``1 / pixels`` is taken up by what is done at the detector: fewer passes over the waves.
    """
    return 1.0 if kernel is not None else 1 / math.prod(shape)


def to_detector(waves: Array, kernel: Array | None, out: Array | None = None) -> Array:
    """Exit waves carried to the detector: ``Fz / sqrt(detector_scale)``. `waves` stay as they are.

    Parameters
    ----------
    waves : (..., N, N) complex64 array
    kernel : (N, N) complex64 array or None
        Fresnel kernel of the near field in Fourier space, of modulus one, zero frequency in the corner; None
        for the far field.
    out : (..., N, N) complex64 array, optional
        May be overwritten on the way; the waves themselves, where nobody needs them any more.
    """
    if out is not None and out is not waves:
        array_module(waves).copyto(out, waves)
    given, overwrite = (waves, False) if out is None else (out, True)
    if kernel is None:
        return transform(given, unitary=False, overwrite=overwrite)
    spectrum = transform(given, overwrite=overwrite)
    spectrum *= kernel
    return inverse_transform(spectrum)


def from_detector(waves: Array, kernel: Array | None) -> Array:
    """Exit waves from what they are at the detector, times ``sqrt(detector_scale)``.

    With that factor it is the inverse, and the adjoint, of `to_detector`. `waves` may be overwritten.
    """
    if kernel is None:
        return inverse_transform(waves, unitary=False)
    spectrum = transform(waves, overwrite=True)
    spectrum *= kernel.conj()
    return inverse_transform(spectrum)


def project_data(
    waves: Array, amplitude: Array, kernel: Array | None = None, out: Array | None = None
) -> tuple[Array, Any]:
    """Data projection ``F* (a . Fz / |Fz|)``: the nearest waves that have the measured amplitudes.

    With several modes ``|Fz|^2`` is summed over them. Pixels that are not valid stay as they are.
    `kernel` is the near field's, as `to_detector` takes it, and `out` what may be overwritten.

    Returns
    -------
    waves : (frame, mode, N, N) complex64 array
    misfit : float, or an array without axes
        ``sum (|Fz| - a)^2`` over the valid pixels; where the waves are on a GPU, it stays there.
    """
    scale = detector_scale(waves.shape[-2:], kernel)
    detected = to_detector(waves, kernel, out)
    misfit = kernels(waves).project_modulus(detected, amplitude, scale)
    return from_detector(detected, kernel), misfit


def add_probe_terms(
    image: Array, waves: Array, corner: Array, fraction: Array, numerator: Array, denominator: Array
) -> None:
    """Add these frames' terms of the probe update ``sum conj(psi_i) z_i / sum |psi_i|^2``.

    Parameters
    ----------
    image, waves, corner, fraction
    numerator : (mode, N, N) complex64 array
        Added to; each frame's share moved back by its fraction.
    denominator : (N, N) float32 array
        Added to; of the whole pixels.
    """
    if _whole(fraction):
        kernels(image).accumulate_probe(image, waves, corner, numerator[None], denominator)
        return
    moved = array_module(waves).zeros(waves.shape, dtype=np.complex64)
    kernels(image).accumulate_probe(image, waves, corner, moved, denominator)
    numerator += unshift_probe_sum(moved, fraction)
