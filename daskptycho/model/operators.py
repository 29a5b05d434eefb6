"""Split, overlap, data projection and weighted frames: the operators of the method, on one tile.

Every function is eager and takes NumPy or CuPy arrays.

An image is a ``(y, x)`` complex64 array on a tile's window. Exit waves are ``(frame, mode, N, N)`` complex64.
A probe is ``(copy, mode, N, N)`` complex64, with one copy for all frames or, for example where positions are
fractional, one for each frame. Amplitudes are ``(frame, N, N)`` float32 in the pixel order of the forward
propagation, -1 where a pixel is not valid. Corners are ``(frame, 2)`` whole pixels [y, x] in the window. All
arrays of a call are NumPy's, or all are CuPy's except for corners, which `gpu_kernels` copies to the device
once, and fractions that are all zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from daskptycho.backend import array_module, inverse_transform, kernels, pixels_in_flight, transform
from daskptycho.model.forward import FarField, Propagation
from daskptycho.model.likelihood import Amplitude, Likelihood
from daskptycho.model.shifted_fit import add_by_class
from daskptycho.model.shifts import are_whole_pixels, make_ramps

__all__ = [
    "add_probe_terms",
    "brightest",
    "frame_blocks",
    "illuminate",
    "inverse_illumination",
    "is_lit",
    "lit_patches",
    "measure_misfits",
    "neighbour_differences",
    "overlap",
    "project_data",
    "shift_probe",
    "split",
    "unshift_probe_sum",
    "unsplit",
    "weigh",
]

Array = Any

# Illumination of a pixel, relative to the probe's brightest pixel, below which the object is unknown there.
DIM = np.float32(1e-3)


def frame_blocks(frames: int, probe: Array) -> Iterator[slice]:
    """Divide the frames of a tile into blocks whose exit waves are processed at once.

    Blocks are as equal as possible, since a plan of an FFT library is made for one number of frames.

    Parameters
    ----------
    frames : int
        Number of frames of the tile.
    probe : (mode, N, N) array
        Its shape is that of an exit wave. Blocks are larger where it is on a GPU.

    Yields
    ------
    slice
        The frames of a block.
    """
    most = max(1, pixels_in_flight(probe) // math.prod(probe.shape))
    blocks = -(-frames // most)
    for number in range(blocks):
        yield slice(number * frames // blocks, (number + 1) * frames // blocks)


def shift_probe(probe: Array, fraction: Array, variation: tuple[Array, Array] | None = None) -> Array:
    """Shift the probe by the sub-pixel part of each frame's position, once its first mode varies.

    Parameters
    ----------
    probe : (mode, N, N) complex64 array
    fraction : (frame, 2) array
        Sub-pixel part [y, x] of the position, in pixels.
    variation : pair of arrays, optional
        E, (variation, N, N) complex64, and w, (frame, variation) complex64 on the host: what is shifted is
        ``P + sum_k w_ik E_k`` in the first mode.

    Returns
    -------
    (frame, mode, N, N) complex64 array
        ``(1, mode, N, N)`` if all positions are whole pixels, and the probe does not vary.
    """
    if are_whole_pixels(fraction):
        return probe[None] if variation is None else _vary(probe, *variation)
    factor = np.float32(1 / math.prod(probe.shape[-2:]))
    spectrum = transform(probe, unitary=False) * factor
    ramps = _ramps(fraction, probe.shape[-2:])
    if variation is not None:
        modes, weight = variation
        spectrum = _vary(spectrum, transform(modes, unitary=False) * factor, weight)
    shifted = array_module(probe).multiply(ramps, spectrum, out=ramps if len(probe) == 1 else None)
    return inverse_transform(shifted, unitary=False)


def _vary(probe: Array, modes: Array, weight: Array) -> Array:
    """``P + sum_k w_ik E_k`` in the first mode, (frame, mode, N, N); see `shift_probe`."""
    xp = array_module(probe)
    varied = xp.empty((len(weight), *probe.shape), dtype=np.complex64)
    varied[:] = probe
    # Added one by one: a product of matrices may add in another order with other threads.
    for of_frames, mode in zip(xp.asarray(weight).T, modes, strict=True):
        varied[:, 0] += of_frames[:, None, None] * mode
    return varied


def unshift_probe_sum(moved: Array, fraction: Array) -> Array:
    """Adjoint of `shift_probe`: shift each frame's array back and sum over frames, (mode, N, N).

    `moved`, (frame, mode, N, N) complex64, may be overwritten.
    """
    if are_whole_pixels(fraction):
        return moved.sum(axis=0)
    back = transform(moved, unitary=False, overwrite=True)
    back *= _ramps(-fraction, moved.shape[-2:])
    return inverse_transform(back.sum(axis=0), unitary=False) * np.float32(1 / math.prod(moved.shape[-2:]))


def _ramps(fraction: Array, shape: tuple[int, int]) -> Array:
    """Fourier factors that shift by fractions of a pixel, (frame, 1, N, N)."""
    along_y, along_x = make_ramps(fraction, shape)
    return along_y[:, None, :, None] * along_x[:, None, None, :]


def split(image: Array, probe: Array, corner: Array, out: Array | None = None) -> Array:
    """Exit waves ``z_i = P_i . psi[x_i + r]``: the operator Q.

    Parameters
    ----------
    image : (y, x) complex64 array
        The object psi on the window.
    probe : (copy, mode, N, N) complex64 array
    corner : (frame, 2) array
        x_i, in whole pixels of the window.
    out : (frame, mode, N, N) complex64 array, optional

    Returns
    -------
    (frame, mode, N, N) complex64 array
        `out`, if given.
    """
    if out is None:
        out = array_module(image).empty((len(corner), *probe.shape[1:]), dtype=np.complex64)
    kernels(image).exit_waves(image, probe, corner, out)
    return out


def weigh(waves: Array, probe: Array, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """Weighted frames ``u_i = sum_m conj(P_im) . z_im`` and their power ``|z_i|^2``.

    Parameters
    ----------
    waves : (frame, mode, N, N) complex64 array
    probe : (copy, mode, N, N) complex64 array
    out : pair of arrays, optional
        For both results.

    Returns
    -------
    weighted : (frame, N, N) complex64 array
    power : (frame,) float64 array
        Summed over modes and pixels.
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
        u_i.
    corner : (frame, 2) array
        x_i, in whole pixels of the window.
    shape : (int, int)
        Shape of the window.
    phase : (frame,) complex64 array, optional
        omega_i; ones by default.
    out : (y, x) complex64 array, optional
        The sum is added to this array and returned in it.

    Returns
    -------
    (y, x) complex64 array
    """
    xp = array_module(weighted)
    if out is None:
        out = xp.zeros(shape, dtype=np.complex64)
    if phase is None:
        phase = xp.ones(len(corner), dtype=np.complex64)
    kernels(weighted).accumulate_overlap(weighted, phase, corner, out)
    return out


def unsplit(waves: Array, probe: Array, corner: Array, out: Array) -> None:
    """Add ``sum_i sum_m conj(P_im) . z_im`` to the image `out`, (y, x) complex64: the adjoint of `split`.

    It does the work of `weigh` and `overlap` in one pass, without keeping the weighted frames.
    """
    kernels(waves).accumulate_waves(waves, probe, corner, out)


def illuminate(probe: Array, corner: Array, shape: tuple[int, int], out: Array | None = None) -> Array:
    """Illumination ``N = sum_i sum_m |P_im(r - x_i)|^2`` on a window, (y, x) float32.

    It is added to `out` if given.
    """
    if out is None:
        out = array_module(probe).zeros(shape, dtype=np.float32)
    kernels(probe).accumulate_illumination(probe, corner, out)
    return out


def brightest(probe: Array) -> Array:
    """The probe's brightest pixel, ``max sum_m |P_m|^2``: a float32 above zero, as an array without axes."""
    xp = array_module(probe)
    most = (xp.abs(probe) ** 2).sum(axis=0).max()
    # 1e3 times the smallest normal number, so that a thousandth of it can still be divided by.
    return xp.maximum(most, 1e3 * np.finfo(np.float32).tiny).astype(np.float32)


