"""Kernels on the pixels of the detector, compiled by Numba: only `cpu_kernels` imports them.

They run over the pixels of a whole frame rather than over rows, which are short loops in small frames.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from daskptycho.cpu_matrix_kernels import compile_kernel

__all__ = ["project_modulus", "take_amplitudes"]

Array = Any

# Pixels of a frame in one loop: few enough for a sum in float32.
PART = 4096
NOWHERE = np.zeros(0, dtype=bool)


@compile_kernel
def _take_amplitudes(counts, invalid, out):  # type: ignore[no-untyped-def]
    for f in range(counts.shape[0]):
        a, c = out[f].reshape(-1), counts[f].reshape(-1)
        for x in range(a.size):
            a[x] = np.sqrt(np.float32(c[x]))
        for x in range(invalid.size):
            if invalid[x]:
                a[x] = -1


def take_amplitudes(counts: Array, invalid: Array | None, out: Array) -> None:
    """``out = sqrt(counts)``, (frame, N, N) float32, and -1 where the (N, N) bool array `invalid` is true."""
    _take_amplitudes(counts, NOWHERE if invalid is None else invalid.reshape(-1), out)


@compile_kernel
def _project_one_mode(z, a, added, scale):  # type: ignore[no-untyped-def]
    misfit = np.float32(0.0)
    for x in range(a.size):
        b, c, measured = z[2 * x], z[2 * x + 1], a[x]
        modulus = np.sqrt((b * b + c * c) * scale + added[x])
        target = measured if measured >= 0 else modulus
        difference = modulus - target
        misfit += difference * difference
        factor = scale * target / modulus
        z[2 * x] = b * factor
        z[2 * x + 1] = c * factor
    return misfit


@compile_kernel
def _power_to_factor(power, a, added, scale):  # type: ignore[no-untyped-def]
    misfit = np.float32(0.0)
    for x in range(a.size):
        modulus, measured = np.sqrt(power[x] * scale + added[x]), a[x]
        target = measured if measured >= 0 else modulus
        difference = modulus - target
        misfit += difference * difference
        power[x] = scale * target / modulus
    return misfit


@compile_kernel
def _project_modulus(wave, amplitude, scale, shift):  # type: ignore[no-untyped-def]
    frames, modes, height, width2 = wave.shape
    pixels = height * width2 // 2
    misfit: Any = 0.0
    power = np.empty(min(pixels, PART), dtype=np.float32)
    for f in range(frames):
        a = amplitude[f].reshape(-1)
        for start in range(0, pixels, PART):
            stop = min(start + PART, pixels)
            own, added = a[start:stop], shift[start:stop]
            if modes == 1:
                z = wave[f, 0].reshape(-1)[2 * start : 2 * stop]
                misfit += _project_one_mode(z, own, added, scale)
                continue
            for x in range(stop - start):
                power[x] = 0
            for m in range(modes):
                z = wave[f, m].reshape(-1)[2 * start : 2 * stop]
                for x in range(stop - start):
                    b, c = z[2 * x], z[2 * x + 1]
                    power[x] += b * b + c * c
            misfit += _power_to_factor(power, own, added, scale)
            for m in range(modes):
                z = wave[f, m].reshape(-1)[2 * start : 2 * stop]
                for x in range(stop - start):
                    z[2 * x] *= power[x]
                    z[2 * x + 1] *= power[x]
    return misfit


@functools.lru_cache(maxsize=16)
def _everywhere(number: float, pixels: int) -> Array:
    return np.full(pixels, number, dtype=np.float32)


def project_modulus(wave: Array, amplitude: Array, scale: float, shift: float | Array = 1e-30) -> float:
    """Give waves the measured modulus, in place, and return the misfit ``sum (|Fz| - a)^2``.

    With several modes, ``|Fz|^2`` is summed over them. `wave` is ``Fz / sqrt(scale)``, from an FFT without
    its factor, and becomes the projection times ``sqrt(scale)``, for an inverse FFT without its factor.
    Pixels with a negative amplitude are not valid: they keep their ``Fz`` and do not contribute to the
    misfit. `shift`, a number or an (N, N) float32 array, is added to ``|Fz|^2``; by default it only keeps the
    result finite where the wave is zero, which has no phase.
    """
    pixels = wave.shape[-2] * wave.shape[-1]
    added = shift.reshape(-1) if isinstance(shift, np.ndarray) else _everywhere(shift, pixels)
    return _project_modulus(wave.view(np.float32), amplitude, np.float32(scale), added)
