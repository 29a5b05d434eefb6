"""Split, overlap, data projection and weighted frames: the operators of the method, on one tile.

Every function is eager and takes NumPy or CuPy arrays.

Arrays: an image is ``(y, x)`` complex64 on a tile's window; exit waves are ``(frame, mode, N, N)``
complex64; a probe is ``(copy, mode, N, N)`` with one copy for all frames, or one for each frame
where positions are fractional; an amplitude is ``(frame, N, N)`` float32 in the order of the forward
and -1 where a pixel is not valid; corners are ``(frame, 2)`` in the window. All arrays of a
call are NumPy's, or all are CuPy's but corners, of which `gpu_kernels` keeps what it needs on the device, and
fractions that are all zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from daskptycho.backend import array_module, inverse_transform, kernels, pixels_in_flight, transform
from daskptycho.model.forward import FarField, Forward
from daskptycho.model.likelihood import Amplitude, Likelihood

__all__ = [
    "add_probe_terms",
    "frame_blocks",
    "illuminate",
    "inverse_illumination",
    "overlap",
    "project_data",
    "shift_probe",
    "split",
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

    What counts as dark follows from the probe, which is the same for all tiles: a thousandth of its
    brightest pixel. Divided by less, the rim of a measured scan blows up while its probe is recovered.
    """
    xp = array_module(illumination)
    level = 1e-3 * (xp.abs(probe) ** 2).sum(axis=0).max()
    level = xp.maximum(level, np.finfo(np.float32).tiny).astype(np.float32)
    inverse = 1 / xp.maximum(illumination, level)
    inverse *= illumination > level
    return inverse


def project_data(
    waves: Array,
    amplitude: Array,
    forward: Forward | None = None,
    likelihood: Likelihood | None = None,
    out: Array | None = None,
) -> tuple[Array, Any]:
    """Data projection ``F* (a . Fz / |Fz|)``: the nearest waves that have the measured amplitudes.

    With several modes ``|Fz|^2`` is summed over them. Pixels that are not valid stay as they are.

    Parameters
    ----------
    waves : (frame, mode, N, N) complex64 array
    amplitude : (frame, N, N) float32 array
        -1 where a pixel is not valid.
    forward : Forward, optional
        F; the far field unless given.
    likelihood : Likelihood, optional
        `likelihood.Amplitude` unless given.
    out : (frame, mode, N, N) complex64 array, optional
        May be overwritten.

    Returns
    -------
    waves : (frame, mode, N, N) complex64 array
    misfit : float, or an array without axes
        ``sum (|Fz| - a)^2`` over the valid pixels; where the waves are on a GPU, it stays there.
    """
    forward, likelihood = forward or FarField(), likelihood or Amplitude()
    detected = forward.propagate(waves, out)
    misfit = likelihood.project(detected, amplitude, forward.scale(waves.shape[-2:]))
    return forward.propagate_back(detected), misfit


def add_probe_terms(
    image: Array,
    waves: Array,
    corner: Array,
    fraction: Array,
    sums: tuple[Array, ...],
    factor: Array | None = None,
) -> None:
    """Add these frames' terms of the probe update ``sum conj(g psi_i) z_i / sum |g psi_i|^2``.

    Parameters
    ----------
    image, waves, corner, fraction
    sums : (mode, N, N) complex64 array, (N, N) float32 array
        Numerator and denominator, added to; in the numerator each frame's share moved back by its fraction.
    factor : (frame,) float32 array, optional
        g, by which each frame's probe is multiplied; ones unless given.
    """
    numerator, denominator = sums
    if factor is not None:
        seen = split(image, factor.astype(np.complex64)[:, None, None, None] * _ones(waves), corner)
        denominator += (abs(seen[:, 0]) ** 2).sum(axis=0)
        numerator += unshift_probe_sum(seen.conj() * waves, fraction)
        return
    if _whole(fraction):
        kernels(image).accumulate_probe(image, waves, corner, numerator[None], denominator)
        return
    moved = array_module(waves).zeros(waves.shape, dtype=np.complex64)
    kernels(image).accumulate_probe(image, waves, corner, moved, denominator)
    numerator += unshift_probe_sum(moved, fraction)


def _ones(waves: Array) -> Array:
    return array_module(waves).ones((1, 1, *waves.shape[-2:]), dtype=np.complex64)