def is_lit(illumination: Array, probe: Array) -> Array:
    """Where the illumination N tells something of the object, (y, x) bool.

    The limit is a thousandth of the probe's brightest pixel, which is the same for all tiles.
    """
    return illumination > DIM * brightest(probe)


def inverse_illumination(illumination: Array, probe: Array) -> Array:
    """``1 / N``, (y, x) float32, zero where the illumination N is too weak to divide by; see `is_lit`."""
    level = DIM * brightest(probe)
    inverse = 1 / array_module(illumination).maximum(illumination, level)
    inverse *= illumination > level
    return inverse


def neighbour_differences(image: Array, shares: tuple[Array, Array]) -> Array:
    """Sum of the differences ``psi(neighbour) - psi`` to the four neighbours of each pixel, (y, x) complex64.

    Parameters
    ----------
    image : (y, x) complex64 array
    shares : (y - 1, x) and (y, x - 1) float32 arrays
        Weight of each pair of neighbours, along y and along x.
    """
    out = array_module(image).zeros(image.shape, dtype=np.complex64)
    down, across = shares
    difference = (image[1:] - image[:-1]) * down
    out[:-1] += difference
    out[1:] -= difference
    difference = (image[:, 1:] - image[:, :-1]) * across
    out[:, :-1] += difference
    out[:, 1:] -= difference
    return out


def project_data(
    waves: Array,
    amplitude: Array,
    forward: Propagation | None = None,
    likelihood: Likelihood | None = None,
    out: Array | None = None,
) -> tuple[Array, Any]:
    """Data projection ``F* (a . Fz / |Fz|)``: the nearest waves that have the measured amplitudes.

    With several modes, ``|Fz|^2`` is summed over them. ``Fz`` is not changed at pixels that are not valid.

    Parameters
    ----------
    waves : (frame, mode, N, N) complex64 array
        z. They are not changed unless `out` is the same array.
    amplitude : (frame, N, N) float32 array
        a; -1 where a pixel is not valid.
    forward : Propagation, optional
        F of these frames, from `Forward.at`; the far field by default.
    likelihood : Likelihood, optional
        `likelihood.Amplitude` by default.
    out : (frame, mode, N, N) complex64 array, optional
        Memory for the result; may be `waves`.

    Returns
    -------
    waves : (frame, mode, N, N) complex64 array
    misfit : float, or array without axes
        ``sum (|Fz| - a)^2`` over the valid pixels. For waves on a GPU it is an array on the GPU.
    """
    forward, likelihood = forward or FarField(), likelihood or Amplitude()
    detected = forward.propagate(waves, out)
    misfit = likelihood.project(detected, amplitude, forward.scale(waves.shape[-2:]))
    return forward.propagate_back(detected), misfit


def measure_misfits(
    waves: Array,
    amplitude: Array,
    forward: Propagation | None = None,
    likelihood: Likelihood | None = None,
) -> list[Any]:
    """The misfit ``sum (|Fz| - a)^2`` of each frame, as of `project_data`.

    Parameters
    ----------
    waves : (frame, mode, N, N) complex64 array
        z; overwritten.
    amplitude, forward, likelihood
        As for `project_data`.

    Returns
    -------
    list of float, or of arrays without axes
    """
    forward, likelihood = forward or FarField(), likelihood or Amplitude()
    detected, scale = forward.propagate(waves, waves), forward.scale(waves.shape[-2:])
    frames = [slice(number, number + 1) for number in range(len(waves))]
    return [likelihood.project(detected[one], amplitude[one], scale) for one in frames]


def add_probe_terms(
    image: Array,
    waves: Array,
    corner: Array,
    fraction: Array,
    sums: tuple[Array, ...],
    factor: Array | None = None,
) -> None:
    """Add some frames' terms to the sums of the probe update ``sum conj(g_i psi_i) z_i / sum |g_i psi_i|^2``.

    Parameters
    ----------
    image : (y, x) complex64 array
    waves : (frame, mode, N, N) complex64 array
        z_i.
    corner, fraction : (frame, 2) arrays
        Whole-pixel and sub-pixel part of the positions.
    sums : (mode, N, N) complex64 array, (N, N) or (class, N, N) float32 array
        Numerator and denominator, added to in place. Each frame's term of the numerator is shifted back by
        the sub-pixel part of its position. Where positions are fractional, the denominator has an array for
        each class of fractions; see `shifted_fit`.
    factor : (frame,) float32 array, optional
        g_i, the factor of each frame's probe; ones by default.
    """
    numerator, denominator = sums
    patch = lit_patches(image, waves.shape[-2:], corner, factor)[:, None]
    power = patch[:, 0].real ** 2 + patch[:, 0].imag ** 2
    if denominator.ndim == 2:
        denominator += power.sum(axis=0)
    else:
        add_by_class(denominator, power, fraction)
    numerator += unshift_probe_sum(patch.conj() * waves, fraction)


def lit_patches(image: Array, shape: tuple[int, int], corner: Array, factor: Array | None) -> Array:
    """``g_i psi_i`` under frames of this shape, (frame, N, N) complex64.

    Parameters
    ----------
    image : (y, x) complex64 array
    shape : (int, int)
    corner : (frame, 2) array
    factor : (frame,) float32 array or None
        g_i, the factor of each frame's probe; None for ones.
    """
    unit = array_module(image).ones((1, 1, *shape), dtype=np.complex64)
    if factor is not None:
        unit = factor.astype(np.complex64)[:, None, None, None] * unit
    return split(image, unit, corner)[:, 0]
